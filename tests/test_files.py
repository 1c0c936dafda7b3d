"""Files are replaced whole, keep what they should, and are never seen half made."""

import os
import pwd
import shutil
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from certbot_postfix.errors import Error
from certbot_postfix.system import directories, files, new_file

NOBODY = pwd.getpwnam("nobody").pw_uid
TOO_MUCH = b"x" * 1_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An old file, alone in its directory."""
    directory = tmp_path / "etc"
    directory.mkdir()
    path = directory / "main.cf"
    path.write_bytes(b"old")
    ago(path, 60)
    return path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system of 64 KiB."""
    directory = tmp_path / "small"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(directory)]
    done = subprocess.run(mount, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@contextmanager
def immutable(path: Path) -> Iterator[None]:
    """Let not even root change *path*, where the file system can do that."""
    done = subprocess.run(["chattr", "+i", path], check=False, capture_output=True)
    if done.returncode:
        pytest.skip("no file is immutable on this file system")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", path], check=True)


def ago(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def look(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Return mode and content of each file in *directory*."""
    found = {}
    for entry in directory.iterdir():
        found[entry.name] = mode(entry), entry.read_bytes()
    return found


def watched(directory: Path, action: Callable[[], None]) -> list[dict]:
    """Return how *directory* looked before every line of Python that *action* ran."""
    seen = []

    def trace(*_: object):
        seen.append(look(directory))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return seen


def replace(path: Path, content: bytes) -> None:
    files.replace(path, content, mode=0o600)


WRITERS = [
    pytest.param(replace, id="replace"),
    pytest.param(files.rewrite, id="rewrite"),
]


# Whatever writes


@pytest.mark.parametrize("write", WRITERS)
def test_a_reader_sees_the_old_file_or_the_new_one(path, write):
    seen = watched(path.parent, lambda: write(path, b"new"))

    contents = [entries["main.cf"][1] for entries in seen]
    assert set(contents) <= {b"old", b"new"}
    assert contents == sorted(contents, reverse=True)
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("write", WRITERS)
def test_nothing_is_left_beside_a_written_file(path, write):
    write(path, b"new")

    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("write", WRITERS)
def test_a_full_disk_leaves_the_old_file_alone(small_disk, write):
    path = small_disk / "main.cf"
    path.write_bytes(b"old")

    with pytest.raises(Error, match=r"could not write .*main\.cf: No space left"):
        write(path, TOO_MUCH)

    assert look(small_disk) == {"main.cf": (0o644, b"old")}


@pytest.mark.parametrize("write", WRITERS)
def test_a_file_that_must_not_change_does_not(path, write):
    with immutable(path):
        with pytest.raises(Error, match="Operation not permitted"):
            write(path, b"new")

        assert look(path.parent) == {"main.cf": (0o644, b"old")}


@pytest.mark.parametrize("write", WRITERS)
def test_a_directory_that_must_not_change_does_not(path, write):
    with immutable(path.parent), pytest.raises(Error, match="not permitted"):
        write(path, b"new")

    assert look(path.parent) == {"main.cf": (0o644, b"old")}


def test_how_to_write_what_is_immutable_is_told(path):
    path.write_bytes(b"old")

    with immutable(path), pytest.raises(Error) as caught:
        files.replace(path, b"new", mode=0o600)

    assert "chattr -i" in caught.value.hint


@pytest.fixture
def mounted(path, tmp_path):
    """A file that is a mount point, as in a container."""
    path.write_bytes(b"old")
    other = tmp_path / "other"
    other.write_bytes(b"mounted")
    mount = ["mount", "--bind", str(other), str(path)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_why_a_mount_point_is_not_replaced_is_told(mounted):
    with pytest.raises(Error) as caught:
        files.replace(mounted, b"new", mode=0o600)

    assert f"findmnt {mounted}" in caught.value.hint


@pytest.mark.parametrize("write", WRITERS)
def test_what_a_killed_run_left_is_overwritten(path, write):
    new_file.staging_name(path).write_bytes(b"half")

    write(path, b"new")

    assert [entry.name for entry in path.parent.iterdir()] == ["main.cf"]


@pytest.mark.parametrize("write", WRITERS)
def test_a_link_that_waits_under_the_temporary_name_is_not_followed(path, write):
    victim = path.parent.parent / "victim"
    victim.write_bytes(b"precious")
    new_file.staging_name(path).symlink_to(victim)

    write(path, b"new")

    assert victim.read_bytes() == b"precious"
    assert path.read_bytes() == b"new"


# replace


def test_a_new_file_has_its_mode_from_the_first_byte(path):
    umask = os.umask(0)
    try:
        seen = watched(path.parent, lambda: replace(path.with_name("mx.pem"), b"key"))
    finally:
        os.umask(umask)

    modes = {
        entry[0] for entries in seen for entry in entries.values() if entry[1] != b"old"
    }
    assert modes == {0o600}
    assert look(path.parent)["mx.pem"] == (0o600, b"key")


def test_a_replaced_file_has_the_mode_that_is_asked_for(path):
    path.chmod(0o644)

    replace(path, b"new")

    assert mode(path) == 0o600


@pytest.mark.parametrize("write", [replace, files.rewrite])
def test_what_could_not_be_read_again_is_not_written(path, write):
    with pytest.raises(Error, match="it is longer than 268,435,456 bytes"):
        write(path, bytes(new_file.LARGEST + 1))

    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_a_directory_that_is_missing_is_named(tmp_path):
    path = tmp_path / "nowhere" / "mx.pem"

    with pytest.raises(Error, match=f"could not write {path}: No such file"):
        replace(path, b"key")


# rewrite


def test_a_rewritten_file_keeps_owner_group_and_mode(path):
    os.chown(path, NOBODY, pwd.getpwnam("postfix").pw_gid)
    path.chmod(0o640)
    before = path.stat()

    files.rewrite(path, b"new")

    after = path.stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (
        before.st_uid,
        before.st_gid,
        before.st_mode,
    )


def test_a_secret_file_is_never_open_to_others_while_it_is_rewritten(path):
    os.chown(path, NOBODY, -1)
    path.chmod(0o600)

    seen = watched(path.parent, lambda: files.rewrite(path, b"new"))

    assert {entry[0] for entries in seen for entry in entries.values()} == {0o600}


def entry(tag: int, permissions: int, who: int = 0xFFFFFFFF) -> bytes:
    return struct.pack("<HHI", tag, permissions, who)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("user.note", b"mine", id="a note"),
        pytest.param(
            "system.posix_acl_access",
            # acl(5): version, owner, nobody, group, mask, others
            struct.pack("<I", 2)
            + entry(0x01, 6)
            + entry(0x02, 4, NOBODY)
            + entry(0x04, 4)
            + entry(0x10, 4)
            + entry(0x20, 0),
            id="an access control list",
        ),
    ],
)
def test_a_rewritten_file_keeps_its_extended_attributes(path, name, value):
    try:
        os.setxattr(path, name, value)
    except OSError as error:
        pytest.skip(f"no {name} on this file system: {error}")
    before = mode(path)

    files.rewrite(path, b"new")

    assert os.getxattr(path, name) == value
    assert mode(path) == before


@pytest.mark.parametrize("age", [3600, 10, 2, 0, -3600])
def test_a_rewritten_file_is_always_younger_than_it_was(path, age):
    ago(path, age)
    before = path.stat().st_mtime

    files.rewrite(path, b"new")

    assert path.stat().st_mtime > before


@pytest.mark.parametrize("age", [3600, 10])
def test_postfix_need_not_wait_for_a_rewritten_file(path, age):
    ago(path, age)

    files.rewrite(path, b"new")

    # postconf 3.7 waits for files that are younger than two seconds.
    assert time.time() - path.stat().st_mtime > 2


def test_a_missing_file_is_not_rewritten(tmp_path):
    with pytest.raises(Error, match=r"could not write .*main\.cf: No such file"):
        files.rewrite(tmp_path / "main.cf", b"new")

    assert list(tmp_path.iterdir()) == []


# restore


@pytest.fixture
def saved(path: Path) -> Path:
    """A copy as certbot's Reverter makes it; *path* changed since."""
    os.chown(path, NOBODY, NOBODY)
    path.chmod(0o640)
    saved = path.parent.parent / "main.cf_0"
    shutil.copy2(path, saved)
    path.chmod(0o644)
    path.write_bytes(b"new")
    return saved


def test_restoring_brings_back_content_mode_owner_and_time(path, saved):
    files.restore(path, saved)

    status = path.stat()
    assert look(path.parent) == {"main.cf": (0o640, b"old")}
    assert (status.st_uid, status.st_gid) == (NOBODY, NOBODY)
    assert status.st_mtime == saved.stat().st_mtime


def test_a_reader_sees_the_new_file_or_the_restored_one(path, saved):
    seen = watched(path.parent, lambda: files.restore(path, saved))

    contents = [entries["main.cf"][1] for entries in seen]
    assert set(contents) == {b"old", b"new"}
    assert contents == sorted(contents)


def test_a_file_that_is_gone_is_restored(path, saved):
    path.unlink()

    files.restore(path, saved)

    assert look(path.parent) == {"main.cf": (0o640, b"old")}


def test_a_file_that_is_still_the_same_is_left_alone(path, saved):
    files.restore(path, saved)
    before = path.stat()

    files.restore(path, saved)

    # Reading it may change when it was last read.
    after = path.stat()
    assert (after.st_ino, after.st_ctime_ns) == (before.st_ino, before.st_ctime_ns)


def test_a_full_disk_does_not_hinder_restoring_what_is_still_the_same(small_disk):
    path, saved = small_disk / "main.cf", small_disk / "main.cf_0"
    path.write_bytes(b"old")
    shutil.copy2(path, saved)
    fill(small_disk)

    files.restore(path, saved)

    assert path.read_bytes() == b"old"


def fill(directory: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        (directory / "filler").write_bytes(TOO_MUCH)


def test_a_copy_that_is_gone_is_named(path):
    with pytest.raises(Error, match=f"could not restore {path}: No such file"):
        files.restore(path, path.with_name("main.cf_0"))

    assert path.read_bytes() == b"old"


# keep, bring_back


def test_what_was_kept_comes_back_itself(path):
    before = path.stat()
    files.back_up(path)
    replace(path, b"new")

    files.restore_backup(path)

    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert look(path.parent) == {"main.cf": (0o644, b"old")}


def test_the_last_kept_is_what_comes_back(path):
    files.back_up(path)
    replace(path, b"new")
    files.back_up(path)
    replace(path, b"newest")

    files.restore_backup(path)

    assert look(path.parent) == {"main.cf": (0o600, b"new")}


def test_what_was_kept_and_not_replaced_leaves_nothing_behind(path):
    files.back_up(path)

    files.restore_backup(path)

    assert look(path.parent) == {"main.cf": (0o644, b"old")}


def test_a_full_disk_hinders_neither_keeping_nor_bringing_back(small_disk):
    path = small_disk / "mx.pem"
    path.write_bytes(b"old")
    fill(small_disk)

    files.back_up(path)
    with pytest.raises(Error, match="No space left"):
        replace(path, TOO_MUCH)
    files.restore_backup(path)

    assert path.read_bytes() == b"old"
    assert not files.leftovers(path)


def test_what_was_made_on_another_file_system_is_put_in_place(small_disk, tmp_path):
    new = tmp_path / "new"
    new.write_bytes(b"built")
    new.chmod(0o640)

    files.put(new, small_disk / "certbot_sni.db")

    assert look(small_disk) == {"certbot_sni.db": (0o640, b"built")}


def test_nothing_comes_back_if_nothing_was_kept(path):
    with pytest.raises(Error, match=f"could not restore {path}: No such file"):
        files.restore_backup(path)

    assert path.read_bytes() == b"old"


# The rest


def test_what_a_killed_run_left_is_found(path):
    left = [new_file.staging_name(path), files.backup_name(path)]
    for each in (*left, files.backup_name(path.with_name("b.pem"))):
        each.touch()

    assert sorted(files.leftovers(path)) == sorted(left)


def test_a_name_with_a_star_does_not_mean_other_names(path):
    files.backup_name(path.with_name("www.example.org.pem")).touch()

    assert files.leftovers(path.with_name("*.example.org.pem")) == []


def test_what_killed_runs_left_in_a_directory_is_removed_by_kind(path):
    other = path.with_name("b.pem")
    for each in (
        new_file.staging_name(path),
        new_file.staging_name(other),
        files.backup_name(other),
    ):
        each.touch()

    files.remove_all(path.parent, new_file.NEW)

    assert set(path.parent.iterdir()) == {path, files.backup_name(other)}


def test_what_is_removed_is_gone_and_what_was_gone_is_no_error(path):
    files.remove(path, path.with_name("never there"))

    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "of the kernel"])
def test_what_is_longer_than_it_may_be_is_refused(path, kind):
    """proc(5): a file of the kernel has the size 0, whatever is in it."""
    place = path if kind == "file" else Path("/proc/version")

    with pytest.raises(Error, match=f"could not read {place}: .* 2 bytes"):
        files.read(place, most=2)


def test_a_directory_that_is_gone_is_nobody_s_and_not_guarded(tmp_path):
    gone = tmp_path / "gone"

    assert not directories.is_ours(gone)
    assert not directories.own(gone)
    assert not directories.is_guarded(gone)


def test_another_user_than_root_is_told_to_be_root(path):
    path.chmod(0o600)
    os.seteuid(NOBODY)
    try:
        with pytest.raises(Error) as caught:
            files.read(path)
    finally:
        os.seteuid(0)

    assert caught.value.message == f"could not read {path}: Permission denied"
    assert caught.value.hint == "run this command as root, for example with sudo"


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(Error, match=f"could not read {tmp_path}: Is a directory"):
        files.read(tmp_path)
