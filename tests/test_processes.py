"""Which Postfix runs is read from master.pid and proc(5), by whoever asks."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from certbot_postfix.postfix import processes
from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.system import listeners

Write = Callable[[str], Path]


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    directory = tmp_path / "etc"
    directory.mkdir()
    values = {"queue_directory": str(tmp_path)}
    return Configuration(directory, {}, {}, values, ())


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write master.pid."""

    def write(text: str) -> Path:
        path = tmp_path / "pid" / "master.pid"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


@contextmanager
def waiting(**environment: str) -> Iterator[int]:
    """Start a process that does nothing."""
    command = [sys.executable, "-c", "print(flush=True); input()"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        process.stdout.readline()  # its environment is its own by now
        yield process.pid
        process.communicate(b"\n")


def ended() -> int:
    with waiting() as number:
        pass
    return number


@pytest.mark.parametrize(
    ("content", "runs"),
    [
        pytest.param(None, False, id="no file"),
        pytest.param(lambda: f"{ended():>9}\n", False, id="of a process that ended"),
        pytest.param(lambda: "1\n", False, id="of another program"),
        pytest.param(lambda: "no number\n", None, id="without a number"),
        pytest.param(lambda: "", None, id="empty, as at the start"),
    ],
)
def test_postfix_runs_if_master_pid_names_its_master(
    configuration, write, content, runs
):
    if content:
        write(content())

    assert processes.running(configuration) is runs


def test_a_master_pid_that_is_no_file_says_nothing(configuration, write):
    path = write("")
    path.unlink()
    path.mkdir()

    assert processes.running(configuration) is None
    assert processes.master(configuration) is None


@pytest.mark.parametrize("which", ["the same", "another", "one that is gone", "none"])
def test_the_directory_with_which_it_was_started_is_known(
    configuration, write, tmp_path, which
):
    spelled = configuration.directory.parent / "." / "etc" / ".." / "etc"
    (tmp_path / "other").mkdir()
    directory = {
        "the same": spelled,
        "another": tmp_path / "other",
        "one that is gone": tmp_path / "gone",
        "none": None,
    }[which]

    with waiting(**{"MAIL_CONFIG": str(directory)} if directory else {}) as number:
        write(f"{number}\n")
        found = processes.elsewhere(configuration)

    assert found == (None if which in ("the same", "none") else directory)


def test_a_process_may_have_any_name(configuration, write, tmp_path):
    """It is that of the file that was executed, in any encoding: proc(5)."""
    program = tmp_path / os.fsdecode(b"m\xe4ster")
    program.symlink_to(shutil.which("sleep"))
    with subprocess.Popen(["sleep", "30"], executable=program) as process:
        write(f"{process.pid}\n")
        try:
            assert processes.running(configuration) is False
            assert listeners.children(os.getpid(), "qmgr") == set()
        finally:
            process.kill()


def test_of_a_postfix_that_does_not_run_no_process_is_outdated(configuration, tmp_path):
    assert not processes.outdated(configuration, [tmp_path])
