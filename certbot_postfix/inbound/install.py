"""A lineage is installed in Postfix: planned, written, and verified.

Success means that every service presented the certificate in a handshake.  Raises
`errors.Error`; what is undone then is certbot's checkpoint, and the bundle by `undo`.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from certbot_postfix.change import staging as staged_copies
from certbot_postfix.change.checkpoint import Checkpoint
from certbot_postfix.change.plan import Edit, Plan
from certbot_postfix.change.transaction import Transaction
from certbot_postfix.errors import Error, named_logger
from certbot_postfix.inbound import (
    main_cf,
    openssl_file,
    placement,
    placing,
    renew,
    sni,
    state,
    transitions,
)
from certbot_postfix.inbound.expectations import expected
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.inbound.main_cf import Target
from certbot_postfix.inbound.placement import Placement
from certbot_postfix.inbound.proposal import DeployOptions, Proposal
from certbot_postfix.inbound.renew_all import Renewals
from certbot_postfix.inbound.served import ServedFile
from certbot_postfix.inbound.state import State
from certbot_postfix.options import Profile
from certbot_postfix.outbound import client_level
from certbot_postfix.outbound.collect import Policies
from certbot_postfix.outbound.update import Changes as PolicyChanges
from certbot_postfix.outbound.update import Outbound
from certbot_postfix.postfix import map_types, refusals
from certbot_postfix.postfix.decisions import Decision, Override, applied
from certbot_postfix.postfix.profiles import internet_nl
from certbot_postfix.postfix.questions import Expectation, Purpose
from certbot_postfix.system import files, signals
from certbot_postfix.tls.bundle import Bundle
from certbot_postfix.tls.certificates import Certificate

logger = named_logger(__name__)


class Installation:
    """The installation of a lineage in the Postfix of *renewals*.

    It is with *outbound* policies, if they are to change; copies are staged below the
    directory *staging*.
    """

    def __init__(
        self, renewals: Renewals, outbound: Outbound, staging: Path | None
    ) -> None:
        self.server = renewals.server
        self.renewals = renewals
        self.outbound = outbound
        self.staging = staging
        self.written = False
        self._change: Transaction | None = None

    def propose(
        self,
        lineage: Lineage,
        options: DeployOptions,
        policies: Policies | None = None,
    ) -> Proposal:
        """Plan the deployment of *lineage* with outbound *policies*, as one change.

        No live file changes.
        """
        before, bundle, warnings = self._checked(lineage)
        path = before.bundles.new(lineage.name)
        new = ServedFile(path, bundle.leaf)
        standing = transitions.moved(before, lineage.name)
        placed = placing.place(standing, new, options)
        default = placement.default_after(new, placed, standing.default)
        leaves = [file.leaf for file in default]
        draft = self._draft(before, placed, options, leaves)
        if policies:
            self._add_policies(draft, before, policies)
        plan = self._staged(draft)
        return Proposal(
            plan,
            before,
            placed.table,
            lineage,
            path,
            bundle,
            renew.out_of_date(path, bundle),
            [*warnings, *placing.warnings(standing, new, placed), *draft.warnings],
            draft.overrides,
            [*plan.notes(), *placing.notes(before, new, placed), *draft.notes],
            draft.policies,
            options.profile is Profile.INTERNET_NL,
            placed.by_name,
        )

    def _checked(self, lineage: Lineage) -> tuple[State, Bundle, list[str]]:
        """Return what is served now, and the bundle of *lineage* with its warnings.

        Raises `CertificateError` if it must not be served, here or by another instance
        that reads the same file.
        """
        before = self.server.read()
        path = before.bundles.new(lineage.name)
        old = next(iter(before.used(lineage.name)), path)
        bundle, warnings = renew.load_and_check(before, lineage, old)
        self.renewals.refuse(lineage, path)
        keys = sni.keys(bundle.leaf.names)
        return state.look_up(before, self.server.postfix, keys), bundle, warnings

    def _draft(
        self,
        before: State,
        placed: Placement,
        options: DeployOptions,
        default: Sequence[Certificate],
    ) -> "_Draft":
        """Return what makes Postfix serve what is *placed*, and raises TLS."""
        configuration, sni_map = before.configuration, self._sni_map(before, placed)
        halves = placing.halves(before, placed)
        wanted = Target(placed.chain, sni_map.path, sni_map.map_type, halves)
        profile, client = options.profile, options.client
        warnings = list[str]()
        if profile is not Profile.CERTIFICATE:
            warnings += client_level.refuse_dane(configuration, client)
        decisions = main_cf.decide(configuration, wanted, profile, client)
        warnings += client_level.refuse_encryption(
            self.server.postfix, configuration, decisions
        )
        overrides = main_cf.overridden(configuration, decisions, profile, client)
        draft = _Draft([*decisions], [sni_map], warnings, overrides)
        if profile is Profile.INTERNET_NL:
            later = applied(configuration, decisions)
            draft.edits += openssl_file.edits(later)
            draft.notes += internet_nl.notes(configuration, decisions, default)
        return draft

    def _staged(self, draft: "_Draft") -> Plan:
        """Return the plan for *draft*, once Postfix has accepted it on a copy."""
        decisions = tuple(draft.decisions)
        edited = staged_copies.stage(self.server.postfix, decisions, self.staging)
        return Plan(decisions, edited, tuple(draft.edits))

    def _add_policies(self, draft: "_Draft", before: State, policies: Policies) -> None:
        later = applied(before.configuration, draft.decisions)
        draft.policies = self.outbound.changes(policies, later)
        draft.decisions += draft.policies.decisions
        draft.edits.append(draft.policies.edit)
        draft.notes += policies.notes

    def _sni_map(self, before: State, placed: Placement) -> Edit:
        """Return what becomes of the SNI map; raise `Error` if it is not ours."""
        path, text = self.server.sni_map.path, self.server.sni_map.text()
        if not placed.table:
            return Edit(path, text, text)
        if text is not None:
            sni.parse(text, path)
        map_type = map_types.chosen(
            self.server.postfix,
            before.configuration,
            before.map_type,
            len(placed.table),
            sni.LARGE,
        )
        return Edit(path, text, sni.render(placed.table), map_type=map_type)

    def apply(self, proposal: Proposal, checkpoint: Checkpoint) -> None:
        """Write the bundle, the SNI map and main.cf; Postfix is not reloaded yet."""
        configuration = proposal.before.configuration
        self.server.postfix.refuse_elsewhere(configuration)
        maps = (self.server.sni_map.databases, self.outbound.databases)
        self._change = change = Transaction(maps, checkpoint)
        change.begin(self.server.serving, configuration)
        self.written = not proposal.empty
        step = self.server.serving.reporter.step("Writing files")
        with step if self.written else contextlib.nullcontext():
            self._write(proposal, change)

    def _write(self, proposal: Proposal, change: Transaction) -> None:
        if proposal.stale:
            change.put_bundle(proposal.path, proposal.bundle.pem)
        if proposal.table and not proposal.empty:
            self._build(proposal, change)
        if proposal.policies:
            self.outbound.build(proposal.policies, change.register)
        if not proposal.plan.empty:
            change.commit(proposal.plan)
            self.server.current.changed()

    def _build(self, proposal: Proposal, change: Transaction) -> None:
        map_type, table, changed = proposal.sni_map.map_type, proposal.table, None
        before = proposal.before
        if map_type == before.map_type and not before.table.keys() - table.keys():
            changed = sni.changed_keys(before.table, table, str(proposal.path))
        self.server.sni_map.build(map_type, table, changed, change.register)

    def serve(self, proposal: Proposal) -> None:
        """Make Postfix serve what was applied, and verify it."""
        server, new = self.server, [proposal.new]
        now = proposal.before if proposal.empty else server.read()
        after = transitions.with_files(now, new)
        keys = transitions.changed_keys(proposal.before, after, new)
        after = state.look_up(after, server.postfix, keys)
        self._activate(proposal, after, expected(after, keys, new))
        if proposal.strict:
            self._verify_refusals(after)
        server.sni_map.databases.discard_backups()
        try:
            self.renewals.renew_others([proposal.lineage])
        except Error as error:  # this instance is well, and stays so
            logger.error("%s", error)  # noqa: TRY400 - it is known why
        else:
            files.discard_backup(proposal.path)
        if proposal.policies:
            self.outbound.finish(proposal.policies)

    def _activate(
        self, proposal: Proposal, after: State, wanted: Sequence[Expectation]
    ) -> None:
        server, configuration = self.server, after.configuration
        paths = (server.postfix.main_cf, server.sni_map.path, proposal.path)
        if proposal.empty and server.serving.serves_already(
            configuration, wanted, paths
        ):
            leaf = proposal.bundle.leaf
            server.serving.reporter.say(
                f"Postfix serves the certificate for {leaf} already."
            )
            return
        # certbot's own handler would swallow a signal here, and report success.
        with signals.interruptible():
            if proposal.empty:  # copies may be old
                server.sni_map.build(proposal.sni_map.map_type, after.table)
            server.serving.reload_and_verify(configuration, wanted, Purpose.INSTALLED)
        options = " ".join(["", *configuration.certbot_options])
        server.serving.reporter.details(
            f"Bundle: {proposal.path}",
            f"Undo:   certbot rollback -i postfix{options}",
            f"Check:  certbot-postfix status{options}",
        )

    def _verify_refusals(self, after: State) -> None:
        chain = [file.leaf for file in after.default]
        offers = refusals.questions(after.configuration, chain)
        with signals.interruptible():
            self.server.serving.verify_refusals(after.configuration, list(offers))

    def undo(self) -> list[Path]:
        """Restore the bundle that `apply` replaced, once certbot restored the rest.

        Returns the files that were restored.
        """
        restored = self._change.undo() if self._change else []
        self._change = None
        return restored


@dataclass(slots=True)
class _Draft:
    """What is decided so far; see `Proposal`."""

    decisions: list[Decision]
    edits: list[Edit]
    warnings: list[str]
    overrides: list[Override]
    notes: list[str] = field(default_factory=list)
    policies: PolicyChanges | None = None
