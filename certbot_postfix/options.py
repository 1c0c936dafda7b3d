"""The options that an administrator has, apart from what they do.

certbot loads this on each of its runs, to know the options: it imports nothing of ours.
"""

import argparse
import ipaddress
import os
import re
from collections.abc import Callable
from datetime import timedelta
from enum import Enum
from typing import Any


class Profile(Enum):
    """How much is raised; each one includes those before it."""

    CERTIFICATE = "certificate"
    OPPORTUNISTIC = "opportunistic"
    INTERMEDIATE = "intermediate"
    INTERNET_NL = "internet-nl"


class ClientLevel(Enum):
    """What the SMTP client is raised to."""

    KEEP = "keep"
    MAY = "may"
    ENCRYPT = "encrypt"
    DANE = "dane"


def declare(add: Callable[..., None]) -> None:
    """Declare the options of the installer, each by *add*: see docs/reference."""
    add(
        "config-dir",
        metavar="DIR",
        type=os.path.abspath,  # cron has another current directory
        # the empty conversion keeps certbot from adding "(default: None)"
        help="configuration directory of the instance (default: postconf's)"
        "%(default).0s",
    )
    add("ctl", metavar="PATH", default="postfix", help="the program postfix(1)")
    add(
        "config-utility",
        metavar="PATH",
        default="postconf",
        help="the program postconf(1)",
    )
    add(
        "tls-profile",
        choices=[profile.value for profile in Profile],
        default=Profile.OPPORTUNISTIC.value,
        help="how far TLS parameters are raised, never lowered: the certificate"
        " only, also the client level, also Mozilla's intermediate guideline, or also"
        " what Internet.nl's mail test wants",
    )
    add(
        "client-level",
        choices=[level.value for level in ClientLevel],
        default=ClientLevel.MAY.value,
        help="minimum for smtp_tls_security_level (outbound mail); ignored with"
        " profile `certificate`",
    )
    add(
        "sni",
        metavar="WHEN",
        choices=["auto", "never"],
        default="auto",
        help="serve further certificates via SNI: auto or never",
    )
    add(
        "replace-default",
        action="store_true",
        help="let the certificate replace an RSA and an ECDSA certificate of your own,"
        " even if one of them cannot stay beside it",
    )
    _declare_policies(add)
    declare_dane(add)
    declare_publisher(add, "tlsa-publisher")
    declare_rolling(add)
    declare_ignore(add)
    add(
        "verify-timeout",
        metavar="S",
        type=seconds,
        default=20,
        help="seconds to wait for every service to present the certificate; 0 skips"
        " verification",
    )
    add(
        "ignore-master-overrides",
        action="store_true",
        help="report overrides in master.cf as notes, not as warnings",
    )


def _declare_policies(add: Callable[..., None]) -> None:
    add(
        "policy-list",
        metavar="SRC",
        action="extend",
        type=places,
        help="STARTTLS Everywhere list of outbound TLS policies, a path or an https"
        " URL; can be repeated, later ones override earlier ones"
        "%(default).0s",
    )
    add(
        "policy-keyring",
        metavar="FILE",
        type=path,
        help="keyring of gpgv; each list must be signed by a key in it, as SRC.asc"
        "%(default).0s",
    )
    add(
        "policy-early-adopter",
        action="store_true",
        help="enforce what the lists only test",
    )
    add(
        "mta-sts-domains",
        metavar="FILE",
        type=domains,
        help="recipient domains, a line each, whose MTA-STS policies are looked up; or"
        " auto: those that the queue and the mail log have, or auto,FILE: both"
        "%(default).0s",
    )
    add(
        "policy-service",
        metavar="T",
        default="auto",
        help="resolver daemon for policies: auto (add one that runs), none, or a"
        " table such as socketmap:inet:127.0.0.1:8461:postfix",
    )


def declare_dane(add: Callable[..., None]) -> None:
    """Declare the options about TLSA records, each by *add*."""
    add(
        "tlsa-name",
        metavar="HOST",
        action="extend",
        type=words,
        help="additional host name of this server that has TLSA records; can be"
        " repeated%(default).0s",
    )
    add(
        "dane-resolver",
        metavar="ADDRESS",
        type=address,
        default="",
        help="trusted, validating resolver (default: those of resolv.conf on"
        " loopback)%(default).0s",
    )
    add(
        "tlsa-min-ttl",
        metavar="S",
        type=ttl,
        # Some caches keep records for longer than their TTL says.
        default=3600,
        help="minimum TTL, in seconds, to assume for TLSA records",
    )


