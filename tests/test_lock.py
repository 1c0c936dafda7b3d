"""One process at a time works in a directory, where the file system can tell."""

import errno
import fcntl
import os

import pytest

from certbot_postfix.errors import BusyError
from certbot_postfix.system import lock


def test_one_at_a_time_works_in_a_directory(tmp_path):
    with (
        lock.alone(tmp_path, wait=0),
        pytest.raises(BusyError, match="another process works in"),
        lock.alone(tmp_path, wait=0),
    ):
        pass

    with lock.alone(tmp_path, wait=0):
        assert tmp_path.is_dir()


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
