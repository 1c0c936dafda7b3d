"""Several Postfix instances of one machine, which share what certbot obtained."""

import contextlib
import functools
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography import x509

from certbot_postfix.postfix import instances
from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.postfix.instance import Postfix
from tests.lab import (
    Authority,
    Issued,
    PrivatePostfix,
    commands,
    install_lineage,
    pki,
    renew_lineage,
)
from tests.lab.instances import FIRST, CertbotInside, Family, Instance, obstacle
from tests.lab.machine import PATIENCE, wait_until
from tests.lab.postfix import SERVICES, snapshot
from tests.lab.scene import Scene, impose

NAME = "mx.example.org"
NAMES = (NAME, "out.example.org")  # those of both instances
SHOP, BLOG = "shop.example.net", "blog.example.net"

Done = commands.Done


# Who belongs together


def configured(directory: Path, others: str, first: Path = FIRST) -> Configuration:
    """Return what is known of an instance whose main.cf lists *others*."""
    return Configuration(
        directory=directory,
        defaults={"config_directory": str(first)},
        explicit={},
        values={"multi_instance_directories": others},
        services=(),
    )


def found(directory: Path, others: str, first: Path = FIRST) -> list[Path]:
    """Return where `instances.others` finds other instances."""
    configuration = configured(directory, others, first)
    there = instances.others(Postfix(directory), configuration)
    return [each.directory for each in there]


@pytest.mark.parametrize(
    "listed", ["/etc/two /etc/three", "/etc/two, /etc/three", "/etc/two,\t/etc/three"]
)
def test_the_first_instance_knows_all_others(listed):
    assert found(FIRST, listed) == [Path("/etc/two"), Path("/etc/three")]


def test_an_instance_that_is_alone_has_no_others():
    assert found(FIRST, "") == []


def test_the_first_instance_is_not_its_own_neighbour_under_another_name(tmp_path):
    first, link = tmp_path / "first", tmp_path / "link"
    first.mkdir()
    link.symlink_to(first)

    assert found(link, "/etc/two", first) == [Path("/etc/two")]


def test_others_use_the_same_programs():
    postfix = Postfix(FIRST, postconf="/opt/postconf", postfix="/opt/postfix")

    (other,) = instances.others(postfix, configured(FIRST, "/etc/two"))

    assert (other.postconf, other.postfix) == ("/opt/postconf", "/opt/postfix")


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """The directory of a first instance, which lists the second and the third."""
    directory = tmp_path / "first"
    directory.mkdir()
    listed = f"{tmp_path / 'second'}, {tmp_path / 'third'}"
    (directory / "main.cf").write_text(f"multi_instance_directories = {listed}\n")
    return directory


def test_a_further_instance_finds_the_first_and_its_siblings(tmp_path, first):
    assert found(tmp_path / "second", "", first) == [first, tmp_path / "third"]


def test_an_instance_that_the_first_does_not_list_has_no_others(tmp_path, first):
    assert found(tmp_path / "private", "", first) == []


def test_what_another_instance_than_the_first_lists_does_not_count(tmp_path, first):
    assert found(tmp_path / "private", "/etc/two", first) == []


def test_without_a_first_instance_there_are_no_others(tmp_path):
    assert found(tmp_path / "second", "", tmp_path / "nowhere") == []


# The lab


