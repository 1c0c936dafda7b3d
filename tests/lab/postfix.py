"""A private Postfix on loopback, configured as Debian configures a new one.

It has its own configuration, queue, data directory and log below one base directory,
and sends no message anywhere.  The formats are those of postconf(5) and master(5).
"""

import contextlib
import functools
import grp
import itertools
import os
import pwd
import re
import signal
import smtplib
import socket
import ssl
import stat
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from cryptography import x509

from tests.lab import pki
from tests.lab.machine import LOOPBACK, LabError, Ports, accepts, wait_until

SERVICES = ("smtp", "submission", "submissions")
SNAKE_OIL = "snakeoil"

_SHARED = Path("/usr/share/postfix")
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}

# What Debian's installation adds to its template; no aliases, since those are the
# machine's own.
_DEBIAN = """\
myhostname = {hostname}
alias_maps =
alias_database =
mydestination = $myhostname, localhost.example.org, localhost
relayhost =
mynetworks = {mynetworks}
mailbox_size_limit = 0
recipient_delimiter = +
inet_interfaces = loopback-only
inet_protocols = all
"""

_PRIVATE = """\

# Keep this instance to itself.
queue_directory = {base}/queue
data_directory = {base}/data
maillog_file = {base}/maillog
maillog_file_prefixes = {base}
local_transport = discard:
# Where a test takes files away, no process ends that could not start again.
max_idle = 1h
default_transport = error:this Postfix sends no mail
"""

_SMTP = """\
127.0.0.1:{smtp} inet n - n - - smtpd
"""

_SUBMISSION = """\
127.0.0.1:{submission} inet n - n - - smtpd
  -o syslog_name=postfix/submission
  -o smtpd_tls_security_level=encrypt
  -o smtpd_tls_auth_only=yes
  -o smtpd_reject_unlisted_recipient=no
  -o smtpd_relay_restrictions=permit_mynetworks,reject
127.0.0.1:{submissions} inet n - n - - smtpd
  -o syslog_name=postfix/submissions
  -o smtpd_tls_wrappermode=yes
  -o smtpd_reject_unlisted_recipient=no
  -o smtpd_relay_restrictions=permit_mynetworks,reject
"""

_POSTSCREEN = """\
127.0.0.1:{smtp} inet n - n - 1 postscreen
smtpd pass - - n - - smtpd
dnsblog unix - - n - 0 dnsblog
tlsproxy unix - - n - 0 tlsproxy
"""

# A second is the shortest wait there is.  The test that follows the greeting is what
# makes postscreen keep a client, and speak SMTP to it, rather than hand it to smtpd.
_SCREENED = """\

postscreen_greet_wait = 1s
postscreen_pipelining_enable = yes
"""

_MYNETWORKS = "127.0.0.0/8 [::ffff:127.0.0.0]/104 [::1]/128"
_MYNETWORKS_SCREENED = "127.0.0.1/32 [::1]/128"

_QUEUES = (
    *("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold"),
    *("incoming", "private", "saved", "trace"),
)

# Lines of the lab's own in the mail log.
_MARK = "lab: read"
_marks = itertools.count(1)

STRANGER = "127.0.0.2"
"""The address of a client that postscreen does not know, on Linux without set-up."""


class Entry(NamedTuple):
    """All of a directory entry that an exact undo must restore."""

    kind: str
    mode: int
    uid: int
    gid: int
    content: bytes | str | None


