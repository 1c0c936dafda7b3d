"""What would be done to one Postfix instance, as a value that describes itself.

Pure: facts in, `Plan` out.  The diff shown, the note in certbot's checkpoint and the
bytes that `transaction` writes all come from the one `Plan`.
"""

import difflib
import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from certbot_postfix import certificates, rules
from certbot_postfix.certificates import Certificate
from certbot_postfix.configuration import CHAIN, LEGACY, Configuration, own_certificate
from certbot_postfix.errors import Error, printable
from certbot_postfix.profiles import ClientLevel, Profile
from certbot_postfix.rules import Change, CommentOut, Decision, Kept

# Between a file's name and its digest in the note of a checkpoint.
MARK = ": SHA-256 "


@dataclass(frozen=True, slots=True)
class Plan:
    """The decisions, and main.cf *before* and *after* them, byte for byte."""

    decisions: tuple[Decision, ...]
    main_cf: Path
    before: bytes = field(repr=False)
    after: bytes = field(repr=False)

    @property
    def empty(self) -> bool:
        """Whether main.cf already is as it should be."""
        return self.before == self.after

    def diff(self) -> str:
        """Return the unified diff of main.cf, empty if there is none."""
        before, after = (
            list(io.StringIO(text.decode(errors="backslashreplace"), newline="\n"))
            for text in (self.before, self.after)
        )
        lines = difflib.unified_diff(before, after, str(self.main_cf), "(planned)")
        marked = (
            line if line.endswith("\n") else line + "\n\\ No newline at end of file\n"
            for line in lines
        )
        return "".join(marked).replace("\r\n", "\n")

    def notes(self) -> list[str]:
        """Return what stays otherwise than the profile would have it."""
        return [str(item) for item in self.decisions if isinstance(item, Kept)]

    def describe(self) -> str:
        """Return the changes, a line each, for certbot's checkpoint."""
        lines = (str(item) for item in self.decisions if not isinstance(item, Kept))
        text = "".join(f"{self.main_cf}: {line}\n" for line in lines)
        text += f"{self.main_cf}{MARK}{digest(self.after)}\n"
        return ascii_only(text)


@dataclass(frozen=True, slots=True)
class Override:
    """An ``-o`` option of *service*, which hides what main.cf says."""

    service: str
    name: str
    value: str

    @property
    def harmless(self) -> bool:
        """Whether it asks for as much as any profile does, or for more."""
        return (self.name, self.value) in (
            ("smtpd_tls_security_level", "encrypt"),
            ("smtpd_tls_auth_only", "yes"),
        )

    def __str__(self) -> str:
        value = self.value or "(empty)"
        told = f"{self.service} overrides {self.name} = {value}; that stays"
        return printable(f"master.cf: {told}, main.cf's value is hidden there")


def ascii_only(text: str) -> str:
    """Return *text* as certbot can write it in the encoding of any locale."""
    return text.encode("ascii", "backslashreplace").decode()


def digest(text: bytes) -> str:
    """Return what tells whether a file is still as a plan left it."""
    return hashlib.sha256(text).hexdigest()


def decide(
    configuration: Configuration,
    bundle: Path,
    profile: Profile,
    client: ClientLevel,
) -> tuple[Decision, ...]:
    """Return what makes Postfix serve *bundle*, and raises TLS to *profile*."""
    decisions = [
        *_certificate(configuration, bundle),
        *rules.offer_tls(configuration),
    ]
    if profile is not Profile.CERTIFICATE:
        decisions += rules.raise_client(configuration, client)
    if profile is Profile.INTERMEDIATE:
        decisions += rules.intermediate(configuration)
    return tuple(decisions)


def deployed(configuration: Configuration, directory: Path) -> list[Path]:
    """Return the bundles in *directory* that main.cf names."""
    return [path for path in configured(configuration) if path.parent == directory]


def configured(configuration: Configuration) -> list[Path]:
    """Return the files from which main.cf has the certificates served."""
    chain = configuration.value(CHAIN).replace(",", " ").split()
    legacy = (configuration.value(name) for name in LEGACY if "cert" in name)
    # smtpd_tls_cert_file = none means TLS without a default certificate.
    files = chain or [file for file in legacy if file not in ("", "none")]
    # Relative names are looked up where Postfix's processes run.
    return [Path(configuration.value("queue_directory"), file) for file in files]


def refuse_default(
    new: Certificate, now_served: Certificate | None, host: str, now: datetime
) -> str:
    """Return why *new* should not become what *host* serves by default, or nothing.

    A certificate that does not cover the server's own name may take the place of one
    that nobody can trust, but not of one that is in good use.
    """
    if certificates.covers(new.names, host):
        return ""
    if now_served is None or now_served.self_signed or now_served.not_after <= now:
        return ""
    return (
        f"the certificate for {', '.join(sorted(new.names))} does not cover {host},"
        f" and {now_served} is served there: it stays"
    )


