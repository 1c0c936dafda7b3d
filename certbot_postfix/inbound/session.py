"""What can be done to one Postfix, as certbot's installer and the command share it.

Work is level-triggered: what is deployed is read from Postfix's own configuration, and
success means that every service presented the certificate in a handshake.  Raises
`errors.Error`; after a failure Postfix serves what it served before.
"""

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from certbot.plugins import util as plugin_util

from certbot_postfix.change import transaction
from certbot_postfix.dane import gate
from certbot_postfix.errors import (
    CertificateError,
    Error,
    MissingError,
    named_logger,
)
from certbot_postfix.inbound import (
    by_hand,
    candidates,
    copies,
    due,
    key_swap,
    schedules,
)
from certbot_postfix.inbound.bundles import below, directories
from certbot_postfix.inbound.install import Installation
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.inbound.proposal import Proposal
from certbot_postfix.inbound.renew_all import Renewals
from certbot_postfix.inbound.rollback import Rollback
from certbot_postfix.inbound.server import Server
from certbot_postfix.inbound.state import State
from certbot_postfix.options import ClientLevel, Profile
from certbot_postfix.outbound import domain_state, sources
from certbot_postfix.outbound.collect import Policies, Refreshed
from certbot_postfix.outbound.progress import Progress
from certbot_postfix.outbound.update import Outbound
from certbot_postfix.postfix.configuration import Configuration, names
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.postfix.profiles import internet_nl
from certbot_postfix.postfix.serving import Serving
from certbot_postfix.system import lock
from certbot_postfix.system.reporter import SLOW, Reporter

logger = named_logger(__name__)


