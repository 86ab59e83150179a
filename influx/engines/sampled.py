"""Samples of retrained models: trained in stages, read block by block, refused when too few."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from influx.engines.contrasts import APART, difference, pairs_of
from influx.engines.risk_sums import Array, Pool
from influx.engines.risks import Target, check_target, risks
from influx.errors import ConfigError
from influx.planning import Prospect, Work
from influx.problem import Data, Design

if TYPE_CHECKING:
    from influx.run import Run

Sides = tuple[NDArray[np.int64], NDArray[np.int64]]
Blocks = Iterator[tuple[NDArray[np.int64], Array, Array]]
CLUSTERS = 10  # sets of seeds at most, each with a matrix of its own
FIRST_STAGE = 100  # models after which target_stderr is looked at for the first time; then their number doubles


@dataclass(frozen=True, kw_only=True)
class Seeded:
    """Settings of estimators that average over models, whose seeds take turns."""

    seeds: int = 1
    target: Target = "loss"

    def __post_init__(self) -> None:
        """Check ranges."""
        check_target(self.target)

    def check_seeds(self, name: str, models: int) -> None:
        """Refuse more seeds than models.

        Raises:
            ConfigError: naming the settings.
        """
        if not 1 <= self.seeds <= models:
            raise ConfigError(
                f"estimator.seeds must be between 1 and estimator.{name}={models}, got {self.seeds}; change it"
            )


@dataclass(frozen=True, kw_only=True)
class Subsampled(Seeded):
    """Settings of estimators that train on random subsets, all or until a standard error is small."""

    models: int = 1000
    target_stderr: float | None = None

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if self.models < 4:
            raise ConfigError(f"estimator.models must be at least 4, got {self.models}; raise it")
        self.check_seeds("models", self.models)
        if self.target_stderr is not None and not self.target_stderr > 0:
            raise ConfigError(f"estimator.target_stderr must be above 0 or null, got {self.target_stderr}; change it")


def clusters_of(run: Run | Prospect, design: Design) -> int:
    """Sets of models that share no seed, inside which models are compared; 0 where they are of no use.

    That is when seeds have no effect, when there is 1, or when every model has its own.
    """
    seeds = len(np.unique(design.init))
    if getattr(run.problem.learner, "deterministic", False) or seeds in (1, len(design)):
        return 0
    return min(seeds, CLUSTERS)


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
    by_seed: bool = True,
) -> tuple[list[Pool], int]:
    """Train the design, or as much of it as is needed; one pool per stratum, and the number of models.

    With ``until``, models are trained in stages until the median standard error, from the draw of subsets, of the
    influence on the mean over test instances is at most ``until``, and they are ``least`` or more. ``paired`` as in
    ``pairs_of``; ``by_seed`` keeps models of different seeds apart where that is of use.
    """
    group = np.zeros(len(design), np.int64) if strata is None else strata
    n, m, clusters = len(run.train), len(run.test), clusters_of(run, design) if by_seed else 0
    pools = [Pool(n, m, run.zeros, clusters) for _ in range(int(group.max()) + 1)]
    used = 0
    for end in _stages(len(design), until, least):
        for part, tests, train in blocks(run, design.rows(slice(used, end)), target, label):
            rows = used + part
            for number, pool in enumerate(pools):
                which = group[rows] == number
                if which.any():
                    chosen = rows[which]
                    pool.add(design.weights[chosen] > 0, tests[which], train[which], design.init[chosen])
        used = end
        fewest = min(fewest_of(pools, paired))
        if until is not None and fewest > 1:
            if np.median(difference(pairs_of(pools, "joint", paired)).design) <= until:
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
    return {
        "models": used,
        "fewest_models_with": fewest_in,
        "fewest_models_without": fewest_out,
        "target": target,
        "stderr_holds": f"draw of subsets, {_training(design.init[:used])}; {APART}",
    }


def _training(seed: NDArray[np.int64]) -> str:
    """What of the randomness of training a standard error holds: models that share a seed err together."""
    seeds = len(np.unique(seed))
    if seeds == len(seed):
        return "randomness of training (every model has its own seed)"
    if seeds > 1:
        return f"these {seeds} seeds of training, but not that other seeds would have other effects"
    return "no randomness of training (one seed)"


def sampling_work(design: Design, n: int, m: int, pools: int, formula: str, clusters: int = 0) -> Work:
    """Trainings, and two products per model with matrices (n, m), in two accumulators per pool and two results.

    With ``clusters`` of seeds one product, one result and an accumulator for each more.
    """
    products = 3 if clusters else 2
    return Work(
        trainings=(design,),
        flops=products * 4.0 * len(design) * n * m,
        numbers=4.0 * pools * n * m + 2.0 * pools * clusters * n * m,
        bytes=(2.0 + products + (2.0 + clusters) * pools) * 8.0 * n * m + 1.0 * len(design) * n,
        formula=formula,
    )
