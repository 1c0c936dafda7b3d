"""The package's modules know only what lies below them."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "certbot_postfix"

# From the bottom; each module with all that it imports of the package.
IMPORTS: dict[str, set[str]] = {
    "errors": set(),
    "profiles": set(),
    "listeners": set(),
    "checkpoint": {"errors"},
    "signals": {"errors"},
    "lock": {"errors", "listeners"},
    "files": {"errors"},
    "programs": {"errors"},
    "manager": {"errors", "programs"},
    "hostnames": set(),
    "certificates": {"errors", "hostnames"},
    "purposes": {"certificates"},
    "configuration": {"errors"},
    "maplist": set(),
    "sni": {"errors", "hostnames"},
    "lineage": {"certificates", "errors", "files", "sni"},
    "dropped": {"files", "lineage", "sni"},
    "placement": {"certificates", "errors", "sni"},
    "rules": {"configuration", "errors", "profiles"},
    "dialogue": set(),
    "probe": {
        "certificates",
        "configuration",
        "dialogue",
        "errors",
        "hostnames",
        "programs",
    },
    "verification": {"configuration", "errors", "probe"},
    "maillog": {"configuration", "errors", "programs"},
    "baseline": {"configuration", "errors", "probe", "verification"},
    "postfix": {
        "configuration",
        "errors",
        "files",
        "listeners",
        "manager",
        "programs",
    },
    "instances": {"configuration", "errors", "postfix"},
    "maptypes": {"configuration", "postfix"},
    "databases": {"files"},
    "tables": {"databases", "errors", "files", "postfix", "sni"},
    "chainfiles": {"configuration", "errors", "rules"},
    "screening": {"configuration", "errors", "rules"},
    "plan": {
        "screening",
        "maplist",
        "certificates",
        "chainfiles",
        "configuration",
        "errors",
        "profiles",
        "rules",
        "sni",
    },
    "promises": {"certificates", "chainfiles", "configuration", "placement", "sni"},
    "transaction": {"errors", "files", "plan", "postfix", "rules"},
    "questions": {
        "screening",
        "baseline",
        "configuration",
        "probe",
        "promises",
        "sni",
    },
    "serving": {
        "baseline",
        "configuration",
        "errors",
        "maillog",
        "postfix",
        "probe",
        "promises",
        "questions",
        "signals",
        "verification",
    },
    "inventory": {
        "maplist",
        "certificates",
        "chainfiles",
        "configuration",
        "errors",
        "files",
        "lineage",
        "placement",
        "postfix",
        "promises",
        "sni",
        "tables",
    },
    "renewal": {
        "maptypes",
        "certificates",
        "errors",
        "files",
        "instances",
        "inventory",
        "lineage",
        "placement",
        "promises",
        "serving",
        "signals",
        "sni",
        "transaction",
    },
    "removal": {
        "dropped",
        "chainfiles",
        "errors",
        "files",
        "instances",
        "inventory",
        "lineage",
        "plan",
        "promises",
        "renewal",
        "serving",
        "signals",
        "sni",
        "transaction",
    },
    "interfaces": set(),
    "policy.model": {"errors", "hostnames"},
    "policy.entries": {"hostnames", "policy.model"},
    "policy.sources": {"errors", "interfaces", "policy.entries", "policy.model"},
    "policy.https": {"hostnames", "policy.model"},
    "policy.table": {"errors", "hostnames", "policy.model", "policy.sources"},
    "policy.wiring": {
        "certificates",
        "configuration",
        "maplist",
        "plan",
        "policy.table",
        "purposes",
        "rules",
    },
    "policy.service": {
        "configuration",
        "errors",
        "maplist",
        "policy.table",
        "postfix",
    },
    "policy.lookup": {
        "configuration",
        "errors",
        "maplist",
        "policy.table",
        "policy.wiring",
        "postfix",
        "programs",
        "rules",
    },
    "policy.resolver": {"configuration", "errors", "files", "rules"},
    "policy.routes": {
        "configuration",
        "errors",
        "files",
        "maplist",
        "policy.table",
        "policy.wiring",
    },
    "policy.records": {"policy.model", "policy.resolver"},
    "policy.nexthops": {
        "configuration",
        "errors",
        "files",
        "maplist",
        "policy.lookup",
        "policy.records",
        "policy.routes",
        "policy.table",
        "postfix",
        "probe",
        "verification",
    },
    "policy.gathering": {
        "policy.routes",
        "postfix",
        "configuration",
        "policy.resolver",
        "profiles",
        "rules",
        "certificates",
        "databases",
        "errors",
        "files",
        "inventory",
        "lock",
        "policy.lookup",
        "policy.model",
        "policy.sources",
        "policy.table",
        "policy.wiring",
    },
    "policy.fitness": {
        "configuration",
        "errors",
        "maplist",
        "policy.gathering",
        "policy.resolver",
        "policy.service",
        "policy.table",
        "policy.wiring",
        "postfix",
        "rules",
    },
    "policy.outbound": {
        "maptypes",
        "postfix",
        "configuration",
        "databases",
        "errors",
        "files",
        "inventory",
        "maplist",
        "plan",
        "policy.fitness",
        "policy.gathering",
        "policy.service",
        "policy.sources",
        "policy.table",
        "policy.wiring",
        "rules",
        "serving",
        "signals",
        "transaction",
    },
    "status.evidence": {"certificates", "chainfiles", "configuration", "probe", "sni"},
    "status.findings": set(),
    "status.freshness": {"certificates", "status.evidence", "status.findings"},
    "status.nametables": {"configuration", "maptypes", "sni"},
    "status.inspection": {
        "files",
        "certificates",
        "configuration",
        "errors",
        "sni",
        "status.evidence",
        "status.nametables",
    },
    "status.copies": {
        "configuration",
        "status.evidence",
        "status.findings",
        "status.freshness",
        "status.inspection",
    },
    "deployment": {
        "baseline",
        "status.copies",
        "policy.fitness",
        "policy.nexthops",
        "maptypes",
        "policy.resolver",
        "rules",
        "databases",
        "policy.outbound",
        "certificates",
        "chainfiles",
        "configuration",
        "errors",
        "files",
        "inventory",
        "lineage",
        "placement",
        "plan",
        "postfix",
        "profiles",
        "questions",
        "removal",
        "renewal",
        "serving",
        "signals",
        "sni",
        "tables",
        "transaction",
    },
    "policy.starttls_everywhere": {"hostnames", "policy.model"},
    "policy.mta_sts": {"policy.model"},
    "policy.cache": {"files", "policy.entries", "policy.model"},
    "policy.signatures": {"files", "policy.model", "programs"},
    "policy.recipients": {
        "errors",
        "files",
        "hostnames",
        "interfaces",
        "policy.cache",
        "policy.https",
        "policy.model",
        "policy.mta_sts",
        "policy.records",
        "policy.sources",
    },
    "policy.lists": {
        "errors",
        "files",
        "interfaces",
        "policy.https",
        "policy.model",
        "policy.signatures",
        "policy.sources",
        "policy.starttls_everywhere",
    },
    "status.deadline": {"errors"},
    "status.outgoing": {
        "policy.resolver",
        "policy.wiring",
        "rules",
        "policy.fitness",
        "policy.gathering",
        "configuration",
        "errors",
        "maplist",
        "policy.service",
        "policy.table",
        "status.deadline",
        "postfix",
        "status.evidence",
        "status.findings",
    },
    "status.diagnosis": {
        "certificates",
        "chainfiles",
        "configuration",
        "sni",
        "status.evidence",
        "status.findings",
        "status.freshness",
    },
    "status.interview": {
        "screening",
        "configuration",
        "errors",
        "probe",
        "sni",
        "status.deadline",
        "status.evidence",
    },
    "status.examination": {
        "files",
        "status.outgoing",
        "configuration",
        "postfix",
        "status.deadline",
        "status.evidence",
        "status.inspection",
        "status.interview",
    },
    "status.keyfiles": {
        "certificates",
        "sni",
        "status.evidence",
        "status.findings",
        "purposes",
    },
    "status.settings": {
        "screening",
        "maptypes",
        "maplist",
        "chainfiles",
        "configuration",
        "policy.table",
        "policy.wiring",
        "sni",
        "status.evidence",
        "status.findings",
    },
    "status.conclusion": {
        "status.outgoing",
        "certificates",
        "status.diagnosis",
        "status.evidence",
        "status.findings",
        "status.freshness",
        "status.keyfiles",
        "status.settings",
    },
    "status.report": {
        "certificates",
        "configuration",
        "errors",
        "status.conclusion",
        "status.findings",
    },
    "status.monitoring": {
        "certificates",
        "configuration",
        "errors",
        "status.conclusion",
        "status.findings",
        "status.report",
    },
    "policy.commands": {
        "errors",
        "policy.fitness",
        "policy.resolver",
        "policy.gathering",
        "deployment",
        "lock",
        "policy.lookup",
        "policy.model",
        "policy.routes",
    },
    "cli": {
        "certificates",
        "policy.commands",
        "deployment",
        "errors",
        "lineage",
        "lock",
        "postfix",
        "profiles",
        "status.conclusion",
        "status.deadline",
        "status.examination",
        "status.monitoring",
        "status.report",
        "tables",
    },
    "installer": {
        "dropped",
        "policy.gathering",
        "checkpoint",
        "deployment",
        "errors",
        "lineage",
        "lock",
        "policy.outbound",
        "policy.sources",
        "postfix",
        "profiles",
    },
}
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


def of_ours(module: str) -> Iterator[str]:
    """Yield the modules of the package that *module* imports."""
    for name in imported(module):
        package, _, rest = name.partition(".")
        if package == "certbot_postfix":
            candidates = [each for each in IMPORTS if f"{rest}.".startswith(f"{each}.")]
            yield max(candidates, key=len)


def test_every_module_has_its_layer():
    packages = ["__init__", "policy.__init__", "status.__init__"]
    assert sorted([*IMPORTS, *packages]) == MODULES


@pytest.mark.parametrize("module", IMPORTS)
def test_a_module_imports_what_the_table_says(module):
    assert set(of_ours(module)) == IMPORTS[module]


def test_imports_point_down():
    order = list(IMPORTS)

    assert all(
        order.index(below) < order.index(module)
        for module, known in IMPORTS.items()
        for below in known
    )


@pytest.mark.parametrize("module", MODULES)
def test_nothing_private_of_certbot_is_imported(module):
    assert not [name for name in imported(module) if "._" in name]


@pytest.mark.parametrize("module", MODULES)
def test_no_program_runs_through_a_shell(module):
    calls = [node for node in ast.walk(parsed(module)) if isinstance(node, ast.Call)]

    assert not [
        call for call in calls if "shell" in {word.arg for word in call.keywords}
    ]
    assert {"os.system", "os.popen"}.isdisjoint(
        ast.unparse(call.func) for call in calls
    )


def test_certbot_loads_little_of_ours_on_every_run():
    script = "import sys, certbot_postfix.installer; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
    )

    loaded = [
        name for name in done.stdout.split() if name.startswith("certbot_postfix.")
    ]
    assert sorted(loaded) == [
        "certbot_postfix.checkpoint",
        "certbot_postfix.errors",
        "certbot_postfix.installer",
        "certbot_postfix.profiles",
    ]
