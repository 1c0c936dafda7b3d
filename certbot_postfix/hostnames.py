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
    return len(name) <= _LONGEST and bool(_HOST.fullmatch(name))


def a_labels(name: str) -> str:
    """Return *name* as certificates and clients have it: RFC 5890, 2.3.2.1."""
    if name.isascii():
        return name
    try:
        return name.encode("idna").decode()
    except UnicodeError:
        return name
