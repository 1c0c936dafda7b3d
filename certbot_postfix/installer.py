"""certbot's Installer and RenewDeployer, an adapter: it decides nothing.

certbot loads this module on every run, so it imports little; the contract is that of
`certbot.interfaces`.  What its calls come to depends on those before:

phase       after                           restart()   rollback_checkpoints(n) restores
NEW         __init__()                      -           -
READY       prepare()                       refresh     n
RECOVERED   prepare() undid a killed run    refresh     n - 1
DEPLOYING   deploy_cert()                   serve       0
WRITTEN     save() finished a checkpoint    serve       n
UNDONE      files were restored             restored    n
RENEWED     renew_deploy()                  -           n
UNCHANGED   there was nothing to roll back  -           n

*refresh* brings all that is deployed up to date, *serve* verifies what was installed,
*restored* verifies what was there before.  After a failed deployment certbot rolls the
newest checkpoint back, whoever made it: one of another run stays (DEPLOYING).
"""

import contextlib
import enum
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from certbot import errors, interfaces, util
from certbot.display import util as display_util
from certbot.plugins import common
from certbot.plugins import util as plugin_util

from certbot_postfix import options
from certbot_postfix.errors import BusyError, Error, MissingError, named_logger, shown

if TYPE_CHECKING:
    from certbot_postfix.inbound.lineage import Lineage
    from certbot_postfix.inbound.proposal import Proposal
    from certbot_postfix.inbound.session import Deployment

logger = named_logger(__name__)

# With these, certbot goes on without an installer whose prepare() raises, and for two
# of them forgets it in the renewal configuration: a certificate would be renewed, but
# never again deployed.  So the error waits until there is something to deploy.
_DEFERRING = ("certonly", "renew", "rollback")

# Our map of outbound policies; its name is that of `outbound.policy_map`.
POLICY_MAP = "certbot_tls_policy"

# The instances whose policies this process has refreshed.
_refreshed: set[Path] = set()


class Phase(enum.Enum):
    """What certbot has called so far: see the table above."""

    NEW = enum.auto()
    READY = enum.auto()
    RECOVERED = enum.auto()
    DEPLOYING = enum.auto()
    WRITTEN = enum.auto()
    UNDONE = enum.auto()
    RENEWED = enum.auto()
    UNCHANGED = enum.auto()


