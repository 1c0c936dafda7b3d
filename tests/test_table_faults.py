"""Whatever happens to the table of names, everybody is served what he was served.

Each test breaks one thing for a real certbot, or for the command of its deploy hooks.
Most tables are small and yet databases, as one with more names would be: what becomes
of a database does not depend on how large it is.
"""

import base64
import itertools
import os
import re
import shutil
import stat
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from certbot_postfix.inbound import sni
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.inbound.proposal import DeployOptions
from certbot_postfix.inbound.session import Deployment
from certbot_postfix.inbound.sni_map import SniMap
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.system import files
from tests.lab import (
    Authority,
    Certbot,
    Issued,
    PrivatePostfix,
    base_directory,
    commands,
    install_lineage,
    renew_lineage,
)
from tests.lab.kill import Point, kill_at, points
from tests.lab.machine import wait_until
from tests.lab.postfix import Entry, copy, restore, snapshot
from tests.lab.postmap import SUFFIXES, Call, Postmap, needs
from tests.lab.scene import Checkpoint
from tests.test_tables import FORMS, no_space

pytestmark = pytest.mark.postfix

NAME = "mx.example.org"
SHOP = ("shop.example.net", "www.shop.example.net")
MANY = tuple(f"m{number}.example.net" for number in range(30))
LARGE = tuple(f"m{number}.example.net" for number in range(sni.LARGE + 10))
NEW = "new.example.net"

# Who is asked after a fault: nobody's name, the default's, and some of each lineage.
ASKED = (None, NAME, *SHOP, NEW, MANY[0], MANY[-1])

Read = dict[str | None, bytes]
Done = commands.Done


