"""The command ``certbot-postfix checkpoints``: what a rollback would undo, one by one.

certbot has one sequence of checkpoints for all its installers, and undoes the newest
ones, whoever made them.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from certbot_postfix.change import checkpoint
from certbot_postfix.change.checkpoint import Record
from certbot_postfix.command_line import CERTBOT, Commands
from certbot_postfix.errors import shown
from certbot_postfix.inbound import bundles

WORK = "/var/lib/letsencrypt"


def declare(commands: Commands) -> None:
    """Declare the command."""
    command = commands.add_parser(
        "checkpoints",
        help="list what `certbot rollback` would undo",
        description="List certbot's checkpoints, the newest first: which of them are of"
        " this plugin, and what `certbot rollback` would undo. Read-only.",
    )
    command.add_argument(
        "--work-dir",
        metavar="DIR",
        type=os.path.abspath,
        default=WORK,
        help="certbot's working directory (default: %(default)s)",
    )
    command.set_defaults(command=_checkpoints)


def _checkpoints(arguments: argparse.Namespace) -> int:
    root = bundles.below(arguments.config_dir or CERTBOT)
    records = checkpoint.records(Path(arguments.work_dir, "backups"), root)
    text = "".join(f"{line}\n" for line in as_list(records))
    sys.stdout.write(shown(text, sys.stdout))
    return 0


def as_list(records: list[Record]) -> Iterator[str]:
    """Yield the lines that describe *records*, which are the newest first."""
    ours = [number for number, record in enumerate(records, 1) if record.ours]
    yield f"Checkpoints of certbot: {len(records)}, of this plugin: {len(ours)}"
    for number, record in enumerate(records, 1):
        maker = "this plugin" if record.ours else "another installer"
        yield f"{number:3}  {record.made:%Y-%m-%d %H:%M} UTC  {maker}"
        yield from (f"     restores {path}" for path in record.restores)
        yield from (f"     removes  {path}" for path in record.removes)
        yield from (f"     undoes   {change}" for change in record.changes)
    if ours:
        yield _hint(ours)


def _hint(ours: list[int]) -> str:
    command = f"certbot rollback -i postfix --checkpoints {ours[0]}"
    others = ours[0] - 1
    if not others:
        return f"Hint: {command} undoes the newest, --checkpoints N the newest N"
    return (
        f"Hint: {command} undoes the newest one of this plugin, and {others} of other"
        " installers that are newer"
    )
