"""What bash and zsh complete is what the command accepts."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.test_manual import COMMANDS, USUAL

TOOL = Path(__file__).parents[1] / "tools/completion"


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the completions, as shells want them named."""
    place = tmp_path_factory.mktemp("completion")
    for shell, name in (("bash", "certbot-postfix"), ("zsh", "_certbot-postfix")):
        done = subprocess.run(
            [sys.executable, TOOL, shell], check=True, capture_output=True, text=True
        )
        (place / name).write_text(done.stdout)
    return place


@pytest.fixture
def certbot_dir(tmp_path: Path) -> Path:
    for name in ("mx.example.org", "shop.example.net"):
        (tmp_path / "live" / name).mkdir(parents=True)
    (tmp_path / "live/README").touch()
    return tmp_path


def in_bash(scripts: Path, *words: str) -> set[str]:
    """Return what bash completes for the last of *words*."""
    script = (
        f'source "{scripts}/certbot-postfix"; COMP_WORDS=(certbot-postfix "$@")'
        '; COMP_CWORD=$#; _certbot_postfix; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-uc", script, "bash", *words],
        check=True,
        capture_output=True,
        text=True,
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_bash_completes_the_options_of_each_command(scripts, command):
    everywhere = COMMANDS[""] | USUAL - {"--version"}
    expected = (
        COMMANDS[command] | everywhere | ({"--version"} - {command and "--version"})
    )

    found = in_bash(scripts, *command.split(), "--")

    assert found == expected


def test_bash_completes_commands_choices_and_the_names_of_certificates(
    scripts, certbot_dir
):
    names = {"mx.example.org", "shop.example.net"}
    where = ("--config-dir", str(certbot_dir))

    assert {"plan", "policy"} <= in_bash(scripts, "p")
    assert in_bash(scripts, "policy", "ref") == {"refresh"}
    assert in_bash(scripts, "plan", "--sni", "") == {"auto", "never"}
    assert in_bash(scripts, *where, "deploy", "--cert-name", "") == names
    assert in_bash(scripts, *where, "forget", "sh") == {"shop.example.net"}
    # What is the value of an option is no command.
    assert in_bash(scripts, "--postfix-config-dir", "plan", "pol") == {"policy"}


def in_zsh(scripts: Path, tmp_path: Path, typed: str, *expected: str) -> str:
    """Return what zsh shows for *typed* and a Tab, once that has all *expected*."""
    setup = (
        f"PS1='%%' LISTMAX=1000 fpath=({scripts} $fpath); autoload -U compinit"
        f"; compinit -u -d {tmp_path}/dump; certbot-postfix() {{}}; echo ready\n"
    )
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["zsh", "-f", "-i"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={"PATH": os.defpath, "TERM": "dumb", "HOME": str(tmp_path)},
        start_new_session=True,
    )
    os.close(theirs)
    try:
        os.write(ours, setup.encode())
        _read(ours, ["\nready"])
        os.write(ours, f"certbot-postfix {typed}\t".encode())
        return _read(ours, expected)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _read(terminal: int, expected: Sequence[str]) -> str:
    shown, end = "", time.monotonic() + 30
    while not all(each in shown for each in expected):
        ready, _, _ = select.select([terminal], [], [], end - time.monotonic())
        assert ready, shown
        shown += os.read(terminal, 4096).decode().replace("\r\n", "\n")
    return shown


@pytest.mark.skipif(not shutil.which("zsh"), reason="there is no zsh")
@pytest.mark.parametrize("command", ["plan", "policy test"])
def test_zsh_completes_the_options_of_a_command(scripts, tmp_path, command):
    expected = COMMANDS[command] | COMMANDS[""] | USUAL - {"--version"}

    shown = in_zsh(
        scripts, tmp_path, f"{command} --", *(f"\n{each} " for each in expected)
    )

    assert set(re.findall(r"^(--[\w-]+) +-- ", shown, re.MULTILINE)) == expected


@pytest.mark.skipif(not shutil.which("zsh"), reason="there is no zsh")
def test_zsh_completes_commands_and_the_names_of_certificates(
    scripts, certbot_dir, tmp_path
):
    forget = f"--config-dir {certbot_dir} forget "

    in_zsh(scripts, tmp_path, "", "\nforget ", " -- stop serving a certificate")
    in_zsh(scripts, tmp_path, forget, "mx.example.org", "shop.example.net")
