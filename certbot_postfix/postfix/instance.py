"""One Postfix instance: its programs, its parameters, its services, its state.

Postfix's own programs parse and edit the configuration; nothing here reads main.cf or
master.cf.  Raises `ProgramError`, `MisconfiguredError` or `MissingError`.  The formats
are those of postconf(1), master(5) and postfix(1).
"""

import math
import re
import shlex
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from certbot_postfix.errors import (
    MisconfiguredError,
    MissingError,
    ProgramError,
    UnusableProgramError,
)
from certbot_postfix.postfix import databases, maps, processes
from certbot_postfix.postfix.configuration import Configuration, Service, version
from certbot_postfix.postfix.manager import Manager
from certbot_postfix.postfix.services import bound
from certbot_postfix.system import listeners
from certbot_postfix.system.programs import (
    NO_REASON,
    TIMEOUT,
    Done,
    complaint,
    complaints,
    run,
)

OLDEST = (2, 11)

# What postmap(1) says of an entry that it leaves out: postmap.c, dict_utf8.c, and the
# dict_*.c of these databases, from 2.11 to 3.12.
_LEFT_OUT = re.compile(
    r"ignoring this line|expected format: key|skipping this entry|duplicate entry"
    r"|non-UTF-8 (?:key|value)"
)

# How it begins when it gives up: msg_vstream.c.
_FATAL = re.compile(r"^\S+: (?:fatal|error|panic): ", re.MULTILINE)


