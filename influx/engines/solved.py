"""Influence from a curvature solver: (1/n) ∇L(z_j)ᵀ (H_r + δI)⁻¹ ∇L(z_i), and its normalised forms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from influx import progress
from influx.engines.inverses import Inverse, Layered, Repeated, Solver, solutions
from influx.engines.layer_passes import LayerPasses
from influx.engines.layerwise import Layerwise
from influx.engines.operators import Kind, check_curvature
from influx.engines.rows import Rows
from influx.engines.seen import Relative, Seen
from influx.engines.solver_plans import together
from influx.influence import Influence, Scale
from influx.planning import Prospect, Work
from influx.run import Run

DECOUPLED = "AdamW's decoupled weight decay is treated as the gradient of a regulariser, which it is not"
UNSOLVED = 0.3  # relative residual of a stochastic solver worth a warning
NEARLY_STATIONARY = 0.01  # gradient of the objective in mean gradient norms of instances


@dataclass(frozen=True, kw_only=True)
class Solved(ABC):
    """What all influence functions share: which curvature, how damped, and the passes over the instances.

    An estimator says which solver with which options by ``solved_by``.
    """

    scale: ClassVar[Scale] = "loss"

    curvature: Kind = "ggn"
    damping: float | None = None
    self_influence: bool = True

    def __post_init__(self) -> None:
        """Check ranges, the solver's too."""
        check_curvature(self.curvature, self.damping)
        self.solved_by  # noqa: B018

    @property
    @abstractmethod
    def solved_by(self) -> Solver:
        """The solver with its options."""

    @property
    def refuses(self) -> Mapping[str, str]:
        """Perspectives that the settings leave out."""
        return {} if self.self_influence else {"memorization": ASK}

    def plan(self, prospect: Prospect) -> Work:
        """What the solver and the passes take."""
        return self.solved_by.work(prospect, self.curvature, self.self_influence)

    def estimate(self, run: Run) -> Influence:
        """Solve for the test gradients, then one product with every training gradient."""
        return self.influence(run)

    def influence(self, run: Run, relative: Relative = "none") -> Influence:
        """Influence with rows divided as ``relative`` says."""
        inverse = self.solved_by.inverse(run, self.curvature, self.damping)
        return solved(run, inverse, self.curvature, relative, self.self_influence, self.scale)


ASK = "it takes as many solves as there are training instances; set estimator.self_influence=true to ask for it"


def solved(run: Run, inverse: Inverse, kind: Kind, relative: Relative, own: bool, scale: Scale) -> Influence:
    """Influence (n_train, n_test) with the inverse's report; standard errors where it has repetitions.

    ``relative`` divides row i by ‖(H_r + δI)⁻¹ g_i‖ (theta), √(g_iᵀ (H_r + δI)⁻¹ g_i) (loss) or ‖g_i‖ (gradient); a
    zero gradient keeps zeros.
    """
    seen = Seen(run, run.curvature.at.size, relative, own)
    passes: LayerPasses | Passes
    passes = LayerPasses(run, inverse, seen) if isinstance(inverse, Layerwise) else Passes(run, inverse, seen)
    values, spread = run.zeros(), run.zeros() if isinstance(inverse, Repeated) else None
    at_once = passes.together
    for start in range(0, len(run.test), at_once):
        columns = slice(start, min(start + at_once, len(run.test)))
        passes.fill(values, spread, columns)
    slope = doubts(run, seen.total / len(run.train), float(seen.norms.mean()))
    unsolved(run, inverse)
    if seen.without:
        run.warn(f"{seen.without} training instances have a zero gradient; their influence is zero")
    report: dict[str, Any] = {"curvature": kind} | inverse.report | {"gradient_norm": slope}
    note = "" if own else ASK
    found = seen.own.numpy() if own else None
    return run.influence(
        values, scale=scale, stderr=spread, self_influence=found, self_influence_note=note, report=report
    )


def unsolved(run: Run, inverse: Inverse) -> None:
    """Warn when a stochastic solver is far from a solution."""
    residual = inverse.report.get("residual", 0.0)
    if isinstance(inverse, Repeated) and isinstance(residual, float) and residual > UNSOLVED:
        run.warn(
            f"LiSSA left a relative residual of up to {residual:.2g}, so that ranks suffer; raise estimator.damping or "
            "let another solver solve it (if_cg)"
        )


def doubts(run: Run, mean_gradient: Tensor, mean_norm: float) -> float:
    """Norm of the training objective's gradient; warns where the parameters are not at its minimum.

    ``mean_gradient`` (p,) is that of the training risks, ``mean_norm`` the mean norm of their gradients.
    """
    slope = run.curvature.stationarity(mean_gradient)
    if slope > NEARLY_STATIONARY * mean_norm:
        run.warn(
            f"the training objective is not at a minimum: its gradient has norm {slope:.2g}, an instance's "
            f"{mean_norm:.2g} on average; influence functions describe a minimum"
        )
    if run.curvature.decoupled:
        run.warn(DECOUPLED)
    return slope


class Passes:
    """Passes over the training set for a few test instances at a time; the first one also looks at each instance."""

    def __init__(self, run: Run, inverse: Inverse, seen: Seen):
        """Gradients are those at the final parameters in float64."""
        self.run, self.inverse, self.seen, self.gradients = run, inverse, seen, run.gradients.exact

    @property
    def together(self) -> int:
        """Test instances at a time."""
        return together(self.gradients.size)

    def fill(self, values: Any, spread: Any, columns: slice) -> None:
        """Influence on the test instances ``columns``, and its standard error if there is one."""
        first, n = columns.start == 0, len(self.run.train)
        rhs = torch.cat([rows.flat() for _, rows in self.gradients.blocks(self.run.test.take(columns))])
        repeats = solutions(self.inverse, rhs)
        with progress.task("influence", n) as done:
            for part, rows in self.gradients.written(self.run.train, repeats[:, :, 0].numel()):
                flat = rows.flat()
                if first:
                    self._look(part, flat, rows)
                each = (flat @ repeats.transpose(1, 2)).div_(n)  # (r, b, columns)
                if self.seen.relative != "none":
                    each /= self.seen.divisors[part].to(flat)[:, None]
                values[part, columns] = (each[0] if len(each) == 1 else each.mean(0)).cpu().numpy()
                if spread is not None:
                    found = each.std(0, correction=1) / len(each) ** 0.5 if len(each) > 1 else each[0] * np.nan
                    spread[part, columns] = found.cpu().numpy()
                done(len(flat))

    def _look(self, part: slice, flat: Tensor, rows: Rows) -> None:
        """What is to be known of a block of training instances."""
        norms = flat.norm(dim=1)
        quadratic = solved = torch.zeros_like(norms)
        if self.seen.relative == "theta":
            moved = self.inverse.solve(flat)
            quadratic, solved = (moved * flat).sum(1), moved.norm(dim=1)
        elif self.seen.with_quadratic:
            layered = self.inverse if isinstance(self.inverse, Layered) else None
            quadratic = self.inverse.quadratic(flat) if layered is None else layered.quadratic_of(rows)
        self.seen.note(part, flat.sum(0), norms, quadratic, solved)
