"""A lineage is installed in Postfix: planned, written, and verified.

Success means that every service presented the certificate in a handshake.  Raises
`errors.Error`; what is undone then is certbot's checkpoint, and the bundle by `undo`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from certbot_postfix.change import staging as staged_copies
from certbot_postfix.change.checkpoint import Checkpoint
from certbot_postfix.change.plan import Edit, Plan
from certbot_postfix.change.transaction import Transaction
from certbot_postfix.errors import Error, named_logger
from certbot_postfix.inbound import (
    chain_files,
    main_cf,
    openssl_file,
    placement,
    renew,
    sni,
)
from certbot_postfix.inbound.bundles import is_bundle
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.inbound.main_cf import Wanted
from certbot_postfix.inbound.placement import Deployed, Placement
from certbot_postfix.inbound.renew_all import Renewals
from certbot_postfix.inbound.sni import Table
from certbot_postfix.inbound.state import private_keys
from certbot_postfix.options import ClientLevel, Profile
from certbot_postfix.outbound import client_level
from certbot_postfix.outbound.collect import Policies
from certbot_postfix.outbound.update import Changes as PolicyChanges
from certbot_postfix.outbound.update import Outbound
from certbot_postfix.postfix import map_types, refusals
from certbot_postfix.postfix.configuration import SNI_MAPS, Configuration
from certbot_postfix.postfix.decisions import Override, applied
from certbot_postfix.postfix.profiles import internet_nl
from certbot_postfix.postfix.questions import Purpose
from certbot_postfix.system import files, signals
from certbot_postfix.tls.bundle import Bundle
from certbot_postfix.tls.certificates import Certificate

logger = named_logger(__name__)


@dataclass(frozen=True, slots=True)
class DeployOptions:
    """What the administrator wants of a deployment.

    With *by_name*, a lineage may be served to those only who ask for its names; with
    *replace*, certificates of the administrator's own may go out of service.
    """

    profile: Profile = Profile.OPPORTUNISTIC
    client: ClientLevel = ClientLevel.MAY
    by_name: bool = True
    replace: bool = False

    @classmethod
    def of(cls, conf: Callable[[str], Any]) -> "DeployOptions":
        """Return what the options of certbot's command say, each read by *conf*."""
        return cls(
            Profile(conf("tls-profile")),
            ClientLevel(conf("client-level")),
            by_name=conf("sni") == "auto",
            replace=conf("replace-default"),
        )


@dataclass(frozen=True, slots=True)
class Proposal:
    """The plan, the SNI map in it, and the bundle that goes with it.

    *notes* say what is to be known, and asks for nothing; *policies* is what puts
    outbound policies in force, if they are to change.  If it is *strict*, what the
    profile excludes must be refused.
    """

    plan: Plan
    table: Table
    lineage: Lineage
    path: Path
    bundle: Bundle
    stale: bool
    warnings: list[str]
    overrides: list[Override]
    notes: list[str]
    policies: PolicyChanges | None = None
    strict: bool = False

    @property
    def empty(self) -> bool:
        """Whether neither Postfix's files nor the bundle would change."""
        outdated = self.policies is not None and self.policies.stale
        return self.plan.empty and not self.stale and not outdated

    @property
    def sni_map(self) -> Edit:
        """What becomes of the SNI map."""
        return self.plan.maps[0]


