"""Pebble, the ACME server for tests, as Debian packages it.

It believes every client without looking, since the names of the tests do not resolve.
"""

import json
import signal
import subprocess
from pathlib import Path

from tests.lab.machine import LOOPBACK, LabError, Ports, accepts, wait_until
from tests.lab.pki import Authority

_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "PEBBLE_VA_NOSLEEP": "1",
    "PEBBLE_VA_ALWAYS_VALID": "1",
    "PEBBLE_WFE_NONCEREJECT": "0",
    "PEBBLE_AUTHZREUSE": "100",
}


class Pebble:
    """An ACME server that runs in a ``with`` and keeps its files in *base*.

    Its certificates are valid for *period* seconds.
    """

    def __init__(self, base: Path, *, period: int = 90 * 24 * 60 * 60) -> None:
        self.base = base
        self._period = period
        self.ca_bundle = base / "pebble-ca.pem"
        self._claimed = Ports(4)
        self._port, self._management, self.http_port, self._tls = self._claimed.numbers
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def directory_url(self) -> str:
        """What certbot's ``--server`` wants; trusted by means of `ca_bundle`."""
        return f"https://{LOOPBACK}:{self._port}/dir"

    def __enter__(self) -> "Pebble":
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        authority = Authority("Pebble Web")
        issued = authority.issue("localhost", LOOPBACK)
        self.ca_bundle.write_bytes(authority.root_pem)
        certificate, key = self.base / "pebble.pem", self.base / "pebble.key"
        certificate.write_bytes(issued.fullchain_pem)
        key.write_bytes(issued.key_pem)
        config = self.base / "pebble.json"
        settings = {
            "listenAddress": f"{LOOPBACK}:{self._port}",
            "managementListenAddress": f"{LOOPBACK}:{self._management}",
            "certificate": str(certificate),
            "privateKey": str(key),
            "httpPort": self.http_port,
            "tlsPort": self._tls,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": False,
            "certificateValidityPeriod": self._period,
        }
        config.write_text(json.dumps({"pebble": settings}))
        log = self.base / "pebble.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                self.argv("pebble", "-config", str(config), "-strict=false"),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_ENVIRONMENT,
            )
        wait_until(self._answers, "Pebble answers")

    def argv(self, *command: str) -> list[str]:
        """Return what runs *command* where Pebble is to run."""
        return [*command]

    def accepts(self, port: int) -> bool:
        """Whether something listens at *port* there."""
        return accepts(port)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise LabError(f"pebble ended: {(self.base / 'pebble.log').read_text()}")
        return self.accepts(self._port)

    def stop(self) -> None:
        """Have it answer nothing, until it may go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Have it answer again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End the process and give back the ports."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._claimed.release()
