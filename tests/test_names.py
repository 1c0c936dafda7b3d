"""Several certificates on one server: who is shown which, and what becomes of that.

certbot, the command, Postfix and the handshakes are real.  Where a claim is not about
how certbot calls the plugin, lineages come from the lab's authority, and are deployed
while Postfix is still stopped, which takes no time.
"""

import contextlib
import itertools
import re
import shlex
import shutil
import smtplib
import socket
import ssl
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
from cryptography import x509

from certbot_postfix.errors import CertificateError, Error
from certbot_postfix.inbound import sni
from certbot_postfix.inbound.install import Deployment, DeployOptions, Proposal
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.postfix import databases
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.system import files
from tests.lab import (
    NEWEST,
    Authority,
    Certbot,
    Issued,
    Pebble,
    PrivatePostfix,
    install_lineage,
    pki,
    renew_lineage,
)
from tests.lab.machine import LOOPBACK, wait_until
from tests.lab.postfix import SERVICES, STRANGER
from tests.test_deployment import Checkpoint
from tests.test_story import identity, options

pytestmark = pytest.mark.postfix

NAME = "mx.example.org"
SHOP = ("shop.example.net", "www.shop.example.net")
FOREIGN = "xn--bcher-kva.example"

# How a new connection comes to the server: to which service, and from which address.
ROADS = [(service, LOOPBACK) for service in SERVICES]
SCREENED = [*ROADS, ("smtp", STRANGER)]

Done = subprocess.CompletedProcess[str]


# Clients


class Asking(ssl.SSLContext):
    """What a client demands who asks for the server *name*, if any."""

    name: str | None = None
    kind = ""  # of key, if it knows only one

    def wrap_socket(self, sock, *args, server_hostname=None, **kwargs):
        return super().wrap_socket(sock, *args, server_hostname=self.name, **kwargs)


def asking(name: str | None, *, kind: str = "", trusted: bytes = b"") -> Asking:
    """Return a client's demands; without *trusted* issuers it takes any certificate.

    With *kind*, it knows only one kind of key.
    """
    context = Asking(ssl.PROTOCOL_TLS_CLIENT)
    context.name, context.kind = name, kind
    if trusted:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=trusted.decode())
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if kind:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(f"a{kind.upper()}:!aNULL")
    return context


@contextlib.contextmanager
def session(
    postfix: PrivatePostfix, service: str, demands: Asking, client: str = LOOPBACK
) -> Iterator[smtplib.SMTP]:
    """Yield an SMTP session with TLS, from the address *client*."""
    port = postfix.ports[service]
    source = None if client == LOOPBACK else (client, 0)
    with contextlib.ExitStack() as stack:
        if service == "submissions":
            smtp: smtplib.SMTP = smtplib.SMTP_SSL(
                LOOPBACK, port, "client.example.org", timeout=60, context=demands
            )
        else:
            smtp = smtplib.SMTP(
                LOOPBACK, port, "client.example.org", 60, source_address=source
            )
        stack.enter_context(smtp)
        if service != "submissions":
            smtp.starttls(context=demands)
        yield smtp


def leaf(
    postfix: PrivatePostfix,
    name: str | None = None,
    *,
    service: str = "smtp",
    client: str = LOOPBACK,
    kind: str = "",
) -> x509.Certificate:
    """Return the certificate that is shown to who asks for *name*, or for none."""
    with session(postfix, service, asking(name, kind=kind), client) as smtp:
        der = smtp.sock.getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(der)


def everywhere(
    postfix: PrivatePostfix,
    name: str | None = None,
    *,
    kind: str = "",
    roads: Collection[tuple[str, str]] = ROADS,
) -> x509.Certificate:
    """Return the certificate that is shown on all *roads*, which must be the same."""
    (shown,) = {
        leaf(postfix, name, service=service, client=client, kind=kind)
        for service, client in roads
    }
    return shown


class Mail(threading.Thread):
    """Delivers two messages a second to services in turn while the ``with`` lasts.

    The certificate must stand up to each of *demands*.
    """

    def __init__(self, postfix: PrivatePostfix, demands: Collection[Asking]) -> None:
        super().__init__()
        self.demands = demands
        self.delivered: Counter[tuple[str, str | None]] = Counter()
        self.failed: list[str] = []
        self._postfix = postfix
        self._tried: Counter[tuple[str, str | None, str]] = Counter()
        self._end = threading.Event()

    def __enter__(self) -> "Mail":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()

    def run(self) -> None:
        while not self._end.wait(0.5):
            ways = itertools.product(SERVICES, list(self.demands))
            if way := min(ways, key=self._tries, default=None):
                self._deliver(*way)

    def _tries(self, way: tuple[str, Asking]) -> int:
        service, demands = way
        return self._tried[service, demands.name, demands.kind]

    def deliver(self) -> None:
        """Deliver a message on each way."""
        for service, demands in itertools.product(SERVICES, list(self.demands)):
            self._deliver(service, demands)

    def _deliver(self, service: str, demands: Asking) -> None:
        self._tried[service, demands.name, demands.kind] += 1
        try:
            with session(self._postfix, service, demands) as smtp:
                smtp.sendmail(
                    "sender@example.org", f"root@{NAME}", "Subject: test\n\nText.\n"
                )
            self.delivered[service, demands.name] += 1
        except (OSError, smtplib.SMTPException) as error:
            self.failed.append(f"{service}, {demands.name}: {error!r}")


# The scene


class Scene:
    """A Postfix that does not run yet, and lineages that are not deployed."""

    def __init__(
        self, postfix: PrivatePostfix, certbot: Certbot, authority: Authority
    ) -> None:
        self.postfix = postfix
        self.certbot = certbot
        self.said: list[str] = []
        self._authority = authority
        self._like: dict[str, tuple[tuple[str, ...], str]] = {}
        self._issued: dict[str, Issued] = {}

    # Lineages

    def issue(self, *names: str, kind: str = "ecdsa") -> Issued:
        """Return a certificate that is in no lineage."""
        return self._authority.issue(*names, key=pki.generate_key(kind))

    def lineage(self, name: str, *names: str, kind: str = "ecdsa") -> Issued:
        """Make the lineage *name*, for *names* if there are some."""
        self._like[name] = names or (name,), kind
        issued = self._issued[name] = self.issue(*self._like[name][0], kind=kind)
        install_lineage(
            self.certbot.config_dir,
            name,
            issued,
            postfix_config_dir=str(self.postfix.config_dir),
        )
        return issued

    def renew(self, name: str, *names: str, kind: str = "") -> Issued:
        """Renew a lineage, with other *names* or another *kind* of key if so told."""
        old = self._like[name]
        self._like[name] = names or old[0], kind or old[1]
        issued = self.issue(*self._like[name][0], kind=self._like[name][1])
        renew_lineage(self.certbot.config_dir, name, issued)
        return issued

    def live(self, name: str) -> Lineage:
        return Lineage.live(self.certbot.config_dir / "live", name)

    # The product

    @property
    def deployment(self) -> Deployment:
        """What a new run of the product would have."""
        bundles = self.certbot.config_dir / "postfix"
        return Deployment(
            Postfix(self.postfix.config_dir), bundles, timeout=20, say=self.said.append
        )

    def deploy(self, name: str) -> Proposal:
        """Deploy a lineage, as certbot has it done."""
        deployment = self.deployment
        proposal = deployment.propose(self.live(name), DeployOptions())
        deployment.apply(proposal, Checkpoint())
        deployment.serve(proposal)
        return proposal

    def install(self, name: str, *args: str) -> Done:
        """Have certbot deploy a lineage; whether that fails is a result."""
        return self.certbot(
            "install", "--cert-name", name, *options(self.postfix), *args
        )

    def command(self, *args: str, **environment: str) -> Done:
        """Run ``certbot-postfix ARGS``; whether that fails is a result."""
        return self.run(self.argv(*args), **environment)

    def run(self, argv: list[str], **environment: str) -> Done:
        """Run a program as certbot runs its hooks."""
        return subprocess.run(
            argv,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**self.certbot.environment, **environment},
            timeout=120,
            start_new_session=True,
        )

    def argv(self, *args: str, directory: bool = True) -> list[str]:
        command = [str(self.certbot.executable.with_name("certbot-postfix"))]
        command += ["--config-dir", str(self.postfix.config_dir)]
        if directory:
            command += ["--certbot-config-dir", str(self.certbot.config_dir)]
        return [*command, *args]

    # What it did

    def parameter(self, name: str) -> str:
        """Return what main.cf says."""
        return self.postfix.postconf("-h", name).strip()

    @property
    def default(self) -> list[str]:
        """The lineages that main.cf names."""
        chain = self.parameter("smtpd_tls_chain_files").split(", ")
        return [Path(each).stem for each in chain if each]

    @property
    def table(self) -> dict[str, list[str]]:
        """The lineages that the table has for each name."""
        path = self.postfix.config_dir / "certbot_sni"
        lines = path.read_text().splitlines() if path.exists() else []
        entries = (line.split() for line in lines if not line.startswith("#"))
        return {
            key: [Path(each).stem for each in value.split(",")]
            for key, value in entries
        }

    def stand(
        self, *default: str, by_name: Collection[str] = (), form: str = "texthash"
    ) -> None:
        """Have lineages deployed, as `deploy` would, without the time that it takes."""
        bundles = {
            name: private(self.certbot.bundle(name), self._issued[name])
            for name in (*default, *by_name)
        }
        table: dict[str, list[str]] = {}
        for name, bundle in bundles.items():
            for each in self._like[name][0]:
                table.setdefault(each.removeprefix("*"), []).append(str(bundle))
        chain = ", ".join(str(bundles[name]) for name in default)
        values = {"smtpd_tls_chain_files": chain}
        path = self.postfix.config_dir / sni.NAME
        if by_name:
            path.touch(mode=0o600)
            lines = (f"{key} {','.join(table[key])}\n" for key in sorted(table))
            path.write_bytes(sni.HEADER + "".join(lines).encode())
            values["tls_server_sni_maps"] = f"{form}:{path}"
        self.postfix.postconf("-#", "smtpd_tls_cert_file", "smtpd_tls_key_file")
        self.postfix.set(smtp_tls_security_level="may", **values)
        if form != "texthash":  # last, since it must look newer than the bundles
            self.postfix.command("postmap", "-F", f"{form}:{path}")

    @property
    def reloads(self) -> int:
        return self.postfix.log().count("reload --")


