#!/usr/bin/env python
"""Which tree methods tell what retraining would say? Every library on three datasets, with default trees.

    python scripts/study_trees.py [--datasets ...] [--models lightgbm,xgboost] [--markdown FILE]

Truth is leave-one-out by retraining, on one thread. Per estimator: mean over test instances of the Spearman
correlation with truth [95 % interval over test instances], pooled Pearson correlation, linear datamodeling score (100
random halves, retrained), AUROC of self-influence for labels flipped in a tenth of the training set (classes only; a
training of its own), seconds, and how many times faster than truth. Per model the share of trees that sort the other
instances into the same leaves when one is removed, over 20 removals: the part of the truth that fixed splits can tell.
About 15 minutes on one core.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import influx
from influx.learners.trees.fitted import flat
from influx.learners.trees.learner import TreeLearner
from influx.problem import Data

ROUNDS, REMOVED = 50, 20
DATASETS = {
    "breast_cancer": ["dataset=breast_cancer"],
    "digits": ["dataset=digits", "dataset.n_train=200", "dataset.n_test=100"],
    "diabetes": ["dataset=diabetes"],
}
FEW = {"digits": 15}  # rounds of ten trees
MODELS = {
    "lightgbm": "n_estimators",
    "xgboost": "n_estimators",
    "catboost": "iterations",
    "hist_gradient_boosting": "max_iter",
    "gradient_boosting": "n_estimators",
}
ESTIMATORS = {
    "leaf_refit": ["estimator=leaf_refit"],
    "leaf_refit, base too": ["estimator=leaf_refit", "estimator.refit_base=true"],
    "leaf_influence": ["estimator=leaf_influence"],
    "leaf_influence, single": ["estimator=leaf_influence", "estimator.update_set=single"],
    "boostin": ["estimator=boostin"],
    "trex": ["estimator=trex"],
    "tree_similarity": ["estimator=tree_similarity"],
}


@dataclass(frozen=True)
class Row:
    """One estimator on one problem."""

    spearman: tuple[float, float, float]
    pearson: float
    lds: float
    auroc: float
    seconds: float
    times: float

    @property
    def text(self) -> list[str]:
        """Cells."""
        middle, low, high = self.spearman
        auroc = "" if self.auroc != self.auroc else f"{self.auroc:.2f}"
        return [
            f"{middle:.3f} [{low:.2f}, {high:.2f}]",
            f"{self.pearson:.3f}",
            f"{self.lds:.2f}",
            auroc,
            f"{self.seconds:.3f}",
            f"{self.times:,.0f}",
        ]


def value(metrics: pd.DataFrame, name: str) -> tuple[float, float, float]:
    """A metric with its interval."""
    row = metrics[metrics["metric"] == name].iloc[0]
    return float(row["value"]), float(row["ci_low"]), float(row["ci_high"])


def kept(result: influx.api.Result) -> float:
    """Share of trees whose leaves hold the same instances without one, over removals."""
    data, n = result.problem.data, len(result.problem.train)
    learner = cast(TreeLearner, result.problem.learner)
    before = leaves(learner, data, np.ones(n))
    same = []
    for i in np.random.default_rng(0).choice(n, REMOVED, replace=False):
        weights = np.ones(n)
        weights[i] = 0
        others = np.delete(np.arange(n), i)
        after = leaves(learner, data, weights)
        rounds = min(len(before), len(after))
        pairs = zip(
            before[:rounds, :, others].reshape(-1, n - 1), after[:rounds, :, others].reshape(-1, n - 1), strict=True
        )
        same += [alike(left, right) for left, right in pairs]
    return float(np.mean(same))


def leaves(learner: TreeLearner, data: Data, weights: NDArray[np.float64]) -> NDArray[np.int32]:
    """Leaf of each training instance in trees grown with these weights."""
    ensemble = learner.predictor(data, flat(data.train), weights, 0, False).ensemble
    assert ensemble is not None
    return ensemble.leaves(flat(data.train))


def alike(left: NDArray[np.int32], right: NDArray[np.int32]) -> bool:
    """Whether two numberings part the instances alike."""
    pairs = len(np.unique(np.stack([left, right]), axis=1).T)
    return pairs == len(np.unique(left)) == len(np.unique(right))


def row(model: str, dataset: str, estimator: str, folder: str, truths: dict[tuple[str, str], float]) -> Row:
    """Run it with truth, and on flipped labels."""
    rounds = f"model.{MODELS[model]}={FEW.get(dataset, ROUNDS)}"
    common = [f"model={model}", rounds, *DATASETS[dataset], *ESTIMATORS[estimator], "baselines=[]", "threads=1"]
    common += ["quiet=true", f"paths.outputs={folder}"]
    agreed = influx.run([*common, "truth=loo", "truth.ceiling_budget=0", "metric=[agreement,lds]"])
    cost = agreed.record.manifest["cost"]
    if (model, dataset) not in truths:  # those that follow read it
        truths[model, dataset] = float(cost["truth"]["seconds"])
        print(
            f"{dataset}, {model}: {truths[model, dataset]:.1f} s of truth, {kept(agreed):.2f} of trees kept", flush=True
        )
    name = ESTIMATORS[estimator][0].partition("=")[2]
    auroc = float("nan")
    if dataset != "diabetes" and name != "tree_similarity":
        flipped = influx.run([*common, "corruption=label_noise", "truth=none", "metric=[mislabel]"])
        auroc = value(flipped.metrics, "mislabel_auroc_self")[0]
    seconds, metrics = float(cost[name]["seconds"]), agreed.metrics
    pearson, lds = (value(metrics, column)[0] for column in ("pooled_pearson", "lds"))
    return Row(value(metrics, "spearman"), pearson, lds, auroc, seconds, truths[model, dataset] / max(seconds, 1e-3))


def main() -> None:
    """Every estimator on every model and dataset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", default=",".join(DATASETS))
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    head = [
        "dataset",
        "model",
        "estimator",
        "Spearman with LOO",
        "pooled Pearson",
        "LDS",
        "mislabel AUROC",
        "seconds",
        "× faster than LOO",
    ]
    rows: list[list[str]] = []
    truths: dict[tuple[str, str], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for dataset in given.datasets.split(","):
            for model in given.models.split(","):
                for estimator in ESTIMATORS:
                    if model == "catboost" and dataset != "diabetes" and estimator == "leaf_refit, base too":
                        continue  # it starts from 0
                    found = row(model, dataset, estimator, folder, truths)
                    rows.append([dataset, model, estimator, *found.text])
                    print(" | ".join(rows[-1]), flush=True)
                    if given.markdown:
                        lines = ["| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]]
                        given.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")
    table = Table(*head)
    for cells in rows:
        table.add_row(*cells)
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