class Postfix:
    """The instance whose configuration is in *directory*.

    A staged copy of the configuration is another instance.
    """

    def __init__(
        self, directory: Path, *, postconf: str = "postconf", postfix: str = "postfix"
    ) -> None:
        self.directory = directory
        self.postconf = postconf
        self.postfix = postfix
        self.manager: Manager | None = None

    @classmethod
    def find(
        cls, directory: str | None, *, postconf: str = "postconf", postfix: str
    ) -> "Postfix":
        """Return the instance in *directory*, or the one that *postconf* takes.

        It has one name, however *directory* is spelled: files there are known by it.
        """
        # A directory without master.cf: a broken one would make even this fail.
        told = run([postconf, "-c", "/", "-dh", "config_directory"]).stdout.strip()
        usual = Path(told)
        wanted = (Path.cwd() / directory).resolve() if directory else usual
        chosen = usual if wanted == usual.resolve() else wanted
        return cls(chosen, postconf=postconf, postfix=postfix)

    @property
    def main_cf(self) -> Path:
        """The file that holds the parameters, behind all symbolic links."""
        return (self.directory / "main.cf").resolve()

    def at(self, directory: Path) -> "Postfix":
        """Return the instance that the same programs see in *directory*."""
        return Postfix(directory, postconf=self.postconf, postfix=self.postfix)

    def read(self) -> Configuration:
        """Read the whole configuration.

        Raises `MisconfiguredError` with Postfix's own words if it cannot,
        `MissingError` if this Postfix is too old or has no TLS.
        """
        # -d does not read main.cf, whose mail_version may be anything.
        defaults = _pairs(self._query("-d"))
        if version(defaults.get("mail_version", "")) < OLDEST:
            raise MissingError(
                f"Postfix {defaults.get('mail_version', 'of unknown version')} is too"
                f" old: {OLDEST[0]}.{OLDEST[1]} is the oldest that can be configured"
            )
        return Configuration(
            directory=self.directory,
            defaults=defaults,
            explicit=self.explicit(),
            values=_pairs(self._query("-x")),
            services=_services(
                self._query("-M"), self._query("-P"), self._query("-Px")
            ),
            tls_library=self._tls_library(version(defaults["mail_version"])),
            ca_bundle=_ca_bundle(),
        )

    def read_again(self, configuration: Configuration) -> Configuration:
        """Return *configuration* after a change of main.cf: what that may change."""
        services = configuration.services
        if any("$" in text for each in services for text in each.written.values()):
            overrides = _by_service(self._query("-Px"))
            services = tuple(
                replace(
                    service,
                    overrides=_of_names(
                        overrides.get(str(service), {}), service.written
                    ),
                )
                for service in services
            )
        return replace(
            configuration,
            explicit=self.explicit(),
            values=_pairs(self._query("-x")),
            services=services,
        )

    def explicit(self) -> dict[str, str]:
        """Return what main.cf says; raises `MisconfiguredError` if that fails."""
        explicit = _pairs(self._query("-n"))
        # postconf -c prints the directory as if main.cf had set it.
        explicit.pop("config_directory", None)
        return explicit

    def value(self, name: str) -> str:
        """Return what is in force for one parameter, when nothing else is needed."""
        return self._query("-xh", name).strip()

    def edit(self, values: Mapping[str, str]) -> None:
        """Set parameters in main.cf, in place where they stand, else at the end."""
        self._run("-e", *(f"{name} = {value}" for name, value in values.items()))

    def comment_out(self, names: Iterable[str]) -> None:
        """Turn the lines of main.cf that set *names* into comments."""
        self._run("-#", *names)

    def remove(self, names: Iterable[str]) -> None:
        """Remove the lines of main.cf that set *names*."""
        self._run("-X", *names)

    def map(self, *arguments: str, text: str = "", timeout: float = TIMEOUT) -> str:
        """Have postmap(1) write a database; it reads *text*.

        Raises `ProgramError` if it fails, or leaves an entry out, which it does with
        exit status 0.  Returns what else it said: notices, such as that a type is
        deprecated, and maybe what no version said yet.
        """
        command = [*self._postmap(), *arguments]
        done = run(command, check=False, text=text, timeout=timeout)
        if done.returncode or _LEFT_OUT.search(done.stderr):
            raise _failed(done)
        return done.stderr.strip()

    def answers(
        self, table: str, keys: Collection[str], *, timeout: float = TIMEOUT
    ) -> dict[str, str]:
        """Return what any *table* has for those *keys* that it has.

        One of server names has names of files, or copies of the files, in base64:
        private keys.
        """
        named = [path for kind, path in maps.files(table) if kind in _OF_FILES]
        for path in named:
            for each in (path, *databases.possible(path)):
                if _is_special(each):
                    raise ProgramError(
                        f"{each}, which {table} names, is not a regular file"
                    )
        asked = "".join(f"{key}\n" for key in sorted(keys))
        command = [*self._postmap(), "-q", "-", table]
        done = run(command, check=False, text=asked, timeout=timeout)
        # 1 is also the exit status where nothing is found; a warning changes no answer.
        failed = (
            done.returncode > 1 or done.returncode < 0 or _FATAL.search(done.stderr)
        )
        # postmap(1) reads on, but Postfix's daemons refuse such a table as a whole.
        if failed or "duplicate entry" in done.stderr:
            raise _failed(done)
        pairs = (line.partition("\t") for line in done.stdout.split("\n"))
        return {key: value for key, _, value in pairs if key in keys}

    def map_types(self) -> set[str]:
        """Return the types of maps that this Postfix supports."""
        return set(self._query("-m").split())

    def check(self) -> None:
        """Let Postfix look at its configuration; raises `MisconfiguredError`."""
        done = self._control("check")
        if done.returncode:
            raise MisconfiguredError(
                f"`postfix check` fails for {self.directory}: {self._reason(done)}",
                hint=f"run: postfix -c {self.directory} check",
            )

    def running(self) -> bool:
        """Whether the master process runs.

        Raises `MisconfiguredError` if Postfix cannot tell: its programs may refuse a
        main.cf that postconf(1) reads, and then nobody can reload what runs.
        """
        if self._control("status").returncode == 0:
            return True
        self.check()
        return False

    def refuse_fatal_reload(self, configuration: Configuration) -> None:
        """Raise `MisconfiguredError` if the master process would die of a reload.

        Take note of who has started it, while it lives.
        """
        process = processes.master(configuration)
        if process is None:
            return
        self.manager = Manager.of(process) or self.manager
        for host, port in listeners.foreign(bound(configuration), process):
            raise MisconfiguredError(
                f"{self.directory}/master.cf wants port {port}"
                f"{f' of {host}' if host else ''}, which another program has taken:"
                " Postfix would die of a reload, so it is not reloaded",
                hint="stop the other program, or take the service out of master.cf",
            )

    def elsewhere(self, configuration: Configuration) -> Path | None:
        """Return the directory with which the Postfix was started that is met here.

        That is the one that runs on the same queue, or else who listens on the same
        addresses.  Returns None if it is this instance, or if that is not known.
        """
        candidates = list(filter(None, [processes.master(configuration)]))
        if not candidates:
            with suppress(MisconfiguredError):  # nobody can listen there
                candidates = listeners.holders(bound(configuration))
        for process in candidates:
            # master(8) hands it down to all its processes.
            if told := listeners.environment(process, "MAIL_CONFIG"):
                return None if _same(Path(told), self.directory) else Path(told)
        return None

    def refuse_elsewhere(self, configuration: Configuration) -> None:
        """Raise `MisconfiguredError` if what runs does not read this configuration."""
        if (there := self.elsewhere(configuration)) and self.running():
            raise MisconfiguredError(
                f"Postfix was started with {there} and does not read {self.directory}:"
                " nothing was changed",
                hint=f"name {there} as Postfix's configuration directory, or stop"
                f" Postfix and start it with {self.directory}",
            )

    def outdated(self, configuration: Configuration, paths: Iterable[Path]) -> bool:
        """Whether a process that serves TLS is older than one of the files *paths*.

        It may have read what was there before.
        """
        process = processes.master(configuration)
        if process is None:
            return False
        started = listeners.started(process, _OF_TLS)
        changed = [path.stat().st_ctime for path in paths if path.exists()]
        # A tick of the clock, to which the kernel rounds down.
        return min(started, default=math.inf) < max(changed, default=0) + 0.01

    def reload(self) -> None:
        """Make every process read the configuration again.

        Success says only that the signal was sent: the master may still die of it.
        """
        self._must("reload")

    def start(self) -> None:
        """Start, by the service manager if it was that which had started Postfix."""
        if self.manager and self.manager.in_charge():
            self.manager.restart()
        else:
            self._must("start")

    def restart(self) -> None:
        """Stop and start: it alone ends the throttling of a service that died.

        See postconf(5), service_throttle_time; a reload was seen not to shorten it.
        """
        self.check()  # or it might not start again
        if not (self.manager and self.manager.in_charge()):
            self._must("stop")
        self.start()

    def _must(self, verb: str) -> None:
        done = self._control(verb)
        if done.returncode:
            raise ProgramError(
                f"postfix {verb} failed for {self.directory}: {self._reason(done)}",
                hint="look at the end of the mail log",
            )

    def _reason(self, done: Done) -> str:
        """Return why postfix(1) failed.

        Up to 3.7 it tells that to a terminal only.  What it dislikes of main.cf, every
        program dislikes: this one says so, and reads nothing else.
        """
        told = complaints(done)
        if "fatal: " not in told:
            with suppress(ProgramError):  # it is not there
                asked = run([*self._postmap(), "-q", "x", "static:y"], check=False)
                told = complaints(asked) or told
        return told or NO_REASON

    def _postmap(self) -> list[str]:
        self._refuse_special()
        postmap = str(Path(self.postconf).with_name("postmap"))
        return [postmap, "-c", str(self.directory)]

    def _refuse_special(self) -> None:
        """Raise `MisconfiguredError` where Postfix's programs would wait for ever."""
        for path in (self.directory / "main.cf", self.directory / "master.cf"):
            if _is_special(path):
                raise MisconfiguredError(f"{path} is not a regular file")

    def _control(self, verb: str) -> Done:
        self._refuse_special()
        return run([self.postfix, "-c", str(self.directory), verb], check=False)

    def _run(self, *arguments: str) -> str:
        self._refuse_special()
        return run([self.postconf, "-c", str(self.directory), *arguments]).stdout

    def _query(self, *arguments: str) -> str:
        try:
            return self._run(*arguments)
        except UnusableProgramError:
            raise
        except ProgramError as error:
            raise MisconfiguredError(
                f"Postfix cannot read its configuration in {self.directory}:"
                f" {error.message}",
                hint="mend it; if a deployment broke it: certbot rollback -i postfix"
                if (self.directory / "main.cf").exists()
                else "is this the configuration directory of Postfix?",
            ) from error

    def _tls_library(self, running: tuple[int, int]) -> str:
        if running < (3, 1):  # postconf(1): -T is available since 3.1
            return ""
        library = self._query("-T", "run-version").strip()
        if not library:
            raise MissingError(
                "this Postfix was built without TLS and cannot serve a certificate"
            )
        return library


