"""Parser, README.rst and manual page tell of the same commands and options."""

import contextlib
import io
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from certbot_postfix import cli, options

ROOT = Path(__file__).parents[1]
MANUAL = ROOT / "docs/certbot-postfix.1"
README = (ROOT / "README.rst").read_text()

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")

# What a page may leave unsaid.
USUAL = {"--help"}

Told = dict[str, set[str]]


def of_the_help(*words: str) -> Iterator[tuple[str, set[str]]]:
    """Yield each command with its options; the empty one has those of all."""
    with contextlib.redirect_stdout(io.StringIO()) as shown, pytest.raises(SystemExit):
        cli.main([*words, "--help"])
    names = re.findall(r"^    ([a-z]+)(?:  |$)", shown.getvalue(), re.MULTILINE)
    if not (words and names):
        found = re.findall(r"^ +(?:-\w, )?(--[\w-]+)", shown.getvalue(), re.MULTILINE)
        yield " ".join(words), set(found) - USUAL
    for name in names:
        yield from of_the_help(*words, name)


COMMANDS = dict(of_the_help())


def of_certbot() -> set[str]:
    names: list[str] = []
    options.declare(lambda name, **_: names.append(f"--postfix-{name}"))
    return set(names)


def told(texts: Iterator[str]) -> Told:
    """Return what is said of each command in *texts*, which begin with it."""
    found: Told = {}
    for text in texts:
        words = re.match(r"((?:[a-z]+ ?)+)", text)
        name = words[1].strip() if words else ""
        if name in COMMANDS and name:
            found[name] = set(OPTION.findall(text))
    return found


def plain(roff: str) -> str:
    """Return the words of *roff*, without its macros and fonts."""
    roff = re.sub(r"\\f.", "", roff).replace("\\-", "-").replace('"', "")
    return re.sub(r"^\.[A-Z]+ ?", "", roff, flags=re.MULTILINE).strip()


def sections() -> dict[str, str]:
    """Return the sections of the manual page by their titles."""
    _, *parts = re.split(r"^\.SH ", MANUAL.read_text(), flags=re.MULTILINE)
    return dict(part.split("\n", 1) for part in parts)


def readme(title: str) -> str:
    """Return the section of README.rst with that *title*."""
    _, _, rest = README.partition(f"\n{title}\n{'-' * len(title)}\n")
    return re.split(r"\n[^\n]+\n-{3,}\n", rest)[0]


def test_there_are_commands_to_compare():
    assert {"plan", "deploy", "forget", "status", "policy test"} < set(COMMANDS)
    assert "--postfix-policy-list" in of_certbot()


def test_the_manual_page_has_all_commands_with_their_options():
    items = re.split(r"^\.TP\n", sections()["COMMANDS"], flags=re.MULTILINE)

    found = told(plain(item) for item in items)

    assert found == {name: COMMANDS[name] for name in COMMANDS if name}
    everywhere = set(OPTION.findall(plain(sections()["OPTIONS"])))
    assert everywhere - USUAL == COMMANDS[""]


def test_the_manual_page_has_all_options_of_certbot():
    found = set(OPTION.findall(plain(sections()["CERTBOT OPTIONS"])))

    assert found == of_certbot()


def test_the_readme_has_all_commands_with_their_options():
    items = re.findall(r"^``([a-z][^`]*)``$", readme("Options"), flags=re.MULTILINE)

    found = told(iter(items))

    assert found == {name: COMMANDS[name] for name in COMMANDS if name}
    synopsis = re.search(r"``certbot-postfix ([^`]*) COMMAND``", readme("Options"))
    assert synopsis
    assert set(OPTION.findall(synopsis[1])) == COMMANDS[""]


def test_the_readme_has_all_options_of_certbot():
    terms = re.findall(r"^``--postfix.*$", readme("Options"), flags=re.MULTILINE)

    assert set(OPTION.findall(" ".join(terms))) == of_certbot()


def test_the_help_has_an_example_of_each_command_that_works():
    parser = cli.parser()
    examples = re.findall(
        r"^  certbot-postfix (.*)$", parser.epilog or "", re.MULTILINE
    )

    for example in examples:
        parser.parse_args(shlex.split(example))
    for command in filter(None, COMMANDS):
        assert any(f"{example} ".startswith(f"{command} ") for example in examples)


@pytest.mark.skipif(not shutil.which("man"), reason="there is no man(1)")
def test_man_finds_no_fault_with_the_manual_page():
    done = subprocess.run(
        ["man", "--warnings", "--local-file", str(MANUAL)],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANROFFSEQ": ""},
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "certbot run -i postfix" in done.stdout
