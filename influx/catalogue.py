"""What there is to choose from, read from configuration files and source text: nothing is imported."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any

from influx.config import choices_of, conf_dir, load_choice
from influx.errors import ConfigError, did_you_mean

KINDS = {
    "estimators": "estimator",
    "datasets": "dataset",
    "models": "model",
    "optimizers": "optimizer",
    "metrics": "metric",
}
CARD = ("family", "full", "incremental", "storage", "assumptions", "groups", "paper")


def rows(kind: str) -> list[dict[str, Any]]:
    """One row per choice of a kind: name and summary; for estimators also the columns of the survey's Table 1.

    Raises:
        ConfigError: there is no such kind.
    """
    if kind not in KINDS:
        raise ConfigError(f"influx list takes {', '.join(KINDS)}, got {kind!r}{did_you_mean(kind, KINDS)}; choose one")
    group = KINDS[kind]
    described = [{"name": name, "summary": summary(group, name)} for name in choices_of(group)]
    if kind != "estimators":
        return described
    return [row | _card(row["name"]) for row in described]


def list_estimators() -> list[dict[str, Any]]:
    """All estimators with family, costs, storage, assumptions, needs, scale, groups and paper."""
    return rows("estimators")


def summary(group: str, name: str) -> str:
    """The first line of a choice's file, without the comment sign."""
    first = (conf_dir() / group / f"{name}.yaml").read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ").strip()


def _card(name: str) -> dict[str, Any]:
    target = str(load_choice("estimator", name)["_target_"])
    body = _class_bodies(target.rpartition(".")[0])[target.rpartition(".")[2]]
    found: dict[str, Any] = {}
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            if node.target.id == "card" and isinstance(node.value, ast.Call):
                found |= {k.arg: ast.literal_eval(k.value) for k in node.value.keywords if k.arg}
            elif node.target.id == "scale":
                found["scale"] = ast.literal_eval(node.value)
            elif node.target.id == "requires":
                attributes = [n.attr for n in ast.walk(node.value) if isinstance(n, ast.Attribute)]
                found["needs"] = sorted(a.lower() for a in attributes)
    return {key: found[key] for key in (*CARD, "scale", "needs")}


@cache
def _class_bodies(module: str) -> dict[str, list[ast.stmt]]:
    path = Path(__file__).parent.joinpath(*module.split(".")[1:]).with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name: node.body for node in tree.body if isinstance(node, ast.ClassDef)}
