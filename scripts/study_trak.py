#!/usr/bin/env python
"""How the damping and the projection of TRAK change its linear datamodeling score (LDS), and whether the default holds.

    python scripts/study_trak.py [--datasets digits breast_cancer wine synthetic] [--factors 0.01 ...] [--subsets 100]
        [--outputs FOLDER]

The default network and recipe on every data set; ``synthetic`` has 10 classes in 20 dimensions. Factors are damping
over the mean eigenvalue. They are chosen by one bank of models and half of the test instances (``bank=tune``), and what
is told of a factor is by another bank on the other half: for each data set also of the factor that does best on the
others, which the data set had no part in choosing. Then kinds and sizes of projections with the default damping.
Intervals are 95 %.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from influx.config import compose
from influx.estimators.projected.trak import Trak
from influx.job import assemble
from influx.trained import trained_problem

DATASETS = {
    "digits": ["dataset=digits"],
    "breast_cancer": ["dataset=breast_cancer"],
    "wine": ["dataset=wine"],
    "synthetic": ["dataset=synthetic", "dataset.classes=10"],
}
FACTORS = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
PROJECTIONS: dict[str, dict[str, Any]] = {
    "sparse, 2,048 (default)": {},
    "sparse, 512": {"dim": 512},
    "gaussian, 2,048": {"kind": "gaussian"},
    "rademacher, 2,048": {"kind": "rademacher"},
    "two_sided, 2,048": {"kind": "two_sided"},
    "none": {"kind": "none"},
}
Score = tuple[float, float, float]  # with its interval


class Judge:
    """One trained problem and a bank of models on random halves."""

    def __init__(self, dataset: str, bank: str, subsets: int, outputs: Path) -> None:
        """Train, unless it is there."""
        given = ["truth=none", "metric=lds", f"metric.lds.bank={bank}", f"metric.lds.subsets={subsets}", "quiet=true"]
        self.job = assemble(compose([*DATASETS[dataset], *given, "threads=1", f"paths.outputs={outputs}"]))
        self.fitted, self.metric = trained_problem(self.job), self.job.metrics["lds"]

    def score(self, **settings: Any) -> tuple[Score, dict[str, Any]]:
        """Of TRAK, and its report."""
        run = self.job.run(self.fitted, Trak.requires, "trak", self.job.bank())
        found = Trak(self_influence=False, **settings).estimate(run)
        judged = self.metric.evaluate(found, self.job.run(self.fitted, self.metric.requires, "lds", self.job.bank()))
        row = judged[judged["metric"] == "lds"].iloc[0]
        return (float(row["value"]), float(row["ci_low"]), float(row["ci_high"])), dict(found.report)


def told(score: Score) -> str:
    """With its interval."""
    return f"{score[0]:.3f} [{score[1]:.2f}, {score[2]:.2f}]"


def factors_of(judge: Judge, factors: list[float]) -> dict[float, Score]:
    """Of every factor."""
    mean = float(judge.score()[1]["mean_eigenvalue"])
    return {factor: judge.score(damping=factor * mean)[0] for factor in factors}


def main() -> None:
    """Score and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS))
    parser.add_argument("--factors", nargs="+", type=float, default=list(FACTORS))
    parser.add_argument("--subsets", type=int, default=100)
    parser.add_argument("--outputs", type=Path, help="keep trained models there")
    given, console = parser.parse_args(), Console(width=150)
    with tempfile.TemporaryDirectory() as folder:
        outputs = given.outputs or Path(folder)
        tuned, judges, scores = {}, {}, {}
        for name in given.datasets:
            tuned[name] = factors_of(Judge(name, "tune", given.subsets, outputs), given.factors)
            judges[name] = Judge(name, "test", given.subsets, outputs)
            scores[name] = factors_of(judges[name], given.factors)
        table = Table("factor", *given.datasets, title="LDS by damping over the mean eigenvalue")
        for factor in given.factors:
            table.add_row(f"{factor:g}", *(told(scores[name][factor]) for name in given.datasets))
        chosen = []
        for name in given.datasets:
            others = [tuned[other] for other in given.datasets if other != name] or [tuned[name]]
            best = max(given.factors, key=lambda factor, others=others: np.mean([o[factor][0] for o in others]))  # type: ignore[misc]
            chosen.append(f"{best:g}: {told(scores[name][best])}")
        table.add_row("best on the others", *chosen)
        console.print(table)
        table = Table("projection", *given.datasets, title="LDS with the default damping")
        for label, settings in PROJECTIONS.items():
            table.add_row(label, *(told(judges[name].score(**settings)[0]) for name in given.datasets))
        console.print(table)


if __name__ == "__main__":
    main()
