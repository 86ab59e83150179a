"""Tree methods against leave-one-out by retraining, random halves and flipped labels."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray
from study_trees_cases import AVERAGED, problem, value

import influx
from influx.learners.trees.fitted import flat
from influx.learners.trees.learner import TreeLearner
from influx.problem import Data

REMOVED = 20
HEAD = (
    *("dataset", "model", "estimator", "Spearman with LOO", "pooled Pearson", "LDS", "mislabel AUROC"),
    *("seconds", "× faster than LOO"),
)
ESTIMATORS = {
    "leaf_refit": ["estimator=leaf_refit"],
    "leaf_refit, base too": ["estimator=leaf_refit", "estimator.refit_base=true"],
    "leaf_influence": ["estimator=leaf_influence"],
    "leaf_influence, single": ["estimator=leaf_influence", "estimator.update_set=single"],
    "boostin": ["estimator=boostin"],
    "trex": ["estimator=trex"],
    "tree_similarity": ["estimator=tree_similarity"],
}
ANY_TREES = ("leaf_refit", "trex", "tree_similarity")  # averaged ones too


def estimators(model: str, dataset: str) -> list[str]:
    """Those that take the model."""
    if model in AVERAGED:
        return list(ANY_TREES)
    zero = model == "catboost" and dataset != "diabetes"  # it starts from 0
    return [name for name in ESTIMATORS if not (zero and name == "leaf_refit, base too")]


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
    ensemble = learner.predictor(data, flat(data.train), weights, 0, learner.in_place).ensemble
    assert ensemble is not None
    return ensemble.leaves(flat(data.train))


def alike(left: NDArray[np.int32], right: NDArray[np.int32]) -> bool:
    """Whether two numberings part the instances alike."""
    pairs = len(np.unique(np.stack([left, right]), axis=1).T)
    return pairs == len(np.unique(left)) == len(np.unique(right))


def row(model: str, dataset: str, estimator: str, folder: str, truths: dict[tuple[str, str], float]) -> list[str]:
    """Run it with truth, and on flipped labels."""
    common = [*problem(model, dataset, fewer=True), *ESTIMATORS[estimator], "baselines=[]", f"paths.outputs={folder}"]
    agreed = influx.run([*common, "truth=loo", "truth.ceiling_budget=0", "metric=[agreement,lds]"])
    cost = agreed.record.manifest["cost"]
    if (model, dataset) not in truths:  # those that follow read it
        truths[model, dataset] = float(cost["truth"]["seconds"])
        print(
            f"{dataset}, {model}: {truths[model, dataset]:.1f} s of truth, {kept(agreed):.2f} of trees kept", flush=True
        )
    name, auroc = ESTIMATORS[estimator][0].partition("=")[2], ""
    if dataset != "diabetes" and name != "tree_similarity":
        flipped = influx.run([*common, "corruption=label_noise", "truth=none", "metric=[mislabel]"])
        auroc = f"{value(flipped.metrics, 'mislabel_auroc_self')[0]:.2f}"
    seconds, metrics = float(cost[name]["seconds"]), agreed.metrics
    middle, low, high = value(metrics, "spearman")
    pearson, lds = (value(metrics, column)[0] for column in ("pooled_pearson", "lds"))
    numbers = [f"{middle:.3f} [{low:.2f}, {high:.2f}]", f"{pearson:.3f}", f"{lds:.2f}", auroc, f"{seconds:.3f}"]
    return [dataset, model, estimator, *numbers, f"{truths[model, dataset] / max(seconds, 1e-3):,.0f}"]
