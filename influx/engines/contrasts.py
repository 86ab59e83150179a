"""Risks of models trained without an instance minus those of models trained with it: values and standard errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from influx.engines.risk_sums import Array, Pool, Side, Sums, chunks, clustered
from influx.engines.risks import Target
from influx.influence import Influence, Scale

if TYPE_CHECKING:
    import pandas as pd

    from influx.run import Run

FEWEST_CLUSTERS = 3  # of seeds, whose spread is an error
APART = "the draw of test instances is apart, in table joint"


@dataclass(frozen=True)
class Difference:
    """Mean risk without minus mean risk with each instance, and standard errors.

    ``design`` is from the draw of models, under these seeds; ``stderr`` also from the draw of seeds, where there are
    three ``clusters`` of them or more.
    """

    values: Array
    stderr: Array
    design: Array
    clusters: int


def difference(
    pairs: list[tuple[Sums, Sums]], weights: list[Array] | None = None, zeros: Callable[[], Array] | None = None
) -> Difference:
    """Average over strata of the mean risk of models without minus that of models with each instance.

    With clusters of seeds it is the average of the differences inside them, so that the level of a seed is no noise.

    Args:
        pairs: for each stratum, where the models with and where those without an instance are counted.
        weights: for each stratum (n, 1), relative; None weighs strata alike. With weights, a stratum has one variance
            for its models with and without an instance, so that one model on a side is enough.
        zeros: makes the results; None means in memory.
    """
    shape, clusters = pairs[0][0].risk.shape, clusters_in(pairs, some=weights is not None)
    make = zeros or (lambda: np.zeros(shape))
    values, design = make(), make()
    stderr = make() if clusters >= FEWEST_CLUSTERS else design
    for rows in chunks(shape[0]):
        each = [np.ones((1, 1))] * len(pairs) if weights is None else [weight[rows] for weight in weights]
        mean, variance, total = np.zeros((3, 1, 1))
        pulls = [np.zeros((1, 1)) for _ in range(clusters)]
        for weight, (with_, without) in zip(each, pairs, strict=True):
            if clusters:
                gap, error, share, parts = _by_seed(with_, without, rows, clusters)
                weight = weight * (share > 0)
                pulls = [pull + weight * part for pull, part in zip(pulls, parts, strict=True)]
            else:
                inside, outside = with_.sides(rows)[0], without.sides(rows)[1]
                gap, error = outside.mean - inside.mean, _error(inside, outside, common=weights is not None)
            mean, variance, total = mean + weight * gap, variance + weight**2 * error, total + weight
        values[rows], design[rows] = mean / total, np.sqrt(variance) / total
        if clusters >= FEWEST_CLUSTERS:
            stderr[rows] = clustered(pulls) / total
    return Difference(values, stderr, design, clusters)


def clusters_in(pairs: list[tuple[Sums, Sums]], some: bool) -> int:
    """Clusters of seeds, if inside one of them every instance has models on both sides in all (``some``) strata."""
    clusters = len(pairs[0][0].clusters)
    if not clusters:
        return 0
    known = [
        np.any([(a.count > 0) & (b.models > b.count) for a, b in zip(x.clusters, y.clusters, strict=True)], axis=0)
        for x, y in pairs
    ]
    enough = np.any(known, axis=0) if some else np.all(known, axis=0)
    return clusters if enough.all() else 0


def _by_seed(with_: Sums, without: Sums, rows: slice, clusters: int) -> tuple[Array, Array, Array, list[Array]]:
    """Mean of the differences inside clusters, which have no level of a seed in them, and what it is made of.

    Returns the mean with weights k_in k_out / (k_in + k_out), the least variable one; its squared standard error from
    the draw of models; the sum of weights; and what each cluster adds to the error.
    """
    mean, variance, total = np.zeros((3, 1, 1))
    parts, spread_in, spread_out = [], with_.within(rows)[0], without.within(rows)[1]
    for number in range(clusters):
        (count_in, mean_in), (count_out, mean_out) = with_.apart(rows, number)[0], without.apart(rows, number)[1]
        both = np.maximum(count_in + count_out, 1)
        weight, gap = count_in * count_out / both, mean_out - mean_in
        mean, total = mean + weight * gap, total + weight
        variance = variance + weight * (count_out * spread_in + count_in * spread_out) / both
        parts.append((weight, gap))
    some = np.where(total > 0, total, 1.0)
    mean = mean / some
    return mean, variance / some**2, total, [weight * (gap - mean) / some for weight, gap in parts]


def _error(inside: Side, outside: Side, common: bool) -> Array:
    """Squared standard error of a difference of means: Welch's, or with one common variance."""
    if not common:
        return inside.variance / np.maximum(inside.models, 1) + outside.variance / np.maximum(outside.models, 1)
    squares = sum(side.variance * np.maximum(side.models - 1, 0) for side in (inside, outside))
    variance = squares / np.maximum(inside.models + outside.models - 2, 1)
    return variance * sum(1 / np.maximum(side.models, 1) for side in (inside, outside))


