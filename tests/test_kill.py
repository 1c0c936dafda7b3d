"""Whenever certbot is killed, Postfix has the old configuration or the new one, whole,
and the same command, given again, ends what was begun.

Each trial kills a real certbot at one of its operations; see `tests.lab.kill`.  Postfix
is stopped in most of them, since whether it is told matters at the last points only.
"""

import os
import re
import shutil
import stat
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from cryptography import x509

from certbot_postfix.postfix.profiles import internet_nl
from tests.lab import (
    Authority,
    Certbot,
    PrivatePostfix,
    base_directory,
)
from tests.lab.kill import Point, chosen, commits, kill_at, points
from tests.lab.machine import wait_until
from tests.lab.postfix import SERVICES, copy, restore, snapshot
from tests.lab.scene import NAME, Scene, options

pytestmark = pytest.mark.postfix


class Trials(Scene):
    """A machine on which one command of certbot is killed again and again.

    `prepare` makes it, and after each `restore` it is what it was then.
    """

    def __init__(
        self,
        postfix: PrivatePostfix,
        certbot: Certbot,
        authority: Authority,
        saved: Path,
    ) -> None:
        super().__init__(postfix, certbot, authority)
        self.bundle = certbot.bundle(NAME)
        self.options = options(postfix)
        self.installation = ["install", "--cert-name", NAME, *self.options]
        self.killed = self.again = self.installation
        self._saved = saved
        self._temporary = postfix.base / "tmp"
        self._trees = (postfix.config_dir, certbot.config_dir, certbot.work_dir)
        certbot.environment["TMPDIR"] = str(self._temporary)

    def prepare(self, verb: str, *, running: bool) -> list[Point]:
        """Prepare for *verb*, watch it undisturbed; return where it can be killed."""
        self._temporary.mkdir()
        # Owner and mode that a careless copy would lose.
        shutil.chown(self.postfix.main_cf, "root", "postfix")
        self.postfix.main_cf.chmod(0o640)
        getattr(self, f"_before_{verb.replace(' ', '_')}")()
        for tree in self._trees:
            copy(tree, self._saved / tree.name)
        self._old, self._old_leaf = self.postfix.snapshot(), self.leaf
        if running:
            self.postfix.start()
        argv, env = self.certbot.argv(*self.killed), self.certbot.environment
        found = points(argv, env=env, watched=self._trees)
        self._new, self._new_leaf = self.postfix.snapshot(), self.leaf
        self._new_shape = self.shape()
        return found

    def _before_deploy(self) -> None:
        self.lineage(NAME)
        # Once before, so that certbot's own directories are there, but not ours.
        self.succeed(*self.installation)
        self.succeed("rollback", *self.options)
        self.bundle.parent.rmdir()

    def _before_redeploy(self) -> None:
        self.lineage(NAME)
        self.succeed(*self.installation)
        self.renew(NAME)
        self.installation += ["--postfix-tls-profile", "internet-nl"]
        self.killed = self.again = self.installation

    def _before_renewal(self) -> None:
        self.succeed("run", "-a", "standalone", "-d", NAME, *self.options)
        self.killed = self.again = ["renew", "--force-renewal"]

    def _before_missed_renewal(self) -> None:
        self._before_renewal()
        self.again = ["renew"]  # of cron: for certbot nothing is due

    def _before_rollback(self) -> None:
        self.lineage(NAME)
        self.installation += ["--postfix-tls-profile", "internet-nl"]
        self.succeed(*self.installation)
        self.killed = self.again = ["rollback", *self.options]

    def succeed(self, *args: str) -> str:
        """Run certbot, which must succeed; return what it printed."""
        done = self.certbot(*args)
        assert done.returncode == 0, f"certbot {args[0]} failed: {done.stderr}"
        return done.stdout

    # What is there

    @property
    def leaf(self) -> x509.Certificate:
        """What a Postfix that starts now will serve."""
        oil = self.postfix.config_dir / "snakeoil.pem"
        file = self.bundle if self.bundle.exists() else oil
        return x509.load_pem_x509_certificates(file.read_bytes())[0]

    def served(self) -> set[x509.Certificate]:
        """Return what its services serve."""
        return {self.postfix.served(service) for service in SERVICES}

    def shape(self) -> dict[str, set[tuple[str, int]]]:
        """Return certbot's files with their modes, apart from numbers and times."""
        found = defaultdict(set)
        for tree in self._trees[1:]:
            for path, entry in snapshot(tree).items():
                name = re.sub(r"\d{10}\.\d+|\d+(?=\.pem$)", "N", path)
                found[f"{tree.name}/{name}"].add((entry.kind, entry.mode))
        return dict(found)

    def bundles(self) -> set[bytes]:
        """Return the whole bundles that can be made of what certbot has stored."""
        stored = self.certbot.config_dir / "archive" / NAME
        pairs = (
            (key, key.with_name(key.name.replace("privkey", "fullchain")))
            for key in stored.glob("privkey*.pem")
        )
        return {
            key.read_bytes().rstrip() + b"\n" + chain.read_bytes().strip() + b"\n"
            for key, chain in pairs
            if chain.exists()
        }

    def keys(self) -> Iterator[tuple[str, int]]:
        """Yield every file that holds a private key, and its mode."""
        for directory, _, names in os.walk(self.postfix.base):
            for path in (Path(directory, name) for name in names):
                mode = path.lstat().st_mode
                if stat.S_ISREG(mode) and b"PRIVATE KEY" in path.read_bytes():
                    shown = path.relative_to(self.postfix.base)
                    yield str(shown), stat.S_IMODE(mode)

    # What must be true

    def assert_whole(self) -> None:
        """Whatever was under way when certbot was killed, Postfix can live with it."""
        found = self.postfix.snapshot()
        ours = internet_nl.NAME
        for passing in (
            *(".certbot.lock", ".main.cf.certbot-new", f".{ours}.certbot-new"),
            # It is there before main.cf names it, and as long as it does.
            *([ours] if ours not in self.postfix.main_cf.read_text() else []),
        ):
            found.pop(passing, None)
        mixed = [_differing(found, whole) for whole in (self._old, self._new)]
        assert not all(mixed), f"the configuration is a mixture: {mixed}"
        self.postfix.postconf("-n")
        if self.bundle.exists():
            assert self.bundle.read_bytes() in self.bundles(), "the bundle is not whole"
        else:
            main_cf = self.postfix.main_cf.read_text()
            assert str(self.bundle) not in main_cf, "main.cf names a missing bundle"
        readable = [key for key, mode in self.keys() if mode & 0o077]
        assert not readable, "others may read a key"
        if self.postfix.running:
            # A process that starts before Postfix was told reads the new files already.
            assert self.served() <= {self._old_leaf, self._new_leaf, self.leaf}

    def assert_done(self) -> None:
        """All is as after an undisturbed run, and nothing lies about."""
        found = self.postfix.snapshot()
        if self.again == ["renew"]:
            # Empty, and nobody's: who has nothing to do does not come to remove it.
            found.pop(".certbot.lock", None)
        wrong = _differing(found, self._new)
        assert not wrong, f"not as after an undisturbed run: {wrong}"
        shape = self.shape()
        if self.again == ["renew"]:
            shape.pop("letsencrypt/postfix/.certbot.lock", None)
        wrong = _differing(shape, self._new_shape)
        assert not wrong, f"not as after an undisturbed run: {wrong}"
        assert not list(self._temporary.iterdir())
        for key, mode in self.keys():
            assert not mode & 0o077, f"others may read {key}"
            assert _OF_KEYS.fullmatch(key), f"a key lies about: {key}"
        if self.bundle.exists():
            live = self.certbot.config_dir / "live" / NAME / "cert.pem"
            assert self.leaf == x509.load_pem_x509_certificate(live.read_bytes())
            assert self.bundle.read_bytes() in self.bundles()
        if self.postfix.running:
            assert self.served() == {self.leaf}

    def assert_deployable(self) -> None:
        """To deploy once more changes nothing, or succeeds after a rollback."""
        printed = self.succeed(*self.installation)
        if self.killed[0] != "rollback":
            assert "is already configured" in printed
            self.assert_done()

    # One trial

    def restore(self, *, running: bool) -> None:
        """Make everything what it was after `prepare`."""
        for tree in self._trees:
            restore(self._saved / tree.name, tree)
        if not running:
            return
        if self.postfix.running:
            self.postfix.reload()
        else:
            self.postfix.start()
        wait_until(lambda: self.served() == {self._old_leaf}, "all is as it was")

    def try_at(self, point: Point, *, running: bool, thorough: bool) -> str:
        """Kill the command at *point*, run certbot again; return what is wrong then."""
        self.restore(running=running)
        argv, env = self.certbot.argv(*self.killed), self.certbot.environment
        kill_at(point, argv, env=env, may_end=running)
        try:
            self.assert_whole()
            self.succeed(*self.again)
            self.assert_done()
            if thorough:
                self.assert_deployable()
        except AssertionError as error:
            return f"{point}: {error}".replace(f"{self.postfix.base}/", "")
        return ""


