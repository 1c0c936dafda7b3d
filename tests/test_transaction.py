"""Live files change only as a checkpoint knows, and come back as they were."""

import shutil
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from certbot.reverter import Reverter

from certbot_postfix.change import checkpoint as checkpoints
from certbot_postfix.change import staging, transaction
from certbot_postfix.change.plan import Edit, Plan
from certbot_postfix.change.transaction import Transaction
from certbot_postfix.errors import Error, MisconfiguredError
from certbot_postfix.inbound import sni
from certbot_postfix.postfix.decisions import Change, CommentOut, Kept, Remove
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.system import new_file
from tests.lab.postfix import snapshot

DECISIONS = (
    Change("smtpd_tls_loglevel", None, "1", "TLS is visible"),
    CommentOut("smtpd_tls_cert_file", "/old.pem", "it is old"),
    Kept("smtpd_tls_key_file", "/old.key", "somebody refers to it"),
)


class Checkpoint:
    """Notes what is asked of it; *meanwhile* happens while it saves a file."""

    def __init__(self, meanwhile=lambda path: None) -> None:
        self.calls: list[tuple[str, Path]] = []
        self.meanwhile = meanwhile

    def before_change(self, path: Path, note: str) -> None:
        self.calls.append(("change", path))
        self.meanwhile(path)

    def before_creation(self, path: Path) -> None:
        assert not path.exists()
        self.calls.append(("creation", path))


class Reversible:
    """certbot's own Reverter as a checkpoint."""

    def __init__(self, base: Path) -> None:
        self.in_progress = base / "work/IN_PROGRESS"
        self.kept = base / "main.cf.kept"
        self.reverter = Reverter(
            SimpleNamespace(
                strict_permissions=False,
                backup_dir=str(base / "work/backups"),
                temp_checkpoint_dir=str(base / "work/temporary"),
                in_progress_dir=str(self.in_progress),
            )
        )

    def before_change(self, path: Path, note: str) -> None:
        self.reverter.add_to_checkpoint({str(path)}, note)

    def before_creation(self, path: Path) -> None:
        self.reverter.register_file_creation(False, str(path))


@pytest.fixture
def postfix(stopped_postfix) -> Postfix:
    """The instance that does not run, as the plugin sees it."""
    return Postfix(stopped_postfix.config_dir)


# stage


def test_staging_changes_nothing_that_is_live(stopped_postfix, postfix, tmp_path):
    before = stopped_postfix.snapshot()

    planned = staging.stage(postfix, DECISIONS, tmp_path / "staging")

    assert not planned.empty
    assert stopped_postfix.snapshot() == before


def test_staging_leaves_nothing_where_it_was_told_to_work(postfix, tmp_path):
    staging.stage(postfix, DECISIONS, tmp_path / "staging")

    assert list(tmp_path.iterdir()) == []


