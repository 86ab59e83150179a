"""Instances as the leaves that they fall into, and a linear model on them.

An instance's features are one per leaf of the ensemble: 1/|leaf|^power in the leaves that it falls into, where |leaf|
counts training instances, and 0 elsewhere. They are sparse rows with a number for each tree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn.functional import softplus

from influx.engines.forest import STRETCH_BYTES, TOGETHER, Array, Forest, Leaves

BLOCK_BYTES = 4 << 20  # of products of training with test instances, which stay in the cache
FEW_LEAVES = 64  # for each tree, up to which features of test instances are kept with their zeros
MOST_PRODUCTS = 2000  # in one Newton step
AIM = 0.03  # of the tolerance and of what the loss bends: what may be left of a Newton step's equation
SMALLEST = 1e-14  # of its right side, which rounding leaves
STRAIGHT = 40.0  # log(1 + exp(x)) is x from here on
Link = Literal["value", "logistic", "softmax"]
Moves = tuple[Tensor, Tensor]  # (n, K) weights of instances and (n, K) outputs of what they add up to


@dataclass(frozen=True)
class LeafFeatures:
    """Leaf features φ of training and test instances.

    Attributes:
        train: ``(n, leaves)`` sparse, leaves numbered through all trees.
        test: ``(m, leaves)`` the same of test instances.
        trees: how many numbers each row has.
    """

    train: csr_array
    test: csr_array
    trees: int

    @classmethod
    def of(cls, forest: Forest, power: float) -> LeafFeatures:
        """From the leaves of a forest; averaged trees are the same for all classes and count once."""
        outputs = forest.outputs if forest.boosted else 1
        sizes = forest.sizes[:, :outputs].ravel()
        first = (np.cumsum(sizes) - sizes).astype(np.int32)[:, None]
        train, test = (_numbered(leaves[:, :outputs], first) for leaves in (forest.train_leaves, forest.test_leaves))
        leaves = int(sizes.sum())
        weights = np.maximum(np.bincount(train.ravel(), minlength=leaves), 1.0) ** -power
        return cls(_rows(train, weights), _rows(test, weights), train.shape[1])

    def outputs(self, theta: Tensor, test: bool = False) -> Tensor:
        """``(n, K)`` (with ``test`` ``(m, K)``) products with weights ``(leaves, K)``."""
        return torch.from_numpy((self.test if test else self.train) @ theta.numpy())

    def gathered(self, values: Tensor) -> Tensor:
        """``(leaves, K)`` sums of ``values`` (n, K) over instances times features."""
        return torch.from_numpy(self.train.T @ values.numpy())

    @cached_property
    def norms(self) -> tuple[Array, Array]:
        """``(n,)`` and ``(m,)`` squared lengths."""
        train, test = (np.square(rows.data).reshape(-1, self.trees).sum(1) for rows in (self.train, self.test))
        return train, test

    def kernel(self, numbers: int = 1) -> Iterator[tuple[slice, slice, Array]]:
        """Products of training with test instances in blocks: which of them, and ``(r, k)``.

        ``numbers`` are what the caller holds for each product.
        """
        (n, leaves), m = self.train.shape, self.test.shape[0]
        few = leaves <= FEW_LEAVES * self.trees
        width = max(16, min(TOGETHER, STRETCH_BYTES // (8 * leaves))) if few else TOGETHER
        for first in range(0, m, width):
            columns = slice(first, min(first + width, m))
            features = self.test[columns].T
            theirs = features.toarray() if few else features.tocsr()
            high = max(64, BLOCK_BYTES // (8 * numbers * (columns.stop - first)))
            for start in range(0, n, high):
                rows = slice(start, min(start + high, n))
                found = self._part(rows) @ theirs
                yield rows, columns, found if isinstance(found, np.ndarray) else found.toarray()

    def _part(self, rows: slice) -> csr_array:
        """Some training instances, not copied."""
        places, numbers = slice(rows.start * self.trees, rows.stop * self.trees), rows.stop - rows.start
        whole = self.train
        parts = whole.data[places], whole.indices[places], whole.indptr[: numbers + 1]
        return csr_array(parts, shape=(numbers, whole.shape[1]))


def _numbered(leaves: Leaves, first: NDArray[np.int32]) -> NDArray[np.int32]:
    return np.ascontiguousarray((leaves.reshape(-1, leaves.shape[-1]) + first).T)


def _rows(numbers: NDArray[np.int32], weights: Array) -> csr_array:
    starts = np.arange(0, numbers.size + 1, numbers.shape[1])
    return csr_array((weights[numbers].ravel(), numbers.ravel(), starts), shape=(len(numbers), len(weights)))


@dataclass(frozen=True)
class Surrogate:
    """W = argmin (1/n) Σ_i ℓ(W φ_i, y_i) + (penalty/2) |W|² on leaf features, to rounding.

    Attributes:
        theta: ``(leaves, K)`` W.
        alpha: ``(n, K)`` -∂ℓ/∂o_i / (penalty · n), for which Σ_i α_i φ_i = W at the optimum.
        outputs: ``(n, K)`` o_i = W φ_i.
        residual: |Σ_i α_i φ_i - W| / |W|.
        steps: of Newton's method.
    """

    theta: Tensor
    alpha: Tensor
    outputs: Tensor
    residual: float
    steps: int


def fit_surrogate(
    features: LeafFeatures, targets: Tensor, link: Link, penalty: float, max_steps: int, tolerance: float
) -> Surrogate:
    """Newton's method on the weights β of instances, W = Σ β_i φ_i, which are fewer than leaves of deep trees.

    Args:
        features: φ.
        targets: ``(n, K)`` values, or probabilities (K = 1 for two classes).
        link: from outputs to means.
        penalty: above 0.
        max_steps: most Newton steps.
        tolerance: residual at which it may stop.
    """
    scale, steps = penalty * len(targets), 0
    beta, outputs = torch.zeros_like(targets), torch.zeros_like(targets)
    theta = torch.zeros(features.train.shape[1], targets.shape[1], dtype=torch.float64)
    while True:
        means = _means(outputs, link)
        alpha = (targets - means) / scale
        off = features.gathered(alpha - beta)  # minus the gradient, over the penalty
        size, length = float(theta.norm()), float(off.norm())
        residual = length / size if size else (np.inf if length else 0.0)
        if residual <= tolerance or steps == max_steps:
            return Surrogate(theta, alpha, outputs, residual, steps)
        step = _solve(features, means, link, scale, alpha - beta, off, AIM * tolerance * size)
        beta = beta + _damped((beta, outputs), step, targets, link, penalty) * step[0]
        theta = features.gathered(beta)
        outputs, steps = features.outputs(theta), steps + 1


def fit_loss(outputs: Tensor, targets: Tensor, link: Link) -> Tensor:
    """``(...)`` ℓ of outputs ``(K, ...)``; cross-entropy for targets that are probabilities."""
    if link == "value":
        return 0.5 * (outputs[0] - targets[0]).square_()
    if link == "logistic":
        return softplus(outputs[0], threshold=STRAIGHT).sub_(targets[0] * outputs[0])
    return outputs.logsumexp(0).sub_((targets * outputs).sum(0))


def _means(outputs: Tensor, link: Link) -> Tensor:
    if link == "value":
        return outputs
    return torch.sigmoid(outputs) if link == "logistic" else torch.softmax(outputs, 1)


def _solve(
    features: LeafFeatures, means: Tensor, link: Link, scale: float, left: Tensor, off: Tensor, enough: float
) -> Moves:
    """The Newton step: weights δ with δ + Λ Φ Φᵀ δ / scale = left, by conjugate gradients over Φᵀ; ``off`` is Φᵀ left.

    After a whole step the gradient is what is left of this equation and what the loss bends, of the order of
    |Φᵀ Λ Φ x / scale| max |Φ x| / 2 for x = Φᵀ δ. Leaving much less than that, or than ``enough``, is no use.
    """
    step = torch.zeros_like(means), torch.zeros_like(means)
    size, ratio = float(off.norm()), 0.0
    direction, moved = step
    least = SMALLEST * size
    for _ in range(MOST_PRODUCTS):
        if size <= max(least, enough, AIM * _bends(step, means, link, scale)):
            break
        direction, moved = left + ratio * direction, features.outputs(off) + ratio * moved
        bent = direction + _curved(moved, means, link) / scale
        length = size**2 / float((moved * bent).sum())
        step[0].add_(direction, alpha=length)
        step[1].add_(moved, alpha=length)
        left = left - length * bent
        off = features.gathered(left)
        before, size = size, float(off.norm())
        ratio = (size / before) ** 2
    return step


def _curved(moved: Tensor, means: Tensor, link: Link) -> Tensor:
    """``(n, K)`` Λ times how outputs move: how means move."""
    if link == "logistic":
        return means * (1 - means) * moved
    if link == "softmax":
        return means * (moved - (means * moved).sum(1, keepdim=True))
    return moved


def _bends(step: Moves, means: Tensor, link: Link, scale: float) -> float:
    """The order of what the loss bends, from below: x·Φᵀ Λ Φ x <= |x| |Φᵀ Λ Φ x|."""
    if link == "value":
        return 0.0
    weights, moved = step
    size = float((weights * moved).sum().clamp_min(1e-300).sqrt())
    return 0.5 * float(moved.abs().max() * (moved * _curved(moved, means, link)).sum()) / (scale * size)


def _damped(now: Moves, step: Moves, targets: Tensor, link: Link, penalty: float) -> float:
    """The first of 1, 1/2, 1/4… of a step that does not raise the objective."""
    if link == "value":
        return 1.0

    def objective(length: float) -> float:
        weights, outputs = (before + length * moved for before, moved in zip(now, step, strict=True))
        loss = fit_loss(outputs.T, targets.T, link).mean()
        return float(loss + 0.5 * penalty * (weights * outputs).sum())

    before, length = objective(0.0), 1.0
    while length > 1e-6 and not objective(length) <= before + 1e-12 * abs(before):
        length /= 2
    return length