class Installation:
    """The installation of a lineage in the Postfix of *renewals*.

    It is with *outbound* policies, if they are to change; copies are staged below the
    directory *staging*.
    """

    def __init__(
        self, renewals: Renewals, outbound: Outbound, staging: Path | None
    ) -> None:
        self.inventory = renewals.first.inventory
        self.serving = renewals.first.serving
        self.renewals = renewals
        self.outbound = outbound
        self.staging = staging
        self.tables = self.inventory.tables
        self.postfix = self.inventory.postfix
        self.root = self.inventory.root
        self.written = False
        self._change: Transaction | None = None

    @property
    def configuration(self) -> Configuration:
        """The configuration as it was when it was last read."""
        return self.inventory.configuration

    def propose(
        self, lineage: Lineage, wish: DeployOptions, policies: Policies | None = None
    ) -> Proposal:
        """Plan the deployment of *lineage* with outbound *policies*, as one change.

        No live file changes.
        """
        path = self.inventory.bundles.new(lineage.name)
        old = next(iter(self.inventory.used(lineage.name)), path)
        bundle, warnings = renew.load_and_check(self.inventory, lineage, old)
        self.renewals.refuse(lineage, path)
        new = Deployed(path, bundle.leaf)
        placed = self._placed(new, wish)
        now = datetime.now(timezone.utc)
        displaced = [each.leaf for each in placed.displaced]
        lineages = self._leaves() if displaced else {}
        warnings += main_cf.lost(bundle.leaf, displaced, placed.table, now, lineages)
        warnings += self._conflicts(sni.keys_with(placed.table, str(path)))
        default = placement.default_after(new, placed, self.inventory.default())
        warnings += main_cf.uncovered(self.configuration, default, placed.table, now)
        before = self.tables.text()
        if before is not None and placed.table:
            sni.parse(before, self.tables.path)  # it must be ours
        after = sni.render(placed.table) if placed.table else before
        form = ""
        if placed.table:
            size = len(placed.table)
            form = map_types.chosen(
                self.postfix,
                self.configuration,
                self.inventory.form,
                size,
                sni.LARGE,
            )
        if wish.profile is not Profile.CERTIFICATE:
            warnings += client_level.refuse_dane(self.configuration, wish.client)
        kept = self._kept(placed)
        wanted = Wanted(placed.chain, self.tables.path, form, kept)
        decisions = main_cf.decide(
            self.configuration, wanted, wish.profile, wish.client
        )
        warnings += client_level.refuse_encryption(
            self.postfix, self.configuration, decisions
        )
        overridden = main_cf.overridden(
            self.configuration, decisions, wish.profile, wish.client
        )
        edits = [Edit(self.tables.path, before, after, map_type=form)]
        changes, notes = None, policies.notes if policies else []
        later = applied(self.configuration, decisions)
        strict = wish.profile is Profile.INTERNET_NL
        if strict:
            edits += openssl_file.edits(later)
            leaves = [each.leaf for each in default]
            notes = [
                *internet_nl.notes(self.configuration, decisions, leaves),
                *notes,
            ]
        if policies:
            changes = self.outbound.changes(policies, later)
            decisions += changes.decisions
            edits.append(changes.edit)
        edited = staged_copies.stage(self.postfix, decisions, self.staging)
        planned = Plan(decisions, edited, tuple(edits))
        return Proposal(
            planned,
            placed.table,
            lineage,
            path,
            bundle,
            renew.out_of_date(path, bundle),
            warnings,
            overridden,
            [*planned.notes(), *self._by_name(new, placed), *notes],
            changes,
            strict,
        )

    def _by_name(self, new: Deployed, placed: Placement) -> list[str]:
        """Say why a certificate is served via SNI only, and what that means."""
        if not placed.by_name:
            return []
        host = self.configuration.value("myhostname")
        told = (
            f"{new.path.stem} is served via SNI only, since it does not cover"
            f" myhostname ({host}): most mail servers send no server name, and get the"
            " default certificate; those that verify by MTA-STS or DANE send one"
        )
        return [told]

    def _placed(self, new: Deployed, wish: DeployOptions) -> Placement:
        """Decide where *new* is served; raise `Error` if it cannot be there."""
        standing = self.inventory.standing(new.path.stem, new.leaf.names)
        host = self.configuration.value("myhostname")
        now = datetime.now(timezone.utc)
        placed = placement.place(new, standing, host, now)
        if wish.replace:
            gone = (*placed.displaced, *placed.kept)
            placed = replace(placed, displaced=gone, kept=())
        else:
            self._refuse_loss(new, placed)
        if placed.by_name:
            placement.refuse(new, standing.default, host, self._no_table(wish))
        elif self._no_table(wish) and not standing.table:
            return replace(placed, table={})
        return placed

    def _leaves(self) -> dict[str, Certificate]:
        """Return the newest leaf certificate of each lineage."""
        found = ((each.name, each.leaf()) for each in self.inventory.lineages())
        return {name: leaf for name, leaf in found if leaf}

    def _kept(self, placed: Placement) -> tuple[chain_files.Half, ...]:
        return tuple(filter(None, map(self.inventory.half, placed.kept)))

    def _refuse_loss(self, new: Deployed, placed: Placement) -> None:
        """Raise `Error` if a certificate of the administrator's own cannot be kept.

        That is one half of an RSA and an ECDSA certificate, if it shares a file with
        the half that is replaced, or if the SNI table would hide it.
        """
        hidden = placement.shared(placed.kept, self.root) & placed.table.keys()
        lost = [
            each.path for each in placed.kept if hidden or not self.inventory.half(each)
        ]
        lost += [
            each.path
            for each in placed.displaced
            if not is_bundle(each.path, self.root)
            and not placement.useless([each], datetime.now(timezone.utc))
            and private_keys(each.path) > 1
        ]
        if not lost:
            return
        types = sorted({each.leaf.key_type for each in placed.kept} or {"other"})
        advice = "use --postfix-replace-default if that may be"
        if placed.kept:
            told = main_cf.second(new.leaf, types[0], self._leaves())
            advice += f", and {told}"
        raise Error(
            f"main.cf serves a second certificate by default, from {lost[0]}, which"
            f" cannot stay beside that of {new.path.stem}: clients that know no other"
            f" type of key ({', '.join(types)}) would get no TLS; no changes were made",
            hint=advice,
        )

    def _no_table(self, wish: DeployOptions) -> str:
        """Return why there may be no table of names, or nothing."""
        if not wish.by_name:
            return "--postfix-sni never rules out serving it via SNI"
        if SNI_MAPS not in self.configuration.defaults:
            return "Postfix before 3.4 has no SNI support"
        return ""

    def _conflicts(self, keys: set[str]) -> list[str]:
        answered = self.inventory.answered(keys)
        return [
            f"your own {table} in main.cf already has an entry for {key} and takes"
            f" precedence; this certificate will not be used for {key}"
            for key, table in sorted(answered.items())
        ]

    def apply(self, proposal: Proposal, checkpoint: Checkpoint) -> None:
        """Write the bundle, the table and main.cf; Postfix is not told yet."""
        self.postfix.refuse_elsewhere(self.configuration)
        self.serving.record_baseline(self.configuration)
        self.serving.refuse_refusals(self.configuration)
        self.written = not proposal.empty
        with self.serving.reporter.step("Writing files"):
            self._write(proposal, checkpoint)

    def _write(self, proposal: Proposal, checkpoint: Checkpoint) -> None:
        maps = (self.tables.databases, self.outbound.databases)
        self._change = change = Transaction(maps, checkpoint)
        if proposal.stale:
            change.put_bundle(proposal.path, proposal.bundle.pem)
        if proposal.table and not proposal.empty:
            self._build(proposal, change)
        if proposal.policies:
            self.outbound.build(proposal.policies, change.register)
        if not proposal.plan.empty:
            if self.serving.baseline:
                note = self.serving.baseline.note()
                checkpoint.before_change(self.postfix.main_cf, note)
            change.commit(proposal.plan)
            self.inventory.changed()

    def _build(self, proposal: Proposal, change: Transaction) -> None:
        form, table, changed = proposal.sni_map.map_type, proposal.table, None
        before = self.inventory.table
        if form == self.inventory.form and not before.keys() - table.keys():
            changed = sni.changed_keys(before, table, str(proposal.path))
        self.tables.build(form, table, changed, change.register)

    def serve(self, proposal: Proposal) -> None:
        """Make Postfix serve what was applied, and verify it."""
        new, table = Deployed(proposal.path, proposal.bundle.leaf), self.inventory.table
        answered = self.inventory.answered(renew.with_parents(set(new.leaf.names)))
        promises = renew.promised(self.inventory, table, [new], answered)
        paths = (self.postfix.main_cf, self.tables.path, proposal.path)
        if proposal.empty and self.serving.serves_already(
            self.configuration, promises, paths
        ):
            self.serving.reporter.say(
                f"Postfix serves the certificate for {new.leaf} already."
            )
        else:
            # certbot's own handler would swallow a signal here, and report success.
            with signals.interruptible():
                if proposal.empty:  # copies may be old
                    self.tables.build(proposal.sni_map.map_type, table)
                self.serving.reload_and_verify(
                    self.configuration, promises, Purpose.INSTALLED
                )
            self._tell_more(proposal)
        if proposal.strict:
            self._verify_refusals()
        self.tables.databases.discard_backups()
        try:
            self.renewals.renew_others([proposal.lineage])
        except Error as error:  # this instance is well, and stays so
            logger.error("%s", error)  # noqa: TRY400 - it is known why
        else:
            files.discard_backup(proposal.path)
        if proposal.policies:
            self.outbound.finish(proposal.policies)

    def _verify_refusals(self) -> None:
        chain = [each.leaf for each in self.inventory.default()]
        asked = refusals.questions(self.configuration, chain)
        with signals.interruptible():
            self.serving.verify_refusals(self.configuration, list(asked))

    def _tell_more(self, proposal: Proposal) -> None:
        options = " ".join(["", *self.configuration.certbot_options])
        self.serving.reporter.details(
            f"Bundle: {proposal.path}",
            f"Undo:   certbot rollback -i postfix{options}",
            f"Check:  certbot-postfix status{options}",
        )

    def undo(self) -> list[Path]:
        """Restore the bundle that `apply` replaced, once certbot restored the rest.

        Returns the files that were restored.
        """
        restored = self._change.undo() if self._change else []
        self._change = None
        return restored
