"""What a rollback would undo is known before."""

from pathlib import Path

import pytest

from certbot_postfix.change.checkpoint import records
from certbot_postfix.status.checkpoints import as_list
from tests.lab.postfix import snapshot
from tests.lab.scene import NAME, SHOP, Scene, options, succeeded
from tests.test_status import as_nobody

ROLLBACK = "certbot rollback -i postfix"
OTHER = "/etc/nginx/nginx.conf"


def listed(scene: Scene) -> list[str]:
    done = scene.command("checkpoints", "--work-dir", str(scene.certbot.work_dir))
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def actions(lines: list[str], number: int) -> dict[str, list[str]]:
    """Return what the undo of a checkpoint does, by verb."""
    (start,) = (n for n, line in enumerate(lines) if line.startswith(f"{number:3}  "))
    verbs: dict[str, list[str]] = {}
    for line in lines[start + 1 :]:
        if not line.startswith("     "):
            break
        verb, _, what = line.strip().partition(" ")
        verbs.setdefault(verb, []).append(what.strip())
    return verbs


def test_without_root_they_are_not_said_to_be_none(tmp_path):
    work = tmp_path / "work"
    (work / "backups").mkdir(parents=True)
    work.chmod(0o700)

    done = as_nobody("checkpoints", "--work-dir", str(work))

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"certbot-postfix: error: could not read {work}/backups: Permission denied\n"
        "Hint: run this command as root, for example with sudo\n"
    )


@pytest.mark.postfix
def test_each_checkpoint_of_ours_is_listed_with_what_its_rollback_does(scene):
    assert listed(scene) == ["Checkpoints of certbot: 0, of this plugin: 0"]
    scene.lineage(NAME)
    scene.lineage("shop", *SHOP)
    succeeded(scene.install(NAME))
    between = snapshot(scene.postfix.config_dir)
    succeeded(scene.install("shop"))

    lines = listed(scene)

    assert lines[0] == "Checkpoints of certbot: 2, of this plugin: 2"
    main_cf, table = scene.postfix.main_cf, scene.postfix.config_dir / "certbot_sni"
    newest, oldest = actions(lines, 1), actions(lines, 2)
    assert newest["restores"] == oldest["restores"] == [str(main_cf)]
    bundle = scene.certbot.bundle("shop")
    assert sorted(newest["removes"]) == sorted([str(bundle), str(table)])
    assert newest["undoes"][0].startswith(f"{main_cf}: tls_server_sni_maps: (unset) ->")
    assert "smtpd_tls_chain_files" in oldest["undoes"][0]
    assert "--checkpoints 1 undoes the newest," in lines[-1]

    succeeded(scene.certbot("rollback", *options(scene.postfix)))

    assert snapshot(scene.postfix.config_dir) == between
    assert not bundle.exists()
    assert listed(scene)[0] == "Checkpoints of certbot: 1, of this plugin: 1"


def checkpoint(backups: Path, made: int, note: str, *paths: str) -> None:
    """Write a checkpoint as certbot does."""
    directory = backups / str(made)
    directory.mkdir(parents=True)
    (directory / "CHANGES_SINCE").write_text(f"-- Title --\n{note}\n")
    (directory / "FILEPATHS").write_text("\n".join(paths))


def test_a_checkpoint_of_another_installer_is_undone_with_ours(tmp_path):
    main_cf = "/etc/postfix/main.cf"
    note = f"{main_cf}: x: a -> b (c)\n{main_cf}: SHA-256 {'0' * 64}"
    checkpoint(tmp_path, 1796001583, note, main_cf)
    checkpoint(tmp_path, 1796001586, "/etc/nginx: 443 is opened", OTHER)
    (tmp_path / "not-a-checkpoint").mkdir()

    found = records(tmp_path, Path("/etc/letsencrypt/postfix"))

    assert [record.ours for record in found] == [False, True]
    what = "undoes the newest one of this plugin, and 1 of other installers"
    what += " that are newer"
    assert list(as_list(found)) == [
        "Checkpoints of certbot: 2, of this plugin: 1",
        "  1  2026-11-30 01:19 UTC  another installer",
        f"     restores {OTHER}",
        "  2  2026-11-30 01:19 UTC  this plugin",
        f"     restores {main_cf}",
        f"     undoes   {main_cf}: x: a -> b (c)",
        f"Hint: {ROLLBACK} --checkpoints 2 {what}",
    ]
