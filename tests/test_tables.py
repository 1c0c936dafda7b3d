"""The table of names on disk: whole or as it was, whatever postmap(1) makes of it.

postmap is the real one; where it is to fail, a script that disturbs it stands in front.
No Postfix runs, and of a configuration there is an empty main.cf.
"""

import base64
import itertools
import os
import re
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from certbot_postfix.change.plan import Edit
from certbot_postfix.change.transaction import Transaction
from certbot_postfix.errors import Error
from certbot_postfix.inbound import sni
from certbot_postfix.inbound.sni_map import SniMap
from certbot_postfix.postfix import databases
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.system import files, new_file
from tests.lab.machine import wait_until
from tests.lab.postfix import snapshot
from tests.lab.postmap import SUFFIXES, Call, Postmap, needs

FORMS = list(SUFFIXES)

# Of those, a database can be changed for some names; a cdb is always made anew.
CHANGEABLE = [form for form in FORMS if form != "cdb"]

COUNT = 40


def write(device: SniMap, table: sni.Table) -> None:
    """Write the text of *table*; the old one is backed up."""
    edit = Edit(device.path, device.text(), sni.render(table))
    Transaction((device.databases,)).write(edit)


class Place:
    """A configuration directory below *base*, and a table of `COUNT` names."""

    def __init__(self, base: Path) -> None:
        self.directory = base / "etc"
        self.directory.mkdir()
        self.postmap = Postmap(base / "programs")
        self.bundles = base / "bundles"
        self.bundles.mkdir()
        main_cf = self.directory / "main.cf"
        main_cf.touch()
        past = time.time() - 10  # or postmap waits for seconds
        os.utime(main_cf, (past, past))
        self.path = self.directory / sni.NAME
        self.table = {name: self.bundle(name) for name in map(name_of, range(COUNT))}
        self.one = name_of(7)

    def bundle(self, name: str, version: int = 1) -> tuple[str, ...]:
        """Write what is a bundle for postmap, which does not look into it."""
        path = self.bundles / f"{name}.pem"
        path.touch(mode=0o600)
        path.write_text(f"PRIVATE KEY {version} of {name}\n" * 60)
        return (str(path),)

    def renew(self, *names: str) -> None:
        for name in names:
            self.bundle(name, 2)

    @property
    def tables(self) -> SniMap:
        """The device, as a new run of the product has it."""
        postconf = self.postmap.directory / "postconf"  # postmap is beside it
        return SniMap(Postfix(self.directory, postconf=str(postconf)))

    def database(self, form: str) -> Path:
        return self.path.with_name(self.path.name + SUFFIXES[form])

    def build(self, form: str, *changed: str, device: SniMap | None = None) -> None:
        """Build, for the names that *changed* only if there are some."""
        needs(form)
        device = device or self.tables
        write(device, self.table)
        device.build(form, self.table, changed or None)

    def found(self, form: str) -> dict[str, str]:
        """Return what Postfix finds for each name, without help of the product."""
        done = subprocess.run(
            ["postmap", "-c", str(self.directory), "-q", "-", f"{form}:{self.path}"],
            check=True,
            input="".join(f"{name}\n" for name in self.table),
            capture_output=True,
            text=True,
        )
        assert not done.stderr
        pairs = (line.split("\t") for line in done.stdout.splitlines())
        return {name: base64.b64decode(value).decode() for name, value in pairs}

    def wanted(self) -> dict[str, str]:
        """Return what is in the bundles."""
        return {name: Path(path).read_text() for name, (path,) in self.table.items()}