def declare_publisher(
    add: Callable[..., None], name: str = "publisher", default: str = "print"
) -> None:
    """Declare the option *name* that says how records get into DNS, by *add*."""
    add(
        name,
        metavar="PUBLISHER",
        type=publisher,
        default=default,
        help="how records get into DNS: print (you edit the zone), rfc2136:FILE"
        " (dynamic updates, with the credentials file of certbot-dns-rfc2136),"
        " command:PATH (a program of yours), or NAME:TEXT (a publisher from another"
        " package)",
    )


def declare_rolling(add: Callable[..., None]) -> None:
    """Declare the options that say whether keys change by themselves, by *add*."""
    add(
        "tlsa-roll",
        metavar="WHEN",
        choices=["auto", "manual"],
        default="manual",
        help="who changes keys that TLSA records announce: auto (certbot renew), or"
        " manual (you, by certbot-postfix tlsa switch)",
    )
    add(
        "tlsa-roll-every",
        metavar="DAYS",
        type=days,
        default="90d",
        help="how long a key is in service before the next one is staged, for"
        " tlsa-roll auto",
    )


def rolls_every(conf: Callable[[str], Any]) -> timedelta | None:
    """Return how often keys change by themselves, as *conf* says; None if never."""
    if conf("tlsa-roll") != "auto":
        return None
    return timedelta(days=int(conf("tlsa-roll-every").removesuffix("d")))


def declare_ignore(add: Callable[..., None]) -> None:
    """Declare the option that lets each certificate pass, by *add*."""

    add(
        "tlsa-ignore",
        action="store_true",
        help="deploy a certificate even if TLSA records (DANE) do not match it",
    )


def words(text: str | list[str]) -> list[str]:
    """Return *text* as a list, which is what certbot restores."""
    return text.split() if isinstance(text, str) else text


def places(text: str | list[str]) -> list[str]:
    """Return the paths, absolute, and the URLs in *text*; certbot restores a list."""
    words = [text] if isinstance(text, str) else text
    return [word if "://" in word else path(word) for word in words]


def domains(text: str) -> str:
    """Return the file that *text* names, as an absolute path; auto before it stays."""
    first, comma, rest = text.partition(",")
    if first != "auto":
        return path(text)
    return f"{first}{comma}{path(rest)}" if rest else first


def path(text: str) -> str:
    """Return the absolute path that *text* means, or "" if it is empty."""
    return os.path.abspath(text) if text else ""  # noqa: PTH100


def publisher(text: str) -> str:
    """Return the publisher *text*; the file of one of ours has an absolute path."""
    name, _, rest = text.partition(":")
    return f"{name}:{path(rest)}" if name in ("rfc2136", "command") else text


def given(option_name: Callable[[str], str], conf: Callable[[str], Any]) -> list[str]:
    """Return the options that differ from their defaults, as words of a command.

    What is fit for one run only is left out.
    """
    defaults: dict[str, object] = {}
    declare(lambda name, **about: defaults.update({name: about.get("default")}))
    return [
        word
        for name in ("config-dir", "tls-profile", "client-level", "sni")
        if conf(name) != defaults[name]
        for word in (f"--{option_name(name)}", str(conf(name)))
    ]


def seconds(text: str) -> float:
    """Return the number of seconds that a *text* of the command line means."""
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 3600")
    return value


def address(text: str) -> str:
    """Return the IP address that *text* means, or "" if it is empty."""
    try:
        return str(ipaddress.ip_address(text)) if text else ""
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not an IP address") from None


def days(text: str) -> str:
    """Return *text*, a number of days such as 90d; raise if it is none."""
    if not re.fullmatch(r"[0-9]{1,4}d", text):
        raise argparse.ArgumentTypeError(f"{text} is not a number of days such as 90d")
    return text


def ttl(text: str) -> int:
    """Return the number of seconds that *text* means, a week at most."""
    if not text.isdecimal() or int(text) > 7 * 24 * 3600:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 604800")
    return int(text)