# Where keys may be: where certbot keeps them, in the bundle, and in Debian's snake oil.
_OF_KEYS = re.compile(
    r"letsencrypt/archive/[\w.]+/privkey\d+\.pem|letsencrypt/postfix/[\w.]+\.pem"
    r"|etc/snakeoil\.key"
)


def _differing(found: Mapping[str, object], wanted: Mapping[str, object]) -> list[str]:
    """Return the names of what is not the same, never a content, which may be a key."""
    names = found.keys() | wanted.keys()
    return sorted(name for name in names if found.get(name) != wanted.get(name))


def case(verb: str, *, running: bool, count: int = 0):
    """Return the trials for *verb*, at *count* points or, without one, at all."""
    thing = f"{verb}, " + (
        "Postfix running, from the first commit on" if running else "Postfix stopped"
    )
    return pytest.param(
        thing,
        (verb, running, count),
        marks=[] if count else [pytest.mark.soak],
        id=f"{thing}, {'some' if count else 'all'} points",
    )


@pytest.mark.parametrize(
    ("thing", "plan"),
    [
        case("deploy", running=False, count=3),
        case("rollback", running=False, count=3),
        case("redeploy", running=False, count=2),
        case("renewal", running=False, count=2),
        case("deploy", running=True, count=2),
        case("renewal", running=True, count=2),
        case("missed renewal", running=True, count=2),
        case("rollback", running=True, count=2),
        *(
            case(verb, running=running)
            for verb in ("deploy", "redeploy", "renewal", "rollback")
            for running in (False, True)
        ),
        case("missed renewal", running=True),
    ],
)
def test_a_killed_certbot_leaves_old_or_new_and_is_completed_by_the_next(
    thing, plan, base, stopped_postfix, authority, request, record_property
):
    verb, running, count = plan
    pebble = request.getfixturevalue("pebble") if "renewal" in verb else None
    with base_directory() as saved:
        certbot = Certbot(base, pebble=pebble)
        scene = Trials(stopped_postfix, certbot, authority, saved)
        found = scene.prepare(verb, running=running)
        assert commits(found) or verb == "redeploy"
        if running:  # what is done before that does not depend on it
            found = found[commits(found)[0] :]
        tried = chosen(found, count) if count else found
        record_property("killed at", [thing, len(tried), len(found)])

        thorough = running or not count
        wrong = [
            complaint
            for point in tried
            if (complaint := scene.try_at(point, running=running, thorough=thorough))
        ]

    assert not wrong, "\n".join(wrong)
