"""The package's modules know only what lies below them."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import certbot_postfix

PACKAGE = Path(__file__).parents[1] / "certbot_postfix"

# From the top; each imports only what stands after it.
WINGS = (
    "installer",
    "cli",
    "status",
    "inbound",
    "dane",
    "outbound",
    "publish",
    "change",
    "postfix",
    "formats",
    "tls",
    "system",
    "interfaces",
    "command_line",
    "options",
    "errors",
)
PATHS = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in PACKAGE.rglob("*.py")
}
MODULES = sorted(PATHS)


def parsed(module: str) -> ast.Module:
    return ast.parse(PATHS[module].read_text())


def imported(module: str) -> Iterator[str]:
    """Yield the full name of whatever *module* imports, also inside of functions."""
    for node in ast.walk(parsed(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def wing(module: str) -> str:
    return module.partition(".")[0]


def of_ours(module: str) -> Iterator[str]:
    """Yield the modules of the package that *module* imports."""
    for name in imported(module):
        package, _, rest = name.partition(".")
        if package == PACKAGE.name:
            yield rest if rest in PATHS else rest.rpartition(".")[0] or "__init__"


def test_the_map_of_the_house_is_that_of_the_folders():
    lines = certbot_postfix.__doc__.partition("\n\n")[2].splitlines()[2:]

    assert tuple(line.split()[0] for line in lines) == WINGS
    assert {wing(module) for module in MODULES} == {*WINGS, "__init__"}


def test_imports_point_down():
    order = [*WINGS, "__init__"]

    assert not [
        (module, name)
        for module in MODULES
        for name in of_ours(module)
        if order.index(wing(name)) < order.index(wing(module))
    ]


def test_inside_a_wing_imports_make_no_circle():
    graph = {module: set(of_ours(module)) for module in MODULES}

    TopologicalSorter(graph).prepare()  # raises CycleError


def test_no_module_is_too_long_to_be_read_at_once():
    lines = {module: len(PATHS[module].read_text().splitlines()) for module in MODULES}

    assert not {module: count for module, count in lines.items() if count >= 300}


def test_nothing_private_of_certbot_is_imported():
    assert not [
        (module, name)
        for module in MODULES
        for name in imported(module)
        if "._" in name
    ]


def test_no_program_runs_through_a_shell():
    assert not [
        (module, ast.unparse(call))
        for module in MODULES
        for call in ast.walk(parsed(module))
        if isinstance(call, ast.Call)
        and (
            "shell" in {word.arg for word in call.keywords}
            or ast.unparse(call.func) in ("os.system", "os.popen")
        )
    ]


def test_who_imports_of_dnspython_imports_all_that_is_used():
    """Others may have imported the rest, as in most tests, or not."""
    for module in MODULES:
        for scope in ast.walk(parsed(module)):
            if isinstance(scope, ast.FunctionDef):
                text = ast.unparse(scope)
                here = set(re.findall(r"import (dns\.\w+)", text))
                assert not here or here == set(re.findall(r"\bdns\.[a-z]\w+", text))


def loaded_by(module: str) -> list[str]:
    """Return the modules that are there when *module* is imported."""
    script = f"import sys, certbot_postfix.{module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
    )
    return sorted(done.stdout.split())


def test_certbot_loads_little_of_ours_on_every_run():
    loaded = loaded_by("installer")

    assert [name for name in loaded if name.startswith("certbot_postfix.")] == [
        "certbot_postfix.errors",
        "certbot_postfix.installer",
        "certbot_postfix.options",
    ]


def test_a_renewal_that_is_not_due_loads_nothing_of_dns():
    loaded = loaded_by("inbound.every_renew")

    rooms = {name.partition(".")[2] for name in loaded if "certbot_postfix." in name}
    wings = {
        room for room in rooms if room.startswith(("dane.", "publish", "outbound."))
    }
    assert wings == {"dane.places", "outbound.last_refresh"}
    assert "dns" not in loaded
    assert not {"tls.certificates", "postfix.configuration", "inbound.sni"} & rooms
