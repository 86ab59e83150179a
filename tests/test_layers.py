"""Imports point one way. Read from the source: nothing is imported here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "influx"
FILES = sorted(ROOT.rglob("*.py"))

# part of influx -> parts that it must not import, directly or inside a function
FORBIDDEN = {
    "datasets": {"engines", "estimators", "metrics", "learners", "models", "oracles", "pipeline", "cli", "commands"},
    "models": {"engines", "estimators", "metrics", "learners", "datasets", "oracles", "pipeline", "cli", "commands"},
    "learners": {"engines", "estimators", "metrics", "datasets", "oracles", "pipeline", "cli", "commands"},
    "engines": {"estimators", "metrics", "oracles", "pipeline", "job", "cli", "commands", "reporting"},
    "estimators": {"estimators", "metrics", "oracles", "pipeline", "job", "cli", "commands", "reporting", "learners"},
    "metrics": {"estimators", "oracles", "pipeline", "job", "cli", "commands", "learners"},
    "reporting": {"engines", "estimators", "metrics", "learners", "oracles", "pipeline", "cli", "commands"},
    "oracles": {"estimators", "metrics", "pipeline", "job", "cli", "commands", "reporting"},
    "problem": {"engines", "estimators", "metrics", "learners", "run", "pipeline"},
    "influence": {"engines", "estimators", "metrics", "learners", "run", "pipeline"},
    "needs": {"engines", "estimators", "metrics", "learners", "run", "pipeline"},
    "pipeline": {"cli", "commands"},
}
INFRASTRUCTURE = {"retrain", "executor"}  # engines that make problems; the others compute what oracles check
HEAVY = {"torch", "torchvision", "numpy", "pandas", "pyarrow", "sklearn", "scipy", "hydra", "omegaconf", "rich"}
ONLY_IN = {
    "rich": {"reporting"},
    "sklearn": {"datasets", "learners", "models", "engines"},
    "torchvision": {"datasets", "learners", "models"},
    "lightgbm": {"learners"},
    "xgboost": {"learners"},
    "catboost": {"learners"},
    "tokenizers": {"datasets", "models"},
    "transformers": {"models"},
    "hydra": {"config", "commands"},
    "omegaconf": {"config", "commands", "resolvers"},
}
LIGHT = ("cli.py", "__init__.py", "__main__.py", "catalogue.py", "config.py", "errors.py", "needs.py", "progress.py")


@cache
def imports(path: Path, top: bool = False) -> tuple[str, ...]:
    """Full names of what a file imports; ``top`` leaves out functions and ``TYPE_CHECKING`` blocks."""
    return tuple(_imports(path, top))


def _imports(path: Path, top: bool) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = {id(n) for node in ast.walk(tree) if is_typing(node) for n in ast.walk(node)}
    for node in tree.body if top else ast.walk(tree):
        if id(node) in typing:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_typing(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def part(path: Path) -> str:
    """The package or module of influx to which a file belongs."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", [p for p in FILES if part(p) in FORBIDDEN], ids=name)
def test_imports_point_one_way(path: Path) -> None:
    own = "influx." + path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    inner = [found for found in imports(path) if found.startswith("influx.") and not found.startswith(own + ".")]
    wrong = [found for found in inner if found.split(".")[1] in FORBIDDEN[part(path)]]
    assert wrong == []


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_stays_where_it_belongs(library: str) -> None:
    found = {part(path) for path in FILES for used in imports(path) if used.split(".")[0] == library}
    assert found <= ONLY_IN[library]


@pytest.mark.parametrize("file", LIGHT)
def test_what_answers_at_once_imports_nothing_heavy_at_the_top(file: str) -> None:
    found = {used.split(".")[0] for used in imports(ROOT / file, top=True)}
    assert found & HEAVY == set()


def test_the_command_line_imports_only_light_modules_of_influx_at_the_top() -> None:
    light = {file.removesuffix(".py") for file in LIGHT} | {"interrupts", "__version__"}
    found = {used.split(".")[1] for used in imports(ROOT / "cli.py", top=True) if used.startswith("influx.")}
    assert found <= light


def test_oracles_share_no_computation_with_the_engines() -> None:
    found = {used for path in FILES if part(path) == "oracles" for used in imports(path)}
    assert {
        used for used in found if used.startswith("influx.engines.") and used.split(".")[2] not in INFRASTRUCTURE
    } == set()
    assert {
        used for used in found if used.startswith(("influx.learners.torch.stacked", "influx.learners.torch.seq"))
    } == set()


def test_only_typing_is_excepted() -> None:
    tree = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n\ndef f():\n    import numpy\n"
    assert [type(node).__name__ for node in ast.parse(tree).body if is_typing(node)] == ["If"]
