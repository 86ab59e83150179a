#!/usr/bin/env python
"""Modern estimators beside the survey's, and influence of small models for a large one, in tables.

    python scripts/study_modern.py [--tables agreement simulated transfer] [--outputs FOLDER] [--markdown FILE]

Digits, 1,000 training and 397 test instances. ``agreement``: the default network and recipe against leave-one-out (of
200 instances) and the linear datamodeling score. ``simulated``: how well Simfluence simulates trainings that were held
out. ``transfer``: a network of two hidden layers (64-256-128-10), judged by the same for influence that was computed
under it and under smaller models. Intervals are 95 %.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

import influx
from influx.errors import UserError

COMMON = ["dataset=digits", "quiet=true", "baselines=[]", "truth=loo", "truth.budget=200", "truth.ceiling_budget=0"]
EKFAC = ["estimator=averaged", "estimator.of=if_ekfac"]
ESTIMATORS: dict[str, list[str]] = {
    "tracincp": ["estimator=tracincp"],
    "gas": ["estimator=gas"],
    "if_ekfac": ["estimator=if_ekfac"],
    "averaged if_ekfac, 10 checkpoints": [*EKFAC, "estimator.over=checkpoints", "estimator.count=10"],
    "averaged if_ekfac, 5 trainings": [*EKFAC],
    "averaged tracincp, 5 trainings": ["estimator=averaged"],
    "source, 1 stretch": ["estimator=source", "estimator.segments=1"],
    "source": ["estimator=source"],
    "source, 5 stretches": ["estimator=source", "estimator.segments=5"],
    "source, exact matrices": ["estimator=source", "estimator.solver=exact"],
    "averaged source, 5 trainings": ["estimator=averaged", "estimator.of=source"],
    "simfluence": ["estimator=simfluence"],
    "complexity_gap": ["estimator=complexity_gap"],
    "magic": ["estimator=magic"],
    "downsampling": ["estimator=downsampling"],
}
TRANSFERRED = ("tracincp", "gas", "if_ekfac", "source", "gradient_norm")
SURROGATES = {
    "linear, 650": "surrogate: linear",
    "mlp 8, 610": "surrogate: mlp, settings: {width: 8}",
    "mlp 32, 2,410": "surrogate: mlp, settings: {width: 32}",
    "mlp 128, 9,610": "surrogate: mlp, settings: {width: 128}",
}
CLASS = "influx.metrics.surrogate_transfer.SurrogateTransfer"
LARGE = ["experiment=surrogate_digits", "metric=[]", "quiet=true", "baselines=[]"]


def number(metrics: pd.DataFrame, name: str) -> str:
    """Value and interval of a metric of the estimator."""
    rows = metrics[metrics["metric"] == name]
    if rows.empty or not np.isfinite(rows["value"].iloc[0]):
        return "-"
    row = rows.iloc[0]
    return f"{row['value']:.3f} [{row['ci_low']:.2f}, {row['ci_high']:.2f}]"


def line(cells: list[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def agreement(outputs: Path) -> list[str]:
    """One row per estimator."""
    head = ["estimator", "Spearman with LOO", "LDS", "rank stability", "seconds"]
    lines = [line(head), line(["---"] * len(head))]
    for name, settings in ESTIMATORS.items():
        given = [*COMMON, "metric=[agreement,lds]", *settings, f"paths.outputs={outputs}"]
        try:
            result = influx.run(given)
        except UserError as error:
            lines.append(line([name, f"refused: {error}"]))
            continue
        cost = result.record.section("cost")
        report = json.loads((result.record.folder / "estimate.json").read_text(encoding="utf-8"))["report"]
        seconds = next(float(cost[key]["seconds"]) for key in cost if key != "truth")
        stability = report.get("rank_stability")
        shown = "-" if stability is None else f"{stability:.2f}"
        cells = [number(result.metrics, "spearman"), number(result.metrics, "lds"), shown, f"{seconds:.2f}"]
        lines.append(line([name, *cells]))
        print(lines[-1], flush=True)
    return lines


def transfer(outputs: Path) -> list[str]:
    """One row per estimator and surrogate."""
    names = ("transfer_truth", "transfer_truth_own", "transfer_lds", "transfer_lds_own", "transfer_lds_gap")
    head = ["estimator", "under", "Spearman with LOO", "own", "LDS", "own", "lost", "with its own influence"]
    lines = [line(head), line(["---"] * len(head))]
    several = [f"+metric.under_{n}={{_target_: {CLASS}, {told}}}" for n, told in enumerate(SURROGATES.values())]
    for name in TRANSFERRED:
        found = influx.run([*LARGE, *several, f"estimator={name}", f"paths.outputs={outputs}"]).metrics
        first = found.index[found["metric"] == "transfer_truth"]  # of the rows under each surrogate
        for surrogate, begin in zip(SURROGATES, first, strict=True):
            rows = found.loc[begin : begin + 6]
            cells = [number(rows, each) for each in (*names, "transfer_agreement")]
            lines.append(line([name, surrogate, *cells]))
            print(lines[-1], flush=True)
    return lines


def simulated(outputs: Path) -> list[str]:
    """How well Simfluence simulates trainings that it was not fitted to: medians and means over test instances."""
    names = ("runs", "r2_path", "r2_final", "mae_own", "mae_held_out", "residual")
    lines = [line(list(names)), line(["---"] * len(names))]
    given = ["dataset=digits", "quiet=true", "baselines=[]", "truth=none", "metric=[]", "estimator=simfluence"]
    record = influx.run([*given, f"paths.outputs={outputs}"]).record
    report = json.loads((record.folder / "estimate.json").read_text(encoding="utf-8"))["report"]
    lines.append(line([f"{report[name]:.3g}" for name in names]))
    print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tables = {"agreement": agreement, "simulated": simulated, "transfer": transfer}
    parser.add_argument("--tables", nargs="+", choices=tables, default=list(tables))
    parser.add_argument("--outputs", type=Path, help="keep the runs there")
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lines = []
        for name in given.tables:
            lines += [f"## {name}", "", *tables[name](given.outputs or Path(folder) / "outputs"), ""]
    if given.markdown is not None:
        given.markdown.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
