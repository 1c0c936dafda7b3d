"""Work that must be done in time, and what becomes of the thread that does it."""

import subprocess
import sys
import threading

import pytest

from certbot_postfix.system.deadline import Deadline, LateError


def test_one_thread_does_one_task_after_the_other():
    Deadline(60).within(threading.get_ident, "begin")
    before = threading.active_count()

    for _ in range(100):
        Deadline(60).within(threading.get_ident, "work")

    # Who waits may be quicker than the thread, which then does not come free yet.
    assert threading.active_count() <= before + 10


def test_after_a_task_that_hangs_another_one_is_done():
    release = threading.Event()
    try:
        with pytest.raises(LateError, match=r"could not hang within 0\.1 seconds"):
            Deadline(0.1).within(release.wait, "hang")

        assert Deadline(60).within(lambda: 7, "work") == 7
    finally:
        release.set()


def test_what_a_task_raises_is_raised():
    for error in (KeyError("a"), SystemExit(3), TimeoutError("b")):
        with pytest.raises(type(error)) as caught:
            Deadline(60).within(lambda: (_ for _ in ()).throw(error), "work")  # noqa: B023
        assert caught.value is error


def test_a_forked_process_has_threads_of_its_own():
    script = """
import os
from certbot_postfix.system.deadline import Deadline
Deadline(60).within(lambda: None, "begin")
child = os.fork()
if not child:
    os._exit(Deadline(5).within(lambda: 7, "work"))
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    # Python 3.12 warns of any fork beside threads.
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=False)

    assert done.returncode == 7
