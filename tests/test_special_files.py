"""Whatever is put in place of a file that others may write, nothing waits for it, and
what a link leads to is not told."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from certbot_postfix.inbound import sni
from certbot_postfix.outbound import last_refresh, policy_map
from certbot_postfix.outbound.sources import Settings
from certbot_postfix.postfix.configuration import SNI_MAPS
from tests.lab import (
    COMMAND,
    Authority,
    PrivatePostfix,
    commands,
    install_lineage,
    renew_lineage,
)
from tests.test_policy_faults import Listed

pytestmark = pytest.mark.postfix

NAME = "mx.example.org"


def planted_directory(path: Path) -> None:
    path.mkdir()


def planted_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def planted_socket(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


KINDS: dict[str, Callable[[Path], None]] = {
    "FIFO": os.mkfifo,
    "directory": planted_directory,
    "device": planted_device,
    "socket": planted_socket,
}


def planted(path: Path, *kinds: str) -> Iterator[str]:
    """Yield each of *kinds* while such a thing is in place of the file *path*."""
    path.unlink(missing_ok=True)
    for kind in kinds:
        KINDS[kind](path)
        yield kind
        path.rmdir() if kind == "directory" else path.unlink()


class Place(Listed):
    """A Postfix that follows a list, signed or not, and looks domains up."""

    def __init__(self, postfix: PrivatePostfix, base: Path) -> None:
        super().__init__(postfix, base)
        self.domains = base / "domains"
        self.domains.write_text("")
        self.keyring = base / "keyring.gpg"
        self.say(0)
        self.follow("texthash")
        self.bundles = self.certbot.config_dir / "postfix"
        self.cache = (
            last_refresh.cache_directory(self.path, self.bundles) / "mta-sts.json"
        )

    def want(self, **wanted: str) -> None:
        """Let this be wanted beside the list."""
        settings = Settings((str(self.list),), **wanted)
        self.path.write_bytes(policy_map.render(settings, {}, (3, 7)))

    def __call__(self, *words: str) -> commands.Done:
        self.postfix.settle()
        argv = [*self.refresh[: self.refresh.index("policy")], *words]
        return commands.run(argv, env=self.environment, timeout=60)


@pytest.fixture
def place(stopped_postfix: PrivatePostfix, base: Path) -> Place:
    return Place(stopped_postfix, base)


@pytest.mark.parametrize(
    "what", ["list", "domains", "keyring", "path", "cache", "lock"]
)
def test_a_refresh_does_not_wait_for_what_is_no_file(place, what):
    path = place.path.with_name(".certbot.lock") if what == "lock" else None
    path = path or getattr(place, what)
    if what in ("domains", "cache"):
        place.want(domains=str(place.domains))
    if what == "keyring":
        Path(f"{place.list}.asc").write_text("")
        place.want(keyring=str(place.keyring))

    for kind in planted(path, *KINDS):
        done = place("policy", "refresh")

        assert done.returncode == 1, (kind, done.stderr)
        said = ("directory", "not a regular file")
        assert str(path) in done.stderr, kind
        assert any(words in done.stderr for words in said), (kind, done.stderr)
        assert "Traceback" not in done.stderr, kind


COMMANDS = {
    "status": [],
    "policy show": [],
    "deploy": ["--cert-name", NAME],
    "forget": [NAME],
}


@pytest.mark.parametrize("kind", ["FIFO", "directory"])
@pytest.mark.parametrize("name", [policy_map.NAME, sni.NAME, "snakeoil.pem", "main.cf"])
def test_no_command_waits_for_what_is_no_file(place, authority: Authority, name, kind):
    install_lineage(place.certbot.config_dir, NAME, authority.issue(NAME))
    path = place.postfix.config_dir / name
    place.postfix.set(tls_server_sni_maps=f"texthash:{path.with_name(sni.NAME)}")

    for _ in planted(path, kind):
        for words, further in COMMANDS.items():
            done = place(*words.split(), *further)

            assert "Traceback" not in done.stderr, words
            assert done.returncode in (0, 1, 3), words


@pytest.mark.parametrize("where", [SNI_MAPS, "smtp_tls_policy_maps"])
def test_a_table_of_the_administrator_that_is_no_file_is_named(
    place, authority: Authority, where
):
    install_lineage(place.certbot.config_dir, NAME, authority.issue(NAME))
    path = place.postfix.config_dir / "own"
    os.mkfifo(path)
    old = f", texthash:{place.path}" if where == "smtp_tls_policy_maps" else ""
    place.postfix.set(**{where: f"texthash:{path}{old}"})

    done = place("policy", "test", "example.org")
    deployed = place("deploy", "--cert-name", NAME)

    assert "Traceback" not in done.stderr + deployed.stderr
    if old:
        assert f"{path}, which texthash:{path} names, is not a regular" in done.stderr


@pytest.mark.parametrize("where", ["main.cf", "master.cf", "table"])
def test_no_renewal_stops_at_files_of_the_administrator_that_are_no_files(
    place, authority: Authority, base, where
):
    install_lineage(place.certbot.config_dir, NAME, authority.issue(NAME))
    config = ["--postfix-config-dir", str(place.postfix.config_dir)]
    done = place.certbot("install", "--cert-name", NAME, "-i", "postfix", *config)
    assert done.returncode == 0, done.stderr
    special = [base / f"planted-{kind}" for kind in KINDS]
    for kind, path in zip(KINDS, special, strict=True):
        KINDS[kind](path)
    (base / "loop").symlink_to("loop")
    missing = [base / "loop" / "cert.pem", base / f"long{'x' * 300}"]
    listed = " ".join(map(str, [*special, *missing]))
    if where == "table":
        table = base / "own"
        table.write_text(f"{NAME} {listed}\n")
        place.postfix.set(tls_server_sni_maps=f"texthash:{table}")
    elif where == "main.cf":
        bundle = place.certbot.bundle(NAME)
        place.postfix.set(smtpd_tls_chain_files=f"{bundle} {listed}")
    else:
        entry = f"127.0.0.1:{place.postfix.ports['submissions']}/inet"
        value = listed.replace(" ", ",")
        place.postfix.postconf("-P", f"{entry}/smtpd_tls_chain_files={value}")
        place.postfix.settle()
    newer = authority.issue(NAME)
    renew_lineage(place.certbot.config_dir, NAME, newer)

    done = place.certbot("renew", "-i", "postfix", *config)

    assert done.returncode == 0, done.stderr
    assert place.certbot.bundle(NAME).read_bytes() == newer.bundle_pem
    said = " ".join(done.stderr.split())
    assert [said.count(f"could not read {path}: ") for path in special] == [1] * 4


SECRETS = ["root:$6$abc:19000::", '{"key": "Tr0ub4dor"}', '"Tr0ub4dor"', "Tr0ub4dor&3"]


@pytest.mark.parametrize("what", ["list", "domains"])
def test_what_a_link_leads_to_is_not_told(place, tmp_path, what):
    other = tmp_path / "of root"
    place.want(domains=str(place.domains))
    path = getattr(place, what)
    path.unlink()
    path.symlink_to(other)

    for secret in SECRETS:
        other.write_text(f"{secret}\n")

        done = place("policy", "refresh")

        assert done.returncode == 1, secret
        assert str(path) in done.stderr, secret
        assert "Tr0ub4dor" not in done.stderr
        assert "$6$abc" not in done.stderr
        assert COMMAND.name in done.stderr, secret