class Pair:
    """A family of two, certbot, and what both know."""

    def __init__(
        self, family: Family, certbot: CertbotInside, authority: Authority
    ) -> None:
        self.family = family
        self.first, self.second = family.members
        self.certbot = certbot
        self.authority = authority
        self.bundle = certbot.bundle(NAME)

    def obtain(self, name: str = NAME) -> Issued:
        """Have a lineage without an ACME server, deployed nowhere."""
        issued = self.authority.issue(*_names(name))
        install_lineage(self.certbot.config_dir, name, issued)
        return issued

    def place(self, name: str, issued: Issued) -> Path:
        """Write the bundle of a lineage, as a deployment would."""
        bundle = self.certbot.bundle(name)
        bundle.parent.mkdir(mode=0o700, exist_ok=True)
        bundle.touch(mode=0o600)
        bundle.write_bytes(issued.bundle_pem)
        return bundle

    def renew(self, name: str = NAME, *names: str, kind: str = "ecdsa") -> Issued:
        """Give a lineage a new version, which nobody serves yet."""
        key = pki.generate_key(kind)
        issued = self.authority.issue(*(names or _names(name)), key=key)
        renew_lineage(self.certbot.config_dir, name, issued)
        return issued

    def install(self, instance: Instance, name: str = NAME) -> Done:
        """Deploy a lineage; return what certbot told."""
        done = self.certbot("install", "--cert-name", name, *options(instance))
        assert done.returncode == 0, done.stderr
        return done

    def command(self, *args: str, at: PrivatePostfix | None = None) -> Done:
        """Run ``certbot-postfix``, *at* an instance other than the first."""
        usual = at is None or at is self.first
        where = () if usual else ("--postfix-config-dir", str(at.config_dir))
        return self.certbot.run_command(*where, *args)

    def deploy(self, name: str = NAME, at: PrivatePostfix | None = None) -> Done:
        """Run ``certbot-postfix deploy``."""
        return self.command("deploy", "--cert-name", name, at=at)


def _names(lineage: str) -> tuple[str, ...]:
    return NAMES if lineage == NAME else (lineage,)


def options(instance: Instance) -> list[str]:
    """Return what certbot has to be told; the first instance is the usual one."""
    if instance.directory == FIRST:
        return ["-i", "postfix"]
    return ["-i", "postfix", "--postfix-config-dir", str(instance.directory)]


def served(
    instance: PrivatePostfix, sni: str | None = None
) -> dict[str, x509.Certificate]:
    """Return the leaf on every service."""
    return {service: instance.served(service, sni=sni) for service in SERVICES}


def everywhere(issued: Issued) -> dict[str, x509.Certificate]:
    """Return what `served` returns when every service serves *issued*."""
    return dict.fromkeys(SERVICES, issued.leaf)


def reloaded(family: Family, first: int, second: int) -> None:
    """Check how often each was reloaded since it was started.

    A reload is logged a moment after it was done.
    """
    expected = (first, second)
    wait_until(
        lambda: tuple(each.reloads for each in family.members) >= expected,
        f"reloads are logged: {expected}",
    )
    assert tuple(each.reloads for each in family.members) == expected


_obstacle = functools.cache(obstacle)


@pytest.fixture
def family(base: Path) -> Iterator[Family]:
    """Two instances that know nothing of each other and do not run."""
    if reason := _obstacle():
        pytest.skip(reason)
    with closing(Family(base)) as family:
        yield family


@pytest.fixture
def scene(family: Family, base: Path, authority: Authority) -> Pair:
    """A family that does not run yet, and a lineage that is deployed nowhere."""
    family.write()
    scene = Pair(family, CertbotInside(base, family), authority)
    scene.place(NAME, scene.obtain())
    return scene


@pytest.fixture
def shared(scene: Pair) -> Pair:
    """A family that runs, both members of which serve the same lineage."""
    for each in scene.family.members:
        each.set(smtpd_tls_chain_files=str(scene.bundle))
    scene.family.start()
    return scene


def parameters(instance: Instance) -> dict[str, str]:
    """Return what main.cf sets, with the base directory left out of the values."""
    lines = instance.postconf("-n").splitlines()
    pairs = (line.partition(" =") for line in lines)
    base = str(instance.base.parent)
    return {name: value.replace(base, "").strip() for name, _, value in pairs}


# The story


