"""A checkpoint of certbot's, made by certbot's own Installer and Reverter."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from certbot_postfix.change.checkpoint import CheckpointInProgress
from certbot_postfix.errors import Error
from certbot_postfix.installer import Installer


@pytest.fixture
def installer(tmp_path: Path) -> Installer:
    work = tmp_path / "work"
    paths = {
        "backup_dir": work / "backups",
        "in_progress_dir": work / "IN_PROGRESS",
        "temp_checkpoint_dir": work / "temporary",
        "config_dir": tmp_path / "letsencrypt",
        "work_dir": work,
    }
    config = SimpleNamespace(
        strict_permissions=False, **{name: str(path) for name, path in paths.items()}
    )
    return Installer(config, "postfix")


@pytest.fixture
def in_progress(installer: Installer) -> Path:
    return Path(installer.config.in_progress_dir)


@pytest.fixture
def checkpoint(installer: Installer) -> CheckpointInProgress:
    return CheckpointInProgress(installer)


def test_what_a_web_server_has_is_not_offered_by_postfix(installer):
    assert installer.supported_enhancements() == []
    with pytest.raises(Error, match="Postfix has no redirect, which is for web"):
        installer.enhance("mx.example.org", "redirect")


def test_a_certificate_without_its_full_chain_is_refused(installer):
    with pytest.raises(Error, match=r"no full chain for mx\.example\.org") as caught:
        installer.deploy_cert("mx.example.org", "cert", "key", "chain", "")

    assert caught.value.hint == "use --fullchain-path, or --cert-name"


def test_a_checkpoint_that_nobody_used_does_not_exist(checkpoint, in_progress):
    assert not checkpoint.used
    assert not in_progress.exists()


def test_a_file_is_saved_with_a_note_before_it_is_changed(
    checkpoint, in_progress, tmp_path
):
    path = tmp_path / "main.cf"
    path.write_bytes(b"before")

    checkpoint.before_change(path, "what is done\n")

    assert checkpoint.used
    assert (in_progress / "main.cf_0").read_bytes() == b"before"
    assert "what is done" in (in_progress / "CHANGES_SINCE").read_text()


def test_a_file_that_was_created_is_gone_after_an_undo(checkpoint, installer, tmp_path):
    path = tmp_path / "bundle.pem"
    checkpoint.before_creation(path)
    path.touch()

    installer.reverter.recovery_routine()

    assert checkpoint.used
    assert not path.exists()


def test_a_checkpoint_that_cannot_be_made_is_told(checkpoint, in_progress, tmp_path):
    (in_progress / "NEW_FILES").mkdir(parents=True)  # where the list should be

    with pytest.raises(Error, match="certbot cannot make a checkpoint: "):
        checkpoint.before_creation(tmp_path / "bundle.pem")
