"""Libraries that send mail: each a program that is a pipe to a port with TLS."""

import contextlib
import os
import re
import select
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.lab.machine import LOOPBACK
from tests.lab.postfix import PrivatePostfix

_HERE = Path(__file__).parent

# Seconds in which a message must have been delivered.
_PATIENCE = 60

# As the SMTP client of Postfix offers, postconf(5), tls_medium_cipherlist.
_ALL = "TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256"
_OLD = "HIGH:MEDIUM:!aNULL"

# The cipher suites of TLS 1.2 in Windows Server 2012 R2, in its order.
_WINDOWS_2012_R2 = ":".join(
    (
        *("ECDHE-RSA-AES256-SHA384", "ECDHE-RSA-AES128-SHA256"),
        *("ECDHE-RSA-AES256-SHA", "ECDHE-RSA-AES128-SHA"),
        *("DHE-RSA-AES256-GCM-SHA384", "DHE-RSA-AES128-GCM-SHA256"),
        *("DHE-RSA-AES256-SHA", "DHE-RSA-AES128-SHA"),
        *("AES256-GCM-SHA384", "AES128-GCM-SHA256"),
        *("AES256-SHA256", "AES128-SHA256", "AES256-SHA", "AES128-SHA"),
        *("ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-GCM-SHA256"),
        *("ECDHE-ECDSA-AES256-SHA384", "ECDHE-ECDSA-AES128-SHA256"),
        *("ECDHE-ECDSA-AES256-SHA", "ECDHE-ECDSA-AES128-SHA", "DES-CBC3-SHA"),
    )
)


class Sender(NamedTuple):
    """A library with its version; the *command*, then a port, is a pipe there.

    *options* come after the port.
    """

    title: str
    command: tuple[str, ...]
    options: tuple[str, ...] = ()


def senders(build: Path, missing: list[str]) -> Iterator[Sender]:
    """Yield those that can be had; *missing* gets the others.

    Below the directory *build*, ``OPENSSL/package/bin/node`` is Node.js with the
    OpenSSL of that version; what must be compiled is put there, too.
    """
    for version in ("1.0.2", "1.1.1", "3.5"):
        node = build / version / "package/bin/node"
        if not node.exists():
            missing.append(f"OpenSSL {version}")
            continue
        command = (str(node), str(_HERE / "sender.js"))
        found = _said([str(node), "-p", "process.versions.openssl"])
        yield Sender(f"OpenSSL {found}", command, (f"{_ALL}:{_OLD}",))
        if version == "1.0.2":
            title = "Windows Server 2012 R2 (its cipher suites, by OpenSSL 1.0.2)"
            yield Sender(title, command, (_WINDOWS_2012_R2,))
            title = "TLS 1.0 only, as OpenSSL 0.9.8 (by OpenSSL 1.0.2)"
            yield Sender(title, command, (_OLD, "TLSv1_method"))
    for program, name, make in (
        ("openssl", "OpenSSL 3.0", _openssl),
        ("gnutls-cli", "GnuTLS", _gnutls),
        ("tstclnt", "NSS", _nss),
        ("go", "Go", _go),
        ("java", "Java", _java),
    ):
        if shutil.which(program):
            yield make(build)
        else:
            missing.append(name)


