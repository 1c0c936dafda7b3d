"""Mozilla's guideline "intermediate" for Postfix.

Pure: each rule takes a `Configuration` and yields decisions.  No rule ever weakens, no
rule writes a deprecated parameter, and a parameter that the running version does not
know is not mentioned.  Meanings and defaults are those of postconf(5).
"""

import re
from collections.abc import Iterator

from certbot_postfix.postfix import trust
from certbot_postfix.postfix.configuration import Configuration, words_of
from certbot_postfix.postfix.decisions import Decision, Kept, change


def intermediate(configuration: Configuration) -> Iterator[Decision]:
    """Apply Mozilla's guideline "intermediate" for Postfix, and make TLS visible.

    Server Side TLS guidelines 6.0 of April 2026, guidelines/6.0.json of
    ssl-config-generator and its template for Postfix.
    """
    for decision in (
        *beside_ciphers(configuration),
        *_list(configuration, "tls_medium_cipherlist", _CIPHERS, ":"),
        *_preference(configuration),
    ):
        if decision.name in configuration.defaults:
            yield decision


def beside_ciphers(configuration: Configuration) -> Iterator[Decision]:
    """Apply all of it but the list of ciphers, which binds the SMTP client as well."""
    for decision in (
        *_protocols(configuration, "smtpd_tls_mandatory_protocols"),
        *_protocols(configuration, "smtpd_tls_protocols"),
        *grade(configuration, "smtpd_tls_mandatory_ciphers"),
        *_curves(configuration),
        *_yes_wanted(configuration, "smtpd_tls_auth_only", "no password in clear text"),
        *_yes_wanted(configuration, "smtpd_tls_received_header", "TLS is visible"),
        *_loglevel(configuration, "smtpd_tls_loglevel"),
        *_loglevel(configuration, "smtp_tls_loglevel"),
        *trust.decide(configuration),
    ):
        if decision.name in configuration.defaults:
            yield decision


CURVES = "tls_eecdh_auto_curves"

# What the profile intermediate sets for services.
BESIDE_CIPHERS = (
    "smtpd_tls_mandatory_protocols",
    "smtpd_tls_protocols",
    "smtpd_tls_mandatory_ciphers",
    CURVES,
    "smtpd_tls_auth_only",
)
GOVERNED = (*BESIDE_CIPHERS, "tls_medium_cipherlist", "tls_preempt_cipherlist")


_GUIDELINE = "Mozilla intermediate 6.0"


_CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
)


_CURVES = ("X25519", "prime256v1", "secp384r1")


_HYBRID = "X25519MLKEM768"

# postconf(5), tls_eecdh_auto_curves: some servers cannot handle a ClientHello with the
# hybrid key share, which does not fit into a segment of TCP.  So the SMTP client sends
# that of X25519 (*); a server that supports the hybrid one asks for it, since it comes
# before all others (/): SSL_CTX_set1_groups_list(3), since OpenSSL 3.5.
_HYBRID_CURVES = (f"{_HYBRID}/*X25519", *_CURVES[1:])


_VERSIONS = ("SSLv2", "SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")


_MODERN = frozenset({"TLSv1.2", "TLSv1.3"})


_GRADES = ("null", "export", "low", "medium", "high")


def protocols(value: str) -> frozenset[str] | None:
    """Return the protocol versions that *value* leaves enabled, None if unreadable.

    postconf(5), smtpd_tls_protocols: names include, ``!`` excludes, and ``>=`` and
    ``<=`` bound (3.6 and later).
    """
    known = {name.lower(): name for name in _VERSIONS}
    included, excluded = set[str](), set[str]()
    for token in words_of(value.replace(":", " ")):
        operator = next(
            (sign for sign in (">=", "<=", "!") if token.startswith(sign)), ""
        )
        name = known.get(token.removeprefix(operator).lower())
        if name is None and operator in (">=", "<="):
            name = _numbered(token.removeprefix(operator))
        if name is None:
            return None
        place = _VERSIONS.index(name)
        match operator:
            case ">=":
                excluded |= set(_VERSIONS[:place])
            case "<=":
                excluded |= set(_VERSIONS[place + 1 :])
            case "!":
                excluded.add(name)
            case _:
                included.add(name)
    return frozenset((included or set(_VERSIONS)) - excluded)


def only_modern(value: str) -> bool:
    """Whether *value* enables nothing older than TLS 1.2."""
    enabled = protocols(value)
    return enabled is not None and enabled <= _MODERN