class Shop:
    """A server with a default, the lineages ``shop`` and ``many``, and a table."""

    def __init__(self, postfix: PrivatePostfix, authority: Authority) -> None:
        self.postfix = postfix
        self.postmap = Postmap(postfix.base / "programs")
        self.certbot = Certbot(postfix.base)
        self.certbot.environment["PATH"] = self.postmap.path
        self.options = (
            "-i",
            "postfix",
            "--postfix-config-dir",
            str(postfix.config_dir),
        )
        self.path = postfix.config_dir / sni.NAME
        self._authority = authority

    def lineage(self, name: str, *names: str) -> Issued:
        """Make the lineage *name*; return its content."""
        issued = self._authority.issue(*names)
        install_lineage(
            self.certbot.config_dir,
            name,
            issued,
            postfix_config_dir=str(self.postfix.config_dir),
        )
        return issued

    def renew(self, name: str, *names: str) -> Issued:
        """Renew a lineage, as certbot does before anybody is told."""
        issued = self._authority.issue(*names)
        renew_lineage(self.certbot.config_dir, name, issued)
        return issued

    def issue(self) -> Issued:
        """Return a certificate of the shop's that is in no lineage."""
        return self._authority.issue(*SHOP)

    def open(self, form: str) -> None:
        """Have all deployed, with a table of type *form*; Postfix does not run."""
        self._open({"shop": SHOP, "many": MANY}, form)

    def open_small(self) -> None:
        """Have the default and the shop deployed, with a table that is text."""
        self._open({"shop": SHOP}, "texthash")

    def _open(self, lineages: dict[str, tuple[str, ...]], form: str) -> None:
        needs(form)
        self.lineage(NAME, NAME)
        self.deploy(NAME)
        table = {NAME: (str(self.certbot.bundle(NAME)),)}
        for name, names in lineages.items():
            bundle = self.certbot.bundle(name)
            pem = self.lineage(name, *names).bundle_pem
            files.replace(bundle, pem, mode=0o600)
            table.update(dict.fromkeys(names, (str(bundle),)))
        files.replace(self.path, sni.render(table), mode=0o600)
        if form != "texthash":
            done = self.postfix.command("postmap", "-F", f"{form}:{self.path}")
            assert not done.stderr
            self.postfix.set(default_database_type=form)
        self.postfix.set(tls_server_sni_maps=f"{form}:{self.path}")  # settles all

    def deploy(self, name: str) -> None:
        """Deploy a lineage, as certbot has it done."""
        deployment = Deployment(Postfix(self.postfix.config_dir), self.bundles)
        lineage = Lineage.live(self.certbot.config_dir / "live", name)
        proposal = deployment.installation.propose(lineage, DeployOptions())
        deployment.installation.apply(proposal, Checkpoint())
        deployment.installation.serve(proposal)

    def install(self, name: str = "shop", *args: str) -> Done:
        """Have certbot deploy a lineage; whether that fails is a result."""
        return self.certbot("install", "--cert-name", name, *self.options, *args)

    def argv(self, *args: str) -> list[str]:
        """Return the whole command that stands behind ``certbot-postfix ARGS``."""
        return [
            str(self.certbot.executable.with_name("certbot-postfix")),
            *("--postfix-config-dir", str(self.postfix.config_dir)),
            *("--config-dir", str(self.certbot.config_dir)),
            *args,
        ]

    def run(self, argv: Sequence[str]) -> Done:
        """Run a command where certbot runs; whether it fails is a result."""
        return commands.run(argv, env=self.certbot.environment)

    def hook(self, name: str = "shop") -> Done:
        """Put a renewed lineage into service, as a deploy hook does."""
        return self.run(self.argv("deploy", "--cert-name", name))

    def missed(self, name: str = "shop") -> Done:
        """Have certbot make up for a renewal that was missed."""
        return self.certbot("renew", "--cert-name", name)

    @property
    def form(self) -> str:
        """The type of the table that main.cf names, if it does."""
        value = self.postfix.postconf("-h", "tls_server_sni_maps")
        return value.partition(":")[0].strip()

    @property
    def bundles(self) -> Path:
        return self.certbot.config_dir / "postfix"

    def database(self, form: str) -> Path:
        return self.path.with_name(f"{sni.NAME}{SUFFIXES[form]}")

    def first_reload_fails(self) -> None:
        """Have Postfix not told of what was written, until that is undone."""
        path = self.postmap.directory / "postfix"
        path.write_text(
            "#!/bin/sh\n"
            f'[ "$3" != reload ] || ! mkdir {path}.once 2> /dev/null || exit 1\n'
            'exec /usr/sbin/postfix "$@"\n'
        )
        path.chmod(0o755)

    def served(self) -> dict[tuple[str, str | None], x509.Certificate]:
        """Return what is shown on the services, to who asks for whom."""
        return {
            (service, name): self.postfix.served(service, sni=name)
            for service in ("smtp", "submissions")
            for name in ASKED
        }

    def files(self) -> dict[str, dict[str, Entry]]:
        """Return what is in the directories of Postfix and of the bundles."""
        return {"etc": self.postfix.snapshot(), "bundles": snapshot(self.bundles)}

    def read(self) -> Read:
        """Return what a Postfix that starts now has for each name: keys and chains."""
        written = self.postfix.postconf(
            "-x", "smtpd_tls_chain_files", "tls_server_sni_maps"
        )
        chain, table = (line.partition(" = ")[2] for line in written.splitlines())
        default = _contents(chain or str(self.postfix.config_dir / "snakeoil.pem"))
        found: Read = dict.fromkeys((None, NAME, *SHOP, NEW, *LARGE), default)
        return {**found, **self._found(table)} if table else found

    def _found(self, table: str) -> dict[str, bytes]:
        """Return what is in the *table*, as Postfix finds it."""
        done = subprocess.run(
            ["postmap", "-c", self.postfix.config_dir, "-q", "-", table],
            check=True,
            input="".join(f"{name}\n" for name in (NAME, *SHOP, NEW, *LARGE)),
            capture_output=True,
            text=True,
        )
        assert not done.stderr
        pairs = [line.split("\t") for line in done.stdout.splitlines()]
        content = _contents if table.startswith("texthash:") else base64.b64decode
        return {name: content(value) for name, value in pairs}


def told(done: Done) -> str:
    """Return all that a user could read, as one line."""
    return " ".join((done.stdout + done.stderr).split())


def succeeded(done: Done) -> None:
    assert done.returncode == 0, told(done)


def _contents(names: str) -> bytes:
    found = names.replace(",", " ").split()
    return b"".join(Path(name).read_bytes() for name in found)