@pytest.fixture
def certbot(base: Path, pebble: Pebble) -> Certbot:
    """The newest certbot, which obtains certificates from Pebble."""
    return Certbot(base, pebble=pebble)


@pytest.fixture
def scene(
    stopped_postfix: PrivatePostfix, certbot: Certbot, authority: Authority
) -> Scene:
    """Nothing is deployed, and Postfix does not run."""
    return Scene(stopped_postfix, certbot, authority)


@pytest.fixture
def shop(scene: Scene) -> Scene:
    """Postfix runs with a default, and with a lineage that is served by name."""
    scene.lineage(NAME)
    scene.lineage("shop", *SHOP)
    scene.stand(NAME, by_name=["shop"])
    scene.postfix.start()
    return scene


@pytest.fixture
def compiled(scene: Scene) -> Scene:
    """As `shop`, with a database, as a larger table would have."""
    scene.lineage(NAME)
    scene.lineage("shop", *SHOP)
    scene.stand(NAME, by_name=["shop"], form="hash")
    scene.postfix.start()
    return scene


@pytest.fixture
def own(scene: Scene) -> Scene:
    """Postfix does not run yet; a lineage is not deployed, beside a default that is."""
    scene.lineage(NAME)
    scene.lineage("own", *SHOP)
    scene.stand(NAME)
    return scene


@pytest.fixture
def both(scene: Scene) -> Scene:
    """Postfix runs with a default that has keys of both types."""
    scene.lineage(NAME)
    scene.lineage("rsa", NAME, kind="rsa")
    scene.stand(NAME, "rsa")
    scene.postfix.start()
    return scene


@pytest.mark.parametrize("there", ["compiled", "both"])
def test_a_lineage_that_is_deployed_needs_no_change(request, there):
    scene: Scene = request.getfixturevalue(there)
    reloads = scene.reloads

    proposals = [scene.deploy(NAME), scene.deploy("rsa" if there == "both" else "shop")]

    assert all(proposal.empty for proposal in proposals)
    assert scene.reloads == reloads


def told(done: Done) -> str:
    """Return all that a user could read, as one line."""
    return " ".join((done.stdout + done.stderr).split())


def succeeded(done: Done) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return told(done)