def joint_table(
    ids: NDArray[np.int64],
    values: Array,
    joint: NDArray[Any],
    stderr: NDArray[Any],
    with_seeds: NDArray[Any] | None = None,
) -> pd.DataFrame:
    """Influence on the mean risk of the test instances.

    ``stderr_design`` is from the draw of models, ``stderr`` (where it is known) from that and the draw of seeds,
    ``stderr_test`` from the draw of test instances: the deviation of pointwise ``values`` (n, m) over them.
    """
    import pandas as pd

    m, spread = values.shape[1], np.full(len(values), np.nan)
    if m > 1:
        for rows in chunks(len(values)):
            spread[rows] = values[rows].std(axis=1, ddof=1) / np.sqrt(m)
    columns = {"influence": joint.ravel(), "stderr_design": stderr.ravel(), "stderr_test": spread}
    columns |= {"stderr": with_seeds.ravel()} if with_seeds is not None else {}
    return pd.DataFrame({"train_id": ids} | columns)


def memorization_table(ids: NDArray[np.int64], own: Array, stderr: Array) -> pd.DataFrame:
    """Influence of each training instance on itself with its standard error."""
    import pandas as pd

    return pd.DataFrame({"train_id": ids, "influence": own.ravel(), "stderr": stderr.ravel()})


def pairs_of(pools: list[Pool], part: str, paired: bool = False) -> list[tuple[Sums, Sums]]:
    """For each stratum the sums in which models with, and those in which models without an instance are counted.

    ``paired``: the first pool holds the models with, the second the models without an instance.
    """
    sums: list[Sums] = [getattr(pool, part) for pool in pools]
    return [(sums[0], sums[1])] if paired else [(each, each) for each in sums]


def contrast(
    run: Run,
    pools: list[Pool],
    target: Target,
    *,
    paired: bool = False,
    weights: list[Array] | None = None,
    report: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame] | None = None,
) -> Influence:
    """Influence, memorization and joint influence by differences of mean risks; arguments as in ``difference``."""
    pointwise, joint, own = (
        difference(pairs_of(pools, part, paired), weights, zeros)
        for part, zeros in (("tests", run.zeros), ("joint", None), ("own", None))
    )
    by_seed, said = joint.stderr if joint.clusters >= FEWEST_CLUSTERS else None, dict(report)
    if by_seed is not None:
        said |= seeds_held(joint)
    found = {
        "joint": joint_table(run.train.ids, pointwise.values, joint.values, joint.design, by_seed),
        "memorization": memorization_table(run.train.ids, own.values, own.stderr),
    }
    return run.influence(
        pointwise.values,
        scale=scale_of(target),
        stderr=pointwise.stderr,
        self_influence=own.values.ravel(),
        tables=found | dict(tables or {}),
        report=said,
    )


def seeds_held(joint: Difference) -> dict[str, Any]:
    """What the report says of errors that hold the draw of seeds, and which part of them the draw of models leaves."""
    whole = float(np.square(joint.stderr).mean())
    return {
        "stderr_holds": f"draw of subsets and randomness of training, from {joint.clusters} sets of models that share "
        f"no seed; {APART}; the draw of subsets alone is there too",
        "stderr_degrees": joint.clusters - 1,
        "variance_from_seeds": max(0.0, 1 - float(np.square(joint.design).mean()) / whole) if whole else 0.0,
    }


def scale_of(target: Target) -> Scale:
    """Differences of losses are in loss units, others only rank."""
    return "loss" if target == "loss" else "rank"
