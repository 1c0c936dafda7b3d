"""The MTA-STS policy of one's own domain: a real nginx, MX host, and senders."""

import os
import pwd
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from certbot_postfix.formats import mta_sts
from certbot_postfix.formats.policy import Mode
from certbot_postfix.publish import publishers, written
from tests.lab import COMMAND, Authority, base_directory
from tests.lab.machine import wait_until
from tests.lab.network import POLICIES, Inside, Network, Sender, marks
from tests.lab.nginx import PROGRAM, Nginx
from tests.lab.source import ThirdParty
from tests.lab.terminal import converse
from tests.test_resolver_daemons import DAEMON

DOMAIN = "own.insecure"
MX = f"mx.{DOMAIN}"
ADDRESS = "127.0.0.20"
HOST = f"mta-sts.{DOMAIN}"

PAST = datetime.now(timezone.utc) - timedelta(days=1)
EXPIRED = {"not_before": PAST - timedelta(days=90), "not_after": PAST}

pytestmark = [
    pytest.mark.postfix,
    pytest.mark.skipif(not PROGRAM, reason="nginx is not installed"),
]


class Own:
    """A domain with its MX host and its web server, in a network."""

    def __init__(self, base: Path, authority: Authority, stack: ExitStack) -> None:
        self.network = Network(base, authority)
        stack.callback(self.network.close)
        self.web = Nginx(self.network, DOMAIN)
        self.path = self.web.webroot / ".well-known/mta-sts.txt"
        self.mx = Inside(self.network, base / "mx", hostname=MX, address=ADDRESS)
        stack.callback(self.mx.close)
        self.mx.certify(MX)
        self.mx.start()
        self.publish()

    def publish(self, *lines: str) -> None:
        """Have DNS announce the policy by these *lines* of a zone file."""
        records = [line.replace(f".{DOMAIN}.", "", 1) for line in lines]
        records = [each.replace(" 3600 IN ", " ", 1) for each in records]
        self.network.publish(
            DOMAIN,
            f"@ MX 10 {MX}.",
            f"mx A {ADDRESS}",
            f"mta-sts A {POLICIES}",
            *records,
        )

    def argv(self, *options: str) -> list[str]:
        where = ("--webroot", str(self.web.webroot))
        own = ("--config-dir", str(self.network.base / "letsencrypt"))
        return [str(COMMAND), *own, "mta-sts", DOMAIN, *where, *options]

    def command(
        self, *options: str, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        env = {**os.environ, **environment}
        return self.network.run(*self.argv(*options), env=env)

    def announced(self, *options: str, status: int = 3) -> str:
        """Publish what the command prints, if anything, and return the rest."""
        done = self.command(*options)
        assert done.returncode == status, done.stdout + done.stderr
        lines = [line for line in done.stdout.splitlines() if line[:5] == "_mta-"]
        if lines:
            self.publish(*lines)
        return done.stdout + done.stderr

    @property
    def policy(self) -> mta_sts.Published:
        return mta_sts.parse(self.path.read_bytes(), "the file")


@pytest.fixture(scope="module")
def shared(authority: Authority) -> Iterator[Own]:
    with base_directory() as base, ExitStack() as stack:
        yield Own(base, authority, stack)


@pytest.fixture
def own(shared: Own) -> Iterator[Own]:
    """A domain without a policy."""
    yield shared
    shared.path.unlink(missing_ok=True)
    shared.publish()


@pytest.fixture
def tested(own: Own) -> Own:
    """A domain with a policy in testing mode, in DNS and on the web."""
    text = mta_sts.render(mta_sts.Published(mta_sts.Mode.TESTING, (MX,), 86400))
    own.path.parent.mkdir(exist_ok=True)
    own.path.write_bytes(text)
    line = mta_sts.record(mta_sts.content_id(text))
    own.publish(f'_mta-sts.{DOMAIN}. 3600 IN TXT "{line}"')
    return own


def test_a_policy_is_tested_then_enforced_and_senders_follow_it(own, tmp_path):
    old_umask = os.umask(0o077)
    try:
        said = own.announced("-n")
    finally:
        os.umask(old_umask)

    assert f"+mx: {MX}" in said
    assert own.policy == mta_sts.Published(mta_sts.Mode.TESTING, (MX,), 86400)
    assert stat.S_IMODE(own.path.stat().st_mode) == 0o644
    assert stat.S_IMODE(own.path.parent.stat().st_mode) == 0o755
    root = own.network.base / "letsencrypt/postfix"
    assert written.read(root) == {DOMAIN: own.web.webroot}
    before = own.path.stat()
    assert f"_mta-sts.{DOMAIN} announces it" in own.announced("-n", status=0)
    assert own.path.stat() == before

    own.announced("-n", "--mode", "enforce")
    own.announced("-n", status=0)

    assert own.policy == mta_sts.Published(mta_sts.Mode.ENFORCE, (MX,), 604_800)
    follow(own, tmp_path)


def follow(own: Own, tmp_path: Path) -> None:
    """Have a sender deliver by the policy, with Debian's daemon, then with ours."""
    config = tmp_path / "daemon.yml"
    config.write_text("cache:\n  type: internal\n")
    own.network.start("mta-sts-daemon", "-c", str(config))
    own.network.await_port("127.0.0.1", 8461)
    domains = tmp_path / "domains"
    domains.write_text(f"{DOMAIN}\n")
    sender = Sender(own.network, own.network.base / "sender")
    with sender:
        sender.set(
            smtp_tls_policy_maps=DAEMON,
            smtp_tls_CAfile="/etc/ssl/certs/ca-certificates.crt",
        )
        sender.reload()
        delivered(own, sender)
        where = ("--postfix-config-dir", str(sender.config_dir), "--config-dir")
        words = ("policy", "install", "-n", "--mta-sts-domains", str(domains))
        words += ("--policy-service", "none")  # that of Debian 13 would be wired in
        sender.set(smtp_tls_policy_maps="")
        done = own.network.run(str(COMMAND), *where, str(tmp_path), *words)
        assert done.returncode == 0, done.stdout + done.stderr
        assert DAEMON not in sender.postconf("-h", "smtp_tls_policy_maps")
        delivered(own, sender)


def delivered(own: Own, sender: Sender) -> None:
    before = sender.log().count("Verified TLS connection established")
    mark = sender.send(f"you@{DOMAIN}")
    wait_until(lambda: mark in marks(own.mx.arrived()), "the message arrives")
    assert sender.log().count("Verified TLS connection established") == before + 1


def test_the_way_out_is_a_policy_that_says_so_and_patience(tested):
    said = tested.announced("-n", "--mode", "none")

    assert tested.policy.mode is mta_sts.Mode.NONE
    assert "keep it and the file for 86400 seconds" in said
    tested.announced("-n", status=0)


# What is not enforced


def other_mx(own: Own) -> str:
    own.mx.certify(f"other.{DOMAIN}")
    return f"MX {MX}: its certificate is not valid: Hostname mismatch"


def expired_mx(own: Own) -> str:
    own.mx.certify(MX, **EXPIRED)
    return f"MX {MX}: its certificate is not valid: certificate has expired"


def clear_mx(own: Own) -> str:
    own.mx.set(smtpd_tls_security_level="none")
    own.mx.reload()
    return f"MX {MX}: STARTTLS is not offered ({ADDRESS})"


def closed_mx(own: Own) -> str:
    own.mx.set(smtpd_client_restrictions="reject", smtpd_delay_reject="no")
    own.mx.reload()
    return f"MX {MX}: 554 5.7.1 "


def dead_mx(own: Own) -> str:
    own.network.publish(DOMAIN, f"@ MX 10 {MX}.", "mx A 127.0.0.99")
    return f"MX {MX}: 127.0.0.99 does not answer: Connection refused"


def expired_web(own: Own) -> str:
    own.web.configure(own.network.authority.issue(HOST, **EXPIRED))
    own.web.reload()
    return ": its certificate is not valid: certificate has expired"


def redirected(own: Own) -> str:
    issued = own.network.authority.issue(HOST)
    own.web.configure(issued, more=f"return 301 https://{HOST}/policy;")
    own.web.reload()
    return "mta-sts.txt: the server answers with the status 301"


def announced_by_none(own: Own) -> str:
    own.publish()
    return f"_mta-sts.{DOMAIN} has no TXT record of a policy, or several"


def changed_behind(own: Own) -> str:
    own.path.write_bytes(own.path.read_bytes().replace(b"testing", b"none"))
    return f"{own.path} has no policy in testing mode"


@pytest.fixture
def whole_again(tested: Own) -> Iterator[Own]:
    yield tested
    tested.mx.set(smtpd_tls_security_level="may", smtpd_client_restrictions="")
    tested.mx.certify(MX)
    tested.web.configure(tested.network.authority.issue(HOST))
    tested.web.reload()


@pytest.mark.parametrize(
    "spoil",
    [
        other_mx,
        expired_mx,
        clear_mx,
        closed_mx,
        dead_mx,
        expired_web,
        redirected,
        announced_by_none,
        changed_behind,
    ],
)
def test_what_senders_could_not_follow_is_not_enforced(
    whole_again: Own, spoil: Callable[[Own], str]
):
    why = spoil(whole_again)
    before = whole_again.path.read_bytes()

    done = whole_again.command("-n", "--mode", "enforce")

    assert (done.returncode, done.stdout) == (1, "")
    assert why in done.stderr
    assert whole_again.path.read_bytes() == before


def test_an_mx_host_outside_of_the_policy_is_a_warning_or_a_refusal(tested):
    why = f"MX {MX} is not in the policy"

    assert why in tested.announced("-n", "--mx", "mx.example.org")
    done = tested.command("-n", "--mx", "mx.example.org", "--mode", "enforce")

    assert (done.returncode, why in done.stderr) == (1, True)
    tested.announced("-n", "--mx", f"*.{DOMAIN}")
    assert tested.policy.mxs == (f".{DOMAIN}",)


# Who publishes the record

PUBLISHER = """
from pathlib import Path
from zope.interface import implementer
from certbot_postfix.interfaces import IRecordPublisher

@implementer(IRecordPublisher)
class Publisher:
    label = "third party"
    def __init__(self, text):
        self.path = Path(text)
    def note(self, *words):
        with self.path.open("a") as file:
            print(*words, sep=" | ", file=file)
    def add(self, record):
        self.note("add", record)
    def remove(self, record, observed):
        self.note("remove", record, *sorted(observed))

sources = Publisher
"""


def test_a_publisher_puts_the_record_in_the_place_of_the_one_before(tested, tmp_path):
    party, done = ThirdParty(tmp_path / "third", publishers.GROUP), tmp_path / "done"
    party.break_(PUBLISHER)
    old = mta_sts.record(mta_sts.content_id(tested.path.read_bytes()))
    enforce, third = ("-n", "--mode", "enforce", "--publisher"), str(party.directory)

    failed = tested.command(*enforce, f"third:{tmp_path}", PYTHONPATH=third)
    assert (failed.returncode, tested.policy.mode) == (3, Mode.ENFORCE)  # it is written
    assert "Is a directory" in failed.stderr

    said = tested.command(*enforce, f"third:{done}", PYTHONPATH=third)

    name = f"_mta-sts.{DOMAIN}. 3600 IN TXT"
    new = mta_sts.record(mta_sts.content_id(tested.path.read_bytes()))
    observed = " | ".join(sorted((f'"{old}"', f'"{new}"')))
    assert (said.returncode, name in said.stdout) == (3, False), said.stderr
    assert "DNS does not have it yet" in said.stderr
    assert done.read_text().splitlines() == [
        f'add | {name} "{new}"',
        f'remove | {name} "{old}" | {observed}',
    ]


# What is not written, and not announced


def test_a_policy_that_senders_do_not_get_is_not_announced(own, tmp_path):
    done = own.network.run(*own.argv("-n", "--webroot", str(tmp_path)))

    assert (done.returncode, "_mta-sts" in done.stdout) == (3, False)
    assert "the server answers with the status 404" in done.stderr


def test_the_file_of_somebody_else_is_replaced_after_a_question_only(own):
    theirs = b"version: STSv1\nmode: testing\nmx: mx.example.org\nmax_age: 86400\n"
    own.path.parent.mkdir(exist_ok=True)
    own.path.write_bytes(theirs)

    done = own.command("-n")
    assert (
        done.returncode,
        "(not written by this command) was left" in done.stderr,
    ) == (1, True)
    argv = own.network.argv(*own.argv())
    shown, status = converse(argv, os.environ, "n")
    assert (status, f"+mx: {MX}" in shown) == (1, True)
    assert own.path.read_bytes() == theirs

    converse(argv, os.environ, "y")
    assert own.policy.mxs == (MX,)


def test_two_domains_have_one_file_only_after_a_question(tested):
    tested.announced("-n", status=0)
    before = tested.path.read_bytes()
    argv = tested.argv("-n", "--mx", "mx.example.org")
    argv[argv.index(DOMAIN)] = f"sub.{DOMAIN}"

    done = tested.network.run(*argv)

    assert (done.returncode, f"(also the policy of {DOMAIN})" in done.stderr) == (
        1,
        True,
    )
    assert tested.path.read_bytes() == before


def test_a_link_of_a_web_servers_user_is_not_followed(own, tmp_path):
    webroot = own.web.webroot
    if own.path.parent.exists():
        own.path.parent.rmdir()
    own.path.parent.symlink_to(tmp_path)
    owner = webroot.stat()
    os.chown(webroot, pwd.getpwnam("nobody").pw_uid, -1)
    try:
        done = own.command("-n")
    finally:
        os.chown(webroot, owner.st_uid, owner.st_gid)
        own.path.parent.unlink()

    assert (done.returncode, [*tmp_path.iterdir()]) == (1, [])
    assert f"{own.path.parent} is a symbolic link" in done.stderr
