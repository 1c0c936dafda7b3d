"""A copy of the configuration, on which Postfix's own programs edit and judge.

Nothing live changes.  What is accepted there is what becomes of main.cf.
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from string import whitespace

from certbot_postfix.change.plan import Edit
from certbot_postfix.errors import Error, MisconfiguredError
from certbot_postfix.postfix.decisions import Change, CommentOut, Decision, Remove
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.system import directories, files, new_file

# How the name of a staged copy begins; certbot's work directory may hold other things.
_STAGED = "certbot-postfix-"


def stage(
    postfix: Postfix, decisions: tuple[Decision, ...], directory: Path | None
) -> Edit:
    """Carry *decisions* out on a copy of the configuration, which Postfix must accept.

    The copy lives below *directory* (None: where temporary files go), and is gone when
    this returns.  Returns what becomes of main.cf.
    """
    main_cf = postfix.main_cf
    before = files.read(main_cf)
    if directory and set(str(directory)) & set(whitespace):
        directory = None  # Postfix's own scripts do not quote it
    if not any(isinstance(item, Change | CommentOut | Remove) for item in decisions):
        return Edit(main_cf, before, before)
    with _copy(postfix, before, directory) as staged, _named(staged, postfix):
        after = _edited(staged, before, decisions)
        _check(staged, postfix)
    return Edit(main_cf, before, after)


def _edited(staged: Postfix, before: bytes, decisions: Collection[Decision]) -> bytes:
    """Carry *decisions* out on *staged*; return what main.cf is then."""
    changes = [item for item in decisions if isinstance(item, Change)]
    values = {item.name: item.new for item in changes}
    retired = [item.name for item in decisions if isinstance(item, CommentOut)]
    removed = [item.name for item in decisions if isinstance(item, Remove)]
    if values:
        staged.edit(values)
    if retired:
        staged.comment_out(retired)
    if removed:
        staged.remove(removed)
    added = sum(item.old is None for item in changes)
    edited = _sorted_end(files.read(staged.directory / "main.cf"), added)
    after = _in_style(before, edited)
    _write(staged.directory / "main.cf", after)
    _accept(staged, values, [*retired, *removed])
    return after


def remove_leftovers(directory: Path) -> None:
    """Remove the staged copies that killed runs left below *directory*."""
    if _is_safe(directory):
        for copy in directory.glob(f"{_STAGED}*"):
            shutil.rmtree(copy, ignore_errors=True)
        _rmdir(directory)


@contextlib.contextmanager
def _copy(
    postfix: Postfix, main_cf: bytes, directory: Path | None
) -> Iterator[Postfix]:
    with contextlib.ExitStack() as stack:
        with files.explained(
            "stage a copy in", directory or Path(tempfile.gettempdir())
        ):
            if directory:
                with contextlib.suppress(FileExistsError):
                    directory.mkdir(mode=0o700)
                stack.callback(_rmdir, directory)
                # What others can change must not become main.cf.
                directory = directory if _is_safe(directory) else None
            name = tempfile.TemporaryDirectory(dir=directory, prefix=_STAGED)
            staged = postfix.at(Path(stack.enter_context(name)))
        # postconf before 3.7.15 would glue what it adds to a last line without end.
        ended = main_cf if main_cf.endswith(b"\n") else main_cf + b"\n"
        _write(staged.directory / "main.cf", ended)
        _write(
            staged.directory / "master.cf", files.read(postfix.directory / "master.cf")
        )
        yield staged


def _is_safe(directory: Path) -> bool:
    return directories.is_guarded(directory.parent) and directories.own(directory)


def _rmdir(directory: Path) -> None:
    with contextlib.suppress(OSError):  # somebody else's copy is there
        directory.rmdir()


def _write(path: Path, content: bytes) -> None:
    with files.explained("write", path):
        path.write_bytes(content)
        cool = time.time() - new_file.COOL
        os.utime(path, (cool, cool))


def _sorted_end(text: bytes, count: int) -> bytes:
    """Sort the last *count* lines, which postconf appended.

    Before 3.7.17 and its contemporaries, it does so in an order of chance.
    """
    lines = text.splitlines(keepends=True)
    start = len(lines) - count
    return b"".join(lines[:start] + sorted(lines[start:]))


def _in_style(before: bytes, after: bytes) -> bytes:
    """Give the text that postconf made of *before* its line ends again."""
    last = before.rpartition(b"\n")[2]
    if last and after.endswith(b"\n" + last + b"\n"):
        after = after[:-1]
    lines = before.count(b"\n")
    if lines and before.count(b"\r\n") == lines:
        after = after.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    return after


def _accept(staged: Postfix, changes: dict[str, str], retired: list[str]) -> None:
    explicit = staged.explicit()
    wrong = {name for name, new in changes.items() if explicit.get(name) != new}
    wrong |= set(retired) & set(explicit)
    if wrong:
        raise MisconfiguredError(
            f"postconf did not apply {', '.join(sorted(wrong))}; no changes were made"
        )


def _check(staged: Postfix, postfix: Postfix) -> None:
    """Raise `MisconfiguredError` unless Postfix accepts *staged*, a copy of *postfix*.

    If the live configuration was not accepted either, the message says that instead.
    """
    try:
        staged.check()
    except MisconfiguredError as refused:
        try:
            postfix.check()
        except MisconfiguredError as error:
            message = error.message.replace("` fails for", "` already fails for")
            error.message = f"{message}; no changes were made"
            raise
        _, _, reason = refused.message.partition(": ")
        raise MisconfiguredError(
            f"`postfix check` rejects the new configuration: {reason}; no changes were"
            " made"
        ) from refused


@contextlib.contextmanager
def _named(staged: Postfix, postfix: Postfix) -> Iterator[None]:
    """Let errors name the directory of *postfix*, since that of *staged* is gone."""
    try:
        yield
    except Error as error:
        gone, there = str(staged.directory), str(postfix.directory)
        error.message = error.message.replace(gone, there)
        error.hint = error.hint.replace(gone, there)
        raise
