"""The tree-influence package on one problem; run by ``bench_trees.py`` with an interpreter that has it.

Writes an npz: the trees as arrays (leaves of training and test instances, values, base, rate, l2), seconds of every
explainer (``fit`` and ``explain``, of the fastest of some repeats), and its values.
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial

import numpy as np

ROWS = {"regression": 1, "binary": 1, "multiclass": 3}
REPEATS = 3  # of what is timed, here and in influx; the fastest counts


def data(task, n, m, d=20):
    """Noisy quadratic problem of which trees keep finding more."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n + m, d)).astype(np.float32).astype(np.float64)
    score = x[:, 0] + x[:, 1] * x[:, 2] + 0.5 * x[:, 3] ** 2 + rng.normal(size=n + m)
    if task == "regression":
        y = score
    else:
        y = np.searchsorted(np.quantile(score, [0.5] if task == "binary" else [1 / 3, 2 / 3]), score)
    return x[:n], y[:n], x[n:], y[n:]


def model(library, task, trees):
    """An untrained model of the package's library."""
    if library == "lightgbm":
        import lightgbm

        made = lightgbm.LGBMRegressor if task == "regression" else lightgbm.LGBMClassifier
        return made(n_estimators=trees, n_jobs=1)
    import xgboost

    made = xgboost.XGBRegressor if task == "regression" else xgboost.XGBClassifier
    more = {} if task == "regression" else {"use_label_encoder": False}
    return made(n_estimators=trees, n_jobs=1, max_depth=5, base_score=0.5, **more)


def explained(made, trained, train, test, repeats):
    """The explainer, its values, and seconds of ``fit`` and of ``get_local_influence`` in the fastest repeat."""
    best = None
    for _ in range(repeats):
        start = time.process_time()
        explainer = made().fit(trained, *train)
        middle = time.process_time()
        values = explainer.get_local_influence(*test)
        took = np.array([middle - start, time.process_time() - middle])
        if best is None or took.sum() < best.sum():
            best = took
    return explainer, values, best


def main():
    """Arguments: a JSON object with library, task, n, m, trees, explainers, repeats and out."""
    import tree_influence.explainers as peers

    asked = json.loads(sys.argv[1])
    x, y, x_test, y_test = data(asked["task"], asked["n"], asked["m"])
    trained = model(asked["library"], asked["task"], asked["trees"]).fit(x, y)
    kept = {}
    for name, settings in asked["explainers"].items():
        made = partial(getattr(peers, name), **settings)
        explainer, kept[name], kept[name + "_seconds"] = explained(
            made, trained, (x, y), (x_test, y_test), asked["repeats"]
        )
    forest = explainer.model_
    kept["train_leaves"] = np.asarray(forest.apply(x))  # (n, rounds, outputs)
    kept["test_leaves"] = np.asarray(forest.apply(x_test))
    kept["values"] = np.concatenate([tree.get_leaf_values() for tree in forest.trees.ravel()])
    kept["sizes"] = np.asarray(forest.get_leaf_counts())
    kept["base"] = np.broadcast_to(np.asarray(forest.bias, float), (ROWS[asked["task"]],))
    kept["rule"] = np.array([forest.learning_rate, forest.l2_leaf_reg, forest.factor])
    kept["y"], kept["y_test"] = y, y_test
    np.savez(asked["out"], **kept)


if __name__ == "__main__":
    main()