def test_staging_leaves_nothing_among_temporary_files(postfix, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    staging.stage(postfix, DECISIONS, None)

    assert list(tmp_path.iterdir()) == []


def test_a_place_to_work_whose_name_has_a_blank_is_not_used(postfix, tmp_path):
    elsewhere = tmp_path / "my work"

    planned = staging.stage(postfix, DECISIONS, elsewhere)

    assert not planned.empty
    assert not elsewhere.exists()


def test_a_check_that_failed_before_is_told_as_such(stopped_postfix, postfix, tmp_path):
    stopped_postfix.set(myhostname="")

    with pytest.raises(MisconfiguredError) as caught:
        staging.stage(postfix, DECISIONS, tmp_path / "staging")

    directory = stopped_postfix.config_dir
    assert f"`postfix check` already fails for {directory}: " in caught.value.message
    assert "length 0 < 1: myhostname" in caught.value.message
    assert caught.value.hint == f"run: postfix -c {directory} check"
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("program", ["postfix", "postconf"])
def test_what_is_wrong_with_a_copy_is_told_without_its_name(
    stopped_postfix, tmp_path, program
):
    picky = tmp_path / program
    live = stopped_postfix.config_dir
    picky.write_text(
        "#!/bin/sh\n"
        f'[ "$2" = {live} ] && exec /usr/sbin/{program} "$@"\n'
        'echo "fatal: $2/main.cf is not to my taste" >&2\nexit 1\n'
    )
    picky.chmod(0o755)
    postfix = Postfix(live, **{program: str(picky)})

    with pytest.raises(Error, match=f"{live}/main.cf is not to my taste") as caught:
        staging.stage(postfix, DECISIONS, tmp_path / "staging")

    assert str(tmp_path / "staging") not in str(caught.value)


def test_staging_that_fails_leaves_nothing_either(postfix, tmp_path):
    bad = (Change("smtpd_tls_loglevel", None, "${unended", "to fail"),)

    with pytest.raises(MisconfiguredError):
        staging.stage(postfix, bad, tmp_path / "staging")

    assert list(tmp_path.iterdir()) == []


def test_a_parameter_is_removed_with_all_its_lines(stopped_postfix, postfix):
    before = stopped_postfix.main_cf.read_bytes()
    lines = b"tls_server_sni_maps =\n# none yet\n  texthash:/names\n"
    stopped_postfix.main_cf.write_bytes(before + lines + b"# the end\n")
    stopped_postfix.settle()

    removal = (Remove("tls_server_sni_maps", "texthash:/names", "it is over"),)
    edit = staging.stage(postfix, removal, None)

    assert edit.after is not None
    assert edit.after.startswith(before)
    assert b"tls_server_sni_maps" not in edit.after
    assert b"/names" not in edit.after
    assert edit.after.endswith(b"# the end\n")


def test_without_a_change_no_copy_is_made(postfix, tmp_path):
    planned = staging.stage(postfix, DECISIONS[2:], tmp_path / "staging")

    assert planned.empty
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_while_staging_is_named(postfix, tmp_path):
    place = tmp_path / "staging"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        with pytest.raises(Error, match="No space left on device"):
            staging.stage(postfix, DECISIONS, place)
        assert list(place.iterdir()) == []
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_what_postfix_does_not_accept_is_quoted_and_not_planned(
    stopped_postfix, postfix
):
    stopped_postfix.master_cf.write_text("smtp inet n\n")
    stopped_postfix.settle()

    with pytest.raises(Error, match=r"master\.cf: line 1: bad field count"):
        staging.stage(postfix, DECISIONS, None)


def test_a_value_that_postconf_did_not_take_as_told_is_refused(postfix):
    decisions = (Change("smtpd_tls_loglevel", None, "1   2", "blanks collapse"),)

    with pytest.raises(MisconfiguredError, match="did not apply smtpd_tls_loglevel"):
        staging.stage(postfix, decisions, None)


SPY = """\
#!/bin/sh
# Tell mode and age, in seconds, of what postconf is about to see.
echo "$(stat -c %a "$2") $(expr $(date +%s) - $(stat -c %Y "$2/main.cf"))" >> {seen}
exec postconf "$@"
"""


@pytest.fixture
def staged(stopped_postfix, base) -> list[tuple[str, int]]:
    """Mode of the staged copy, and age of its main.cf, at each call of postconf."""
    spy, seen = base / "postconf", base / "seen"
    spy.write_text(SPY.format(seen=seen))
    spy.chmod(0o755)
    postfix = Postfix(stopped_postfix.config_dir, postconf=str(spy))
    staging.stage(postfix, DECISIONS, None)
    lines = (line.split() for line in seen.read_text().splitlines())
    return [(mode, int(age)) for mode, age in lines]


def test_postconf_never_waits_for_a_staged_file(staged):
    *edits, reading = [age for _, age in staged]

    # postconf -e and -# do not wait; what reads waits for files younger than 2 s.
    assert len(edits) == 2
    assert reading >= 2


def test_a_staged_copy_is_private(staged):
    assert {mode for mode, _ in staged} == {"700"}


# commit


def planned(path: Path, after: bytes = b"new\n", table: bytes | None = None) -> Plan:
    """Return a plan for main.cf at *path*, with a *table* of names if there is one."""
    names = path.with_name(sni.NAME)
    before = names.read_bytes() if names.exists() else None
    return Plan(
        DECISIONS,
        Edit(path, path.read_bytes(), after),
        (Edit(names, before, before if table is None else table),),
    )


def staged_plan(postfix: Postfix) -> Plan:
    """Return a plan for main.cf only, staged."""
    edit = staging.stage(postfix, DECISIONS, None)
    return Plan(DECISIONS, edit, (Edit(edit.path.with_name(sni.NAME), None, None),))


@pytest.fixture
def main_cf(tmp_path: Path) -> Path:
    path = tmp_path / "etc" / "main.cf"
    path.parent.mkdir()
    path.write_bytes(b"old\n")
    return path


def test_a_commit_writes_what_was_planned_once_the_checkpoint_knows(main_cf):
    def is_old(path: Path) -> None:
        assert path.read_bytes() == b"old\n"

    checkpoint = Checkpoint(meanwhile=is_old)

    Transaction((), checkpoint).commit(planned(main_cf))

    assert checkpoint.calls == [("change", main_cf)]
    assert main_cf.read_bytes() == b"new\n"


def test_a_main_cf_that_somebody_changed_since_is_left_to_him(main_cf):
    plan = planned(main_cf)
    main_cf.write_bytes(b"of somebody\n")

    with pytest.raises(Error, match="was modified while") as caught:
        Transaction((), Checkpoint()).commit(plan)

    assert main_cf.read_bytes() == b"of somebody\n"
    assert list(main_cf.parent.iterdir()) == [main_cf]
    assert caught.value.hint == "run the same command again"


def test_a_main_cf_that_changes_while_the_checkpoint_is_made_is_left_alone(main_cf):
    checkpoint = Checkpoint(meanwhile=lambda path: path.write_bytes(b"of somebody\n"))

    with pytest.raises(Error, match="modified while this command"):
        Transaction((), checkpoint).commit(planned(main_cf))

    assert main_cf.read_bytes() == b"of somebody\n"


# The table of names


@pytest.fixture
def table(main_cf: Path) -> Path:
    """A table that is there already."""
    path = main_cf.with_name(sni.NAME)
    path.write_bytes(b"names\n")
    path.chmod(0o600)
    return path


def test_a_first_table_is_private_and_registered_as_a_creation(main_cf):
    checkpoint, table = Checkpoint(), main_cf.with_name(sni.NAME)

    Transaction((), checkpoint).commit(planned(main_cf, table=b"names\n"))

    assert checkpoint.calls == [("change", main_cf), ("creation", table)]
    assert entries(main_cf.parent)[table.name] == (0o600, b"names\n")
    assert main_cf.read_bytes() == b"new\n"


def test_a_table_that_is_replaced_is_saved_by_the_checkpoint(main_cf, table):
    def is_old(_: Path) -> None:
        assert table.read_bytes() == b"names\n"

    checkpoint = Checkpoint(meanwhile=is_old)

    Transaction((), checkpoint).commit(planned(main_cf, table=b"more\n"))

    assert checkpoint.calls == [("change", main_cf), ("change", table)]
    assert entries(table.parent)[table.name] == (0o600, b"more\n")


def test_a_table_that_stays_as_it_is_enters_no_checkpoint(main_cf, table):
    checkpoint = Checkpoint()
    inode = table.stat().st_ino

    Transaction((), checkpoint).commit(planned(main_cf))

    assert checkpoint.calls == [("change", main_cf)]
    assert table.stat().st_ino == inode


def test_main_cf_stays_if_the_table_cannot_be_written(main_cf):
    class Hindering(Checkpoint):
        def before_creation(self, path: Path) -> None:
            path.mkdir()

    with pytest.raises(Error, match=f"could not write .*{sni.NAME}"):
        Transaction((), Hindering()).commit(planned(main_cf, table=b"names\n"))

    assert main_cf.read_bytes() == b"old\n"


def test_main_cf_alone_is_not_written_for_a_change_of_the_table(main_cf, table):
    before = main_cf.stat()

    Transaction((), Checkpoint()).commit(planned(main_cf, b"old\n", table=b"more\n"))

    assert main_cf.stat() == before
    assert table.read_bytes() == b"more\n"


@pytest.mark.parametrize("there", [True, False], ids=["changed", "made"])
def test_a_table_that_somebody_changed_since_is_left_to_him(main_cf, there):
    table = main_cf.with_name(sni.NAME)
    if there:
        table.write_bytes(b"names\n")
    plan = planned(main_cf, table=b"more\n")
    table.write_bytes(b"of somebody\n")

    with pytest.raises(Error, match=f"{table} was modified while"):
        Transaction((), Checkpoint()).commit(plan)

    assert table.read_bytes() == b"of somebody\n"
    assert main_cf.read_bytes() == b"old\n"


def test_a_table_that_somebody_removed_since_is_not_made_again(main_cf, table):
    plan = planned(main_cf, table=b"more\n")
    table.unlink()

    with pytest.raises(Error, match=f"{table} was modified while"):
        Transaction((), Checkpoint()).commit(plan)

    assert not table.exists()


def test_postfix_never_waits_for_a_table_that_was_written(main_cf):
    Transaction((), Checkpoint()).commit(planned(main_cf, table=b"names\n"))

    age = time.time() - main_cf.with_name(sni.NAME).stat().st_mtime
    assert age >= new_file.COOL - 0.1


def test_what_was_committed_without_a_checkpoint_can_be_reverted(main_cf, table):
    before = entries(main_cf.parent)
    plan = planned(main_cf, table=b"more\n")
    change = Transaction(())
    change.commit(plan)

    change.undo()

    assert entries(main_cf.parent) == before


def test_what_somebody_changed_since_is_not_reverted(main_cf, table):
    change = Transaction(())
    change.commit(planned(main_cf, table=b"more\n"))
    for path in (main_cf, table):
        path.write_bytes(b"of somebody\n")

    change.undo()

    assert [path.read_bytes() for path in (main_cf, table)] == [b"of somebody\n"] * 2


# Bundles


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tmp_path / "letsencrypt" / "mx.example.org.pem"


@pytest.fixture
def deployed(bundle: Path) -> Path:
    """A bundle that is in its place."""
    bundle.parent.mkdir()
    Transaction((), Checkpoint()).put_bundle(bundle, b"old")
    return bundle


def entries(directory: Path) -> dict[str, tuple[int, bytes | str | None]]:
    return {
        name: (entry.mode, entry.content) for name, entry in snapshot(directory).items()
    }


def test_a_first_bundle_is_private_and_registered_as_a_creation(bundle):
    bundle = bundle.parent / "postfix" / bundle.name
    bundle.parent.parent.mkdir()
    checkpoint = Checkpoint()

    Transaction((), checkpoint).put_bundle(bundle, b"key")

    assert checkpoint.calls == [("creation", bundle)]
    assert entries(bundle.parent) == {
        ".": (0o700, None),
        bundle.name: (0o600, b"key"),
    }


def test_a_bundle_that_is_replaced_enters_no_checkpoint(deployed):
    checkpoint = Checkpoint()

    Transaction((), checkpoint).put_bundle(deployed, b"new")

    assert checkpoint.calls == []
    assert deployed.read_bytes() == b"new"


def test_no_file_beside_a_bundle_is_open_to_others(deployed):
    Transaction(()).put_bundle(deployed, b"new")

    modes = {
        mode for name, (mode, _) in entries(deployed.parent).items() if name != "."
    }
    assert modes == {0o600}


def test_a_replaced_bundle_comes_back_with_its_mode(deployed):
    before = entries(deployed.parent)
    change = Transaction(())
    change.put_bundle(deployed, b"new")

    assert change.undo() == [deployed]

    assert entries(deployed.parent) == before


def test_a_first_bundle_is_left_to_the_checkpoint(bundle):
    bundle.parent.mkdir()
    change = Transaction((), Checkpoint())
    change.put_bundle(bundle, b"old")

    assert change.undo() == []

    assert bundle.read_bytes() == b"old"


def test_a_proven_bundle_leaves_nothing_of_the_old_one(deployed):
    change = Transaction(())
    change.put_bundle(deployed, b"new")

    change.discard_backups(deployed)

    assert entries(deployed.parent).keys() == {".", deployed.name}
    assert deployed.read_bytes() == b"new"
    assert change.undo() == []


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "postfix").touch()

    with pytest.raises(Error, match=f"could not create {tmp_path}/postfix"):
        Transaction(()).put_bundle(tmp_path / "postfix" / "mx.pem", b"key")


