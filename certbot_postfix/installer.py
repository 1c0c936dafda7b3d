"""certbot's Installer and RenewDeployer, an adapter: it decides nothing.

certbot loads this module on every run, so it imports little; the contract is that of
`certbot.interfaces`.  What its calls come to depends on those before:

phase       after                           restart()   rollback_checkpoints(n) restores
NEW         __init__()                      refresh     -
READY       prepare()                       refresh     n
RECOVERED   prepare() undid a killed run    refresh     n - 1
DEPLOYING   deploy_cert()                   serve       0
WRITTEN     save() finished a checkpoint    serve       n
UNDONE      files were restored             restored    n
DONE        renewed, or nothing to undo     -           n

*refresh* brings all that is deployed up to date, *serve* verifies what was installed,
*restored* verifies what was there before.  After a failed deployment certbot rolls the
newest checkpoint back, whoever made it: one of another run stays (DEPLOYING).
"""

import enum
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from certbot import errors, interfaces, util
from certbot.display import util as display_util
from certbot.plugins import common

from certbot_postfix import options
from certbot_postfix.errors import Error, named_logger, shown

if TYPE_CHECKING:
    from certbot_postfix.inbound.lineage import Lineage
    from certbot_postfix.inbound.proposal import Proposal
    from certbot_postfix.inbound.session import Deployment

logger = named_logger(__name__)

# With these, certbot goes on without an installer whose prepare() raises, and for two
# of them forgets it in the renewal configuration: a certificate would be renewed, but
# never again deployed.  So the error waits until there is something to deploy.
_DEFERRING = ("certonly", "renew", "rollback")


class Phase(enum.Enum):
    """What certbot has called so far: the table above."""

    NEW = "refresh", "-"  # which raises what prepare() has postponed
    READY = "refresh", "n"
    RECOVERED = "refresh", "n - 1"
    DEPLOYING = "serve", "0"
    WRITTEN = "serve", "n"
    UNDONE = "restored", "n"
    DONE = "-", "n"

    def __init__(self, restart: str, restores: str) -> None:
        self.restart = restart
        self.restores = restores


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
        from certbot_postfix import command_line  # noqa: PLC0415

        command_line.require_root()
        self._session = session = self.find()
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

    def find(self) -> "Deployment":
        """Return what can be done to Postfix, which is not locked for that."""
        from certbot_postfix.inbound.session import Deployment  # noqa: PLC0415
        from certbot_postfix.system.reporter import Reporter  # noqa: PLC0415

        terminal = sys.stdout if sys.stdout.isatty() and not self.config.quiet else None
        return Deployment.find(self.conf, self.config, Reporter(_notify, terminal))

    def prepared(self) -> "Deployment":
        """Lock Postfix, and return what can be done to it."""
        self.prepare()
        return self._ready

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
        directory = Path(fullchain_path).parent
        managed = directory.parent == Path(self.config.live_dir)
        name = directory.name if managed else domain
        self._lineage = self._lineage or _lineage(name, key_path, fullchain_path)

    def save(self, title: str | None = None, temporary: bool = False) -> None:
        """Deploy what is pending, as one checkpoint, once certbot names a *title*."""
        if temporary or title is None or not self._lineage:
            return
        from certbot_postfix.change import checkpoint as checkpoints  # noqa: PLC0415
        from certbot_postfix.inbound import consent, proposal  # noqa: PLC0415

        checkpoint = checkpoints.CheckpointInProgress(self)
        policies = self._ready.policies(self.conf)  # what is wrong there is said first
        with self._ready.reporter.step("Checking the new configuration", after=1):
            proposed = self._ready.installation.propose(
                self._lineage, proposal.DeployOptions.of(self.conf), policies
            )
            self._ready.refuse_unannounced(proposed)
        command = self._installation(self._lineage.name)
        ignoring = self.conf("ignore-master-overrides")
        consent.ask(proposed, _notify, command, ignoring=ignoring)
        self._lineage, self._proposal = None, proposed
        self._ready.installation.apply(proposed, checkpoint)
        if checkpoint.used:
            self.finalize_checkpoint(title)
            self._phase = Phase.WRITTEN

    def restart(self) -> None:
        """Make Postfix serve what it should, and verify it."""
        phase, self._phase = self._phase, Phase.READY
        match phase.restart:
            case "refresh":
                self._ready.refresh()
            case "serve":
                self._phase = phase  # it may be rolled back
                if self._proposal:
                    self._ready.installation.serve(self._proposal)
                    # `certbot install` does not save its options.
                    name = self._proposal.lineage.name
                    words = options.given(self.option_name, self.conf)
                    self._ready.warn_of_obstacles(name, words, self.name)
            case "restored":
                self._ready.rollback.activate()
                if self.config.verb == "rollback":
                    self._ready.deploy_pending()

    def _installation(self, name: str) -> str:
        """Return the command that installs the lineage *name* with these options."""
        words = ["certbot", "install", "-i", self.name, "--cert-name", name]
        return shlex.join([*words, *options.given(self.option_name, self.conf)])

    def renew_deploy(
        self, lineage: interfaces.RenewableCert, *args: Any, **kwargs: Any
    ) -> None:
        """Put a renewed certificate into service, or leave the old one there."""
        from certbot_postfix.inbound import every_renew  # noqa: PLC0415

        name = lineage.lineagename
        renewed = _lineage(name, lineage.key_path, lineage.fullchain_path)
        if not every_renew.deploy(self._ready, renewed):
            _notify(
                f"{name} was renewed, but is not installed in Postfix. To install it:"
                f" {self._installation(name)}"
            )
        self._phase = Phase.DONE

    def generic_updates(
        self, lineage: interfaces.RenewableCert, *args: Any, **kwargs: Any
    ) -> None:
        """Deploy a renewal that was missed, and refresh outbound policies.

        certbot calls this for every lineage on every ``renew``, and has not prepared
        the plugin: when there is nothing to do, a few files are read, and no more.
        """
        from certbot_postfix.inbound import every_renew  # noqa: PLC0415

        names = lineage.lineagename, lineage.key_path, lineage.fullchain_path
        _at_end.append(every_renew.run_afterwards)
        every_renew.EveryRenew(self).visit(_lineage(*names))

    def rollback_checkpoints(self, rollback: int = 1) -> None:
        """Undo *rollback* checkpoints, each file in one step; see the table above."""
        # What was interrupted was the newest.
        count = int(rollback) - (self._phase.restores == "n - 1")
        newest_first = sorted(Path(self.config.backup_dir).iterdir(), reverse=True)
        nothing = self._phase is Phase.READY and not newest_first[:count]
        if nothing and not self._ready.rollback.unread:
            super().rollback_checkpoints(count)  # says so
            self._phase = Phase.DONE
            return
        if self._phase.restores != "0":
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


def _notify(text: str) -> None:
    display_util.notify(shown(text, sys.stdout))


# certbot has its locks released at exit, and registers that later: this comes after it.
_at_end: list[Callable[[], None]] = []
util.atexit_register(lambda: [run() for run in _at_end])
interfaces.RenewDeployer.register(Installer)
interfaces.GenericUpdater.register(Installer)
