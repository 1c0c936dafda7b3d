"""Policies and kill -9, policies and a full disk: Postfix finds the old or the new."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from certbot_postfix import cli
from certbot_postfix.outbound import policy_map
from certbot_postfix.outbound.sources import Settings
from tests.lab import (
    COMMAND,
    Authority,
    Certbot,
    PrivatePostfix,
    commands,
    install_lineage,
)
from tests.lab.following import Following
from tests.lab.kill import Point, kill_at, points
from tests.lab.postmap import Postmap
from tests.test_lists import written
from tests.test_tables import no_space

pytestmark = pytest.mark.postfix

NAME = "mx.example.org"
FORMS = ("hash", "lmdb", "cdb", "texthash")

# Which full disks are tried each time.
QUICK = {("half", "hash"), ("half", "lmdb"), ("nothing", "cdb"), ("half", "texthash")}

# So many that a database does not fit into what is left of a full disk.
MANY = [f"domain{at}.example.org" for at in range(2000)]


class Listed(Following):
    """A Postfix that follows a list, which says that it is of one number or another."""

    def __init__(self, postfix: PrivatePostfix, base: Path) -> None:
        super().__init__(postfix)
        self.list = base / "list.json"
        self.certbot = Certbot(base)
        self.certbot.config_dir.mkdir()
        self.environment = self.certbot.environment
        self.refresh = [
            str(COMMAND),
            *("--postfix-config-dir", str(postfix.config_dir)),
            *("--config-dir", str(self.certbot.config_dir)),
            *("policy", "refresh"),
        ]

    def say(self, number: int, *domains: str) -> None:
        """Let the list be that of *number*."""
        text = written("example.org", *domains, since=number / 1000 - 10)
        self.list.write_bytes(text.replace(b"mx.org", f"mx{number}.org".encode()))

    def follow(self, form: str) -> None:
        """Follow the list, as *form*."""
        self.path.write_bytes(
            policy_map.render(Settings((str(self.list),)), {}, (3, 7))
        )
        super().follow(form)
        self.run()

    def run(self) -> commands.Done:
        self.postfix.settle()
        return commands.run(self.refresh, env=self.environment)

    def number(self, domain: str = "example.org") -> str:
        """Return of which number what Postfix finds is, "" if it finds nothing."""
        words = self.answer(domain).split()
        return words[1].removeprefix("match=") if words else ""

    def leftovers(self) -> list[str]:
        return [
            path.name
            for path in self.postfix.config_dir.iterdir()
            if path.name.startswith(f".{policy_map.NAME}")
        ]


@pytest.fixture
def scene(stopped_postfix: PrivatePostfix, base: Path) -> Listed:
    return Listed(stopped_postfix, base)


def sample(found: list[Point], count: int) -> Iterator[Point]:
    """Yield *count* of the points, the last one among them."""
    step = max(1, len(found) // count)
    yield from reversed(found[::-1][::step])


@pytest.mark.parametrize(
    ("form", "count"),
    [
        ("hash", 2),
        ("texthash", 1),
        *(pytest.param(form, 10_000, marks=pytest.mark.soak) for form in FORMS),
    ],
)
def test_a_refresh_that_is_killed_leaves_old_or_new_and_the_next_ends_it(
    scene, form, count
):
    scene.say(0)
    scene.follow(form)
    watched = [scene.postfix.config_dir, scene.certbot.config_dir]
    scene.say(1)
    scene.postfix.settle()
    found = points(scene.refresh, env=scene.environment, watched=watched)
    assert scene.number() == "mx1.org"

    for turn, point in enumerate(sample(found, count), 2):
        scene.say(turn)
        scene.postfix.settle()
        kill_at(point, scene.refresh, env=scene.environment, may_end=True)

        assert scene.number() in (f"mx{turn - 1}.org", f"mx{turn}.org"), point
        done = scene.run()
        assert done.returncode == 0, (point, done.stderr)
        assert scene.number() == f"mx{turn}.org", point
        assert scene.leftovers() == [], point


@pytest.mark.parametrize("label", ["a", "a.", "ü", "ü.", "xn--tda."])
def test_a_name_of_two_megabytes_in_a_list_neither_delays_status_nor_fills_it(
    scene, capsys, label
):
    scene.say(0)
    scene.follow("texthash")
    found = json.loads(scene.list.read_bytes())
    name = (label * 2_000_000)[:2_000_000]
    found["policies"][name] = {"mode": "enforce", "mxs": ["mx.org"]}
    scene.list.write_text(json.dumps(found, ensure_ascii=False))
    done = scene.run()
    assert (done.returncode, len(done.stderr) < 1000) == (1, True)
    where = ("--postfix-config-dir", str(scene.postfix.config_dir))
    where += ("--config-dir", str(scene.certbot.config_dir))
    started = time.monotonic()

    assert cli.main([*where, "status", "--timeout", "2"]) == 3

    assert time.monotonic() - started < 3
    said = "".join(capsys.readouterr())
    assert "the last refresh of " in " ".join(said.split())
    assert len(said) < 5000


def test_a_transport_map_that_hangs_does_not_hold_up_status(
    scene, base, monkeypatch, capsys
):
    scene.say(0)
    scene.follow("texthash")
    scene.postfix.set(transport_maps="static:smtp")
    postmap = Postmap(base / "hanging")
    script = 'case "$*" in *static:smtp*) exec sleep 10 ;; esac; exec "$@"'
    postmap.disturb(script, questions=True)
    monkeypatch.setenv("PATH", postmap.path)
    where = ("--postfix-config-dir", str(scene.postfix.config_dir))
    where += ("--config-dir", str(scene.certbot.config_dir))
    started = time.monotonic()

    cli.main([*where, "status", "--timeout", "2"])

    assert time.monotonic() - started < 3
    said = " ".join("".join(capsys.readouterr()).split())
    assert "could not judge the policies within 2 seconds" in said


@pytest.mark.parametrize(
    "count", [2, pytest.param(10_000, marks=pytest.mark.soak)], ids=["some", "all"]
)
def test_a_deployment_of_policies_that_is_killed_never_names_a_missing_table(
    scene, authority: Authority, count
):
    install_lineage(scene.certbot.config_dir, NAME, authority.issue(NAME))
    where = ("-i", "postfix", "--postfix-config-dir", str(scene.postfix.config_dir))
    install = ("install", "--cert-name", NAME, *where)
    scene.postfix.settle()
    assert scene.certbot(*install).returncode == 0
    scene.say(1)
    install += ("--postfix-policy-list", str(scene.list))
    argv = scene.certbot.argv(*install)
    watched = [scene.postfix.config_dir, scene.certbot.config_dir]
    scene.postfix.settle()
    found = points(argv, env=scene.environment, watched=watched)

    for point in sample(found, count):
        scene.postfix.settle()
        done = scene.certbot("rollback", *where)
        assert done.returncode == 0, done.stderr
        assert scene.number() == ""
        scene.postfix.settle()
        # What the sources said is kept: without it there is as much to do as before.
        shutil.rmtree(scene.certbot.config_dir / "postfix/policies")
        kill_at(point, argv, env=scene.environment, may_end=True)

        assert scene.number() in ("", "mx1.org"), point
        done = scene.certbot(*install)
        assert done.returncode == 0, (point, done.stderr)
        assert scene.number() == "mx1.org", point
        assert scene.leftovers() == [], point


@pytest.mark.parametrize(
    ("free", "form"),
    [
        pytest.param(
            free,
            form,
            id=f"{name}-{form}",
            marks=() if (name, form) in QUICK else pytest.mark.soak,
        )
        for name, free in (("nothing", 8192), ("half", 120_000))
        for form in FORMS
    ],
)
def test_on_a_full_disk_the_old_policies_stay_and_that_is_told(scene, form, free):
    scene.say(0)
    scene.follow(form)
    scene.say(1, *MANY)

    with no_space(scene.postfix.config_dir, free):
        done = scene.run()

        assert done.returncode == 1
        assert any(
            words in done.stderr
            for words in ("No space left", "did not write", "postmap", "disk")
        ), done.stderr
        assert scene.number() == "mx0.org"
        assert scene.leftovers() == []

    done = scene.run()
    assert done.returncode == 0, done.stderr
    assert scene.number(MANY[-1]) == "mx1.org"


def test_the_database_must_have_what_was_written(scene, base):
    """postmap of 3.7 says nothing when lmdb finds the disk full."""
    scene.say(0)
    scene.follow("lmdb")
    postmap = Postmap(base / "silent")
    postmap.disturb("exit 0", questions=True)
    scene.environment = {**scene.environment, "PATH": postmap.path}
    scene.say(1)

    done = scene.run()

    assert done.returncode == 1
    assert "lacks what was written, and postmap gave" in done.stderr
    assert scene.number() == "mx0.org"
    assert scene.leftovers() == []


def test_a_text_that_postfix_refuses_does_not_become_the_table(scene, base):
    scene.say(0)
    scene.follow("texthash")
    postmap = Postmap(base / "disturbed")
    postmap.disturb(
        """
        for file; do :; done
        case $file in
            texthash:*/.*) echo "example.org may" >> "${file#texthash:}" ;;
        esac
        exec "$@"
        """,
        questions=True,
    )
    scene.environment = {**scene.environment, "PATH": postmap.path}
    scene.say(1)

    done = scene.run()

    assert done.returncode == 1
    assert "duplicate entry" in done.stderr
    assert scene.number() == "mx0.org"
    assert scene.leftovers() == []
