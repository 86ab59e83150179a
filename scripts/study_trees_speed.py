"""BoostIn, or the refit of averaged trees, against leave-one-out by retraining on whole datasets."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from study_trees_cases import AVERAGED, problem, shown

from influx.config import compose
from influx.engines import subsets
from influx.job import assemble
from influx.oracles.toys import estimator_named, learned

HEAD = (
    *("dataset", "model", "n", "s of one training", "s of LOO", "estimator", "s of it", "of which reading", "× faster"),
    *("Spearman with LOO", "pooled Pearson"),
)


def row(model: str, dataset: str, folder: str, removed: int) -> list[str]:
    """LOO of some instances, times n over their number, and the fastest of three whole estimates.

    An estimate reads the trees from the library anew and checks them. Seconds are those of the processor. Agreement is
    over the removed instances.
    """
    name = "leaf_refit" if model in AVERAGED else "boostin"
    asked = [f"estimator={name}", "baselines=[]", "truth=none", "metric=[removal]", f"paths.outputs={folder}"]
    made = assemble(compose([*problem(model, dataset), *asked]))
    data, learner = made.problem.data, made.problem.learner
    n = len(data.train)
    which = np.sort(np.random.default_rng(0).choice(n, min(removed, n), replace=False))
    design = subsets.leave_one_out(n, which, 0, "full")
    whole = learner.retrain(data, 0, design.rows(slice(0, 1)))[1].loss
    start = time.process_time()
    without = learner.retrain(data, 0, design.rows(slice(1, None)))[1].loss
    each = (time.process_time() - start) / len(which)
    truth = without.astype(np.float64) - whole
    seconds, reading = [], []
    for _ in range(3):
        toy = learned(Path(folder) / "speed", data, learner)  # trained once, then read from its file
        estimator = estimator_named(name)
        run = toy.run(estimator, name)
        start = time.process_time()
        _ = run.forest
        reading.append(time.process_time() - start)
        values = estimator.estimate(run).values
        seconds.append(time.process_time() - start)
    found, best = np.asarray(values)[which], int(np.argmin(seconds))
    told = [f"{n:,}", f"{each:.3f}", f"{n * each:,.1f}", name, f"{seconds[best]:.4f}", f"{reading[best]:.4f}"]
    pearson = np.corrcoef(found.ravel(), truth.ravel())[0, 1]
    return [dataset, model, *told, f"{n * each / seconds[best]:,.0f}", _spearman(found, truth), f"{pearson:.3f}"]


def _spearman(found: NDArray[np.float64], truth: NDArray[np.float64]) -> str:
    """Mean over test instances, with its 95 % interval."""
    pairs = [(a, b) for a, b in zip(found.T, truth.T, strict=True) if np.ptp(a) > 0 and np.ptp(b) > 0]
    each = np.array([spearmanr(a, b).statistic for a, b in pairs])
    half = 1.96 * each.std(ddof=1) / np.sqrt(len(each))
    return shown((float(each.mean()), float(each.mean() - half), float(each.mean() + half)))
