"""A record of DNS as text: the line of a zone file, RFC 1035, 5.1.

Pure; raises `errors.Error`.
"""

import re
from dataclasses import dataclass

from certbot_postfix.errors import Error, excerpt

# As dnspython writes a name: what zone files have a meaning for has a backslash.
_NAME = re.compile(r"""(?:\\[!-~]|[!#%-'*-:<-?A-[\]-~])+""")
_LONGEST = 4 * 253  # RFC 1035, 2.3.4: each octet may be written as \DDD

_TYPE = re.compile(r"[A-Z][A-Z0-9]{0,15}")

# RFC 1035, 3.2.1: 65535 octets, each of which may be written as \DDD.
_DATA = re.compile(r"[!-~](?:[ -~]{0,262142}[!-~])?")
_LONGEST_TTL = 2**31 - 1  # RFC 2181, 8


@dataclass(frozen=True, slots=True, order=True)
class ResourceRecord:
    """The record *name*, in lower case and as A-labels, without its last dot.

    *ttl* is in seconds, *type* such as TLSA, and *rdata* on one line as zone files have
    it, with names that end with a dot.
    """

    name: str
    ttl: int
    type: str
    rdata: str

    def __post_init__(self) -> None:
        """Raise `Error` where a field could be taken for something else."""
        if len(self.name) > _LONGEST or not _NAME.fullmatch(self.name):
            raise Error(f"{excerpt(self.name)} is not the name of a record")
        if not _TYPE.fullmatch(self.type):
            raise Error(f"{excerpt(self.type)} is not the type of a record")
        if not 0 <= self.ttl <= _LONGEST_TTL:
            raise Error(f"{self.ttl} is not a TTL")
        if not _DATA.fullmatch(self.rdata):
            raise Error(f"{excerpt(self.rdata)} is not the data of a record")

    def __str__(self) -> str:
        return f"{self.name}. {self.ttl} IN {self.type} {self.rdata}"
