"""Whether the administrator wants a plan: what he is shown of it, and the question."""

from collections.abc import Callable

from certbot.display import util as display_util

from certbot_postfix.errors import Error, named_logger
from certbot_postfix.inbound.proposal import Proposal

logger = named_logger(__name__)


def ask(
    proposal: Proposal, notify: Callable[[str], None], command: str, *, ignoring: bool
) -> None:
    """Show the diff of *proposal*, and what is to be known of it; ask.

    *ignoring* makes overrides in master.cf notes.  Raises `Error` on a no, with the
    *command* that does it later.
    """
    notify(
        proposal.plan.diff()
        or f"{proposal.plan.main_cf.path} is already configured for"
        f" {proposal.lineage.name}."
    )
    for warning in proposal.warnings:
        logger.warning("%s", warning)
    for override in proposal.overrides:
        if override.harmless:
            logger.info("%s", override)  # certbot's -v
        elif ignoring:
            notify(f"Note: {override}")
        else:
            logger.warning("%s", override)
    for note in proposal.notes:
        notify(f"Note: {note}.")
    question = "Apply these changes and reload Postfix?"
    if not proposal.plan.empty and not display_util.yesno(question, default=True):
        raise Error(
            "Cancelled. No changes were made.",
            hint=f"to install it later: {command}",
        )