# restore, with certbot's Reverter


@pytest.fixture
def reversible(base: Path) -> Reversible:
    return Reversible(base)


def test_what_certbot_saved_comes_back_with_owner_and_mode(
    stopped_postfix, postfix, reversible
):
    shutil.chown(stopped_postfix.main_cf, "nobody", "postfix")
    stopped_postfix.main_cf.chmod(0o640)
    before = stopped_postfix.snapshot()
    Transaction((), reversible).commit(staged_plan(postfix))
    changed = stopped_postfix.snapshot() != before

    checkpoints.restore(reversible.in_progress, reversible.kept)

    assert changed
    assert stopped_postfix.snapshot() == before


def test_certbot_finishes_what_was_restored(
    stopped_postfix, postfix, reversible, bundle
):
    before = stopped_postfix.snapshot()
    bundle.parent.mkdir()
    Transaction((), reversible).put_bundle(bundle, b"key")
    Transaction((), reversible).commit(staged_plan(postfix))

    checkpoints.restore(reversible.in_progress, reversible.kept)
    reversible.reverter.recovery_routine()

    assert stopped_postfix.snapshot() == before
    assert not bundle.exists()
    assert not reversible.in_progress.exists()


def test_a_table_comes_and_goes_with_main_cf(reversible, main_cf):
    before = entries(main_cf.parent)
    Transaction((), reversible).commit(planned(main_cf, table=b"names\n"))
    reversible.reverter.finalize_checkpoint("Deployed")
    first = entries(main_cf.parent)
    Transaction((), reversible).commit(planned(main_cf, b"newer\n", table=b"more\n"))

    restored = checkpoints.restore(reversible.in_progress, reversible.kept)
    reversible.reverter.recovery_routine()

    assert restored == [main_cf]
    assert entries(main_cf.parent) == first

    reversible.reverter.rollback_checkpoints(1)

    assert entries(main_cf.parent) == before


