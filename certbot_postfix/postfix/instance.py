"""One Postfix instance: its programs, its parameters, its services, its state.

Postfix's own programs parse and edit the configuration; nothing here reads main.cf or
master.cf.  Raises `ProgramError`, `MisconfiguredError` or `MissingError`.  The formats
are those of postconf(1), master(5) and postfix(1).
"""

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
from certbot_postfix.postfix import postconf, postmap, processes
from certbot_postfix.postfix.configuration import Configuration, version
from certbot_postfix.postfix.manager import Manager
from certbot_postfix.system import files, openssl_conf
from certbot_postfix.system.directories import real
from certbot_postfix.system.programs import NO_REASON, TIMEOUT, Done, complaints, run

OLDEST = (2, 11)


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
        output = run([postconf, "-c", "/", "-dh", "config_directory"]).stdout.strip()
        named, usual = real(Path(directory or output)), Path(output)
        chosen = usual if named == real(usual) else named
        return cls(chosen, postconf=postconf, postfix=postfix)

    @property
    def main_cf(self) -> Path:
        """The file that holds the parameters, behind all symbolic links."""
        return real(self.directory / "main.cf")

    def at(self, directory: Path) -> "Postfix":
        """Return the instance that the same programs see in *directory*."""
        return Postfix(directory, postconf=self.postconf, postfix=self.postfix)

    def read(self) -> Configuration:
        """Read the whole configuration.

        Raises `MisconfiguredError` with Postfix's own words if it cannot,
        `MissingError` if this Postfix is too old or has no TLS.
        """
        # -d does not read main.cf, whose mail_version may be anything.
        defaults = postconf.pairs(self._query("-d"))
        if version(defaults.get("mail_version", "")) < OLDEST:
            raise MissingError(
                f"Postfix {defaults.get('mail_version', 'of unknown version')} is too"
                f" old: {OLDEST[0]}.{OLDEST[1]} is the oldest that can be configured"
            )
        return Configuration(
            directory=self.directory,
            defaults=defaults,
            explicit=self.explicit(),
            values=postconf.pairs(self._query("-x")),
            services=postconf.services(
                self._query("-M"), self._query("-P"), self._query("-Px")
            ),
            tls_library=self._tls_library(version(defaults["mail_version"])),
            ca_bundle=_ca_bundle(),
            openssl_conf=openssl_conf.with_settings(),
        )

    def read_again(self, configuration: Configuration) -> Configuration:
        """Return *configuration* after a change of main.cf: what that may change."""
        services = configuration.services
        if any(
            "$" in text for service in services for text in service.written.values()
        ):
            overrides = postconf.by_service(self._query("-Px"))
            services = tuple(
                replace(
                    service,
                    overrides=postconf.of_names(
                        overrides.get(str(service), {}), service.written
                    ),
                )
                for service in services
            )
        return replace(
            configuration,
            explicit=self.explicit(),
            values=postconf.pairs(self._query("-x")),
            services=services,
        )

    def explicit(self) -> dict[str, str]:
        """Return what main.cf says; raises `MisconfiguredError` if that fails."""
        explicit = postconf.pairs(self._query("-n"))
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
        return postmap.write([*self._postmap(), *arguments], text, timeout)

    def answers(
        self, table: str, keys: Collection[str], *, timeout: float = TIMEOUT
    ) -> dict[str, str]:
        """Return what any *table* has for those *keys* that it has.

        One of server names has names of files, or copies of the files, in base64:
        private keys.
        """
        return postmap.answers(self._postmap(), table, keys, timeout)

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
        processes.refuse_taken_ports(configuration, process)

    def refuse_elsewhere(self, configuration: Configuration) -> None:
        """Raise `MisconfiguredError` if what runs does not read this configuration."""
        if (elsewhere := processes.elsewhere(configuration)) and self.running():
            raise MisconfiguredError(
                f"Postfix was started with {elsewhere} and does not read"
                f" {self.directory}: no changes were made",
                hint=f"name {elsewhere} as Postfix's configuration directory, or stop"
                f" Postfix and start it with {self.directory}",
            )

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
        if (done := self._control(verb)).returncode:
            raise ProgramError(
                f"postfix {verb} failed for {self.directory}: {self._reason(done)}",
                hint="look at the end of the mail log",
            )

    def _reason(self, done: Done) -> str:
        """Return why postfix(1) failed.

        Up to 3.7 it tells that to a terminal only.  What it dislikes of main.cf, every
        program dislikes: this one says so, and reads nothing else.
        """
        reason = complaints(done)
        if "fatal: " not in reason:
            with suppress(ProgramError):  # it is not there
                query = run([*self._postmap(), "-q", "x", "static:y"], check=False)
                reason = complaints(query) or reason
        return reason or NO_REASON

    def _postmap(self) -> list[str]:
        self._refuse_special()
        program = str(Path(self.postconf).with_name("postmap"))
        return [program, "-c", str(self.directory)]

    def _refuse_special(self) -> None:
        """Raise `MisconfiguredError` where Postfix's programs would wait for ever."""
        for path in (self.directory / "main.cf", self.directory / "master.cf"):
            if files.is_special(path):
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
                hint="fix it, or undo the last installation:"
                " certbot rollback -i postfix"
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


def _ca_bundle() -> Path | None:
    candidates = (
        "/etc/ssl/certs/ca-certificates.crt",  # Debian, Arch, Gentoo
        "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
        "/etc/ssl/ca-bundle.pem",  # SUSE
        "/etc/ssl/cert.pem",  # Alpine, BSD
    )
    return next((Path(path) for path in candidates if Path(path).is_file()), None)
