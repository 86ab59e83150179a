"""Samples of retrained models: trained in stages, read block by block, refused when too few."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from influx.engines.contrasts import Array, Pool, difference, pairs_of
from influx.engines.risks import Target, check_target, risks
from influx.errors import ConfigError
from influx.planning import Work
from influx.problem import Data, Design

if TYPE_CHECKING:
    from influx.run import Run

Sides = tuple[NDArray[np.int64], NDArray[np.int64]]
Blocks = Iterator[tuple[NDArray[np.int64], Array, Array]]
FIRST_STAGE = 100  # models after which target_stderr is looked at for the first time; then their number doubles


def blocks(run: Run, design: Design, target: Target, label: str) -> Blocks:
    """Rows of the design with the risks of their models on test (rows, m) and train (rows, n)."""
    for rows, train, test in run.retrain.parts(design, label):
        yield rows, risks(test, run.test, target), risks(train, run.train, target)


def gather(
    run: Run,
    design: Design,
    strata: NDArray[np.int64] | None,
    target: Target,
    until: float | None = None,
    least: int = 0,
    *,
    label: str,
    paired: bool = False,
) -> tuple[list[Pool], int]:
    """Train the design, or as much of it as is needed; one pool per stratum, and the number of models.

    With ``until``, models are trained in stages until the median standard error of the influence on the mean over
    test instances is at most ``until``, and they are ``least`` or more. ``paired`` as in ``pairs_of``.
    """
    group = np.zeros(len(design), np.int64) if strata is None else strata
    pools = [Pool(len(run.train), len(run.test), run.zeros) for _ in range(int(group.max()) + 1)]
    used = 0
    for end in _stages(len(design), until, least):
        for part, tests, train in blocks(run, design.rows(slice(used, end)), target, label):
            rows = used + part
            for number, pool in enumerate(pools):
                which = group[rows] == number
                if which.any():
                    pool.add(design.weights[rows[which]] > 0, tests[which], train[which])
        used = end
        fewest = min(fewest_of(pools, paired))
        if until is not None and fewest > 1:
            if np.median(difference(pairs_of(pools, "joint", paired)).stderr) <= until:
                break
    return pools, used


def _stages(models: int, until: float | None, least: int) -> Iterator[int]:
    end = models if until is None else min(max(FIRST_STAGE, least), models)
    while end < models:
        yield end
        end = min(2 * end, models)
    yield models


def fewest_of(pools: list[Pool], paired: bool = False) -> tuple[int, int]:
    """Smallest number of models with, and without, an instance in any stratum."""
    pairs = pairs_of(pools, "joint", paired)
    inside = min(int(with_.count.min()) for with_, _ in pairs)
    return inside, min(int(without.models - without.count.max()) for _, without in pairs)


def check_sampling(models: int, seeds: int, target: str, target_stderr: float | None) -> None:
    """Refuse settings that every sampled estimator has.

    Raises:
        ConfigError: naming the setting.
    """
    check_target(target)
    if models < 4:
        raise ConfigError(f"estimator.models must be at least 4, got {models}; raise it")
    if not 1 <= seeds <= models:
        raise ConfigError(f"estimator.seeds must be between 1 and estimator.models={models}, got {seeds}; change it")
    if target_stderr is not None and not target_stderr > 0:
        raise ConfigError(f"estimator.target_stderr must be above 0 or null, got {target_stderr}; change it")


def check_counts(sides: Sides, data: Data, target: str) -> None:
    """Refuse a sample in which an instance has fewer than 2 models on a side: there is no standard error.

    Args:
        sides: numbers of models with, and without each instance.
        data: the problem's.
        target: must be one that these data have.

    Raises:
        ConfigError: naming the setting.
    """
    check_target(target, data)
    fewest_in, fewest_out = (int(side.min()) for side in sides)
    if min(fewest_in, fewest_out) < 2:
        raise ConfigError(
            "every training instance needs 2 models trained with it and 2 without it, and one has "
            f"{fewest_in} with or {fewest_out} without; raise estimator.models"
        )


def sides_of(masks: NDArray[np.bool_], strata: NDArray[np.int64] | None = None) -> Sides:
    """``(strata, n)`` models with, and models without each instance."""
    group = np.zeros(len(masks), np.int64) if strata is None else strata
    parts = [masks[group == number] for number in range(int(group.max(initial=0)) + 1)]
    return np.stack([p.sum(axis=0) for p in parts]), np.stack([(~p).sum(axis=0) for p in parts])


def described(used: int, pools: list[Pool], target: Target, design: Design, paired: bool = False) -> dict[str, Any]:
    """What the report says of a sample of models."""
    fewest_in, fewest_out = fewest_of(pools, paired)
    apart = "the draw of test instances is apart, in table joint"
    return {
        "models": used,
        "fewest_models_with": fewest_in,
        "fewest_models_without": fewest_out,
        "target": target,
        "stderr_holds": f"draw of subsets, {_training(design.init[:used])}; {apart}",
    }


def _training(seed: NDArray[np.int64]) -> str:
    """What of the randomness of training a standard error holds: models that share a seed err together."""
    seeds = len(np.unique(seed))
    if seeds == len(seed):
        return "randomness of training (every model has its own seed)"
    if seeds > 1:
        return f"these {seeds} seeds of training, but not that other seeds would have other effects"
    return "no randomness of training (one seed)"


def sampling_work(design: Design, n: int, m: int, pools: int, formula: str) -> Work:
    """Trainings, and two products per model with matrices (n, m), in two accumulators per pool and two results."""
    return Work(
        trainings=(design,),
        flops=2 * 4.0 * len(design) * n * m,
        numbers=4.0 * pools * n * m,
        bytes=(4.0 + 2.0 * pools) * 8.0 * n * m + 1.0 * len(design) * n,
        formula=formula,
    )
