"""A release is complete, and says what it lacks."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import certbot_postfix

ROOT = Path(__file__).parents[1]

# Where a package does not have the name of its module.
PACKAGES = {"dns": "dnspython", "zope": "zope.interface"}

needs_git = pytest.mark.skipif(
    not shutil.which("git"), reason="a release is a commit: there is no git here"
)


@pytest.mark.skipif(
    not (ROOT / "debian").exists(), reason="the tests were copied without debian/"
)
def test_debians_package_has_the_version_of_the_plugin():
    newest = (ROOT / "debian/changelog").read_text("utf-8").partition("\n")[0]

    assert newest.startswith(f"certbot-postfix ({certbot_postfix.__version__}-")


def test_all_that_is_imported_is_declared():
    text = (ROOT / "setup.py").read_text("utf-8")
    declared = re.search(r"install_requires=\[(.*?)\]", text, re.DOTALL).group(1)
    names = set(re.findall(r'^ *"([\w.]+)>=', declared, re.MULTILINE))
    foreign = {
        name.partition(".")[0]
        for path in (ROOT / "certbot_postfix").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        for name in _imported(node)
    } - {*sys.stdlib_module_names, "certbot_postfix"}

    assert {"certbot", "cryptography", "dns"} <= foreign
    assert {PACKAGES.get(name, name) for name in foreign} <= names


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


@needs_git
def test_a_release_says_all_that_it_lacks_at_once(tmp_path):
    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def commit() -> None:
        git("add", "--all")
        git("commit", "--quiet", "--message", "x")

    def git(*arguments: str) -> None:
        who = ("-c", "user.name=x", "-c", "user.email=x@y.test")
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True)

    def check() -> list[str]:
        command = [sys.executable, ROOT / "tools/release", "check"]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        lines = done.stderr.splitlines()
        assert (done.returncode, done.stdout) == (int(bool(lines)), "")
        return [line.removeprefix("release 2.0: ") for line in lines]

    git("init", "--quiet")
    write("certbot_postfix/__init__.py", '__version__ = "2.0"\n')
    write(
        "CHANGELOG.md",
        "\n## [Unreleased]\n\n- a\n- b\n\n## [1.0] - 2026-01-01\n\n- c\n",
    )
    write("debian/changelog", "certbot-postfix (1.0-2) UNRELEASED; urgency=low\n")
    commit()
    git("tag", "v2.0")
    write("new", "")
    commit()
    write("new", "edited")

    assert check() == [
        "the working tree has uncommitted changes",
        "the tag v2.0 is on another commit",
        "CHANGELOG.md has no section ## [2.0] - YYYY-MM-DD",
        "CHANGELOG.md has 2 entries below [Unreleased]",
        "debian/changelog begins with 1.0-2, not 2.0-1",
        "debian/changelog has UNRELEASED for 1.0-2",
    ]

    write("CHANGELOG.md", "\n## [Unreleased]\n\n## [2.0] - 2026-12-01\n\n- a\n- b\n")
    write("debian/changelog", "certbot-postfix (2.0-1) unstable; urgency=low\n")
    commit()
    git("tag", "--force", "v2.0")

    assert check() == []
