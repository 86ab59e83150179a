"""Problems, libraries and estimators of ``study_trees``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

ROUNDS = 50
FEW = {"digits": 15}  # rounds of ten trees
BOOSTED = {
    "lightgbm": "n_estimators",
    "xgboost": "n_estimators",
    "catboost": "iterations",
    "hist_gradient_boosting": "max_iter",
    "gradient_boosting": "n_estimators",
}
AVERAGED = {"random_forest": "n_estimators", "extra_trees": "n_estimators"}
DATASETS = {
    "breast_cancer": ["dataset=breast_cancer"],
    "digits": ["dataset=digits", "dataset.n_train=1400"],
    "diabetes": ["dataset=diabetes"],
}
FEWER = {"digits": ["dataset=digits", "dataset.n_train=200", "dataset.n_test=100"]}  # where all are retrained without


def problem(model: str, dataset: str, fewer: bool = False) -> list[str]:
    """Overrides for the libraries' defaults but for the rounds, on one thread; ``fewer`` instances of digits."""
    rounds = ROUNDS if model in AVERAGED else FEW.get(dataset, ROUNDS)
    data = FEWER.get(dataset, DATASETS[dataset]) if fewer else DATASETS[dataset]
    return [f"model={model}", f"model.{(BOOSTED | AVERAGED)[model]}={rounds}", *data, "threads=1", "quiet=true"]


def value(metrics: pd.DataFrame, name: str, estimator: str = "") -> tuple[float, float, float]:
    """A metric with its interval."""
    rows = metrics[metrics["metric"] == name]
    row = (rows[rows["estimator"] == estimator] if estimator else rows).iloc[0]
    return float(row["value"]), float(row["ci_low"]), float(row["ci_high"])


def shown(found: tuple[float, float, float], digits: int = 2) -> str:
    """A value with its interval."""
    middle, low, high = found
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


class Table:
    """Rows that are told as they come, and kept in a Markdown file."""

    def __init__(self, head: Sequence[str], path: Path | None) -> None:
        self.rows, self.path = [list(head), ["---"] * len(head)], path
        self.before = path.read_text(encoding="utf-8") + "\n" if path and path.is_file() else ""
        print(" | ".join(head), flush=True)

    def add(self, cells: Sequence[str]) -> None:
        """One more row."""
        self.rows.append(list(cells))
        print(" | ".join(cells), flush=True)
        if self.path:
            lines = ["| " + " | ".join(row) + " |" for row in self.rows]
            self.path.write_text(self.before + "\n".join(lines) + "\n", encoding="utf-8")
