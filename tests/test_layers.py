"""Imports go one way, ``datasets``, ``weighting``, ``tracking`` and ``config`` stand apart, and the step names no method."""

import ast
from pathlib import Path

import pytest
from handmade import options

from mtl_runner.config import GROUPS

PACKAGE = Path(__file__).resolve().parents[1] / "mtl_runner"
LAYERS = (
    "errors seeding", "batch", "geometry fetching metrics", "imbalance", "encoders", "heads", "crf", "tasks", "sharing",
    "model", "evaluate", "weighting schedulers loader learner plan datasets predictions config tracking checkpoint labels curves",
    "gradient_statistics validation", "folder trainer", "training pretrained", "build", "console figures serving",
    "label_table analysis", "parts", "outcome", "run affinity", "tuning", "predict", "explain", "commands", "cli",
)  # fmt: skip
"""From the bottom up; a module imports only those below."""
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names.split()}
APART = {
    "errors": set(),
    "seeding": set(),
    "schedulers": set(),
    "weighting": {"errors", "seeding"},
    "config": {"errors"},
    "tracking": {"errors"},
    "datasets": {"errors", "seeding", "batch", "fetching", "geometry"},
}
"""What these may import at all."""
LATE = {("commands", "cli"): "the names of the subcommands are known before any command is"}
"""Imports inside a function, against the order, each with its reason."""


def part(module: str) -> str:
    """``sharing`` of ``mtl_runner.sharing.hard``."""
    return [*module.split("."), ""][1]


def imports(path: Path) -> list[tuple[str, bool]]:
    """The parts of the package that a file imports, and whether it does so when it is imported itself."""
    tree = ast.parse(path.read_text())
    late = {id(node) for scope in ast.walk(tree) if isinstance(scope, ast.FunctionDef) for node in ast.walk(scope)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: line {node.lineno}: a relative import"
            whole = node.module == "mtl_runner"
            modules = [f"mtl_runner.{alias.name}" for alias in node.names] if whole else [str(node.module)]
        else:
            continue
        found += [(part(module), id(node) not in late) for module in modules if module.split(".")[0] == "mtl_runner"]
    return found


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for other, early in imports(path):
        if other == own or ((own, other) in LATE and not early):
            continue
        assert RANK[other] < RANK[own], f"{own} imports {other}"
        assert other in APART.get(own, {other}), f"{own} may import {APART[own] or 'nothing'}, and imports {other}"


def test_every_part_has_its_place() -> None:
    parts = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES}
    assert parts == set(RANK)


def function(path: Path, name: str) -> ast.FunctionDef:
    return next(node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef) and node.name == name)


def test_the_step_fits_on_one_screen() -> None:
    step = function(PACKAGE / "trainer.py", "train_step")
    assert step.end_lineno - step.lineno < 25
    assert not [node for node in ast.walk(step) if isinstance(node, ast.Constant) and isinstance(node.value, str)]


@pytest.mark.parametrize("name", ["trainer.py", "learner.py", "model.py", "evaluate.py", "loader.py"])
def test_training_names_no_option(name: str) -> None:
    """No comparison with a method's name, and no import of one: a method fills a hook."""
    plugged = {option for group in GROUPS for option in options(group)} - {"none", "step"}  # an optimizer's step is no schedule
    tree = ast.parse((PACKAGE / name).read_text())
    docstrings = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        names: set[str] = set()
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            names = {node.value}
        elif isinstance(node, ast.Name):
            names = {node.id}
        elif isinstance(node, ast.Attribute):
            names = {node.attr}
        elif isinstance(node, ast.ImportFrom):
            names = {*str(node.module).split("."), *(alias.name for alias in node.names)}
        assert not {name.lower() for name in names} & plugged, f"line {node.lineno}"