def lost(new: Certificate, served: Iterable[Certificate], now: datetime) -> list[str]:
    """Say which good certificates with a key of another type *new* displaces."""
    return [
        f"{old} with its {old.key_type} key will not be served any more, and clients"
        f" that do not know {new.key_type} get no TLS\nWhat to do: if there are such,"
        f" obtain the certificate with --key-type {old.key_type.lower()}"
        for old in served
        if old.key_type != new.key_type and not old.self_signed and old.not_after > now
    ]


def overridden(
    configuration: Configuration, decisions: tuple[Decision, ...], profile: Profile
) -> list[Override]:
    """Return the overrides in master.cf of what is, or will be, set in main.cf."""
    planned = {item.name: item.new for item in decisions if isinstance(item, Change)}
    governed = {*planned, CHAIN, *LEGACY, "smtpd_tls_security_level"}
    if profile is Profile.INTERMEDIATE:
        governed |= set(rules.GOVERNED)
    return [
        Override(str(service), name, value)
        for service in configuration.services
        for name, value in sorted(service.overrides.items())
        if name in governed and value != planned.get(name, configuration.value(name))
    ]


def _certificate(configuration: Configuration, bundle: Path) -> Iterator[Decision]:
    path = str(bundle).replace("$", "$$")
    left: tuple[str, ...] = LEGACY
    why = "the certificate of certbot's lineage " + bundle.stem
    if not _by_chain(configuration):
        _refuse_half_pairs(configuration)
        wanted = {LEGACY[0]: path, LEGACY[1]: f"${LEGACY[0]}"}
        in_force = {LEGACY[0]: str(bundle), LEGACY[1]: str(bundle)}
        left = LEGACY[2:]
    elif set(path) & set(" \t,"):
        raise Error(
            f"{CHAIN} cannot name {bundle}: Postfix allows no blank or comma there",
            hint="choose another --config-dir for certbot",
        )
    else:
        wanted, in_force = {CHAIN: path}, {CHAIN: str(bundle)}
    for name, new in wanted.items():
        old = configuration.explicit.get(name)
        # A list of the administrator's that has the bundle in it stays as it is.
        value = configuration.value(name)
        there = {value, *value.replace(",", " ").split()}
        if in_force[name] not in there and old != new:
            yield Change(name, old, new, why)
    yield from _retire(configuration, left, tuple(wanted))


def _refuse_half_pairs(configuration: Configuration) -> None:
    """Raise `Error` if a service takes one half of a pair from main.cf."""
    both_in_one = f"${LEGACY[0]}"
    of_all = configuration.explicit.get(LEGACY[1], both_in_one)
    for service in configuration.services:
        certificate, key = (service.written.get(name) for name in LEGACY[:2])
        lacks_key = certificate and not key and of_all != both_in_one
        lacks_certificate = key and not certificate and key != both_in_one
        if lacks_key or lacks_certificate:
            raise Error(
                f"master.cf: {service} takes only one of key and certificate from"
                " main.cf, which will have another pair: nothing was done",
                hint=f"let {service} override {LEGACY[0]} and {LEGACY[1]}",
            )


def _by_chain(configuration: Configuration) -> bool:
    """Whether smtpd_tls_chain_files is the parameter to set.

    It would silence the older parameters also where a service overrides them, so it is
    not taken up while one does.
    """
    if CHAIN not in configuration.defaults:
        return False
    return bool(configuration.value(CHAIN)) or not any(
        own_certificate(configuration, service) in LEGACY
        for service in configuration.services
    )


def _retire(
    configuration: Configuration, names: tuple[str, ...], successors: tuple[str, ...]
) -> Iterator[Decision]:
    """Comment out the older parameters, which Postfix would ignore with a warning."""
    for name in names:
        value = configuration.explicit.get(name)
        if not value:
            continue
        if user := _user(configuration, name, successors):
            yield Kept(name, value, f"{user} refers to it")
        else:
            yield CommentOut(name, value, f"{successors[0]} takes its place")


def _user(configuration: Configuration, name: str, successors: tuple[str, ...]) -> str:
    """Return a parameter, or a service's, that means the value of *name* by ``$``."""
    texts = [
        *(item for item in configuration.explicit.items() if item[0] not in successors),
        *(
            (f"{service} with its {other}", text)
            for service in configuration.services
            for other, text in service.written.items()
        ),
    ]
    others = (
        other for other, text in texts if other not in LEGACY and _refers(text, name)
    )
    return next(others, "")


def _refers(text: str, name: str) -> bool:
    return any(f"${form}" in text for form in (name, f"{{{name}", f"({name}"))
