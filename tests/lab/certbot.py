"""The real certbot, in directories of its own, as cron would run it.

`Certbot.log` is certbot's own log, the place to look for what it did not print.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.lab.acme import Pebble
from tests.lab.commands import Done, run

NEWEST = Path(sys.executable).with_name("certbot")
"""The one beside this Python: in `.venv`, the newest on PyPI."""
OLDEST = Path(__file__).parents[2] / ".venv-oldest/bin/certbot"
"""certbot 2.1, that of Debian 12, if it was prepared."""
COMMAND = NEWEST.with_name("certbot-postfix")


class Certbot:
    """certbot with its directories below *base*; obtains certificates from *pebble*."""

    def __init__(
        self, base: Path, *, executable: Path = NEWEST, pebble: Pebble | None = None
    ) -> None:
        self.executable = executable
        self.pebble = pebble
        self.config_dir = base / "letsencrypt"
        self.work_dir = base / "certbot-work"
        self.logs_dir = base / "certbot-log"
        # Neither the machine's settings nor a terminal's: those of cron.
        self.environment = {"PATH": "/usr/bin:/bin", "HOME": str(base), "LANG": "C"}
        if pebble:
            self.environment["REQUESTS_CA_BUNDLE"] = str(pebble.ca_bundle)

    def argv(self, *args: str) -> list[str]:
        """Return the whole command that stands behind ``certbot ARGS``."""
        command = [str(self.executable), *args, "-n", "--no-random-sleep-on-renew"]
        command += ["--config-dir", str(self.config_dir)]
        command += ["--work-dir", str(self.work_dir)]
        command += ["--logs-dir", str(self.logs_dir), "--max-log-backups", "0"]
        if self.pebble:
            command += ["--server", self.pebble.directory_url, "--agree-tos"]
            command += ["--register-unsafely-without-email"]
            command += ["--http-01-port", str(self.pebble.http_port)]
        return command

    def __call__(self, *args: str, timeout: float = 120) -> Done:
        """Run ``certbot ARGS``; whether it fails is a result."""
        return run(self.argv(*args), env=self.environment, timeout=timeout)

    @property
    def log(self) -> str:
        """What certbot logged on every run so far."""
        path = self.logs_dir / "letsencrypt.log"
        return path.read_text() if path.exists() else ""

    def bundle(self, lineage: str) -> Path:
        """Return where the plugin keeps what Postfix reads for *lineage*."""
        return self.config_dir / "postfix" / f"{lineage}.pem"


def without_plugin(executable: Path, base: Path) -> Path:
    """Return a certbot like *executable*, in an environment that lacks this plugin."""
    prefix, other = executable.parents[1], base / "other-certbot"
    python = executable.with_name("python3")
    system = "true" in (prefix / "pyvenv.cfg").read_text()
    command = [python, "-m", "venv", "--without-pip", other]
    command += ["--system-site-packages"] if system else []
    subprocess.run(command, check=True, timeout=60)
    inside = sysconfig.get_path("purelib", vars={"base": "."})
    for path in (prefix / inside).iterdir():
        if "certbot_postfix" not in path.name:
            (other / inside / path.name).symlink_to(path)
    _, _, script = executable.read_text().partition("\n")
    certbot = other / "bin/certbot"
    certbot.write_text(f"#!{other}/bin/python3\n{script}")
    certbot.chmod(0o755)
    return certbot