def name_of(number: int) -> str:
    return f"mx{number}.example.net"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Bundles, a table that is not written yet, and no database."""
    return Place(tmp_path)


def names(place: Place) -> set[str]:
    """Return the names of all files that have to do with the table."""
    return {path.name for path in place.directory.iterdir()} - {"main.cf"}


def readable(place: Place) -> list[str]:
    """Return what others may read."""
    return [
        name
        for name, entry in snapshot(place.directory).items()
        if entry.mode & 0o077 and name not in (".", "main.cf")
    ]


def identity(path: Path) -> tuple[int, bytes, int]:
    status = path.stat()
    return status.st_ino, path.read_bytes(), stat.S_IMODE(status.st_mode)


# Building


@pytest.mark.parametrize("form", FORMS)
def test_a_database_has_the_content_of_each_bundle(place, form):
    place.build(form)

    assert place.found(form) == place.wanted()
    assert names(place) == {sni.NAME, place.database(form).name}
    assert readable(place) == []


@pytest.mark.parametrize("form", ["", "texthash"])
def test_text_needs_no_database(place, form):
    place.build(form)

    assert names(place) == {sni.NAME}
    assert readable(place) == []


@pytest.mark.parametrize("form", CHANGEABLE)
def test_of_a_large_table_only_the_names_that_changed_are_read_anew(place, form):
    place.build(form)
    old = place.wanted()
    place.renew(*place.table)

    place.build(form, place.one)

    assert place.found(form) == {**old, place.one: place.wanted()[place.one]}


def test_a_database_that_cannot_be_changed_is_made_anew(place):
    place.build("cdb")
    place.renew(*place.table)

    place.build("cdb", place.one)

    assert place.found("cdb") == place.wanted()


@pytest.mark.parametrize("form", FORMS)
def test_where_many_names_changed_all_are_read_anew(place, form):
    place.build(form)
    place.renew(*place.table)

    place.build(form, *list(place.table)[: COUNT // 2])

    assert place.found(form) == place.wanted()


@pytest.mark.parametrize("form", FORMS)
def test_a_name_that_is_new_enters_the_database(place, form):
    place.build(form)
    place.table["new.example.net"] = place.bundle("new.example.net")

    place.build(form, "new.example.net")

    assert place.found(form) == place.wanted()


@pytest.mark.parametrize("form", FORMS)
def test_a_name_that_left_the_table_leaves_the_database(place, form):
    place.build(form)
    gone = place.table.pop(place.one)

    place.build(form)

    assert place.found(form) == place.wanted()
    place.table[place.one] = gone
    assert place.one not in place.found(form)


@pytest.mark.parametrize("form", CHANGEABLE)
def test_a_database_that_is_missing_is_made_of_the_whole_table(place, form):
    place.build(form)
    place.database(form).unlink()

    place.build(form, place.one)

    assert place.found(form) == place.wanted()


@pytest.mark.parametrize("form", ["cdb", "texthash"])
@pytest.mark.parametrize("verified", [True, False])
def test_a_database_of_another_type_is_removed_once_the_new_one_is_verified(
    place, form, verified
):
    place.build("hash")
    place.tables.databases.discard_backups()
    before = snapshot(place.directory)
    device = place.tables

    place.build(form, device=device)

    assert place.found("hash") == place.wanted()  # main.cf may still name it
    if verified:
        device.databases.discard_backups()
        new = {place.database(form).name} if form in SUFFIXES else set()
        assert names(place) == {sni.NAME, *new}
    else:
        device.databases.restore_backups()
        device.databases.discard_backups()
        assert snapshot(place.directory) == before


@pytest.mark.parametrize("changed", [(), (name_of(7),)], ids=["whole", "one name"])
@pytest.mark.parametrize("form", FORMS)
def test_a_database_is_never_changed_in_place(place, form, changed):
    place.build(form)
    database = place.database(form)
    before = identity(database)
    kept = database.with_name("kept")
    os.link(database, kept)
    place.renew(place.one)

    place.build(form, *changed)

    assert identity(kept) == before
    assert database.stat().st_ino != before[0]
    assert place.found(form) == place.wanted()


def test_where_postmap_puts_a_database_is_left_to_it(place):
    # As Postfix 3.11 does it after `postfix non-bdb enable-redirect`.
    place.build("hash")
    place.postmap.disturb(
        """
        for argument; do
            shift
            set -- "$@" "$(echo "$argument" | sed s/^hash:/lmdb:/)"
        done
        exec "$@"
        """,
        questions=True,
    )
    place.renew(place.one)
    device = place.tables

    place.build("hash", place.one, device=device)

    assert place.found("lmdb") == place.wanted()
    device.databases.discard_backups()
    assert not place.database("hash").exists()

    place.renew(name_of(8))
    old = place.found("lmdb")
    place.build("hash", name_of(8))

    assert place.found("lmdb") == {**old, name_of(8): place.wanted()[name_of(8)]}


# Undoing


@pytest.mark.parametrize("form", FORMS)
def test_an_undo_brings_back_text_and_database_byte_for_byte(place, form):
    place.build(form)
    place.tables.databases.discard_backups()
    before = snapshot(place.directory)
    place.renew(place.one)
    place.table["new.example.net"] = place.bundle("new.example.net")
    device = place.tables
    place.build(form, place.one, "new.example.net", device=device)

    assert device.databases.restore_backups()

    assert snapshot(place.directory) == before
    assert not device.databases.restore_backups()


@pytest.mark.parametrize("form", FORMS)
def test_what_is_proven_leaves_no_old_one(place, form):
    place.build(form)
    place.renew(place.one)
    place.build(form, place.one)

    place.tables.databases.discard_backups()

    assert names(place) == {sni.NAME, place.database(form).name}


@pytest.mark.parametrize("form", FORMS)
def test_a_text_that_was_restored_gets_the_database_that_it_says(place, form):
    place.build(form)
    text, old = place.path.read_bytes(), place.wanted()
    before, place.table[place.one] = dict(place.table), place.bundle("other")
    place.build(form, place.one)
    place.tables.databases.discard_backups()
    another, place.table = place.table, before
    files.replace(place.path, text, mode=0o600)

    place.tables.rebuild(form, another)

    assert place.found(form) == old


def test_a_database_that_is_missing_is_made_again_though_the_text_is_the_same(place):
    place.build("hash")
    place.tables.databases.discard_backups()
    place.database("hash").unlink()

    place.tables.rebuild("hash", place.table)

    assert place.found("hash") == place.wanted()


def test_a_database_that_another_run_has_left_unproven_is_made_of_the_text(place):
    place.build("hash")
    place.tables.databases.discard_backups()
    old = place.wanted()
    place.tables.build("hash", {**place.table, place.one: place.bundle("other")})

    place.tables.rebuild("hash", place.table)

    assert place.found("hash") == old


def test_a_rebuild_after_an_undo_starts_no_program(place):
    place.build("hash")
    place.tables.databases.discard_backups()
    old, before = place.found("hash"), identity(place.database("hash"))
    place.renew(place.one)
    device = place.tables
    place.build("hash", place.one, device=device)
    place.postmap.disturb("exit 1")

    device.rebuild("hash", place.table)

    assert place.found("hash") == old
    assert identity(place.database("hash")) == before


def test_a_table_is_removed_with_its_databases(place):
    place.build("hash")
    place.build("cdb")
    place.tables.databases.discard_backups()

    place.tables.databases.remove()

    assert names(place) == set()


# Texts


def test_a_table_that_is_not_ours_is_not_read(place):
    place.path.write_text("mx.example.net /their/bundle.pem\n")

    with pytest.raises(Error, match="was not written by this plugin") as caught:
        place.tables.read()

    assert str(place.path) in caught.value.message
    assert place.tables.read_ours() == {}


def test_a_text_is_for_root_alone_and_old_enough_to_be_read_at_once(place):
    write(place.tables, place.table)
    place.path.chmod(0o644)

    write(place.tables, place.table)

    status = place.path.stat()
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert time.time() - status.st_mtime > 2 or status.st_mtime > time.time()


@pytest.mark.parametrize("form", ["texthash", *FORMS])
def test_an_answer_is_told_for_the_names_that_are_there(place, form):
    place.build(form)

    found = place.tables.postfix.answers(
        f"{form}:{place.path}", {place.one, "not.there"}
    )

    assert found.keys() == {place.one}


# What goes wrong


@contextmanager
def refused(place: Place, form: str, *words: str) -> Iterator[None]:
    """See that an `Error` with *words* is raised, and that all is as it was.

    No key is told.  After that, and once it is possible again, the same is done.
    """
    before, served = snapshot(place.directory), place.found(form)
    with pytest.raises(Error) as caught:
        yield
    told = f"{caught.value}{caught.value.hint}{caught.value.__cause__}"
    for word in words:
        assert word in told
    assert "PRIVATE KEY" not in told
    assert secret(place.one)[:20] not in told
    assert snapshot(place.directory) == before
    assert place.found(form) == served


def secret(name: str) -> str:
    text = f"PRIVATE KEY 1 of {name}\n" * 60
    return base64.b64encode(text.encode()).decode()


def a_missing_bundle(path: Path) -> None:
    path.unlink()


def an_empty_bundle(path: Path) -> None:
    path.write_text("")


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_link_to_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


@pytest.mark.parametrize(
    "fault", [a_missing_bundle, an_empty_bundle, a_directory, a_link_to_nowhere]
)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("changed", [(), (name_of(7),)], ids=["whole", "one name"])
def test_instead_of_a_bundle_nothing_is_built_of(place, form, changed, fault):
    place.build(form)
    path = Path(place.table[place.one][0])
    fault(path)
    device = place.tables

    with refused(place, form, str(path)):
        device.build(form, place.table, changed or None)

    path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
    place.renew(place.one)
    place.build(form, *changed)
    assert place.found(form) == place.wanted()


@pytest.mark.parametrize("form", FORMS)
def test_a_name_that_is_there_twice_is_refused(place, form):
    place.build(form)
    path = str(place.bundles / "other.pem")
    place.bundle("other")
    twice = {**place.table, place.one.upper(): (path,)}

    with refused(place, form, "duplicate", place.one):
        place.tables.build(form, twice)


DEPRECATED = 'echo "postmap: warning: hash/btree support is deprecated." >&2'


@pytest.mark.parametrize("changed", [(), (name_of(7),)], ids=["whole", "one name"])
@pytest.mark.parametrize("form", FORMS)
def test_a_notice_of_postmap_is_no_failure(place, form, changed):
    place.build(form)
    place.renew(place.one)
    place.postmap.disturb(f'{DEPRECATED}; exec "$@"', questions=True)

    place.build(form, *changed)

    assert place.found(form) == place.wanted()


def test_after_a_notice_every_entry_must_be_there(place):
    place.build("lmdb")
    place.tables.databases.discard_backups()
    place.renew(place.one)
    lossy = 'for argument; do :; done; sed -i /mx3/d "${argument#*:}"; exec "$@"'
    place.postmap.disturb(f"{DEPRECATED}; {lossy}")

    with refused(place, "lmdb", "did not write", "support is deprecated"):
        place.tables.build("lmdb", place.table)


@contextmanager
def no_space(directory: Path, free: int) -> Iterator[None]:
    """Have *directory* on a full disk of its own, but for *free* bytes."""
    archive = subprocess.run(
        ["tar", "-c", "-C", directory, "."], check=True, capture_output=True
    ).stdout
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m,mode=755", "none", directory],
        check=True,
    )
    try:
        subprocess.run(["tar", "-xp", "-C", directory], check=True, input=archive)
        filler = directory.joinpath("filler")
        status = os.statvfs(directory)
        filler.write_bytes(bytes(status.f_bavail * status.f_frsize - free))
        yield
        filler.unlink()
    finally:
        # A Postfix that was stopped may take a moment to let go of it.
        umount = ["umount", directory]
        wait_until(lambda: not subprocess.run(umount, check=False).returncode, "umount")


# There is space for the text, and for nothing at all of a database, or for half of it.
SPACE = {"none": 8192, "half": 8192 + COUNT * 1200}


@pytest.mark.parametrize("free", SPACE.values(), ids=SPACE)
@pytest.mark.parametrize("form", FORMS)
def test_on_a_full_disk_the_old_database_stays_and_the_user_is_told(place, form, free):
    place.build(form)
    place.tables.databases.discard_backups()
    place.renew(*place.table)

    with no_space(place.directory, free):
        with refused(place, form):
            place.tables.build(form, place.table)
        place.directory.joinpath("filler").write_bytes(b"")
        place.build(form)
        assert place.found(form) == place.wanted()


def test_lmdb_is_refused_when_postmap_says_nothing_of_a_full_disk(place):
    place.build("lmdb")
    place.tables.databases.discard_backups()
    place.renew(*place.table)

    with (
        no_space(place.directory, SPACE["half"]),
        refused(place, "lmdb", "did not write", "check the free disk space"),
    ):
        place.tables.build("lmdb", place.table)


def test_a_new_name_that_postmap_left_out_silently_is_a_failure(place):
    place.build("lmdb")
    place.tables.databases.discard_backups()
    place.table["aa.example.net"] = place.bundle("aa.example.net")
    place.postmap.disturb("exit 0")

    with pytest.raises(Error, match="did not write"):
        place.tables.build("lmdb", place.table, {"aa.example.net"})


def test_a_database_is_on_disk_before_it_takes_the_place_of_the_old_one(place):
    place.build("hash")
    place.tables.databases.discard_backups()
    trace = place.bundles.parent / "trace"
    traced = ["strace", "-y", "-qq", "-e", "trace=fsync,/^rename", "-o", trace]
    argv = [sys.executable, "-c", KILLED, place.directory, place.postmap.directory]

    subprocess.run([*traced, *argv, "hash"], check=True)

    name = place.database("hash").name
    last = [line for line in trace.read_text().splitlines() if name in line][-2:]
    assert [line.partition("(")[0] for line in last] == ["fsync", "rename"]


@pytest.mark.parametrize("form", CHANGEABLE)
def test_without_space_for_a_copy_the_old_database_stays(place, form):
    place.build(form)
    place.tables.databases.discard_backups()
    place.renew(place.one)

    with no_space(place.directory, SPACE["half"]):
        with refused(place, form, "No space left on device"):
            place.tables.build(form, place.table, {place.one})
        place.directory.joinpath("filler").write_bytes(b"")
        place.build(form, place.one)
        assert place.found(form) == place.wanted()


# SIGKILL

KILLED = """
import sys
from pathlib import Path
from certbot_postfix.postfix import databases
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.inbound.sni_map import SniMap
directory, programs, form, *changed = sys.argv[1:]
tables = SniMap(Postfix(Path(directory), postconf=f"{programs}/postconf"))
tables.build(form, tables.read(), changed or None)
"""


def calls(place: Place, form: str, changed: Sequence[str]) -> list[Call]:
    """Return what postmap does when it builds."""
    place.build(form)
    place.postmap.watch()
    place.build(form, *changed)
    place.postmap.leave_alone()
    place.tables.databases.discard_backups()
    found = place.postmap.calls()
    assert found
    return found


def sample(found: list[Call], count: int = 4) -> list[Call]:
    """Return the first, the last and some between them."""
    places = {round(at * (len(found) - 1) / (count - 1)) for at in range(count)}
    return [found[at] for at in sorted(places)]


EVERY = [pytest.param(False, id="some"), pytest.param(True, marks=pytest.mark.soak)]


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("changed", [(), (name_of(7),)], ids=["whole", "one name"])
@pytest.mark.parametrize("form", FORMS)
def test_a_postmap_that_is_killed_leaves_the_old_database(place, form, changed, every):
    found = calls(place, form, changed)
    place.renew(place.one)

    for call in found if every else sample(found):
        place.postmap.kill_at(call)
        with refused(place, form, "postmap"):
            place.tables.build(form, place.table, changed or None)

    place.postmap.leave_alone()
    place.build(form, *changed)
    assert place.found(form) == place.wanted()


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize(
    ("form", "changed"),
    [("hash", (name_of(7),)), ("btree", ()), ("lmdb", (name_of(7),)), ("cdb", ())],
    ids=["hash, one name", "btree, whole", "lmdb, one name", "cdb, whole"],
)
def test_after_a_power_cut_the_next_run_removes_what_is_left(
    place, form, changed, every
):
    found = calls(place, form, changed)
    before, served = snapshot(place.directory), place.found(form)
    place.renew(place.one)
    argv = [sys.executable, "-c", KILLED, place.directory, place.postmap.directory]

    for call in found if every else sample(found, 3):
        place.postmap.kill_at(call, with_parent=True)
        done = subprocess.run([*argv, form, *changed], check=False)
        assert done.returncode == -9

        assert place.found(form) == served, call
        assert readable(place) == []
        left = [
            entry
            for name, entry in snapshot(place.directory).items()
            if name not in before and "/" not in name
        ]
        assert [(entry.kind, entry.mode) for entry in left] == [("directory", 0o700)]

        databases.remove_leftovers(place.path)
        assert snapshot(place.directory) == before

    place.postmap.kill_at(found[-1], with_parent=True)
    subprocess.run([*argv, form, *changed], check=False)
    place.postmap.leave_alone()
    place.build(form, *changed)  # which need not wait for that
    place.tables.databases.discard_backups()
    assert place.found(form) == place.wanted()
    assert names(place) == {sni.NAME, place.database(form).name}


@pytest.mark.parametrize("form", ["texthash", "hash"])
def test_a_text_that_was_half_written_hinders_nobody(place, form):
    place.build("hash")
    place.tables.databases.discard_backups()
    before = snapshot(place.directory)
    new_file.staging_name(place.path).write_text(sni.HEADER.decode()[:20])

    databases.remove_leftovers(place.path)

    assert snapshot(place.directory) == before
    new_file.staging_name(place.path).write_text(sni.HEADER.decode()[:20])
    place.build(form)
    found = place.tables.postfix.answers(f"{form}:{place.path}", place.table.keys())
    assert found.keys() == place.table.keys()


def test_a_text_is_written_where_a_database_was_half_made(place):
    place.build("hash")
    place.tables.databases.discard_backups()
    (call, *_) = calls(place, "hash", ())
    place.postmap.kill_at(call, with_parent=True)
    argv = [sys.executable, "-c", KILLED, place.directory, place.postmap.directory]
    subprocess.run([*argv, "hash"], check=False)

    write(place.tables, place.table)

    assert place.path.read_bytes() == sni.render(place.table)


# Who may read it


_LINE = re.compile(
    r"(?P<pid>\d+) +(?P<call>\w+)\((?P<args>.*), (?P<mode>0\d+)\) += \d+.*"
    r"|(?P<of>\d+) +umask\((?P<umask>0\d*)\).*"
)
_PATH = re.compile(r'"([^"]+)"|\d<([^>]+)>')


def opened(place: Place, argv: Sequence[str | Path]) -> list[str]:
    """Run *argv* with the worst umask; return every call that opens a file to others.

    A mode counts from the moment at which the file is made, whatever it is later.
    """
    trace = place.bundles.parent / "trace"
    traced = "trace=umask,open,openat,creat,mkdir,mkdirat,mknod,chmod,fchmod,fchmodat"
    subprocess.run(
        ["strace", "-f", "-y", "-qq", "-e", traced, "-o", trace, *argv],
        check=True,
        umask=0,
    )
    umask: dict[str, int] = {}
    wrong, made = [], set()
    for line in _LINE.finditer(trace.read_text()):
        if line["of"]:
            umask[line["of"]] = int(line["umask"], 8)
            continue
        found = _PATH.search(line["args"])
        path = found and (found[1] or found[2])
        if path and path.startswith(f"{place.directory}/"):
            changes = "chmod" in line["call"]
            spared = 0 if changes else umask.get(line["pid"], 0)
            if changes or path not in made:  # or it is there, with its mode
                made.add(path)
                if int(line["mode"], 8) & ~spared & 0o077:
                    wrong.append(line[0])
    assert len(made) > 2  # the directory, the text, the database
    return wrong


@pytest.mark.parametrize(
    ("form", "old", "changed"),
    [
        *((form, 0o644, ()) for form in FORMS),
        *((form, 0o644, (name_of(7),)) for form in ("hash", "lmdb")),
        ("hash", None, ()),
    ],
    ids=[*FORMS, "hash, one name", "lmdb, one name", "no old one"],
)
def test_a_database_is_never_readable_by_others_while_it_is_made(
    place, form, old, changed
):
    place.build(form)
    place.tables.databases.discard_backups()
    place.database(form).chmod(old) if old else place.database(form).unlink()
    argv = [sys.executable, "-c", KILLED, place.directory, place.postmap.directory]

    assert opened(place, [*argv, form, *changed]) == []

    assert readable(place) == []  # nor the old one, which is kept until it is proven
    assert place.found(form) == place.wanted()


# Readers


@pytest.mark.parametrize("form", FORMS)
def test_who_reads_meanwhile_finds_every_name(place, form):
    place.build(form)
    end = threading.Event()
    wrong: list[str] = []
    count = itertools.count()

    def read() -> None:
        while not end.is_set():
            try:
                missing = place.table.keys() - place.found(form).keys()
            except subprocess.CalledProcessError as error:
                wrong.append(error.stderr)
            else:
                wrong.extend(missing)
            next(count)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for version in range(2, 12):
            place.bundle(place.one, version)
            place.tables.build(form, place.table, {place.one})
            place.tables.databases.discard_backups()
    finally:
        end.set()
        for reader in readers:
            reader.join()

    assert wrong == []
    assert next(count) > 10
    assert place.found(form) == place.wanted()
