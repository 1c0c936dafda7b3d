"""The file of the profile internet-nl for OpenSSL, in Postfix's own directory."""

import os

from certbot_postfix.change.plan import Edit
from certbot_postfix.errors import Error
from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.postfix.profiles import internet_nl
from certbot_postfix.system import files


def edits(configuration: Configuration) -> list[Edit]:
    """Return what becomes of the file that *configuration* will name, if it is ours.

    Raises `Error` if somebody else has one of that name.
    """
    if not internet_nl.names_file(configuration):
        return []
    path = configuration.directory / internet_nl.NAME
    before = files.read(path) if os.path.lexists(path) else None
    if path.is_symlink() or not (before is None or internet_nl.is_ours(before)):
        raise Error(
            f"{path} was not written by certbot-postfix, and the profile internet-nl"
            " needs a file of that name; no changes were made",
            hint="rename it, or name it in main.cf as tls_config_file: it is kept then",
        )
    return [Edit(path, before, internet_nl.FILE, mode=0o644)]
