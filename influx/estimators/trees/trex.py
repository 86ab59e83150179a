"""Representer points of trees."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from influx import interrupts
from influx.engines.forest_kernels import LeafFeatures, Link, Surrogate, fit_loss, fit_surrogate
from influx.engines.forest_plans import surrogate_work
from influx.errors import ConfigError, NumericalError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.problem import Split
from influx.run import Card, Run

Output = Literal["loss_delta", "representer"]


@dataclass(frozen=True, kw_only=True)
class Trex:
    """What each training instance adds to a linear model on leaves, which imitates the ensemble.

    Estimates: r_i(j) = α_i (φ_i·φ_j) with α_i = -(1/(λ n)) ∂ℓ/∂o_i at W = argmin (1/n) Σ ℓ(W φ_i, y_i) + (λ/2) |W|² on
        leaf features φ, 1/|leaf|^power in the leaves of an instance; over i they add up to the outputs o_j. Values are
        ℓ(o_j - r_i(j), y_j) - ℓ(o_j, y_j), or r_i(j) for label y_j (for two classes with the sign of the label, for
        regression with that of y_j - o_j). Taking a term away is no refit, so only the order means something.
        Positive for proponents.
    Needs: trees, boosted or averaged.
    Cost: a few Newton steps of five to twenty products, n operations for each tree in each, then n m for each tree.
    Source: Brophy, Hammoudeh & Lowd 2023, arXiv:2205.00359; survey section 5.1.2. λ is twice their 0.003 for classes;
        for regression their α is half of what decomposes their fit. Their fit may stop early; this one may not.

    Attributes:
        penalty: λ.
        leaf_power: how much less large leaves count.
        output: loss_delta or representer.
        tolerance: largest |Σ α_i φ_i - W| / |W| at which the terms count as a decomposition of W.
        max_steps: most Newton steps.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.FOREST})
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="trees",
        full="n T",
        incremental="n T",
        storage="n T",
        assumptions="a linear model on the leaves tells",
        groups="additive",
        paper="Brophy et al. 2023",
    )

    penalty: float = 0.006
    leaf_power: float = 1.0
    output: Output = "loss_delta"
    tolerance: float = 1e-10
    max_steps: int = 100

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.output not in get_args(Output):
            raise ConfigError(f"estimator.output must be loss_delta or representer, got {self.output!r}; change it")
        for name in ("penalty", "tolerance"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"estimator.{name} must be a number above 0, got {getattr(self, name)}; raise it")
        if not 0 <= self.leaf_power < math.inf:
            raise ConfigError(f"estimator.leaf_power must be a number of at least 0, got {self.leaf_power}; set 1")
        if self.max_steps < 1:
            raise ConfigError(f"estimator.max_steps must be at least 1, got {self.max_steps}; raise it")

    def plan(self, prospect: Prospect) -> Work:
        """The fit, then one product of leaf features for each output."""
        return surrogate_work(prospect)

    def estimate(self, run: Run) -> Influence:
        """Fit the linear model, then take every term away."""
        features = LeafFeatures.of(run.forest, self.leaf_power)
        (link, mine), (_, theirs) = self._targets(run, run.train), self._targets(run, run.test)
        fitted = fit_surrogate(features, mine, link, self.penalty, self.max_steps, self.tolerance)
        if not fitted.residual <= self.tolerance:
            raise NumericalError(
                f"the linear model on leaves must be at its optimum to be decomposed, its terms miss it by "
                f"{fitted.residual:.2g} of its size after {fitted.steps} steps; raise estimator.penalty above "
                f"{self.penalty:g}, estimator.max_steps or estimator.tolerance"
            )
        values, outputs = run.zeros(), features.outputs(fitted.theta, test=True).T
        alpha = fitted.alpha.T[:, :, None]  # (K, n, 1)
        for rows, part, products in features.kernel(2 * len(alpha)):
            interrupts.check_forced()
            terms = alpha[:, rows] * torch.from_numpy(products)  # (K, r, k)
            values[rows, part] = self._effect(terms, outputs[:, part], theirs.T[:, part], link).numpy()
        own = self._effect(fitted.alpha.T * torch.from_numpy(features.norms[0]), fitted.outputs.T, mine.T, link)
        report = self._report(run, fitted)
        return run.influence(values, scale=self.scale, self_influence=own.numpy(), report=report)

    def _effect(self, terms: Tensor, outputs: Tensor, targets: Tensor, link: Link) -> Tensor:
        """``(..., k)`` of terms ``(K, ..., k)`` in outputs and targets ``(K, k)``."""
        if terms.ndim > outputs.ndim:
            outputs, targets = outputs[:, None], targets[:, None]
        if self.output == "loss_delta":
            return fit_loss(outputs - terms, targets, link).sub_(fit_loss(outputs, targets, link))
        if link == "value":
            return terms[0] * torch.where(targets[0] >= outputs[0], 1.0, -1.0)
        return terms[0] * (2 * targets[0] - 1) if link == "logistic" else (terms * targets).sum(0)

    @staticmethod
    def _targets(run: Run, split: Split) -> tuple[Link, Tensor]:
        """``(n, K)`` what the outputs should be: values, or whether an instance is of a class."""
        y = torch.from_numpy(np.array(split.y))
        if run.problem.data.task == "regression":
            return "value", y.double()[:, None]
        classes = len(run.problem.data.classes)
        if classes == 2:
            return "logistic", (y == 1).double()[:, None]
        return "softmax", (y[:, None] == torch.arange(classes)).double()

    @staticmethod
    def _report(run: Run, fitted: Surrogate) -> dict[str, float]:
        """How near the linear model is to its optimum and to the ensemble."""
        outputs = fitted.outputs
        trained = torch.from_numpy(run.forest.margins()[0]).T  # (n, C)
        if trained.shape[1] == 2 and outputs.shape[1] == 1:  # shares of two classes
            trained = trained[:, 1:]
        alike = float(torch.corrcoef(torch.stack([outputs.ravel(), trained.ravel()]))[0, 1])
        return {"residual": fitted.residual, "newton_steps": fitted.steps, "correlation_with_trees": alike}