def test_certbot_can_still_undo_by_itself(stopped_postfix, postfix, reversible):
    before = stopped_postfix.main_cf.read_bytes()
    Transaction((), reversible).commit(staged_plan(postfix))
    reversible.reverter.finalize_checkpoint("Deployed")

    reversible.reverter.rollback_checkpoints(1)

    assert stopped_postfix.main_cf.read_bytes() == before


def test_a_link_is_still_one_after_it_was_restored(
    stopped_postfix, postfix, reversible, base
):
    target = base / "main.cf.managed"
    stopped_postfix.main_cf.rename(target)
    stopped_postfix.main_cf.symlink_to(target)
    before, content = stopped_postfix.snapshot(), target.read_bytes()
    Transaction((), reversible).commit(staged_plan(postfix))

    checkpoints.restore(reversible.in_progress, reversible.kept)

    assert stopped_postfix.snapshot() == before
    assert target.read_bytes() == content


def test_a_link_of_another_installer_s_is_still_one_after_it_was_restored(
    reversible, base
):
    available, enabled = base / "available" / "site", base / "enabled" / "site"
    for path in (available, enabled):
        path.parent.mkdir()
    available.write_bytes(b"before\n")
    enabled.symlink_to(available)
    before = snapshot(available.parent), snapshot(enabled.parent)
    reversible.before_change(enabled, "changed")
    enabled.write_bytes(b"after\n")

    checkpoints.restore(reversible.in_progress, reversible.kept)

    assert (snapshot(available.parent), snapshot(enabled.parent)) == before


