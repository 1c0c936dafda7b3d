"""The system's openssl.cnf, config(5): whether it says anything of TLS."""

import configparser
import re
from collections.abc import Iterable
from pathlib import Path

_FILES = (
    Path("/etc/ssl/openssl.cnf"),  # Debian, SUSE, Arch, Alpine
    Path("/etc/pki/tls/openssl.cnf"),  # Fedora, RHEL
)

# What Debian's library does by itself, and Ubuntu's file says.
_DEFAULT = {"cipherstring": "DEFAULT:@SECLEVEL=2"}


def with_settings(paths: Iterable[Path] = _FILES) -> Path | None:
    """Return the openssl.cnf of the system, the first of *paths*, if it sets up TLS."""
    for path in paths:
        if path.is_file():
            try:
                text = path.read_text(errors="replace")
            except OSError:  # who cannot read it cannot say
                return path
            return path if has_settings(text) else None
    return None


def has_settings(text: str) -> bool:
    """Whether an openssl.cnf says anything of TLS, or cannot be judged.

    That is of protocols and ciphers (``ssl_conf``), of providers (FIPS), of engines, or
    by another file, as the crypto-policies of Fedora.
    """
    if re.search(r"^\s*\.include\b", text, re.MULTILINE):
        return True
    parser = configparser.ConfigParser(
        strict=False,
        interpolation=None,
        delimiters="=",
        comment_prefixes="#",
        inline_comment_prefixes="#",
        default_section="",
    )
    try:
        parser.read_string(f"[default]\n{text}")
        sections = {name.strip(): dict(parser[name]) for name in parser.sections()}
    except (configparser.Error, ValueError):
        return True
    whole = sections.get(sections.get("default", {}).get("openssl_conf", ""), {})
    if not whole.keys() <= {"providers", "ssl_conf"}:
        return True
    if not sections.get(whole.get("providers", ""), {}).keys() <= {"default"}:
        return True
    names = sections.get(whole.get("ssl_conf", ""), {})
    return any(sections.get(name, {}) != _DEFAULT for name in names.values())
