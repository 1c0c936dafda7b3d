"""Whenever a change of keys is killed, or has no disk space, DNS announces what is
served, no key is lost, and whoever comes next ends what was begun, or takes it back.

Each trial kills a real program at one of its operations; see `tests.lab.kill`.  That is
``certbot-postfix``, and certbot, which it may have started, lives on; or it is one of
those that ``certbot renew`` is made of where a key is due: certbot, the command that it
starts when it ends, and the certbot that this one starts.
"""

import contextlib
import mmap
import os
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import pytest

from certbot_postfix.formats.tlsa import Record
from certbot_postfix.tls.certificates import public_half
from certbot_postfix.tls.pem import blocks
from tests.lab import Authority, Certbot, base_directory
from tests.lab.dane import (
    DOMAIN,
    HOST,
    MIN,
    OWNER,
    TTL,
    Host,
    PebbleInside,
    served,
    verified,
)
from tests.lab.kill import Inner, Point, chosen, kill_at, points
from tests.lab.machine import wait_until
from tests.lab.network import Network
from tests.lab.postfix import copy, restore
from tests.lab.sampler import sampled
from tests.lab.scene import Done, succeeded, told
from tests.lab.zone import Zone

pytestmark = pytest.mark.postfix

# By which processes are known that a killed command has started.
_MARK = "TRIAL"

_PUBLISHER = """\
#!/bin/sh -e
zone() {{ /usr/sbin/knotc -s {socket} -b "$@" {domain}.; }}
zone zone-begin
[ "$ACTION" = add ] && change=zone-set || change=zone-unset
[ "$ACTION" = add ] || TTL=
/usr/sbin/knotc -s {socket} -b $change {domain}. "$NAME." $TTL "$TYPE" $RDATA
zone zone-commit
"""


@pytest.fixture(scope="module")
def zone() -> Iterator[Zone]:
    """A signed zone, and a resolver that keeps records for as long as they may.

    The network has the small `disk`, since it is mounted before.
    """
    with base_directory() as base, ExitStack() as stack:
        small = disk(base)
        small.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=755", "none", small]
        subprocess.run(mount, check=True)
        stack.callback(subprocess.run, ["umount", small], check=True)
        network = Network(base, Authority(), cache=3600)
        stack.callback(network.close)
        yield Zone(network, DOMAIN, updates=True)


def disk(base: Path) -> Path:
    """Return the place of a disk that can be filled; the network is below *base*."""
    return base / "disk"