def private(path: Path, issued: Issued) -> Path:
    """Write a bundle of the administrator's."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(issued.bundle_pem)
    return path


# The whole story

STANDALONE = ("-a", "standalone")
# A wildcard needs a challenge by DNS, and Pebble believes it without looking.
BY_DNS = ("-a", "manual", "--preferred-challenges", "dns", "--manual-auth-hook", "true")

STORY = {
    NAME: (*STANDALONE, "-d", NAME),
    "rsa": (*STANDALONE, "-d", NAME, "--cert-name", "rsa", "--key-type", "rsa"),
    "shop": (*STANDALONE, "-d", SHOP[0], "-d", SHOP[1], "--cert-name", "shop"),
    "wild": (*BY_DNS, "-d", "*.example.com", "--cert-name", "wild"),
}
SERVED = {
    NAME: [(None, "ecdsa"), (NAME, "ecdsa")],
    "rsa": [(None, "rsa"), (NAME, "rsa")],
    "shop": [(SHOP[0], "ecdsa"), (SHOP[1], "ecdsa")],
    "wild": [("one.example.com", "ecdsa"), ("two.example.com", "ecdsa")],
}


@pytest.fixture
def screened(base: Path) -> Iterator[PrivatePostfix]:
    """A running Postfix with postscreen before its smtp service."""
    with PrivatePostfix(base, postscreen=True) as postfix:
        yield postfix


class Story:
    """The lineages of `STORY`, and mail that flows while they are changed."""

    def __init__(self, certbot: Certbot, postfix: PrivatePostfix) -> None:
        self._certbot = certbot
        self._postfix = postfix

    def live(self, lineage: str) -> x509.Certificate:
        """Return the newest leaf that certbot obtained."""
        path = self._certbot.config_dir / "live" / lineage / "cert.pem"
        return x509.load_pem_x509_certificate(path.read_bytes())

    def demands(self, lineages: Collection[str]) -> list[Asking]:
        """Return what clients demand once *lineages* are deployed."""
        chain = self._certbot.config_dir / "live" / NAME / "chain.pem"
        return [
            asking(name, kind=kind, trusted=chain.read_bytes())
            for lineage in lineages
            for name, kind in SERVED[lineage]
            if name
        ]

    def shows_the_newest(self, lineages: Collection[str]) -> None:
        for lineage in lineages:
            for name, kind in SERVED[lineage]:
                shown = everywhere(self._postfix, name, kind=kind, roads=SCREENED)
                assert shown == self.live(lineage), (lineage, name, kind)

    def __call__(self, *args: str) -> str:
        return succeeded(self._certbot(*args))


def test_four_lineages_are_deployed_renewed_healed_and_rolled_back_while_mail_flows(
    base, screened, pebble, executable
):
    postfix, certbot = screened, Certbot(base, executable=executable, pebble=pebble)
    story = Story(certbot, postfix)
    oil = (postfix.config_dir / "snakeoil.pem").read_bytes()
    before = Mail(postfix, [asking("snakeoil", trusted=oil)])
    before.deliver()
    snapshots = []

    story_so_far: list[str] = []
    with contextlib.ExitStack() as flowing:
        for lineage, wanted in STORY.items():
            snapshots.append(postfix.snapshot())
            story("run", *wanted, *options(postfix))
            story_so_far.append(lineage)
            story.shows_the_newest(story_so_far)
            if lineage == NAME:
                mail = flowing.enter_context(Mail(postfix, []))
            mail.demands = story.demands(story_so_far)

        configuration = postfix.snapshot()
        # The oldest certbot renews everything once, the newest twice.
        for _ in range(2 if executable == NEWEST else 1):
            old = [story.live(lineage) for lineage in STORY]
            story("renew", "--force-renewal")
            assert not set(old) & {story.live(lineage) for lineage in STORY}
            story.shows_the_newest(STORY)

        miss(certbot, "shop")
        assert everywhere(postfix, SHOP[0]) != story.live("shop")
        story("renew")
        story.shows_the_newest(STORY)
        assert postfix.snapshot() == configuration

        for snapshot in reversed(snapshots[1:]):
            mail.demands = story.demands(story_so_far[:-1])
            story("rollback", *options(postfix))
            story_so_far.pop()
            assert postfix.snapshot() == snapshot
            story.shows_the_newest(story_so_far)
    story("rollback", *options(postfix))

    assert postfix.snapshot() == snapshots[0]
    after = Mail(postfix, before.demands)
    after.deliver()
    assert before.failed == mail.failed == after.failed == []
    assert set(mail.delivered) == set(
        itertools.product(SERVICES, {one.name for one in story.demands(STORY)})
    )
    accepted = sum(each.delivered.total() for each in (before, mail, after))
    wait_until(
        lambda: postfix.log().count("status=sent (") == accepted,
        "all messages are delivered",
    )


def miss(certbot: Certbot, name: str) -> None:
    """Have certbot killed after it renewed a lineage, before that is deployed."""
    hook = certbot.config_dir / "renewal-hooks/deploy/kill"
    # certbot starts a shell that starts this.
    hook.write_text(
        "#!/bin/sh\nread -r _ _ _ certbot _ < /proc/$PPID/stat\nkill -9 $certbot\n"
    )
    hook.chmod(0o755)
    done = certbot("renew", "--force-renewal", "--cert-name", name)
    assert done.returncode == -9, done.stderr
    hook.unlink()


# Who is served, and how


def test_the_first_lineage_takes_the_place_of_a_self_signed_certificate(scene):
    issued = scene.lineage("shop", *SHOP)

    scene.deploy("shop")

    assert (scene.default, scene.table) == (["shop"], {})
    scene.postfix.start()
    assert everywhere(scene.postfix) == issued.leaf


def test_the_lineage_that_covers_the_server_s_name_displaces_another_default(scene):
    shop, issued = scene.lineage("shop", *SHOP), scene.lineage(NAME)
    scene.deploy("shop")

    scene.deploy(NAME)

    assert scene.default == [NAME]
    assert scene.table == {SHOP[0]: ["shop"], SHOP[1]: ["shop"], NAME: [NAME]}
    scene.postfix.start()
    assert everywhere(scene.postfix) == issued.leaf
    assert everywhere(scene.postfix, SHOP[1]) == shop.leaf


def test_a_lineage_with_the_names_of_the_default_and_another_key_joins_it(scene):
    issued = {kind: scene.lineage(kind, NAME, kind=kind) for kind in ("ecdsa", "rsa")}

    for kind in issued:
        scene.deploy(kind)

    assert scene.default == ["ecdsa", "rsa"]
    assert scene.table == {}
    scene.postfix.start()
    for name, kind in itertools.product((None, NAME), issued):
        assert everywhere(scene.postfix, name, kind=kind) == issued[kind].leaf


def test_a_lineage_by_name_is_joined_by_one_with_another_key(scene):
    scene.lineage(NAME)
    issued = {kind: scene.lineage(kind, *SHOP, kind=kind) for kind in ("ecdsa", "rsa")}
    scene.deploy(NAME)

    for kind in issued:
        scene.deploy(kind)

    assert scene.default == [NAME]
    pair = ["ecdsa", "rsa"]
    assert scene.table == {SHOP[0]: pair, SHOP[1]: pair, NAME: [NAME]}
    scene.postfix.start()
    for name, kind in itertools.product(SHOP, issued):
        assert everywhere(scene.postfix, name, kind=kind) == issued[kind].leaf


def test_the_names_of_the_default_are_in_the_table_too(shop):
    """Postfix logs a line for each name that it does not find."""
    for name in (NAME, *SHOP):
        everywhere(shop.postfix, name)

    assert shop.table[NAME] == [NAME]
    assert "not matched" not in shop.postfix.log()


def test_every_name_is_served_on_every_service(base, certbot, authority):
    names = {NAME: [NAME], "shop": [*SHOP, FOREIGN], "wild": ["*.example.com"]}
    with contextlib.closing(PrivatePostfix(base, postscreen=True)) as postfix:
        scene = Scene(postfix, certbot, authority)
        issued = {name: scene.lineage(name, *names[name]) for name in names}
        for name in issued:
            scene.deploy(name)
        postfix.start()

        asked = {
            None: NAME,
            NAME: NAME,
            NAME.upper(): NAME,
            SHOP[0]: "shop",
            SHOP[1]: "shop",
            FOREIGN: "shop",
            "any.example.com": "wild",
            "nobody.example.net": NAME,
            # A wildcard stands for one label, and not for none.
            "example.com": NAME,
        }
        for name, lineage in asked.items():
            shown = everywhere(postfix, name, roads=SCREENED)
            assert shown == issued[lineage].leaf, name


def test_a_name_that_two_lineages_have_goes_to_the_one_deployed_last(shop):
    issued = shop.lineage("newer", SHOP[1], "more.example.net")

    shop.deploy("newer")

    assert shop.table[SHOP[0]] == ["shop"]
    assert shop.table[SHOP[1]] == ["newer"]
    assert everywhere(shop.postfix, SHOP[1]) == issued.leaf


def test_without_a_table_of_names_a_further_lineage_is_refused(scene):
    scene.lineage(NAME)
    scene.lineage("shop", *SHOP)
    scene.deploy(NAME)
    before = scene.postfix.snapshot()

    done = scene.install("shop", "--postfix-sni", "never")

    assert done.returncode == 1
    assert "lineage shop is not deployed" in told(done)
    assert "--postfix-sni never forbids to serve it by name" in told(done)
    assert f"issue a certificate that covers {NAME}, or use --postfix-sni auto" in (
        told(done)
    )
    assert scene.postfix.snapshot() == before
    assert not scene.certbot.bundle("shop").exists()


def test_a_new_default_is_shown_to_who_asks_for_it_in_a_table_that_is_there(shop):
    shown = everywhere(shop.postfix, SHOP[0])
    issued = shop.lineage("new", NAME, "mail.example.org")

    succeeded(shop.install("new", "--postfix-sni", "never"))

    assert shop.default == ["new"]
    for name in (None, NAME, "mail.example.org"):
        assert everywhere(shop.postfix, name) == issued.leaf
    assert everywhere(shop.postfix, SHOP[0]) == shown


def answered(scene: Scene, base: Path) -> Issued:
    """Have a table of the administrator's answer for a name of the shop's, first."""
    theirs = scene.issue(SHOP[0])
    table = base / "first"
    table.write_text(f"{SHOP[0]} {private(base / 'first.pem', theirs)}\n")
    maps = (f"texthash:{table}", scene.parameter("tls_server_sni_maps"))
    scene.postfix.set(tls_server_sni_maps=", ".join(filter(None, maps)))
    return theirs


@pytest.mark.parametrize("form", ["texthash", "hash", "regexp"])
def test_a_table_of_the_administrator_s_stays_in_front(own, base, form):
    theirs = own.issue(SHOP[0])
    table, bundle = base / "own", private(base / "own.pem", theirs)
    key = SHOP[0] if form != "regexp" else f"/^{re.escape(SHOP[0])}$/"
    table.write_text(f"{key} {bundle}\n")
    if form == "hash":
        own.postfix.command("postmap", "-F", f"hash:{table}")
    own.postfix.set(tls_server_sni_maps=f"{form}:{table}")
    own.postfix.start()

    proposal = own.deploy("own")

    ours = own.postfix.config_dir / "certbot_sni"
    assert own.parameter("tls_server_sni_maps") == f"{form}:{table}, texthash:{ours}"
    (warning,) = proposal.warnings
    assert f"{form}:{table} in main.cf answers who asks for {SHOP[0]}" in warning
    assert everywhere(own.postfix, SHOP[0]) == theirs.leaf
    assert everywhere(own.postfix, SHOP[1]) == newest(own, "own")

    newer = own.renew("own")
    assert own.deployment.renew(own.live("own"))
    assert everywhere(own.postfix, SHOP[0]) == theirs.leaf
    assert everywhere(own.postfix, SHOP[1]) == newer.leaf


def test_a_file_in_place_of_the_table_that_is_not_ours_is_not_overwritten(own):
    (own.postfix.config_dir / "certbot_sni").write_text("mine\n")
    before = own.postfix.snapshot()

    with pytest.raises(Error, match="certbot_sni was not written by this plugin"):
        own.deploy("own")

    assert own.postfix.snapshot() == before
    assert not own.certbot.bundle("own").exists()


@pytest.mark.parametrize("name", [NAME, "shop"])
def test_a_table_that_is_not_there_is_warned_of(shop, name):
    table = shop.postfix.config_dir / "certbot_sni"
    table.unlink()
    shop.renew(name)

    done = shop.command("deploy", "--cert-name", name)

    assert (done.returncode, done.stdout) == (3, "")
    assert f"{table}, which main.cf names, is not there" in told(done)
    assert everywhere(shop.postfix) == newest(shop, NAME)


def test_a_service_with_a_table_of_its_own_keeps_it(own, base):
    theirs = own.issue(SHOP[0])
    table = base / "own"
    table.write_text(f"{SHOP[0]} {private(base / 'own.pem', theirs)}\n")
    entry = f"{LOOPBACK}:{own.postfix.ports['submission']}/inet"
    own.postfix.postconf("-P", f"{entry}/tls_server_sni_maps=texthash:{table}")
    own.postfix.settle()
    own.postfix.start()

    proposal = own.deploy("own")

    overrides = map(str, proposal.overrides)
    assert any(f"{entry} overrides tls_server_sni_maps" in each for each in overrides)
    shown = {
        service: leaf(own.postfix, SHOP[0], service=service) for service in SERVICES
    }
    expected = dict.fromkeys(SERVICES, newest(own, "own"))
    assert shown == {**expected, "submission": theirs.leaf}
    assert leaf(own.postfix, service="submission") == newest(own, NAME)


def test_the_directory_of_an_instance_may_be_spelled_in_two_ways(shop, base):
    link = base / "link"
    link.symlink_to(shop.postfix.config_dir)
    named = shop.parameter("tls_server_sni_maps")
    issued = shop.renew("shop"), shop.lineage("more", "more.example.net")

    succeeded(shop.command("--config-dir", str(link), "deploy", "--cert-name", "shop"))
    assert everywhere(shop.postfix, SHOP[0]) == issued[0].leaf
    succeeded(shop.install("more", "--postfix-config-dir", str(link)))

    assert shop.parameter("tls_server_sni_maps") == named
    assert shop.table.keys() == {NAME, *SHOP, "more.example.net"}
    assert everywhere(shop.postfix, SHOP[1]) == issued[0].leaf
    assert everywhere(shop.postfix, "more.example.net") == issued[1].leaf


# Renewals


def test_names_that_left_the_certificate_leave_the_table_and_are_told(shop, caplog):
    issued = shop.renew("shop", SHOP[0])

    assert shop.deployment.renew(shop.live("shop"))

    assert caplog.messages == [f"shop: no longer covered: {SHOP[1]}"]
    assert shop.table == {NAME: [NAME], SHOP[0]: ["shop"]}
    assert everywhere(shop.postfix, SHOP[0]) == issued.leaf
    assert everywhere(shop.postfix, SHOP[1]) == everywhere(shop.postfix, NAME)


def test_names_that_are_new_in_the_certificate_enter_the_table(shop):
    issued = shop.renew("shop", *SHOP, "*.shop.example.net", FOREIGN)

    assert shop.deployment.renew(shop.live("shop"))

    for name in (*SHOP, "any.shop.example.net", FOREIGN):
        assert everywhere(shop.postfix, name) == issued.leaf


def test_a_new_name_that_another_lineage_has_stays_there(shop):
    shop.renew("shop", *SHOP, NAME)

    assert shop.deployment.renew(shop.live("shop"))

    assert shop.table[NAME] == [NAME]
    assert everywhere(shop.postfix, NAME) == everywhere(shop.postfix)


def test_a_name_that_left_a_certificate_goes_to_the_one_that_has_it_now(shop):
    shop.lineage("heir", "heir.example.net")
    shop.deploy("heir")
    issued = shop.renew("heir", "heir.example.net", SHOP[1])
    assert shop.deployment.renew(shop.live("heir"))
    assert shop.table[SHOP[1]] == ["shop"]
    shop.renew("shop", SHOP[0])

    assert shop.deployment.renew(shop.live("shop"))

    assert shop.table[SHOP[1]] == ["heir"]
    assert everywhere(shop.postfix, SHOP[1]) == issued.leaf


@pytest.mark.parametrize("name", ["shop", NAME])
def test_a_key_of_another_type_than_before_is_served_and_told(shop, caplog, name):
    issued = shop.renew(name, kind="rsa")

    assert shop.deployment.renew(shop.live(name))

    assert caplog.messages == [f"{name}: the key is RSA now, it was ECDSA"]
    asked = SHOP[0] if name == "shop" else None
    assert everywhere(shop.postfix, asked) == issued.leaf


def test_a_renewal_is_refused_that_gives_both_certificates_keys_of_one_type(both):
    before = identity(both.certbot.bundle("rsa"))
    shown = [everywhere(both.postfix, kind=kind) for kind in ("rsa", "ecdsa")]
    both.renew("rsa", kind="ecdsa")
    reloads = both.reloads

    with pytest.raises(CertificateError, match="would offer no TLS") as caught:
        both.deployment.renew(both.live("rsa"))

    assert "renew it with the other --key-type" in caught.value.hint
    assert identity(both.certbot.bundle("rsa")) == before
    assert both.reloads == reloads
    assert [everywhere(both.postfix, kind=kind) for kind in ("rsa", "ecdsa")] == shown


@pytest.fixture
def closed(scene: Scene) -> Scene:
    """As `shop`, but Postfix does not run."""
    scene.lineage(NAME)
    scene.lineage("shop", *SHOP)
    scene.stand(NAME, by_name=["shop"])
    return scene


def test_a_renewal_is_refused_that_gives_a_name_a_key_that_is_not_safe_there(closed):
    before = identity(closed.certbot.bundle("shop"))
    closed.renew("shop", kind="dsa")

    with pytest.raises(CertificateError, match="a key of type DSA is served by name"):
        closed.deployment.renew(closed.live("shop"))

    assert identity(closed.certbot.bundle("shop")) == before


def test_a_default_leaves_the_table_when_it_gets_a_key_that_is_not_safe_there(closed):
    closed.renew(NAME, kind="dsa")

    assert closed.deployment.renew(closed.live(NAME))

    assert closed.default == [NAME]
    assert closed.table == {key: ["shop"] for key in SHOP}


@pytest.mark.parametrize("name", ["shop", NAME])
def test_a_renewal_needs_one_reload(shop, name):
    reloads = shop.reloads
    shop.renew(name)

    shop.deployment.renew(shop.live(name))

    assert shop.reloads == reloads + 1


def test_all_missed_renewals_are_made_up_for_by_one_run_with_one_reload(shop):
    reloads = shop.reloads
    issued = {name: shop.renew(name) for name in (NAME, "shop")}

    succeeded(shop.certbot("renew"))

    assert everywhere(shop.postfix) == issued[NAME].leaf
    assert everywhere(shop.postfix, SHOP[1]) == issued["shop"].leaf
    assert shop.reloads == reloads + 1


def another_installer(scene: Scene) -> None:
    scene.renew("shop")


def failed_hook(scene: Scene) -> None:
    scene.renew("shop")
    key = scene.live("shop").key
    content = key.read_bytes()
    key.write_bytes(scene.issue(*SHOP).key_pem)
    assert scene.command("deploy", "--cert-name", "shop").returncode == 1
    key.write_bytes(content)


def old_bundle(scene: Scene) -> None:
    bundle = scene.certbot.bundle("shop")
    backup = shutil.copy2(bundle, bundle.with_name("backup"))
    scene.renew("shop")
    scene.deployment.renew(scene.live("shop"))
    Path(backup).replace(bundle)
    reloads = scene.reloads
    scene.postfix.reload()
    wait_until(lambda: scene.reloads == reloads + 1, "the mail log tells of the reload")


def deleted_bundle(scene: Scene) -> None:
    scene.certbot.bundle("shop").unlink()


@pytest.mark.parametrize(
    "happen", [another_installer, failed_hook, old_bundle, deleted_bundle]
)
def test_a_renewal_run_makes_up_for(shop, happen):
    happen(shop)
    issued = shop.live("shop").fullchain.read_bytes()
    reloads = shop.reloads

    succeeded(shop.certbot("renew"))

    shown = everywhere(shop.postfix, SHOP[0])
    assert shown == x509.load_pem_x509_certificate(issued)
    assert issued in shop.certbot.bundle("shop").read_bytes()
    assert shop.reloads == reloads + 1


def test_a_renewal_run_makes_up_for_an_old_database_from_a_backup(compiled):
    database = compiled.postfix.config_dir / "certbot_sni.db"
    old = everywhere(compiled.postfix, SHOP[0])
    backup = shutil.copy2(database, database.with_name("backup"))
    issued = compiled.renew("shop")
    compiled.deployment.renew(compiled.live("shop"))
    Path(backup).replace(database)
    compiled.postfix.reload()
    assert everywhere(compiled.postfix, SHOP[0]) == old
    reloads = compiled.reloads

    succeeded(compiled.certbot("renew"))

    assert everywhere(compiled.postfix, SHOP[0]) == issued.leaf
    assert everywhere(compiled.postfix, NAME) == everywhere(compiled.postfix)
    assert compiled.reloads == reloads + 1


def test_a_database_that_no_parameter_names_any_more_goes_with_a_renewal(compiled):
    table = compiled.postfix.config_dir / "certbot_sni"
    compiled.postfix.set(tls_server_sni_maps=f"texthash:{table}")
    compiled.postfix.reload()
    issued = compiled.renew("shop")

    assert compiled.deployment.renew(compiled.live("shop"))

    assert list(compiled.postfix.config_dir.glob("certbot_sni.*")) == []
    assert everywhere(compiled.postfix, SHOP[0]) == issued.leaf
    assert compiled.deployment.inventory.pending() == []


@pytest.mark.parametrize("way", ["the hook", "certbot"])
def test_a_lineage_that_is_broken_keeps_no_other_from_being_renewed_by(shop, way):
    shown = everywhere(shop.postfix, SHOP[0])
    issued, _ = shop.renew(NAME), shop.renew("shop")
    key = shop.live("shop").key
    key.unlink()

    if way == "certbot":
        done = shop.certbot("renew")
    else:
        done = shop.command("deploy", "--cert-name", NAME)
        assert done.returncode == 3

    assert f"lineage shop: could not read {key}" in told(done)
    assert everywhere(shop.postfix) == issued.leaf
    assert everywhere(shop.postfix, SHOP[0]) == shown


def test_a_renewal_run_starts_no_program_and_writes_nothing_when_all_is_well(
    compiled, base
):
    scene = compiled
    files = [
        *(path for path in scene.postfix.config_dir.iterdir() if path.is_file()),
        *(scene.certbot.config_dir / "postfix").iterdir(),
    ]
    identities, reloads = list(map(identity, files)), scene.reloads
    trace = base / "trace"
    strace = ["strace", "-f", "-qq", "-e", "trace=execve", "-o", str(trace)]

    done = subprocess.run(
        [*strace, *scene.certbot.argv("renew")],
        check=True,
        capture_output=True,
        text=True,
        env=scene.certbot.environment,
        timeout=60,
    )

    assert "not yet due" in told(done)
    started = set(
        re.findall(r'execve\("([^"]*)".* = 0$', trace.read_text(), re.MULTILINE)
    )
    assert {Path(program).name for program in started} <= {"certbot", "lsb_release"}
    assert list(map(identity, files)) == identities
    assert scene.reloads == reloads


# The proof

# The cipher suite of TLS 1.2 tells the type of key; in TLS 1.3 it is told beside it.
_SHOWN = re.compile(
    r"postfix/(\S+)\[\d+\]: \w+ TLS connection established from \S*\[(\S+)\](?::\d+)?"
    r"(?: to (\S+))?: TLS\S+ with .*?(ECDSA|RSA)"
)


def handshakes(postfix: PrivatePostfix, since: int) -> set[tuple[str, ...]]:
    """Return service, client, server name and type of key of each handshake."""
    lines = postfix.log()[since:].splitlines()
    found = (_SHOWN.search(line) for line in lines)
    return {(one[1], one[2], one[3] or "", one[4]) for one in found if one}


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as attempt:
            attempt.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.fixture
def manifold(base: Path, certbot: Certbot, authority: Authority) -> Iterator[Scene]:
    """Both types of key, by default and by name, and postscreen serves everybody."""
    with contextlib.closing(PrivatePostfix(base, postscreen=True)) as postfix:
        postfix.set(smtpd_tls_loglevel="1", postscreen_access_list="")
        if has_ipv6():
            with postfix.master_cf.open("a") as file:
                file.write(
                    f"[::1]:{postfix.ports['submission']} inet n - n - - smtpd\n"
                )
                file.write("  -o syslog_name=postfix/six\n")
        scene = Scene(postfix, certbot, authority)
        for kind in ("ecdsa", "rsa"):
            scene.lineage(kind, NAME, kind=kind)
            scene.lineage(f"shop-{kind}", *SHOP, kind=kind)
        scene.stand("ecdsa", "rsa", by_name=["shop-ecdsa", "shop-rsa"])
        yield scene


@pytest.mark.parametrize("protocols", [">=TLSv1", ">=TLSv1.3"])
def test_a_renewal_is_proven_on_every_service_for_every_name_with_every_key(
    manifold, protocols
):
    postfix = manifold.postfix
    postfix.set(smtpd_tls_protocols=protocols, smtpd_tls_mandatory_protocols=protocols)
    postfix.start()
    for kind in ("ecdsa", "rsa"):
        manifold.renew(kind)
        manifold.renew(f"shop-{kind}")
    since = len(postfix.log())

    manifold.deployment.refresh()

    services = {
        ("tlsproxy", LOOPBACK),
        ("submission/smtpd", LOOPBACK),
        ("submissions/smtpd", LOOPBACK),
        *([("six/smtpd", "::1")] if has_ipv6() else []),
    }
    wanted = {
        (*service, name, key)
        for service in services
        for name in ("", NAME, *SHOP)
        for key in ("ECDSA", "RSA")
    }
    shown = handshakes(postfix, since)
    assert wanted - shown == set()


def impose(scene: Scene, parameter: str, value: str) -> str:
    """Have one service use another *value* than main.cf seems to say; return its name.

    A ``$`` of main.cf may mean something else in a service.
    """
    scene.postfix.set(
        mine=scene.parameter(parameter),
        **{parameter: f"${{impostor?{{{value}}}:$mine}}"},
    )
    entry = f"{LOOPBACK}:{scene.postfix.ports['submissions']}/inet"
    scene.postfix.postconf("-P", f"{entry}/impostor=yes")
    scene.postfix.settle()
    if scene.postfix.running:
        scene.postfix.reload()
    return entry


@pytest.mark.parametrize("by_name", [True, False], ids=["one name", "no name"])
def test_a_renewal_is_undone_if_a_service_shows_the_old_one_to_who_asks_for(
    shop, base, by_name
):
    name = "shop" if by_name else NAME
    bundle = shop.certbot.bundle(name)
    old = shutil.copy2(bundle, base / "old.pem")
    table = base / "table"
    table.write_text(f"{SHOP[1]} {old}\n")
    if by_name:
        entry = impose(shop, "tls_server_sni_maps", f"texthash:{table}, $mine")
    else:
        entry = impose(shop, "smtpd_tls_chain_files", str(old))
    before = shop.postfix.snapshot(), bundle.read_bytes()
    shop.renew(name)

    done = shop.command("deploy", "--cert-name", name, "--verify-timeout", "3")

    clients = f" to clients requesting {SHOP[1]}" if by_name else ""
    assert done.returncode == 1
    assert f"{entry.removesuffix('/inet')} presents " in told(done)
    assert f"{clients}; the previous files were restored" in told(done)
    assert "unproven" not in told(done)
    assert (shop.postfix.snapshot(), bundle.read_bytes()) == before
    shown = everywhere(shop.postfix, SHOP[0] if by_name else None)
    assert shown == x509.load_pem_x509_certificate(old.read_bytes())


def test_a_renewal_is_undone_if_tlsproxy_shows_the_old_certificate(manifold, base):
    old = private(base / "old.pem", Issued(b"", b"", b""))
    old.write_bytes(
        manifold.certbot.bundle("ecdsa").read_bytes()
        + manifold.certbot.bundle("rsa").read_bytes()
    )
    master_cf = manifold.postfix.master_cf
    master_cf.write_text(
        master_cf.read_text().replace(
            " 0 tlsproxy\n", f" 0 tlsproxy\n  -o tlsproxy_tls_chain_files={old}\n"
        )
    )
    manifold.postfix.settle()
    manifold.postfix.start()
    shown = everywhere(manifold.postfix, roads=SCREENED)
    manifold.renew("ecdsa")

    done = manifold.command("deploy", "--cert-name", "ecdsa", "--verify-timeout", "3")

    assert done.returncode == 1
    service = f"{LOOPBACK}:{manifold.postfix.ports['smtp']}"
    assert f"{service} presents {NAME}" in told(done)
    assert "the previous files were restored" in told(done)
    assert everywhere(manifold.postfix, roads=SCREENED) == shown


# Hands off


def obtain(scene: Scene, *args: str) -> str:
    """Have certbot obtain a certificate without deploying it."""
    return succeeded(scene.certbot("certonly", *STANDALONE, "-d", NAME, *args))


def newest(scene: Scene, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(scene.live(name).fullchain.read_bytes())


def configuration(scene: Scene) -> list[tuple[bytes, int, int]]:
    """Return what differs as soon as anybody edits main.cf or master.cf."""
    return [identity(scene.postfix.main_cf), identity(scene.postfix.master_cf)]


def by_hand(scene: Scene, name: str) -> str:
    """Return the value that names a lineage's files, as an administrator would."""
    lineage = scene.live(name)
    return f"{lineage.key},{lineage.fullchain}"


