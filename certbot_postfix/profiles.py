"""The choices that an administrator has, apart from what they do.

certbot loads this on each of its runs, to know the options: it imports nothing of ours.
"""

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
