"""What Postfix would demand for a recipient domain, and what its servers say to that.

Tables are asked by postmap(1), servers by posttls-finger(1), which are Postfix's own.
Raises `errors.Error`.
"""

import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from certbot_postfix.errors import Error, ProgramError, short, shortened
from certbot_postfix.formats.policy import SERVERS, Mode, Policy
from certbot_postfix.outbound import main_cf
from certbot_postfix.outbound.policy_map import PARAMETER
from certbot_postfix.postfix import maps, tls_levels
from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.system.programs import TIMEOUT, run
from certbot_postfix.tls.certificates import LONGEST_NAME

# What a level means, postconf(5), smtp_tls_security_level.
_MEANING = {
    "none": "mail is sent without TLS",
    "may": "TLS is used where a server offers it, and nothing is verified",
    "encrypt": "TLS is mandatory, and nothing is verified",
    "dane": "TLSA records decide where there are some, else TLS is used if offered",
    "dane-only": "a server must have TLSA records and fit them",
    "fingerprint": "a server must have a certificate or key with this fingerprint",
    "verify": "a server must have a trusted certificate with its name",
    "secure": "a server must have a trusted certificate with one of these names",
}

# Levels at which a server must be verified, and what is said where the level dane has
# TLSA records that do not fit.
_VERIFIED = frozenset({"dane-only", "verify", "secure"})
_UNFIT = re.compile(r"no matching DANE TLSA records|TLSA lookup error")

_REACHED = re.compile(r"TLS connection established to ([^\s\[]+)\[")

# Levels that posttls-finger can ask for.
_ASKED = frozenset({"none", "may", "encrypt", "dane", "dane-only", "verify", "secure"})

# Seconds until a table or a server must have answered.
_PATIENCE = 20
_CONNECT = 120


@dataclass(frozen=True, slots=True)
class Answer:
    """What *table* has for the *key* of a domain; main.cf's level if it is ""."""

    table: str
    key: str
    value: str

    @property
    def level(self) -> str:
        """The security level."""
        return self.value.partition(" ")[0].lower()

    @property
    def matches(self) -> list[str]:
        """The names of which a certificate must have one; none if nothing is said."""
        names = self._values("match")
        return names[0].split(":") if names else []

    @property
    def hosts(self) -> tuple[str, ...]:
        """The MX hosts that an MTA-STS policy allows, with attributes of 3.10."""
        return tuple(name.removeprefix("*") for name in self._values("mx_host_pattern"))

    def _values(self, attribute: str) -> list[str]:
        words = (word.partition("=") for word in self.value.split())
        return [value for name, _, value in words if name == attribute]

    def __str__(self) -> str:
        meaning = _MEANING.get(self.level, "Postfix knows no such level and defers")
        names = f": {servers(self.matches)}" if self.matches else ""
        where = f"{self.table} has for {self.key}" if self.table else "main.cf has"
        return f"{where}: {short(self.level) or 'no level'}, {meaning}{names}"


def servers(names: Iterable[str]) -> str:
    """Return *names* for a message; in a table that was edited they may be anything."""
    return ", ".join(shortened((short(name, LONGEST_NAME) for name in names), SERVERS))


def answers(
    postfix: Postfix,
    table: str,
    keys: set[str],
    *,
    seconds: float = TIMEOUT,
    parameter: str = PARAMETER,
) -> dict[str, str]:
    """Return what *table*, of that *parameter*, has for *keys*, within *seconds*."""
    try:
        return postfix.answers(table, keys, timeout=seconds)
    except ProgramError as error:
        raise Error(
            f"{table} does not answer, and mail to every domain is deferred while"
            f" it does not: {error.message}",
            hint=f"fix it, or take it out of {parameter}",
        ) from error


def answer(postfix: Postfix, configuration: Configuration, domain: str) -> Answer:
    """Return what Postfix finds for *domain*.

    Each key is looked up in all tables, before the next key: a parent counts only where
    no table has the domain itself.
    """
    keys = main_cf.keys(domain)
    by_table = {
        table: answers(postfix, table, set(keys), seconds=_PATIENCE)
        for table in maps.listed(configuration.value(PARAMETER))
    }
    for key in keys:
        for table, values in by_table.items():
            if key in values:
                return Answer(table, key, values[key])
    return Answer("", domain, tls_levels.client_level(configuration))


def connect(
    postfix: Postfix, configuration: Configuration, domain: str, wanted: Answer
) -> tuple[bool, list[str]]:
    """Ask the servers of *domain*; return whether one is as *wanted*, and the answers.

    They are asked as the client of *configuration* would.  Raises `Error` where
    posttls-finger(1) is not installed.
    """
    program = shutil.which("posttls-finger")
    if not program:
        raise Error(
            "posttls-finger is not installed: no server was asked",
            hint="install the package of Postfix that has it",
        )
    if wanted.level not in _ASKED:
        return False, [f"posttls-finger cannot test the level {short(wanted.level)}"]
    level, hosts = wanted.level, _allowed(configuration, wanted)
    command = [program, "-c", "-l", level, *_as_client(configuration, level)]
    if "servername=hostname" in wanted.value:
        command += ["-s", "hostname"]
    # Which a daemon may have had from others.
    command += ["--", domain, *(["hostname"] if hosts else wanted.matches)]
    config = {"MAIL_CONFIG": str(postfix.directory)}
    done = run(command, check=False, timeout=_CONNECT, environment=config)
    lines = [line.removeprefix("posttls-finger: ") for line in _lines(done.stderr)]
    lines += [line.removeprefix("posttls-finger: ") for line in _lines(done.stdout)]
    success = "Verified TLS" if level in _VERIFIED else "TLS connection"
    fits = any(success in line and not _outside([line], hosts) for line in lines)
    lines += [
        f"{host} is not allowed by the policy: Postfix delivers no mail to it"
        for host in _outside(lines, hosts)
    ]
    return fits and not any(_UNFIT.search(line) for line in lines), lines


def _allowed(configuration: Configuration, wanted: Answer) -> tuple[str, ...]:
    """Return the MX hosts that Postfix connects to; () if it compares none.

    With them, it compares a certificate with the name of the host: postconf(5),
    smtp_tls_enforce_sts_mx_patterns.
    """
    enforced = configuration.flag("smtp_tls_enforce_sts_mx_patterns")
    return wanted.hosts if enforced else ()


def _outside(lines: Iterable[str], hosts: tuple[str, ...]) -> list[str]:
    """Return what was reached, by *lines*, and is none of the *hosts* that may be."""
    policy = Policy(Mode.ENFORCE, hosts)
    matches = filter(None, map(_REACHED.search, lines))
    reached = dict.fromkeys(match[1] for match in matches)
    return [host for host in reached if hosts and not policy.allows(host)]


def _as_client(configuration: Configuration, level: str) -> Iterator[str]:
    """Yield the options that make posttls-finger do what the client does."""
    for option, name in (("-F", "smtp_tls_CAfile"), ("-P", "smtp_tls_CApath")):
        if value := configuration.value(name):
            yield from (option, str(Path(value)))
    kind = "" if level in ("none", "may", "dane") else "mandatory_"
    for option, name in (
        ("-p", f"smtp_tls_{kind}protocols"),
        ("-g", f"smtp_tls_{kind}ciphers"),
        ("-h", "smtp_host_lookup"),
    ):
        if value := configuration.value(name):
            yield from (option, value)
    family = configuration.value("inet_protocols").lower()
    if family in ("ipv4", "ipv6"):
        yield from ("-a", family)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
