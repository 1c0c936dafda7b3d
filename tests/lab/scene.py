"""A Postfix, certbot and its lineages, and the product between them."""

from collections.abc import Collection
from pathlib import Path

from cryptography import x509

from certbot_postfix.inbound import sni
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.inbound.proposal import DeployOptions, Proposal
from certbot_postfix.inbound.session import Deployment
from certbot_postfix.options import ClientLevel, Profile
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.system.reporter import Reporter
from tests.lab import (
    Authority,
    Certbot,
    Issued,
    PrivatePostfix,
    commands,
    install_lineage,
    pki,
    renew_lineage,
)
from tests.lab.commands import Done
from tests.lab.machine import LOOPBACK
from tests.lab.postmap import needs

NAME = "mx.example.org"


SHOP = ("shop.example.net", "www.shop.example.net")


FOREIGN = "xn--bcher-kva.example"


# What is wished if nothing is said, and the least that can be wished.
DEFAULT = DeployOptions()
LEAST = DeployOptions(Profile.CERTIFICATE, ClientLevel.KEEP)


class Checkpoint:
    """Takes note of nothing, since nothing is undone."""

    def before_change(self, path: Path, note: str) -> None:
        pass

    def before_creation(self, path: Path) -> None:
        pass


def options(postfix: PrivatePostfix) -> list[str]:
    """Return what a user has to say, since this Postfix is not the usual one."""
    return ["-i", "postfix", "--postfix-config-dir", str(postfix.config_dir)]


def identity(path: Path) -> tuple[bytes, int, int]:
    """Return what differs as soon as anybody wrote *path*, even the same bytes."""
    status = path.stat()
    return path.read_bytes(), status.st_ino, status.st_mtime_ns


class Scene:
    """A Postfix, certbot and its lineages, and what the product *said*.

    Unless a test does more, Postfix does not run and no lineage is deployed.
    """

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

    def live(self, name: str = NAME) -> Lineage:
        return Lineage.live(self.certbot.config_dir / "live", name)

    # The product

    @property
    def deployment(self) -> Deployment:
        """What a new run of the product would have."""
        bundles = self.certbot.config_dir / "postfix"
        return Deployment(
            Postfix(self.postfix.config_dir),
            bundles,
            timeout=20,
            reporter=Reporter(self.said.append),
        )

    def deploy(self, name: str = NAME, wish: DeployOptions = DEFAULT) -> Proposal:
        """Deploy a lineage, as certbot has it done."""
        deployment = self.deployment
        proposal = deployment.installation.propose(self.live(name), wish)
        deployment.installation.apply(proposal, Checkpoint())
        deployment.installation.serve(proposal)
        return proposal

    def warnings(self, wish: DeployOptions = DEFAULT) -> list[str]:
        """Return what would be warned of if the default were deployed."""
        return self.deployment.installation.propose(self.live(NAME), wish).warnings

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
        return commands.run(argv, env={**self.certbot.environment, **environment})

    def argv(self, *args: str, directory: bool = True) -> list[str]:
        command = [str(self.certbot.executable.with_name("certbot-postfix"))]
        command += ["--postfix-config-dir", str(self.postfix.config_dir)]
        if directory:
            command += ["--config-dir", str(self.certbot.config_dir)]
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
        needs(form)
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


STANDALONE = ("-a", "standalone")


def answered(scene: Scene, base: Path) -> Issued:
    """Have a table of the administrator's answer for a name of the shop's, first."""
    theirs = scene.issue(SHOP[0])
    table = base / "first"
    table.write_text(f"{SHOP[0]} {private(base / 'first.pem', theirs)}\n")
    maps = (f"texthash:{table}", scene.parameter("tls_server_sni_maps"))
    scene.postfix.set(tls_server_sni_maps=", ".join(filter(None, maps)))
    return theirs


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


def newest(scene: Scene, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(scene.live(name).fullchain.read_bytes())


def configuration(scene: Scene) -> list[tuple[bytes, int, int]]:
    """Return what differs as soon as anybody edits main.cf or master.cf."""
    return [identity(scene.postfix.main_cf), identity(scene.postfix.master_cf)]


def by_hand(scene: Scene, name: str) -> str:
    """Return the value that names a lineage's files, as an administrator would."""
    lineage = scene.live(name)
    return f"{lineage.key},{lineage.fullchain}"


def forget(scene: Scene, name: str) -> str:
    """Have a lineage taken out of Postfix; return the diff."""
    done = scene.command("forget", name)
    assert done.returncode == 0, done.stderr
    bundle = scene.certbot.bundle(name)
    assert done.stderr == f"certbot-postfix: removed {bundle}\n"
    assert not bundle.exists()
    return done.stdout


LOST = ("one.example.com", "two.example.com")
