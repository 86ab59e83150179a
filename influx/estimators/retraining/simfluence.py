"""Simfluence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influx import interrupts, progress
from influx.engines.path import recorded
from influx.engines.simulator import ITERATIONS, Curriculum, Simulator
from influx.engines.traces import Traces
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run

BLOCK_BYTES = 256 << 20  # of losses, unknowns and their like for some test instances at a time
GROWN = 1e100  # a simulated loss that no square holds
UNSOLVED = 1e-6  # relative residual of the fit worth a warning
NO_SELF = "losses of test instances alone are recorded along training"
Effect = Literal["simulated", "first_order"]
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Simfluence:
    """A linear simulator of training, fitted to recorded trainings, without the instance and with it.

    Estimates: L̂_j(θ_T without i) - L̂_j(θ_T) by the recursion L̂_t = a_t L̂_{t-1} + b_t along the problem's own batches,
        a_t = 1 + Σ_{i in batch} w_t α_ij and b_t = Σ_{i in batch} w_t β_ij. Loss units; positive for proponents. It
        sees what batches did in trainings with all instances, which shows the effect of one as far as the order of
        batches varies it; the table says how well losses of trainings that were held out are simulated.
    Needs: every step, and trainings of the problem in other orders.
    Cost: R trainings with a pass over the test instances after every step, R T m numbers on disk; a fit of 2 n
        unknowns for each test instance in up to 200 passes over R T batches; T n m operations to simulate.
    Source: Guu et al. 2023, arXiv:2303.08114, Eq. (4) and (5). There A and B are free; here they are pulled towards a
        batch that changes nothing (a_t = 1, b_t = 0), follow the learning rate when a schedule changes it, and a
        removed instance leaves the size of its batch, as everywhere in influx: a_t need not be scaled up again.

    Attributes:
        runs: R, trainings recorded: the problem's own, and others from its initialisation in other orders.
        held_out: how many of the last of them are for judging the fit only.
        ridge: strength of the pull.
        center_A: pull A, of which a_t is the sum over a batch, towards 1 / |batch|; otherwise towards 0, as plain ridge
            regression does (with a schedule: where the learning rate is at its largest).
        clip: keep a_t within [-1, 1], where simulated losses cannot grow without bound; otherwise growth is an error.
        effect: simulated, with the instance and without, or first_order: -Σ_t w_t β_ij, its part of the b_t alone.
        bootstrap: refits on resampled runs, whose spread is the standard error; 0 gives none.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.TRAJECTORY})
    refuses: ClassVar[Mapping[str, str]] = {"memorization": NO_SELF}
    scale: ClassVar[Scale] = "loss"
    about_all: ClassVar[str] = (
        "it records losses of all test instances along trainings, which it would train again for some of them"
    )
    card: ClassVar[Card] = Card(
        family="retraining",
        full="R T (p b + p m) + R T b m",
        incremental="R T p + R T b",
        storage="R T m",
        assumptions="additive effects of a batch on each loss",
        groups="additive",
        paper="Guu et al. 2023",
    )

    runs: int = 12
    held_out: int = 2
    ridge: float = 0.01
    center_A: bool = True
    clip: bool = False
    effect: Effect = "simulated"
    bootstrap: int = 0

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.held_out < 0 or self.runs - self.held_out < 1:
            raise ConfigError(
                f"estimator.held_out must be from 0 to estimator.runs - 1 = {self.runs - 1}, got {self.held_out}; "
                "change one of them"
            )
        if not self.ridge > 0:
            raise ConfigError(f"estimator.ridge must be positive, got {self.ridge}; set estimator.ridge=0.01")
        if self.effect not in get_args(Effect):
            raise ConfigError(f"estimator.effect must be simulated or first_order, got {self.effect!r}; change it")
        if self.bootstrap < 0 or self.bootstrap == 1:
            raise ConfigError(f"estimator.bootstrap must be 0 or at least 2, got {self.bootstrap}; change it")
        if self.bootstrap and self.runs - self.held_out < 2:
            raise ConfigError("estimator.bootstrap needs 2 runs that are not held out; raise estimator.runs")

    def plan(self, prospect: Prospect) -> Work:
        """Recorded trainings, the fit and the simulation."""
        recipe, net = recorded(prospect), prospect.net
        n, m, steps = len(prospect.train), len(prospect.test), recipe.total
        rows = float((self.runs - self.held_out) * steps)
        entries = float((self.runs - self.held_out) * net.visits)
        return Work(
            more_trainings=float(self.runs),
            more_alone=float(self.runs),
            flops=2.0 * net.macs * m * (steps + 1) * self.runs,
            numbers=m * ((1 + self.bootstrap) * ITERATIONS * (8 * entries + 6 * rows + 20 * n) + 3.0 * steps * n),
            bytes=8.0 * n * m * (2 if self.bootstrap else 1) + BLOCK_BYTES,
            formula=f"{self.runs} trainings of {steps} steps, {ITERATIONS} passes over {entries:.3g} visits",
        )

    def estimate(self, run: Run) -> Influence:
        """Record, fit and simulate, some test instances at a time."""
        path = run.path
        traces = Traces(path.fitted, run.test)
        losses, where = traces.losses(self.runs), path.rows_in(run.train).numpy()
        n, m, fits = len(run.train), len(run.test), self.runs - self.held_out
        rates = run.path.fitted.learning_rates
        curricula, largest = [], 1
        for order in range(self.runs):
            batches = traces.recipe(order).batches
            largest = int(np.diff(batches.offsets).max())
            curricula.append(Curriculum.of(where[batches.rows], batches.offsets, rates, n))
        unknowns, steps = 2 * n, fits * path.total
        if steps < unknowns:
            run.warn(
                f"{fits} trainings of {path.total} steps are fewer than the {unknowns} unknowns of the fit; set "
                f"estimator.runs to {-(-unknowns // path.total) + self.held_out} or more"
            )
        draws, towards = self._draws(run, fits), 0.0 if self.center_A else -1 / largest
        values, spread = run.zeros(), run.zeros() if self.bootstrap else None
        residual, parts = 0.0, []
        with progress.task("fitting the simulator", m) as done:
            for columns in self._blocks(n, m, steps):
                seen = [np.asarray(found[:, columns]) for found in losses]
                known = list(zip(curricula[:fits], seen[:fits], strict=True))
                fitted = self._fitted(known, np.ones(fits), towards)
                values[:, columns] = self._removed(fitted, curricula[0], seen[0][0])
                if spread is not None:
                    spread[:, columns] = self._spread(known, draws, seen[0][0], towards)
                parts.append(self._judged(run.test.ids[columns], fitted, curricula, seen))
                residual = max(residual, fitted.residual)
                done(columns.stop - columns.start)
                interrupts.check()
        table = pd.concat(parts, ignore_index=True)
        if grown := int(table["mae_own"].isna().sum()):
            run.warn(
                f"simulated losses of {grown} of {m} test instances grow without bound: how far they are off is not "
                "judged; set estimator.clip=true, or raise estimator.ridge or estimator.runs"
            )
        report = {
            "runs": self.runs,
            "held_out": self.held_out,
            "steps_per_unknown": steps / unknowns,
            "residual": residual,
            "mae_own": float(table["mae_own"].mean()),
        }
        if self.held_out:
            report |= {name: float(table[name].median()) for name in ("r2_path", "r2_final", "mae_held_out")}
            if report["r2_final"] < 0:
                run.warn(
                    "the simulator says less of the last losses of trainings that were held out than the mean over "
                    f"those it was fitted to (median r2_final {report['r2_final']:.2g}): small influences are noise; "
                    "raise estimator.runs"
                )
        if residual > UNSOLVED:
            run.warn(
                f"{ITERATIONS} passes left the fit with a relative residual of {residual:.1g}, so that "
                "influence is approximate; raise estimator.ridge"
            )
        if self.bootstrap:
            report["stderr_degrees"] = min(self.bootstrap, fits) - 1
        return run.influence(
            values,
            scale=self.scale,
            stderr=spread,
            self_influence_note=NO_SELF,
            tables={"simfluence": table},
            report=report,
        )

    def _draws(self, run: Run, fits: int) -> Array:
        """``(bootstrap, fits)`` how often each run is in a resample; one that repeats a single run has no order."""
        rng = run.rng("bootstrap")
        return rng.multinomial(fits, np.full(fits, 1 / fits), size=self.bootstrap).astype(np.float64)

    def _blocks(self, n: int, m: int, steps: int) -> Iterator[slice]:
        """Test instances whose losses and unknowns fit in memory."""
        size = max(1, int(BLOCK_BYTES // (8 * (6 * steps + 20 * n))))
        return (slice(start, min(start + size, m)) for start in range(0, m, size))

    def _fitted(self, known: list[tuple[Curriculum, Array]], weights: Array, towards: float) -> Simulator:
        return Simulator.fitted(known, weights, self.ridge, towards=towards, clip=self.clip)

    def _removed(self, fitted: Simulator, curriculum: Curriculum, start: Array) -> Array:
        if self.effect == "first_order":
            return fitted.first_order(curriculum)
        return fitted.removals(curriculum, start)

    def _spread(self, known: list[tuple[Curriculum, Array]], draws: Array, start: Array, towards: float) -> Array:
        """``(n, columns)`` deviation of influence over refits."""
        mean, squares = np.zeros(()), np.zeros(())
        for number, weights in enumerate(draws, 1):
            found = self._removed(self._fitted(known, weights, towards), known[0][0], start)
            change = found - mean
            mean = mean + change / number
            squares = squares + change * (found - mean)
        return np.asarray(np.sqrt(squares / (len(draws) - 1)))

    def _judged(
        self, ids: NDArray[np.int64], fitted: Simulator, curricula: list[Curriculum], seen: list[Array]
    ) -> pd.DataFrame:
        """Losses that are simulated from the first one on, against those recorded.

        First-order effects need no simulation: there, test instances whose losses grow without bound have NaN.
        """
        simulate = fitted.path if self.effect == "simulated" else fitted.simulated
        paths = [simulate(curriculum, true[0]) for curriculum, true in zip(curricula, seen, strict=True)]
        bounded = np.logical_and.reduce([(np.abs(path) < GROWN).all(axis=0) for path in paths])
        paths = [np.where(bounded, path, np.nan) for path in paths]
        table = pd.DataFrame({"test_id": ids, "mae_own": np.abs(paths[0] - seen[0]).mean(axis=0)})
        if self.held_out:
            true, made = np.stack(seen[-self.held_out :]), np.stack(paths[-self.held_out :])  # (held, T + 1, columns)
            final = np.stack([s[-1] for s in seen[: -self.held_out]]).mean(axis=0)
            table["mae_held_out"] = np.abs(true - made).mean(axis=(0, 1))
            table["r2_path"] = 1 - _ratio(true - made, true - true.mean(axis=(0, 1)), (0, 1))
            table["r2_final"] = 1 - _ratio(true[:, -1] - made[:, -1], true[:, -1] - final, (0,))
        return table


def _ratio(error: Array, whole: Array, axes: tuple[int, ...]) -> Array:
    """Sum of squares over that of the reference; NaN where that is 0."""
    total = np.square(whole).sum(axis=axes)
    return np.asarray(np.square(error).sum(axis=axes) / np.where(total > 0, total, np.nan))
