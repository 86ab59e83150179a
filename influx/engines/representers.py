"""Decompositions of a head's outputs into one term per training instance (representer theorems).

A head that is refitted with a penalty λ on fixed features is, at its optimum, a sum over training instances with
coefficients α_i = -(1/(λ n)) ∂ℓ/∂ŷ. The output that is explained is the logit of the test instance's label, or for
regression the prediction times the sign of (target - prediction): larger is better in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from influx.engines.heads import Head, Objective, head_at_end, is_softmax, with_ones
from influx.errors import IncompatibleError
from influx.learners.torch.tasks import Task
from influx.run import Run

Targets = Literal["labels", "model_probs"]
Bias = Literal["augment", "free", "none"]
PAIR_BYTES = 64 << 20  # products of one block of training instances with all test instances


@dataclass(frozen=True)
class Explained:
    """Of each of k instances, the output number ``which`` (k,) times ``sign`` (k,)."""

    which: Tensor
    sign: Tensor

    def of(self, outputs: Tensor) -> Tensor:
        """``(k,)`` explained values, from outputs ``(k, C)``."""
        return outputs.gather(1, self.which[:, None])[:, 0] * self.sign


@dataclass(frozen=True)
class Surrogate:
    """A refitted head on fixed features.

    Attributes:
        head: the trained head that it stands in for.
        objective: the mean risk that it minimises together with its penalty.
        theta: ``(C, q)`` weights, the bias last where there is one.
        test: ``(m, q)`` test features as ``theta`` takes them.
        bias: augment, free or none.
    """

    head: Head
    objective: Objective
    theta: Tensor
    test: Tensor
    bias: Bias

    @property
    def decomposed(self) -> int:
        """Columns of ``theta`` that are decomposed: all, or all but a bias without penalty."""
        return self.theta.shape[1] - (self.bias == "free")

    @property
    def f(self) -> Tensor:
        """Training features that are decomposed."""
        return self.objective.f[:, : self.decomposed]

    @property
    def g(self) -> Tensor:
        """Test features that are decomposed."""
        return self.test[:, : self.decomposed]

    @property
    def outputs(self) -> tuple[Tensor, Tensor]:
        """Outputs on training ``(n, C)`` and test instances ``(m, C)``."""
        return self.objective.outputs(self.theta), self.test @ self.theta.T

    def alpha(self, penalty: float) -> Tensor:
        """``(n, C)`` representer values -(1/(λ n)) ∂ℓ/∂ŷ."""
        return -self.objective.residual(self.outputs[0]) / (penalty * len(self.objective.f))

    def explained(self) -> tuple[Explained, Explained]:
        """What is explained of training and of test instances."""
        (mine, theirs), head = self.outputs, self.head
        return _explained(head.task, mine, head.y_train), _explained(head.task, theirs, head.y_test)

    def decomposable(self) -> Tensor:
        """``(m,)`` the test values that a decomposition adds up to."""
        return self.explained()[1].of(self.g @ self.theta[:, : self.decomposed].T)

    def likeness(self) -> dict[str, float]:
        """How far its outputs on test instances are from the trained head's."""
        mine, theirs = self.outputs[1], self.head.test @ self.head.theta.T
        if not is_softmax(self.head.task):
            spread = float((self.head.train @ self.head.theta.T).std(correction=0))  # one test instance has none
            return {"mean_output_change": float((mine - theirs).abs().mean()), "output_spread": spread}
        change = (torch.softmax(mine, 1) - torch.softmax(theirs, 1)).abs().mean()
        agreeing = (mine.argmax(1) == theirs.argmax(1)).double().mean()
        return {"same_prediction": float(agreeing), "mean_probability_change": float(change)}


def explained(head: Head, theta: Tensor) -> tuple[Explained, Explained]:
    """What is explained of training and of test instances by a head with weights ``theta``."""
    sides = ((head.train, head.y_train), (head.test, head.y_test))
    mine, theirs = (_explained(head.task, f @ theta.T, y) for f, y in sides)
    return mine, theirs


def _explained(task: Task, outputs: Tensor, y: Tensor) -> Explained:
    if is_softmax(task):
        return Explained(y, outputs.new_ones(len(y)))
    return Explained(torch.zeros_like(y, dtype=torch.int64), torch.where(y >= outputs[:, 0], 1.0, -1.0).to(outputs))


def surrogate(run: Run, targets: Targets, bias: Bias, penalty: float) -> Surrogate:
    """A head yet to be fitted (zeros) on the trained net's features, with squared norm penalty/2 |W|².

    Raises:
        IncompatibleError: the net has no linear head, or ``bias`` free meets a class without instances.
    """
    run.head()
    head = head_at_end(run.features, run.train, run.test)
    task, c = head.task, head.classes
    trained = head.train @ head.theta.T
    t = task.encode(head.y_train, c, torch.float64)
    if targets == "model_probs":
        t = torch.softmax(trained, 1) if is_softmax(task) else trained
    f, g = head.features
    each = f.new_full((f.shape[1] + (bias != "none"),), penalty)
    pin = None
    if bias != "none":
        f, g = with_ones(f), with_ones(g)
    if bias == "free":
        each[-1], pin = 0.0, torch.zeros_like(each)
        pin[-1] = 1 / c if is_softmax(task) else 0.0
        if not bool((t.sum(0) > 0).all()) and is_softmax(task):
            raise IncompatibleError(
                "a bias without penalty needs training instances of every class, one class has none; set "
                "estimator.bias=augment"
            )
    return Surrogate(head, Objective(task, f, t, each, pin), f.new_zeros(c, f.shape[1]), g, bias)


def add(
    values: NDArray[np.float64], alpha: Tensor, f: Tensor, h: Tensor, what: Explained, scale: float = 1.0
) -> NDArray[np.float64]:
    """Add scale · sign_j α_i[which_j] (f_i·h_j) to ``values`` (n, m), for alpha (n, C), f (n, q) and h (m, q)."""
    size = max(1, PAIR_BYTES // (24 * max(len(h), 1)))
    for start in range(0, len(f), size):
        part = slice(start, start + size)
        block = (f[part] @ h.T) * alpha[part][:, what.which] * what.sign
        values[part] += scale * block.cpu().numpy()
    return values


def add_own(
    own: NDArray[np.float64], alpha: Tensor, f: Tensor, h: Tensor, what: Explained, scale: float = 1.0
) -> NDArray[np.float64]:
    """The same of every training instance on itself, for h (n, q); adds to ``own`` (n,)."""
    own += scale * (what.of(alpha) * (f * h).sum(1)).cpu().numpy()
    return own


def decomposition(run: Run, fitted: Surrogate, values: NDArray[np.float64]) -> tuple[pd.DataFrame, float]:
    """Per test instance what is explained and what the training instances add up to; the largest difference."""
    explained, total = fitted.decomposable().cpu().numpy(), values.sum(axis=0)
    table = pd.DataFrame({"test_id": run.test.ids, "explained": explained, "sum_over_training": np.asarray(total)})
    return table, float(np.abs(explained - total).max(initial=0.0))


def values_table(run: Run, alpha: Tensor) -> pd.DataFrame:
    """Per training instance its representer values, one column per output: their importance for all test instances."""
    names = run.problem.data.classes if alpha.shape[1] > 1 else ("output",)
    numbers = alpha.cpu().numpy()
    columns = {f"alpha_{name}": numbers[:, k] for k, name in enumerate(names)}
    return pd.DataFrame({"train_id": run.train.ids} | columns)
