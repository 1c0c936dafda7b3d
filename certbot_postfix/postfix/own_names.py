"""The names of our own files: tables beside main.cf, and what is kept for an instance.

Imports little, since every ``certbot renew`` loads it.
"""

from pathlib import Path
from urllib.parse import quote, unquote

from certbot_postfix.system.directories import real

# The tables of tls_server_sni_maps and of smtp_tls_policy_maps.
SNI_MAP = "certbot_sni"
POLICY_MAP = "certbot_tls_policy"


def of_instance(directory: Path) -> str:
    """Return the name of a file or directory for the instance in *directory*."""
    return quote(str(real(directory)), safe="")


def instance(name: str) -> Path | None:
    """Return the directory whose name by `of_instance` is *name*, if there is one."""
    directory = unquote(name)
    return Path(directory) if name.startswith("%2F") else None