class PrivatePostfix:
    """A Postfix instance below *base*, which every user must be able to enter.

    It is configured at once and runs between `start` and `stop`, or in a ``with``.
    `ports` has the ports of the services smtp, submission and submissions.

    With *postscreen*, that is before smtp, and the address of a client decides who
    does the handshake: from 127.0.0.1 it is passed to smtpd at once; from `STRANGER` it
    is served by postscreen, its TLS by tlsproxy.  A stranger's first greeting takes a
    second, all further ones no time, since postscreen remembers who waited.  He stays a
    stranger as long as he ends with QUIT, which leaves the tests after the greeting
    unfinished; one who goes on to RCPT is told 450, once, and passed from then on.
    """

    def __init__(
        self,
        base: Path,
        *,
        hostname: str = "mx.example.org",
        postscreen: bool = False,
    ) -> None:
        self.hostname = hostname
        self.postscreen = postscreen
        self.base = base
        self.config_dir = base / "etc"
        self.main_cf = self.config_dir / "main.cf"
        self.master_cf = self.config_dir / "master.cf"
        self.maillog = base / "maillog"
        self._claimed = Ports(len(SERVICES))
        self.ports = dict(zip(SERVICES, self._claimed.numbers, strict=True))
        self._configure()

    def _configure(self) -> None:
        for name in ("etc", "queue", "data"):
            (self.base / name).mkdir()
        postfix = pwd.getpwnam("postfix").pw_uid
        os.chown(self.base / "data", postfix, -1)
        self._make_queue(postfix)
        oil = _snake_oil()
        certificate = self.config_dir / f"{SNAKE_OIL}.pem"
        certificate.write_bytes(oil.cert_pem)
        key = self.config_dir / f"{SNAKE_OIL}.key"
        key.touch(mode=0o600)
        key.write_bytes(oil.key_pem)
        template = "".join(
            (_SHARED / name).read_text() for name in ("main.cf.debian", "main.cf.tls")
        )
        template = re.sub(
            r"(?m)^(\w+cert_file ?= ?).*", rf"\g<1>{certificate}", template
        )
        template = re.sub(r"(?m)^(\w+key_file ?= ?).*", rf"\g<1>{key}", template)
        settings = _DEBIAN.format(
            hostname=self.hostname,
            mynetworks=_MYNETWORKS_SCREENED if self.postscreen else _MYNETWORKS,
        )
        self.main_cf.write_text(
            _without(template, settings)
            + settings
            + _PRIVATE.format(base=self.base)
            + (_SCREENED if self.postscreen else "")
        )
        self.master_cf.write_text(
            _master((_SHARED / "master.cf.dist").read_text())
            + (_POSTSCREEN if self.postscreen else _SMTP).format_map(self.ports)
            + _SUBMISSION.format_map(self.ports)
        )
        self.settle()

    def _make_queue(self, owner: int) -> None:
        """Make what ``postfix check`` makes: see its postfix-files."""
        drop = grp.getgrnam("postdrop").gr_gid
        for names, mode, user, group in (
            (_QUEUES, 0o700, owner, -1),
            (("maildrop",), 0o730, owner, drop),
            (("public",), 0o710, owner, drop),
            (("pid",), 0o755, -1, -1),
        ):
            for name in names:
                path = self.base / "queue" / name
                path.mkdir()
                path.chmod(mode)
                os.chown(path, user, group)

    def settle(self) -> None:
        """Make the configuration look ten seconds old.

        Every program of Postfix waits for seconds while main.cf is younger than that.
        """
        for path in self.config_dir.iterdir():
            if path.is_file():
                past = time.time() - 10
                os.utime(path, (past, past))

    def set(self, **parameters: str) -> None:
        """Set *parameters* in main.cf, as an administrator would."""
        self.postconf("-e", *(f"{name}={value}" for name, value in parameters.items()))
        self.settle()

    def postconf(self, *args: str) -> str:
        """Return what ``postconf`` prints about this instance."""
        return self._run("postconf", *args).stdout

    def _run(self, program: str, *args: str) -> "subprocess.CompletedProcess[str]":
        done = self.command(program, *args)
        if done.returncode:
            raise LabError(f"{program} {args} failed: {done.stderr}\n{self.log()}")
        return done

    def command(self, program: str, *args: str) -> "subprocess.CompletedProcess[str]":
        """Run a program of Postfix on this instance; whether it fails is a result."""
        return subprocess.run(
            [program, "-c", str(self.config_dir), *args],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=_ENVIRONMENT,
            timeout=60,
        )

    # Life and death

    def __enter__(self) -> "PrivatePostfix":
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop and give back the ports."""
        self.stop()
        self._claimed.release()

    def start(self) -> None:
        """Start and wait until all three services answer."""
        self.start_quickly()
        self._run("postfix", "start")
        wait_until(self._answers, "Postfix answers")

    def start_quickly(self) -> None:
        """Spare the next start the second in which it checks what `_configure` made.

        The script behind postfix(1) does so after ``postfix quick-stop``.
        """
        (self.base / "queue/quick-start").touch()

    def _answers(self) -> bool:
        return all(map(accepts, self.ports.values())) and all(
            map(_greets, (self.ports["smtp"], self.ports["submission"]))
        )

    def reload(self) -> None:
        """Reload, as an administrator would; return when its master has done so.

        `postfix reload` only signals it: clients that are quicker meet old processes.
        """
        before = self._queue_managers()
        self._run("postfix", "reload")
        if before:
            # The old qmgr(8) may take the wakeup that would start the new one; by then,
            # master has long read its files.
            with contextlib.suppress(LabError):
                wait_until(
                    lambda: not self.running or bool(self._queue_managers() - before),
                    "Postfix has read its files anew",
                    seconds=5,
                )

    def _queue_managers(self) -> frozenset[str]:
        """Return the processes of qmgr(8): each generation starts another one."""
        children = Path(f"/proc/{self.master_pid}/task/{self.master_pid}/children")
        managers = []
        with contextlib.suppress(OSError):
            for child in children.read_text().split():
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{child}/comm").read_text() == "qmgr\n":
                        managers.append(child)
        return frozenset(managers)

    def stop(self) -> None:
        """Stop whatever runs; return when every process is gone."""
        # `postfix stop` does the same, and then sleeps for a second.
        master = self.master_pid
        if master is None:
            return
        os.kill(master, signal.SIGTERM)
        try:
            wait_until(lambda: not self.running, "Postfix has stopped")
        finally:
            # The master leads the group of all its daemons.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(master, signal.SIGKILL)

    @property
    def master_pid(self) -> int | None:
        """The master process and leader of the group of all others, if it runs."""
        try:
            pid = int((self.base / "queue/pid/master.pid").read_text())
            program = Path(f"/proc/{pid}/exe").readlink()
        except (OSError, ValueError):
            return None
        return pid if program.name == "master" else None

    @property
    def running(self) -> bool:
        """Tell whether the master process runs."""
        return self.master_pid is not None

    # Observations

    def log(self) -> str:
        """Return the mail log, with all that was logged until now."""
        if self.running:
            self.flush_log()
        lines = self._log().splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith(_MARK))

    def flush_log(self) -> None:
        """Return when postlogd(8) has written what was sent to it so far.

        It takes one datagram after the other, and writes each as it is.
        """
        mark = f"{_MARK} {next(_marks)}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as logger:
            try:
                logger.sendto(mark.encode(), str(self.base / "queue/public/postlog"))
            except OSError:
                return  # it has just been stopped
        wait_until(lambda: f"{mark}\n" in self._log(), "the mail log is written")

    def _log(self) -> str:
        return self.maillog.read_text() if self.maillog.exists() else ""

    def await_log(self, text: str) -> None:
        """Wait until the mail log has *text*: postlogd(8) writes it after the event."""
        wait_until(lambda: text in self.log(), f"the mail log has {text!r}")

    def snapshot(self) -> dict[str, Entry]:
        """Return all there is in the configuration directory, itself included."""
        return snapshot(self.config_dir)

    def served(
        self, service: str = "smtp", *, sni: str | None = None, client: str = LOOPBACK
    ) -> x509.Certificate:
        """Return the leaf that a new connection to *service* gets, trusted or not.

        It comes from the address *client*.
        """
        port = self.ports[service]
        return shown(port, sni=sni, client=client, wrapped=service == "submissions")


def shown(
    port: int, *, sni: str | None = None, client: str = LOOPBACK, wrapped: bool = False
) -> x509.Certificate:
    """Return the leaf that *port* shows, by STARTTLS unless it is *wrapped*."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connect = _connect if wrapped else _start_tls
    with (
        connect(port, client) as plain,
        context.wrap_socket(plain, server_hostname=sni) as session,
    ):
        der = session.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der)


