"""The examples in the documentation are what the programs accept that read them."""

import shutil
import subprocess
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "docs/examples"
UNITS = sorted(EXAMPLES.glob("*.service")) + sorted(EXAMPLES.glob("*.timer"))


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd")
def test_systemd_accepts_the_units():
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, UNITS)],
        check=False,
        capture_output=True,
        text=True,
    )

    assert UNITS
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
