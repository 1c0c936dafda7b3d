"""What a domain publishes for MTA-STS: the TXT record and the policy, RFC 8461.

Pure: what was received in, values out, and back; raises `PolicyError`.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from certbot_postfix.errors import excerpt
from certbot_postfix.formats.policy import Mode, PolicyError, parse_patterns

# Section 3.2: about a year.  A longer one is cut to that.
LONGEST = 31_557_600

# Section 3.3: a sender may refuse what is longer.
LARGEST = 64 * 1024

VERSION = "STSv1"

# The grammar of section 3.1.
_ID = re.compile(r"id=([A-Za-z0-9]{1,32})")
_EXTENSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}=[!-:<>-~]+")

# That of section 3.2.  VCHAR includes all of UTF-8 there.
_FIELD = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,31}):[ \t]*([^\x00-\x20\x7f].*)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_AGE = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class Published:
    """A policy as it is published; *max_age* is how long it may be kept, in seconds."""

    mode: Mode
    mxs: tuple[str, ...]
    max_age: int


def render(policy: Published) -> bytes:
    """Return the text of *policy*, section 3.2; the same for the same policy."""
    lines = [f"version: {VERSION}", f"mode: {policy.mode.value}"]
    lines += [f"mx: {'*' if mx[0] == '.' else ''}{mx}" for mx in policy.mxs]
    lines.append(f"max_age: {policy.max_age}")
    return "".join(f"{line}\r\n" for line in lines).encode("ascii")


def content_id(body: bytes) -> str:
    """Return the id for a policy with the text *body*.

    Section 3.1: it must be another one when the policy changes.  One of the clock also
    changes when nothing does, and then every sender fetches the policy again.
    """
    return hashlib.sha256(body).hexdigest()[:20]


def record(identity: str) -> str:
    """Return the TXT record of ``_mta-sts`` for the policy with this *identity*."""
    return f"v={VERSION}; id={identity};"


def relevant(records: Iterable[str]) -> list[str]:
    """Return which of the TXT *records* count: section 3.1, there must be one."""
    return [text for text in records if text.startswith(f"v={VERSION};")]


def policy_id(records: Iterable[str]) -> str:
    """Return the id in the TXT records of ``_mta-sts``; "" if there is no policy."""
    ours = relevant(records)
    if len(ours) != 1:
        return ""
    fields = [field.strip(" \t") for field in ours[0].split(";")][1:]
    if fields and not fields[-1]:
        del fields[-1]  # the last delimiter may stay
    ids = [match[1] for field in fields if (match := _ID.fullmatch(field))]
    others = [field for field in fields if not _ID.fullmatch(field)]
    if any(
        field.startswith("id=") or not _EXTENSION.fullmatch(field) for field in others
    ):
        return ""
    return ids[0] if ids else ""  # of a field that is repeated, the first counts


def parse(body: bytes, source: str) -> Published:
    """Read a policy, section 3.2; raise `PolicyError` if it is not valid.

    Fields that are not known are ignored, and so is every one that is repeated, but mx.
    """
    if len(body) > LARGEST:
        raise PolicyError(f"{source}: it is longer than {LARGEST // 1024} KiB")
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise PolicyError(f"{source}: it is not in UTF-8") from error
    fields: dict[str, str] = {}
    mxs = []
    for number, line in enumerate(_lines(text), 1):
        name, value = _field(line, f"{source}, line {number}")
        if name == "mx":
            mxs.append(value)
        else:
            fields.setdefault(name, value)
    return _published(fields, mxs, source)


def _published(fields: dict[str, str], mxs: list[str], source: str) -> Published:
    for name in ("version", "mode", "max_age"):
        if name not in fields:
            raise PolicyError(f"{source}: it has no {name}")
    if fields["version"] != VERSION:
        raise PolicyError(
            f"{source}: version: {excerpt(fields['version'])} is not {VERSION}"
        )
    mode = next((known for known in Mode if known.value == fields["mode"]), None)
    if mode is None:
        raise PolicyError(
            f"{source}: mode: {excerpt(fields['mode'])} is not enforce, testing or none"
        )
    if not _AGE.fullmatch(fields["max_age"]):
        raise PolicyError(
            f"{source}: max_age: {excerpt(fields['max_age'])} is not a number of"
            " seconds"
        )
    if mode is not Mode.NONE and not mxs:
        raise PolicyError(f"{source}: it has no mx")
    return Published(
        mode,
        parse_patterns(mxs, f"{source}: mx", "*."),
        min(int(fields["max_age"]), LONGEST),
    )


def _lines(text: str) -> list[str]:
    lines = [line.removesuffix("\r").rstrip(" \t") for line in text.split("\n")]
    return lines if lines[-1] else lines[:-1]  # the last end of line may be missing


def _field(line: str, where: str) -> tuple[str, str]:
    match = _FIELD.fullmatch(line)
    if not match or _CONTROL.search(match[2]):
        raise PolicyError(
            f"{where}: {excerpt(line)} is not a name, a colon and a value"
        )
    return match[1], match[2]
