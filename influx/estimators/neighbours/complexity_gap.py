"""Complexity gap."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from influx import interrupts, progress
from influx.engines.complexity import gaps, unit
from influx.errors import ConfigError, IncompatibleError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.problem import Data
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class ComplexityGap:
    """How irregular an instance is among the others of its class, from inputs and labels alone.

    Estimates: -CG_i with CG_i = yᵀ H⁻¹ y - y₋ᵢᵀ H₋ᵢ⁻¹ y₋ᵢ, how much easier to fit the labels are without i, the same
        for every test instance; y is +1 for the class of i and -1 for as many instances of the others, H the kernel
        of a wide ReLU network between unit inputs. Means over draws of the others. CG is never negative: large for
        instances whose label their neighbours do not share. Self-influence is CG. Only the order of values means
        something.
    Needs: nothing but the data, or learned features.
    Cost: for each draw and class with k instances (2 k)³ operations and (2 k)² numbers; n m for the result.
    Source: Nohyun, Choi & Chung 2023, Data valuation without training of a model (ICLR), Eq. (4) and (5). All CG of a
        draw come from one factorisation, where they update an inverse row by row.

    Attributes:
        repeats: draws of the instances of other classes to average over.
        unbalance: instances of other classes for each one of the class.
        jitter: what is added to the diagonal of H.
        features: raw (the data, flattened) or penultimate (inputs of the trained model's last layer).
        most: instances of a class that are scored together; a larger class is split at random.
    """

    requires: ClassVar[frozenset[Need]] = frozenset()
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="neighbours",
        full="n k²",
        incremental="0",
        storage="k²",
        assumptions="classification, infinitely wide network",
        groups="additive",
        paper="Nohyun et al. 2023",
    )

    repeats: int = 10
    unbalance: float = 1.0
    jitter: float = 1e-6
    features: Literal["raw", "penultimate"] = "raw"
    most: int = 2000

    def __post_init__(self) -> None:
        """Check ranges; features of the data need no model."""
        for name, value, least in (("repeats", self.repeats, 1), ("most", self.most, 1)):
            if value < least:
                raise ConfigError(f"estimator.{name} must be at least {least}, got {value}; raise it")
        if not self.unbalance > 0:
            raise ConfigError(f"estimator.unbalance must be positive, got {self.unbalance}; 1 is the paper's")
        if not self.jitter >= 0:
            raise ConfigError(f"estimator.jitter must not be negative, got {self.jitter}; set estimator.jitter=1e-6")
        if self.features not in ("raw", "penultimate"):
            raise ConfigError(f"estimator.features must be raw or penultimate, got {self.features!r}; change it")
        if self.features == "penultimate":
            object.__setattr__(self, "requires", frozenset({Need.FEATURES}))

    def plan(self, prospect: Prospect) -> Work:
        """One factorisation per draw and part of a class."""
        data = prospect.problem.data
        self._check(data)
        n, m = len(data.train), len(data.test)
        sizes = [float(min(len(part) * (1 + self.unbalance), n)) for part in self._parts(data, np.arange(n))]
        d, macs = (data.train.x[0].size, 0.0) if self.features == "raw" else prospect.represented
        largest = max(sizes)
        return Work(
            flops=2.0 * n * macs + 2 * self.repeats * sum(2.0 * d * s**2 + 2.0 * s**3 for s in sizes),
            numbers=self.repeats * sum(10.0 * s**2 for s in sizes) + n * m,
            bytes=8.0 * (n * m + 4.0 * largest**2 + n * d),
            formula=f"{self.repeats} draws x {len(sizes)} systems of up to {largest:.0f} instances",
        )

    def estimate(self, run: Run) -> Influence:
        """Score every instance against draws of the other classes."""
        data = run.problem.data
        self._check(data)
        n = len(run.train)
        if self.features == "raw":
            x = unit(run.train.x)
        else:
            x = unit(run.features.penultimate(run.train).double().cpu().numpy())
        found = np.empty((self.repeats, n))
        with progress.task("complexity", self.repeats) as done:
            for repeat in range(self.repeats):
                order = self._order(run, repeat)
                for part in self._parts(data, order):
                    others = self._others(data, order, part)
                    rows = np.concatenate([part, others])
                    y = torch.ones(len(rows), dtype=torch.float64)
                    y[len(part) :] = -1
                    found[repeat, part] = gaps(x[torch.from_numpy(rows)], y, self.jitter)[: len(part)].numpy()
                done(1)
                interrupts.check()
        values, gap = run.zeros(), found.mean(axis=0)
        values[:] = -gap[:, None]
        spread, report = None, {"repeats": self.repeats, "jitter": self.jitter}
        if self.repeats > 1:
            spread, report["stderr_degrees"] = run.zeros(), self.repeats - 1
            spread[:] = (found.std(axis=0, ddof=1) / np.sqrt(self.repeats))[:, None]
        return run.influence(
            values,
            scale=self.scale,
            stderr=spread,
            self_influence=gap,
            report=report,
        )

    def _order(self, run: Run, repeat: int) -> NDArray[np.int64]:
        """Rows in a random order that depends on ids alone."""
        ids = run.train.ids
        drawn = run.rng(f"complexity/{repeat}").random(int(ids.max()) + 1)[ids]
        return np.asarray(np.argsort(drawn, kind="stable"))

    def _parts(self, data: Data, order: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Rows of every class, in parts of equal size that have enough instances of other classes beside them."""
        y = data.train.y[order]
        for label in np.unique(y):
            rows = order[y == label]
            fitting = max(1, min(self.most, int((len(order) - len(rows)) / self.unbalance)))
            yield from np.array_split(rows, -(-len(rows) // fitting))

    def _others(self, data: Data, order: NDArray[np.int64], part: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first instances of other classes."""
        rest = order[data.train.y[order] != data.train.y[part[0]]]
        return np.asarray(rest[: max(1, round(self.unbalance * len(part)))])

    def _check(self, data: Data) -> None:
        if data.task == "regression" or not data.classes:
            raise IncompatibleError(
                f"complexity_gap compares classes, and {data.name} has none; choose another estimator"
            )
        if len(np.unique(data.train.y)) < 2:
            raise IncompatibleError(
                "complexity_gap compares classes, and all training instances have one label; choose another estimator"
            )
        if self.features == "raw" and data.kind == "text":
            raise ConfigError("estimator.features=raw has no angles between texts; use estimator.features=penultimate")