class Trials(Host):
    """A host on which one command is killed again and again.

    `prepare` makes it, and after each `restore` it is what it was then.
    """

    def __init__(self, zone: Zone, certbot: Certbot, base: Path, saved: Path) -> None:
        super().__init__(zone, certbot, base)
        self._saved = saved
        self._trees = (self.postfix.config_dir, certbot.config_dir, certbot.work_dir)
        self._base = base
        temporary = base / "tmp"
        temporary.mkdir()
        certbot.environment["TMPDIR"] = str(temporary)
        self._script = base / "publish"
        self._script.write_text(
            _PUBLISHER.format(socket=zone.primary.base / "knot.sock", domain=DOMAIN)
        )
        self._script.chmod(0o700)
        self.program = f"command:{self._script}"

    # What is there

    @property
    def next_key(self) -> Path:
        return self.certbot.bundle(HOST).with_suffix(".next.key")

    @property
    def staged(self) -> Record | None:
        """The record of the key that is staged."""
        path = self.next_key
        return Record.of_key(public_half(path.read_bytes())) if path.exists() else None

    @property
    def announced(self) -> set[str]:
        return self.zone.primary.records(OWNER)

    def kept(self) -> set[Record]:
        """Return the records of all private keys that are stored."""
        return {
            Record.of_key(public_half(block.pem))
            for path in self._keys()
            for block in blocks(path.read_bytes())
            if not block.public
        }

    def _keys(self) -> Iterator[Path]:
        for directory, _, names in os.walk(self.certbot.config_dir):
            for path in (Path(directory, name) for name in names):
                is_file = stat.S_ISREG(path.lstat().st_mode)
                if is_file and b"PRIVATE KEY" in path.read_bytes():
                    yield path

    # What is done

    def argv_of(self, case: "Case") -> list[str]:
        """Return the command of *case*."""
        if case.words == RENEW:
            return self.certbot.argv(*RENEW)
        return self.argv(*self.roll(*case.words))

    def roll(self, verb: str, *more: str) -> list[str]:
        """Return the words of a command that changes keys."""
        own = () if verb == "stage" else self.directories
        return ["tlsa", verb, *MIN, "--publisher", self.program, *own, *more]

    def prepare(self, case: "Case") -> list[Point]:
        """Prepare *case*, watch it undisturbed; return where it can be killed."""
        case.before(self)
        self.old, self.key, self._had = served(self), self.staged, self.newest()
        self._records = self.announced
        for tree in self._trees:
            copy(tree, self._saved / tree.name)
        found = points(
            self.zone.network.argv(*self.argv_of(case)),
            env=self.certbot.environment,
            watched=self._trees,
            inner=case.inner,
        )
        assert case.done(self), "undisturbed, it does what is expected"
        return found

    def restore(self) -> None:
        """Make everything what it was after `prepare`."""
        if self.announced != self._records:
            self.publish(*map(Record.from_text, self._records), ttl=TTL)
            changed = time.monotonic()
            wait_until(
                lambda: time.monotonic() > changed + TTL + 1, "caches have forgotten"
            )
        for tree in self._trees:
            restore(self._saved / tree.name, tree)
        self.postfix.reload()

    def try_at(self, point: Point, case: "Case", *, renews: bool) -> str:
        """Kill the command at *point*, have the next one run; return what is wrong."""
        self.restore()
        mark = {_MARK: str(self._base)}
        env = {**self.certbot.environment, **mark}
        argv = self.zone.network.argv(*self.argv_of(case))
        kill_at(point, argv, env=env, may_end=True, inner=case.inner)
        try:
            self.assert_whole()
            self.assert_reported()
            wait_until(lambda: not self._orphans(), "what was started has ended")
            self.assert_whole()
            self.go_on(case, renews=renews)
        except AssertionError as error:
            return f"{point}: {error}".replace(f"{self._base}/", "")
        return ""

    def try_with(self, pages: int, case: "Case", *, renews: bool) -> str:
        """Have so much space for the command; return what is wrong, or "done"."""
        self.restore()
        filler = self.certbot.config_dir.parent / "filler"
        status = os.statvfs(filler.parent)
        filler.write_bytes(bytes(max(0, status.f_bavail - pages) * mmap.PAGESIZE))
        try:
            done = self.run(self.argv_of(case))
            if done.returncode == 0 and case.done(self):
                return "done"
            assert "No space left on device" in told(done)
            self.assert_whole()
            self.assert_reported()
            filler.unlink()
            self.go_on(case, renews=renews)
        except AssertionError as error:
            return f"{pages} pages: {error}".replace(f"{self._base}/", "")
        finally:
            filler.unlink(missing_ok=True)
        return ""

    def go_on(self, case: "Case", *, renews: bool) -> None:
        """Have the next run settle what there is, and *case* done after that."""
        if renews:
            done = self.certbot_in_network("renew")
        else:
            done = self.command(*self.roll("advance"))
        ended(done)
        self.assert_settled(quietly=renews)
        self.complete(case)

    def _orphans(self) -> list[int]:
        """Return the processes that a killed command has started."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                environment = (process / "environ").read_bytes()
                words = (process / "cmdline").read_bytes()
                if (
                    f"{_MARK}={self._base}".encode() in environment
                    or str(self._script).encode() in words.split(b"\0")[:3]
                ):
                    found.append(int(process.name))
        return found

    # What must be true

    def assert_whole(self) -> None:
        """Whatever was under way when it was killed, nobody is worse off."""
        assert verified(self), "a sender cannot verify what is served"
        now = served(self)
        assert now in (self.old, self.key), "another key than these two is served"
        assert str(now) in self.announced
        lost = self.announced - set(map(str, self.kept()))
        if self.next_key.exists():
            assert not lost, f"a key is announced that nobody has: {lost}"
        readable = [path for path in self._keys() if path.stat().st_mode & 0o077]
        assert not readable, f"others may read {readable}"

    def assert_reported(self) -> None:
        """status says so if certbot's key is another one than it has to be."""
        done = self.command("status")
        assert done.returncode in (0, 3), told(done)
        lineage = self.live(HOST)
        if any(lineage.key.parent.glob("previous_*.pem")):
            return  # certbot was killed while it moved its links, and mends them itself
        key = Record.of_key(public_half(lineage.key.read_bytes()))
        if key != self.newest():
            assert "stands in for" in done.stdout, done.stdout

    def assert_settled(self, *, quietly: bool = False) -> None:
        """Nothing is half done.

        Who *quietly* has nothing to do does not come to remove unfinished files.
        """
        self.assert_whole()
        pattern = ".*certbot-old*" if quietly else ".*certbot-*"
        found = {path.name for path in self.certbot.config_dir.rglob(pattern)}
        found -= {".certbot.lock"}
        assert not found, f"something lies about: {found}"
        key = Record.of_key(public_half(self.live(HOST).key.read_bytes()))
        assert key == self.newest(), "certbot's key is not that of its certificate"
        assert self.newest() in (served(self), self._had), "it is not served"
        assert self.staged != served(self)

    def complete(self, case: "Case") -> None:
        """To give the command once more leads to where it would have led."""
        if not case.done(self):
            ended(self.run(self.argv_of(case)))
        assert case.done(self), "it is not done"
        self.assert_settled()


