"""One process at a time works in a directory, where the file system can tell."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time

import pytest

from certbot_postfix.errors import BusyError, Error
from certbot_postfix.system import lock
from tests.test_faults import HOLD


def test_one_at_a_time_works_in_a_directory(tmp_path):
    with (
        lock.alone(tmp_path, wait=0),
        pytest.raises(BusyError, match="another process works in"),
        lock.alone(tmp_path, wait=0),
    ):
        pass

    with lock.alone(tmp_path, wait=0):
        assert tmp_path.is_dir()


def test_who_waits_gets_the_directory_when_the_other_one_has_ended(tmp_path):
    held = lock.alone(tmp_path, wait=0)
    held.__enter__()
    ended = threading.Event()

    def end() -> None:
        ended.set()
        held.__exit__(None, None, None)

    threading.Timer(0.05, end).start()

    with lock.alone(tmp_path, wait=10):
        assert ended.is_set()


def test_a_directory_that_cannot_be_locked_as_over_nfs_hinders_nobody(
    tmp_path, monkeypatch
):
    def flock(_fd: int, _operation: int) -> None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(fcntl, "flock", flock)
    reached = False

    with lock.alone(tmp_path, wait=0):
        reached = True

    assert reached


def test_a_lock_that_is_stuck_is_waited_for_once(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as holder:
        assert holder.stdout.readline() == "locked\n"
        lasted = []
        for _ in range(2):
            start = time.monotonic()
            with pytest.raises(Error, match=f"process {holder.pid} has the lock"):
                lock.take(tmp_path, wait=2)
            lasted.append(time.monotonic() - start)
        holder.stdin.close()

    assert lasted[0] >= 2
    assert lasted[1] < 1
