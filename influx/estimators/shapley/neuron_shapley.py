"""Shapley values of a net's units: which of them make risks small."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from influx.engines import subsets
from influx.engines.coalitions import semivalues, shapley_weights
from influx.engines.explanations import NOTE, Output, by_test, check_output, held, parts, products
from influx.engines.games import Array, Coalitions
from influx.engines.neuron_games import Ablated, Ablation, NeuronGame, planned_sites
from influx.engines.permutations import Truncation, check_permutations, with_mean
from influx.engines.removals import Bound, Ranked, Removals, Removed, removed
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.problem import Split
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class NeuronShapley:
    """Shapley values of units, and products of these for pairs of instances.

    Estimates: φ_u(j), the Shapley value of unit u in the game v_j(S) = -L at x_j of the trained net whose units outside
        S are held at a constant; Σ_u φ_u(j) = v_j(all) - v_j(none). Up to ``max_exact`` units from all coalitions,
        beyond from random orders of removal: mean of v(S) - v(S - u). Once ``patience`` coalitions in a row are worth
        as little as none up to ``truncation``, the later marginals of an order count as 0, which biases values towards
        0. Only units whose place among the ``top_k`` is open draw on; truncation and places go by the mean over test
        instances. Values are in the tables ``neurons`` (that mean) and ``neurons_by_test`` (up to 1,000,000 rows).
        The matrix holds Σ_u φ_u(i) φ_u(j), positive where the same units lower the risks of i and j. It compares
        explanations of one trained model and estimates no effect of training; only the order of the values means
        something. Errors of both factors are of the same orders and do not cancel in their product.
    Needs: units of the trained net.
    Cost: (n + m) P u forward passes for P orders of u units; 2^u (n + m) up to ``max_exact``. Memory for the values
        and their errors, u (n + m), and the (n, m) result.
    Source: Ghorbani & Zou 2020, arXiv:2002.09815, algorithm 1; survey section 4.3.3. Their code values a random batch
        of instances at a time; here all are valued, so that each has a value of its own.

    Attributes:
        output: what units divide: loss (minus the risk), logit (log p_y / (1 - p_y) of the label, or the predicted
            value) or accuracy.
        layers: null for the outputs of all activation layers (of all hidden linear and convolution layers in nets
            without); or a regular expression for whole names of layers, as in the table. Units are channels.
        ablation: mean holds an absent unit at its mean over training instances and positions, zero at 0.
        max_exact: units up to which all coalitions are valued.
        permutations: orders at most.
        truncation: tolerance relative to |v(all) - v(none)|; 0 never truncates.
        patience: coalitions in a row within the tolerance before an order ends.
        check_every: orders from one look at the bounds to the next.
        top_k: how many units are looked for; null ranks none, and all draw to the end.
        delta: chance that a unit's value is outside its bounds.
        bound: bernstein (empirical, with the range that was seen) or normal.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.FEATURES})
    refuses: ClassVar[Mapping[str, str]] = {"memorization": NOTE}
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="shapley",
        full="(n + m) P u",
        incremental="n P u",
        storage="u (n + m)",
        assumptions="net",
        groups="no",
        paper="Ghorbani & Zou 2020",
    )

    output: Output = "loss"
    layers: str | None = None
    ablation: Ablation = "mean"
    max_exact: int = 12
    permutations: int = 100
    truncation: float = 0.01
    patience: int = 6
    check_every: int = 10
    top_k: int | None = 10
    delta: float = 0.2
    bound: Bound = "bernstein"

    def __post_init__(self) -> None:
        """Check ranges."""
        check_output(self.output)
        check_permutations(self.permutations, False, self.check_every)
        if self.check_every < 2:
            raise ConfigError(f"estimator.check_every must be at least 2, got {self.check_every}; raise it")
        if not 0 <= self.max_exact <= 20:
            raise ConfigError(f"estimator.max_exact must be between 0 and 20, got {self.max_exact}; change it")
        if not self.truncation >= 0:
            raise ConfigError(f"estimator.truncation must not be negative, got {self.truncation}; use 0 for never")
        for name in ("patience", "top_k"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"estimator.{name} must be at least 1, got {value}; raise it")
        if not 0 < self.delta < 1:
            raise ConfigError(f"estimator.delta must be between 0 and 1, got {self.delta}; try 0.2")

    def plan(self, prospect: Prospect) -> Work:
        """Forward passes of ablated nets: truncation and settled units can only save some."""
        check_output(self.output, prospect.problem.data)
        units = sum(site.size for site in planned_sites(prospect, self.layers))
        exact = units <= self.max_exact
        coalitions = 1 << units if exact else self.permutations * units
        n, m = len(prospect.train), len(prospect.test)
        passes = float(coalitions * (n + m))
        each = f"2^{units} coalitions" if exact else f"{self.permutations} orders x {units} units"
        return Work(
            flops=2.0 * prospect.net.macs * passes + 2.0 * units * n * m,
            numbers=passes * (prospect.train.x[0].size + 4 * units + 16),
            bytes=8.0 * (4 * units * (n + m) + n * m) + (held(n, coalitions) if exact else 0.0),
            formula=f"at most {n + m} instances x {each} forward passes",
        )

    def estimate(self, run: Run) -> Influence:
        """From all coalitions, or by removals; then compare."""
        check_output(self.output, run.problem.data)
        net = Ablated(run.features.net, run.train, self.layers, self.ablation)
        found = self._exact(run, net) if net.units <= self.max_exact else self._sampled(run, net)
        m, ranked = len(run.test), self._ranked()
        values, mean = found.values, found.values[:, -1]
        labels: dict[str, Any] = {
            "layer": np.repeat([site.name for site in net.sites], [site.size for site in net.sites]),
            "unit": np.concatenate([np.arange(site.size) for site in net.sites]),
        }
        neurons = {
            "value": mean,
            "stderr": found.stderr[:, -1],
            "ci_low": mean - found.radius,
            "ci_high": mean + found.radius,
            "in_top_k": ranked.chosen(mean),
            "draws": found.draws,
        }
        return run.influence(
            products(run, values[:, m:-1], values[:, :m]),
            scale=self.scale,
            self_influence_note=NOTE,
            tables={"neurons": pd.DataFrame(labels | neurons)}
            | by_test("neurons_by_test", labels, values[:, :m], found.stderr[:, :m], run.test.ids),
            report={
                "units": net.units,
                "coalitions": found.coalitions,
                "exact": found.stopped == "exact",
                "stopped": found.stopped,
                "truncated": found.truncated,
                "output": self.output,
            },
        )

    def _ranked(self) -> Ranked:
        return Ranked(top=self.top_k, delta=self.delta, bound=self.bound)

    def _exact(self, run: Run, net: Ablated) -> Removed:
        weights, count = shapley_weights(net.units), 1 << net.units
        test, train = (
            np.concatenate([semivalues(self._game(run, net, part), weights) for part in parts(split, count)], axis=1)
            for split in (run.test, run.train)
        )
        values = np.concatenate([test, train, with_mean(test)[:, -1:]], axis=1)
        return Removed(
            values=values,
            stderr=np.zeros_like(values),
            radius=np.zeros(net.units),
            draws=np.zeros(net.units, np.int64),
            stopped="exact",
            coalitions=count,
            truncated=0.0,
        )

    def _sampled(self, run: Run, net: Ablated) -> Removed:
        games = [self._game(run, net, split) for split in (run.test, run.train)]

        def value(coalitions: Coalitions) -> Array:
            return np.concatenate([game.values(coalitions) for game in games], axis=1)

        orders = subsets.permutations(np.arange(net.units), self.permutations, run.rng("permutations"))
        truncation = Truncation(tolerance=self.truncation, patience=self.patience)
        walk = Removals(value=value, players=net.units, lead=len(run.test), truncation=truncation)
        return removed(walk, orders, self.check_every, self._ranked())

    def _game(self, run: Run, net: Ablated, split: Split) -> NeuronGame:
        return NeuronGame(net=net, task=run.problem.data.task, output=self.output, split=split)
