"""Several instances of Postfix on one machine, as postmulti(1) manages them.

The first of them is by definition the one in the directory that is compiled into
Postfix.  So every program of a `Family` runs in a mount namespace of its own, in which
a private directory is in that place, mount_namespaces(7): the machine's own files stay
out of sight, and nothing outside sees the private ones there.
"""

import contextlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.lab.certbot import COMMAND, Certbot
from tests.lab.commands import Done, run
from tests.lab.machine import LabError, wait_until
from tests.lab.postfix import PrivatePostfix

FIRST = Path("/etc/postfix")
"""Where postmulti(1) wants the first instance: Debian's compiled-in directory."""

_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
_ENTER = f'mount --bind "$0" {FIRST} && exec "$@"'
_FOREVER = ("sleep", "infinity")

# All else is what programs of Postfix look for in the first directory.
_OWN = ("main.cf", "master.cf")


def obstacle() -> str:
    """Return why there can be no `Family` on this machine, or nothing."""
    if os.geteuid() != 0:
        return "only root may mount"
    if not FIRST.is_dir() or not shutil.which("unshare"):
        return f"there is no {FIRST}, or no unshare(1)"
    done = subprocess.run(
        _inside(FIRST, "true"), check=False, capture_output=True, text=True
    )
    if done.returncode:
        return f"there are no mount namespaces here: {done.stderr.strip()}"
    return ""


def _inside(directory: Path, *command: str) -> list[str]:
    """Return what runs *command* where *directory* is in the place of `FIRST`."""
    return ["unshare", "--mount", "sh", "-c", _ENTER, str(directory), *command]


class Instance(PrivatePostfix):
    """A member of *family*, with its files below *base*."""

    def __init__(self, family: "Family", base: Path, hostname: str) -> None:
        base.mkdir()
        self.family = family
        super().__init__(base, hostname=hostname)

    @property
    def directory(self) -> Path:
        """The configuration directory as programs of the family see it."""
        return FIRST if self is self.family.first else self.config_dir

    @property
    def reloads(self) -> int:
        """How often it was reloaded, as far as it has logged that."""
        return len(re.findall(r"/master\[\d+\]: reload -- version", self.log()))

    def rest(self) -> None:
        """Return when no daemon is starting, which would read main.cf.

        One that cannot read it dies, and its service is down for a minute.
        """
        wait_until(lambda: not self._starting(), f"all is quiet in {self.directory}")

    def _starting(self) -> bool:
        master = self.master_pid
        if master is None:
            return False
        children = Path(f"/proc/{master}/task/{master}/children").read_text()
        # It gives up root when it has read all that it reads.
        return any("0" in _users(int(child)) for child in children.split())

    def wait(self) -> None:
        """Return when all three services answer."""
        wait_until(self._answers, f"Postfix in {self.directory} answers")

    def command(self, program: str, *args: str) -> "subprocess.CompletedProcess[str]":
        """Run a program of Postfix on this instance; whether it fails is a result."""
        return self.family.run(program, "-c", str(self.directory), *args)


def _users(process: int) -> list[str]:
    """Return the numbers of the users as whom *process* runs: proc(5)."""
    with contextlib.suppress(OSError):  # it has ended
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("Uid:"):
                return line.split()[1:]
    return []


class Family:
    """Two instances below *base*: `first`, and `second`, which it may know of.

    They are not yet each other's until `create` was called, or `write`.
    """

    NAME = "postfix-second"

    def __init__(self, base: Path) -> None:
        self.first = Instance(self, base / "first", "mx.example.org")
        self.second = Instance(self, base / "second", "out.example.org")
        self.members = (self.first, self.second)
        for path in FIRST.iterdir():
            if path.is_dir():
                shutil.copytree(path, self.first.config_dir / path.name)
            elif path.name not in _OWN:
                shutil.copy2(path, self.first.config_dir / path.name)

        self._process = subprocess.Popen(_inside(self.first.config_dir, *_FOREVER))
        self.home = str(self._process.pid)
        known_by = Path(f"/proc/{self.home}/cmdline")
        wait_until(
            lambda: known_by.read_text().split("\0")[:2] == [*_FOREVER],
            "the family has a home",
        )

    def inside(self, *command: str) -> list[str]:
        """Return the command that runs *command* where the family is at home."""
        entered = ["nsenter", "-t", self.home, "--mount", f"--wd={Path.cwd()}"]
        return [*entered, *command]

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run *command* there; whether it fails is a result."""
        return subprocess.run(
            self.inside(*command),
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=_ENVIRONMENT,
            timeout=60,
        )

    def postmulti(self, *args: str) -> str:
        """Return what ``postmulti`` prints."""
        done = self.run("postmulti", *args)
        if done.returncode:
            logs = "\n".join(each.log() for each in self.members)
            raise LabError(f"postmulti {args} failed: {done.stderr}\n{logs}")
        return done.stdout

    def create(self) -> None:
        """Have postmulti(1) make the two a family.

        What is in the directories of the second stays, as if it were imported.
        """
        self.postmulti("-e", "init")
        self.settle()  # or each further program waits for seconds
        places = {
            "config_directory": self.second.config_dir,
            "queue_directory": self.second.base / "queue",
            "data_directory": self.second.base / "data",
        }
        given = (f"{name}={path}" for name, path in places.items())
        self.postmulti("-e", "create", "-I", self.NAME, *given)
        self.postmulti("-e", "enable", "-i", self.NAME)
        self.settle()

    def write(self) -> None:
        """Write what `create` writes, but without the seconds for which it waits."""
        self.first.set(
            multi_instance_wrapper="${command_directory}/postmulti -p --",
            multi_instance_enable="yes",
            multi_instance_directories=str(self.second.config_dir),
        )
        self.second.set(multi_instance_name=self.NAME, multi_instance_enable="yes")

    def settle(self) -> None:
        """Make the configurations look old: see `PrivatePostfix.settle`."""
        for each in self.members:
            each.settle()

    def start(self) -> None:
        """Start both, and wait until all of their services answer."""
        for each in self.members:
            each.start_quickly()
        self.postmulti("-p", "start")
        for each in self.members:
            each.wait()

    def close(self) -> None:
        """Stop what runs and give back the ports."""
        for each in self.members:
            each.close()
        self._process.kill()
        self._process.wait()


class CertbotInside(Certbot):
    """certbot, and the command certbot-postfix, where *family* is at home."""

    def __init__(self, base: Path, family: Family, **options: object) -> None:
        super().__init__(base, **options)
        self.family = family

    def argv(self, *args: str) -> list[str]:
        """Return the whole command that stands behind ``certbot ARGS``."""
        return self.family.inside(*super().argv(*args))

    def command(self, *args: str) -> list[str]:
        """Return the whole command that stands behind ``certbot-postfix ARGS``."""
        return self.family.inside(*self._ours(*args))

    def _ours(self, *args: str) -> list[str]:
        return [str(COMMAND), "--config-dir", str(self.config_dir), *args]

    def __call__(self, *args: str, timeout: float = 120) -> Done:
        """Run ``certbot ARGS``; whether it fails is a result."""
        return self._run(super().argv(*args), timeout)

    def run_command(self, *args: str) -> Done:
        """Run ``certbot-postfix ARGS``; whether it fails is a result."""
        return self._run(self._ours(*args))

    def _run(self, argv: list[str], timeout: float = 120) -> Done:
        home = self.family.home
        return run(argv, env=self.environment, timeout=timeout, inside=home)