@pytest.mark.postfix
def test_two_instances_made_by_postmulti_have_a_bundle_each_and_the_same_renewals(
    family, base, pebble
):
    outside = snapshot(FIRST)
    family.create()
    assert [line.split() for line in family.postmulti("-l").splitlines()] == [
        ["-", "-", "y", str(FIRST)],
        [Family.NAME, "-", "y", str(family.second.config_dir)],
    ]
    assert list(map(parameters, family.members)) == written(base)  # for tests below
    family.start()
    certbot = CertbotInside(base, family, pebble=pebble)

    domains = [argument for name in NAMES for argument in ("-d", name)]
    run = certbot("run", "-a", "standalone", *domains, *options(family.first))
    assert run.returncode == 0, run.stderr
    install = certbot("install", "--cert-name", NAME, *options(family.second))
    assert install.returncode == 0, install.stderr

    bundle = certbot.bundle(NAME)
    bundles = bundle, own(bundle, family.second)
    assert {*bundle.parent.iterdir()} == {bundle, bundles[1].parent}
    assert list(bundles[1].parent.iterdir()) == [bundles[1]]
    assert [stat.S_IMODE(path.stat().st_mode) for path in bundles] == [0o600, 0o600]
    assert stat.S_IMODE(bundles[1].parent.stat().st_mode) == 0o700
    for each, path in zip(family.members, bundles, strict=True):
        chain = each.postconf("-h", "smtpd_tls_chain_files")
        assert chain.strip() == str(path)
        assert served(each) == dict.fromkeys(SERVICES, live(certbot))
    reloaded(family, 1, 1)

    before = live(certbot)
    renew = certbot("renew", "--force-renewal")

    assert renew.returncode == 0, renew.stderr
    assert live(certbot) != before
    for each in family.members:
        assert served(each) == dict.fromkeys(SERVICES, live(certbot))
    reloaded(family, 2, 2)
    family.postmulti("-p", "status")  # raises if one of them does not run
    assert snapshot(FIRST) == outside


def own(bundle: Path, instance: Instance) -> Path:
    """Return where a further *instance* has its own of the first's *bundle*."""
    return bundle.parent / quote(str(instance.directory), safe="") / bundle.name


def written(base: Path) -> list[dict[str, str]]:
    """Return the parameters of a family that postmulti has not made."""
    (base / "other").mkdir()
    with closing(Family(base / "other")) as family:
        family.write()
        return list(map(parameters, family.members))


def live(certbot: CertbotInside) -> x509.Certificate:
    """Return the newest leaf that certbot obtained."""
    pem = (certbot.config_dir / "live" / NAME / "cert.pem").read_bytes()
    return x509.load_pem_x509_certificate(pem)


@pytest.mark.postfix
def test_a_renewal_begun_at_the_second_instance_reaches_the_first(shared):
    newer = shared.renew()

    done = shared.deploy(at=shared.second)

    assert (done.returncode, done.stderr) == (0, "")
    assert served(shared.first) == served(shared.second) == everywhere(newer)
    reloaded(shared.family, 1, 1)


@pytest.mark.postfix
def test_each_instance_serves_the_names_that_it_was_given_and_renews_those(shared):
    first, second = shared.family.members
    for instance, name in ((first, SHOP), (second, BLOG)):
        shared.obtain(name)
        shared.install(instance, name)
    reloaded(shared.family, 1, 1)
    default, shop, blog = map(shared.renew, (NAME, SHOP, BLOG))

    done = shared.deploy()

    assert (done.returncode, done.stderr) == (0, "")
    # What each has missed goes with it.
    assert served(first, SHOP) == everywhere(shop)
    assert served(first, BLOG) == everywhere(default)
    assert served(second, SHOP) == everywhere(default)
    assert served(second, BLOG) == everywhere(blog)
    reloaded(shared.family, 2, 2)

    newer = shared.renew(BLOG)
    done = shared.deploy(BLOG)

    assert (done.returncode, done.stderr) == (0, "")
    assert served(second, BLOG) == everywhere(newer)
    assert served(first, BLOG) == everywhere(default)
    reloaded(shared.family, 2, 3)  # the first has nothing to do with it


