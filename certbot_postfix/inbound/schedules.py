"""What renews certificates on this machine by itself: timers of systemd, and cron.

Each environment of Python has a certbot with plugins of its own, the snap another one.
What is searched is described in systemd.unit(5), crontab(5) and cron(8).  Reads files,
starts no program; what cannot be read is unknown.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from certbot_postfix.errors import Error
from certbot_postfix.inbound import renewal_settings
from certbot_postfix.system import files
from certbot_postfix.system.directories import real

_UNITS = (
    "etc/systemd/system",
    "run/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
)
_CRON = ("etc/cron.d", "etc/cron.daily", "etc/cron.weekly", "var/spool/cron/crontabs")
_PATH = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "snap/bin")
_LIBRARIES = ("lib/python3*/*-packages", "local/lib/python3*/*-packages")

# cron's entry of Debian leaves the work to systemd with this condition.
_UNLESS_SYSTEMD = re.compile(r"!\s*-d\s+/run/systemd/system")

_SNAP = re.compile(r"\bsnap\s+run\b.*\bcertbot\.renew\b")
_CERTBOT = re.compile(r"""([^\s'"();&|]*certbot)\s(?:[^;&|]*\s)?renew\b""")
_PYTHON = re.compile(r"(/\S+)/bin/python[\d.]*\b")


@dataclass(frozen=True, slots=True)
class Schedule:
    """A *place* whose *command* renews with *program*, which may lack this plugin."""

    place: str
    command: str
    program: Path
    without_plugin: bool

    @property
    def problem(self) -> Error | None:
        """What is wrong if certbot deploys by its installer; a hook does without it."""
        if not self.without_plugin or renewal_settings.runs_deploy(self.command):
            return None
        end = f"remove the entry for certbot in {self.place}"
        if self.place.endswith(".timer"):
            end = f"systemctl disable --now {self.place}"
        return Error(
            f"{self.place} renews with {self.program}, which does not have this plugin:"
            " the renewed certificates do not reach Postfix, and certbot's renewal"
            f" configuration loses `installer = {renewal_settings.INSTALLER}`",
            hint=f"{end}, and run `{sys.prefix}/bin/certbot renew -q` twice a day in"
            " its place",
        )


def obstacles(
    config_dir: Path, name: str, options: Sequence[str], installer: str
) -> Iterator[Error]:
    """Yield why renewals of the lineage *name* will not reach Postfix.

    *options* are the words that a command of certbot needs besides.
    """
    settings = renewal_settings.RenewalReader(config_dir, installer).read(name)
    if not settings or settings.hooked:
        return
    if not settings.installer:
        yield renewal_settings.missing(name, settings.path, options, installer)
    yield from filter(None, (schedule.problem for schedule in read(config_dir)))


def read(config_dir: Path, root: Path = Path("/")) -> tuple[Schedule, ...]:
    """Return what renews the lineages in certbot's directory *config_dir*."""
    usual = real(config_dir) == real(root / "etc/letsencrypt")
    commands = [*_timers(root), *_cron_jobs(root)]
    return tuple(
        schedule
        for place, command in commands
        if usual or str(config_dir) in command
        for schedule in _schedules(place, command, root)
    )


def _schedules(place: str, command: str, root: Path) -> Iterator[Schedule]:
    if _SNAP.search(command):
        yield Schedule(place, command, root / "snap/bin/certbot", without_plugin=True)
    elif match := _CERTBOT.search(command):
        program = _program(match[1], root)
        prefix = _prefix(program)
        if program.name == "snap" or (prefix and not _has_plugin(prefix, root)):
            yield Schedule(place, command, program, without_plugin=True)
        elif prefix:
            yield Schedule(place, command, program, without_plugin=False)


def _timers(root: Path) -> Iterator[tuple[str, str]]:
    if not (root / "run/systemd/system").is_dir():
        return
    for timer in sorted(root.glob("etc/systemd/system/*.wants/*.timer")):
        masked = root / _UNITS[0] / timer.name
        if masked.is_symlink() and str(masked.readlink()) == "/dev/null":
            continue
        command = ""
        for line in _service(timer.stem, root):
            key, _, value = line.partition("=")
            if key.strip() == "ExecStart":  # an empty one takes back those before
                command = f"{command}; {value}" if value.strip() else ""
        yield timer.name, command.removeprefix("; ")


def _service(name: str, root: Path) -> Iterator[str]:
    for directory in _UNITS:
        if text := _text(root / directory / f"{name}.service"):
            yield from text.splitlines()
            break
    for directory in reversed(_UNITS):
        for path in sorted((root / directory / f"{name}.service.d").glob("*.conf")):
            yield from _text(path).splitlines()


def _cron_jobs(root: Path) -> Iterator[tuple[str, str]]:
    systemd = (root / "run/systemd/system").is_dir()
    paths = [root / "etc/crontab"]
    for directory in _CRON:
        paths += sorted((root / directory).glob("*"))
    for path in paths:
        for line in _text(path).splitlines():
            asleep = systemd and _UNLESS_SYSTEMD.search(line.replace("\\", ""))
            if not line.lstrip().startswith("#") and not asleep:
                yield str(Path("/", path.relative_to(root))), line


def _program(word: str, root: Path) -> Path:
    """Return the program that a shell starts for *word*."""
    paths = [root / word.lstrip("/")]
    if "/" not in word:
        paths = [root / directory / word for directory in _PATH]
    return real(next((path for path in paths if path.exists()), paths[-1]))


def _prefix(program: Path) -> Path | None:
    """Return where the environment of *program*, a script of Python, is."""
    match = _PYTHON.search(_text(program)[:500])
    return Path(match[1]) if match else None


def _has_plugin(prefix: Path, root: Path) -> bool:
    if real(prefix) == real(Path(sys.prefix)):
        return True
    inside = root / prefix.relative_to("/")
    return any(
        any(directory.glob("*certbot_postfix*"))
        for library in _LIBRARIES
        for directory in inside.glob(library)
    )


def _text(path: Path) -> str:
    try:
        return files.read(path).decode(errors="replace")
    except Error:
        return ""
