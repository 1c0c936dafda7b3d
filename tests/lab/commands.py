"""certbot and ``certbot-postfix`` as cron would run them, without what imports cost.

A third of what a run of them takes is Python's, which imports the same modules each
time.  With `spare_imports`, one process for each program has them imported, and forks
for each run: that then runs the program's own script.  It has imported what the program
imports whenever it starts (its entry point, and for certbot its plugins), and what the
product imports where it is needed.  How a process is called in /proc, and what it would
import from elsewhere because of its environment, is all that is different.

As a script, ``python commands.py SOCKET SCRIPT MODULE``, this is that process.
"""

import atexit
import functools
import gc
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

Done = subprocess.CompletedProcess[str]

_MODULES = {"certbot": "certbot.main", "certbot-postfix": "certbot_postfix.cli"}

# What the product imports of others, where it is needed.
_LATER = ("dns.dnssec", "dns.resolver", "dns.tsig", "dns.update")

# What is read when it is needed.  Of all else in an environment, Python or a module may
# take note when it starts, so that has to be the usual one.
_READ_LATER = {
    *("HOME", "PATH", "TMPDIR", "REQUESTS_CA_BUNDLE"),
    *("RENEWED_LINEAGE", "RENEWED_DOMAINS"),
}
_USUAL = {"LANG": "C"}

_spared: set[str] = set()


def spare_imports(*scripts: Path) -> None:
    """From now on, have `run` fork for these *scripts*, whose code does not change."""
    _spared.update(map(str, scripts))


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    timeout: float = 120,
    inside: str = "",
) -> Done:
    """Run *argv* without a terminal; whether it fails is a result.

    With *inside*, that is in the network and among the mounts of this process.
    """
    if argv[0] in _spared:
        rest = {name: env[name] for name in env.keys() - _READ_LATER}
        if rest in ({}, _USUAL):
            return _parent(argv[0]).run(argv, env, timeout, inside)
    entered = ["nsenter", "-t", inside, "--net", "--mount", f"--wd={Path.cwd()}"]
    return subprocess.run(
        [*(entered if inside else []), *argv],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=env,
        timeout=timeout,
        start_new_session=True,  # no terminal to ask on
    )


class _Parent:
    """The process that forks for each run of *script*."""

    def __init__(self, script: str) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        python = Path(script).read_text().partition("\n")[0].removeprefix("#!").strip()
        module = _MODULES[Path(script).name]
        with theirs:
            self._process = subprocess.Popen(
                [python, __file__, str(theirs.fileno()), script, module],
                stdin=subprocess.DEVNULL,
                env={**_USUAL, "HOME": "/nonexistent"},
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self._end)

    def _end(self) -> None:
        self._socket.close()  # at which it ends
        self._process.wait()

    def run(
        self, argv: Sequence[str], env: Mapping[str, str], timeout: float, inside: str
    ) -> Done:
        request = json.dumps([list(argv), dict(env), str(Path.cwd()), inside])
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            with theirs:
                passed = (theirs.fileno(), out.fileno(), err.fileno())
                socket.send_fds(self._socket, [request.encode()], passed)
            ours.settimeout(timeout)
            pid = int(ours.recv(99))
            try:
                status = int(ours.recv(99))
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(list(argv), timeout) from None
            out.seek(0), err.seek(0)
            texts = (each.read().decode() for each in (out, err))
            return subprocess.CompletedProcess(list(argv), status, *texts)


_parent = functools.cache(_Parent)


# The other side


def _serve(control: socket.socket) -> None:
    """Fork whenever that is asked for; return in each process that is to run."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for who reports
    while True:
        request, passed, *_ = socket.recv_fds(control, 1 << 20, 3)
        if not request:
            os._exit(0)
        if not os.fork():
            break
        for each in passed:
            os.close(each)
    control.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    reply, *outputs = passed
    pid = os.fork()
    if pid:
        with socket.socket(fileno=reply) as ours:
            ours.send(str(pid).encode())
            _, status = os.waitpid(pid, 0)
            ours.send(str(os.waitstatus_to_exitcode(status)).encode())
        os._exit(0)
    os.close(reply)
    for number, each in enumerate(outputs, 1):
        os.dup2(each, number)
        os.close(each)
    _become(*json.loads(request))


def _become(argv: list[str], env: dict[str, str], cwd: str, inside: str) -> None:
    os.setsid()
    # Python says so itself when the language is C (PEP 538).
    said = {name: text for name, text in os.environ.items() if name == "LC_CTYPE"}
    os.environ.clear()
    os.environ.update({**said, **env})
    for name in ("net", "mnt") if inside else ():
        descriptor = os.open(f"/proc/{inside}/ns/{name}", os.O_RDONLY)
        if _LIBC.setns(descriptor, 0):
            raise OSError(f"cannot enter the namespace {name} of {inside}")
        os.close(descriptor)
    os.chdir(cwd)
    sys.argv = argv
    # Only a process that has imported certbot itself cleans up when it ends.
    util = import_module("certbot.util")
    assert hasattr(util, "_INITIAL_PID")
    util._INITIAL_PID = os.getpid()


def _main(number: str, script: str, module: str) -> None:
    sys.path[0] = str(Path(script).parent)
    import_module(module)
    if module == _MODULES["certbot"]:
        for each in entry_points(group="certbot.plugins"):
            each.load()
    product = import_module("certbot_postfix")
    for found in pkgutil.walk_packages(product.__path__, f"{product.__name__}."):
        import_module(found.name)
    for name in _LATER:
        import_module(name)
    gc.freeze()  # what is there already is not copied when somebody collects
    _serve(socket.socket(fileno=int(number)))
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    import ctypes

    _LIBC = ctypes.CDLL(None)
    _main(*sys.argv[1:])
