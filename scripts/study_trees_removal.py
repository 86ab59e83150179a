"""What becomes of the test loss without the instances that tree methods name first: removal curves."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from study_trees_cases import AVERAGED, problem, shown, value

import influx

SHARES = (5, 10, 20, 40)
HEAD = (
    *("dataset", "model", "estimator", "loss, all there", "by random removal of 40%"),
    *(f"{share}%: loss above random" for share in SHARES),
    "area",
)
RANKED = ["boostin", "leaf_influence", "tree_similarity", "random"]
RANKED_BY_ANY_TREES = ["leaf_refit", "trex", "tree_similarity", "random"]


def rows(model: str, dataset: str, folder: str, seeds: int) -> Iterator[list[str]]:
    """One run: models are trained anew without the first of each ranking, and without as many random instances."""
    first, *others = RANKED_BY_ANY_TREES if model in AVERAGED else RANKED
    asked = [f"estimator={first}", f"baselines=[{','.join(others)}]", "truth=none", "metric=[removal]"]
    asked += ["metric.removal.ends=[top]", f"metric.removal.seeds={seeds}", f"paths.outputs={folder}"]
    found = influx.run([*problem(model, dataset), *asked])
    curve = pd.read_parquet(found.folder / "metric_removal.parquet")
    chance = curve[(curve["series"] == "random") & (curve["estimator"] == first)].set_index("removed")["loss"]
    for estimator in (first, *others):
        above = [shown(value(found.metrics, f"removal_top_{share}", estimator), 3) for share in SHARES]
        area = shown(value(found.metrics, "removal_area_top", estimator), 3)
        yield [dataset, model, estimator, f"{chance[0.0]:.3f}", f"{chance[SHARES[-1] / 100]:.3f}", *above, area]
