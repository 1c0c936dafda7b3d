"""certbot's Installer and RenewDeployer, an adapter: it decides nothing.

certbot loads this module on every run, so it imports little; the contract is that of
`certbot.interfaces`.
"""

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import certbot
from certbot import errors, interfaces, util
from certbot.display import util as display_util
from certbot.plugins import common
from certbot.plugins import util as plugin_util

from certbot_postfix import options
from certbot_postfix.change.checkpoint import CheckpointInProgress
from certbot_postfix.errors import BusyError, Error, MissingError, named_logger, shown
from certbot_postfix.options import ClientLevel, Profile

if TYPE_CHECKING:
    from certbot_postfix.inbound.install import Deployment, Proposal
    from certbot_postfix.inbound.lineage import Lineage
    from certbot_postfix.outbound.collect import Policies
    from certbot_postfix.outbound.update import Proposal as PolicyProposal

logger = named_logger(__name__)

# With these, certbot goes on without an installer whose prepare() raises, and for two
# of them forgets it in the renewal configuration: a certificate would be renewed, but
# never again deployed.  So the error waits until there is something to deploy.
_DEFERRING = ("certonly", "renew", "rollback")

# Our table of outbound policies, and those that this process has refreshed.
POLICY_TABLE = "certbot_tls_policy"
_refreshed: set[Path] = set()