def test_certonly_and_its_renewals_leave_a_postfix_alone_that_does_not_use_them(scene):
    scene.postfix.start()
    before = configuration(scene), scene.postfix.snapshot()

    obtained = obtain(scene, *options(scene.postfix))
    renewed = succeeded(scene.certbot("renew", "--force-renewal"))

    assert "Postfix uses no certificate of certbot's; nothing was changed." in obtained
    assert f"{NAME} was renewed, but is not installed in Postfix" in renewed
    assert (configuration(scene), scene.postfix.snapshot()) == before
    assert scene.reloads == 0


@pytest.mark.parametrize("way", ["installer", "deploy hook"])
def test_files_that_main_cf_names_by_hand_are_put_into_service_by_an(scene, way):
    scene.postfix.start()
    if way == "installer":
        obtain(scene, *options(scene.postfix))
        scene.postfix.set(smtpd_tls_chain_files=by_hand(scene, NAME))
    else:
        hook = shlex.join(scene.argv("deploy", directory=False))
        obtain(scene, "--deploy-hook", hook)
        scene.postfix.set(
            smtpd_tls_cert_file=str(scene.live(NAME).fullchain),
            smtpd_tls_key_file=str(scene.live(NAME).key),
        )
    scene.postfix.reload()
    wait_until(lambda: scene.reloads == 1, "the log tells of the reload")
    before, old = configuration(scene), newest(scene, NAME)

    done = scene.certbot("-q", "renew", "--force-renewal")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert newest(scene, NAME) != old
    assert everywhere(scene.postfix) == newest(scene, NAME)
    assert scene.reloads == 2
    assert configuration(scene) == before


