"""A run of trees and one of a net on the same instances, side by side."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pandas as pd
import pytest

from tests.cli.conftest import TINY, Influx

SMALL = {
    "lightgbm": ("model.n_estimators=5", "model.min_child_samples=5"),
    "hist_gradient_boosting": ("model.max_iter=5", "model.min_samples_leaf=5"),
}
MODEL = "lightgbm" if importlib.util.find_spec("lightgbm") else "hist_gradient_boosting"


def test_trees_and_a_net_that_were_run_share_a_table(influx: Influx, own: Path) -> None:
    net, trees = own / "runs" / "tiny", own / "runs" / "trees"
    asked = (f"model={MODEL}", *SMALL[MODEL], "estimator=boostin", "name=trees", f"paths.outputs={own}", "quiet=true")
    done = influx("run", *TINY, *asked)
    assert done.code == 0, done.err
    done = influx("compare", net, trees, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    rows = {row["name"]: row for row in found["rows"]}
    assert len(found["protocols"]) == 1 and all(row["protocol"] == 0 for row in rows.values())
    for folder, estimator, model in ((net, "tracincp", "mlp"), (trees, "boostin", MODEL)):
        row, metrics = rows[f"{estimator}, {model}"], pd.read_csv(folder / "metrics.csv")
        for metric in ("spearman", "lds"):
            own_rows = metrics[(metrics["estimator"] == estimator) & (metrics["metric"] == metric)]
            assert row["scores"][metric]["value"] == pytest.approx(own_rows["value"].astype(float).item())
        assert row["model"] == model and {f"random, {model}", f"noise ceiling, {model}"} <= rows.keys()
    told = found["protocols"][0]["problem"]
    assert f"model mlp (id {problem_of(net)}), model {MODEL} (id {problem_of(trees)})" in told
    shown = influx("compare", net, trees).out
    assert f"\nboostin, {MODEL}" in shown and "\ntracincp, mlp" in shown and "Protocol 2" not in shown


def problem_of(folder: Path) -> str:
    return str(json.loads((folder / "manifest.json").read_text())["problem"]["id"])
