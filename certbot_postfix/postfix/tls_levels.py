"""At which security levels TLS is offered and demanded, and how far they are raised.

Pure: no rule ever weakens.  Meanings and defaults are those of postconf(5).
"""

from collections.abc import Iterator

from certbot_postfix.options import ClientLevel
from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.postfix.decisions import Decision, Kept, change

# Each client level, and those that promise strictly less.  "verify" trusts public CAs,
# "dane" trusts DNSSEC, and falls back to clear text where there is no TLSA record:
# neither implies the other, nor does "dane" imply "encrypt".
_IMPLIES = {
    "none": frozenset[str](),
    "may": frozenset({"none"}),
    "encrypt": frozenset({"none", "may"}),
    "dane": frozenset({"none", "may"}),
    "dane-only": frozenset({"none", "may", "encrypt", "dane"}),
    "verify": frozenset({"none", "may", "encrypt"}),
    "secure": frozenset({"none", "may", "encrypt", "verify"}),
    "fingerprint": frozenset({"none", "may", "encrypt"}),
}


CLIENT_LEVELS = frozenset(_IMPLIES)


def stricter(new: str, old: str) -> bool:
    """Whether client level *new* promises all that *old* does, and more."""
    return old in _IMPLIES[new]


def server_level(configuration: Configuration) -> str:
    """Return the level at which the SMTP server offers TLS: none, may or encrypt.

    An empty smtpd_tls_security_level leaves it to the older smtpd_use_tls and
    smtpd_enforce_tls; levels that a server cannot have act as encrypt.
    """
    level = configuration.value("smtpd_tls_security_level").lower()
    if not level and configuration.flag("smtpd_enforce_tls"):
        level = "encrypt"
    elif not level:
        level = "may" if configuration.flag("smtpd_use_tls") else "none"
    return level if level in ("none", "may") else "encrypt"


def client_level(configuration: Configuration) -> str:
    """Return the level of the SMTP client, also where the older parameters give it."""
    level = configuration.value("smtp_tls_security_level").lower()
    if level:
        return level
    if configuration.flag("smtp_enforce_tls"):
        named = configuration.flag("smtp_tls_enforce_peername")
        return "verify" if named else "encrypt"
    return "may" if configuration.flag("smtp_use_tls") else "none"


def secure_dns(configuration: Configuration, why: str) -> Iterator[Decision]:
    """Let the SMTP client ask DNS for what DNSSEC has validated."""
    if configuration.value("smtp_dns_support_level").lower() != "dnssec":
        yield change(configuration, "smtp_dns_support_level", "dnssec", why)


def offer_tls(configuration: Configuration) -> Iterator[Decision]:
    """Offer TLS to clients, without which no certificate is served."""
    if server_level(configuration) == "none":
        why = "clients are offered TLS"
        yield change(configuration, "smtpd_tls_security_level", "may", why)


def raise_client(
    configuration: Configuration, wanted: ClientLevel
) -> Iterator[Decision]:
    """Raise what the SMTP client asks of other servers, never by a sideways step."""
    name, now, new = (
        "smtp_tls_security_level",
        client_level(configuration),
        wanted.value,
    )
    if wants_dane(configuration, wanted):
        # Without it, dane is no more than may.  smtp_tls_dane_insecure_mx_policy is
        # dane by default where the level in main.cf is, in all versions.
        yield from secure_dns(configuration, "the level dane needs DNSSEC")
    if wanted is ClientLevel.KEEP or now == new:
        return
    if stricter(new, now):
        yield change(configuration, name, new, "mail is sent over TLS")
    elif now not in CLIENT_LEVELS or not stricter(now, new):
        yield Kept(name, now, f"{new} is not plainly stricter")


def wants_dane(configuration: Configuration, wanted: ClientLevel) -> bool:
    """Whether *wanted* makes the client use DANE, which it does not yet."""
    now = client_level(configuration)
    if wanted is not ClientLevel.DANE or now not in CLIENT_LEVELS:
        return False
    if now == "dane":
        return configuration.value("smtp_dns_support_level").lower() != "dnssec"
    return stricter("dane", now)
