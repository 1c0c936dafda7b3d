"""Who else may write in a directory hinders a change at most, and no file of others is
touched."""

import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from certbot_postfix.change import staging as staged_copies
from certbot_postfix.change import transaction
from certbot_postfix.errors import Error
from certbot_postfix.postfix import databases
from certbot_postfix.postfix.databases import Databases
from certbot_postfix.postfix.decisions import Change
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.system import directories, files, new_file
from tests.lab import PrivatePostfix

NOBODY = pwd.getpwnam("nobody").pw_uid

DECISIONS = (Change("smtpd_tls_loglevel", None, "1", "it is seen"),)


@pytest.fixture
def path(base: Path) -> Path:
    """A file of nobody's, in a directory where nobody may write."""
    directory = base / "etc"
    directory.mkdir()
    path = directory / "main.cf"
    path.write_bytes(b"old")
    path.chmod(0o666)
    for each in (directory, path):
        os.chown(each, NOBODY, NOBODY)
    return path


class Swap:
    """Puts a link to *victim* in place of *name*, at a line of ours that is executed.

    It is the first one *when* says yes to, of the number of lines so far.
    """

    def __init__(self, name: Path, victim: Path, when: Callable[[int], bool]) -> None:
        self.name, self.victim, self.when = name, victim, when
        self.lines, self.done = 0, False

    def __enter__(self) -> "Swap":
        self.before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self.before)

    def _trace(self, frame: FrameType, event: str, _: object) -> Callable[..., Any]:
        ours = (files.__file__, new_file.__file__)
        if event == "line" and frame.f_code.co_filename in ours:
            if not self.done and self.when(self.lines):
                remove = self.name.rmdir if self.name.is_dir() else self.name.unlink
                with suppress(FileNotFoundError):
                    remove()
                self.name.symlink_to(self.victim)
                self.done = True
            self.lines += 1
        return self._trace


def write(verb: str, path: Path, saved: Path) -> None:
    if verb == "replace":
        files.replace(path, b"new", mode=0o644, cool=True)
    elif verb == "rewrite":
        files.rewrite(path, b"new")
    else:
        files.restore(path, saved)


@pytest.fixture
def victim(base: Path) -> Path:
    """A file of root's, for root alone."""
    victim = base / "victim"
    victim.write_bytes(b"precious")
    victim.chmod(0o600)
    os.utime(victim, (1, 1))
    return victim


def look(path: Path) -> tuple[object, ...]:
    status = path.lstat()
    mine = (status.st_mode, status.st_uid, status.st_mtime, os.listxattr(path))
    return (*mine, path.read_bytes())


@pytest.mark.parametrize("verb", ["replace", "rewrite", "restore"])
def test_a_swapped_temporary_file_changes_no_file_of_others(path, base, victim, verb):
    with suppress(OSError):  # not every file system has them
        os.setxattr(path, "user.note", b"mine")
    saved, before = base / "saved", look(victim)
    shutil.copy2(path, saved)

    for at in count():
        if path.is_symlink():  # rename(2) cannot be told which file is meant
            path.unlink()
        shutil.copy2(saved, path)
        os.chown(path, NOBODY, NOBODY)
        if verb == "restore":
            path.write_bytes(b"new")
        name = new_file.staging_name(path)
        with Swap(name, victim, at.__eq__) as swap, suppress(Error):
            write(verb, path, saved)

        assert look(victim) == before
        if not swap.done:
            break
    assert at > 10


@pytest.mark.parametrize("verb", ["replace", "rewrite", "restore"])
def test_what_is_put_in_place_of_a_new_file_is_not_renamed(path, base, victim, verb):
    saved = base / "saved"
    saved.write_bytes(b"older")
    name = new_file.staging_name(path)

    with (
        Swap(name, victim, lambda _: name.exists()),
        pytest.raises(Error, match="somebody else has changed it"),
    ):
        write(verb, path, saved)

    assert not path.is_symlink()
    assert path.read_bytes() == b"old"


