"""A laboratory on loopback: private Postfix instances, Pebble, certbot, certificates.

Used by the tests, the demonstration and the benchmarks.  Nothing here reads or changes
the machine's own Postfix or certbot, and whatever is started is stopped by its id.
"""

from tests.lab.acme import Pebble
from tests.lab.certbot import COMMAND, NEWEST, OLDEST, Certbot
from tests.lab.machine import base_directory
from tests.lab.pki import Authority, Issued, install_lineage, renew_lineage
from tests.lab.postfix import PrivatePostfix

__all__ = [
    "COMMAND",
    "NEWEST",
    "OLDEST",
    "Authority",
    "Certbot",
    "Issued",
    "Pebble",
    "PrivatePostfix",
    "base_directory",
    "install_lineage",
    "renew_lineage",
]