@pytest.mark.postfix
def test_a_deployment_that_replaces_the_bundle_has_the_other_instance_serve_it(shared):
    newer = shared.renew()

    shared.install(shared.first)

    assert served(shared.first) == served(shared.second) == everywhere(newer)
    reloaded(shared.family, 1, 1)


@pytest.mark.postfix
def test_a_renewal_that_the_one_refuses_reaches_no_other(shared):
    before = served(shared.second), shared.bundle.read_bytes()
    shared.renew(NAME, "out.example.org")  # without the name of the first

    done = shared.deploy()

    assert done.returncode == 1
    assert "no longer covers mx.example.org" in done.stderr
    assert (served(shared.second), shared.bundle.read_bytes()) == before
    reloaded(shared.family, 0, 0)


# One of them is broken


@contextlib.contextmanager
def unreadable(instance: Instance) -> Iterator[None]:
    """Let Postfix fail to read main.cf."""
    instance.rest()
    text = instance.main_cf.read_text()
    instance.main_cf.write_text(f"{text}this is no parameter\n")
    instance.settle()
    yield
    instance.main_cf.write_text(text)
    instance.settle()


@contextlib.contextmanager
def missing(instance: Instance) -> Iterator[None]:
    """Have no configuration directory."""
    instance.rest()
    away = instance.config_dir.with_name("away")
    instance.config_dir.rename(away)
    yield
    away.rename(instance.config_dir)


@pytest.mark.postfix
def test_a_missing_second_instance_does_not_stop_the_first_and_is_made_up_for(shared):
    old = served(shared.second)
    newer = shared.renew()

    with missing(shared.second):
        patiently = ("--verify-timeout", str(PATIENCE))
        done = shared.command("deploy", "--cert-name", NAME, *patiently)

        assert done.returncode == 1
        told = f"another instance of Postfix than that in {FIRST} failed"
        assert f"{told}: {shared.second.directory}: " in done.stderr
        assert served(shared.first) == everywhere(newer)
        assert served(shared.second) == old

    again = shared.deploy()

    assert (again.returncode, again.stderr) == (0, "")
    assert served(shared.first) == served(shared.second) == everywhere(newer)
    reloaded(shared.family, 1, 1)


@pytest.mark.postfix
def test_a_deployment_stands_and_renew_fails_until_the_broken_second_is_mended(shared):
    newer = shared.renew()

    with unreadable(shared.second):
        install = shared.install(shared.first)
        renew = shared.certbot("renew")

        assert renew.returncode == 1
        for done in (install, renew):
            assert f"another instance of Postfix than that in {FIRST} failed" in (
                done.stderr
            )
            assert f"{shared.second.main_cf}, line" in done.stderr
        assert served(shared.first) == everywhere(newer)

    renew = shared.certbot("renew")

    assert renew.returncode == 0, renew.stderr
    assert served(shared.first) == served(shared.second) == everywhere(newer)
    reloaded(shared.family, 1, 1)


@pytest.mark.postfix
def test_a_second_instance_that_does_not_run_is_not_started_but_serves_it_when_it_is(
    shared,
):
    newer = shared.renew()
    shared.second.stop()

    done = shared.deploy()

    assert done.returncode == 3
    told = f"Postfix ({shared.second.directory}) is not running and was not started"
    assert done.stderr.startswith(f"certbot-postfix: warning: {told},")
    assert served(shared.first) == everywhere(newer)
    assert not shared.second.running
    shared.second.start()
    assert served(shared.second) == everywhere(newer)