def by_bundle(scene: Scene, name: str) -> str:
    """Return the value that names our bundle of a lineage that is deployed nowhere."""
    return str(private(scene.certbot.bundle(name), scene.renew(name)))


HANDS = pytest.mark.parametrize("value", [by_hand, by_bundle])


@HANDS
def test_what_master_cf_names_by_hand_is_renewed_and_proven_for_that_service(
    own, value
):
    entry = f"{LOOPBACK}:{own.postfix.ports['submissions']}/inet"
    named = value(own, "own")
    own.postfix.postconf("-P", f"{entry}/smtpd_tls_chain_files={named}")
    own.postfix.settle()
    own.postfix.start()
    before, issued = configuration(own), own.renew("own")

    assert own.deployment.renew(own.live("own"))

    assert own.said[-1].startswith("Verified: ")
    assert entry.removesuffix("/inet") in own.said[-1]
    assert f"{SHOP[0]} (SHA-256" in own.said[-1]
    assert leaf(own.postfix, service="submissions") == issued.leaf
    assert leaf(own.postfix) == newest(own, NAME)
    assert configuration(own) == before


@HANDS
def test_what_a_table_names_by_hand_is_renewed_and_proven_for_the_name(
    own, base, value
):
    table = base / "own"
    table.write_text(f"{SHOP[0]} {value(own, 'own')}\n")
    own.postfix.set(tls_server_sni_maps=f"texthash:{table}")
    own.postfix.start()
    before, issued = configuration(own), own.renew("own")

    assert own.deployment.renew(own.live("own"))

    assert own.said[-1].startswith("Verified: ")
    assert f"{SHOP[0]} (SHA-256" in own.said[-1]
    assert everywhere(own.postfix, SHOP[0]) == issued.leaf
    assert everywhere(own.postfix, SHOP[1]) == newest(own, NAME)
    assert configuration(own) == before