def snapshot(directory: Path) -> dict[str, Entry]:
    """Return all there is in *directory*, by relative path, itself included as "."."""
    return {
        str(path.relative_to(directory)): _entry(path)
        for path in (directory, *sorted(directory.rglob("*")))
    }


def copy(source: Path, target: Path) -> None:
    """Copy a file or a tree with owners and modes."""
    subprocess.run(["cp", "-a", source, target], check=True)  # shutil loses the owner


def restore(saved: Path, live: Path) -> None:
    """Make *live* the same as *saved*, whose files a running Postfix never misses."""
    there, wanted = snapshot(live), snapshot(saved)
    for name in sorted(there.keys() - wanted.keys(), reverse=True):
        path = live / name
        path.rmdir() if there[name].kind == "directory" else path.unlink()
    for name, entry in wanted.items():
        if there.get(name) == entry:
            continue
        if entry.kind == "directory":
            (live / name).mkdir(exist_ok=True)
            (live / name).chmod(entry.mode)
        else:
            new = live / f"{name}.restored"
            copy(saved / name, new)
            new.replace(live / name)


def _entry(path: Path) -> Entry:
    status = path.lstat()
    content: bytes | str | None = None
    if stat.S_ISREG(status.st_mode):
        kind, content = "file", path.read_bytes()
    elif stat.S_ISLNK(status.st_mode):
        kind, content = "link", str(path.readlink())
    else:
        kind = "directory" if stat.S_ISDIR(status.st_mode) else "special"
    return Entry(
        kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, content
    )


@functools.cache
def _snake_oil() -> pki.Issued:
    return pki.self_signed(SNAKE_OIL, pki.generate_key("rsa"))


def _without(template: str, settings: str) -> str:
    """Return the lines of *template* that *settings* do not set again."""
    names = {line.split(" =")[0] for line in settings.splitlines()}
    return "".join(
        line
        for line in template.splitlines(keepends=True)
        if line.split("=")[0].strip() not in names
    )


def _master(template: str) -> str:
    """Return master.cf without services on inet and without chroot."""
    lines = template.splitlines(keepends=True)
    return "".join(
        # The fifth field of an entry; continuation lines and comments have none.
        re.sub(r"^((?:[^#\s]\S*\s+)(?:\S+\s+){3})\S+", r"\1n", line)
        for line in lines
        if not re.match(r"[^#\s]\S*\s+inet\s", line)
    )


def _connect(port: int, client: str = LOOPBACK) -> socket.socket:
    return socket.create_connection(
        (LOOPBACK, port), timeout=10, source_address=(client, 0)
    )


def _start_tls(port: int, client: str) -> socket.socket:
    session = smtplib.SMTP(
        LOOPBACK,
        port,
        local_hostname="lab.example.org",
        timeout=10,
        source_address=(client, 0),
    )
    session.ehlo()
    code, reply = session.docmd("STARTTLS")
    if code != 220 or session.sock is None:
        session.close()
        raise LabError(f"STARTTLS on port {port} was answered by {code} {reply!r}")
    return session.sock


def _greets(port: int) -> bool:
    try:
        with _connect(port) as connection:
            return connection.recv(3) == b"220"
    except OSError:
        return False
