#!/usr/bin/env python
"""When do influence functions predict retraining? Every curvature method on the same trained models, in tables.

    python scripts/study_influence_functions.py [--problems logistic mlp pbrf] [--estimators …] [--markdown FILE]

Digits, 400 training and 100 test instances. ``logistic``: softmax regression with weight decay, trained to its minimum,
against leave-one-out. ``mlp``: the default network and recipe, which ends before its minimum, against leave-one-out and
the linear datamodeling score with its noise ceiling. ``pbrf``: the same network against the proximal Bregman response
function, the question that damped Gauss-Newton influence answers. ``flips``: the network with 10 % flipped labels. The
last columns are the trade-off between magnitude and direction: rank correlation of scores with gradient norms, share of
test instances with the same ten proponents, distinct instances among all of them. Intervals are 95 %.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

import influx
from influx.errors import UserError

COMMON = ["dataset=digits", "dataset.n_train=400", "dataset.n_test=100", "quiet=true", "baselines=[]"]
CONVERGED = ["model=linear", "optimizer.lr=0.5", "optimizer.weight_decay=0.01", "training.epochs=400"]
CONVERGED += ["training.batch_size=400", "training.dtype=float64", "truth.ceiling_budget=0"]
PROBLEMS = {
    "logistic": [*CONVERGED, "truth=loo", "metric=[agreement,tradeoff]"],
    "mlp": ["model=mlp", "truth=loo", "metric=[agreement,lds,ceiling,tradeoff]", "metric.lds.seeds=3"],
    "pbrf": ["model=mlp", "truth=pbrf", "truth.damping=0.01", "metric=[agreement]"],
    "flips": ["model=mlp", "truth=none", "corruption=label_noise", "metric=[mislabel,tradeoff]"],
}
DAMPING = {"logistic": 0, "mlp": 0.01, "pbrf": 0.01, "flips": 0.01}  # logistic: a strict minimum, which needs none
ESTIMATORS = [
    "if_exact",
    "if_cg",
    "if_lissa",
    "if_arnoldi",
    "if_ekfac",
    "datainf",
    "if_last_layer",
    "fast_if",
    "relatif",
    "renorm_if",
    "representer_point",
    "representer_l1",
    "representer_nuclear",
    "renorm_representer",
    "rps_lje",
    "tracincp",
    "gas",
]
DAMPED = {"if_exact", "if_cg", "if_lissa", "if_arnoldi", "if_ekfac", "fast_if", "relatif", "renorm_if"}
SHOWN = {
    "pooled_pearson": "Pearson",
    "spearman": "Spearman",
    "lds": "LDS",
    "mislabel_auroc_sum": "AUROC sum",
    "mislabel_auroc_self": "AUROC self",
    "tradeoff_norm_spearman_sum": "with norms",
    "tradeoff_same_topk": "same top",
    "tradeoff_distinct": "distinct",
}
CEILINGS = ("ceiling_pearson", "ceiling_spearman", "lds_ceiling")


def number(metrics: pd.DataFrame, estimator: str, prefix: str) -> str:
    """Value and interval of the first metric whose name begins so."""
    rows = metrics[(metrics["estimator"] == estimator) & metrics["metric"].str.startswith(prefix)]
    if rows.empty or not np.isfinite(rows["value"].iloc[0]):
        return "-"
    row = rows.iloc[0]
    return f"{row['value']:.3f} [{row['ci_low']:.2f}, {row['ci_high']:.2f}]"


def measured(name: str, problem: str, outputs: Path) -> tuple[list[str], pd.DataFrame]:
    """One estimator on one problem: its numbers as text, and all metrics."""
    settings = [*COMMON, *PROBLEMS[problem], f"estimator={name}", f"paths.outputs={outputs}"]
    settings += [f"estimator.damping={DAMPING[problem]}"] if name in DAMPED else []
    start = time.perf_counter()
    try:
        result = influx.run(settings)
    except UserError as error:
        return [name, f"refused: {error}"[:120]], pd.DataFrame()
    cost = result.record.section("cost").get(name, {})
    cells = [number(result.metrics, name, prefix) for prefix in SHOWN]
    return [name, *cells, f"{float(cost.get('seconds', time.perf_counter() - start)):.2f}"], result.metrics


def main() -> None:
    """Run everything and print one table per problem."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--estimators", nargs="+", default=ESTIMATORS)
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    head, lines = ["estimator", *SHOWN.values(), "seconds"], []
    with tempfile.TemporaryDirectory() as folder:
        for problem in given.problems:
            rows, metrics = [], pd.DataFrame()
            for name in given.estimators:
                cells, found = measured(name, problem, Path(folder) / "outputs")
                metrics = found if len(found) else metrics
                rows.append(cells)
                print(problem, *cells, sep=" | ", flush=True)
            kept = [place for place in range(len(head)) if any(len(r) > place and r[place] != "-" for r in rows)]
            table = Table(*[head[place] for place in kept], title=problem)
            lines += [f"\n## {problem}\n", *(_line([head[place] for place in kept]), _line(["---"] * len(kept)))]
            for cells in rows:
                shown = [cells[place] if len(cells) == len(head) else cells[min(place, 1)] for place in kept]
                table.add_row(*shown)
                lines.append(_line(shown))
            Console(width=190).print(table)
            ceilings = metrics[metrics["metric"].isin(CEILINGS)] if len(metrics) else metrics
            for _, row in ceilings.iterrows():
                lines.append(f"\n{row['metric']}: {row['value']:.3f} [{row['ci_low']:.2f}, {row['ci_high']:.2f}]")
                print(lines[-1].strip(), flush=True)
    if given.markdown:
        given.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
