"""A real nginx in the network, as the documentation configures it."""

import re
import shutil
import signal
from pathlib import Path

from tests.lab.machine import wait_until
from tests.lab.network import POLICIES, Network
from tests.lab.pki import Issued

PROGRAM = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")

EXAMPLE = Path(__file__).parents[2] / "docs/examples/mta-sts/nginx.conf"

_CONF = """\
daemon off;
pid {base}/pid;
error_log {base}/error.log;
events {{}}
http {{
    access_log {base}/access.log;
    include /etc/nginx/mime.types;
{server}
}}
"""


class Nginx:
    """The web server of mta-sts.DOMAIN, which serves the directory *webroot*."""

    def __init__(self, network: Network, domain: str) -> None:
        self.base = network.base / "nginx"
        self.webroot = network.base / "webroot"
        self.base.mkdir()
        self.webroot.mkdir()
        self.webroot.chmod(0o755)
        self._network, self._name = network, f"mta-sts.{domain}"
        self.configure(network.authority.issue(self._name))
        self._process = network.start(
            *(str(PROGRAM), "-c", str(self.base / "conf"), "-e", str(self.base / "log"))
        )
        network.await_port(POLICIES, 443)

    def configure(self, issued: Issued, *, more: str = "") -> None:
        """Serve with this certificate, and what *more* the server is told."""
        live = self.base / "live"
        live.mkdir(exist_ok=True)
        for name, pem in (
            ("fullchain", issued.fullchain_pem),
            ("privkey", issued.key_pem),
        ):
            # As certbot does: nginx from 1.27.4 on keeps what it has of a file whose
            # inode and second are the same.
            new = live / f"{name}.new"
            new.write_bytes(pem)
            new.replace(live / f"{name}.pem")
        text = EXAMPLE.read_text()
        text = text.replace("/etc/letsencrypt/live/mta-sts.example.org", str(live))
        text = text.replace("mta-sts.example.org", self._name)
        text = text.replace("/var/www/mta-sts", str(self.webroot))
        # The network has no IPv6, and other servers on this port.
        text = re.sub(r" *listen \[::\].*\n", "", text)
        text = text.replace("listen 443", f"listen {POLICIES}:443")
        text = text.replace("    root ", f"    {more}\n    root ")
        (self.base / "conf").write_text(_CONF.format(base=self.base, server=text))

    def reload(self) -> None:
        """Have it read its configuration; return when workers of before are gone."""
        before = self._workers()
        self._process.send_signal(signal.SIGHUP)
        wait_until(
            lambda: bool(self._workers()) and not before & self._workers(),
            "nginx has reloaded",
        )

    def _workers(self) -> set[str]:
        pid = (self.base / "pid").read_text().strip()
        return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