def test_files_that_are_named_by_hand_and_that_a_service_does_not_show_are_an_error(
    own, base
):
    table, other = base / "own", base / "other"
    table.write_text(f"{SHOP[0]} {by_hand(own, 'own')}\n")
    other.write_text(f"{SHOP[0]} {private(base / 'old.pem', own.issue(*SHOP))}\n")
    own.postfix.set(tls_server_sni_maps=f"texthash:{table}")
    entry = impose(own, "tls_server_sni_maps", f"texthash:{other}")
    own.postfix.start()
    own.renew("own")

    done = own.command("deploy", "--cert-name", "own", "--verify-timeout", "3")

    assert done.returncode == 1
    assert f"{entry.removesuffix('/inet')} presents " in told(done)
    assert f" to clients requesting {SHOP[0]}" in told(done)
    assert "restored" not in told(done)


def test_files_that_two_tables_name_by_hand_are_proven_where_the_first_has_the_name(
    own, base
):
    theirs = answered(own, base)
    table = base / "second"
    table.write_text("".join(f"{name} {by_hand(own, 'own')}\n" for name in SHOP))
    tables = f"{own.parameter('tls_server_sni_maps')}, texthash:{table}"
    own.postfix.set(tls_server_sni_maps=tables)
    own.postfix.start()
    issued = own.renew("own")

    done = own.command("deploy", "--cert-name", "own", "--verify-timeout", "3")

    assert done.returncode == 0, done.stderr
    assert everywhere(own.postfix, SHOP[0]) == theirs.leaf
    assert everywhere(own.postfix, SHOP[1]) == issued.leaf


def test_a_compiled_table_with_an_old_copy_is_warned_of(own, base):
    table = base / "own"
    table.write_text(f"{SHOP[0]} {by_hand(own, 'own')}\n")
    own.postfix.command("postmap", "-F", f"hash:{table}")
    own.postfix.set(tls_server_sni_maps=f"hash:{table}")
    own.postfix.start()
    own.renew("own")

    done = own.command("deploy", "--cert-name", "own")

    assert done.returncode == 3
    assert (
        f"warning: hash:{table} has a copy of an older certificate for {SHOP[0]}"
        f" What to do: postmap -F hash:{table}"
    ) in told(done)


# The deploy hook


@pytest.mark.parametrize("way", ["--cert-name", "$RENEWED_LINEAGE"])
def test_the_hook_deploys_the_lineage_of_its(shop, way):
    issued, before = shop.renew("shop"), configuration(shop)

    if way == "--cert-name":
        done = shop.command("deploy", way, "shop")
    else:
        live = shop.live("shop").fullchain.parent
        done = shop.run(shop.argv("deploy", directory=False), RENEWED_LINEAGE=str(live))

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert everywhere(shop.postfix, SHOP[0]) == issued.leaf
    assert configuration(shop) == before


def test_the_hook_deploys_a_lineage_though_its_path_is_spelled_otherwise(shop, base):
    link = base / "link"
    link.symlink_to(shop.certbot.config_dir)
    issued = shop.renew("shop")

    live = str(link / "live/shop")
    done = shop.run(shop.argv("deploy", directory=False), RENEWED_LINEAGE=live)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert everywhere(shop.postfix, SHOP[0]) == issued.leaf


def test_the_hook_does_nothing_for_what_postfix_serves_already(shop):
    files = [shop.certbot.bundle("shop"), *configuration_files(shop)]
    identities, reloads = list(map(identity, files)), shop.reloads

    done = shop.command("deploy", "--cert-name", "shop")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(map(identity, files)) == identities
    assert shop.reloads == reloads


def configuration_files(scene: Scene) -> list[Path]:
    return [path for path in scene.postfix.config_dir.iterdir() if path.is_file()]


def test_the_hook_does_nothing_for_what_postfix_does_not_use(own):
    own.postfix.start()

    done = own.command("deploy", "--cert-name", "own")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not own.certbot.bundle("own").exists()
    assert own.reloads == 0


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ((), 2, "--cert-name is needed, or $RENEWED_LINEAGE"),
        (("--cert-name", "nobody"), 1, "certbot has no certificate named nobody"),
        (("--cert-name", "../own"), 1, "'../own' is not the name of a certificate"),
    ],
)
def test_the_hook_tells_by_its_exit_status_that_it_did_nothing(
    own, arguments, status, words
):
    done = own.command("deploy", *arguments)

    assert (done.returncode, done.stdout) == (status, "")
    assert words in told(done)


def test_the_hook_tells_by_its_exit_status_that_there_is_something_to_know(shop):
    issued = shop.renew("shop", SHOP[0])

    done = shop.command("deploy", "--cert-name", "shop")

    assert (done.returncode, done.stdout) == (3, "")
    assert f"shop: no longer covered: {SHOP[1]}" in told(done)
    assert everywhere(shop.postfix, SHOP[0]) == issued.leaf


def test_a_hook_for_all_lineages_deploys_what_certbot_does_not_deploy_itself(scene):
    scene.postfix.start()
    succeeded(scene.certbot("run", *STANDALONE, "-d", NAME, *options(scene.postfix)))
    only = ("certonly", *STANDALONE, "-d", SHOP[0], "--cert-name", "shop")
    succeeded(scene.certbot(*only))
    scene.deploy("shop")
    hook = scene.certbot.config_dir / "renewal-hooks/deploy/postfix"
    command = shlex.join(scene.argv("deploy", directory=False))
    hook.write_text(f"#!/bin/sh\nexec {command}\n")
    hook.chmod(0o755)
    old = {newest(scene, NAME), newest(scene, "shop")}
    reloads = scene.reloads

    # The lineage with the installer comes first, and certbot keeps its lock.
    done = scene.certbot("-q", "renew", "--force-renewal", timeout=100)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not {newest(scene, NAME), newest(scene, "shop")} & old
    assert everywhere(scene.postfix) == newest(scene, NAME)
    assert everywhere(scene.postfix, SHOP[0]) == newest(scene, "shop")
    assert scene.reloads == reloads + 2


_HOLD = """
import sys
from certbot import util
util.lock_dir_until_exit(sys.argv[1])
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("who", "held"),
    [("the hook", "postfix"), ("the hook", "bundles"), ("certbot", "bundles")],
)
def test_each_waits_while_another_one_works_on_the_same_files(shop, base, who, held):
    """Postfix's configuration, or the bundles that instances share."""
    locked = {
        "postfix": shop.postfix.config_dir,
        "bundles": shop.certbot.bundle("shop").parent,
    }
    command = {
        "the hook": shop.argv("deploy", "--cert-name", "shop"),
        "certbot": shop.certbot.argv(
            "install", "--cert-name", "shop", *options(shop.postfix)
        ),
    }
    issued, bundle = shop.renew("shop"), identity(shop.certbot.bundle("shop"))
    trace = base / "trace"
    strace = ["strace", "-f", "-qq", "-e", "trace=fcntl", "-o", str(trace)]
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(locked[held])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with subprocess.Popen(
            [*strace, *command[who]],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=shop.certbot.environment,
        ) as waiting:
            wait_until(
                lambda: (
                    waiting.poll() is not None
                    or (trace.exists() and trace.read_text().count("EAGAIN") > 1)
                ),
                f"{who} has tried twice to get the lock",
            )
            assert waiting.poll() is None
            assert identity(shop.certbot.bundle("shop")) == bundle
            other.communicate()
            assert waiting.wait(60) == 0

    assert everywhere(shop.postfix, SHOP[0]) == issued.leaf


# Removal


def test_a_lineage_that_certbot_deletes_stays_in_service(shop):
    shown = everywhere(shop.postfix, SHOP[0])

    succeeded(shop.certbot("delete", "--cert-name", "shop"))

    shop.postfix.reload()
    assert everywhere(shop.postfix, SHOP[0]) == shown
    issued = shop.renew(NAME)
    succeeded(shop.certbot("renew"))
    assert everywhere(shop.postfix) == issued.leaf
    assert everywhere(shop.postfix, SHOP[0]) == shown