@pytest.mark.postfix
def test_a_broken_first_instance_does_not_stop_the_second_and_is_made_up_for(shared):
    newer = shared.renew()

    with unreadable(shared.first):
        done = shared.deploy(at=shared.second)

        assert done.returncode == 1
        assert str(FIRST / "main.cf") in done.stderr
        assert served(shared.second) == everywhere(newer)

    done = shared.certbot("renew")

    assert done.returncode == 0, done.stderr
    assert served(shared.first) == everywhere(newer)
    reloaded(shared.family, 1, 1)


@pytest.mark.postfix
def test_a_rollback_does_not_forget_that_the_second_instance_was_broken(shared):
    shared.obtain(SHOP)
    shared.install(shared.first, SHOP)
    newer = shared.renew()

    with unreadable(shared.second):
        assert shared.deploy().returncode == 1
        assert shared.certbot("rollback", *options(shared.first)).returncode == 0

    done = shared.certbot("renew")

    assert done.returncode == 0, done.stderr
    assert served(shared.second) == everywhere(newer)


# What another one cannot use


@pytest.mark.postfix
def test_a_renewal_with_which_another_instance_would_lose_tls_is_refused(shared):
    key = pki.generate_key("rsa")
    rsa = shared.authority.issue(*NAMES, key=key)
    beside = shared.place("rsa", rsa)
    install_lineage(shared.certbot.config_dir, "rsa", rsa)
    shared.second.set(smtpd_tls_chain_files=f"{shared.bundle}, {beside}")
    shared.second.reload()
    before = served(shared.first), shared.bundle.read_bytes()
    shared.renew(kind="rsa")

    done = shared.deploy()

    assert done.returncode == 1
    assert "would offer no TLS" in done.stderr
    assert (served(shared.first), shared.bundle.read_bytes()) == before
    assert served(shared.second)["smtp"] in (rsa.leaf, before[0]["smtp"])
    reloaded(shared.family, 0, 1)


# Each has its own


@pytest.mark.postfix
def test_status_says_which_instances_it_did_not_check(shared):
    for at, other in (
        (None, shared.second),
        (shared.second, shared.first),
    ):
        done = shared.command("status", at=at)

        assert done.stderr == ""
        told = " ".join(done.stdout.partition("Notes:")[2].split())
        command = f"certbot-postfix --postfix-config-dir {other.directory} status"
        assert told == f"another instance was not checked: {command}"


@pytest.fixture
def apart(scene: Pair) -> Pair:
    """A family that runs, each member of which has its own bundle of one lineage."""
    first, second = scene.family.members
    theirs = own(scene.bundle, second)
    theirs.parent.mkdir(mode=0o700)
    theirs.touch(mode=0o600)
    theirs.write_bytes(scene.bundle.read_bytes())
    first.set(smtpd_tls_chain_files=str(scene.bundle))
    second.set(smtpd_tls_chain_files=str(theirs))
    scene.family.start()
    return scene


@pytest.mark.postfix
def test_what_one_instance_refuses_is_served_by_the_other(apart):
    before = served(apart.first), apart.bundle.read_bytes()
    newer = apart.renew(NAME, "out.example.org")  # without the name of the first

    done = apart.deploy()

    assert done.returncode == 1
    assert "no longer covers mx.example.org" in done.stderr
    assert (served(apart.first), apart.bundle.read_bytes()) == before
    assert served(apart.second) == everywhere(newer)
    reloaded(apart.family, 0, 1)


@pytest.mark.postfix
@pytest.mark.parametrize("at", ["first", "second"])
def test_a_renewal_that_one_instance_does_not_serve_is_undone_there_alone(apart, at):
    failing: Instance = getattr(apart, at)
    (other,) = set(apart.family.members) - {failing}
    lab = Scene(failing, apart.certbot, apart.authority)
    other_file = failing.base / "other.pem"
    other_file.write_bytes(apart.authority.issue(*NAMES).bundle_pem)
    impose(lab, "smtpd_tls_chain_files", str(other_file))
    newer = apart.renew()

    done = apart.command("deploy", "--cert-name", NAME, "--verify-timeout", "5")

    assert done.returncode == 1
    assert "the previous files were restored" in done.stderr
    assert (str(failing.directory) in done.stderr) is (at == "second")
    assert served(other) == everywhere(newer)
    old = own(apart.bundle, failing) if at == "second" else apart.bundle
    assert old.read_bytes() != newer.bundle_pem