class Installer(common.Installer):
    """Deploys certificates into the Postfix mail server."""

    description = (
        "Postfix: install certificates, verify them on every service, keep them current"
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._phase = Phase.NEW
        self._session: Deployment | errors.PluginError | None = None
        self._lineage: Lineage | None = None  # that is to be deployed
        self._proposal: Proposal | None = None  # that was carried out

    @classmethod
    def add_parser_arguments(cls, add: Callable[..., None]) -> None:
        """Declare the options, which docs/reference describes."""
        options.declare(add)

    def more_info(self) -> str:
        """Say what this plugin does."""
        return (
            "Makes Postfix serve the certificate, raises TLS parameters as far as the"
            " profile says, and verifies by a handshake that every service presents it."
        )

    def prepare(self) -> None:
        """Find and lock Postfix, undo an interrupted run, read the configuration."""
        try:
            self._prepare()
        except errors.PluginError as error:
            if getattr(self.config, "verb", None) not in _DEFERRING:
                raise
            logger.debug("postponed until something is to be deployed", exc_info=True)
            self._session = error

    def _prepare(self) -> None:
        if os.geteuid() != 0:
            raise Error(
                "this command must be run as root: it reads private keys and configures"
                " Postfix",
                hint="run certbot as root, for example with sudo",
            )
        self._session = session = self._find()
        # Nobody is there to repeat a renewal; who installs sees what is under way.
        session.lock(patiently=self.config.verb == "renew")
        self._phase = Phase.READY
        if not self.config.dry_run:
            interrupted = Path(self.config.in_progress_dir).is_dir()
            if interrupted:
                logger.warning("undoing what an interrupted run of certbot had begun")
                self.recovery_routine()
            session.remove_leftovers()
            if interrupted and self.config.verb != "rollback":
                self.restart()
            if interrupted:
                self._phase = Phase.RECOVERED
        if self.config.verb != "rollback":
            session.look()

    def _find(self) -> "Deployment":
        for option in ("config-utility", "ctl"):
            program = self.conf(option)
            if not plugin_util.path_surgery(program):
                raise MissingError(
                    f"the program {program} of Postfix was not found",
                    hint=f"install Postfix, or use --{self.option_name(option)}",
                )
        # certbot loads every plugin on every run; few runs come here.
        from certbot_postfix.dane.gate import Settings  # noqa: PLC0415
        from certbot_postfix.inbound.session import Deployment  # noqa: PLC0415
        from certbot_postfix.postfix.instance import Postfix  # noqa: PLC0415
        from certbot_postfix.system.reporter import Reporter  # noqa: PLC0415

        deployment = Deployment(
            Postfix.find(
                self.conf("config-dir"),
                postconf=self.conf("config-utility"),
                postfix=self.conf("ctl"),
            ),
            self._root,
            staging=Path(self.config.work_dir, "postfix"),
            timeout=self.conf("verify-timeout"),
            reporter=Reporter(_notify, None if self.config.quiet else _terminal()),
        )
        deployment.gate.settings = Settings.of(self.conf)
        return deployment

    def get_all_names(self) -> Iterable[str]:
        """Return the public names under which this server is reached."""
        return util.get_filtered_names(self._ready.names())

    def deploy_cert(
        self,
        domain: str,
        cert_path: str,
        key_path: str,
        chain_path: str,
        fullchain_path: str,
    ) -> None:
        """Take note of a certificate, which `save` deploys: of one lineage in a run."""
        self._phase = Phase.DEPLOYING
        if not fullchain_path:
            raise Error(
                f"there is no full chain for {domain}",
                hint="use --fullchain-path, or --cert-name",
            )
        fullchain = Path(fullchain_path)
        managed = fullchain.parent.parent == Path(self.config.live_dir)
        name = fullchain.parent.name if managed else domain
        self._lineage = self._lineage or _lineage(name, key_path, fullchain_path)

    def save(self, title: str | None = None, temporary: bool = False) -> None:
        """Deploy what is pending, as one checkpoint, once certbot names a *title*."""
        if temporary or title is None or not self._lineage:
            return
        from certbot_postfix.change.checkpoint import (  # noqa: PLC0415
            CheckpointInProgress,
        )
        from certbot_postfix.inbound.proposal import DeployOptions  # noqa: PLC0415

        checkpoint = CheckpointInProgress(self)
        policies = self._ready.policies(self.conf)  # what is wrong there is said first
        with self._ready.reporter.step("Checking the new configuration", after=1):
            proposal = self._ready.installation.propose(
                self._lineage, DeployOptions.of(self.conf), policies
            )
            self._ready.refuse_unannounced(proposal)
        self._show(self._lineage.name, proposal)
        self._lineage, self._proposal = None, proposal
        self._ready.installation.apply(proposal, checkpoint)
        if checkpoint.used:
            self.finalize_checkpoint(title)
            self._phase = Phase.WRITTEN

    def _show(self, name: str, proposal: "Proposal") -> None:
        """Show the diff, what is to be known of it, and ask; raise `Error` on a no."""
        _notify(
            proposal.plan.diff()
            or f"{proposal.plan.main_cf.path} is already configured for {name}."
        )
        for warning in proposal.warnings:
            logger.warning("%s", warning)
        for override in proposal.overrides:
            if override.harmless:
                logger.info("%s", override)  # certbot's -v
            elif self.conf("ignore-master-overrides"):
                _notify(f"Note: {override}")
            else:
                logger.warning("%s", override)
        for note in proposal.notes:
            _notify(f"Note: {note}.")
        question = "Apply these changes and reload Postfix?"
        if proposal.plan.empty or display_util.yesno(question, default=True):
            return
        raise Error(
            "Cancelled. No changes were made.",
            hint=f"to install it later: {self._installation(name)}",
        )

    def restart(self) -> None:
        """Make Postfix serve what it should, and verify it."""
        phase, self._phase = self._phase, Phase.READY
        if phase is Phase.UNDONE:
            with _restored():
                self._ready.rollback.activate()
            if self.config.verb == "rollback":
                self._ready.deploy_pending()
        elif phase in (Phase.DEPLOYING, Phase.WRITTEN):
            self._phase = phase
            if self._proposal:
                self._ready.installation.serve(self._proposal)
                self._warn_if_not_deployed(self._proposal.path.stem)
        elif phase not in (Phase.RENEWED, Phase.UNCHANGED):
            self._ready.refresh()

    def _installation(self, name: str) -> str:
        """Return the command that installs the lineage *name* with these options."""
        words = ["certbot", "install", "-i", self.name, "--cert-name", name]
        return shlex.join([*words, *options.given(self.option_name, self.conf)])

    def _warn_if_not_deployed(self, name: str) -> None:
        # `certbot install` does not save its options, so renewals may pass us by.
        from certbot_postfix.inbound import renewal_settings  # noqa: PLC0415
        from certbot_postfix.status import schedules  # noqa: PLC0415

        directory = Path(self.config.config_dir)
        settings = renewal_settings.RenewalReader(directory, self.name).read(name)
        if not settings or settings.hooked:
            return
        if not settings.installer:
            given = options.given(self.option_name, self.conf)
            missing = renewal_settings.missing(name, settings.path, given, self.name)
            logger.warning("%s", missing)
        for schedule in schedules.read(directory):
            if problem := schedule.problem:
                logger.warning("%s", problem)

    def renew_deploy(
        self, lineage: interfaces.RenewableCert, *args: Any, **kwargs: Any
    ) -> None:
        """Put a renewed certificate into service, or leave the old one there."""
        name = lineage.lineagename
        renewed = _lineage(name, lineage.key_path, lineage.fullchain_path)
        with _not_deployed():
            deployed = self._ready.renew(renewed)
        if not deployed:
            _notify(
                f"{name} was renewed, but is not installed in Postfix. To install it:"
                f" {self._installation(name)}"
            )
        self._phase = Phase.RENEWED

    def generic_updates(
        self, lineage: interfaces.RenewableCert, *args: Any, **kwargs: Any
    ) -> None:
        """Deploy a renewal that was missed, and refresh outbound policies.

        certbot calls this for every lineage on every ``renew``, and has not prepared
        the plugin: when there is nothing to do, a few files are read, and no more.
        """
        if not (directory := self._directory()):
            return
        try:
            self._make_up(lineage, directory)
        finally:
            if self._is_time(lineage.lineagename, directory / POLICY_MAP):
                self._refresh_policies(directory)

    def _is_time(self, name: str, policy_map: Path) -> bool:
        """Whether the policies in *policy_map* are refreshed with the lineage *name*.

        That is the last one that certbot renews, so that none waits for sources that
        are slow; or any, if it was not reached for a day, since it cannot be renewed.
        """
        if policy_map.parent in _refreshed or not policy_map.exists():
            return False
        from certbot_postfix.inbound import every_renew  # noqa: PLC0415

        configurations = Path(self.config.renewal_configs_dir)
        now = datetime.now(timezone.utc)
        return (
            bool(self.config.certname)
            or every_renew.is_last(name, configurations, self.name)
            or every_renew.is_overdue(policy_map, self._root, now)
        )

    @property
    def _root(self) -> Path:
        from certbot_postfix.inbound import bundles  # noqa: PLC0415

        return bundles.below(self.config.config_dir)

    def _directory(self) -> Path | None:
        """Return Postfix's directory; None if nothing of ours is there."""
        if self.conf("config-dir"):
            return Path(self.conf("config-dir"))
        from certbot_postfix.inbound import every_renew  # noqa: PLC0415

        postconf = self.conf("config-utility")
        plugin_util.path_surgery(postconf)
        return every_renew.configuration_directory(self._root, postconf)

    def _make_up(self, lineage: interfaces.RenewableCert, directory: Path) -> None:
        from certbot_postfix.dane import gate  # noqa: PLC0415
        from certbot_postfix.inbound import bundles, every_renew  # noqa: PLC0415

        name = lineage.lineagename
        renewed = _lineage(name, lineage.key_path, lineage.fullchain_path)
        pending = Path(self.config.in_progress_dir).is_dir()
        used = bundles.of_lineage(self._root, name, directory)
        for bundle, instance in used:
            self._warn_if_dropped(renewed, bundle, instance)
            pending = pending or renewed.pending_for(bundle, instance)
        if not pending:
            paths, settings = [path for path, _ in used], gate.Settings.of(self.conf)
            now, root = datetime.now(timezone.utc), self._root
            for problem in every_renew.problems_of_records(paths, root, settings, now):
                logger.error("%s", problem)
            return
        self.prepare()
        with _not_deployed():
            self._ready.renew(renewed)

    def _warn_if_dropped(
        self, renewed: "Lineage", bundle: Path, directory: Path
    ) -> None:
        from certbot_postfix.inbound import dropped  # noqa: PLC0415

        if not dropped.unreported(bundle, directory):
            return
        self.prepare()
        if not self._ready.uses(renewed):
            message = dropped.message(bundle, directory, renewed.name, self.name)
            logger.error("%s", message)  # certbot's -q leaves warnings out
        dropped.note_reported(bundle, directory)

    def _refresh_policies(self, directory: Path) -> None:
        """Refresh the policies of the instance in *directory*."""
        _refreshed.add(directory)
        try:
            now = datetime.now(timezone.utc)
            outbound = self._find().outbound
            if not outbound.collector.due(now):
                return
            refreshed = outbound.refresh_sources(now, wait=0)
            self.prepare()
            self._ready.refresh_policies(now, refreshed)
        except BusyError as error:
            logger.debug("policies are refreshed already: %s", error)
        except errors.PluginError as error:  # no renewal has failed
            logger.error("%s", error)  # noqa: TRY400 - it is known why

    def rollback_checkpoints(self, rollback: int = 1) -> None:
        """Undo *rollback* checkpoints, each file in one step; see the table above."""
        count = int(rollback)
        if self._phase is Phase.RECOVERED:
            count -= 1  # what was interrupted was the newest
        newest_first = sorted(Path(self.config.backup_dir).iterdir(), reverse=True)
        nothing = self._phase is Phase.READY and not newest_first[:count]
        if nothing and not self._ready.rollback.unread:
            super().rollback_checkpoints(count)  # says so
            self._phase = Phase.UNCHANGED
            return
        if self._phase is not Phase.DEPLOYING:
            self._ready.rollback.restore(newest_first[:count])
            super().rollback_checkpoints(count)
        self._undo()

    def recovery_routine(self) -> None:
        """Undo what was begun and not finished."""
        in_progress = Path(self.config.in_progress_dir)
        self._ready.rollback.restore([in_progress], interrupted=True)
        super().recovery_routine()
        self._undo()
        if self._proposal and self._ready.installation.written:
            self.restart()

    def _undo(self) -> None:
        self._ready.undo()
        self._phase = Phase.UNDONE

    def config_test(self) -> None:
        """Raise certbot's MisconfigurationError if Postfix finds fault."""
        self._ready.postfix.check()

    def enhance(
        self, domain: str, enhancement: str, options: list[str] | str | None = None
    ) -> None:
        """Raise: the enhancements that certbot knows are for web servers."""
        raise Error(f"Postfix has no {enhancement}, which is for web servers")

    def supported_enhancements(self) -> list[str]:
        """Return none of those that certbot knows."""
        return []

    @property
    def _ready(self) -> "Deployment":
        if isinstance(self._session, errors.PluginError):
            raise self._session
        if self._session is None:
            raise Error("the plugin is not prepared")  # certbot does that first
        return self._session


def _lineage(name: str, key: str, fullchain: str) -> "Lineage":
    from certbot_postfix.inbound.lineage import Lineage  # noqa: PLC0415

    return Lineage(name, Path(key), Path(fullchain))


@contextlib.contextmanager
def _not_deployed() -> Iterator[None]:
    # certbot reports it as a failed renewal, which it is not.
    try:
        yield
    except Error as error:
        error.message = (
            "the certificate was renewed, but could not be installed in Postfix:"
            f" {error.message}"
        )
        raise


@contextlib.contextmanager
def _restored() -> Iterator[None]:
    try:
        yield
    except Error as error:
        error.message = f"the previous files were restored, but {error.message}"
        raise


def _terminal() -> TextIO | None:
    return sys.stdout if sys.stdout.isatty() else None


def _notify(text: str) -> None:
    display_util.notify(shown(text, sys.stdout))


interfaces.RenewDeployer.register(Installer)
interfaces.GenericUpdater.register(Installer)