def forget(scene: Scene, name: str) -> str:
    """Have a lineage taken out of Postfix; return the diff."""
    done = scene.command("forget", name)
    assert done.returncode == 0, done.stderr
    bundle = scene.certbot.bundle(name)
    assert done.stderr == f"certbot-postfix: removed {bundle}\n"
    assert not bundle.exists()
    return done.stdout


@pytest.fixture(params=["texthash", "hash"])
def wild(scene: Scene, request: pytest.FixtureRequest) -> Scene:
    """Postfix runs with a default, and two lineages that are served by name."""
    scene.lineage(NAME)
    scene.lineage("shop", *SHOP)
    scene.lineage("wild", "*.example.com")
    scene.stand(NAME, by_name=["shop", "wild"], form=request.param)
    scene.postfix.start()
    return scene


def test_a_lineage_by_name_is_forgotten(wild):
    reloads, before = wild.reloads, configuration(wild)

    diff = forget(wild, "shop")

    for name in SHOP:
        assert f"\n-{name} {wild.certbot.bundle('shop')}\n" in diff
        assert everywhere(wild.postfix, name) == newest(wild, NAME)
    assert wild.table == {NAME: [NAME], ".example.com": ["wild"]}
    assert everywhere(wild.postfix, "any.example.com") == newest(wild, "wild")
    assert wild.reloads == reloads + 1
    assert configuration(wild) == before


@pytest.mark.parametrize("there", ["shop", "compiled"])
def test_the_table_goes_with_the_last_lineage_by_name(request, there):
    scene: Scene = request.getfixturevalue(there)
    left = databases.build_directory(scene.postfix.config_dir / sni.NAME)
    left.mkdir(mode=0o700)  # by a killed run

    diff = forget(scene, "shop")

    assert "\n-tls_server_sni_maps = " in diff
    assert scene.parameter("tls_server_sni_maps") == ""
    assert list(scene.postfix.config_dir.glob("*certbot_sni*")) == []
    assert everywhere(scene.postfix, SHOP[0]) == newest(scene, NAME)


def test_one_of_two_default_certificates_is_forgotten(both):
    forget(both, NAME)

    assert both.default == ["rsa"]
    assert everywhere(both.postfix) == newest(both, "rsa")


def test_the_only_default_certificate_is_replaced_by_certbot_s_own_files(shop):
    shown = everywhere(shop.postfix)

    diff = forget(shop, NAME)

    lineage = shop.live(NAME)
    assert f"\n+smtpd_tls_chain_files = {lineage.key}, {lineage.fullchain}\n" in diff
    assert NAME not in shop.table
    assert everywhere(shop.postfix) == everywhere(shop.postfix, NAME) == shown
    issued = shop.renew(NAME)
    assert shop.command("deploy", "--cert-name", NAME).returncode == 0
    assert everywhere(shop.postfix) == issued.leaf
    assert everywhere(shop.postfix, SHOP[0]) == newest(shop, "shop")


def test_the_only_default_certificate_stays_if_certbot_has_its_files_no_more(shop):
    succeeded(shop.certbot("delete", "--cert-name", NAME))
    before, reloads = shop.postfix.snapshot(), shop.reloads

    done = shop.command("forget", NAME)

    assert done.returncode == 1
    assert "is the only certificate that main.cf names" in told(done)
    assert "hint: deploy another certificate in its place" in told(done)
    assert shop.postfix.snapshot() == before
    assert shop.certbot.bundle(NAME).exists()
    assert shop.reloads == reloads


def test_a_bundle_that_nothing_names_is_removed_without_a_reload(shop):
    issued = shop.issue("old.example.org")
    bundle = private(shop.certbot.bundle("old"), issued)
    left = private(files.backup_name(bundle), issued)  # by a run that was killed
    before, reloads = configuration(shop), shop.reloads

    assert forget(shop, "old") == ""

    assert not left.exists()
    assert configuration(shop) == before
    assert shop.reloads == reloads


def test_a_bundle_that_a_service_names_by_hand_is_not_forgotten(own):
    entry = f"{LOOPBACK}:{own.postfix.ports['submissions']}/inet"
    bundle = own.certbot.bundle(NAME)
    own.postfix.postconf("-P", f"{entry}/smtpd_tls_chain_files={bundle}")
    before = own.postfix.snapshot()

    done = own.command("forget", NAME)

    assert (done.returncode, done.stdout) == (1, "")
    assert f"{bundle} is named by {entry} in master.cf" in told(done)
    assert own.postfix.snapshot() == before
    assert bundle.exists()


# Directories that moved, and have a link in their place now


def moved(path: Path) -> None:
    """Move a directory to another place, as to another volume."""
    path.symlink_to(path.rename(path.with_name(f"{path.name}-moved")))


@pytest.mark.parametrize("name", [NAME, "shop"])
def test_a_renewal_is_deployed_after_certbot_s_directory_moved(shop, name):
    moved(shop.certbot.config_dir)
    issued = shop.renew(name)

    succeeded(shop.command("deploy", "--cert-name", name))

    asked = SHOP[0] if name == "shop" else None
    assert everywhere(shop.postfix, asked) == issued.leaf


@pytest.mark.parametrize("name", [NAME, "shop"])
def test_a_lineage_is_forgotten_after_certbot_s_directory_moved(shop, name):
    moved(shop.certbot.config_dir)

    succeeded(shop.command("forget", name))
    shop.postfix.reload()

    assert everywhere(shop.postfix) == newest(shop, NAME)
    wanted = newest(shop, NAME if name == "shop" else "shop")
    assert everywhere(shop.postfix, SHOP[0]) == wanted


def test_files_that_a_table_names_by_hand_are_proven_after_they_moved(own, base):
    moved(own.certbot.config_dir)
    table = base / "own"
    table.write_text(f"{SHOP[0]} {by_hand(own, 'own')}\n")
    own.postfix.set(tls_server_sni_maps=f"texthash:{table}")
    own.postfix.start()
    issued = own.renew("own")

    assert own.deployment.renew(own.live("own"))

    assert everywhere(own.postfix, SHOP[0]) == issued.leaf


def test_no_name_is_lost_after_the_directory_of_postfix_moved(closed):
    moved(closed.postfix.config_dir)
    named = closed.parameter("tls_server_sni_maps")
    closed.lineage("more", "more.example.net")

    succeeded(closed.install("more", "--postfix-verify-timeout", "0"))

    assert closed.parameter("tls_server_sni_maps") == named
    assert closed.table.keys() == {NAME, *SHOP, "more.example.net"}


def other_names(scene: Scene) -> None:
    scene.renew(NAME, "other.example.org")


def missing_key(scene: Scene) -> None:
    scene.live(NAME).key.unlink()


@pytest.mark.parametrize(
    ("happen", "words"),
    [
        pytest.param(other_names, f"no longer covers {NAME}", id="other names"),
        pytest.param(missing_key, "could not read", id="no key"),
    ],
)
def test_the_only_default_certificate_stays_if_certbot_s_own_files_have(
    closed, happen, words
):
    happen(closed)
    before = closed.postfix.snapshot(), identity(closed.certbot.bundle(NAME))

    done = closed.command("forget", NAME)

    assert done.returncode == 1
    assert words in told(done)
    assert (
        closed.postfix.snapshot(),
        identity(closed.certbot.bundle(NAME)),
    ) == before


@pytest.mark.parametrize("name", ["nobody", "../mx.example.org"])
def test_a_name_that_nobody_knows_is_not_forgotten(own, name):
    before = own.postfix.snapshot()

    done = own.command("forget", name)

    assert (done.returncode, done.stdout) == (1, "")
    assert name in told(done)
    assert own.postfix.snapshot() == before


def test_a_lineage_is_forgotten_whose_name_the_administrator_s_table_answers(
    closed, base
):
    theirs = answered(closed, base)
    closed.postfix.start()

    done = closed.command("forget", "shop", "--verify-timeout", "3")

    assert done.returncode == 0, done.stderr
    assert not closed.certbot.bundle("shop").exists()
    assert everywhere(closed.postfix, SHOP[0]) == theirs.leaf
    assert everywhere(closed.postfix, SHOP[1]) == newest(closed, NAME)


LOST = ("one.example.com", "two.example.com")


@pytest.fixture(params=[1, 20])
def bereft(scene: Scene, request: pytest.FixtureRequest) -> Scene:
    """Postfix runs with a database; two lineages are lost, and their bundles, too."""
    scene.lineage(NAME)
    scene.lineage("shop", *(f"{each}.example.net" for each in range(request.param)))
    for name in LOST:
        scene.lineage(name)
    scene.stand(NAME, by_name=["shop", *LOST], form="hash")
    scene.postfix.start()
    for name in LOST:
        succeeded(scene.certbot("delete", "--cert-name", name))
        scene.certbot.bundle(name).unlink()
    return scene


