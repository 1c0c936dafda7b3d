"""The credentials file of certbot-dns-rfc2136, which such a host has already.

Its properties are documented with that plugin.  The secret is in no message: what is
wrong with a line is said by its number.  Raises `errors.Error`.
"""

import base64
import binascii
import ipaddress
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from certbot_postfix.errors import Error, excerpt, named_logger
from certbot_postfix.system import files

logger = named_logger(__name__)

# Properties of a few words; an honest file has comments as well.
_LARGEST = 64 * 1024

_PREFIX = "dns_rfc2136_"

# By the names of the plugin, whose default is the first: RFC 8945, 6.
_ALGORITHMS = {
    "HMAC-MD5": "HMAC-MD5.SIG-ALG.REG.INT",
    **{f"HMAC-SHA{bits}": f"hmac-sha{bits}" for bits in (1, 224, 256, 384, 512)},
}
_KEY = re.compile(r"[A-Za-z0-9_.-]{1,253}")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Where updates are sent, and the TSIG *key* that signs them."""

    server: str
    port: int
    key: str
    algorithm: str
    secret: bytes = field(repr=False)
    sign_query: bool = False


def read(path: Path) -> Credentials:
    """Return what the file *path* says."""
    text = files.read(path, most=_LARGEST).decode(errors="replace")
    if path.stat().st_mode & stat.S_IRWXO:  # as certbot has it
        logger.warning("Unsafe permissions on credentials configuration file: %s", path)
    try:
        return _parsed(_properties(text))
    except Error as error:
        raise Error(f"{path}: {error.message}", hint=error.hint) from None


def _properties(text: str) -> Mapping[str, object]:
    # certbot loads this module on its runs, but needs it on few.
    import configobj  # noqa: PLC0415

    try:
        found = configobj.ConfigObj(text.splitlines(), interpolation=False)
    except configobj.ConfigObjError as error:
        # Its message has the line, which may be that of the secret.
        number = getattr(error, "line_number", None)
        raise Error(f"line {number or '?'} is not of the form NAME = VALUE") from None
    return dict(found)


def _parsed(properties: Mapping[str, object]) -> Credentials:
    server = _value(properties, "server")
    try:
        ipaddress.ip_address(server)
    except ValueError:
        raise Error(
            f"{_PREFIX}server: {excerpt(server)} is not an IP address"
        ) from None
    port = _value(properties, "port", "53")
    if not (port.isdecimal() and len(port) < 6 and 0 < int(port) < 65536):
        raise Error(f"{_PREFIX}port: {excerpt(port)} is not a port")
    key = _value(properties, "name")
    if not _KEY.fullmatch(key):
        raise Error(f"{_PREFIX}name: {excerpt(key)} is not the name of a key")
    algorithm = _value(properties, "algorithm", "HMAC-MD5").upper()
    if algorithm not in _ALGORITHMS:
        known = ", ".join(_ALGORITHMS)
        raise Error(f"{_PREFIX}algorithm: {excerpt(algorithm)} is not one of {known}")
    try:
        secret = base64.b64decode(_value(properties, "secret"), validate=True)
    except (binascii.Error, ValueError):
        raise Error(f"{_PREFIX}secret: not valid base64") from None
    signs = _value(properties, "sign_query", "false").upper() == "TRUE"
    return Credentials(server, int(port), key, _ALGORITHMS[algorithm], secret, signs)


def _value(properties: Mapping[str, object], name: str, default: str = "") -> str:
    value = properties.get(_PREFIX + name, default) or default
    if not isinstance(value, str) or not value:
        raise Error(
            f"{_PREFIX}{name}: missing, or not a single value",
            hint="the format is that of certbot-dns-rfc2136",
        )
    return value
