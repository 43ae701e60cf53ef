"""The layout's promises: which way imports point, what importing costs, and that no file of flows/ shadows a module."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("flows", "tasks", "storage", "deployments", "benchmarks")
SOURCES = sorted(path for package in OURS[:3] for path in (ROOT / package).rglob("*.py"))

# What a module of each place may import of ours; the longest matching place counts.
ALLOWED = {
    "storage": ("storage",),
    "tasks.core": ("tasks.core",),
    "tasks.hub": ("tasks.core", "tasks.hub"),
    "tasks.folder": ("tasks.core",),
    "tasks.model": ("tasks.core", "tasks.hub", "tasks.model"),
    "tasks.site": ("tasks.core", "tasks.site"),
    "tasks.batch": ("tasks.core", "tasks.hub", "tasks.shelf"),
    "tasks.shelf": ("tasks.core",),
    "tasks.keeping": ("tasks.core", "tasks.shelf", "storage"),
    "tasks.storing": ("tasks.core", "storage"),
    "tasks.candidates": ("tasks.core", "tasks.batch"),
    "tasks.outlook": ("tasks.core", "tasks.hub", "tasks.batch"),
    "tasks.night": (
        "tasks.core",
        "tasks.hub",
        "tasks.batch",
        "tasks.candidates",
        "tasks.keeping",
        "tasks.outlook",
        "tasks.storing",
        "storage",
    ),
    "tasks.probes": ("tasks.core", "tasks.model", "tasks.storing", "storage"),
    "tasks.renewal": ("tasks.core", "tasks.keeping", "tasks.night", "tasks.storing", "storage"),
    "tasks.publishing": ("tasks.core", "tasks.site", "storage"),
    "tasks.steps": ("tasks", "storage"),
    "tasks": (),
    "flows.settings": ("tasks.hub",),  # for what an address or a contact may be; only when settings are read
    "flows.engine": (),
    "flows": ("flows", "tasks", "storage", "deployments.demo"),
}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= (
                {node.module}
                if node.module not in ("tasks", "tasks.core")
                else {f"{node.module}.{alias.name}" for alias in node.names}
            )
    return found


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_point_one_way(path):
    module = module_name(path)
    place = max((place for place in ALLOWED if module == place or module.startswith(f"{place}.")), key=len)
    of_ours = {name for name in imports(path) if name.partition(".")[0] in OURS}
    astray = {name for name in of_ours if not any(name == ok or name.startswith(f"{ok}.") for ok in ALLOWED[place])}
    assert not astray, f"{module} must not import {sorted(astray)}"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_only_the_model_edge_imports_torch(path):
    heavy = {name for name in imports(path) if name.partition(".")[0] in ("torch", "transformers")}
    module = module_name(path)
    assert not heavy or module.startswith("tasks.model."), f"{module} imports {sorted(heavy)}"


@pytest.mark.parametrize("path", sorted((ROOT / "tasks" / "core").rglob("*.py")), ids=module_name)
def test_the_core_knows_no_clock_no_environment_and_no_network(path):
    outside = {"os", "time", "socket", "asyncio", "aiohttp", "subprocess", "prefect", "logging", "random", "duckdb"}
    assert not {name.partition(".")[0] for name in imports(path)} & outside


@pytest.mark.parametrize("path", sorted((ROOT / "flows").glob("*.py")), ids=module_name)
def test_no_file_of_flows_shadows_another_module(path):
    # Prefect puts flows/ first on sys.path and loads a flow's file under its bare name.
    if path.stem == "__init__":
        return
    elsewhere = importlib.util.find_spec(path.stem)
    assert elsewhere is None, f"flows/{path.name} shadows {elsewhere.origin}"


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import tasks.core.reading, tasks.core.rows", {"prefect", "torch", "aiohttp", "pyarrow", "duckdb"}),
        ("import flows.cli", {"prefect", "torch", "transformers"}),
        ("import tasks.model.behaviour.measure", {"prefect", "aiohttp", "ml_dtypes", "pyarrow", "duckdb"}),
    ],
)
def test_importing_stays_light(statement, unwanted):
    code = f"import sys; {statement}; print(*(set(sys.modules) & {unwanted!r}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stdout.strip() == ""