def test_the_default_is_renewed_though_bundles_in_the_table_are_lost(bereft):
    issued = bereft.renew(NAME)

    done = bereft.command("deploy", "--cert-name", NAME)

    assert done.returncode == 0, done.stderr
    for name in (None, NAME):
        assert everywhere(bereft.postfix, name) == issued.leaf


def test_a_lineage_whose_bundle_is_lost_is_forgotten_with_others_that_are(bereft):
    done = bereft.command("forget", LOST[0])

    assert done.returncode == 3, done.stderr
    gone = bereft.certbot.bundle(LOST[1])
    assert f"{gone}, which the table of names has, is gone" in told(done)
    assert bereft.table.keys().isdisjoint(LOST)
    assert everywhere(bereft.postfix, LOST[0]) == newest(bereft, NAME)
    assert everywhere(bereft.postfix, "0.example.net") == newest(bereft, "shop")


def test_a_removal_that_is_not_proven_is_undone(wild, base):
    table, other = base / "other", private(base / "other.pem", wild.issue(*SHOP))
    table.write_text(f"{SHOP[1]} {other}\n")
    entry = impose(wild, "tls_server_sni_maps", f"$mine, texthash:{table}")
    before = wild.postfix.snapshot(), identity(wild.certbot.bundle("shop"))

    done = wild.command("forget", "shop", "--verify-timeout", "3")

    assert done.returncode == 1
    assert f"{entry.removesuffix('/inet')} presents " in told(done)
    assert f" to clients requesting {SHOP[1]}" in told(done)
    assert "the previous files were restored" in told(done)
    assert (
        wild.postfix.snapshot(),
        identity(wild.certbot.bundle("shop")),
    ) == before
    for name in SHOP:
        assert everywhere(wild.postfix, name) == newest(wild, "shop")


def test_a_removal_is_refused_if_postfix_would_die_of_the_reload(shop):
    with socket.create_server((LOOPBACK, 0)) as other:
        port = other.getsockname()[1]
        with shop.postfix.master_cf.open("a") as file:
            file.write(f"{LOOPBACK}:{port} inet n - n - - smtpd\n")
        shop.postfix.settle()
        before, master = shop.postfix.snapshot(), shop.postfix.master_pid

        done = shop.command("forget", "shop")

        assert done.returncode == 1
        assert f"wants port {port} of {LOOPBACK}" in told(done)
        assert (shop.postfix.snapshot(), shop.postfix.master_pid) == (before, master)
    assert shop.certbot.bundle("shop").exists()


def test_a_name_that_the_default_has_too_falls_back_to_it(scene):
    scene.lineage(NAME, NAME, "alias.example.org")
    scene.lineage("wild", "*.example.com")
    scene.lineage("alias", "alias.example.org", "more.example.org")
    scene.stand(NAME, by_name=["wild"])
    scene.postfix.start()
    scene.deploy("alias")
    assert scene.table["alias.example.org"] == ["alias"]

    forget(scene, "alias")

    assert scene.table["alias.example.org"] == [NAME]
    assert "more.example.org" not in scene.table
    assert everywhere(scene.postfix, "alias.example.org") == newest(scene, NAME)


def test_a_name_that_another_lineage_has_too_falls_to_that(shop):
    shown = everywhere(shop.postfix, SHOP[1])
    shop.lineage("newer", SHOP[1], "more.example.net")
    shop.deploy("newer")

    forget(shop, "newer")

    assert shop.table == {NAME: [NAME], SHOP[0]: ["shop"], SHOP[1]: ["shop"]}
    assert everywhere(shop.postfix, SHOP[1]) == shown


def test_a_rollback_to_a_lineage_that_was_forgotten_deploys_its_newest_certificate(
    shop,
):
    before = shop.postfix.snapshot()
    shop.lineage("wild", "*.example.com")
    succeeded(shop.install("wild"))
    issued = shop.renew("shop")
    forget(shop, "shop")

    succeeded(shop.certbot("rollback", *options(shop.postfix)))

    assert shop.postfix.snapshot() == before
    assert everywhere(shop.postfix, SHOP[0]) == issued.leaf
    assert everywhere(shop.postfix, "any.example.com") == newest(shop, NAME)


def test_a_rollback_to_a_lineage_that_is_gone_is_refused_before_anything_is_done(shop):
    shop.lineage("wild", "*.example.com")
    succeeded(shop.install("wild"))
    succeeded(shop.certbot("delete", "--cert-name", "shop"))
    forget(shop, "shop")
    before = shop.postfix.snapshot()

    done = shop.certbot("rollback", *options(shop.postfix))

    assert done.returncode == 1
    assert "refers to certificate shop, which no longer exists" in told(done)
    assert shop.postfix.snapshot() == before
    assert everywhere(shop.postfix, "any.example.com") == newest(shop, "wild")


def test_a_rollback_leaves_a_bundle_that_master_cf_names_now(own):
    own.postfix.start()
    succeeded(own.install("own"))
    entry = f"{LOOPBACK}:{own.postfix.ports['submissions']}/inet"
    bundle = own.certbot.bundle("own")
    own.postfix.postconf("-P", f"{entry}/smtpd_tls_chain_files={bundle}")
    own.postfix.settle()
    own.postfix.reload()

    succeeded(own.certbot("rollback", *options(own.postfix)))

    assert bundle.exists()
    assert leaf(own.postfix, service="submissions") == newest(own, "own")
    assert leaf(own.postfix, SHOP[0]) == newest(own, NAME)


@pytest.mark.parametrize("there", ["shop", "both"])
def test_a_rollback_goes_back_past_a_lineage_that_is_gone(request, there):
    shop: Scene = request.getfixturevalue(there)
    before = shop.postfix.snapshot()
    for name in ("gone.example.com", "wild.example.com"):
        shop.lineage(name)
        succeeded(shop.install(name))
    succeeded(shop.certbot("delete", "--cert-name", "gone.example.com"))
    forget(shop, "gone.example.com")
    now = shop.postfix.snapshot()

    done = shop.certbot("rollback", *options(shop.postfix))

    assert done.returncode == 1
    assert "cannot roll back: the previous" in told(done)
    assert shop.postfix.snapshot() == now

    two = ("--checkpoints", "2")
    succeeded(shop.certbot("rollback", *two, *options(shop.postfix)))

    assert shop.postfix.snapshot() == before
    for name in ("gone.example.com", "wild.example.com"):
        assert everywhere(shop.postfix, name) == newest(shop, NAME)


def test_a_rollback_to_a_lineage_that_was_renewed_meanwhile_serves_the_renewed_one(
    scene,
):
    scene.lineage("old", NAME)
    scene.stand("old")
    scene.postfix.start()
    scene.lineage("new", NAME)
    succeeded(scene.install("new"))
    assert scene.default == ["new"]
    issued = scene.renew("old")

    succeeded(scene.certbot("rollback", *options(scene.postfix)))

    assert scene.default == ["old"]
    assert everywhere(scene.postfix) == issued.leaf


def test_a_rollback_of_another_lineage_keeps_the_names_of_a_renewal(shop):
    shop.lineage("wild", "*.example.com")
    succeeded(shop.install("wild"))
    issued = shop.renew("shop", SHOP[0], "more.example.net")
    assert shop.deployment.renew(shop.live("shop"))

    succeeded(shop.certbot("rollback", *options(shop.postfix)))

    names = (SHOP[0], "more.example.net")
    assert shop.table == {NAME: [NAME], **{name: ["shop"] for name in names}}
    for name in names:
        assert everywhere(shop.postfix, name) == issued.leaf


def test_a_rollback_of_a_name_that_the_administrator_s_table_answers_is_proven(
    closed, base
):
    theirs = answered(closed, base)
    closed.lineage("newer", *SHOP)
    closed.postfix.start()
    before = closed.postfix.snapshot()
    succeeded(closed.install("newer"))

    succeeded(closed.certbot("rollback", *options(closed.postfix)))

    assert closed.postfix.snapshot() == before
    assert everywhere(closed.postfix, SHOP[0]) == theirs.leaf
    assert everywhere(closed.postfix, SHOP[1]) == newest(closed, "shop")


def test_a_rollback_takes_the_names_out_of_a_compiled_table(compiled):
    table = compiled.postfix.config_dir / "certbot_sni"
    before = compiled.postfix.snapshot()
    compiled.lineage("wild", "*.example.com")
    succeeded(compiled.install("wild"))
    assert everywhere(compiled.postfix, "any.example.com") == newest(compiled, "wild")

    succeeded(compiled.certbot("rollback", *options(compiled.postfix)))

    after = compiled.postfix.snapshot()
    # What postmap makes of the same names need not be the same, byte by byte.
    assert before.pop("certbot_sni.db").mode == after.pop("certbot_sni.db").mode
    assert after == before
    listed = compiled.postfix.command("postmap", "-s", f"hash:{table}").stdout
    assert {line.split()[0] for line in listed.splitlines()} == {NAME, *SHOP}
    assert everywhere(compiled.postfix, SHOP[0]) == newest(compiled, "shop")
    assert everywhere(compiled.postfix, "any.example.com") == newest(compiled, NAME)
