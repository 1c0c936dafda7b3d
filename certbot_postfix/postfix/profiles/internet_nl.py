"""What Internet.nl's mail test wants for full marks in its category TLS.

Its rules are those of NCSC-NL's guidelines of 2025-05.  Pure, as `intermediate` is; the
exclusions are those of the SMTP server, so that they do not bind mail that is sent.
"""

import re
from collections.abc import Collection, Iterable, Iterator

from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.postfix.decisions import Change, Decision, Kept, change
from certbot_postfix.postfix.profiles import intermediate
from certbot_postfix.tls.certificates import Certificate

CONFIG_FILE = "tls_config_file"

# The file that it names, in Postfix's configuration directory.
NAME = "certbot_openssl.cnf"

EXCLUSIONS = "smtpd_tls_exclude_ciphers"

# SHA1, SHA256 and SHA384 mean the MAC (ciphers(1)), and so all of CBC.
_EXCLUDED = (
    *("aNULL", "kRSA", "kDHE", "AESCCM8", "ARIA", "CAMELLIA"),
    *("SHA1", "SHA256", "SHA384"),
)

_HEADER = b"# Which signatures Postfix accepts in handshakes of TLS.\n"

# OpenSSL falls back to the name openssl_conf, so that no tls_config_name is needed.  An
# unknown name in the list makes OpenSSL 3.0 ignore all of it, without a line in a log.
FILE = (
    _HEADER
    + b"""\
# Written by certbot-postfix: edits are lost.
openssl_conf = postfix_settings
[postfix_settings]
ssl_conf = postfix_ssl
[postfix_ssl]
system_default = postfix_tls
[postfix_tls]
SignatureAlgorithms = """
    + b":".join(
        (
            *(b"ECDSA+SHA256", b"ECDSA+SHA384", b"ECDSA+SHA512", b"ed25519", b"ed448"),
            *(b"RSA-PSS+SHA256", b"RSA-PSS+SHA384", b"RSA-PSS+SHA512"),
            *(b"RSA+SHA256", b"RSA+SHA384", b"RSA+SHA512"),
        )
    )
    + b"\n"
)

# Groups for key exchange beside tls_eecdh_auto_curves, since Postfix 3.8.
FINITE_FIELDS = "tls_ffdhe_auto_groups"

# What the profile sets for services.
GOVERNED = (
    *intermediate.BESIDE_CIPHERS,
    "smtpd_tls_ciphers",
    EXCLUSIONS,
    CONFIG_FILE,
    FINITE_FIELDS,
)

_WHY = "Internet.nl"

# Shorter keys are to be phased out.
_RSA_BITS = 3072


def internet_nl(configuration: Configuration) -> Iterator[Decision]:
    """Apply the rules of Internet.nl 1.11, and the rest of the profile intermediate."""
    for decision in (
        *intermediate.beside_ciphers(configuration),
        *intermediate.grade(configuration, "smtpd_tls_ciphers"),
        *_exclusions(configuration),
        *_signatures(configuration),
        *_groups(configuration),
    ):
        if decision.name in configuration.defaults:
            yield decision


def is_ours(text: bytes) -> bool:
    """Whether *text*, of a file with the name of ours, is one that we wrote."""
    return text.startswith(_HEADER)


def names_file(configuration: Configuration) -> bool:
    """Whether Postfix reads the file of ours."""
    return configuration.value(CONFIG_FILE) == str(configuration.directory / NAME)


def excludes(value: str) -> bool:
    """Whether *value*, of smtpd_tls_exclude_ciphers, excludes all that it should."""
    return set(_EXCLUDED) <= set(_words(value))


def _exclusions(configuration: Configuration) -> Iterator[Decision]:
    excluded = _words(configuration.value(EXCLUSIONS))
    if missing := [word for word in _EXCLUDED if word not in excluded]:
        old = configuration.explicit.get(EXCLUSIONS, "").rstrip(" ,:")
        new = ", ".join(filter(None, [old, *missing]))
        yield change(configuration, EXCLUSIONS, new, _WHY)


def _words(text: str) -> list[str]:
    return re.split(r"[\s,:]+", text)


