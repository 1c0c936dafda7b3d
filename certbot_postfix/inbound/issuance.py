"""How certbot has the certificates of a lineage issued: CA, account and validation.

The account is in certbot's directory accounts/, below the name of the ACME server, as
certbot's manual says ("Where certificates and keys are stored"); only root can read it.
What cannot be read is unknown.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from certbot_postfix.errors import Error
from certbot_postfix.formats.caa import Issuance
from certbot_postfix.system import files

# The domain by which CAA records mean a CA.  That of another one is not known here.
_ISSUERS = {
    "acme-v02.api.letsencrypt.org": "letsencrypt.org",
    "acme-staging-v02.api.letsencrypt.org": "letsencrypt.org",
}

# The authenticators that certbot brings, and its plugins for DNS.
_HTTP = frozenset({"standalone", "webroot", "nginx", "apache"})
_METHODS = ("http-01", "dns-01")

_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
_PLACE = re.compile(r"(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_URI = re.compile(r"https://[!#-:<-\[\]-~]{1,500}")

# More bytes than a registration has.
_LARGEST = 100_000


def read(config_dir: Path, settings: Mapping[str, str]) -> Issuance:
    """Return what the *settings* of a lineage say, and certbot's *config_dir*."""
    host, place = _server(settings.get("server", ""))
    account = settings.get("account", "")
    if not host or not _NAME.fullmatch(account):
        return Issuance(_ISSUERS.get(host, ""), "", _method(settings))
    path = config_dir / "accounts" / f"{host}{place}" / account / "regr.json"
    return Issuance(_ISSUERS.get(host, ""), _uri(path), _method(settings))


def _server(url: str) -> tuple[str, str]:
    """Return the host and the path of the ACME server at *url*; "" if it has none."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "", ""
    known = parts.scheme == "https" and _PLACE.fullmatch(parts.path)
    return (parts.netloc.lower(), parts.path) if known else ("", "")


def _method(settings: Mapping[str, str]) -> str:
    """Return how a name is validated; "" if that cannot be told."""
    authenticator = settings.get("authenticator", "").rpartition(":")[2]
    if authenticator in _HTTP:
        return "http-01"
    if authenticator.startswith("dns-"):
        return "dns-01"
    if authenticator == "manual":
        preferred = settings.get("pref_challs", "").replace(",", " ").split()
        return preferred[0] if len(preferred) == 1 and preferred[0] in _METHODS else ""
    return ""


def _uri(path: Path) -> str:
    try:
        registration = json.loads(files.read(path, most=_LARGEST))
    except (Error, ValueError, RecursionError):
        return ""
    uri = registration.get("uri") if isinstance(registration, dict) else None
    return uri if isinstance(uri, str) and _URI.fullmatch(uri) else ""
