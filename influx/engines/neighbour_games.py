"""Cooperative games of k nearest neighbours, whose values have closed forms in the ranks of instances.

Ranks r = 1..n are those of training instances by distance to a test instance. Members of a random coalition are drawn
independently with probability p, where p is 1/2 (Banzhaf) or has the distribution Beta(beta, alpha); Beta(1, 1) gives
the Shapley value. A value is the expected gain of a coalition by the instance.

Classification, v(S) = (1/k) Σ 1[y = y_te] over the k nearest in S. Two instances of neighbouring ranks differ only in
coalitions where fewer than k nearer members are, so φ_r - φ_(r+1) = (b_r - b_(r+1)) a_r with b = 1[y = y_te] and
a_r = P(fewer than k of r - 1 instances) / k, and φ_n = b_n a_n.

Regression, v(S) = -((1/k) Σ y - t)². With G the sum over the others among the k nearest, the same argument gives
φ_r - φ_(r+1) = -(y_r - y_(r+1)) E[(y_r + y_(r+1) - 2kt + 2G) 1[fewer than k nearer members]] / k²
where E[G 1[...]] weighs y_l by E[p P(fewer than k - 1 of r - 2)] for l < r and by E[p P(fewer than k - 1 of l - 3)] for
l > r + 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from influx.engines.neighbours import Array, Metric, Neighbours
from influx.problem import Split

Utility = Literal["fixed_k", "soft"]
Order = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Coalitions:
    """How members are drawn.

    Attributes:
        alpha: of the distribution Beta(beta, alpha) of the probability; None means probability 1/2.
        beta: the same.
    """

    alpha: float | None = 1.0
    beta: float = 1.0

    def fewer(self, count: int, power: int, most: int) -> Array:
        """E[p^power P(fewer than ``count`` of m instances are members)] for m = 0..most."""
        m = np.arange(most + 1)
        if (self.alpha, self.beta) == (1.0, 1.0):
            h = np.minimum(count, m + 1)
            return np.asarray(h / (m + 1) if power == 0 else h * (h + 1) / (2.0 * (m + 1) * (m + 2)))
        if count == 0:
            return np.zeros(most + 1)
        found = np.full(most + 1, np.exp(self._log_power(power)))
        full = m[count - 1 : -1]  # numbers of instances of which count - 1 may be members; one more may be the next
        if len(full):
            steps = np.log((full[:-1] + 1) / (full[:-1] + 2 - count)) + self._log_step(full[:-1], count - 1, power + 1)
            exactly = self._log_power(count + power) + np.concatenate([[0.0], np.cumsum(steps)])
            found[count:] -= np.cumsum(np.exp(exactly))
        return found

    def sizes(self, others: int, most: int) -> Array:
        """Probability that s of ``others`` instances are members, s = 0..most."""
        s = np.arange(most)
        steps = np.log((others - s) / (s + 1))
        if self.alpha is not None:
            i = np.arange(others)
            first = np.log((self.alpha + i) / (self.alpha + self.beta + i)).sum()
            steps += np.log((self.beta + s) / (self.alpha + others - 1 - s))
        else:
            first = others * np.log(0.5)
        return np.asarray(np.exp(first + np.concatenate([[0.0], np.cumsum(steps)])))

    def _log_power(self, power: int) -> float:
        """Logarithm of E[p^power]."""
        if self.alpha is None:
            return power * float(np.log(0.5))
        i = np.arange(power)
        return float(np.log((self.beta + i) / (self.alpha + self.beta + i)).sum())

    def _log_step(self, m: NDArray[np.int64], members: int, power: int) -> Array:
        """Logarithm of E[p^(members + power) (1-p)^(m + 1 - members)] over the same with m."""
        if self.alpha is None:
            return np.full(len(m), np.log(0.5))
        return np.asarray(np.log((self.alpha + m - members) / (self.alpha + self.beta + power + m)))


@dataclass(frozen=True, kw_only=True)
class NeighbourGame:
    """The utility of nearest neighbours for test instances.

    Attributes:
        train: labels of training instances by ascending id.
        test: labels of test instances.
        k: neighbours.
        classes: how many there are; 0 is regression.
        utility: fixed_k divides by k also when there are fewer instances, soft by their number.
        coalitions: the semivalue.
    """

    train: NDArray[Any]
    test: NDArray[Any]
    k: int
    classes: int
    utility: Utility = "fixed_k"
    coalitions: Coalitions = Coalitions()

    @property
    def n(self) -> int:
        """Training instances."""
        return len(self.train)

    @property
    def empty(self) -> Array:
        """``(m,)`` utility of no instance."""
        if not self.classes:
            return np.asarray(-np.square(self.test.astype(np.float64)))
        return np.full(len(self.test), 1 / self.classes if self.utility == "soft" else 0.0)

    def semivalues(self, order: Order, rows: NDArray[np.int64]) -> Array:
        """Values by rank of all instances: a rule of ``Neighbours``."""
        return self._classified(order, rows) if self.classes else self._regressed(order, rows)

    def _classified(self, order: Order, rows: NDArray[np.int64]) -> Array:
        labels, wanted = self._labels
        hit = labels.take(order, mode="clip") == wanted[rows, None]
        own, passed, given, uniform = self._shares
        values: Array = hit * passed
        np.cumsum(values, axis=1, out=values)
        values -= values[:, -1:].copy()  # what farther instances take, negative
        values += hit * own
        if self.utility == "soft":
            values -= given * hit.sum(axis=1, keepdims=True) + uniform
        return values

    @cached_property
    def _labels(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Labels in as few bytes as hold the classes, which are read in random order."""
        small = np.min_scalar_type(self.classes)
        return self.train.astype(small), self.test.astype(small)

    @cached_property
    def _shares(self) -> tuple[Array, Array, float, float]:
        """Of an instance's own match by rank, of matches farther away by their rank, of all matches, of nothing."""
        entered = self.coalitions.fewer(self.k, 0, self.n - 1) / self.k
        passed = np.concatenate([[0.0], entered[:-1] - entered[1:]])
        if self.utility == "fixed_k":
            return entered, passed, 0.0, 0.0
        # With s < k members before: b_i / (s + 1) - Σ b / (s (s + 1)), or b_i - 1/classes for s = 0.
        sizes = self.coalitions.sizes(self.n - 1, min(self.k, self.n) - 1)
        halved = sizes / np.arange(1, len(sizes) + 1)
        given = float(halved[1:].sum()) / max(self.n - 1, 1)
        own = entered - sizes.sum() / self.k + halved.sum() + given
        return own, passed, given, float(sizes[0]) / self.classes

    def _regressed(self, order: Order, rows: NDArray[np.int64]) -> Array:
        k = self.k
        y, aim = np.asarray(self.train, np.float64)[order], 2 * k * np.asarray(self.test, np.float64)[rows, None]
        entered, nearer, farther = self._weights
        before = np.cumsum(y, axis=1) - y  # over lower ranks
        after = np.zeros_like(y)  # over ranks above the next
        after[:, :-2] = np.cumsum((y[:, 2:] * farther)[:, ::-1], axis=1)[:, ::-1]
        pair = y[:, :-1] + y[:, 1:]
        others = nearer[:-1] * before[:, :-1] + after[:, :-1]
        values = np.empty_like(y)
        values[:, :-1] = (y[:, 1:] - y[:, :-1]) * ((pair - aim) * entered[:-1] + 2 * others)
        values[:, -1] = -y[:, -1] * ((y[:, -1] - aim[:, 0]) * entered[-1] + 2 * nearer[-1] * before[:, -1])
        values = values[:, ::-1]
        np.cumsum(values, axis=1, out=values)
        return values[:, ::-1] / k**2

    @cached_property
    def _weights(self) -> tuple[Array, Array, Array]:
        """By rank r: entering, of nearer instances (n,); of those farther than r + 1, by their rank (n - 2,)."""
        full = self.coalitions.fewer(self.k - 1, 1, max(self.n - 2, 0))
        return self.coalitions.fewer(self.k, 0, self.n - 1), np.concatenate([[0.0], full])[: self.n], full[: self.n - 2]

    def removals(self, order: Order, rows: NDArray[np.int64]) -> Array:
        """Utility of all instances less that without each of the k + 1 nearest, by rank: a rule of ``Neighbours``."""
        k, among = self.k, min(self.k, self.n)
        test = self.test[rows, None]
        found = self.train.take(order, mode="clip")
        y = (found == test).astype(np.float64) if self.classes else found.astype(np.float64)
        values = np.zeros_like(y)
        total = y[:, :among].sum(axis=1, keepdims=True)
        rest = total - y[:, :among] + y[:, k : k + 1] if self.n > k else total - y
        if not self.classes:
            aim = test.astype(np.float64)
            values[:, :among] = np.square(rest / k - aim) - np.square(total / k - aim)
        elif self.utility == "fixed_k" or self.n > k:
            values[:, :among] = (total - rest) / k
        else:
            values[:] = total / self.n - (rest / (self.n - 1) if self.n > 1 else 1 / self.classes)
        return values


def knn_shapley(
    train: Split, test: Split, *, k: int, classes: int, out: Array | None = None, metric: Metric = "l2", **game: Any
) -> Array:
    """Exact Shapley values (n, m) of training instances for a k-nearest-neighbour predictor.

    Args:
        train: features ``x`` (n, d), labels and ids.
        test: features, labels and ids.
        k: neighbours.
        classes: how many there are; 0 is regression.
        out: written to and returned; None makes an array.
        metric: l2 or cosine.
        game: further fields of ``NeighbourGame``: ``utility``, ``coalitions``.
    """
    ordered = Neighbours(train, metric)
    played = NeighbourGame(train=train.y[ordered.by_id], test=test.y, k=k, classes=classes, **game)
    return ordered.fill(test.x, played.semivalues, np.empty((len(train), len(test))) if out is None else out)