def ended(done: Done) -> None:
    """Assert that a run of certbot, or a command, has failed at nothing of ours.

    certbot links to files that it had not filled when it was killed, or the disk full,
    and complains once: then the key of the lineage is renewed.
    """
    unwritten = "there is no certificate in the full chain" in done.stderr
    assert done.returncode == 0 or unwritten, told(done)


class Case(NamedTuple):
    """A command, by its *words*, what comes *before*, and whether it is *done*.

    It is killed itself, or an *inner* one.
    """

    words: tuple[str, ...]
    before: Callable[[Trials], None]
    done: Callable[[Trials], bool]
    inner: Inner | None = None


def nothing(_: Trials) -> None: ...


def stage(host: Trials) -> None:
    """Stage a key, and wait until it can be served."""
    succeeded(host.command(*host.roll("stage")))
    until = datetime.fromisoformat(host.show(*MIN, status=3)["until"])
    wait_until(lambda: datetime.now(timezone.utc) > until, "two TTLs are over")


def hold(host: Trials) -> None:
    """Have a renewal held, whose key is new."""
    renew = ("renew", "--force-renewal", "--new-key")
    assert "is held" in succeeded(host.certbot_in_network(*renew))


def due(host: Trials) -> None:
    """Stage a key, which the next renewal is to put into service."""
    stage(host)
    path = host.certbot.config_dir / "renewal" / f"{HOST}.conf"
    section, roll = "[renewalparams]\n", "postfix_tlsa_roll = auto\n"
    path.write_text(path.read_text().replace(section, f"{section}{roll}"))


def switched(host: Trials) -> bool:
    return served(host) == host.key


def retire(host: Trials) -> None:
    """Have the next key in service, so that the record of the other can go."""
    stage(host)
    succeeded(host.command(*host.roll("switch")))
    wait_until(
        lambda: (
            host.show(*MIN)["state"] == "steady"
            and "; remove:" in host.command("tlsa", "advance", *MIN).stdout
        ),
        "the record of the old key can go",
    )


