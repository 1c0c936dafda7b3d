"""Parser, reference and manual page have the same commands and options.

What the documentation tells a user to type is what the parsers accept.
"""

import contextlib
import io
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from certbot_postfix import cli, options

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")

# What a page may leave unsaid.
USUAL = {"--help", "--version", "--verbose"}

Syntax = dict[str, set[str]]


def of_the_help(*words: str) -> Iterator[tuple[str, set[str]]]:
    """Yield each command with its options; the empty one has those of all."""
    with contextlib.redirect_stdout(io.StringIO()) as shown, pytest.raises(SystemExit):
        cli.main([*words, "--help"])
    names = re.findall(r"^    ([a-z-]+)(?:  |$)", shown.getvalue(), re.MULTILINE)
    if not (words and names):
        found = re.findall(r"^ +(?:-\w, )?(--[\w-]+)", shown.getvalue(), re.MULTILINE)
        yield " ".join(words), set(found) - USUAL
    for name in names:
        yield from of_the_help(*words, name)


COMMANDS = dict(of_the_help())
# Those that stand before or after a command are described once.
COMMANDS = {
    name: found - COMMANDS[""] if name else found for name, found in COMMANDS.items()
}


def of_certbot() -> set[str]:
    names: list[str] = []
    options.declare(lambda name, **_: names.append(f"--postfix-{name}"))
    return set(names)


def syntax(terms: list[str]) -> Syntax:
    """Return the options that each of the *terms* has after the name of a command."""
    found: Syntax = {}
    for term in terms:
        words = re.match(r"((?:[a-z][a-z-]*(?: |$))+)", term)
        name = words[1].strip() if words else ""
        if name:
            assert name in COMMANDS, f"there is no command {name}"
            found[name] = set(OPTION.findall(term))
    return found


@pytest.fixture(scope="module")
def manual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the manual page."""
    place = tmp_path_factory.mktemp("docs")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "-n", "-b", "man", DOCS, place],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return place / "certbot-postfix.1"


def of_the_manual(page: Path, title: str) -> list[str]:
    """Return the terms of a section of the manual page, as plain text."""
    text = re.sub(r"\\f.|\\%|\\&", "", page.read_text()).replace("\\-", "-")
    section = text.partition(f"\n.SH {title}\n")[2].partition("\n.SH ")[0]
    return re.findall(r"^\.TP\n(?:\.B )?(.*)$", section, re.MULTILINE)


def of_the_reference(page: str, title: str) -> list[str]:
    """Return the terms of a page's section."""
    text = (DOCS / "reference" / page).read_text()
    _, _, rest = text.partition(f"\n{title}\n")
    section = re.split(r"\n[^\n]+\n-{3,}\n", rest)[0]
    return [
        term.replace("``", "")
        for term in re.findall(r"^(``.*)$", section, re.MULTILINE)
    ]


def compared(commands: list[str], common: list[str], certbots: list[str]) -> None:
    """Expect what the parsers have."""
    assert syntax(commands) == {name: COMMANDS[name] for name in COMMANDS if name}
    assert set(OPTION.findall(" ".join(common))) - USUAL == COMMANDS[""]
    assert set(OPTION.findall(" ".join(certbots))) == of_certbot()


def test_there_are_commands_to_compare():
    assert {"plan", "deploy", "forget", "status", "policy test"} < set(COMMANDS)
    assert "--postfix-policy-list" in of_certbot()


def test_the_reference_has_all_commands_and_options():
    compared(
        of_the_reference("cli.rst", "Commands"),
        of_the_reference("cli.rst", "Options"),
        of_the_reference("certbot-options.rst", ".. options"),
    )


def test_the_manual_page_has_all_commands_and_options(manual: Path):
    compared(
        of_the_manual(manual, "COMMANDS"),
        of_the_manual(manual, "OPTIONS"),
        of_the_manual(manual, "CERTBOT OPTIONS"),
    )
    assert of_the_manual(manual, "EXIT STATUS") == ["0", "1", "2", "3"]
    assert "/etc/letsencrypt/postfix/NAME.pem" in of_the_manual(manual, "FILES")


def test_the_command_has_the_version_of_the_manual_page(manual: Path, capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])

    name, version = capsys.readouterr().out.split()
    assert name == "certbot-postfix"
    header = re.search(r"^\.TH .*$", manual.read_text(), re.MULTILINE)
    assert header
    assert version in header[0]


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
def test_man_finds_no_fault_with_the_manual_page(manual: Path):
    done = subprocess.run(
        ["man", "--warnings", "--local-file", str(manual)],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANROFFSEQ": ""},
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "certbot run -a standalone -i postfix" in done.stdout


# What the documentation tells a user to type

PAGES = [ROOT / "README.rst", *sorted(DOCS.rglob("*.rst"))]


def typed(text: str, program: str) -> Iterator[list[str]]:
    """Yield the words after *program*, behind a prompt or as inline literals."""
    text = re.sub(r"\\\n\s+", "", text)
    lines = re.findall(rf"^ +[#$] {program} (.*)$", text, re.MULTILINE)
    inline = re.findall(rf"``{program} ([^`]*)``", text)
    for command in (*lines, *inline):
        # what follows belongs to the shell, or is left out
        yield shlex.split(re.split(r"[|>;…]|2>|&&", command)[0], comments=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_the_documentation_has_of_certbot_postfix_is_what_it_accepts(page: Path):
    parser = cli.parser()

    for words in typed(page.read_text(), "certbot-postfix"):
        try:
            parser.parse_args(words)
        except SystemExit:
            # the name of a command alone stands for it in a sentence
            assert " ".join(words) in {*COMMANDS, "policy"}, words


def test_what_the_documentation_has_of_certbot_are_commands_and_options_of_it():
    program = "from certbot.main import main; main(['--help', 'all'])"
    known = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout

    commands = [each for page in PAGES for each in typed(page.read_text(), "certbot")]

    assert commands
    for words in commands:
        if words[0] == "reconfigure" and words[0] not in known:
            continue  # Debian 12's certbot has none, as the pages say
        assert re.search(rf"^ +{words[0]}\b|^{words[0]}:", known, re.MULTILINE), words
        options = OPTION.findall(" ".join(words))
        # Those of the plugin are there once it is installed.
        certbots = [option for option in options if "--postfix-" not in option]
        assert [each for each in certbots if f" {each}" not in known] == [], words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_documentation_has_no_option_of_the_plugin_that_is_none(page: Path):
    ours = {
        each
        for each in OPTION.findall(page.read_text())
        if each.startswith("--postfix-")
    }

    assert ours <= of_certbot() | COMMANDS[""]


def test_the_readme_is_short_enough_to_be_read():
    assert len((ROOT / "README.rst").read_text().splitlines()) <= 160


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_of_the_repository_in_the_documentation_exist(page: Path):
    paths = re.findall(
        r"(?<![\w/.-])((?:docs|tests|tools|debian|certbot_postfix|\.ci)/[\w./@*-]+[\w*])",
        page.read_text(),
    )

    assert [path for path in paths if not list(ROOT.glob(path))] == []