class Installer(common.Installer):
    """Deploys certificates into the Postfix mail server."""

    description = "Postfix mail server: deploys, proves and renews TLS certificates"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._problem: errors.PluginError | None = None
        self._complaints: set[str] = set()  # what was told already
        self._pending: dict[Path, Lineage] = {}
        self._applied: list[Proposal] = []
        self._applied_policies: PolicyProposal | None = None
        self._deploying = False  # deploy_cert() was called in this run
        self._finalised = False  # this run made a checkpoint
        self._recovered = False  # an interrupted run was undone
        self._undone = False  # files are the old ones, Postfix does not know yet
        self._renewed = False  # renew_deploy() did what restart() is for

    @classmethod
    def add_parser_arguments(cls, add: Callable[..., None]) -> None:
        """Declare the options of README.rst."""
        options.declare(add)

    def more_info(self) -> str:
        """Say what this plugin does."""
        return (
            "Makes Postfix serve the certificate, raises TLS parameters as far as the"
            " profile says, and proves by a handshake that every service shows it."
        )

    def prepare(self) -> None:
        """Find and lock Postfix, undo an interrupted run, read the configuration."""
        try:
            self._prepare()
        except errors.PluginError as error:
            if getattr(self.config, "verb", None) not in _DEFERRING:
                raise
            logger.debug("postponed until something is to be deployed", exc_info=True)
            self._problem = error

    def _prepare(self) -> None:
        if os.geteuid() != 0:
            raise Error(
                "only root may configure Postfix and read certbot's keys",
                hint="run certbot as root, for example with sudo",
            )
        self._deployment = self._find()
        self._lock()
        if not self.config.dry_run:
            interrupted = Path(self.config.in_progress_dir).is_dir()
            if interrupted:
                logger.warning("undoing what an interrupted run of certbot had begun")
                self.recovery_routine()
                self._recovered = True
            self._deployment.sweep()
            if interrupted and self.config.verb != "rollback":
                self.restart()
        if self.config.verb != "rollback":
            self._look()

    def _lock(self) -> None:
        from certbot_postfix.system import lock  # noqa: PLC0415

        # Nobody is there to repeat a renewal; who installs sees what is under way.
        wait = lock.PATIENCE if self.config.verb == "renew" else 0
        lock.take(self._deployment.postfix.directory, wait=wait)
        if self._deployment.bundles.is_dir():  # other instances share them
            lock.take(self._deployment.bundles, wait=lock.PATIENCE)

    def _look(self) -> None:
        _ = self._deployment.configuration
        outbound = self._deployment.outbound
        try:
            complaints = [outbound.missing(), *outbound.gathering.broken()]
        except Error as error:  # the table is not ours: no certificate waits for it
            complaints = [str(error)]
        self._complain(filter(None, complaints))

    def _complain(self, complaints: Iterable[str]) -> None:
        """Log each of the *complaints*, once in a run."""
        for complaint in complaints:
            if complaint not in self._complaints:
                self._complaints.add(complaint)
                logger.error("%s", complaint)

    def _find(self) -> "Deployment":
        for option in ("config-utility", "ctl"):
            program = self.conf(option)
            if not plugin_util.path_surgery(program):
                raise MissingError(
                    f"the program {program} of Postfix was not found",
                    hint=f"install Postfix, or use --{self.option_name(option)}",
                )
        # certbot loads every plugin on every run; few runs come here.
        from certbot_postfix.inbound.install import Deployment  # noqa: PLC0415
        from certbot_postfix.inbound.lineage import bundles_below  # noqa: PLC0415
        from certbot_postfix.postfix.instance import Postfix  # noqa: PLC0415

        return Deployment(
            Postfix.find(
                self.conf("config-dir"),
                postconf=self.conf("config-utility"),
                postfix=self.conf("ctl"),
            ),
            bundles_below(self.config.config_dir),
            staging=Path(self.config.work_dir, "postfix"),
            timeout=self.conf("verify-timeout"),
            say=_notify,
        )

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
        """Take note of a certificate, which `save` deploys."""
        self._deploying = True
        if not fullchain_path:
            raise Error(
                f"there is no full chain for {domain}",
                hint="use --fullchain-path, or --cert-name",
            )
        fullchain = Path(fullchain_path)
        managed = fullchain.parent.parent == Path(self.config.live_dir)
        name = fullchain.parent.name if managed else domain
        if fullchain not in self._pending:
            self._pending[fullchain] = self._lineage(name, key_path, fullchain_path)

    def save(self, title: str | None = None, temporary: bool = False) -> None:
        """Deploy what is pending, as one checkpoint, once certbot names a *title*."""
        if temporary or title is None:
            return
        from certbot_postfix.inbound.install import Wish  # noqa: PLC0415

        checkpoint = CheckpointInProgress(self)
        policies = self._policies()  # what is wrong with them is told first
        for lineage in self._pending.values():
            proposal = self._ready.propose(
                lineage,
                Wish(
                    Profile(self.conf("tls-profile")),
                    ClientLevel(self.conf("client-level")),
                    by_name=self.conf("sni") == "auto",
                    replace=self.conf("replace-default"),
                ),
            )
            self._show(lineage.name, proposal)
            self._applied.append(proposal)
            self._ready.apply(proposal, checkpoint)
        self._pending.clear()
        if policies:
            self._apply_policies(policies, checkpoint)
        if checkpoint.used:
            self.finalize_checkpoint(title)
            self._finalised = True

    def _policies(self) -> "Policies | None":
        """Return what the options want of outbound policies; None if nothing."""
        from certbot_postfix.outbound import sources  # noqa: PLC0415

        outbound, service = self._ready.outbound, self.conf("policy-service")
        if self.conf("tls-profile") != Profile.CERTIFICATE.value:
            outbound.gathering.level = ClientLevel(self.conf("client-level"))
        elif service == "auto":
            service = "none"  # the certificate is all that is to be changed
        mentioned = sources.mentioned(self.conf)
        try:
            wanted = sources.asked(self.conf, outbound.gathering.settings())
            if mentioned and outbound.missing():
                wanted = wanted or sources.Settings()
            found = outbound.gather(wanted or sources.Settings(), _now(), service)
            if service != "none":
                self._complain(outbound.unfit_daemons())
        except Error as error:
            if mentioned:
                raise
            self._complain([str(error)])  # no certificate waits for it
            return None
        return found if wanted or found.daemon or found.notes else None

    def _apply_policies(
        self, policies: "Policies", checkpoint: CheckpointInProgress
    ) -> None:
        self._complain(policies.complaints)
        for note in policies.notes:
            _notify(f"Note: {note}.")
        proposal = self._ready.outbound.propose(policies)
        if not proposal.plan.empty:
            self._agree(proposal.plan.diff())
        self._ready.outbound.apply(proposal, checkpoint)
        self._applied_policies = proposal

    def _show(self, name: str, proposal: "Proposal") -> None:
        for warning in proposal.warnings:
            logger.warning("%s", warning)
        for override in proposal.overrides:
            if override.harmless or self.conf("ignore-master-overrides"):
                _notify(f"Note: {override}.")
            else:
                logger.warning("%s", override)
        for note in proposal.notes:
            _notify(f"Note: {note}.")
        if proposal.plan.empty:
            file = proposal.plan.main_cf.path
            _notify(f"{file} is already as it should be for {name}.")
            return
        self._agree(proposal.plan.diff())

    def _agree(self, diff: str) -> None:
        _notify(diff)
        if not display_util.yesno("Write these changes?", default=True):
            raise Error("nothing was changed, as you wished")

    def restart(self) -> None:
        """Make Postfix serve what it should, and prove it."""
        if self._renewed:
            self._renewed = False
        elif self._undone:
            self._undone = False
            with _restored():
                self._ready.bring_back()
            if self.config.verb == "rollback":
                self._ready.catch_up()
        elif self._deploying:
            for proposal in self._applied:
                self._ready.serve(proposal)
                self._warn_if_forgotten(proposal.path.stem)
            if self._applied_policies:
                self._ready.outbound.serve(self._applied_policies)
        else:
            self._ready.refresh()

    def _warn_if_forgotten(self, name: str) -> None:
        # `certbot install` does not save its options, so renewals may pass us by.
        renewal = Path(self.config.renewal_configs_dir, f"{name}.conf")
        if not options.forgotten(renewal, self.name):
            return
        command = ["certbot", "reconfigure", "--cert-name", name, "-i", self.name]
        advice = shlex.join([*command, *options.given(self.option_name, self.conf)])
        if util.parse_loose_version(certbot.__version__) < [2, 3]:  # has no such verb
            advice = f"put the line `installer = {self.name}` into {renewal}"
        logger.warning(
            "certbot will not deploy renewals of %s: its renewal configuration does"
            " not name this installer\nWhat to do: %s",
            name,
            advice,
        )

    def renew_deploy(
        self, lineage: interfaces.RenewableCert, *args: Any, **kwargs: Any
    ) -> None:
        """Put a renewed certificate into service, or leave the old one there."""
        name = lineage.lineagename
        found = self._lineage(name, lineage.key_path, lineage.fullchain_path)
        with _not_deployed():
            deployed = self._ready.renew(found)
        if not deployed:
            _notify(f"Postfix does not use {name} through this plugin.")
        self._renewed = True

    def generic_updates(
        self, lineage: interfaces.RenewableCert, *args: Any, **kwargs: Any
    ) -> None:
        """Make up for a renewal that was missed, and refresh outbound policies.

        certbot calls this for every lineage on every ``renew``, and has not prepared
        the plugin: when there is nothing to do, a few files are read, and no more.
        """
        # A guess, where it is not given: to ask Postfix would start a program.
        directory = Path(self.conf("config-dir") or "/etc/postfix")
        try:
            self._make_up(lineage, directory)
        finally:
            self._refresh_policies(directory)

    def _make_up(self, lineage: interfaces.RenewableCert, directory: Path) -> None:
        from certbot_postfix.inbound.lineage import bundles_below  # noqa: PLC0415

        name = lineage.lineagename
        bundle = bundles_below(self.config.config_dir) / f"{name}.pem"
        found = self._lineage(name, lineage.key_path, lineage.fullchain_path)
        interrupted = Path(self.config.in_progress_dir).is_dir()
        self._warn_if_dropped(found, bundle, directory)
        if not interrupted and not found.missed_by(bundle, directory):
            return
        self.prepare()
        with _not_deployed():
            self._ready.renew(found)

    def _warn_if_dropped(self, found: "Lineage", bundle: Path, directory: Path) -> None:
        from certbot_postfix.inbound import dropped  # noqa: PLC0415

        if not dropped.untold(bundle, directory):
            return
        self.prepare()
        if not self._ready.uses(found):
            logger.error(  # certbot's -q leaves warnings out
                "%s does not name %s any more: Postfix does not serve the certificate"
                " that certbot renews\nHint: certbot install -i %s --cert-name %s; or,"
                " if that is meant, certbot-postfix forget %s",
                directory / "main.cf",
                bundle,
                self.name,
                found.name,
                found.name,
            )
        dropped.tell(bundle, directory)

    def _refresh_policies(self, directory: Path) -> None:
        """Refresh the policies of the instance in *directory*, once in a process."""
        path = directory / POLICY_TABLE
        if path in _refreshed or not path.exists():
            return
        _refreshed.add(path)
        complaints = []
        try:
            now, outbound = _now(), self._find().outbound
            if outbound.gathering.due(now):
                asked = outbound.ask_ahead(now, wait=0)
                self.prepare()
                complaints = self._ready.outbound.refresh(now, asked)
        except BusyError as error:
            logger.debug("policies are refreshed already: %s", error)
        except errors.PluginError as error:  # no renewal of this lineage has failed
            complaints = [str(error)]
        self._complain(complaints)

    def _lineage(self, name: str, key: str, fullchain: str) -> "Lineage":
        from certbot_postfix.inbound.lineage import Lineage  # noqa: PLC0415

        return Lineage(name, Path(key), Path(fullchain))

    def rollback_checkpoints(self, rollback: int = 1) -> None:
        """Undo *rollback* checkpoints, each file in one step.

        After a failed deployment certbot asks for this as well, for the newest
        checkpoint, whoever made it: then only one that this run made is undone.  An
        interrupted deployment, which was undone already, counts as the newest.
        """
        if self._recovered and not self._deploying:
            rollback = int(rollback) - 1  # what was interrupted was the newest
        if self._finalised or not self._deploying:
            there = sorted(Path(self.config.backup_dir).iterdir(), reverse=True)
            self._ready.restore(there[: int(rollback)])
            super().rollback_checkpoints(rollback)
        self._undo()

    def recovery_routine(self) -> None:
        """Undo what was begun and not finished."""
        in_progress = Path(self.config.in_progress_dir)
        self._deployment.restore([in_progress], interrupted=True)
        super().recovery_routine()
        self._undo()
        if self._applied and self._deployment.written:
            self.restart()

    def _undo(self) -> None:
        for proposal in self._applied:
            self._ready.undo(proposal)
        self._finalised = False
        self._undone = True

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
        if self._problem:
            raise self._problem
        return self._deployment


@contextlib.contextmanager
def _not_deployed() -> Iterator[None]:
    # certbot reports it as a failed renewal, which it is not.
    try:
        yield
    except Error as error:
        error.message = f"the renewed certificate is not in service: {error.message}"
        raise


@contextlib.contextmanager
def _restored() -> Iterator[None]:
    try:
        yield
    except Error as error:
        error.message = f"the previous files were restored, but {error.message}"
        raise


def _notify(text: str) -> None:
    display_util.notify(shown(text, sys.stdout))


def _now() -> datetime:
    return datetime.now(timezone.utc)


interfaces.RenewDeployer.register(Installer)
interfaces.GenericUpdater.register(Installer)
