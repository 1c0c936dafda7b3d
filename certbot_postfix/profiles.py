"""The options that an administrator has, apart from what they do.

certbot loads this on each of its runs, to know the options: it imports nothing of ours.
"""

import argparse
import os
from collections.abc import Callable
from enum import Enum


class Profile(Enum):
    """How much is raised; each one includes those before it."""

    CERTIFICATE = "certificate"
    OPPORTUNISTIC = "opportunistic"
    INTERMEDIATE = "intermediate"


class ClientLevel(Enum):
    """What the SMTP client is raised to."""

    KEEP = "keep"
    MAY = "may"
    ENCRYPT = "encrypt"


def declare(add: Callable[..., None]) -> None:
    """Declare the options of the installer, each by *add*, as README.rst has them."""
    add(
        "config-dir",
        metavar="DIR",
        type=os.path.abspath,  # cron has another current directory
        help="configuration directory of the instance",
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
        " only, also the client level, or also Mozilla's intermediate guideline",
    )
    add(
        "client-level",
        choices=[level.value for level in ClientLevel],
        default=ClientLevel.MAY.value,
        help="what smtp_tls_security_level is raised to, if it is less strict;"
        " the profile certificate leaves it alone",
    )
    add(
        "verify-timeout",
        metavar="S",
        type=_seconds,
        default=20,
        help="seconds until every service must serve the certificate; 0: no proof",
    )
    add(
        "ignore-master-overrides",
        action="store_true",
        help="do not warn of parameters that master.cf overrides",
    )


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds")
    return value