def _said(argv: list[str]) -> str:
    done = subprocess.run(
        argv,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    found = re.search(r"\d+\.\d+(\.\d+)?[a-z]?", done.stdout)
    return found[0] if found else "?"


def _openssl(_: Path) -> Sender:
    command = ("openssl", "s_client", "-quiet", "-verify_quiet", "-port")
    return Sender(f"OpenSSL {_said(['openssl', 'version'])}", command)


def _gnutls(_: Path) -> Sender:
    command = ("gnutls-cli", "--insecure", LOOPBACK, "--port")
    return Sender(f"GnuTLS {_said(['gnutls-cli', '--version'])}", command)


def _nss(_: Path) -> Sender:
    argv = ["dpkg-query", "--show", "--showformat=${Version}", "libnss3"]
    # Debian's version has an epoch before the release.
    release = _said(argv) if shutil.which("dpkg-query") else "?"
    command = ("tstclnt", "-D", "-o", "-V", "tls1.0:", "-h", LOOPBACK, "-p")
    return Sender(f"NSS {release}", command)


def _go(build: Path) -> Sender:
    program = build / "sender"
    argv = ["go", "build", "-o", str(program), str(_HERE / "sender.go")]
    environment = {**os.environ, "GOCACHE": str(build / "go"), "GOTOOLCHAIN": "local"}
    subprocess.run(argv, check=True, env=environment)
    return Sender(f"Go {_said(['go', 'version'])}", (str(program),))


def _java(_: Path) -> Sender:
    version = _said(["java", "-version"])
    return Sender(f"Java {version}", ("java", str(_HERE / "Sender.java")))


# A message on its way

_DIALOGUE = (
    (b"EHLO sender.example.org\r\n", rb"^250 "),
    (b"MAIL FROM:<sender@example.org>\r\n", rb"^250 2\.1\.0"),
    (b"RCPT TO:<root@%s>\r\n", rb"^250 2\.1\.5"),
    (b"DATA\r\n", rb"^354 "),
    (b"Subject: test\r\n\r\nText.\r\n.\r\n", rb"^250 2\.0\.0"),
    (b"QUIT\r\n", rb"^221 "),
)


def delivered(sender: Sender, postfix: PrivatePostfix) -> str:
    """Return by which protocol, cipher and key it delivers, "" if it cannot.

    Postfix says so in its log.
    """
    before = len(postfix.log())
    with _behind_starttls(postfix.ports["smtp"]) as port:
        argv = [*sender.command, str(port), *sender.options]
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            if not _converse(process, postfix.hostname.encode()):
                return ""
        finally:
            process.kill()
            process.communicate()
    found = re.search(
        r" TLS connection established from \S+: (\S+) with cipher (\S+)"
        r"(?:.* server-signature (\w+))?",
        postfix.log()[before:],
    )
    assert found, postfix.log()[before:]
    protocol, cipher, signature = found.groups()
    key = f" ({signature})" if signature and protocol == "TLSv1.3" else ""
    version = {"TLSv1": "1.0"}.get(protocol, protocol.removeprefix("TLSv"))
    return f"TLS {version}, {cipher}{key}"


def _converse(process: "subprocess.Popen[bytes]", hostname: bytes) -> bool:
    assert process.stdin
    assert process.stdout
    deadline = time.monotonic() + _PATIENCE
    for command, reply in _DIALOGUE:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(command.replace(b"%s", hostname))
            process.stdin.flush()
        received = b""
        while not re.search(reply, received, re.MULTILINE):
            left = deadline - time.monotonic()
            readable, _, _ = select.select([process.stdout], [], [], max(left, 0))
            piece = os.read(process.stdout.fileno(), 4096) if readable else b""
            if not piece:
                return False
            received += piece
    return True


@contextlib.contextmanager
def _behind_starttls(server: int) -> Iterator[int]:
    """Yield a port at which TLS begins at once, and goes to *server* by STARTTLS."""
    with socket.create_server((LOOPBACK, 0)) as listening:
        port = listening.getsockname()[1]
        thread = threading.Thread(target=_pass_on, args=(listening, server))
        thread.daemon = True
        thread.start()
        yield port
        thread.join(_PATIENCE)


def _pass_on(listening: socket.socket, server: int) -> None:
    client, _ = listening.accept()
    with client, socket.create_connection((LOOPBACK, server)) as smtp:
        file = smtp.makefile("rb", 0)
        for command in (b"", b"EHLO bridge.example.org\r\n", b"STARTTLS\r\n"):
            smtp.sendall(command)
            while file.readline()[3:4] == b"-":
                pass
        open_ends = {client: smtp, smtp: client}
        while open_ends:
            for end in select.select([*open_ends], [], [])[0]:
                with contextlib.suppress(OSError):
                    if piece := end.recv(65536):
                        open_ends_to = client if end is smtp else smtp
                        open_ends_to.sendall(piece)
                        continue
                return
