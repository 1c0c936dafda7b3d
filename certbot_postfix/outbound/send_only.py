"""Outbound policies without a certificate, for a host that only sends mail.

certbot has no part in it, so there is no checkpoint of its: a failure is undone at
once, and `removal` undoes all later.  Raises `errors.Error`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from certbot_postfix.change import staging as staged_copies
from certbot_postfix.change.plan import Plan
from certbot_postfix.change.transaction import Transaction
from certbot_postfix.errors import Error
from certbot_postfix.options import ClientLevel
from certbot_postfix.outbound import client_level, installed, sources
from certbot_postfix.outbound.collect import Policies
from certbot_postfix.outbound.sources import Settings
from certbot_postfix.outbound.update import Changes, Outbound
from certbot_postfix.postfix import tls_levels
from certbot_postfix.postfix.decisions import Decision, applied
from certbot_postfix.system import files, signals


@dataclass(frozen=True, slots=True)
class Proposal:
    """The *plan*, with the *changes* of policies in it, and what is to be said.

    *complaints* are of sources that failed; with *remove*, all that was installed goes.
    """

    plan: Plan
    changes: Changes
    notes: list[str]
    warnings: list[str]
    complaints: list[str]
    remove: bool = False

    @property
    def empty(self) -> bool:
        """Whether all is as it should be already."""
        return self.plan.empty and not self.changes.stale


class SendOnly:
    """The policies of *outbound*, alone."""

    def __init__(self, outbound: Outbound) -> None:
        self._outbound = outbound

    def installation(self, conf: Callable[[str], Any]) -> Proposal:
        """Plan what the options want, each read by *conf*; no live file changes."""
        outbound, configuration = self._outbound, self._outbound.configuration
        level = ClientLevel(conf("client-level"))
        outbound.collector.level = level
        warnings = client_level.refuse_dane(configuration, level)
        raised = list(tls_levels.raise_client(configuration, level))
        warnings += client_level.refuse_encryption(
            outbound.postfix, configuration, raised
        )
        wanted = sources.merge_options(conf, outbound.collector.settings())
        service = conf("policy-service")
        policies = outbound.collect(
            wanted or Settings(), datetime.now(timezone.utc), service
        )
        if service != "none":
            warnings += outbound.unfit_daemons()
        return self.propose(policies, raised, *warnings)

    def removal(self) -> Proposal:
        """Plan what takes policies out, and undoes what was set for them."""
        outbound = self._outbound
        record = outbound.installed()
        if not outbound.map_type and not outbound.path.exists() and not record.any:
            raise Error("no outbound policies are installed")
        _ = outbound.collector.settings()  # the map must be ours
        restored = list(record.restored())
        policies = Policies(Settings(), {}, [], [], dropped=record.daemon)
        return replace(self.propose(policies, restored), remove=True)

    def propose(
        self, policies: Policies, others: Iterable[Decision] = (), *warnings: str
    ) -> Proposal:
        """Plan what puts *policies* in force, with *others* that go with them."""
        outbound = self._outbound
        others = tuple(others)
        later = applied(outbound.configuration, others)
        changes = outbound.changes(policies, later)
        decisions = (*others, *changes.decisions)
        edit = staged_copies.stage(outbound.postfix, decisions, outbound.staging)
        plan = Plan(decisions, edit, (changes.edit,))
        notes = [*plan.notes(), *policies.notes]
        return Proposal(plan, changes, notes, [*warnings], policies.complaints)

    def carry_out(self, proposal: Proposal) -> None:
        """Write what is planned, and have Postfix follow it; undo that if it fails."""
        outbound = self._outbound
        outbound.postfix.refuse_elsewhere(outbound.configuration)
        before = outbound.configuration
        change = Transaction((outbound.databases,))
        try:
            with (
                signals.ending(),
                signals.interruptible(),
                change.undone_on_failure(lambda _: outbound.serving.reload(before)),
            ):
                outbound.build(proposal.changes, None)
                change.commit(proposal.plan)
                outbound.current.changed()
                outbound.serving.reload(outbound.configuration)
        except BaseException:
            self._remove_created(proposal)
            raise
        outbound.finish(proposal.changes, self._others(proposal))
        if proposal.remove:
            installed.write(outbound.collector.cache, installed.Installed())

    def _others(self, proposal: Proposal) -> Iterable[Decision]:
        """Return the decisions that are not about policies, but were made for them."""
        ours = proposal.changes.decisions
        return [
            decision for decision in proposal.plan.decisions if decision not in ours
        ]

    def _remove_created(self, proposal: Proposal) -> None:
        """Remove what there was not before, and no backup restores."""
        if proposal.changes.edit.before is None:
            files.remove(self._outbound.path)