@pytest.fixture
def closed(stopped_postfix: PrivatePostfix, authority: Authority) -> Shop:
    """Nothing is deployed, and Postfix does not run."""
    return Shop(stopped_postfix, authority)


def some(*forms: str) -> list[Any]:
    """Return all types of database; those that are not in *forms* are left to soak."""
    return [
        form if form in forms else pytest.param(form, marks=pytest.mark.soak)
        for form in FORMS
    ]


def shop_of(form: str, closed: Shop) -> Shop:
    closed.open(form)
    closed.postfix.start()
    return closed


class State:
    """All that a failed run must leave, or bring back, as it is now."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._files = shop.files()
        self._read = shop.read()
        self._served = shop.served()

    def assert_kept(self) -> None:
        """Compare, without help of the product."""
        found = self._shop.files()
        for where, before in self._files.items():
            assert _differing(found[where], before) == []
        assert _differing(self._shop.read(), self._read) == []
        self.assert_served()

    def assert_served(self) -> None:
        """Compare what clients are shown."""
        assert self._shop.served() == self._served


def _differing(found: Any, wanted: Any) -> list[str]:
    """Return the names of what is not the same, never a content, which may be a key."""
    names = found.keys() | wanted.keys()
    return sorted(str(name) for name in names if found.get(name) != wanted.get(name))


def fails(done: Done, *words: str) -> None:
    """See that a run failed, and why."""
    assert done.returncode == 1, told(done)
    for word in words:
        assert word in told(done)
    assert "Traceback" not in told(done)


def completes(
    shop: Shop, done: Done, issued: Issued, form: str, name: str = SHOP[1]
) -> None:
    """See that a run succeeded: *issued* is served, and nothing lies about."""
    succeeded(done)
    assert shop.postfix.served("submissions", sni=name) == issued.leaf
    assert shop.read()[name] == issued.bundle_pem
    here = {path.name for path in shop.postfix.config_dir.glob("*certbot*")}
    database = set() if form == "texthash" else {shop.database(form).name}
    assert here == {sni.NAME, *database}
    assert all(not mode & 0o077 for mode in keys(shop.postfix.base).values())


# How a bundle begins, with its private key, and what that is in base64.
_MARKS = (b"PRIVATE KEY-----", base64.b64encode(b"-----BEGIN PRIVATE KEY"))


def keys(base: Path) -> dict[str, int]:
    """Return the files that hold private keys, those in databases too; their modes."""
    found = {}
    for directory, _, names in os.walk(base):
        for path in (Path(directory, name) for name in names):
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode) and any(m in path.read_bytes() for m in _MARKS):
                found[str(path.relative_to(base))] = stat.S_IMODE(mode)
    return found


# What is wrong with bundles and texts


def gone_for_good(shop: Shop) -> None:
    """Nobody has the bundle, and certbot has no such lineage."""
    shop.certbot.bundle("many").unlink()
    shutil.rmtree(shop.certbot.config_dir / "live/many")


def a_directory(shop: Shop) -> None:
    gone_for_good(shop)
    shop.certbot.bundle("many").mkdir()


def empty(shop: Shop) -> None:
    gone_for_good(shop)
    shop.certbot.bundle("many").write_text("")


@pytest.mark.parametrize(
    ("form", "run", "fault"),
    [
        ("lmdb", Shop.missed, empty),
        ("cdb", Shop.hook, gone_for_good),
        pytest.param("cdb", Shop.missed, empty, marks=pytest.mark.soak),
        pytest.param("cdb", Shop.hook, a_directory, marks=pytest.mark.soak),
    ],
)
def test_a_database_keeps_its_copy_of_a_bundle_that_is_gone(closed, form, run, fault):
    shop = shop_of(form, closed)
    fault(shop)
    issued = shop.renew("shop", *SHOP)
    before = shop.read()

    completes(shop, run(shop), issued, form)

    changed = {name for name, value in shop.read().items() if before[name] != value}
    assert changed == set(SHOP)


def test_a_bundle_that_is_gone_and_of_which_no_copy_is_left_stops_a_renewal(closed):
    shop = shop_of("cdb", closed)
    bundle = shop.certbot.bundle("many")
    kept, saved = bundle.with_name("kept"), shop.certbot.config_dir / "live-many"
    shutil.copy2(bundle, kept)
    shutil.copytree(shop.certbot.config_dir / "live/many", saved, symlinks=True)
    gone_for_good(shop)
    shop.database("cdb").unlink()
    old = shop.certbot.bundle("shop").read_bytes()
    issued = shop.renew("shop", *SHOP)

    done = shop.hook()

    fails(done, str(bundle))
    assert shop.certbot.bundle("shop").read_bytes() == old
    kept.replace(bundle)
    saved.rename(shop.certbot.config_dir / "live/many")
    completes(shop, shop.hook(), issued, "cdb")


@pytest.mark.parametrize(
    ("form", "write"),
    [
        ("texthash", str.upper),
        *(
            pytest.param(form, write, marks=pytest.mark.soak)
            for form in ("texthash", *FORMS)
            for write in (str, str.upper)
        ),
    ],
)
def test_a_name_that_was_entered_twice_by_hand_is_mended(closed, form, write):
    shop = closed
    shop.open(form)
    text = shop.path.read_bytes()
    with shop.path.open("a") as file:
        # With that, Postfix can do nothing with a text.  It folds names to lower case.
        file.write(f"{write(SHOP[0])} {shop.certbot.bundle('shop')}\n")
    shop.postfix.start()
    issued = shop.renew("shop", *SHOP)

    completes(shop, shop.hook(), issued, form)

    assert shop.path.read_bytes() == text
    assert shop.postfix.served("smtp", sni=MANY[0]) != issued.leaf


def test_a_name_that_two_lineages_have_in_different_letters_is_mended(closed):
    shop = shop_of("cdb", closed)
    with shop.path.open("a") as file:
        file.write(f"{SHOP[0].upper()} {shop.certbot.bundle(NAME)}\n")
    issued = shop.renew("shop", *SHOP)

    completes(shop, shop.hook(), issued, "cdb")

    assert shop.path.read_text().lower().count(f"\n{SHOP[0]} ") == 1


FOREIGN = "shop.example.net /their/own.pem\n"


def test_a_table_that_is_not_ours_stops_a_deployment(closed):
    closed.lineage(NAME, NAME)
    issued = closed.lineage("shop", *SHOP)
    closed.deploy(NAME)
    closed.path.write_text(FOREIGN)
    closed.postfix.start()
    before = State(closed)

    done = closed.install("shop")

    fails(done, f"{closed.path} was not written by this plugin")
    before.assert_kept()
    closed.path.unlink()
    completes(closed, closed.install("shop"), issued, "texthash")


@pytest.mark.parametrize(
    "run", [Shop.missed, pytest.param(Shop.hook, marks=pytest.mark.soak)]
)
def test_a_table_that_is_not_ours_any_more_stops_a_renewal(closed, run):
    shop = shop_of("hash", closed)
    text = shop.path.read_bytes()
    shop.path.write_text(FOREIGN)
    issued = shop.renew("shop", *SHOP)
    before = State(shop)

    done = run(shop)

    fails(done, f"{shop.path} was not written by this plugin")
    before.assert_kept()
    shop.path.write_bytes(text)
    completes(shop, run(shop), issued, "hash")


@pytest.mark.parametrize("form", some("hash"))
def test_a_database_that_all_may_read_is_closed_by_a_renewal(closed, form):
    shop = shop_of(form, closed)
    shop.database(form).chmod(0o644)
    issued = shop.renew("shop", *SHOP)

    completes(shop, shop.hook(), issued, form)

    assert stat.S_IMODE(shop.database(form).stat().st_mode) == 0o600


@pytest.mark.parametrize("run", [Shop.hook, Shop.install])
def test_a_name_that_left_the_certificate_leaves_the_database(closed, run):
    shop = shop_of("hash", closed)
    issued = shop.renew("shop", SHOP[0])

    run(shop)

    found = shop.read()
    assert found[SHOP[0]] == issued.bundle_pem
    assert found[SHOP[1]] == found[None]
    assert list(shop.postfix.config_dir.glob(".*certbot*")) == []


def test_a_deployment_mends_a_database_with_old_copies(closed):
    shop = shop_of("hash", closed)
    database = shop.database("hash")
    backup = database.read_bytes()
    issued = shop.renew("shop", *SHOP)
    succeeded(shop.hook())
    database.write_bytes(backup)
    shop.postfix.reload()

    completes(shop, shop.install(), issued, "hash")


# What comes after the database


@pytest.mark.parametrize("form", some("hash"))
def test_a_renewal_that_is_undone_brings_back_text_and_database(closed, form):
    shop = shop_of(form, closed)
    issued = shop.renew("shop", *SHOP, NEW)
    before = State(shop)
    shop.first_reload_fails()

    done = shop.hook()

    fails(done, "postfix reload failed", "the previous files were restored")
    before.assert_kept()
    completes(shop, shop.hook(), issued, form, NEW)


# No space


@pytest.mark.parametrize(
    ("form", "free"),
    [
        ("hash", 40_000),
        ("lmdb", 60_000),
        pytest.param("cdb", 40_000, marks=pytest.mark.soak),
        pytest.param("hash", 0, marks=pytest.mark.soak),
        pytest.param("lmdb", 40_000, marks=pytest.mark.soak),
    ],
)
def test_a_full_disk_stops_a_renewal(closed, form, free):
    shop = closed
    shop.open(form)
    issued = shop.renew("many", *MANY)  # so many that all names are read anew
    with no_space(shop.postfix.config_dir, free):
        shop.postfix.start()
        try:
            before = State(shop)

            done = shop.hook("many")

            fails(done, "No space left on device" if form != "lmdb" else "")
            before.assert_kept()
            shop.postfix.config_dir.joinpath("filler").write_bytes(b"")
            completes(shop, shop.hook("many"), issued, form, MANY[7])
        finally:
            shop.postfix.stop()  # it holds the database


def test_a_full_disk_stops_the_deployment_that_makes_the_first_database(closed):
    shop = closed
    shop.open_small()
    shop.postfix.set(default_database_type="lmdb")
    shop.lineage("many", *LARGE)
    with no_space(shop.postfix.config_dir, 100_000):
        shop.postfix.start()
        try:
            before = State(shop)

            done = shop.install("many")

            fails(done, "postmap did not write", "check the free disk space")
            before.assert_kept()
        finally:
            shop.postfix.stop()


# SIGKILL while postmap works


def middle_of(shop: Shop, form: str) -> Call:
    """Return the call in the middle of what postmap does when it makes a database."""
    shop.postmap.watch()
    device = SniMap(Postfix(shop.path.parent, postconf=f"{shop.postmap.directory}/x"))
    device.build(form, device.read(), {SHOP[0], SHOP[1]})
    device.databases.restore_backups()
    found = shop.postmap.calls()
    return found[len(found) // 2]


@pytest.mark.parametrize("form", some("hash", "cdb"))
def test_a_postmap_that_is_killed_or_a_power_cut_changes_nothing_that_is_served(
    closed, form
):
    shop = shop_of(form, closed)
    call = middle_of(shop, form)
    issued = shop.renew("shop", *SHOP)
    before = State(shop)
    shop.postmap.kill_at(call)

    done = shop.hook()

    fails(done, "postmap", "the previous files were restored")
    before.assert_kept()

    shop.postmap.kill_at(call, with_parent=True)
    done = shop.hook()

    assert done.returncode == -9
    before.assert_served()
    assert all(not mode & 0o077 for mode in keys(shop.postfix.base).values())
    shop.postmap.leave_alone()
    completes(shop, shop.missed(), issued, form)


# SIGKILL around that, at each step


class Trial:
    """A machine on which one command is killed again and again; Postfix is stopped.

    After each `restore` it is what it was.
    """

    def __init__(self, shop: Shop, saved: Path) -> None:
        self.shop = shop
        self._saved = saved
        self._temporary = shop.postfix.base / "tmp"
        self._temporary.mkdir()
        shop.certbot.environment["TMPDIR"] = str(self._temporary)
        self._trees = (
            shop.postfix.config_dir,
            shop.certbot.config_dir,
            shop.certbot.work_dir,
        )
        self.argv: list[str] = []
        self._status = 0

    def prepare(self, verb: str, form: str) -> list[Point]:
        """Prepare for *verb*; return the points around the table."""
        getattr(self, f"_before_{verb}")(form)
        self.shop.certbot.work_dir.mkdir(exist_ok=True)
        for tree in self._trees:
            copy(tree, self._saved / tree.name)
        self._old = self.shop.read()
        env = self.shop.certbot.environment
        found = points(self.argv, env=env, watched=self._trees, status=self._status)
        self._new, self._shape = self.shop.read(), self._shaped()
        assert self._new != self._old
        places = [at for at, point in enumerate(found) if sni.NAME in point.path]
        return found[max(0, places[0] - 3) : places[-1] + 4]

    def _before_hook(self, form: str) -> None:
        self.shop.open(form)
        self.shop.renew("shop", *SHOP, NEW)
        self.argv = self.shop.argv("deploy", "--cert-name", "shop")
        self._status = 3  # it warns that Postfix does not run

    def _before_renew(self, form: str) -> None:
        self.shop.open(form)
        self.shop.renew("shop", *SHOP)
        self.argv = self.shop.certbot.argv("renew", "--cert-name", "shop")

    def _before_install(self, form: str) -> None:
        self.shop.open_small()
        self.shop.postfix.set(default_database_type=form)
        self.shop.lineage("many", *LARGE)
        command = ("install", "--cert-name", "many", *self.shop.options)
        self.argv = self.shop.certbot.argv(*command)

    def _shaped(self) -> dict[str, tuple[str, int]]:
        """Return all files, with their modes, of Postfix and of the bundles."""
        found = self.shop.files()
        return {
            f"{where}/{name}": (entry.kind, entry.mode)
            for where, entries in found.items()
            for name, entry in entries.items()
            if name != ".certbot.lock"
        }

    def try_at(self, point: Point) -> str:
        """Kill the command at *point*, run it again; return what is wrong then."""
        for tree in self._trees:
            restore(self._saved / tree.name, tree)
        kill_at(point, self.argv, env=self.shop.certbot.environment, may_end=False)
        try:
            self._assert_whole()
            again = self.shop.run(self.argv)
            assert again.returncode == self._status, told(again)
            self._assert_done()
        except AssertionError as error:
            return f"{point}: {error}".replace(f"{self.shop.postfix.base}/", "")
        return ""

    def _assert_whole(self) -> None:
        """For each name, all is old or new, whatever was under way."""
        read = self.shop.read()
        mixed = [
            name
            for name, content in read.items()
            if content not in (self._old[name], self._new[name])
        ]
        assert not mixed, f"neither old nor new: {mixed}"
        if self.shop.form in FORMS:
            assert read in (self._old, self._new), "a database is a mixture"
        self._assert_private()

    def _assert_private(self) -> None:
        readable = {
            path for path, mode in keys(self.shop.postfix.base).items() if mode & 0o077
        }
        # A directory that nobody may enter is as good.
        assert not readable, f"others may read {readable}"

    def _assert_done(self) -> None:
        """All is as after an undisturbed run, and nothing lies about."""
        wrong = _differing(self._shaped(), self._shape)
        assert not wrong, f"not as after an undisturbed run: {wrong}"
        wrong = _differing(self.shop.read(), self._new)
        assert not wrong, f"not served: {wrong}"
        assert not (self.shop.certbot.work_dir / "IN_PROGRESS").exists()
        self._assert_private()


_COMMITS = re.compile(rf"\.certbot-new$|/{sni.NAME}(\.\w+)?$")


def chosen(found: list[Point], count: int) -> list[Point]:
    """Return *count* of the points, among them those at which a name changes hands."""
    commits = [
        at
        for at, point in enumerate(found)
        if point.renames and _COMMITS.search(point.path)
    ]
    after = [at + 1 for at in commits if at + 1 < len(found)]
    spread = [at * (len(found) - 1) // count for at in range(count)]
    picked = dict.fromkeys([*after, *spread])
    return [found[at] for at in sorted(list(picked)[:count])]


def case(verb: str, form: str, count: int = 0):
    return pytest.param(
        verb,
        form,
        count,
        marks=[] if count else [pytest.mark.soak],
        id=f"{verb}, {form}, {count or 'all'}",
    )


@pytest.mark.parametrize(
    ("verb", "form", "count"),
    [
        case("hook", "hash", 1),
        case("hook", "lmdb", 1),
        case("hook", "texthash", 1),
        case("renew", "cdb", 1),
        case("install", "hash", 1),
        *(
            case(verb, form)
            for verb in ("hook", "renew", "install")
            for form in (*FORMS, "texthash")
            if (verb, form) not in {("renew", "texthash"), ("install", "texthash")}
        ),
    ],
)
def test_whenever_it_is_killed_the_table_is_old_or_new_and_the_next_run_completes(
    verb, form, count, closed, record_property
):
    with base_directory() as saved:
        trial = Trial(closed, saved)
        found = trial.prepare(verb, form)
        tried = chosen(found, count) if count else found
        record_property("killed at", [f"{verb}, {form}", len(tried), len(found)])

        wrong = [complaint for point in tried if (complaint := trial.try_at(point))]

    assert not wrong, "\n".join(wrong)


# Readers meanwhile


class Clients:
    """Four clients that ask by name without pause, as long as the ``with`` lasts."""

    def __init__(self, postfix: PrivatePostfix, names: Sequence[str]) -> None:
        self.shown: dict[str, x509.Certificate] = {}
        self.asked: list[str] = []
        self.failed: list[str] = []
        self._end = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(postfix, names[at % len(names) :]))
            for at in range(4)
        ]

    def _ask(self, postfix: PrivatePostfix, names: Sequence[str]) -> None:
        for service, name in itertools.cycle(
            itertools.product(("smtp", "submissions"), names)
        ):
            if self._end.is_set():
                return
            try:
                self.shown[name] = postfix.served(service, sni=name)
            except Exception as error:
                self.failed.append(f"{service}, {name}: {error!r}")
            self.asked.append(name)

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()


def refresh(shop: Shop, form: str, issued: Issued) -> None:
    """Refresh bundle and database as a renewal does, without reload and proof."""
    device = SniMap(Postfix(shop.path.parent))
    files.replace(shop.certbot.bundle("shop"), issued.bundle_pem, mode=0o600)
    device.build(form, device.read(), set(SHOP))
    device.databases.discard_backups()


@pytest.mark.parametrize(
    ("form", "times"),
    [
        *((form, 6) for form in ("hash", "lmdb")),
        *(pytest.param(form, 20, marks=pytest.mark.soak) for form in FORMS),
    ],
)
def test_no_client_fails_while_a_database_is_refreshed_often(closed, form, times):
    shop = shop_of(form, closed)
    others = shop.postfix.served("smtp", sni=MANY[0])

    with Clients(shop.postfix, (*SHOP, NAME, MANY[0], MANY[-1])) as clients:
        for _ in range(times):
            issued = shop.issue()
            refresh(shop, form, issued)
            seen = len(clients.asked)
            wait_until(lambda seen=seen: len(clients.asked) > seen + 12, "they ask")
        wait_until(
            lambda: clients.shown.get(SHOP[0]) == issued.leaf,
            "a client is shown the newest",
        )

    assert clients.failed == []
    assert clients.shown[MANY[0]] == clients.shown[MANY[-1]] == others


@pytest.mark.soak
@pytest.mark.parametrize("form", ["texthash", *FORMS])
def test_no_client_fails_while_a_lineage_is_renewed_twenty_times(closed, form):
    shop = shop_of(form, closed)

    with Clients(shop.postfix, (*SHOP, NAME, MANY[0])) as clients:
        for _ in range(20):
            issued = shop.renew("shop", *SHOP)
            succeeded(shop.hook())

    assert clients.failed == []
    completes(shop, shop.hook(), issued, form)


# Another type is usual now, as after an upgrade to Postfix 3.11


def test_a_type_that_is_not_usual_any_more_is_kept_until_an_installation_moves_it(
    closed,
):
    shop = shop_of("hash", closed)
    shop.postfix.set(default_database_type="cdb")
    notice = "hash/btree support is deprecated."
    shop.postmap.disturb(f'echo "postmap: warning: {notice}" >&2; exec "$@"')
    named = shop.postfix.main_cf.read_bytes()

    issued = shop.renew("shop", *SHOP)
    done = shop.hook()

    assert (done.returncode, notice in done.stderr) == (3, False), done.stderr
    assert "Hint: certbot install -i postfix --cert-name" in done.stderr
    assert shop.postfix.main_cf.read_bytes() == named
    assert shop.postfix.served("smtp", sni=SHOP[0]) == issued.leaf

    succeeded(shop.install("shop"))

    assert f"texthash:{shop.path}".encode() in shop.postfix.main_cf.read_bytes()
    assert not shop.database("hash").exists()
    assert shop.postfix.served("smtp", sni=SHOP[0]) == issued.leaf

    succeeded(shop.certbot("rollback", *shop.options))

    assert shop.postfix.main_cf.read_bytes() == named
    assert shop.postfix.served("smtp", sni=SHOP[0]) == issued.leaf


def test_a_database_that_is_moved_and_cannot_be_loaded_is_back_as_it_was(closed):
    shop = shop_of("hash", closed)
    shop.postfix.set(default_database_type="cdb")
    state, before = State(shop), entry(shop.database("hash"))
    program, once = shop.postfix.base / "postfix-once", shop.postfix.base / "once"
    program.write_text(
        f"#!/bin/sh\ncase $3 in reload) mkdir {once} && exit 1 ;; esac\n"
        'exec postfix "$@"\n'
    )
    program.chmod(0o755)

    done = shop.install("shop", "--postfix-ctl", str(program))

    assert once.exists(), done.stderr
    assert done.returncode == 1, done.stderr
    state.assert_kept()
    assert entry(shop.database("hash")) == before


def test_a_type_that_is_gone_keeps_no_default_from_being_renewed(closed):
    shop = shop_of("hash", closed)
    shop.postfix.set(tls_server_sni_maps=f"dbm:{shop.path}")
    shop.postfix.reload()
    issued = shop.renew(NAME, NAME)

    done = shop.hook(NAME)

    assert done.returncode == 3, done.stderr
    assert "clients that ask for a server name get no TLS, as before" in done.stderr
    assert "Hint: certbot install -i postfix --cert-name" in done.stderr
    assert shop.postfix.served("smtp") == issued.leaf

    succeeded(shop.install(NAME))

    assert shop.postfix.served("smtp", sni=NAME) == issued.leaf


def test_a_table_that_names_nothing_keeps_no_other_certificate_from_being_renewed(
    closed,
):
    shop = shop_of("hash", closed)
    live = shop.certbot.config_dir / "live" / NAME
    shop.postfix.set(smtpd_tls_chain_files=f"{live}/privkey.pem, {live}/fullchain.pem")
    shop.path.write_bytes(sni.HEADER)
    shop.postfix.reload()
    issued = shop.renew(NAME, NAME)

    done = shop.hook(NAME)

    assert "Traceback" not in done.stderr
    assert shop.postfix.served("smtp") == issued.leaf


# Undoing a deployment


def entry(path: Path) -> tuple[bytes, int]:
    return path.read_bytes(), stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("form", some("hash"))
def test_a_rollback_removes_the_database_that_the_deployment_made(closed, form):
    closed.open_small()
    closed.postfix.set(default_database_type=form)
    closed.lineage("many", *LARGE)
    closed.postfix.start()
    before, text = State(closed), entry(closed.path)
    done = closed.install("many", "--postfix-verify-timeout", "0")
    succeeded(done)
    assert closed.database(form).exists()
    assert entry(closed.path) != text

    succeeded(closed.certbot("rollback", *closed.options))

    before.assert_kept()


@pytest.mark.parametrize("form", some("hash"))
def test_after_a_rollback_a_database_serves_what_the_restored_text_says(closed, form):
    shop = shop_of(form, closed)
    shop.lineage("new", NEW, SHOP[0])
    text, read, served = entry(shop.path), shop.read(), shop.served()
    succeeded(shop.install("new"))
    assert shop.read() != read
    assert shop.served() != served

    succeeded(shop.certbot("rollback", *shop.options))

    assert entry(shop.path) == text
    assert _differing(shop.read(), read) == []
    assert shop.served() == served
    left = {path.name for path in shop.postfix.config_dir.glob("*certbot*")}
    assert left == {sni.NAME, shop.database(form).name}
    assert stat.S_IMODE(shop.database(form).stat().st_mode) == 0o600
