"""What the commands of certbot-postfix have in common.

Results go to standard output, messages to standard error; exit status 0 is success, 1 a
failure, 2 a usage error, and 3 success that needs attention.
"""

import argparse
import difflib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from certbot_postfix import options
from certbot_postfix.errors import Error, shown

# argparse has no public name for what `add_subparsers` returns.
Commands = Any

# Exit status: it succeeded, and needs attention.
ATTEND = 3

# Where certbot keeps its files, if --config-dir names no other directory.
CERTBOT = "/etc/letsencrypt"

_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_CHOICE = re.compile(r"invalid choice: '(.*?)'.*\(choose from (.*)\)", re.DOTALL)

_FORMER = {
    "--certbot-config-dir": "\nHint: --config-dir is certbot's directory, and"
    " --postfix-config-dir is Postfix's",
}


class Parser(argparse.ArgumentParser):
    """A parser that offers what a misspelt command or option resembles.

    `argparse` has something like that since Python 3.14, for commands.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # What is short for one option today may be ambiguous tomorrow.
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})
        self.commands: dict[str, Parser] = {}
        self.metavar = ""
        self.set_defaults(parser=self)

    def add_commands(self, metavar: str) -> Commands:
        """Return where commands are added; without one, the help is printed."""
        commands = self.add_subparsers(metavar=metavar)
        self.commands, self.metavar = commands.choices, metavar
        self.set_defaults(command=_print_help)
        return commands

    def every(self) -> "Iterable[Parser]":
        """Yield this parser, and those of all commands."""
        yield self
        for command in self.commands.values():
            yield from command.every()

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Return what *argv* says; exit with status 2 if that is nothing."""
        for word in argv:
            if word in self.commands:
                break
            if word.startswith("--"):  # or its value would be taken for a command
                self._refuse_unknown(word)
        arguments, unknown = self.parse_known_args(argv)
        if unknown:
            arguments.parser._refuse_unknown(unknown[0])  # noqa: SLF001 - a peer
            arguments.parser.error(f"unexpected argument: {unknown[0]}")
        return arguments

    def _refuse_unknown(self, word: str) -> None:
        option = word.partition("=")[0]
        plain = _COLOUR.sub("", self.format_help())  # since Python 3.14
        known = set(_OPTION.findall(plain))
        if option.startswith("-") and option not in known:
            hint = _FORMER.get(option) or _resembling(option, known)
            self.error(f"unknown option: {option}{hint}")

    def error(self, message: str) -> NoReturn:
        """Exit with status 2, after the usage and *message*."""
        if choice := _CHOICE.search(message):
            if message.startswith(f"argument {self.metavar}: "):
                message = f"unknown command: {choice[1]}"
            message += _resembling(choice[1], re.findall(r"[\w-]+", choice[2]))
        super().error(shown(message, sys.stderr))


def _resembling(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"\nHint: did you mean {close[0]}?" if close else ""


def _print_help(arguments: argparse.Namespace) -> int:
    arguments.parser.print_help(sys.stderr)
    return 2


def say(text: str) -> None:
    """Write *text* to standard error, as a message of the command."""
    print(shown(f"certbot-postfix: {text}", sys.stderr), file=sys.stderr)


def require_root() -> None:
    """Raise `Error` unless the user is root."""
    if os.geteuid() != 0:
        raise Error("this command must be run as root", hint="use sudo")


def declare_common(parser: argparse.ArgumentParser, default: object) -> None:
    """Declare what stands before or after a command."""
    parser.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        default=default,
        help="print details, too",
    )
    directories = parser.add_argument_group("directories")
    directories.add_argument(
        "--config-dir",
        metavar="DIR",
        type=_of_certbot,
        default=default,
        help=f"certbot's configuration directory (default: {CERTBOT})",
    )
    directories.add_argument(
        "--postfix-config-dir",
        metavar="DIR",
        type=os.path.abspath,
        default=default,
        help="Postfix's configuration directory (default: as reported by postconf)",
    )


def _of_certbot(text: str) -> str:
    path = os.path.abspath(text)  # noqa: PTH100 - links stay as they are
    if any(Path(path, name).exists() for name in ("main.cf", "master.cf")):
        raise argparse.ArgumentTypeError(
            f"{text} is Postfix's configuration directory, not certbot's"
            f"\nHint: use --postfix-config-dir {text}"
        )
    return path


def declare_timeout(command: argparse.ArgumentParser) -> None:
    """Declare how long a command waits for Postfix to serve what it should."""
    command.add_argument(
        "--verify-timeout",
        metavar="S",
        type=options.seconds,
        default=20,
        help="seconds to wait for every service to present the certificate; 0 skips"
        " verification (default: %(default)s)",
    )


def declare_confirmation(command: argparse.ArgumentParser) -> None:
    """Declare how a command is kept from asking: as certbot is."""
    command.add_argument(
        "-n",
        "--non-interactive",
        action="store_true",
        help="do not ask, as without a terminal",
    )


def can_ask(arguments: argparse.Namespace) -> bool:
    """Whether somebody at a terminal can be asked."""
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    return terminal and not arguments.non_interactive


def confirm(question: str, arguments: argparse.Namespace) -> None:
    """Ask *question* on a terminal; end the command on a no."""
    if not can_ask(arguments):
        return
    answer = ""
    while answer not in ("y", "yes", "n", "no"):
        try:
            answer = input(f"{question} (Y)es/(N)o: ").strip().lower()
        except EOFError:
            sys.stdout.write("\n")  # Ctrl-D does not end the line
            answer = "no"
    if answer in ("n", "no"):
        say("Cancelled. No changes were made.")
        raise SystemExit(1)
