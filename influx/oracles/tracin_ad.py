"""TracInAD by loops over checkpoints, sampled and usual instances."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from influx.influence import Influence
from influx.models.mlp import MLP
from influx.oracles import plain
from influx.oracles.checkpoints import LOOP, checkpoint_weights, contributions, dot, toys
from influx.oracles.comparison import Comparison, compare
from influx.oracles.plain import Array
from influx.oracles.toys import Toy, table, train
from influx.streams import stream

SAMPLES, REFERENCE, LARGER = 5, 19, 23  # the last: training instances of the toy with more than the reference


def tracin_ad(below: Path) -> Iterator[Comparison]:
    """The mean of TracInCP; loops over samples and what is usual; the mean alone, by forward-mode passes."""
    for kind, toy in toys(below):
        cp, found = toy.estimate("tracincp"), toy.estimate("tracin_ad")
        yield compare(f"mean of tracincp over all training instances, {kind}", _column(found, "mean"), _mean(cp), 1e-12)
        values, own = contributions(toy, checkpoint_weights(toy), lambda module, step: dot)
        yield compare(f"autograd loop, {kind}", found.values, values.sum(0), LOOP)
        assert found.self_influence is not None
        yield compare(f"autograd loop on itself, {kind}", found.self_influence, own.sum(0), LOOP)
        for fresh in (True, False):
            yield from _sampled(f"fresh={fresh}, {kind}", toy, fresh)
    larger = train(below, table(n_train=LARGER), MLP(width=5), schedule="cosine", warmup_steps=2)
    yield from _sampled("more instances than the reference", larger, fresh=True)
    yield from _in_tails(larger)


def _sampled(told: str, toy: Toy, fresh: bool) -> Iterator[Comparison]:
    """A sample at every checkpoint."""
    weights, n = checkpoint_weights(toy), len(toy.train)
    rng = stream(toy.problem.seed, "tracin_ad/samples")
    by_id = sorted(range(n), key=lambda row: toy.train.ids[row])
    orders = [[by_id[i] for i in rng.permutation(n)[:SAMPLES]] for _ in range(len(weights) if fresh else 1)]
    draws, usual = np.zeros((SAMPLES, len(toy.test))), np.zeros((SAMPLES, n))
    sums, shares = np.zeros((n, len(toy.test))), np.zeros(n)
    for c, (step, weight) in enumerate(weights.items()):
        module, sample = toy.module(step), orders[c if fresh else 0]
        mine, theirs = (plain.gradients(toy, module, split) for split in (toy.train, toy.test))
        for place, i in enumerate(sample):
            for j, h in enumerate(theirs):
                draws[place, j] += weight * dot(mine[i], h)
                sums[i, j] += weight * dot(mine[i], h)
            for j, h in enumerate(mine):
                others = [dot(mine[k], h) for k in sample if k != j]
                usual[place, j] += weight * (float(np.mean(others)) if i == j else dot(mine[i], h))
            shares[i] += weight
    with np.errstate(invalid="ignore", divide="ignore"):
        values = sums * (sum(weights.values()) / shares)[:, None]
    given = {"samples": SAMPLES, "fresh": fresh, "reference": REFERENCE}
    for aggregate in ("mean",) if fresh else ("mean", "quantile"):
        found = toy.estimate("tracin_ad", aggregate=aggregate, level=0.7, **given)
        expected = [_aggregated(part, aggregate) for part in (draws, usual)]
        yield compare(f"{aggregate} of the sample, {told}", _column(found, "score"), expected[0], LOOP)
        reference = found.tables["anomaly_reference"]
        at = np.flatnonzero(np.isin(toy.train.ids, reference["train_id"]))
        yield Comparison(f"{aggregate}: size of the reference, {told}", float(len(at) - min(REFERENCE, n)), 0.0)
        own = f"{aggregate} without what an instance does to itself, {told}"
        yield compare(own, reference["score"], expected[1][at], LOOP)
    if not fresh:
        yield compare(f"deviation of the sample, {told}", _column(found, "deviation"), draws.std(0, ddof=1), 1e-8)
    drawn = shares > 0
    yield compare(f"values of sampled instances, {told}", found.values[drawn], values[drawn], LOOP)
    known = float(np.isfinite(found.values[~drawn]).sum())
    yield Comparison(f"values of instances that were not sampled, {told}", known, 0.0)
    alone = toy.estimate("tracin_ad", distribution=False, **given)
    yield compare(f"mean alone, {told}", _column(alone, "score"), draws.mean(0), 1e-12)
    yield compare(
        f"usual mean alone, {told}", alone.tables["anomaly_reference"]["score"], _aggregated(usual, "mean")[at], 1e-12
    )


def _in_tails(toy: Toy) -> Iterator[Comparison]:
    """P-values by counting."""
    for tail in ("upper", "lower", "two-sided"):
        for against in ("train", "test"):
            found = toy.estimate("tracin_ad", tail=tail, against=against, reference=REFERENCE)
            scores = _column(found, "score")
            usual = scores if against == "test" else _array(found.tables["anomaly_reference"]["score"])
            extra = 0 if against == "test" else 1
            expected = []
            for score in scores:
                above = (extra + sum(u >= score for u in usual)) / (extra + len(usual))
                below = (extra + sum(u <= score for u in usual)) / (extra + len(usual))
                expected.append({"upper": above, "lower": below, "two-sided": min(1.0, 2 * min(above, below))}[tail])
            yield compare(
                f"p-values by counting, {tail} tail against {against}", _column(found, "p_value"), expected, 1e-14
            )


def _aggregated(parts: Array, aggregate: str) -> Array:
    """Of each column; the 0.7 quantile is the smallest number with such a share at or below it."""
    if aggregate == "mean":
        return np.asarray(parts.mean(axis=0))
    return np.asarray(np.quantile(parts, 0.7, axis=0, method="inverted_cdf"))


def _mean(influence: Influence) -> Array:
    return np.asarray(influence.values.mean(axis=0))


def _column(influence: Influence, name: str) -> Array:
    return _array(influence.tables["anomaly"][name])


def _array(column: pd.Series[float]) -> Array:
    return np.asarray(column, np.float64)
