"""What status cannot read is not checked, with the reason, and is no error."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import pytest

from certbot_postfix.dane import places
from certbot_postfix.postfix.configuration import CHAIN, SNI_MAPS, Configuration
from certbot_postfix.status import report
from certbot_postfix.status.facts import Facts, Key
from certbot_postfix.status.read_files import LARGEST, THOROUGH, FileReader
from tests.lab import Authority, Issued, install_lineage
from tests.test_status import HOST, certificate, configured

BROKEN = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@dataclass
class Place:
    """certbot's directory below *base*, with a lineage and its bundle."""

    base: Path
    issued: Issued

    @property
    def certbot(self) -> Path:
        return self.base / "letsencrypt"

    @property
    def live(self) -> Path:
        return self.certbot / "live"

    @property
    def fullchain(self) -> Path:
        return self.live / HOST / "fullchain.pem"

    @property
    def bundle(self) -> Path:
        return self.certbot / "postfix" / f"{HOST}.pem"

    @property
    def table(self) -> Path:
        return self.base / "sni"

    @property
    def next_key(self) -> Path:
        return places.next_key(self.bundle.parent, HOST)

    def configuration(self, **explicit: str) -> Configuration:
        return configured(
            {CHAIN: str(self.bundle), SNI_MAPS: f"hash:{self.table}", **explicit}
        )

    def read(self, **explicit: str) -> FileReader:
        reader = FileReader(self.configuration(**explicit), self.bundle.parent)
        reader.read()
        return reader


@pytest.fixture(scope="module")
def issued(authority: Authority) -> Issued:
    return authority.issue(HOST)


@pytest.fixture
def place(tmp_path: Path, issued: Issued) -> Place:
    found = Place(tmp_path, issued)
    install_lineage(found.certbot, HOST, issued)
    found.bundle.parent.mkdir(mode=0o700)
    found.bundle.touch(mode=0o600)
    found.bundle.write_bytes(issued.bundle_pem)
    found.table.write_text(f"{HOST} {found.bundle}\n")
    return found


def in_a_circle(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path)


def as_directory(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def endless(path: Path) -> None:
    path.touch()
    os.truncate(path, LARGEST + 1)


def with_content(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    return write


@pytest.mark.parametrize(
    ("which", "make", "object_", "reason"),
    [
        pytest.param(
            "live",
            in_a_circle,
            "certbot's lineages in {}",
            "Too many levels of symbolic links",
            id="lineages",
        ),
        pytest.param(
            "fullchain", as_directory, "{}", "Is a directory", id="lineage, no file"
        ),
        pytest.param(
            "fullchain", with_content(BROKEN), "{}", "not a certificate: ", id="lineage"
        ),
        pytest.param(
            "fullchain",
            with_content(BROKEN.replace(b"AAAA", b"A")),
            "{}",
            "not a PEM certificate: ",
            id="lineage, cut off",
        ),
        pytest.param(
            "fullchain",
            with_content(b""),
            "{}",
            "there is no certificate in it",
            id="lineage, empty",
        ),
        pytest.param("table", as_directory, "{}", "Is a directory", id="SNI map"),
        pytest.param("table", endless, "{}", "it is longer than ", id="long SNI map"),
        pytest.param("fullchain", endless, "{}", "it is longer than ", id="long chain"),
        pytest.param(
            "table",
            in_a_circle,
            "{}",
            "Too many levels of symbolic links",
            id="SNI map, links in a circle",
        ),
        pytest.param("next_key", with_content(b"no key\n"), "{}", "", id="next key"),
    ],
)
def test_what_cannot_be_read_is_not_checked_and_the_reason_is_said(
    place, which, make, object_, reason
):
    path = getattr(place, which)
    make(path)

    (skipped,) = place.read().skipped

    assert skipped.object == object_.format(path)
    assert skipped.reason.startswith(reason)


def test_a_bundle_with_a_broken_certificate_is_damaged(place):
    place.bundle.write_bytes(BROKEN)

    reader = place.read()

    assert reader.files[place.bundle].damage.startswith("not a certificate: ")
    assert reader.skipped == []


@pytest.mark.parametrize("live", ["file", "nothing"])
def test_without_certbot_s_directory_a_lineage_is_gone(place, live):
    place.live.rename(place.live.with_name("elsewhere"))
    if live == "file":
        place.live.write_text("")

    reader = place.read()

    assert reader.lineages == {HOST: None}
    assert reader.skipped == []


def test_certbot_s_read_me_is_no_lineage(place):
    """It is in live/; a copy elsewhere makes all lineages there matter."""
    (place.live / "README").write_text("This directory contains your keys\n")
    copy = place.base / "copy.pem"
    copy.write_bytes(place.issued.bundle_pem)

    reader = place.read(**{CHAIN: str(copy)})

    assert reader.lineages == {HOST: certificate(place.issued)}
    assert reader.skipped == []


def test_a_file_without_a_certificate_among_many_chains_has_a_key_alone(place):
    bare = place.base / "bare.pem"
    bare.write_bytes(place.issued.key_pem)
    paths = [bare, *(place.base / f"{number}.pem" for number in range(THOROUGH))]
    place.table.write_text(
        "".join(f"n{number}.example.org {path}\n" for number, path in enumerate(paths))
    )

    file = place.read().files[bare]

    assert file.partly
    assert file.blocks == (Key(b""),)


def test_a_file_that_is_named_as_chain_and_for_cas_is_judged_as_both(place):
    reader = place.read(smtp_tls_CAfile=str(place.bundle))

    facts = Facts(
        reader.configuration,
        datetime.now(timezone.utc),
        place.bundle.parent,
        running=True,
        files=reader.files,
    )
    found = [finding.code.value for finding in report.make(facts).findings]
    assert found == ["ca-file-own-chain"]