class Deployment:
    """What can be done to one Postfix instance.

    *bundles* is our directory below certbot's, *staging* the place for staged copies,
    *timeout* the seconds in which a certificate must be served; 0 skips verification.
    """

    def __init__(
        self,
        postfix: Postfix,
        bundles: Path,
        *,
        staging: Path | None = None,
        timeout: float = 20,
        reporter: Reporter = Reporter(logger.info),  # noqa: B008 - has no state
    ) -> None:
        self.postfix = postfix
        self.bundles = bundles
        self.staging = staging
        self.reporter = reporter
        self.serving = Serving(postfix, timeout, reporter)
        self.gate = gate.Gate()
        self.server = Server(postfix, bundles, self.serving, self.gate)
        self.outbound = Outbound(
            self.server.current,
            self.serving,
            bundles,
            staging=staging,
            cert_name=lambda: self.server.read().a_name,
        )
        self.outbound.collector.progress = Progress(reporter.terminal)
        self.rollback = Rollback(self.server, self.outbound)
        self.renewals = Renewals(self.server)
        self.installation = Installation(self.renewals, self.outbound, staging)
        self._complaints: set[str] = set()  # that were reported already
        self._guest = False  # under the lock of an ancestor

    @classmethod
    def find(
        cls, conf: Callable[[str], Any], config: Any, reporter: Reporter
    ) -> "Deployment":
        """Return that of the Postfix that our options mean, each read by *conf*.

        *config* has certbot's own.
        """
        for option in ("config-utility", "ctl"):
            if not plugin_util.path_surgery(conf(option)):
                raise MissingError(
                    f"the program {conf(option)} of Postfix was not found",
                    hint=f"install Postfix, or use --postfix-{option}",
                )
        deployment = cls(
            Postfix.find(
                conf("config-dir"), postconf=conf("config-utility"), postfix=conf("ctl")
            ),
            below(config.config_dir),
            staging=Path(config.work_dir, "postfix"),
            timeout=conf("verify-timeout"),
            reporter=reporter,
        )
        deployment.gate.settings = gate.Settings.of(conf)
        return deployment

    @property
    def live(self) -> Path:
        """certbot's directory of lineages."""
        return self.bundles.parent / "live"

    @property
    def configuration(self) -> Configuration:
        """The configuration as it was when it was last read."""
        return self.server.configuration

    def lock(self, *, patiently: bool) -> None:
        """Be the only one who changes this Postfix, or wait for that, *patiently*."""
        with self.reporter.step("Waiting for another process", after=SLOW):
            wait = lock.PATIENCE if patiently else 0
            self._guest = lock.take(self.postfix.directory, wait=wait)
            if self.bundles.is_dir():  # other instances share them
                # That ancestor may have another instance.
                self._guest |= lock.take(self.bundles, wait=lock.PATIENCE)

    def look(self) -> None:
        """Read the configuration; report what is wrong with outbound policies."""
        _ = self.configuration
        try:
            complaints = [self.outbound.missing(), *self.outbound.collector.broken()]
        except Error as error:  # the map is not ours: no certificate waits for it
            complaints = [str(error)]
        self.complain(filter(None, complaints))

    def complain(self, complaints: Iterable[str]) -> None:
        """Log each of the *complaints* as an error, once in a run."""
        for complaint in complaints:
            if complaint not in self._complaints:
                self._complaints.add(complaint)
                logger.error("%s", complaint)

    def policies(self, conf: Callable[[str], Any]) -> Policies | None:
        """Return what the options want of outbound policies; None if nothing."""
        service = conf("policy-service")
        if conf("tls-profile") != Profile.CERTIFICATE.value:
            self.outbound.collector.level = ClientLevel(conf("client-level"))
        elif service == "auto":
            service = ""  # the certificate is all that is to be changed
        given = sources.options_given(conf)
        try:
            wanted = sources.merge_options(conf, self.outbound.collector.settings())
            if given and self.outbound.missing():
                wanted = wanted or sources.Settings()
            now = datetime.now(timezone.utc)
            policies = self.outbound.collect(wanted or sources.Settings(), now, service)
            if service not in ("", "none"):
                self.complain(self.outbound.unfit_daemons())
        except Error as error:
            if given:
                raise
            self.complain([str(error)])  # no certificate waits for it
            return None
        self.complain(policies.complaints)
        some = wanted or policies.daemon or policies.dropped or policies.notes
        return policies if some else None

    def refresh_policies(self, now: datetime, refreshed: Refreshed | None) -> None:
        """Bring the policy map up to date; log what failed, and what is about to."""
        self.complain(self.outbound.refresh(now, refreshed))
        states = self.outbound.collector.states()
        self.complain(filter(None, [domain_state.finding(states, now)]))

    def names(self) -> set[str]:
        """Return the public names by which the server calls itself."""
        return names(self.configuration)

    def renew(self, lineage: Lineage) -> bool:
        """Put the newest certificate of a lineage into service, if Postfix uses it.

        Others whose renewal was missed are put into service with it.  What is not
        verified is undone, and the old one verified, when this raises.  Returns whether
        Postfix uses the lineage.
        """
        if self._guest and key_swap.under_way(lineage):
            return True  # who had certbot started deploys it
        used = self.renewals.renew([lineage])
        return self._report_outdated([lineage]) or used

    def warn_of_obstacles(
        self, name: str, words: Sequence[str], installer: str
    ) -> None:
        """Warn if renewals of the lineage *name* will not reach Postfix by *installer*.

        *words* are the options that a command needs besides.
        """
        directory = self.live.parent
        for obstacle in schedules.obstacles(directory, name, words, installer):
            logger.warning("%s", obstacle)

    def refuse_unannounced(self, proposal: Proposal) -> None:
        """Raise `CertificateError` if TLSA records forbid to serve it now."""
        path, bundle, by_name = proposal.path, proposal.bundle, proposal.by_name
        candidate = candidates.installing(
            proposal.before, path, bundle, by_name=by_name
        )
        if held := self.gate.hold(candidate, datetime.now(timezone.utc)):
            raise CertificateError(
                f"lineage {path.stem} is not deployed: {held.reason}",
                hint=f"{held.hint}; --postfix-tlsa-ignore deploys it nevertheless",
            )

    def uses(self, lineage: Lineage) -> bool:
        """Whether this instance or another one uses *lineage*."""
        states = [*self.states()]
        used = any(state.used(lineage.name) for state in states)
        return used or bool(by_hand.expected(states[0], self.postfix, [lineage]))

    def states(self) -> Iterator[State]:
        """Yield what this instance serves, and others as far as they can be read."""
        yield self.server.read()
        for other in self.server.others:
            with contextlib.suppress(Error):  # a renewal reports it
                yield other.read()

    def _report_outdated(self, lineages: Collection[Lineage]) -> bool:
        """Report older copies of *lineages* that Postfix reads, if there are any.

        No configuration is edited, so that the old certificate goes on to be served.
        """
        now, outdated = datetime.now(timezone.utc), False
        for configuration in self._configurations():
            for copy in copies.read(configuration, self.bundles, lineages):
                outdated = True
                hint = copy.hint(self.bundles, configuration.certbot_options)
                logger.error("%s\nHint: %s", copy.message(now), hint)
        return outdated

    def _configurations(self) -> Iterator[Configuration]:
        """Yield the configurations of this instance, and of others that can be read."""
        yield self.configuration
        for other in self.server.others:
            with contextlib.suppress(Error):
                yield other.configuration

    def deploy_pending(self) -> None:
        """Put into service what was renewed since the files were as they are again.

        That is not what was asked for: if it fails, that is an error in the log.
        """
        now = self.server.read()
        behind = [*due.pending(now), *due.misplaced(now)]
        if lineages := list({lineage.name: lineage for lineage in behind}.values()):
            try:
                self.renewals.renew(lineages)
            except Error as error:
                logger.error("%s", error)  # noqa: TRY400 - it is known why

    def refresh(self) -> None:
        """Bring all that Postfix uses of certbot's lineages up to date.

        What an administrator has it read in certbot's own directory is reloaded.
        """
        now = self.server.read()
        lineages, every = due.pending(now), due.lineages(now.bundles.live)
        named = by_hand.expected(now, self.postfix, every)
        outdated = self._report_outdated(every)
        if lineages:
            self.renewals.renew(lineages)
        elif named:
            self.serving.record_baseline(self.configuration)
            self.serving.reload_and_verify(self.configuration, named)
        elif not now.deployed and not outdated:
            self.reporter.say(
                "Postfix uses no certificate of certbot's; no changes were made."
            )

    def remove_leftovers(self) -> None:
        """Remove what killed runs may have left."""
        other = self.postfix.directory / internet_nl.NAME
        ours = (self.server.sni_map.path, self.outbound.path, other)
        places = directories(self.bundles)
        transaction.remove_leftovers(self.postfix, places, self.staging, *ours)
        if not self._guest:
            key_swap.repair(self.bundles.parent)

    def undo(self) -> None:
        """Restore the bundle that was replaced, once certbot restored the rest."""
        self.rollback.bundles += self.installation.undo()