@pytest.mark.postfix
def test_a_shared_bundle_moves_with_the_next_installation_and_back_with_its_undo(
    shared,
):
    second, theirs = shared.second, own(shared.bundle, shared.second)
    before = second.snapshot(), shared.first.snapshot()

    shared.install(second)

    named = second.postconf("-h", "smtpd_tls_chain_files").strip()
    assert named == str(theirs)
    assert shared.first.snapshot() == before[1]
    newer = shared.renew()
    assert shared.deploy(at=second).returncode == 0
    assert served(shared.first) == served(second) == everywhere(newer)
    assert shared.bundle.read_bytes() == theirs.read_bytes() == newer.bundle_pem

    done = shared.certbot("rollback", *options(second))

    assert done.returncode == 0, done.stderr
    assert second.snapshot() == before[0]
    assert served(second) == everywhere(newer)
    assert not theirs.exists()


@pytest.mark.postfix
def test_an_instance_forgets_its_own_bundle_and_the_last_one_the_next_key(apart):
    theirs = own(apart.bundle, apart.second)
    next_key = apart.bundle.with_suffix(".next.key")
    next_key.touch(mode=0o600)

    done = apart.command("forget", NAME)

    assert done.returncode == 3, done.stderr
    assert "read certbot's own files" in done.stderr
    there = [path.exists() for path in (apart.bundle, theirs, next_key)]
    assert there == [False, True, True]
    newer = apart.renew()
    assert apart.deploy(at=apart.second).returncode == 0
    assert served(apart.second) == everywhere(newer)

    apart.command("forget", NAME, at=apart.second)

    assert [path.exists() for path in (theirs, next_key)] == [False, False]


@pytest.mark.postfix
def test_certbot_s_timer_makes_up_for_what_a_further_instance_has_missed(apart):
    newer = apart.renew()
    apart.bundle.write_bytes(newer.bundle_pem)
    apart.first.reload()

    done = apart.certbot("renew")

    assert done.returncode == 0, done.stderr
    assert served(apart.second) == everywhere(newer)


# Undo


@pytest.mark.postfix
def test_a_rollback_of_one_instance_leaves_the_other_alone(scene):
    first, second = scene.family.members
    first.set(smtpd_tls_chain_files=str(scene.bundle))
    scene.family.start()
    snake_oil, before = served(second), second.snapshot()
    deployed = served(first), first.snapshot()
    scene.install(second)
    assert served(second) == deployed[0]

    done = scene.certbot("rollback", *options(second))

    assert done.returncode == 0, done.stderr
    assert (served(second), second.snapshot()) == (snake_oil, before)
    assert (served(first), first.snapshot()) == deployed
    reloaded(scene.family, 0, 2)


@pytest.mark.postfix
def test_a_rollback_keeps_the_bundle_that_it_had_created_if_the_other_uses_it(scene):
    first, second = scene.family.members
    scene.bundle.unlink()
    scene.family.start()
    scene.install(first)
    deployed = served(first)
    second.set(smtpd_tls_chain_files=str(scene.bundle))  # as in a copy of main.cf

    done = scene.certbot("rollback", *options(first))

    assert done.returncode == 0, done.stderr
    assert served(first) != deployed
    second.reload()
    wait_until(lambda: served(second) == deployed, "the second one shows it")


