"""Why influence functions and leave-one-out differ: six gaps that add up to the whole difference."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from influx.engines import subsets
from influx.engines.proximal import Proximal
from influx.engines.warm import warm_losses
from influx.errors import ConfigError, IncompatibleError
from influx.influence import Influence
from influx.metrics.aligned import MIN_ROWS
from influx.metrics.per_test import summarise
from influx.metrics.row_samples import spearman_samples
from influx.metrics.statistics import (
    FloatArray,
    check_resamples,
    constant_columns,
    counts_of,
    interval,
    resample,
    spearman_columns,
)
from influx.metrics.tidy import Measured, sentences, tidy, unavailable
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.problem import Design
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

Against = Literal["everything", "trained"]
GAPS = ("warm_start", "proximity", "non_convergence", "linearisation", "test_linearisation", "solver")
PARTS = tuple(f"gaps_{gap}_{kind}" for gap in GAPS for kind in ("size", "mean", "share"))
WHOLE = ("gaps_total_size", "gaps_total_mean", "gaps_drift", "gaps_telescoping_error")
RANKS = ("gaps_spearman_loo", "gaps_spearman_pbrf")
NAMES = (*PARTS, *WHOLE, *RANKS)


@dataclass(frozen=True, kw_only=True)
class InfluenceFunctionGaps:
    """Signed gaps between leave-one-out and an estimate S by influence functions; they add up to Δ(LOO) - S.

    Measures: the change Δ of test risk j without z_i at six stations between leave-one-out and the estimate, θ_s being
        the trained parameters and P = G + W + λI (Gauss-Newton, weight decay, damping): ``warm_start`` is Δ(retrained)
        - Δ(trained on from θ_s by the same recipe); ``proximity`` Δ(trained on) - Δ(minimum with (λ/2)|θ - θ_s|²);
        ``non_convergence`` that - Δ(PBRF); ``linearisation`` Δ(PBRF) - Δ(θ_s + P⁻¹g_i/n); ``test_linearisation`` that
        - g_jᵀP⁻¹g_i/n; ``solver`` that - S[i, j], whatever S was computed with.
        Of each the mean absolute value over audited i and all j (``_size``), the mean (``_mean``) and its part of the
        sum of sizes (``_share``). ``gaps_total`` is Δ(LOO) - S; ``gaps_telescoping_error`` the largest difference of
        the sum of gaps from it; ``gaps_drift`` the mean change of test risks by training on with all instances.
        ``gaps_spearman_loo`` and ``gaps_spearman_pbrf`` correlate S with leave-one-out and with PBRF, per test
        instance over the audited i.
    Reference: Δ is taken against the same station with nothing left out, so that a gap is about the removal. With
        ``against=trained`` it is taken against θ_s, as in the paper; a training that was not converged then drifts on
        whatever is removed, which enters ``warm_start`` and ``non_convergence`` with opposite signs and hides the rest.
    Damping: λ is ``damping``, else what the estimate reports, else if_exact's rule.
    Intervals: 95% percentile bootstrap over audited training instances; of correlations over test instances too.
    Degenerate: instances whose minimisations do not converge are left out of everything, and counted in the note.
    Needs: retraining, gradients and curvature; an estimate in loss units.
    Cost: per audited instance ``seeds`` retrainings, shared with truth=loo, one from θ_s and two minimisations.
    Source: Bae et al. 2022, arXiv:2209.05364, section 4, with the gap of the test risk apart.

    Attributes:
        instances: audited training instances, drawn at random among those with a ground truth.
        against: everything (the same station with nothing left out) or trained (θ_s).
        seeds: initialisations and batch orders over which the leave-one-out effect is averaged.
        damping: λ; null takes that of the estimate.
        tol: gradient to leave in the minimisations, see estimator=pbrf.
        steps: steps after which a minimisation counts as not converged.
        max_p: largest number of parameters to accept.
        n_boot: resamples.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.RETRAIN, Need.CURVATURE})

    instances: int = 20
    against: Against = "everything"
    seeds: int = 1
    damping: float | None = None
    tol: float = 1e-4
    steps: int = 300
    max_p: int = 12000
    n_boot: int = 1000

    def __post_init__(self) -> None:
        """Check ranges."""
        check_resamples("metric.if_gaps.n_boot", self.n_boot)
        for name, value, least in (("instances", self.instances, MIN_ROWS), ("seeds", self.seeds, 1)):
            if value < least:
                raise ConfigError(f"metric.if_gaps.{name} must be at least {least}, got {value}; raise it")
        if self.against not in get_args(Against):
            raise ConfigError(
                f"metric.if_gaps.against must be one of {', '.join(get_args(Against))}, got {self.against!r}; change it"
            )
        if self.steps < 1:
            raise ConfigError(f"metric.if_gaps.steps must be at least 1, got {self.steps}; 300 is usual")
        if self.damping is not None and not self.damping > 0:
            raise ConfigError(
                f"metric.if_gaps.damping must be positive, got {self.damping}; use null for the estimate's"
            )
        if not 0 < self.tol < 1:
            raise ConfigError(f"metric.if_gaps.tol must be between 0 and 1, got {self.tol}; 1e-4 is enough")

    def plan(self, prospect: Prospect) -> Work:
        """Trainings by retraining and by training on; the minimisations."""
        n, p = len(prospect.train), prospect.net.parameters
        if p > self.max_p:
            raise IncompatibleError(
                f"if_gaps builds a {p} x {p} matrix, metric.if_gaps.max_p allows {self.max_p}; raise it or choose a "
                "smaller model"
            )
        count = min(self.instances, n, prospect.truth_rows or n)
        rows = subsets.some(prospect.train.ids, np.arange(n), count, prospect.drawn("removed"))
        c, macs = prospect.problem.data.n_outputs, prospect.net.macs
        each = 60 * (6.0 * macs * n + 2.0 * p**2)
        return Work(
            trainings=self._designs(n, rows),
            more_trainings=float(len(rows) + 1),
            gradients=float(n * c + len(rows)),
            flops=2 * (2.0 * n * c * p**2 + 2 / 3 * p**3 + len(rows) * each),
            bytes=8.0 * 4 * p**2,
            formula=f"{self.seeds} x ({count} + 1) + {count} + 1 trainings, {2 * count} minimisations",
        )

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """One row per number of ``NAMES``."""
        if influence.scale != "loss":
            note = "gaps need scores in loss units; this estimator's scale is rank"
            return tidy(unavailable(NAMES, "not applicable", note))
        known = influence.computed if run.truth is None else influence.computed & run.truth.computed
        rows = subsets.some(run.train.ids, np.flatnonzero(known), self.instances, run.drawn("removed"))
        if len(rows) < MIN_ROWS:
            note = f"gaps need {MIN_ROWS} training instances with a score, there are {len(rows)}"
            return tidy(unavailable(NAMES, "not applicable", note))
        solver = Proximal(run.curvature, self._damping(influence), self.max_p, "metric.if_gaps")
        scores = np.asarray(influence.values[rows], dtype=np.float64)
        ways, drift, lost = self._ways(run, rows, solver, scores)
        note = f"{int(lost.sum())} of {len(rows)} instances left out: a minimisation did not converge; raise damping"
        note = note if lost.any() else ""
        protocol = sentences(
            f"{int((~lost).sum())} audited training instances, {len(run.test)} test instances",
            f"against={self.against}, damping={solver.chosen:.3g}, seeds={self.seeds}",
        )
        if (~lost).sum() < MIN_ROWS:
            return tidy(unavailable(NAMES, "degenerate", note, protocol))
        return tidy(self._rows(ways[:, ~lost], drift, run, protocol, note))

    def _damping(self, influence: Influence) -> float | None:
        """λ; an estimate without damping leaves it to the rule, which then finds none to be needed either."""
        stated = influence.report.get("damping")
        if self.damping is not None:
            return self.damping
        return float(stated) if isinstance(stated, int | float) and stated > 0 and math.isfinite(stated) else None

    def _designs(self, n: int, rows: NDArray[np.int64]) -> tuple[Design, ...]:
        return tuple(subsets.leave_one_out(n, rows, seed, "full") for seed in range(self.seeds))

    def _ways(
        self, run: Run, rows: NDArray[np.int64], solver: Proximal, scores: FloatArray
    ) -> tuple[FloatArray, float, NDArray[np.bool_]]:
        """Δ at the seven stations ``(7, K, m)``, mean change by training on with all, and who is lost ``(K,)``."""
        cold = np.zeros((len(rows), len(run.test)))
        for design in self._designs(len(run.train), rows):
            losses = run.retrain.outcomes(design, "retraining audited models")[1].loss
            cold += (losses[1:] - losses[0]) / self.seeds
        warm = warm_losses(run.problem, run.fitted, rows)
        drift = warm[0] - run.outcomes(run.test).loss
        shared = self.against == "everything"
        numbers = torch.from_numpy(rows).to(run.curvature.fitted.device)
        stations: list[list[torch.Tensor]] = [[], [], [], []]
        warmed = warm[1:] - (warm[0] if shared else run.outcomes(run.test).loss)
        kept = solver.keep(numbers, self.tol, self.steps)
        base, lost = solver.changes(kept.theta, run.test) if shared else 0.0, []
        gradients = torch.cat([part.flat() for _, part in run.curvature.at.blocks(run.test)])
        for part in solver.blocks(numbers, "minimisations of audited instances"):
            held = solver.remove(part, "retrained", self.tol, self.steps)
            response = solver.remove(part, "response", self.tol, self.steps)
            shift = solver.linear(part)
            lost.append(~(held.converged & response.converged & (kept.converged | (not shared))))
            thetas = held.theta, response.theta, solver.stack.theta + shift
            found = [*(solver.changes(theta, run.test) for theta in thetas), shift @ gradients.T]
            found[0] = found[0] - base
            for station, values in zip(stations, found, strict=True):
                station.append(values)
        inner = [torch.cat(station).cpu().numpy() for station in stations]
        return np.stack([cold, warmed, *inner, scores]), float(drift.mean()), torch.cat(lost).cpu().numpy()

    def _rows(self, ways: FloatArray, drift: float, run: Run, protocol: str, note: str) -> Iterator[Measured]:
        gaps, total = ways[:-1] - ways[1:], ways[0] - ways[-1]  # (6, K, m), (K, m)
        count = ways.shape[1]
        draws = counts_of(resample(run.rng("training instances"), count, self.n_boot)) / count
        over = sentences(protocol, f"n: training instances; 95% CI: bootstrap over them x{self.n_boot}")

        def row(name: str, value: float, samples: FloatArray | None = None) -> Measured:
            low, high = (math.nan, math.nan) if samples is None else interval(samples)
            return Measured(metric=name, value=value, ci_low=low, ci_high=high, n=count, protocol=over, note=note)

        sizes = np.abs(gaps).mean(axis=2) @ draws.T  # (6, n_boot)
        size = np.abs(gaps).mean(axis=(1, 2))
        for number, gap in enumerate(GAPS):
            yield row(f"gaps_{gap}_size", float(size[number]), sizes[number])
            yield row(f"gaps_{gap}_mean", float(gaps[number].mean()), draws @ gaps[number].mean(axis=1))
            yield row(f"gaps_{gap}_share", float(size[number] / size.sum()), sizes[number] / sizes.sum(axis=0))
        yield row("gaps_total_size", float(np.abs(total).mean()), draws @ np.abs(total).mean(axis=1))
        yield row("gaps_total_mean", float(total.mean()), draws @ total.mean(axis=1))
        yield row("gaps_drift", drift)
        yield row("gaps_telescoping_error", float(np.abs(gaps.sum(axis=0) - total).max()))
        for name, target in zip(RANKS, (ways[0], ways[3]), strict=True):
            flat = constant_columns(ways[-1]) | constant_columns(target)
            arrays = ways[-1][:, ~flat], target[:, ~flat]
            yield summarise(
                name,
                spearman_columns(*arrays),
                rng=run.rng("test instances"),
                n_boot=self.n_boot,
                samples=spearman_samples(arrays, draws * count) if not flat.all() else None,
                protocol=protocol,
                note=note,
            )