RENEW = ("renew",)
AUTO = ("--tlsa-roll", "auto", "--tlsa-roll-every", "0d")

CASES = {
    "stage": Case(("stage",), nothing, lambda it: str(it.staged) in it.announced),
    "switch": Case(("switch",), stage, switched),
    "abandon": Case(
        ("abandon",), stage, lambda it: it.announced == {str(it.old)} and not it.staged
    ),
    "abandon, held": Case(
        ("abandon",),
        hold,
        lambda it: it.newest() == it.old and it.announced == {str(it.old)},
    ),
    "advance, which stages": Case(
        ("advance", *AUTO), nothing, lambda it: str(it.staged) in it.announced
    ),
    "advance, which switches": Case(("advance", *AUTO), stage, switched),
    "advance, which withdraws": Case(
        ("advance",), retire, lambda it: it.announced == {str(it.old)}
    ),
}

# Its installer and what that runs when certbot ends; that alone; and what that runs.
_ADVANCE, _CERTBOT = "-m certbot_postfix.cli", "from certbot.main import main"
RENEWALS = {
    "renew": Case(RENEW, due, switched),
    "renew, which advances": Case(RENEW, due, switched, Inner(_ADVANCE, together=True)),
    "renew, inside": Case(RENEW, due, switched, Inner(_CERTBOT, together=False)),
    "renew, as a whole": Case(RENEW, due, switched, Inner(_CERTBOT, together=True)),
}


@contextlib.contextmanager
def trials(zone: Zone, base: Path, certbot_base: Path) -> Iterator[Trials]:
    """Yield a host with a certificate of certbot's, whose key is announced."""
    with base_directory() as saved, PebbleInside(base, zone.network) as pebble:
        certbot = Certbot(certbot_base, pebble=pebble)
        certbot.logs_dir = base / "certbot-log"
        host = Trials(zone, certbot, base, saved)
        with closing(host.postfix):
            host.publish(ttl=TTL)
            host.postfix.start()
            host.obtain("--reuse-key", "--postfix-tlsa-publisher", host.program)
            host.publish(host.newest(), ttl=TTL)
            wait_until(lambda: verified(host), "the record is known")
            yield host


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("renew, as a whole", 1),
        *(
            pytest.param(name, 0, marks=pytest.mark.soak)
            for name in (*CASES, *RENEWALS)
        ),
    ],
)
def test_a_killed_change_of_keys_is_ended_or_taken_back_and_no_sender_notices(
    name, count, zone, base, record_property
):
    case = {**CASES, **RENEWALS}[name]
    with trials(zone, base, base) as host:
        found = host.prepare(case)
        tried = chosen(found, count) if count else found
        record_property("killed at", [f"keys, {name}", len(tried), len(found)])
        with sampled(host) as sampler:
            wrong = [
                complaint
                for number, point in enumerate(tried)
                if (complaint := host.try_at(point, case, renews=bool(number % 2)))
            ]

    assert not wrong, "\n".join(wrong)
    assert sampler.all_verified(len(tried)), str(sampler)


@pytest.mark.soak
@pytest.mark.parametrize("name", [*CASES, "renew"])
def test_a_change_of_keys_without_disk_space_is_ended_later_and_no_sender_notices(
    name, zone, base
):
    case, wrong = {**CASES, **RENEWALS}[name], []
    small = disk(zone.network.base) / base.name
    small.mkdir()
    with trials(zone, base, small) as host:
        host.prepare(case)
        with sampled(host) as sampler:
            for pages in range(100):
                complaint = host.try_with(pages, case, renews=bool(pages % 2))
                if complaint == "done":
                    break
                wrong.append(complaint)

    # Who only removes something needs no space.
    assert pages > 1 or name in ("abandon", "advance, which withdraws")
    assert not any(wrong), "\n".join(filter(None, wrong))
    assert sampler.all_verified(pages), str(sampler)