def reason(said: str) -> str:
    """Return what postmap(1) *said*, its first line, for a message."""
    return f"said: {said.splitlines()[0]}" if said else "gave no reason"


def _failed(done: Done) -> ProgramError:
    return ProgramError(f"{shlex.join(done.args)} failed: {complaint(done)}")


# The types of tables that are read from a file.
_OF_FILES = frozenset(
    {"texthash", "hash", "btree", "lmdb", "cdb", "dbm", "sdbm", "regexp", "pcre"}
    | {"cidr", "ldap", "mysql", "pgsql", "sqlite", "memcache"}
)


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file()


# Those that read certificates and keys when they start.
_OF_TLS = frozenset({"smtpd", "tlsproxy"})


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # it was moved away, or is not for us to see
        return one == other


def _pairs(text: str) -> dict[str, str]:
    """Read ``name = value`` lines; postconf(1) never folds them without -f."""
    pairs = (line.partition("=") for line in text.split("\n") if "=" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _services(entries: str, written: str, expanded: str) -> tuple[Service, ...]:
    """Return the services; of several entries for one, the last counts."""
    raw, overrides = _by_service(written), _by_service(expanded)
    found: dict[str, Service] = {}
    for line in filter(None, entries.split("\n")):
        # name, type, private, unprivileged, chroot, wakeup, maximum, command
        name, kind, _, _, chroot, _, _, command = line.split(None, 7)
        service = f"{name}/{kind}"
        own, other = raw.get(service, {}), overrides.get(service, {})
        if service in found:
            # postconf -P merges the options of all entries.
            in_force = {one[1] or one[2] for one in _OPTION.finditer(command)}
            own, other = _of_names(own, in_force), _of_names(other, in_force)
        program = command.split(None, 1)[0]
        found[service] = Service(name, kind, program, other, own, chroot)
    return tuple(found.values())


# An option as postconf -M prints it, whichever form it has in master.cf.
_OPTION = re.compile(r"\s-o (?:\{([^=}]+)=[^}]*\}|([^\s={]+)=)")


def _of_names(values: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    return {name: value for name, value in values.items() if name in names}


def _by_service(text: str) -> dict[str, dict[str, str]]:
    """Read ``service/type/name = value`` lines, as -P prints them."""
    found: dict[str, dict[str, str]] = {}
    for key, value in _pairs(text).items():
        service, _, parameter = key.rpartition("/")
        found.setdefault(service, {})[parameter] = value
    return found


def _ca_bundle() -> Path | None:
    candidates = (
        "/etc/ssl/certs/ca-certificates.crt",  # Debian, Arch, Gentoo
        "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
        "/etc/ssl/ca-bundle.pem",  # SUSE
        "/etc/ssl/cert.pem",  # Alpine, BSD
    )
    return next((Path(path) for path in candidates if Path(path).is_file()), None)
