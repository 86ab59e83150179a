"""BoostIn, or the refit of averaged trees, against leave-one-out by retraining on whole datasets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.stats import spearmanr
from study_trees_cases import AVERAGED, problem, shown
from study_trees_verdicts import ESTIMATORS, estimators

from influx.config import compose
from influx.engines import subsets
from influx.job import assemble
from influx.oracles.toys import estimator_named, learned
from influx.problem import Problem

HEAD = (
    *("dataset", "model", "n", "s of one training", "s of LOO", "estimator", "s with reading", "× faster"),
    *("s once read", "× faster", "Spearman with LOO", "pooled Pearson"),
)
SECONDS_HEAD = ("dataset", "model", "estimator", "seconds", "× faster than LOO", "seconds once read")
REPEATS = 15
ENOUGH = 2.0  # seconds, after which an estimate is not repeated


def row(model: str, dataset: str, folder: str, removed: int) -> list[str]:
    """LOO of some instances, times n over their number, and the fastest of some whole estimates.

    With reading: the trees are read from the library anew and checked. Once read: the estimator alone, on that forest.
    Seconds are those of the processor. Agreement is over the removed instances.
    """
    name = "leaf_refit" if model in AVERAGED else "boostin"
    made = _problem(model, dataset, folder)
    n, which, truth, each = _left_out(made, removed)
    values, whole, own = _timed(made, folder, name, {})
    found, loo = values[which], n * each
    told = [f"{n:,}", f"{each:.3f}", f"{loo:,.1f}", name]
    told += [cell for s in (whole, own) for cell in (f"{s:.4f}", f"{loo / s:,.0f}")]
    pearson = np.corrcoef(found.ravel(), truth.ravel())[0, 1]
    return [dataset, model, *told, _spearman(found, truth), f"{pearson:.3f}"]


def rows(model: str, dataset: str, folder: str, removed: int) -> Iterator[list[str]]:
    """All estimators on the problems of the verdicts."""
    made = _problem(model, dataset, folder, fewer=True)
    n, _, _, each = _left_out(made, removed)
    for shown_as in estimators(model, dataset):
        chosen, *given = (part.split("=") for part in ESTIMATORS[shown_as])
        settings = {key.removeprefix("estimator."): yaml.safe_load(told) for key, told in given}
        _, whole, own = _timed(made, folder, chosen[1], settings)
        yield [dataset, model, shown_as, f"{whole:.4f}", f"{n * each / whole:,.0f}", f"{own:.4f}"]


def _problem(model: str, dataset: str, folder: str, fewer: bool = False) -> Problem:
    asked = ["baselines=[]", "truth=none", "metric=[removal]", f"paths.outputs={folder}"]
    return assemble(compose([*problem(model, dataset, fewer), "estimator=random", *asked])).problem


def _left_out(made: Problem, removed: int) -> tuple[int, NDArray[np.int64], NDArray[np.float64], float]:
    """n, which instances were removed, their effects (removed, m), and seconds for each."""
    n, learner = len(made.train), made.learner
    which = np.sort(np.random.default_rng(0).choice(n, min(removed, n), replace=False))
    design = subsets.leave_one_out(n, which, 0, "full")
    whole = learner.retrain(made.data, 0, design.rows(slice(0, 1)))[1].loss
    start = time.process_time()
    without = learner.retrain(made.data, 0, design.rows(slice(1, None)))[1].loss
    each = (time.process_time() - start) / len(which)
    return n, which, without.astype(np.float64) - whole, each


def _timed(
    made: Problem, folder: str, name: str, settings: dict[str, object]
) -> tuple[NDArray[np.float64], float, float]:
    """Values, and least seconds with and without reading the trees."""
    whole, own = [], []
    for _ in range(REPEATS):
        toy = learned(Path(folder) / "speed", made.data, made.learner)  # trained once, then read from its file
        estimator = estimator_named(name, settings)
        run = toy.run(estimator, name)
        start = time.process_time()
        _ = run.forest
        middle = time.process_time()
        values = estimator.estimate(run).values
        end = time.process_time()
        whole.append(end - start)
        own.append(end - middle)
        if sum(whole) > ENOUGH:
            break
    return np.asarray(values), min(whole), min(own)


def _spearman(found: NDArray[np.float64], truth: NDArray[np.float64]) -> str:
    """Mean over test instances, with its 95 % interval."""
    pairs = [(a, b) for a, b in zip(found.T, truth.T, strict=True) if np.ptp(a) > 0 and np.ptp(b) > 0]
    each = np.array([spearmanr(a, b).statistic for a, b in pairs])
    half = 1.96 * each.std(ddof=1) / np.sqrt(len(each))
    return shown((float(each.mean()), float(each.mean() - half), float(each.mean() + half)))
