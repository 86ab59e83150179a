#!/usr/bin/env python
"""Everything that rests on training on subsets, on one dataset with known label noise, in one table.

    python scripts/study_subsets.py [--estimators loo,banzhaf,...] [--model mlp|logistic] [--seeds 5] [--markdown FILE]

Digits with 10 % flipped labels, 400 training and 100 test instances. Per estimator: AUROC of finding the flipped
labels by influence summed over test instances (and by self-influence, where there is one), median agreement with
leave-one-out per test instance (Spearman), linear datamodeling score at half the data, with 95 % intervals; trainings
and seconds, beside what ``influx plan`` says before anything runs. Each starts from a copy of a folder that holds the
trained model, the ground truth and the models of the datamodeling score, but no model of its own.

Stability: estimators that sample are run again under other seeds of the sample (the data, the model and its training
stay), and the joint influences of the training instances compared: mean Spearman correlation between any two.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

import influx
from influx.commands.plan import foresee
from influx.config import compose
from influx.job import assemble

PROBLEM = [
    "dataset=digits",
    "dataset.n_train=400",
    "dataset.n_test=100",
    "corruption=label_noise",
    "metric=[agreement,lds,mislabel]",
    "truth.ceiling_budget=0",
    "quiet=true",
]
MODELS = {
    "mlp": ["model.width=[32]", "training.epochs=10", "training.batch_size=50"],
    "logistic": ["model=logistic", "model.weight_decay=0.01"],
}
ESTIMATORS = {
    "loo": ["estimator.ceiling_budget=0"],
    "group_loo": [],
    "downsampling": [],
    "c_score": [],
    "ame": [],
    "datamodels": [],
    "data_oob": [],
    "banzhaf": [],
    "tmc_shapley": [],
    "beta_shapley": [],
    "g_shapley": [],
    "shapley": ["estimator.groups=label"],
    "shapley_interaction": ["estimator.groups=label"],
    "shapley_taylor": ["estimator.groups=label"],
    "knn_loo": ["estimator.features=raw"],
    "knn_shapley": ["estimator.features=raw"],
    "cooks_distance": [],
    "influence_sketching": [],
}
NETS = {"g_shapley"}
LINEAR = {"cooks_distance", "influence_sketching"}
SAMPLED = ("banzhaf", "tmc_shapley", "beta_shapley")
SHORT = 0.3  # seconds below which fixed costs decide, and a ratio says nothing
SHOWN = {
    "mislabel_auroc_sum": "AUROC sum",
    "mislabel_auroc_self": "AUROC self",
    "spearman": "Spearman with LOO",
    "lds": "LDS",
}


@dataclass(frozen=True)
class Row:
    """One estimator: its numbers as text, and work done beside work foreseen."""

    numbers: tuple[str, ...]
    trainings: int
    foreseen_trainings: str
    seconds: float
    foreseen: float


def number(metrics: pd.DataFrame, estimator: str, prefix: str) -> str:
    """Value and interval of the first metric whose name begins so."""
    rows = metrics[(metrics["estimator"] == estimator) & metrics["metric"].str.startswith(prefix)]
    if rows.empty or not np.isfinite(rows["value"].iloc[0]):
        return "-"
    row = rows.iloc[0]
    return f"{row['value']:.3f} [{row['ci_low']:.2f}, {row['ci_high']:.2f}]"


def measured(name: str, settings: list[str], prepared: Path) -> Row:
    """Foresee and run one estimator in a copy of the prepared folder."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder) / "outputs"
        shutil.copytree(prepared, outputs)
        asked = [*settings, f"estimator={name}", f"paths.outputs={outputs}"]
        stage = next(stage for stage in foresee(asked)["stages"] if stage["stage"] == "estimate")
        result = influx.run([*asked, "baselines=[]"])
        cost = result.record.section("cost")[name]
        numbers = tuple(number(result.metrics, name, prefix) for prefix in SHOWN)
        return Row(numbers, int(cost["trainings"]), str(stage["work"]), float(cost["seconds"]), float(stage["seconds"]))


def stability(name: str, settings: list[str], prepared: Path, seeds: int) -> float:
    """Mean Spearman correlation of joint influences between independent samples of subsets."""
    found: list[NDArray[np.float64]] = []
    job = assemble(compose([*settings, f"estimator={name}", f"paths.outputs={prepared}", "baselines=[]"]))
    fitted = job.problem.learner.fit(job.problem.data, job.problem.seed, job.problem_folder)
    for seed in range(seeds):
        run = job.run(fitted, job.estimator.requires, name, job.bank())
        drawn = replace(run, problem=replace(run.problem, seed=seed))  # the bank keeps the problem's own seed
        found.append(np.asarray(job.estimator.estimate(drawn).values).mean(axis=1))
    return float(np.mean([spearmanr(a, b).statistic for a, b in combinations(found, 2)]))


def main() -> None:
    """Run every estimator and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--estimators", default=",".join(ESTIMATORS))
    parser.add_argument("--model", choices=MODELS, default="mlp")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    unfit = LINEAR if given.model == "mlp" else NETS
    names = [name for name in given.estimators.split(",") if name not in unfit]
    common = [*PROBLEM, *MODELS[given.model]]
    head = ["estimator", *SHOWN.values(), "trainings", "foreseen", "seconds", "foreseen", "ratio"]
    table = Table(*head, title=f"digits, 10 % flipped labels, n = 400, model={given.model}")
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head))]
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "outputs"
        influx.run([*common, "estimator=random", "baselines=[]", f"paths.outputs={prepared}"])
        for name in names:
            settings = [*common, *ESTIMATORS[name]]
            row = measured(name, settings, prepared)
            ratio = "short" if max(row.seconds, row.foreseen) < SHORT else f"{row.foreseen / row.seconds:.2f}"
            times = (f"{row.seconds:.2f}", f"{row.foreseen:.2f}", ratio)
            cells = [name, *row.numbers, f"{row.trainings:,}", row.foreseen_trainings, *times]
            print(" | ".join(cells), flush=True)
            table.add_row(*cells)
            lines.append("| " + " | ".join(cells) + " |")
        Console(width=190).print(table)
        for name in SAMPLED if given.seeds > 1 else ():
            if name in names:
                agreement = stability(name, [*common, *ESTIMATORS[name]], prepared, given.seeds)
                lines.append(f"\nrank stability of {name} over {given.seeds} samples: {agreement:.3f}")
                print(lines[-1].strip(), flush=True)
    if given.markdown:
        given.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