def _signatures(configuration: Configuration) -> Iterator[Decision]:
    value = configuration.value(CONFIG_FILE)
    if not _can_restrict(configuration) or names_file(configuration):
        return
    if value != "default" or configuration.value("tls_config_name"):
        why = f"set by hand; {_NO_SHA1}"
        yield Kept(CONFIG_FILE, value, why)
    elif configuration.openssl_conf:
        why = (
            f"{configuration.openssl_conf} has settings of TLS that another file would"
            f" replace; {_NO_SHA1}"
        )
        yield Kept(CONFIG_FILE, value, why)
    else:
        path = configuration.directory / NAME
        yield change(configuration, CONFIG_FILE, str(path), f"{_WHY}: no SHA-1")


_NO_SHA1 = "Internet.nl wants no signatures with SHA-1"


def _can_restrict(configuration: Configuration) -> bool:
    # postconf(5), tls_config_file: "1.1.1b or later"
    known = CONFIG_FILE in configuration.defaults
    return known and intermediate.openssl(configuration) >= (1, 1, 1)


def _groups(configuration: Configuration) -> Iterator[Decision]:
    if configuration.value(FINITE_FIELDS):
        yield change(
            configuration, FINITE_FIELDS, "", f"{_WHY}: no finite-field groups"
        )
    listed = configuration.value(intermediate.CURVES)
    if "MLKEM" in listed and not without_finite_fields(listed):
        yield from intermediate.curves(configuration)


def without_finite_fields(curves: str) -> bool:
    """Whether *curves*, of tls_eecdh_auto_curves, has no finite-field group.

    DEFAULT, which Postfix 3.11 has with OpenSSL 3.5, and which an empty list means, is
    of such groups, too: SSL_CTX_set1_groups_list(3).
    """
    return bool(curves.strip()) and not re.search("DEFAULT|ffdhe", curves)


# What is to be known


def notes(
    configuration: Configuration,
    decisions: Iterable[Decision],
    chain: Collection[Certificate],
) -> Iterator[str]:
    """Say who is shut out by *decisions*, and what is missing for full marks.

    The default certificates will be those of *chain*.
    """
    if CONFIG_FILE not in configuration.defaults:
        yield (
            f"Postfix {configuration.defaults['mail_version']} has no {CONFIG_FILE}"
            " (3.9, 3.8.1, 3.7.6, 3.6.10 and 3.5.20 have it): signatures with SHA-1"
            " remain accepted, which Internet.nl rates as insufficient"
        )
    elif not _can_restrict(configuration):
        yield (
            f"{CONFIG_FILE} needs OpenSSL 1.1.1 or later: signatures with SHA-1"
            " remain accepted, which Internet.nl rates as insufficient"
        )
    if short := [leaf.rsa_bits for leaf in chain if 0 < leaf.rsa_bits < _RSA_BITS]:
        yield (
            f"the RSA key has {min(short)} bits: Internet.nl warns of fewer than"
            f" {_RSA_BITS} (--rsa-key-size {_RSA_BITS})"
        )
    changed = {item.name for item in decisions if isinstance(item, Change)}
    if not changed & {*GOVERNED}:
        return
    yield (
        "the profile internet-nl shuts out senders that know nothing newer than TLS"
        " 1.1, only signatures with SHA-1, or only key exchange by RSA or DHE: they"
        " send in clear text, or not at all if they insist on TLS"
    )
    if CONFIG_FILE in changed:
        yield (
            f"{CONFIG_FILE} also applies to the SMTP client: a server that signs with"
            " SHA-1 only gets mail in clear text, or none at the client level encrypt"
        )
    yield from _second_key({leaf.key_type for leaf in chain})


def _second_key(key_types: set[str]) -> Iterator[str]:
    if key_types == {"RSA"}:
        yield (
            "with an RSA certificate only, Exchange on Windows Server 2012 R2 and"
            " others that know CBC only with RSA get no TLS: have an ECDSA certificate"
            " served beside it (--key-type ecdsa)"
        )
    elif key_types and "RSA" not in key_types:
        yield (
            f"with a certificate for {'/'.join(sorted(key_types))} only, senders that"
            " know RSA only get no TLS: have an RSA certificate served beside it"
            f" (--key-type rsa --rsa-key-size {_RSA_BITS})"
        )
