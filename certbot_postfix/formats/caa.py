"""CAA records: which CA may issue, RFC 8659, to which account, and how, RFC 8657.

Pure.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from certbot_postfix.errors import enumerated, excerpt
from certbot_postfix.formats import txt

ISSUE, ISSUE_WILD = "issue", "issuewild"

# RFC 8659, 4.4, 8657 and 9495: what says nothing of who may issue for a host.
_OTHERS = frozenset({"iodef", "contactemail", "contactphone", "issuemail", "issuevmc"})

# RFC 8659, 4.1: a CA that does not know a property with this bit must not issue.  Let's
# Encrypt takes the lowest bit, which is often set by mistake, for the same.
_CRITICAL = 128 | 1

# The grammar of RFC 8659, 4.2.
_PARAMETER = re.compile(
    r"[ \t]*([A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*)[ \t]*=[ \t]*([!-:<-~]*)[ \t]*"
)
_ISSUER = re.compile(r"[ \t]*([A-Za-z0-9.-]*)[ \t]*")

# Let's Encrypt also knows an account by the URI that it had in ACME's first version.
_FORMER = re.compile(r"https://acme-v01\.api\.letsencrypt\.org/acme/reg/(\d+)")


@dataclass(frozen=True, slots=True)
class Issuance:
    """How certificates are issued: by the CA whose domain is *issuer*.

    *account* is the URI of the ACME account, *method* how names are validated.  What is
    empty is not known.
    """

    issuer: str = ""
    account: str = ""
    method: str = ""


@dataclass(frozen=True, slots=True, order=True)
class Property:
    """The value of a CAA record."""

    flags: int
    tag: str
    value: str

    @classmethod
    def of_rdata(cls, rdata: Any) -> "Property":
        """Return what dnspython has read; bytes that are not ASCII match nothing."""
        tag, value = (
            text.decode("ascii", "replace") for text in (rdata.tag, rdata.value)
        )
        return cls(rdata.flags, tag.lower(), value)

    @classmethod
    def permitting(cls, issuance: Issuance) -> "Property":
        """Return the property that permits *issuance*, as far as it is known."""
        words = [issuance.issuer]
        if issuance.method:
            words.append(f"validationmethods={issuance.method}")
        if issuance.account:
            words.append(f"accounturi={issuance.account}")
        return cls(0, ISSUE, "; ".join(words))

    def __str__(self) -> str:
        return f"{self.flags} {self.tag} {txt.quoted(self.value)}"

    @property
    def issuer(self) -> str:
        """The domain of the CA that may issue, "" if that is none."""
        match = _ISSUER.fullmatch(self.value.partition(";")[0])
        return match[1].lower() if match and self.parameters is not None else ""

    def refusal(self, issuance: Issuance) -> str:
        """Return why it does not permit *issuance*, whose CA it is for; or ""."""
        parameters = self.parameters or []
        for tag, ours, what in (
            ("accounturi", issuance.account, "the account"),
            ("validationmethods", issuance.method, "the validation methods"),
        ):
            values = [value for name, value in parameters if name == tag]
            if len(values) > 1:
                return f"it has more than one {tag}, which permits nobody"
            for value in values if ours else ():
                permitted = value.split(",") if tag == "validationmethods" else [value]
                if ours not in map(_today, permitted):
                    return f"it permits {what} {excerpt(value)}; certbot uses {ours}"
        return ""

    def is_open(self, issuance: Issuance) -> bool:
        """Whether it permits every account, where *issuance* is by one of that CA."""
        ours = self.tag in (ISSUE, ISSUE_WILD) and self.issuer == issuance.issuer
        bound = "accounturi" in dict(self.parameters or ())
        return bool(issuance.account) and ours and not bound

    @property
    def parameters(self) -> list[tuple[str, str]] | None:
        """Return the parameters; None if a CA cannot read them, and must not issue."""
        _, _, rest = self.value.partition(";")
        if not rest.strip(" \t"):
            return []
        matches = [_PARAMETER.fullmatch(part) for part in rest.split(";")]
        found = [(match[1].lower(), match[2]) for match in matches if match]
        return found if len(found) == len(matches) else None


def _today(account: str) -> str:
    return _FORMER.sub(r"https://acme-v02.api.letsencrypt.org/acme/acct/\1", account)


def refusal(records: Sequence[Property], issuance: Issuance, *, wildcard: bool) -> str:
    """Return why *records* do not permit *issuance* for a host, or a *wildcard*; or "".

    They are those of the name, or of its closest parent that has some: RFC 8659, 3.
    """
    known = {ISSUE, ISSUE_WILD, *_OTHERS}
    for record in records:
        if record.flags & _CRITICAL and record.tag not in known:
            return f"no CA may issue that does not know {excerpt(record.tag)}"
    relevant = [*_relevant(records, wildcard=wildcard)]
    ours = [record for record in relevant if record.issuer == issuance.issuer]
    if not relevant or not issuance.issuer:
        return ""
    if not ours:
        others = sorted({record.issuer for record in relevant} - {""})
        permitted = enumerated(map(excerpt, others)) or "no CA"
        return f"it permits {permitted}, not {issuance.issuer}"
    refusals = [record.refusal(issuance) for record in ours]
    return "" if "" in refusals else refusals[0]


def is_bound(records: Iterable[Property], issuance: Issuance) -> bool:
    """Whether *records* permit the CA of *issuance* no other account, if it has one."""
    return not any(record.is_open(issuance) for record in records)


def _relevant(records: Iterable[Property], *, wildcard: bool) -> Iterator[Property]:
    """Yield the properties that count: RFC 8659, 4.3."""
    every = list(records)
    wild = [record for record in every if record.tag == ISSUE_WILD]
    yield from (
        wild
        if wildcard and wild
        else (record for record in every if record.tag == ISSUE)
    )


def parents(name: str) -> Iterator[str]:
    """Yield *name* without its wildcard, and its parents: RFC 8659, 3."""
    rest = name.removeprefix("*.")
    while rest:
        yield rest
        rest = rest.partition(".")[2]
