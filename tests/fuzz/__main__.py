"""Feed garbage to the readers of foreign input: ``python -m tests.fuzz``.

Coverage guides the search (atheris, with libFuzzer).  An input that fails is kept in
``build/fuzz``; once fixed, it belongs to the seeds.
"""

import argparse
import logging
import subprocess
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["certbot_postfix"]):
    from tests.fuzz.readers import SEEDS, TARGETS

FAILED = Path(__file__).parents[2] / "build" / "fuzz"


def main() -> int:
    """Run one target, or each in its own process: libFuzzer never returns."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=int, default=20, help="for each target")
    parser.add_argument("target", nargs="?", choices=TARGETS)
    arguments = parser.parse_args()
    if arguments.target:
        _fuzz(arguments.target, arguments.seconds)
    command = [sys.executable, "-m", "tests.fuzz", f"--seconds={arguments.seconds}"]
    failed = [
        target
        for target in TARGETS
        if subprocess.run([*command, target], check=False).returncode
    ]
    for target in failed:
        print(f"{target} failed; the input is in {FAILED}")
    return 1 if failed else 0


def _fuzz(target: str, seconds: int) -> None:
    logging.disable()
    FAILED.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as learnt:
        options = [
            f"-max_total_time={seconds}",
            "-timeout=10",
            "-max_len=65536",
            f"-artifact_prefix={FAILED}/{target}-",
            "-verbosity=0",
            "-print_final_stats=1",
        ]
        seeds = SEEDS / target
        atheris.Setup([sys.argv[0], *options, learnt, str(seeds)], TARGETS[target])
        atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