def test_what_was_edited_since_is_restored_and_kept(
    stopped_postfix, postfix, reversible, caplog
):
    main_cf = stopped_postfix.main_cf
    before = stopped_postfix.snapshot()
    Transaction((), reversible).commit(staged_plan(postfix))
    edited = main_cf.read_bytes() + b"# by hand\n"
    main_cf.write_bytes(edited)

    restored = checkpoints.restore(reversible.in_progress, reversible.kept)

    assert restored == [main_cf]
    assert stopped_postfix.snapshot() == before
    assert reversible.kept.read_bytes() == edited
    (warning,) = caplog.messages
    assert f"{main_cf} was changed after the installation" in warning
    assert f"was saved as {reversible.kept}" in warning


@pytest.mark.parametrize("written", [True, False], ids=["written", "not yet written"])
def test_what_nobody_edited_since_is_not_kept(postfix, reversible, written, caplog):
    change = staged_plan(postfix)
    Transaction((), reversible).commit(change)
    if not written:
        change.main_cf.path.write_bytes(change.main_cf.before or b"")

    checkpoints.restore(reversible.in_progress, reversible.kept)

    assert not reversible.kept.exists()
    assert caplog.messages == []


def test_a_plan_is_recognised_by_a_name_that_is_not_ascii(reversible, base):
    main_cf = base / "grün.cf"
    main_cf.write_bytes(b"before\n")
    Transaction((), reversible).commit(planned(main_cf, b"after\n"))

    assert checkpoints.restore(reversible.in_progress, reversible.kept) == [main_cf]
    assert main_cf.read_bytes() == b"before\n"
    assert not reversible.kept.exists()


