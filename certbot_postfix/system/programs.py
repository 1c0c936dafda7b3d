"""The one door to other programs: no shell, no terminal, no stranger's environment.

Raises `ProgramError`, whose message has the command, fit to be pasted.
"""

import contextlib
import shlex
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping

from certbot import util

from certbot_postfix.errors import ProgramError, UnusableProgramError, named_logger

logger = named_logger(__name__)

# Seconds.  `postfix check` looks at every queue file: slow on a busy server.
TIMEOUT = 300

# Seconds for a program that was interrupted.
_TIDYING = 60

Done = subprocess.CompletedProcess[str]


def run(
    command: list[str],
    *,
    check: bool = True,
    text: str = "",
    timeout: float = TIMEOUT,
    environment: Mapping[str, str] | None = None,
) -> Done:
    """Run a program without a terminal, in an environment that we made.

    It reads *text*, and finds what *environment* adds.  With *check*, an exit status
    other than 0 raises.  What it prints may be in any encoding; bytes that are not
    UTF-8 become surrogates.
    """
    shown = shlex.join(command)
    logger.debug("running: %s", shown)
    with _explained(command, timeout):
        done = subprocess.run(
            command,
            capture_output=True,
            # Nothing to read is no pipe that somebody might wait for.
            **({"input": text} if text else {"stdin": subprocess.DEVNULL}),
            encoding="utf-8",
            errors="surrogateescape",
            env=_environment(**(environment or {})),
            timeout=timeout,
            check=False,
            # Ctrl-C is for us: a program that is under way ends its work.
            start_new_session=True,
        )
    if done.stderr.strip():
        logger.debug("%s", done.stderr.strip())
    if check and done.returncode:
        raise ProgramError(f"{shown} failed: {complaint(done)}")
    return done


def run_to_its_end(
    command: list[str],
    *,
    timeout: float,
    environment: Mapping[str, str],
    patience: float = 0,
) -> Done:
    """Run a program that has to tidy up, also if this process is interrupted.

    It may then go on for *patience* seconds.  After that, or when *timeout* is over, it
    gets SIGINT, as from Ctrl-C, and a minute to end.
    """
    logger.debug("running: %s", shlex.join(command))
    with (
        _explained(command, timeout),
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="surrogateescape",
            env=_environment(**environment),
            start_new_session=True,
        ) as process,
    ):
        try:
            said = process.communicate(timeout=timeout)
        except BaseException as error:
            late = isinstance(error, subprocess.TimeoutExpired)
            _end(process, 0 if late else patience)
            raise
    return Done(command, process.returncode, *said)


def _end(process: "subprocess.Popen[str]", patience: float) -> None:
    """Wait for *process* to end, then interrupt it as Ctrl-C does, then kill it."""
    if patience:
        logger.warning(
            "interrupted: waiting up to %g seconds for the program to finish", patience
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=patience)
            return
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=_TIDYING)
    process.kill()


@contextlib.contextmanager
def _explained(command: list[str], timeout: float) -> Iterator[None]:
    """Turn what hinders a program into an `Error`."""
    try:
        yield
    except subprocess.TimeoutExpired as error:
        message = f"{shlex.join(command)} did not end within {timeout:g} seconds"
        raise ProgramError(message) from error
    except FileNotFoundError as error:
        raise UnusableProgramError(
            f"the program {command[0]} was not found",
            hint="install it, or have PATH contain its directory",
        ) from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UnusableProgramError(
            f"the program {command[0]} cannot be executed: {reason}",
            hint="check its permissions, and that it is made for this machine",
        ) from error


def beginning(command: list[str], most: int, *, timeout: float) -> bytes:
    """Return the first bytes that a program prints, *most* of them; b"" if it fails.

    It is ended when it has printed more, or after *timeout* seconds.
    """
    logger.debug("running: %s", shlex.join(command))
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            start_new_session=True,
        )
    except OSError as error:
        logger.debug("%s: %s", command[0], error)
        return b""
    alarm = threading.Timer(timeout, process.kill)
    alarm.start()
    try:
        with process:
            text = process.stdout.read(most) if process.stdout else b""
            process.kill()
    finally:
        alarm.cancel()
    return text


def _environment(**more: str) -> dict[str, str]:
    outside = util.env_no_snap_for_external_calls()
    kept = ("PATH", "LD_LIBRARY_PATH", "TZ")
    inherited = {name: outside[name] for name in kept if name in outside}
    return {**inherited, "LC_ALL": "C", **more}


def complaint(done: Done) -> str:
    """Return in one line what the program complained of."""
    return complaints(done) or NO_REASON


# Up to 3.7, postfix(1) tells its reasons to a terminal or to the mail log only.
NO_REASON = "no reason given, see the mail log"


def complaints(done: Done) -> str:
    """Return in one line what the program complained of, empty if of nothing.

    postconf(1) may warn of many unused parameters: that is never the reason.
    """
    lines = done.stderr.splitlines()
    told = dict.fromkeys(line for line in lines if "unused parameter: " not in line)
    return " ".join(" ".join(told).split()).removeprefix("postconf: ")
