"""Cook's distance: what removing an instance does to the parameters of a linear model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from influx.engines.deletions import one_step, summed
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run

if TYPE_CHECKING:
    import pandas as pd

    from influx.learners.linear.fitted import LinearModel

Variant = Literal["exact", "one_step"]
WIDE = 64  # parameters up to which the table of shifts has a column for each
ROWS = 256  # training instances whose changes of test outputs are held at once


@dataclass(frozen=True, kw_only=True)
class CooksDistance:
    """Cook's distance of every training instance, and what its removal does to test losses.

    Estimates: C_i = θ_D - θ_{D∖i}, minus the usual change due to deletion; the instance keeps its place in the
        divisor n. Values are L(z_j; θ - C_i) - L(z_j; θ), the whole difference of losses. Loss units; positive for
        proponents. Table cooks_distance holds D_i = C_iᵀ M C_i / (p s²), which has no sign.
    Needs: a linear model at its optimum.
    Cost: ridge and one_step: n p² + p³ + n m p. Exact logistic: n Newton solutions, started at θ.
    Source: Cook 1977; survey Eq. (5)-(6); one step for logistic models: Pregibon 1981. M is XᵀX and s² = eᵀe/(n - p)
        for ridge, the Fisher information of the data and 1 for logistic. When n ≤ p, n - p becomes n - Σ leverage.

    Attributes:
        variant: exact, or one_step (a Newton step from θ with the instance's curvature removed, as 1/(1 - h)
            does); the same for ridge.
        max_shifts: numbers in table parameter_shifts (one column per parameter, beyond 64 parameters one row per
            number); a larger table is left out.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.LINEAR_MODEL})
    parameters: ClassVar[bool] = True  # it measures how far they move
    scale: ClassVar[Scale] = "loss"
    card: ClassVar[Card] = Card(
        family="linear models",
        full="n p² + p³",
        incremental="n p",
        storage="n p",
        assumptions="linear model at its optimum",
        groups="no",
        paper="Cook 1977",
    )

    variant: Variant = "exact"
    max_shifts: int = 1_000_000

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.variant not in get_args(Variant):
            raise ConfigError(f"estimator.variant must be exact or one_step, got {self.variant!r}; change it")
        if self.max_shifts < 0:
            raise ConfigError(f"estimator.max_shifts must be at least 0, got {self.max_shifts}; use 0 for no table")

    def plan(self, prospect: Prospect) -> Work:
        """One factorisation and products, or n solutions of six Newton steps."""
        n, m = len(prospect.train), len(prospect.test)
        outputs = max(1, prospect.problem.data.n_outputs - 1)
        p = outputs * (prospect.train.x[:1].size + 1)
        flops = 2.0 * n * p**2 + p**3 + 2.0 * n * m * p
        formula = f"2 n p² + p³ + 2 n m p with n={n}, m={m}, p={p}"
        if self.variant == "exact" and prospect.problem.data.task == "classification":
            flops += 6.0 * n * (n * p**2 + p**3 / 3)
            formula += "; 6 n (n p² + p³/3) of Newton's method"
        return Work(
            flops=2 * flops,
            numbers=4.0 * n * m * outputs,
            bytes=8.0 * (2.0 * n * p + 4.0 * p**2 + n * m),
            formula=formula,
        )

    def estimate(self, run: Run) -> Influence:
        """Remove every instance from the system of equations."""
        model = run.linear_model
        train, test = model.system(run.train), model.system(run.test)
        curvature, residual = model.curvature(train), model.residual(train)
        one = one_step(train.x, curvature, residual, model.penalty(train))
        shift = one.shift
        if self.variant == "exact" and model.logistic:
            weights = 1 - np.eye(len(run.train), dtype=np.uint8)
            shift = model.theta - model.refit(run.train, weights, "full")
        moved = shift.flatten(1)
        distance = ((moved @ summed(train.x, curvature)) * moved).sum(1) / self._unit(model, one.leverage, residual)
        distance[torch.isinf(one.distance)] = torch.inf
        if torch.isinf(distance).any():
            run.warn(
                f"without one of {int(torch.isinf(distance).sum())} instances of leverage 1 the model has no unique "
                "optimum: their distance is infinite and their influence missing"
            )
        values, outputs = run.zeros(), model.outputs(test)
        before = test.outcomes(outputs[None]).loss
        for rows in torch.arange(len(shift)).split(ROWS):
            values[rows.numpy()] = test.outcomes(outputs - shift[rows] @ test.x.T).loss - before
        own = model.outputs(train) - torch.einsum("nkq,nq->kn", shift, train.x)
        itself = train.outcomes(own[None]).loss[0] - train.outcomes(model.outputs(train)[None]).loss[0]
        tables = {"cooks_distance": self._distances(run, distance, one.leverage, residual)}
        size = len(shift) * model.written_out(model.theta).numel()
        if size <= self.max_shifts:
            tables["parameter_shifts"] = self._shifts(run, model, shift)
        report = {
            "variant": self.variant,
            "signed": False,
            "flagged": int((distance > 4 / len(shift)).sum()),
            "shifts_left_out": 0 if size <= self.max_shifts else size,
        }
        return run.influence(values, self_influence=itself, tables=tables, report=report, scale="loss")

    @staticmethod
    def _unit(model: LinearModel, leverage: Tensor, residual: Tensor) -> float:
        """P s²."""
        n, p = len(residual), model.theta.numel()
        if model.logistic:
            return float(p)
        degrees = n - p if n > p else n - float(leverage.sum())
        return float(p * residual.square().sum() / degrees)

    @staticmethod
    def _distances(run: Run, distance: Tensor, leverage: Tensor, residual: Tensor) -> pd.DataFrame:
        import pandas as pd

        size = residual[:, 0] if residual.shape[1] == 1 else residual.norm(dim=1)
        return pd.DataFrame(
            {
                "train_id": run.train.ids,
                "distance": distance.numpy(),
                "leverage": leverage.numpy(),
                "residual": size.numpy(),  # predicted minus observed; its norm for more than two classes
                "flagged": (distance > 4 / len(distance)).numpy(),
                "signed": False,
            }
        )

    @staticmethod
    def _shifts(run: Run, model: LinearModel, shift: Tensor) -> pd.DataFrame:
        import pandas as pd

        numbers, names = model.written_out(shift).numpy(), model.names
        if len(names) <= WIDE:
            unique = names if len(set(names)) == len(names) else [f"{i} {name}" for i, name in enumerate(names)]
            return pd.concat([pd.DataFrame({"train_id": run.train.ids}), pd.DataFrame(numbers, columns=unique)], axis=1)
        return pd.DataFrame(
            {
                "train_id": np.repeat(run.train.ids, len(names)),
                "parameter": names * len(numbers),
                "shift": numbers.ravel(),
            }
        )
