"""BoostIn, or the refit of averaged trees, against leave-one-out by retraining on whole datasets.

Seconds are those of the processor, on one thread.

LOO: the library's training without an instance, then predictions for all training and test instances, by arrays made
of the trees where the library is scikit-learn. It is the mean over some removals, times n.

With reading: all that influx does between a model as training left it in the library's memory and the values. Its
structure is read into arrays, the library is asked for the leaves of all instances, all leaf values are recomputed and
margins of some instances compared, then the estimator runs; the median of some repeats, each on a model trained anew.
Once read: the estimator alone on that forest.

In neither: loading the data, imports, and files: LOO's models never leave memory either.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from scipy.stats import spearmanr
from study_trees_cases import AVERAGED, problem, shown
from study_trees_verdicts import ESTIMATORS, estimators

from influx.config import compose
from influx.engines import subsets
from influx.job import assemble
from influx.learners.trees.ensemble import Sample
from influx.learners.trees.fitted import TreesFitted, flat
from influx.learners.trees.nodes import Nodes
from influx.oracles.toys import Toy, estimator_named, learned
from influx.problem import Problem

HEAD = (
    *("dataset", "model", "n", "s of one training", "s of LOO", "estimator", "s with reading", "× faster"),
    *("s once read", "× faster", "Spearman with LOO", "pooled Pearson"),
)
SECONDS_HEAD = ("dataset", "model", "estimator", "seconds", "× faster than LOO", "seconds once read")
REPEATS = 15
ENOUGH = 2.0  # seconds, after which an estimate is not repeated
GROWN = 5  # times, for what growing takes beside the library's own training
TASKS = ("Classifier", "Regressor")


def row(model: str, dataset: str, folder: str, removed: int) -> list[str]:
    """LOO of some instances, times n over their number, and the median of some whole estimates.

    Agreement is over the removed instances.
    """
    name = "leaf_refit" if model in AVERAGED else "boostin"
    made = _problem(model, dataset, folder)
    n, which, truth, each = _left_out(made, removed)
    values, whole, own = _timed(made, folder, name, {}, _converted(made))
    found, loo = values[which], n * each
    told = [f"{n:,}", f"{each:.3f}", f"{loo:,.1f}", name]
    told += [cell for s in (whole, own) for cell in (f"{s:.4f}", f"{loo / s:,.0f}")]
    pearson = np.corrcoef(found.ravel(), truth.ravel())[0, 1]
    return [dataset, model, *told, _spearman(found, truth), f"{pearson:.3f}"]


def rows(model: str, dataset: str, folder: str, removed: int) -> Iterator[list[str]]:
    """All estimators on the problems of the verdicts."""
    made = _problem(model, dataset, folder, fewer=True)
    n, _, _, each = _left_out(made, removed)
    converted = _converted(made)
    for shown_as in estimators(model, dataset):
        chosen, *given = (part.split("=") for part in ESTIMATORS[shown_as])
        settings = {key.removeprefix("estimator."): yaml.safe_load(told) for key, told in given}
        _, whole, own = _timed(made, folder, chosen[1], settings, converted)
        yield [dataset, model, shown_as, f"{whole:.4f}", f"{n * each / whole:,.0f}", f"{own:.4f}"]


def again(toy: Toy) -> Toy:
    """The same trained model, its structure read from the library anew; nothing read before is kept."""
    fitted = toy.fitted
    predictor = replace(fitted.predictor, ensemble=replace(fitted.ensemble))
    return replace(toy, fitted=replace(fitted, predictor=predictor))


def _problem(model: str, dataset: str, folder: str, fewer: bool = False) -> Problem:
    torch.set_num_threads(1)
    asked = ["baselines=[]", "truth=none", "metric=[removal]", f"paths.outputs={folder}"]
    return assemble(compose([*problem(model, dataset, fewer), "estimator=random", *asked])).problem


def _left_out(made: Problem, removed: int) -> tuple[int, NDArray[np.int64], NDArray[np.float64], float]:
    """n, which instances were removed, their effects (removed, m), and mean seconds of each."""
    n, learner = len(made.train), made.learner
    which = np.sort(np.random.default_rng(0).choice(n, min(removed, n), replace=False))
    design = subsets.leave_one_out(n, which, 0, "full")
    whole = learner.retrain(made.data, 0, design.rows(slice(0, 1)))[1].loss
    start = time.process_time()
    without = learner.retrain(made.data, 0, design.rows(slice(1, None)))[1].loss
    each = (time.process_time() - start) / len(which)
    return n, which, without.astype(np.float64) - whole, each


def _timed(
    made: Problem, folder: str, name: str, settings: dict[str, object], converted: float
) -> tuple[NDArray[np.float64], float, float]:
    """Values, and median seconds with and without reading the trees; ``converted`` seconds are part of reading."""
    estimator, learner, x = estimator_named(name, settings), made.learner, flat(made.data.train)
    toy = learned(Path(folder) / "speed", made.data, learner)
    values = np.asarray(toy.estimate(name, **settings).values)
    whole, own = [], []
    for _ in range(REPEATS):
        trained = learner.predictor(made.data, x, np.ones(len(x)), 0, in_place=False)
        start = time.process_time()
        run = replace(toy, fitted=TreesFitted(learner=learner, predictor=trained)).run(estimator, name)
        _ = run.forest
        middle = time.process_time()
        estimator.estimate(run)
        end = time.process_time()
        del run, trained  # freeing a model is no part of the next one's time
        whole.append(converted + end - start)
        own.append(end - middle)
        if sum(whole) > ENOUGH:
            break
    return values, float(np.median(whole)), float(np.median(own))


def _converted(made: Problem) -> float:
    """Median seconds of making arrays of scikit-learn's trees: all of growing but the library's own training.

    0 for libraries whose model is read as it is. For averaged trees the drawing of their samples is counted too.
    """
    data, learner, spent = made.data, made.learner, []
    y = np.asarray(data.train.y, np.int64 if data.classes else np.float64)
    sample = Sample(x=flat(data.train), y=y, weights=None, classes=len(data.classes))
    for _ in range(GROWN):
        with _training() as training:
            start = time.process_time()
            grown = learner.grow(sample, 0)
            spent.append(time.process_time() - start - sum(training))
        if not isinstance(grown, Nodes):
            return 0.0
    return float(np.median(spent))


@contextmanager
def _training() -> Iterator[list[float]]:
    """Seconds of each training by scikit-learn; one within another counts with it."""
    from sklearn import ensemble, tree

    spent: list[float] = []
    inside: list[Any] = []

    def clocked(fit: Callable[..., Any]) -> Callable[..., Any]:
        def timed(model: Any, *args: Any, **more: Any) -> Any:
            if inside:
                return fit(model, *args, **more)
            inside.append(model)
            start = time.process_time()
            try:
                return fit(model, *args, **more)
            finally:
                spent.append(time.process_time() - start)
                inside.clear()

        return timed

    boosted = [getattr(ensemble, f"{kind}GradientBoosting{task}") for kind in ("", "Hist") for task in TASKS]
    with ExitStack() as stack:
        for made in (*boosted, *(getattr(tree, f"DecisionTree{task}") for task in TASKS)):  # extra trees are theirs
            stack.enter_context(mock.patch.object(made, "fit", clocked(made.fit)))
        yield spent


def _spearman(found: NDArray[np.float64], truth: NDArray[np.float64]) -> str:
    """Mean over test instances, with its 95 % interval."""
    pairs = [(a, b) for a, b in zip(found.T, truth.T, strict=True) if np.ptp(a) > 0 and np.ptp(b) > 0]
    each = np.array([spearmanr(a, b).statistic for a, b in pairs])
    half = 1.96 * each.std(ddof=1) / np.sqrt(len(each))
    return shown((float(each.mean()), float(each.mean() - half), float(each.mean() + half)))
