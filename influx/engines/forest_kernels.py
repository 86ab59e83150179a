"""Instances as the leaves that they fall into, and a linear model on them.

An instance's features are one per leaf of the ensemble: 1/|leaf|^power in the leaves that it falls into, where |leaf|
counts training instances, and 0 elsewhere. They are kept as leaf numbers, one per tree.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding_bag

from influx.engines.forest import Forest, Leaves

KERNEL_CHUNK = 256  # instances whose similarities to all training instances are held at once
MOST_PRODUCTS = 2000  # in one Newton step
Link = Literal["value", "logistic", "softmax"]


@dataclass(frozen=True)
class LeafFeatures:
    """Leaf features of training and test instances.

    Attributes:
        train: ``(n, trees)`` leaf of each training instance, numbered through all trees.
        test: ``(m, trees)`` the same of test instances.
        weights: ``(leaves,)`` value of each feature where it is not 0.
    """

    train: Tensor
    test: Tensor
    weights: Tensor

    @classmethod
    def of(cls, forest: Forest, power: float) -> LeafFeatures:
        """From the leaves of a forest; averaged trees are the same for all classes and count once."""
        outputs = forest.outputs if forest.boosted else 1
        sizes = forest.sizes[:, :outputs].ravel()
        first = (np.cumsum(sizes) - sizes)[:, None]
        train, test = (_numbered(leaves[:, :outputs], first) for leaves in (forest.train_leaves, forest.test_leaves))
        counts = torch.bincount(train.ravel(), minlength=int(sizes.sum())).double()
        return cls(train, test, counts.clamp_min(1.0) ** -power)

    def outputs(self, theta: Tensor, test: bool = False) -> Tensor:
        """``(n, K)`` (with ``test`` ``(m, K)``) products with weights ``(leaves, K)``."""
        return embedding_bag(self.test if test else self.train, theta * self.weights[:, None], mode="sum")

    def gathered(self, values: Tensor) -> Tensor:
        """``(leaves, K)`` sums of ``values`` (n, K) over instances times features."""
        found = values.new_zeros(len(self.weights), values.shape[1])
        for tree in self.train.T:
            found.index_add_(0, tree, values)
        return found * self.weights[:, None]

    @cached_property
    def norms(self) -> tuple[Tensor, Tensor]:
        """``(n,)`` and ``(m,)`` squared lengths."""
        square = self.weights.square()
        return square[self.train].sum(1), square[self.test].sum(1)

    def kernel(self, part: slice) -> Tensor:
        """``(n, k)`` products of all training instances with some test instances."""
        leaves = self.test[part]
        table = self.weights.new_zeros(len(self.weights), len(leaves))
        table[leaves, torch.arange(len(leaves))[:, None].expand_as(leaves)] = self.weights[leaves]
        return embedding_bag(self.train, table * self.weights[:, None], mode="sum")

    def parts(self) -> list[slice]:
        """Test instances in chunks."""
        m = len(self.test)
        return [slice(start, min(start + KERNEL_CHUNK, m)) for start in range(0, m, KERNEL_CHUNK)]


def _numbered(leaves: Leaves, first: NDArray[np.int64]) -> Tensor:
    numbers = leaves.reshape(-1, leaves.shape[-1]).astype(np.int64) + first
    return torch.from_numpy(np.ascontiguousarray(numbers.T))


@dataclass(frozen=True)
class Surrogate:
    """W = argmin (1/n) Σ_i ℓ(W φ_i, y_i) + (penalty/2) |W|² on leaf features, to rounding.

    Attributes:
        theta: ``(leaves, K)`` W.
        alpha: ``(n, K)`` -∂ℓ/∂o_i / (penalty · n), for which Σ_i α_i φ_i = W at the optimum.
        residual: |Σ_i α_i φ_i - W| / |W|.
        steps: of Newton's method.
    """

    theta: Tensor
    alpha: Tensor
    residual: float
    steps: int


def fit_surrogate(
    features: LeafFeatures, targets: Tensor, link: Link, penalty: float, max_steps: int, tolerance: float
) -> Surrogate:
    """Newton's method with conjugate gradients.

    Args:
        features: φ.
        targets: ``(n, K)`` values, or probabilities (K = 1 for two classes).
        link: from outputs to means.
        penalty: above 0.
        max_steps: most Newton steps.
        tolerance: residual at which it may stop.
    """
    n, k = targets.shape
    theta = torch.zeros(len(features.weights), k, dtype=torch.float64)
    steps = 0
    while True:
        outputs = features.outputs(theta)
        means = _means(outputs, link)
        alpha = (targets - means) / (penalty * n)
        off = features.gathered(alpha) - theta  # minus the gradient, over the penalty
        residual = _ratio(off, theta)
        if residual <= tolerance or steps == max_steps:
            return Surrogate(theta, alpha, residual, steps)
        step = _solve(features, means, link, penalty, off)
        theta = theta + _damped(features, theta, step, targets, link, penalty) * step
        steps += 1


def fit_loss(outputs: Tensor, targets: Tensor, link: Link) -> Tensor:
    """``(...)`` ℓ of outputs ``(..., K)``; cross-entropy for targets that are probabilities."""
    if link == "value":
        return 0.5 * (outputs - targets).square().sum(-1)
    if link == "logistic":
        return (torch.logaddexp(outputs, torch.zeros_like(outputs)) - targets * outputs).sum(-1)
    return outputs.logsumexp(-1) - (targets * outputs).sum(-1)


def _means(outputs: Tensor, link: Link) -> Tensor:
    if link == "value":
        return outputs
    return torch.sigmoid(outputs) if link == "logistic" else torch.softmax(outputs, 1)


def _ratio(off: Tensor, theta: Tensor) -> float:
    size = float(theta.norm())
    if size == 0:
        return 0.0 if float(off.norm()) == 0 else np.inf
    return float(off.norm()) / size


def _solve(features: LeafFeatures, means: Tensor, link: Link, penalty: float, right: Tensor) -> Tensor:
    """The Newton step: (1 + Φᵀ Λ Φ / (penalty n)) x = right, by conjugate gradients to rounding."""
    n = len(means)

    def product(x: Tensor) -> Tensor:
        moved = features.outputs(x)
        if link == "logistic":
            moved = means * (1 - means) * moved
        elif link == "softmax":
            moved = means * (moved - (means * moved).sum(1, keepdim=True))
        return x + features.gathered(moved) / (penalty * n)

    found, left = torch.zeros_like(right), right.clone()
    direction, size = left, float(left.square().sum())
    enough = 1e-28 * size
    for _ in range(MOST_PRODUCTS):
        if size <= enough:
            break
        bent = product(direction)
        length = size / float((direction * bent).sum())
        found, left = found + length * direction, left - length * bent
        before, size = size, float(left.square().sum())
        direction = left + (size / before) * direction
    return found


def _damped(features: LeafFeatures, theta: Tensor, step: Tensor, targets: Tensor, link: Link, penalty: float) -> float:
    """The first of 1, 1/2, 1/4… that does not raise the objective."""
    if link == "value":
        return 1.0

    def objective(weights: Tensor) -> float:
        outputs = features.outputs(weights)
        return float(fit_loss(outputs, targets, link).mean() + 0.5 * penalty * weights.square().sum())

    before, length = objective(theta), 1.0
    while length > 1e-6 and not objective(theta + length * step) <= before + 1e-12 * abs(before):
        length /= 2
    return length
