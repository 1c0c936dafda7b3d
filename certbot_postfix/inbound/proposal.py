"""What is to be installed: the options of a deployment, and the plan made of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from certbot_postfix.change.plan import Edit, Plan
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.inbound.served import ServedFile
from certbot_postfix.inbound.sni import Table
from certbot_postfix.inbound.state import State
from certbot_postfix.options import ClientLevel, Profile
from certbot_postfix.outbound.update import Changes as PolicyChanges
from certbot_postfix.postfix.decisions import Override
from certbot_postfix.tls.bundle import Bundle


@dataclass(frozen=True, slots=True)
class DeployOptions:
    """What the administrator wants of a deployment.

    With *by_name*, a lineage may be served to those clients only that request its
    names; with *replace*, certificates of the administrator's own may go out of
    service.
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
    """The plan for *lineage*, made of the state *before*, and the bundle in its *path*.

    *table* is what the SNI map becomes.  *stale* means that the bundle is to be
    written.  *notes* say what is to be known, and asks for nothing; *policies* is what
    puts outbound policies in force, if they are to change.  If it is *strict*, what
    the profile excludes must be refused.  *by_name*: it is served via SNI only.
    """

    plan: Plan
    before: State
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
    by_name: bool = False

    @property
    def empty(self) -> bool:
        """Whether neither Postfix's files nor the bundle would change."""
        outdated = self.policies is not None and self.policies.stale
        return self.plan.empty and not self.stale and not outdated

    @property
    def sni_map(self) -> Edit:
        """What becomes of the SNI map."""
        return self.plan.maps[0]

    @property
    def new(self) -> ServedFile:
        """The bundle as Postfix will read it."""
        return ServedFile(self.path, self.bundle.leaf)