def test_an_edit_that_cannot_be_kept_does_not_hinder_the_undo(
    stopped_postfix, postfix, reversible, caplog
):
    before = stopped_postfix.main_cf.read_bytes()
    Transaction((), reversible).commit(staged_plan(postfix))
    stopped_postfix.main_cf.write_bytes(b"by = hand\n")

    checkpoints.restore(reversible.in_progress, reversible.kept / "none")

    assert stopped_postfix.main_cf.read_bytes() == before
    (warning,) = caplog.messages
    assert "could not be saved as" in warning


def test_a_restored_checkpoint_is_restored_once_only(
    stopped_postfix, postfix, reversible
):
    Transaction((), reversible).commit(staged_plan(postfix))
    checkpoints.restore(reversible.in_progress, reversible.kept)
    stopped_postfix.main_cf.write_bytes(b"of somebody\n")

    checkpoints.restore(reversible.in_progress, reversible.kept)

    assert stopped_postfix.main_cf.read_bytes() == b"of somebody\n"


def test_no_key_enters_a_checkpoint(postfix, reversible, deployed):
    Transaction((), reversible).put_bundle(deployed, b"SECRET")
    Transaction((), reversible).commit(staged_plan(postfix))

    saved = [path for path in reversible.in_progress.rglob("*") if path.is_file()]
    assert saved
    assert not [path for path in saved if b"SECRET" in path.read_bytes()]


def test_a_checkpoint_that_holds_no_file_restores_nothing(tmp_path):
    assert checkpoints.restore(tmp_path / "never made", tmp_path / "kept") == []


# sweep


def test_what_a_killed_run_left_is_swept_away(
    stopped_postfix, postfix, deployed, tmp_path
):
    before = stopped_postfix.snapshot(), entries(deployed.parent)
    staging = tmp_path / "staging"
    (staging / "certbot-postfix-x").mkdir(parents=True)
    for left in (stopped_postfix.main_cf, deployed):
        new_file.staging_name(left).touch()

    transaction.remove_leftovers(postfix, [deployed.parent], staging)

    assert (stopped_postfix.snapshot(), entries(deployed.parent)) == before
    assert not staging.exists()


def test_what_others_keep_where_copies_are_staged_is_not_swept_away(
    postfix, deployed, tmp_path
):
    other = tmp_path / "staging" / "of-others"
    other.mkdir(parents=True)

    transaction.remove_leftovers(postfix, [deployed.parent], other.parent)

    assert other.exists()


def test_an_old_bundle_outlives_the_sweep_until_the_new_one_is_proven(
    postfix, deployed
):
    change = Transaction(())
    change.put_bundle(deployed, b"new")

    transaction.remove_leftovers(postfix, [deployed.parent], None)

    assert change.undo() == [deployed]
    assert deployed.read_bytes() == b"old"


def test_all_old_bundles_are_forgotten_at_once(deployed):
    second = deployed.with_name("second.pem")
    for path in (deployed, second, second):
        Transaction(()).put_bundle(path, b"new")

    transaction.discard_backups(deployed.parent)

    assert entries(deployed.parent).keys() == {".", deployed.name, second.name}
