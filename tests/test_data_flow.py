"""What a run starts and reads: each program and each file once for one question."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.lab import Certbot, Pebble, PrivatePostfix, base_directory
from tests.lab.recorder import Flow, Recorder
from tests.lab.scene import NAME, options

pytestmark = pytest.mark.postfix

CALLS = {
    "deploy": ("run", "-a", "standalone", "-i", "postfix", "-d", NAME),
    "deploy again": ("install", "-i", "postfix", "--cert-name", NAME),
    "renew": ("renew", "--force-renewal"),
    "nothing due": ("renew",),
}


@pytest.fixture(scope="module")
def flows(pebble: Pebble) -> Iterator[dict[str, Flow]]:
    """What is recorded of one certificate, call by call."""
    with base_directory() as base, closing(PrivatePostfix(base)) as postfix:
        postfix.start()
        certbot = Certbot(base, pebble=pebble)
        names = {
            certbot.config_dir: "CERTBOT",
            certbot.work_dir: "WORK",
            postfix.config_dir: "ETC",
        }
        # What has schedules for certbot is another number of files on each machine.
        schedules = [*Path("/etc").glob("cron*")]
        ignored = [base / "queue", *schedules]
        recorder = Recorder(base / "recorder", names, ignored=ignored)
        certbot.environment |= recorder.environment
        recorded = {}
        for name, call in CALLS.items():
            done = certbot(*call, *(options(postfix) if "-i" in call else ()))
            assert done.returncode == 0, done.stderr
            recorded[name] = recorder.take()
        yield recorded


# How many programs are started, how many files are read, and how many of them again
# although they are the same.  Whoever needs less writes that here; who needs more has a
# reason, as for a file that nobody read before.
#
# Read again on purpose: main.cf right before the commit, since it may have been edited
# while the question waited, and at the commit, for its owner and mode; a bundle right
# before it is replaced, since the turn of another instance may have written it, and
# where a deployment is repeated, since no key is kept in memory to compare with.
@pytest.mark.parametrize(
    ("call", "most"),
    [
        ("deploy", (18, 13, 2)),
        ("deploy again", (9, 8, 1)),
        ("renew", (11, 7, 1)),
        ("nothing due", (0, 4, 0)),
    ],
)
def test_a_run_starts_and_reads_no_more_than_it_must(
    flows: dict[str, Flow],
    call: str,
    most: tuple[int, int, int],
    record_property: Callable[[str, object], None],
) -> None:
    flow = flows[call]

    counts = flow.programs, flow.reads, flow.repeated
    record_property("flow", (call, *counts))
    assert all(map(int.__le__, counts, most)), f"{counts} > {most}:\n{flow}"
