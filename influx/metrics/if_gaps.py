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
from influx.engines.proximal import Moved, Proximal
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
PREFIX = {"everything": "gaps", "trained": "gaps_trained"}  # of metric names: the two definitions must not be mixed
THIRD = {"everything": "bregman", "trained": "non_convergence"}
WHOLE = ("total_size", "total_mean", "drift", "telescoping_error")
RANKS = ("spearman_loo", "spearman_pbrf")


def gaps(against: Against) -> tuple[str, ...]:
    """The six gaps in order."""
    return ("warm_start", "proximity", THIRD[against], "linearisation", "test_linearisation", "approximation")


def names(against: Against) -> list[str]:
    """All metric names of one definition."""
    parts = [f"{gap}_{kind}" for gap in gaps(against) for kind in ("size", "mean", "share")]
    return [f"{PREFIX[against]}_{name}" for name in (*parts, *WHOLE, *RANKS)]


@dataclass(frozen=True, kw_only=True)
class InfluenceFunctionGaps:
    """Signed gaps between leave-one-out and an estimate S by influence functions; they add up to Δ(LOO) - S.

    Measures: the change Δ of test risk j without z_i at six stations between leave-one-out and the estimate, θ_s being
        the trained parameters and P = G + W + λI (Gauss-Newton, weight decay, damping): ``warm_start`` is Δ(retrained)
        - Δ(trained on from θ_s by the same recipe); ``proximity`` Δ(trained on) - Δ(minimum with (λ/2)|θ - θ_s|²);
        ``bregman`` that - Δ(PBRF), whose objective is stationary at θ_s; ``linearisation`` Δ(PBRF) - Δ(θ_s + P⁻¹g_i/n);
        ``test_linearisation`` that - g_jᵀP⁻¹g_i/n; ``approximation`` that - S[i, j], whatever S was computed with.
        Of each the mean absolute value over audited i and all j (``_size``), the mean (``_mean``) and its part of the
        sum of sizes (``_share``). ``gaps_total`` is Δ(LOO) - S; ``gaps_telescoping_error`` the largest difference of
        the sum of gaps from it; ``gaps_drift`` the mean change of test risks by training on with all instances.
        ``gaps_spearman_loo`` and ``gaps_spearman_pbrf`` correlate S with leave-one-out and with PBRF, per test
        instance over the audited i.
    Reference: Δ is taken against the same station with nothing left out, so that a gap is about the removal. With
        ``against=trained`` it is taken against θ_s, as in the paper; a training that was not converged then drifts on
        whatever is removed, which enters ``warm_start`` and the third gap with opposite signs and hides the rest.
        The third gap is then called ``non_convergence``, and all names begin with ``gaps_trained`` instead of ``gaps``.
        Leave-one-out stays the difference from retraining with everything under the same seed.
    Seeds: leave-one-out and training on are averaged over them; the note of ``gaps_total_mean`` and
        ``gaps_warm_start_mean`` has the standard error that this leaves.
    Damping: λ is ``damping``, else what the estimate reports (the mean of several), else if_exact's rule. The note says
        where it is not the estimate's: that difference is then part of ``approximation``.
    Intervals: 95% percentile bootstrap over audited training instances; of correlations over test instances too.
    Degenerate: instances whose minimisations do not converge are left out of everything, and counted in the note.
    Needs: retraining, gradients and curvature; an estimate in loss units.
    Cost: per audited instance ``seeds`` retrainings, shared with truth=loo, as many from θ_s and two minimisations.
    Source: Bae et al. 2022, arXiv:2209.05364, section 4, with the gap of the test risk apart.

    Attributes:
        instances: audited training instances, drawn at random among those with a ground truth.
        against: everything (the same station with nothing left out) or trained (θ_s).
        seeds: initialisations and batch orders of retraining, and batch orders of training on.
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
            more_trainings=float(self.seeds * (len(rows) + 1)),
            gradients=float(n * c + len(rows)),
            flops=2 * (2.0 * n * c * p**2 + 2 / 3 * p**3 + len(rows) * each),
            bytes=8.0 * 4 * p**2,
            formula=f"2 x {self.seeds} x ({count} + 1) trainings, {2 * count} minimisations",
        )

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """One row per name in ``names``."""
        if influence.scale != "loss":
            note = "gaps need scores in loss units; this estimator's scale is rank"
            return tidy(unavailable(names(self.against), "not applicable", note))
        known = influence.computed if run.truth is None else influence.computed & run.truth.computed
        rows = subsets.some(run.train.ids, np.flatnonzero(known), self.instances, run.drawn("removed"))
        if len(rows) < MIN_ROWS:
            note = f"gaps need {MIN_ROWS} training instances with a score, there are {len(rows)}"
            return tidy(unavailable(names(self.against), "not applicable", note))
        damping, told = self._damping(influence, run)
        solver = Proximal(run.curvature, damping, self.max_p, "metric.if_gaps")
        scores = np.asarray(influence.values[rows], dtype=np.float64)
        numbers = torch.from_numpy(rows).to(run.curvature.fitted.device)
        protocol = f"against={self.against}, damping={solver.chosen:.3g}, seeds={self.seeds}"
        remedy = f"set metric.if_gaps.steps={4 * self.steps} or metric.if_gaps.damping={solver.stronger:.2g}"
        kept = solver.keep(numbers, self.tol, self.steps) if self.against == "everything" else None
        if kept is not None and not bool(kept.converged):
            note = f"the minimisation with nothing left out did not converge in {self.steps} steps; {remedy}"
            return tidy(unavailable(names(self.against), "degenerate", note, protocol))
        inner, lost = self._near(run, numbers, solver, kept)
        note = f"{int(lost.sum())} of {len(rows)} instances left out: their minimisations did not converge in "
        note = f"{note}{self.steps} steps; {remedy}" if lost.any() else ""
        protocol = sentences(
            f"{int((~lost).sum())} audited training instances, {len(run.test)} test instances", protocol
        )
        if (~lost).sum() < MIN_ROWS:
            return tidy(unavailable(names(self.against), "degenerate", note, protocol))
        cold, warm, drift = self._trained(run, rows)
        ways = np.concatenate([cold.mean(0)[None], warm.mean(0)[None], inner, scores[None]])[:, ~lost]
        errors = {
            "total_mean": self._over_seeds(cold[:, ~lost]),
            "warm_start_mean": self._over_seeds((cold - warm)[:, ~lost]),
        }
        said = told.format(solver.chosen) if told else ""
        return tidy(self._rows(ways, drift, errors, run, protocol, sentences(note, said)))

    def _damping(self, influence: Influence, run: Run) -> tuple[float | None, str]:
        """λ, None for the rule, and what to say of it where it is not that of the estimate, with a place for λ."""
        report = influence.report
        stated, least, most = (report.get(name) for name in ("damping", "damping_min", "damping_max"))
        stated = float(stated) if isinstance(stated, int | float) and math.isfinite(stated) else None
        several = isinstance(least, int | float) and isinstance(most, int | float) and least < most
        of = f"{stated:.3g}" if stated is not None else ""
        of = f"{least:.3g} to {most:.3g} by layer, {of} on average" if several else of
        if self.damping is not None:
            replaced = stated is not None and (several or not math.isclose(stated, self.damping, rel_tol=1e-9))
            return self.damping, f"gaps are at damping {{:.3g}}, the estimate's is {of}" if replaced else ""
        if stated is None:
            return None, "the estimate states no damping, gaps are at {:.3g}"
        if several:
            return stated, f"the estimate's damping is {of}, gaps are at {{:.3g}}"
        if stated > 0 or bool((run.curvature.decay > 0).all()):
            return stated, ""
        return None, "the estimate's damping is 0 and not all parameters have weight decay, gaps are at {:.3g}"

    def _designs(self, n: int, rows: NDArray[np.int64]) -> tuple[Design, ...]:
        return tuple(subsets.leave_one_out(n, rows, seed, "full") for seed in range(self.seeds))

    def _trained(self, run: Run, rows: NDArray[np.int64]) -> tuple[FloatArray, FloatArray, float]:
        """Δ by retraining and by training on, ``(seeds, K, m)`` each, and the mean change by training on with all."""
        cold, warm, drift = [], [], 0.0
        own = run.outcomes(run.test).loss
        for seed, design in enumerate(self._designs(len(run.train), rows)):
            losses = run.retrain.outcomes(design, "retraining audited models")[1].loss
            cold.append(losses[1:] - losses[0])
            losses = warm_losses(run.problem, run.fitted, rows, seed)
            warm.append(losses[1:] - (losses[0] if self.against == "everything" else own))
            drift += float((losses[0] - own).mean()) / self.seeds
        return np.stack(cold), np.stack(warm), drift

    def _near(
        self, run: Run, numbers: torch.Tensor, solver: Proximal, kept: Moved | None
    ) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Δ at the four stations near θ_s ``(4, K, m)``, and whose minimisations did not converge ``(K,)``.

        ``kept`` is the minimum with nothing left out, for the first station's reference.
        """
        stations: list[list[torch.Tensor]] = [[], [], [], []]
        base, lost = 0.0 if kept is None else solver.changes(kept.theta, run.test), []
        gradients = torch.cat([part.flat() for _, part in run.curvature.at.blocks(run.test)])
        for part in solver.blocks(numbers, "minimisations of audited instances"):
            held = solver.remove(part, "retrained", self.tol, self.steps)
            response = solver.remove(part, "response", self.tol, self.steps)
            shift = solver.linear(part)
            lost.append(~(held.converged & response.converged))
            thetas = held.theta, response.theta, solver.stack.theta + shift
            found = [*(solver.changes(theta, run.test) for theta in thetas), shift @ gradients.T]
            found[0] = found[0] - base
            for station, values in zip(stations, found, strict=True):
                station.append(values)
        return np.stack([torch.cat(s).cpu().numpy() for s in stations]), torch.cat(lost).cpu().numpy()

    def _over_seeds(self, values: FloatArray) -> str:
        """Standard error of the mean of ``(seeds, K, m)`` that another choice of seeds would make, in words."""
        if self.seeds == 1:
            return ""
        means = values.mean(axis=(1, 2))
        return f"standard error over {self.seeds} seeds {means.std(ddof=1) / math.sqrt(self.seeds):.2g}"

    def _rows(
        self, ways: FloatArray, drift: float, errors: dict[str, str], run: Run, protocol: str, note: str
    ) -> Iterator[Measured]:
        """Rows from Δ at the seven stations ``(7, K, m)``; ``errors`` are said of single rows."""
        found, total = ways[:-1] - ways[1:], ways[0] - ways[-1]  # (6, K, m), (K, m)
        count, prefix = ways.shape[1], PREFIX[self.against]
        draws = counts_of(resample(run.rng("training instances"), count, self.n_boot)) / count
        over = sentences(protocol, f"n: training instances; 95% CI: bootstrap over them x{self.n_boot}")

        def row(name: str, value: float, samples: FloatArray | None = None) -> Measured:
            low, high = (math.nan, math.nan) if samples is None else interval(samples)
            said = sentences(note, errors.get(name, ""))
            metric = f"{prefix}_{name}"
            return Measured(metric=metric, value=value, ci_low=low, ci_high=high, n=count, protocol=over, note=said)

        sizes = np.abs(found).mean(axis=2) @ draws.T  # (6, n_boot)
        size = np.abs(found).mean(axis=(1, 2))
        for number, gap in enumerate(gaps(self.against)):
            yield row(f"{gap}_size", float(size[number]), sizes[number])
            yield row(f"{gap}_mean", float(found[number].mean()), draws @ found[number].mean(axis=1))
            yield row(f"{gap}_share", float(size[number] / size.sum()), sizes[number] / sizes.sum(axis=0))
        yield row("total_size", float(np.abs(total).mean()), draws @ np.abs(total).mean(axis=1))
        yield row("total_mean", float(total.mean()), draws @ total.mean(axis=1))
        yield row("drift", drift)
        yield row("telescoping_error", float(np.abs(found.sum(axis=0) - total).max()))
        for name, target in zip(RANKS, (ways[0], ways[3]), strict=True):
            flat = constant_columns(ways[-1]) | constant_columns(target)
            arrays = ways[-1][:, ~flat], target[:, ~flat]
            yield summarise(
                f"{prefix}_{name}",
                spearman_columns(*arrays),
                rng=run.rng("test instances"),
                n_boot=self.n_boot,
                samples=spearman_samples(arrays, draws * count) if not flat.all() else None,
                protocol=protocol,
                note=note,
            )
