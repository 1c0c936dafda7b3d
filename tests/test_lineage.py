"""A lineage is as certbot left it; a renewal that was missed is noticed."""

import os
from pathlib import Path

import pytest

from certbot_postfix.errors import CertificateError, Error
from certbot_postfix.inbound import sni
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.postfix import databases
from certbot_postfix.system import files
from tests.lab import Authority, Issued, install_lineage, renew_lineage

NAME = "mx.example.org"


@pytest.fixture
def issued(authority: Authority) -> Issued:
    return authority.issue(NAME)


@pytest.fixture
def lineage(tmp_path: Path, issued: Issued) -> Lineage:
    install_lineage(tmp_path, NAME, issued)
    return Lineage.live(tmp_path / "live", NAME)


@pytest.fixture
def bundle(tmp_path: Path, issued: Issued) -> Path:
    """The bundle of the lineage, proven."""
    path = tmp_path / f"{NAME}.pem"
    path.write_bytes(issued.bundle_pem)
    return path


def test_what_is_deployed_and_proven_was_not_missed(lineage, bundle, tmp_path):
    assert not lineage.pending_for(bundle, tmp_path)


def test_a_renewal_is_missed_by_an_older_bundle(lineage, bundle, tmp_path, authority):
    renew_lineage(tmp_path, NAME, authority.issue(NAME))

    assert lineage.pending_for(bundle, tmp_path)


def test_a_proof_is_missed_while_the_bundle_before_it_is_there(
    lineage, bundle, tmp_path
):
    files.backup_name(bundle).touch()

    assert lineage.pending_for(bundle, tmp_path)


def test_the_old_bundle_of_another_lineage_does_not_matter(lineage, bundle, tmp_path):
    files.backup_name(bundle.with_name("other.pem")).touch()

    assert not lineage.pending_for(bundle, tmp_path)


# What else may be out of date


@pytest.mark.parametrize("name", ["main.cf", sni.NAME])
@pytest.mark.parametrize("named", [True, False], ids=["named", "not named"])
def test_a_bundle_that_is_gone_is_missed_where_it_is_named(
    lineage, bundle, tmp_path, name, named
):
    bundle.unlink()
    (tmp_path / name).write_text(f"a.org {bundle}\n" if named else "# nothing\n")

    assert lineage.pending_for(bundle, tmp_path) is named


def test_a_bundle_that_never_was_is_not_missed(lineage, bundle, tmp_path):
    bundle.unlink()

    assert not lineage.pending_for(bundle, tmp_path)


DATABASES = [path.name for path in databases.possible(Path(sni.NAME))]


@pytest.mark.parametrize("file", DATABASES)
@pytest.mark.parametrize(
    ("age", "named", "missed"),
    [
        pytest.param(60, True, True, id="older"),
        pytest.param(-60, True, False, id="newer"),
        pytest.param(60, False, False, id="older, without its names"),
    ],
)
def test_a_renewal_is_missed_by_a_database_that_is_older(
    lineage, bundle, tmp_path, file, age, named, missed
):
    (tmp_path / sni.NAME).write_text(f"a.org {bundle}\n" if named else "")
    (tmp_path / file).touch()
    past = bundle.stat().st_mtime - age
    os.utime(tmp_path / file, (past, past))

    assert lineage.pending_for(bundle, tmp_path) is missed


def test_of_two_databases_the_older_one_counts(lineage, bundle, tmp_path):
    (tmp_path / sni.NAME).write_text(f"a.org {bundle}\n")
    old, new = (tmp_path / name for name in DATABASES[:2])
    new.touch()
    old.touch()
    past = bundle.stat().st_mtime - 60
    os.utime(old, (past, past))

    assert lineage.pending_for(bundle, tmp_path)


# The bundle of a lineage


def test_a_lineage_is_read_into_a_bundle(lineage, issued):
    assert lineage.bundle().pem == issued.bundle_pem


def test_a_lineage_that_does_not_fit_is_named(lineage, authority):
    lineage.key.write_bytes(authority.issue(NAME).key_pem)

    with pytest.raises(CertificateError, match=f"^lineage {NAME}: the private key"):
        lineage.bundle()


def test_a_lineage_that_is_not_there_is_named(tmp_path):
    with pytest.raises(Error, match=f"could not read {tmp_path}/none/privkey.pem"):
        Lineage.live(tmp_path, "none").bundle()
    assert Lineage.live(tmp_path, "none").leaf() is None


def test_who_brings_his_own_files_is_not_told_to_renew_them_with_certbot(
    tmp_path, issued, authority
):
    key, fullchain = tmp_path / "key.pem", tmp_path / "fullchain.pem"
    key.write_bytes(authority.issue(NAME).key_pem)
    fullchain.write_bytes(issued.fullchain_pem)

    with pytest.raises(CertificateError) as caught:
        Lineage(NAME, key, fullchain).bundle()

    assert "certbot renew" not in caught.value.hint
    assert "--fullchain-path" in caught.value.hint
