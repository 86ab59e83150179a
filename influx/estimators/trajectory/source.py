"""SOURCE."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, get_args

import numpy as np

from influx.engines.factorised import check_size
from influx.engines.inverses import labels_of
from influx.engines.layer_plans import layered_work
from influx.engines.mean_parameters import MeanGradients
from influx.engines.operators import Kind, check_curvature
from influx.engines.path import check_sgd, recorded
from influx.engines.segmented import Segment, Segmented, segmented_work
from influx.engines.segments import Diagonalised, Filter, Shrinkage, Spectral, Stretch, momentum_factor, stretches
from influx.engines.solver_plans import matrix_work
from influx.engines.solvers.ekfac import EKFAC
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work, total
from influx.problem import Checkpoint
from influx.run import Card, Run

MAX_P = 6000  # parameters of matrices written out, one per segment
REMEDY = "set estimator.solver=ekfac"
INSTEAD = "if_ekfac"
Average = Literal["gradients", "parameters"]
ASK = "it takes as many passes as there are checkpoints again; set estimator.self_influence=true to ask for it"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Unrolled training in a few stretches, each with one curvature.

    Estimates: (1/n) Σ_l ∇L(z_j; θ_T)ᵀ [Π_{l'>l} e^(-S_l' H_l')] (I - e^(-S_l H_l)) H_l⁻¹ ḡ_i,l over stretches l, with
        S_l the sum of learning rates, H_l the mean curvature and ḡ_i,l the mean of ∇L(z_i) at its checkpoints. Loss
        units; positive for proponents. No minimum is assumed, and no damping needed: a direction without curvature has
        S_l in the place of (1 - e^(-S_l s)) / s. Much training in one stretch makes it the influence function,
        little of it TracIn with calibrated rates and the test gradient at the end.
    Needs: checkpoints with their learning rates; per-instance gradients; curvature.
    Cost: for each of the L C checkpoints, two passes for the curvature (one per output each) and one for influence;
        for each stretch a decomposition of d_in³ + d_out³ per layer (p³ with ``solver=exact``). Memory L times that of
        ``if_ekfac`` (L p² numbers), and m p numbers.
    Source: Bae, Lin, Lorraine & Grosse 2024, arXiv:2405.12186. With momentum the rates are those of its
        steady state, lr / (1 - momentum). Clipping is not seen; other optimizers than SGD are refused.

    Attributes:
        segments: L, stretches of equal length.
        checkpoints: C, saved checkpoints used in each, null all.
        solver: ekfac (layer by layer, Kronecker factors) or exact (whole matrices, up to 6,000 parameters).
        curvature: ggn (or fisher, the same), sampled_fisher, empirical_fisher; hessian with solver=exact, whose
            negative eigenvalues are taken as 0.
        average: gradients, or parameters, the cheap form: one curvature and one gradient per instance at the mean of a
            stretch's parameters, in place of means of those at each of its checkpoints.
        filter: exp, or discrete: Π (1 - lr s) in place of e^(-S s), which is what full-batch steps do.
        max_examples: training instances that Kronecker factors are estimated from; null takes all.
        whole: weights with at most so many numbers get their exact matrix; null means 1,500.
        self_influence: also compute each training instance's influence on itself.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.CHECKPOINTS, Need.GRADIENTS, Need.CURVATURE})
    scale: ClassVar[Scale] = "loss"
    follows: ClassVar[bool] = True  # learning rates decide its matrices, and a net that stands still has none
    card: ClassVar[Card] = Card(
        family="trajectory",
        full="L C n p per output + L layers' d³",
        incremental="L C n p",
        storage="C p + L layers' d²",
        assumptions="SGD, stationary stretches, layers independent, Kronecker factors",
        groups="additive",
        paper="Bae et al. 2024",
    )

    segments: int = 3
    checkpoints: int | None = 2
    solver: Literal["ekfac", "exact"] = "ekfac"
    curvature: Kind = "ggn"
    average: Average = "gradients"
    filter: Filter = "exp"
    max_examples: int | None = None
    whole: int | None = None
    self_influence: bool = True

    def __post_init__(self) -> None:
        """Check ranges."""
        check_curvature(self.curvature, None)
        for name, value in (("segments", self.segments), ("checkpoints", self.checkpoints)):
            if value is not None and value < 1:
                raise ConfigError(f"estimator.{name} must be at least 1, got {value}; raise it")
        if self.solver not in ("ekfac", "exact"):
            raise ConfigError(f"estimator.solver must be ekfac or exact, got {self.solver!r}; change it")
        if self.average not in get_args(Average):
            raise ConfigError(f"estimator.average must be gradients or parameters, got {self.average!r}; change it")
        if self.filter not in get_args(Filter):
            raise ConfigError(f"estimator.filter must be exp or discrete, got {self.filter!r}; change it")
        if self.solver == "ekfac":
            self._layered.check(self.curvature)

    @property
    def refuses(self) -> dict[str, str]:
        """Perspectives that the settings leave out."""
        return {} if self.self_influence else {"memorization": ASK}

    @property
    def _layered(self) -> EKFAC:
        return EKFAC(max_examples=self.max_examples, whole=self.whole, audit=False)

    def plan(self, prospect: Prospect) -> Work:
        """Curvature and passes at every checkpoint used."""
        recipe = recorded(prospect)
        check_sgd(recipe, "source", INSTEAD)
        saved = [Checkpoint(step=step, lr=(0.0,), path=Path()) for step in prospect.net.saved]
        parts = stretches(saved, np.zeros(recipe.total), self.segments, self.checkpoints)
        points, where = sum(len(part.checkpoints) for part in parts), "checkpoints"
        if self.average == "parameters":
            points, where = len(parts), "means of checkpoints"
        if self.solver == "exact":
            one = matrix_work(prospect, self.curvature, MAX_P, REMEDY)
            held = one.bytes + (len(parts) - 1) * 8.0 * prospect.net.parameters**2
        else:
            one = layered_work(prospect, self.curvature, self._layered)
            held = len(parts) * one.bytes
        passes = segmented_work(prospect, points, self.self_influence)
        return replace(
            total([one] * points) + passes,
            bytes=held + passes.bytes,
            formula=f"{points} {where} x ({one.formula}), {len(parts)} in memory; {passes.formula}",
        )

    def estimate(self, run: Run) -> Influence:
        """Curvature stretch by stretch, then from the end of training backwards."""
        recipe = run.gradients.fitted.recipe
        check_sgd(recipe, "source", INSTEAD)
        if recipe.training.clip_norm is not None:
            run.warn("gradient clipping shortened steps of this training, which estimator=source takes at full length")
        rates = momentum_factor(recipe.optimizer) * run.learning_rates
        parts = stretches(run.checkpoints, rates, self.segments, self.checkpoints)
        segments = [self._segment(run, part) for part in parts]
        passes = Segmented(segments, run.gradients.exact, run.train, run.test)
        values = run.zeros()
        passes.fill(values)
        table = passes.table()
        report = {
            "segments": len(parts),
            "checkpoints": int(table["checkpoints"].sum()),
            "solver": self.solver,
            "curvature": self.curvature,
            "average": self.average,
            "filter": self.filter,
            "rates": float(table["rates"].sum()),
        }
        if self.average == "gradients":
            report |= {name: float(table[name].max()) for name in ("variation", "trace_variation")}
        return run.influence(
            values,
            scale=self.scale,
            self_influence=passes.own() if self.self_influence else None,
            self_influence_note="" if self.self_influence else ASK,
            tables={"segments": table},
            report=report,
        )

    def _segment(self, run: Run, part: Stretch) -> Segment:
        points = [replace(run.curvature, checkpoint=checkpoint) for checkpoint in part.checkpoints]
        if self.average == "parameters":
            mean = MeanGradients(run.gradients.fitted, run.train, run.test, over=tuple(part.checkpoints))
            points = [replace(points[-1], gradients=mean)]
        matrix: Spectral
        if self.solver == "exact":
            check_size(points[0].at.size, MAX_P, REMEDY)
            uniform = labels_of(run, self.curvature)
            found = points[0].matrix(self.curvature, MAX_P, uniform)
            traces = [float(found.trace())]
            for point in points[1:]:
                more = point.matrix(self.curvature, MAX_P, uniform)
                traces.append(float(more.trace()))
                found += more
            decay = float(points[0].decay.sum())
            traces = [trace - decay for trace in traces]
            matrix = Diagonalised.of(found / len(points))
        else:
            matrix, traces = self._layered.averaged(run, self.curvature, points)
        return Segment(part, matrix, Shrinkage(part.rates, self.filter), [point.at for point in points], traces)
