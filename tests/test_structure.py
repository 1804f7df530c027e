"""The architecture, kept true: who imports whom, what stays light, and where things lie."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {
    "kernels": set[str](),
    "conf": set[str](),
    "results": {"conf"},
    "models": {"kernels", "conf"},
    "methods": {"models", "kernels", "conf"},
    "runner": {"methods", "models", "kernels", "results", "conf"},
    "cli": {"runner", "methods", "models", "kernels", "results", "conf"},
}
"""Room -> rooms that it may import: ``kernels <- models <- methods <- runner <- cli``; ``results <- runner, cli``."""

CONTRACTS = {f"qexp.conf.{name}" for name in ("schema", "identity", "tables", "published", "errors")}
"""All of ``conf`` that models, methods and results may know."""

HEAVY = {
    *("torch", "transformers", "datasets", "wandb", "evaluate", "matplotlib", "pandas"),
    *("sklearn", "scipy", "accelerate", "bitsandbytes"),
}
LIGHT = ("cli/**/*.py", "conf/**/*.py", "results/**/*.py", "runner/__init__.py", "runner/compose.py")
LIGHT += ("models/__init__.py", "methods/__init__.py", "methods/registry.py")
LIGHT += ("methods/*/__init__.py", "methods/*/settings.py")

SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
TEXTS = SOURCES + sorted(
    path
    for folder in (*ROOMS, "tests", "docs", "benchmarks")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".yaml", ".md"} and path not in SOURCES
)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path, *, top_level_only: bool = False) -> Iterator[tuple[str, int]]:
    """Modules that a file imports and how many dots they begin with. ``if TYPE_CHECKING`` blocks count as not there."""
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield module, node.level
            if module in {"qexp", "qexp.conf"}:
                yield from ((f"{module}.{alias.name}", 0) for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += [] if top_level_only else node.body
            waiting += node.orelse
        elif not (top_level_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))):
            waiting += list(ast.iter_child_nodes(node))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_rooms_import_only_what_lies_below_them(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    for module, _ in imports(path):
        parts = module.split(".")
        if parts[0] == "qexp" and len(parts) > 1 and parts[1] in ROOMS:
            assert parts[1] in ROOMS[room] | {room}, f"{name(path)} imports {module}"
        if module.startswith("qexp.conf.") and room not in ("conf", "runner", "cli"):
            assert ".".join(parts[:3]) in CONTRACTS, f"{name(path)} imports {module}"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_imports_are_absolute(path: Path) -> None:
    relative = [module for module, level in imports(path) if level]
    assert not relative and not {module.split(".")[0] for module, _ in imports(path)} & set(ROOMS)


@pytest.mark.parametrize("path", sorted((ROOT / "kernels").rglob("*.py")), ids=name)
def test_kernels_need_torch_only(path: Path) -> None:
    own = {"qexp", "torch", *sys.stdlib_module_names}
    if path.name in ("triton_kernels.py", "triton_launch.py"):
        own.add("triton")  # imported by a function of triton.py at first use
    at_top = {module.split(".")[0] for module, _ in imports(path, top_level_only=True)}
    anywhere = {module.split(".")[0] for module, _ in imports(path)}
    assert at_top <= own and anywhere <= own | {"numpy", "scipy", "triton"}


@pytest.mark.parametrize("path", sorted(path for glob in LIGHT for path in ROOT.glob(glob)), ids=name)
def test_what_help_list_and_table_reach_imports_nothing_heavy_at_module_level(path: Path) -> None:
    assert not {module.split(".")[0] for module, _ in imports(path, top_level_only=True)} & HEAVY


@pytest.mark.parametrize("path", [p for p in SOURCES if p.relative_to(ROOT).parts[0] in ("results", "conf")], ids=name)
def test_results_and_conf_never_import_torch(path: Path) -> None:
    assert not {module.split(".")[0] for module, _ in imports(path)} & {"torch", "transformers", "datasets"}


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["list", "methods"], ["list", "models"], ["config"]], ids=" ".join
)
def test_light_commands_load_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from qexp.cli.app import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        f"loaded = set(sys.modules) & set({sorted(HEAVY)!r})\n"
        "assert not loaded, loaded\n"
    )
    command = [sys.executable, "-c", program, *arguments]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr


def test_a_sweeps_worker_claims_its_first_cell_before_anything_heavy_is_loaded() -> None:
    program = f"import sys, qexp.runner.sweep.worker; assert not set(sys.modules) & set({sorted(HEAVY)!r})"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_no_path_of_a_developers_machine_is_named(path: Path) -> None:
    machine = ["/" + "work/", "../" + "shared", "/" + "home/", "/" + "Users/", "/" + "root/"]
    assert not [place for place in machine if place in path.read_text()]


def test_every_package_folder_is_linked_into_the_qexp_package() -> None:
    links = {path.name: path for path in (ROOT / ".dev" / "qexp").iterdir() if path.is_symlink()}
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py") if path.parent.name not in ("tests",)}
    assert set(links) == packages == set(ROOMS)
    assert all(link.readlink() == Path("../..") / package for package, link in links.items())


@pytest.mark.parametrize("room", ROOMS)
def test_every_package_is_in_the_wheel(room: str) -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert f'"{room}" = "qexp/{room}"' in text


def test_every_source_folder_is_a_package() -> None:
    assert not [name(path.parent) for path in SOURCES if not (path.parent / "__init__.py").exists()]


@pytest.mark.parametrize(
    "path", sorted(p for p in (ROOT / "conf").rglob("*.yaml") if p.parent.name != "table"), ids=name
)
def test_every_yaml_begins_with_the_command_that_uses_it(path: Path) -> None:
    first = path.read_text().partition("\n")[0]
    assert re.match(r"# .*\bqexp \w", first), first


def test_methods_folders_are_the_yamls_are_the_registry() -> None:
    from qexp.methods import registry

    folders = {path.parent.name for path in (ROOT / "methods").glob("*/__init__.py")}
    yamls = {path.stem for path in (ROOT / "conf" / "method").glob("*.yaml")}
    assert folders == yamls == set(registry.names())
    for folder in folders:
        files = {path.name for path in (ROOT / "methods" / folder).iterdir()}
        assert {"settings.py", "method.py", "README.md"} <= files, folder


@pytest.mark.parametrize("path", sorted({p for p in TEXTS if p.suffix == ".py"}), ids=name)
def test_files_stay_short_enough_to_read(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 350
