"""The names of hosts and domains, as DNS and certificates have them.

Pure.
"""

import re

# LDH labels (RFC 5890, 2.3.1), with the underscore that some hosts have in their names,
# but not what could be an address.
_LABEL = "(?!-)[a-z0-9_-]{1,63}(?<!-)"
_HOST = re.compile(rf"(?![0-9.]+$)(?:{_LABEL}\.)*{_LABEL}")
_LONGEST = 253  # RFC 1035, 2.3.4: 255 octets, of which text has no first and no last


def is_host(name: str) -> bool:
    """Whether *name* is a host's, in lower case and as A-labels."""
    return len(name) <= _LONGEST and _HOST.fullmatch(name) is not None


def a_labels(name: str) -> str:
    """Return *name* as DNS and certificates have it: RFC 5891, 4, after UTS 46.

    ASCII is returned as it is, and so is a name that IDNA 2008 does not allow.
    """
    if name.isascii() or len(name) > 4 * _LONGEST:  # UTS 46 may shorten a name
        return name
    import idna  # noqa: PLC0415  # certbot loads this module on each of its runs

    try:
        # Not idna.encode(), which refuses an underscore and a wildcard.  Lower case
        # first: the capital ß is "ss" in tables of UTS 46 before those of Unicode 15.1.
        mapped = idna.uts46_remap(name.lower(), std3_rules=False, transitional=False)
        return ".".join(
            label if label.isascii() else idna.alabel(label).decode()
            for label in mapped.split(".")
        )
    except ValueError:  # the errors of idna are among them
        return name