def _numbered(text: str) -> str | None:
    """Return the version that a bound means by OpenSSL's hexadecimal number."""
    match = re.fullmatch(r"(?:0x)?0?30([0-4])", text, re.IGNORECASE)
    return _VERSIONS[1:][int(match[1])] if match else None


def _protocols(configuration: Configuration, name: str) -> Iterator[Decision]:
    value = configuration.value(name)
    enabled = protocols(value)
    if enabled is None or not enabled & _MODERN:
        yield Kept(name, value, "it cannot be raised to TLS 1.2 and later")
    elif not enabled <= _MODERN:
        if not enabled >= _MODERN:
            new = ", ".join(sorted(enabled & _MODERN))
        elif configuration.version >= (3, 6):
            new = ">=TLSv1.2"
        else:
            new = "!SSLv2, !SSLv3, !TLSv1, !TLSv1.1"
        yield change(configuration, name, new, _GUIDELINE)


def grade(configuration: Configuration, name: str) -> Iterator[Decision]:
    """Raise the cipher grade *name* to medium."""
    value = configuration.value(name)
    if value.lower() not in _GRADES:
        yield Kept(name, value, "not a cipher grade that is known")
    elif _GRADES.index(value.lower()) < _GRADES.index("medium"):
        yield change(configuration, name, "medium", _GUIDELINE)


def _list(
    configuration: Configuration, name: str, wanted: tuple[str, ...], separator: str
) -> Iterator[Decision]:
    """Narrow a list that means a set; one that is not wider than ours is kept."""
    value = configuration.value(name)
    listed, names = _names(value), _names(" ".join(wanted))
    if listed and listed <= names:
        return
    # With operators ("!", "@SECLEVEL=2") a list is not the set of its words.
    plain = all(re.fullmatch(r"[A-Za-z0-9][\w-]*", word) for word in listed)
    if name not in configuration.explicit or (plain and listed > names):
        yield change(configuration, name, separator.join(wanted), _GUIDELINE)
    else:
        yield Kept(name, value, "set by hand, not comparable with " + _GUIDELINE)


def _names(value: str) -> set[str]:
    """Return what a list has, without the marks of groups (see above)."""
    return {name.lstrip("?*") for name in words_of(re.sub("[:/]", " ", value))}


def _curves(configuration: Configuration) -> Iterator[Decision]:
    # The default of 3.11 with OpenSSL 3.5 is as good and more flexible.
    if _HYBRID not in configuration.value(CURVES):
        yield from curves(configuration)


def curves(configuration: Configuration) -> Iterator[Decision]:
    """Narrow the groups for key exchange to those of the guideline."""
    # OpenSSL 3.5 was the first with ML-KEM.  Up to 3.9, Postfix looks names up in a
    # table that has no hybrid, and would warn of it in each process.
    if configuration.version >= (3, 10) and openssl(configuration) >= (3, 5):
        yield from _list(configuration, CURVES, _HYBRID_CURVES, ":")
    else:
        yield from _list(configuration, CURVES, _CURVES, " ")


def openssl(configuration: Configuration) -> tuple[int, ...]:
    """Return the version of the OpenSSL that Postfix runs with, empty if unknown."""
    match = re.match(r"OpenSSL (\d+)\.(\d+)\.(\d+)", configuration.tls_library)
    return tuple(map(int, match.groups())) if match else ()


def _preference(configuration: Configuration) -> Iterator[Decision]:
    if configuration.flag("tls_preempt_cipherlist"):
        why = f"{_GUIDELINE} has no, which is not stricter"
        yield Kept("tls_preempt_cipherlist", "yes", why)


def _yes_wanted(
    configuration: Configuration, name: str, why: str
) -> Iterator[Decision]:
    if not configuration.flag(name):
        yield change(configuration, name, "yes", why)


def _loglevel(configuration: Configuration, name: str) -> Iterator[Decision]:
    # A list of names; from 3.12 on with ",trace", which is no line in the log.
    words = [word.lower() for word in configuration.words(name)]
    if not _VISIBLE.intersection(words):
        new = ",".join(["1", *(word for word in words if word not in ("0", "none"))])
        yield change(configuration, name, new, "TLS is visible in the log")


# With each of these, a TLS connection is a line in the log.
_VISIBLE = frozenset(
    {
        *"123456789",
        "routine",
        "debug",
        "ssl-expert",
        "ssl-developer",
        "summary",
    }
)