def test_no_other_file_is_hidden_than_the_one_that_is_there(path, victim):
    victim.chmod(0o644)
    hidden = path.with_name("hidden")

    for at in count():
        hidden.unlink(missing_ok=True)
        hidden.touch(mode=0o644)
        with Swap(hidden, victim, at.__eq__) as swap, suppress(Error):
            files.hide(hidden)

        assert stat.S_IMODE(victim.stat().st_mode) == 0o644
        if not swap.done:
            break
    assert stat.S_IMODE(hidden.stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", ["directory", "link", "link to nothing", "full"])
def test_what_has_the_name_of_a_temporary_file_does_not_stop_a_run(path, base, kind):
    victim = base / "victim"
    victim.write_bytes(b"precious")
    for planted in (new_file.staging_name(path), files.backup_name(path)):
        if "link" in kind:
            planted.symlink_to(victim if kind == "link" else base / "nowhere")
        else:
            planted.mkdir()
            if kind == "full":
                (planted / "x").touch()

    files.back_up(path)
    files.replace(path, b"new", mode=0o600)
    assert path.read_bytes() == b"new"
    assert files.backup_of(path)
    files.restore_backup(path)

    assert path.read_bytes() == b"old"
    assert victim.read_bytes() == b"precious"
    assert not files.leftovers(path)
    assert not (base / "nowhere").exists()


def test_what_is_left_under_another_name_is_found_and_removed(path):
    new_file.staging_name(path).mkdir()
    files.backup_name(path).mkdir()
    other = new_file.staging_name(path).with_name(
        f"{new_file.staging_name(path).name}.0123abcd"
    )
    other.touch()
    planted = other.with_name(f"{other.name}.d")
    planted.mkdir()
    files.back_up(path)

    assert len(files.leftovers(path)) == 2
    files.remove(*files.leftovers(path))

    assert not files.leftovers(path)
    assert new_file.staging_name(path).is_dir()
    assert planted.is_dir()


@pytest.mark.parametrize("kind", ["directory of others", "link", "file", "FIFO"])
def test_what_has_the_name_of_the_place_for_maps_does_not_stop_a_run(base, kind):
    table = base / "certbot_sni"
    planted, elsewhere = databases.build_directory(table), base / "elsewhere"
    elsewhere.mkdir()
    if kind == "directory of others":
        planted.mkdir()
        (planted / "mine").touch()
        os.chown(planted, NOBODY, -1)
    elif kind == "link":
        planted.symlink_to(elsewhere)
    else:
        os.mkfifo(planted) if kind == "FIFO" else planted.touch()
    device = Databases(table)

    databases.remove_leftovers(table)
    with device.building(b"text", mode=0o600) as copy:
        assert copy.read_bytes() == b"text"
        copy.with_name("certbot_sni.db").write_bytes(b"built")
        device.install(copy, lambda _: None)

    assert table.with_name("certbot_sni.db").read_bytes() == b"built"
    assert list(elsewhere.iterdir()) == []
    assert kind != "directory of others" or (planted / "mine").exists()
    left = {table.with_name("certbot_sni.db"), planted, elsewhere}
    assert set(base.iterdir()) <= left


def test_maps_are_built_where_others_cannot_put_another_directory(path):
    table = path.with_name("certbot_sni")
    device = Databases(table)

    with device.building(b"text", mode=0o600) as copy:
        assert directories.is_guarded(copy.parent)
        copy.with_name("certbot_sni.db").write_bytes(b"built")
        device.install(copy, lambda _: None)

    database = table.with_name("certbot_sni.db")
    assert database.read_bytes() == b"built"
    assert not copy.parent.exists()


@pytest.mark.parametrize("whose", ["of another", "link", "below another's"])
def test_a_copy_is_not_staged_where_others_may_write(
    stopped_postfix: PrivatePostfix, base, whose
):
    postfix = Postfix(stopped_postfix.config_dir)
    stopped_postfix.settle()
    work, elsewhere = base / "work", base / "elsewhere"
    for each in (work, elsewhere):
        each.mkdir()
    staging = work / "postfix"
    if whose == "link":
        staging.symlink_to(elsewhere)
    else:
        staging.mkdir(mode=0o700)
    os.chown(elsewhere, NOBODY, NOBODY)
    os.chown(work if "below" in whose else staging, NOBODY, NOBODY)
    (staging / "certbot-postfix-x").mkdir()
    before = sorted(base.rglob("work/*")), sorted(elsewhere.iterdir())
    changed = [each.stat().st_mtime_ns for each in (staging, elsewhere)]

    edit = staged_copies.stage(postfix, DECISIONS, staging)
    transaction.remove_leftovers(postfix, [base / "none"], staging)

    assert b"smtpd_tls_loglevel = 1" in (edit.after or b"")
    assert (sorted(base.rglob("work/*")), sorted(elsewhere.iterdir())) == before
    assert [each.stat().st_mtime_ns for each in (staging, elsewhere)] == changed


def test_who_staged_where_all_may_write_does_so_for_himself_alone(
    stopped_postfix: PrivatePostfix, base
):
    staging = base / "work/postfix"
    staging.mkdir(parents=True)
    (staging / "stays").touch()
    staging.chmod(0o777)
    stopped_postfix.settle()

    staged_copies.stage(Postfix(stopped_postfix.config_dir), DECISIONS, staging)

    assert stat.S_IMODE(staging.stat().st_mode) == 0o700


# What a file system may do


PROGRAM = """
import sys
from pathlib import Path
from certbot_postfix.system import files
path = Path(sys.argv[1])
files.back_up(path)
files.replace(path, b"new", mode=0o600)
assert files.backup_of(path).read_bytes() == b"old"
assert files.backup_of(path).stat().st_mode & 0o777 == 0o640
files.restore_backup(path)
"""


@pytest.mark.parametrize("error", ["EPERM", "EOPNOTSUPP", "EMLINK"])
def test_without_hard_links_a_copy_is_kept(path, base, error):
    path.chmod(0o640)
    trace = base / "trace"
    inject = ("-e", f"inject=link,linkat:error={error}")
    command = (
        "strace",
        "-o",
        str(trace),
        *inject,
        sys.executable,
        "-c",
        PROGRAM,
        str(path),
    )

    subprocess.run(command, check=True, cwd=Path(__file__).parents[1])

    assert "(INJECTED)" in trace.read_text()
    assert path.read_bytes() == b"old"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.stat().st_uid == NOBODY
    assert list(path.parent.iterdir()) == [path]


def calls(base: Path, program: str, *arguments: Path) -> list[tuple[str, str]]:
    """Return what *program* asks the system for below *base*, and with what."""
    trace = base / "trace"
    wanted = "trace=link,linkat,rename,renameat,renameat2,fsync,mkdir"
    command = ["strace", "-y", "-o", str(trace), "-e", wanted, sys.executable]
    begin = "import sys; from pathlib import Path\nfrom certbot_postfix."

    subprocess.run(
        [*command, "-c", begin + program, *map(str, arguments)],
        check=True,
        cwd=Path(__file__).parents[1],
    )

    lines = [line for line in trace.read_text().splitlines() if str(base) in line]
    parts = [line.partition("(") for line in lines]
    return [(name.removesuffix("at"), rest) for name, _, rest in parts]


def test_a_directory_is_synced_after_what_was_renamed_in_it(base):
    program = (
        "change.transaction import Transaction\n"
        "Transaction(()).put_bundle(Path(sys.argv[1]), b'key')"
    )
    bundle = base / "bundles" / "mx.pem"

    found = calls(base, program, bundle)

    names = [name for name, _ in found]
    assert names == ["mkdir", "fsync", "fsync", "rename", "fsync"]
    assert f"<{base}>" in found[1][1]
    assert f"<{bundle.parent}>" in found[4][1]


@pytest.mark.parametrize(
    ("verbs", "expected"),
    [
        ("back_up(path)", ["link", "fsync"]),
        (
            "back_up(path); files.restore_backup(path)",
            ["link", "fsync", "rename", "fsync"],
        ),
        ("put(path.with_name('new'), path)", ["fsync", "rename", "fsync"]),
    ],
)
def test_what_is_kept_brought_back_or_put_in_place_outlives_a_crash(
    path, verbs, expected
):
    path.with_name("new").touch()

    found = calls(
        path.parent,
        f"system import files\npath = Path(sys.argv[1]); files.{verbs}",
        path,
    )

    assert [name for name, _ in found] == expected
    assert f"<{path.parent}>" in found[-1][1]


# A server that did what it was asked for, and whose answer was lost: it is asked again.
LOST = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
int rename(const char *a, const char *b) {
    int (*real)(const char *, const char *) = dlsym(RTLD_NEXT, "rename");
    real(a, b); errno = ENOENT; return -1;
}
int renameat(int c, const char *a, int d, const char *b) {
    int (*real)(int, const char *, int, const char *) = dlsym(RTLD_NEXT, "renameat");
    real(c, a, d, b); errno = ENOENT; return -1;
}
int link(const char *a, const char *b) {
    int (*real)(const char *, const char *) = dlsym(RTLD_NEXT, "link");
    real(a, b); errno = EEXIST; return -1;
}
"""


def test_a_rename_that_was_done_counts_though_it_is_reported_as_failed(path, base):
    if not shutil.which("cc"):
        pytest.skip("there is no C compiler")
    path.chmod(0o640)
    (base / "lost.c").write_text(LOST)
    library = base / "lost.so"
    build = ["cc", "-shared", "-fPIC", "-o", library, base / "lost.c", "-ldl"]
    subprocess.run(build, check=True)
    program = (
        f"{PROGRAM}\nfiles.rewrite(path, b'newest')\n"
        "files.back_up(path)\n"
        "assert files.backup_of(path).samefile(path)\n"
        "files.discard_backup(path)\n"
    )

    subprocess.run(
        [sys.executable, "-c", program, path],
        check=True,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "LD_PRELOAD": str(library)},
    )

    assert path.read_bytes() == b"newest"
    assert list(path.parent.iterdir()) == [path]


def test_no_other_directory_is_opened_to_all_than_the_one_that_is_made(path, base):
    private, new = base / "private", path.parent / ".well-known"
    private.mkdir(mode=0o700)

    for at in count():
        if new.is_symlink():
            new.unlink()
        elif new.exists():
            new.rmdir()
        with Swap(new, private, at.__eq__) as swap, suppress(Error):
            files.make_directory(new, 0o755)

        assert stat.S_IMODE(private.stat().st_mode) == 0o700
        if not swap.done:
            break
    assert at > 4
