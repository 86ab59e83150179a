#!/usr/bin/env python
"""When can leave-one-out be known without retraining? Estimators against real removals, in four trainings.

    python scripts/study_leave_one_out.py [--cases calm,momentum,hot,relu] [--estimators magic,...] [--markdown FILE]

Digits, MLP 64-32-10, 1,000 training and 397 test instances, batches of 50. Truth is the removal of each instance in
place by retraining. Per estimator: Pearson correlation over all pairs, median over test instances of the Spearman
correlation over training instances, and the linear datamodeling score, the mean Spearman correlation over 100 random
subsets with 1 % or 10 % of the instances removed in place between summed influences and real changes of risk. Per
training: growth of the adjoint and relative error of audited removals, which need no ground truth on the rest.
About 8 minutes on two cores.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata

import influx
from influx.problem import Design
from influx.results import load_influence
from influx.store import Folder

Array = NDArray[np.float64]
SUBSETS = 100
CASES = {
    "calm": ("tanh, lr 0.1, 20 epochs (the default)", []),
    "momentum": (
        "tanh, lr 0.05, momentum 0.9, decay 1e-3, 10 epochs",
        ["optimizer.lr=0.05", "optimizer.momentum=0.9", "optimizer.weight_decay=1e-3", "training.epochs=10"],
    ),
    "hot": ("tanh, lr 0.1, momentum 0.9, 20 epochs", ["optimizer.momentum=0.9"]),
    "relu": ("ReLU, lr 0.1, momentum 0.9, 20 epochs", ["optimizer.momentum=0.9", "model.activation=relu"]),
}
ESTIMATORS = {
    "feature_similarity": ["estimator=feature_similarity"],
    "gas": ["estimator=gas"],
    "gas_layerwise": ["estimator=gas_layerwise"],
    "tracin_last": ["estimator=tracin_last"],
    "tracincp": ["estimator=tracincp"],
    "tracin_ideal": ["estimator=tracin_ideal"],
    "renorm_tracin": ["estimator=renorm_tracin"],
    "tracin": ["estimator=tracin"],
    "tracin_momentum": ["estimator=tracin_momentum"],
    "if_exact": ["estimator=if_exact"],
    "hydra_fast": ["estimator=hydra_fast"],
    "sgd_influence (last epoch)": ["estimator=sgd_influence", "estimator.epochs=1"],
    "magic": ["estimator=magic", "estimator.self_influence=false"],
    "hydra (loo moved)": ["estimator=hydra", "estimator.linearize_at=loo", "estimator.test_loss=moved"],
}


@dataclass(frozen=True)
class Score:
    """One estimator on one training."""

    pearson: float
    spearman: float
    lds: tuple[float, ...]
    seconds: float


def rowwise_spearman(left: Array, right: Array) -> Array:
    """Spearman correlation of the columns of two (k, m) arrays, NaN for constant ones."""
    a, b = (rankdata(values, axis=0) for values in (left, right))
    a, b = a - a.mean(0), b - b.mean(0)
    with np.errstate(invalid="ignore"):
        return np.asarray((a * b).sum(0) / np.sqrt((a * a).sum(0) * (b * b).sum(0)))


def removals(result: influx.api.Result, share: float) -> tuple[Array, Array]:
    """Masks of what is removed (subsets, n) and the real changes of test risks (subsets, m)."""
    problem = result.problem
    n = len(problem.train)
    rng = np.random.default_rng(round(1000 * share))
    removed = np.zeros((SUBSETS + 1, n))
    for row in removed[1:]:
        row[rng.choice(n, round(share * n), replace=False)] = 1
    zeros = np.zeros(SUBSETS + 1, np.int64)
    design = Design(weights=1 - removed, init=zeros, order=zeros, loss_norm="full")
    losses = problem.learner.retrain(problem.data, problem.seed, design)[1].loss
    return removed[1:], losses[1:] - losses[0]


def main() -> None:
    """Run every estimator on every training and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--estimators", default=",".join(ESTIMATORS))
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    cases, estimators = given.cases.split(","), given.estimators.split(",")
    scores: dict[tuple[str, str], Score] = {}
    notes: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            subsets: list[tuple[Array, Array]] = []
            for name in estimators:
                common = ["metric=[]", "baselines=[]", "truth.ceiling_budget=0", "quiet=true"]
                settings = [f"paths.outputs={folder}", *common]
                result = influx.run([*ESTIMATORS[name], *CASES[case][1], *settings])
                subsets = subsets or [removals(result, share) for share in (0.01, 0.1)]
                scores[name, case] = score(result, subsets)
                print(f"{case}: {name} {scores[name, case]}", flush=True)
                if name == "magic":
                    notes[case] = dict(load_influence(Folder(result.folder)).report)
    table = Table(title="Pearson over all pairs · median Spearman per test instance · LDS at 1 % · LDS at 10 %")
    table.add_column("estimator")
    for case in cases:
        table.add_column(CASES[case][0], justify="right")
    rows = [[name, *(text(scores[name, case]) for case in cases)] for name in estimators]
    for key in ("growth", "removal_error", "derivative_error"):
        rows.append([key, *(f"{notes[case][key]:.2g}" if case in notes else "" for case in cases)])
    for row in rows:
        table.add_row(*row)
    Console(width=170).print(table)
    if given.markdown:
        head = ["estimator", *(CASES[case][0] for case in cases)]
        lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
        given.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")


def text(score: Score) -> str:
    """All four numbers."""
    return " · ".join(f"{value:.3f}" for value in (score.pearson, score.spearman, *score.lds))


def score(result: influx.api.Result, subsets: list[tuple[Array, Array]]) -> Score:
    """Hold a run's matrix against its ground truth and against removals of random subsets."""
    values, truth = np.asarray(result.influence, np.float64), np.asarray(result.truth, np.float64)
    lds = [float(np.nanmean(rowwise_spearman(removed @ values, changes))) for removed, changes in subsets]
    return Score(
        pearson=float(np.corrcoef(values.ravel(), truth.ravel())[0, 1]),
        spearman=float(np.nanmedian(rowwise_spearman(values, truth))),
        lds=tuple(lds),
        seconds=float(result.record.manifest["stages"]["estimate"]["seconds"]),
    )


if __name__ == "__main__":
    main()
