"""The MTA-STS policy of a domain whose mail comes here, RFC 8461: what, and how safe.

It is a file for a web server that is there anyway.  Whether senders can follow it is
tried as they would.  Raises `errors.Error`.
"""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from certbot_postfix.change.plan import Edit
from certbot_postfix.errors import Error, ProofError, UnansweredError
from certbot_postfix.formats import mta_sts
from certbot_postfix.formats.mta_sts import Published
from certbot_postfix.formats.policy import Mode, Policy, PolicyError
from certbot_postfix.publish import policy_host
from certbot_postfix.system import files
from certbot_postfix.system.directories import is_guarded
from certbot_postfix.tls import probe
from certbot_postfix.tls.endpoints import Endpoint
from certbot_postfix.tls.probe import Question
from certbot_postfix.tls.verification import side_by_side

# Seconds for which senders keep a policy, if the file does not say otherwise: an error
# in what is tested is over after a day.
MAX_AGE = {Mode.TESTING: 86_400, Mode.ENFORCE: 604_800, Mode.NONE: 86_400}

# Seconds for one address of an MX host.
_SECONDS = 20.0

_SMTP = 25


class Resolver(Protocol):
    """What is asked for DNS records."""

    def texts(self, name: str) -> list[str]:
        """Return the TXT records of *name*."""

    def text_data(self, name: str) -> list[str]:
        """Return their data, as zone files have it."""

    def servers(self, domain: str) -> list[str]:
        """Return the MX hosts of *domain*, the preferred one first."""

    def addresses(self, host: str) -> list[str]:
        """Return the addresses of *host*."""


@dataclass(frozen=True, slots=True)
class Present:
    """What is there now: the *text* at *path*, and its *policy*, None if that is none.

    *ours*: nothing is lost when it is written anew.
    """

    path: Path
    text: bytes | None = None
    policy: Published | None = None

    @property
    def ours(self) -> bool:
        """Whether the text has nothing but what we would write."""
        if self.text is None:
            return True
        return self.policy is not None and mta_sts.render(self.policy) == self.text


@dataclass(frozen=True, slots=True)
class Proposal:
    """The *policy* that *domain* is to have below *webroot*, in place of what is *now*.

    *servers* are its MX hosts, as *resolver* says.
    """

    domain: str
    webroot: Path
    now: Present
    policy: Published
    servers: tuple[str, ...]
    resolver: Resolver

    @property
    def text(self) -> bytes:
        """The text of the file."""
        return mta_sts.render(self.policy)

    @property
    def edit(self) -> Edit:
        """What becomes of the file."""
        return Edit(self.now.path, self.now.text, self.text, mode=0o644)

    def write(self) -> None:
        """Write the file, if it is still what this was made for."""
        edit = self.edit
        if edit.empty:
            return
        files.make_directory(edit.path.parent, 0o755)
        if present(self.webroot).text != edit.before:
            raise Error(f"{edit.path} was modified while this command was running")
        files.replace(edit.path, self.text, mode=edit.mode)


def present(webroot: Path) -> Present:
    """Return the policy file below *webroot*, as it is now."""
    path = webroot / policy_host.PATH
    if not webroot.is_dir():
        raise Error(f"{webroot} is not a directory")
    if path.parent.is_symlink() and not is_guarded(webroot):
        raise Error(
            f"{path.parent} is a symbolic link that users other than root can change;"
            " it is not followed",
            hint="use the directory that contains .well-known",
        )
    if path.is_symlink():
        raise Error(
            f"{path} is a symbolic link, and is not replaced",
            hint="use the directory that contains the file",
        )
    if not os.path.lexists(path):
        return Present(path)
    text = files.read(path)
    try:
        return Present(path, text, mta_sts.parse(text, str(path)))
    except PolicyError:
        return Present(path, text)


def wanted(now: Present, mode: Mode | None, names: Collection[str]) -> Published:
    """Return the policy of this *mode* for the hosts or patterns *names*.

    Without a mode, it is that of the file *now*, and `testing` where there is none.
    """
    before = now.policy
    mode = mode or (before.mode if before else Mode.TESTING)
    if mode is not Mode.NONE and not names:
        raise Error(
            "a domain with a null MX (RFC 7505) accepts no mail and needs no policy"
        )
    same = before is not None and before.mode is mode
    age = before.max_age if before and same else MAX_AGE[mode]
    # Sorted: another order in DNS is no other policy.
    return Published(mode, () if mode is Mode.NONE else tuple(sorted(names)), age)


def hosts(domain: str, resolver: Resolver) -> list[str]:
    """Return the MX hosts of *domain*; none if it takes no mail: RFC 7505."""
    return [host for host in resolver.servers(domain) if host]


def unfit(proposal: Proposal, ca_file: Path | None) -> Iterator[str]:
    """Yield which MX hosts no sender would use that enforces the policy.

    They are asked as senders do, which trust the CAs in *ca_file*, or the system's.
    """
    policy = proposal.policy
    allows = Policy(policy.mode, policy.mxs).allows
    why: dict[str, str] = {}

    def work(host: str) -> None:
        why[host] = _distrust(host, proposal.resolver, ca_file)

    side_by_side(work, [host for host in proposal.servers if allows(host)])
    for host in proposal.servers:
        if not allows(host):
            yield f"MX {host} is not in the policy"
        elif why[host]:
            yield f"MX {host}: {why[host]}"


def _distrust(host: str, resolver: Resolver, ca_file: Path | None) -> str:
    """Return why senders do not trust *host*, "" if they do at all its addresses.

    One that cannot be reached from here, as by IPv6, is no reason if another can.
    """
    silent, answered = "it has no address", False
    try:
        for address in resolver.addresses(host):
            question = Question(Endpoint(host, address, _SMTP, implicit=False), host)
            try:
                if why := probe.distrust(question, ca_file, timeout=_SECONDS):
                    return f"{why} ({address})"
                answered = True
            except UnansweredError as error:
                silent = f"{address} does not answer: {error.reason}"
    except ProofError as error:
        return error.reason
    except Error as error:
        return error.message
    return "" if answered else silent


def untested(proposal: Proposal, ca_file: Path | None) -> Iterator[str]:
    """Yield why senders cannot have tested the policy that is there now.

    What is to be enforced must have been there for them: as they get it, with a record.
    """
    domain, now = proposal.domain, proposal.now
    if not now.policy or now.policy.mode is Mode.NONE:
        yield f"{now.path} has no policy in testing mode"
        return
    if why := unserved(domain, now.text or b"", ca_file):
        yield why
    if not mta_sts.policy_id(proposal.resolver.texts(f"_mta-sts.{domain}")):
        yield f"_mta-sts.{domain} has no TXT record of a policy, or several"


def unserved(domain: str, text: bytes, ca_file: Path | None) -> str:
    """Return why senders do not get *text* as the policy of *domain*, "" if they do."""
    try:
        served = policy_host.fetch(domain, ca_file)
    except Error as error:
        return error.message
    where = policy_host.url(domain)
    return "" if served == text else f"{where} differs from the file"