@pytest.mark.postfix
def test_a_bundle_is_renewed_and_kept_until_the_last_instance_has_forgotten_it(shared):
    before = served(shared.second)

    done = shared.command("forget", NAME)

    assert done.returncode == 3
    told = f"{shared.bundle} is not removed: {shared.second.directory} uses it"
    assert done.stderr.endswith(f"certbot-postfix: warning: {told}\n")
    assert shared.bundle.exists()
    assert str(shared.bundle) not in shared.first.main_cf.read_text()
    assert served(shared.second) == before
    reloaded(shared.family, 1, 0)

    newer = shared.renew()
    done = shared.deploy()

    assert done.returncode == 0, done.stderr
    assert served(shared.second) == everywhere(newer)

    done = shared.command("forget", NAME, at=shared.second)

    assert done.returncode == 3, done.stderr
    assert not shared.bundle.exists()


@pytest.mark.postfix
def test_what_the_second_forgets_stays_if_the_first_cannot_be_read(shared):
    with unreadable(shared.first):
        done = shared.command("forget", NAME, at=shared.second)
        renewal = shared.deploy(at=shared.second)

    assert done.returncode == 3
    assert f"{shared.bundle} is not removed: {FIRST} may use it" in done.stderr
    assert shared.bundle.exists()
    assert renewal.returncode == 1  # whether the first needs it is not known
    assert str(FIRST / "main.cf") in renewal.stderr


# Strangers, and two at once


@pytest.mark.postfix
def test_an_instance_that_postmulti_does_not_know_is_neither_told_nor_tells(
    shared, base
):
    (base / "private").mkdir()
    with closing(PrivatePostfix(base / "private", hostname=NAME)) as private:
        private.set(smtpd_tls_chain_files=str(shared.bundle))
        private.start()
        old = served(private)
        newer = shared.renew()

        done = shared.deploy()

        assert (done.returncode, done.stderr) == (0, "")
        assert served(shared.first) == served(shared.second) == everywhere(newer)
        assert served(private) == old
        reloaded(shared.family, 1, 1)

        done = shared.deploy(at=private)

        assert (done.returncode, done.stderr) == (0, "")
        assert served(private) == everywhere(newer)
    reloaded(shared.family, 1, 1)


def both(commands: list[list[str]], environment: dict[str, str]) -> list[Done]:
    """Run all *commands* at once; return what became of each."""
    running = [
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for command in commands
    ]
    try:
        told = [each.communicate(timeout=120)[0] for each in running]
    finally:
        for each in running:
            each.kill()
            each.wait()
    return [
        Done(each.args, each.returncode, output)
        for each, output in zip(running, told, strict=True)
    ]


@pytest.mark.postfix
def test_of_two_certbots_at_once_each_deploys_or_says_that_another_one_runs(scene):
    scene.family.start()
    install = ("install", "--cert-name", NAME)
    members = scene.family.members
    commands = [scene.certbot.argv(*install, *options(each)) for each in members]

    done = both(commands, scene.certbot.environment)

    assert any(each.returncode == 0 for each in done)
    for member, each in zip(members, done, strict=True):
        if each.returncode:
            assert "Another instance of Certbot is already running" in each.stdout
            assert str(scene.bundle) not in member.main_cf.read_text()
            scene.install(member)
    leaf = live(scene.certbot)
    assert served(scene.first) == served(scene.second) == dict.fromkeys(SERVICES, leaf)


@pytest.mark.postfix
def test_two_deploy_hooks_at_once_on_two_instances_do_not_disturb_each_other(shared):
    newer = shared.renew()
    deploy = ("deploy", "--cert-name", NAME)
    there = ("--postfix-config-dir", str(shared.second.directory))
    commands = [
        shared.certbot.command(*deploy),
        shared.certbot.command(*there, *deploy),
    ]

    done = both(commands, shared.certbot.environment)

    assert [(each.returncode, each.stdout) for each in done] == [(0, ""), (0, "")]
    assert served(shared.first) == served(shared.second) == everywhere(newer)
    assert list(shared.bundle.parent.iterdir()) == [shared.bundle]
