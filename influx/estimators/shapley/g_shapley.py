"""The Shapley value of training in one pass, from random orders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from influx.engines import subsets
from influx.engines.contrasts import joint_table
from influx.engines.games import Array
from influx.engines.online import CANDIDATES, Online
from influx.engines.permutations import at_once, check_permutations, gathered
from influx.engines.players import APART, NO_SELF
from influx.engines.stopping import Stop
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run

TRIALS = 10  # passes per learning rate of the search


@dataclass(frozen=True, kw_only=True)
class GShapley:
    """Gradient Shapley.

    Estimates: the mean over random orders of L(z_j; θ_q-1) - L(z_j; θ_q), θ_q being the parameters after a step of
        plain gradient descent on the instance at position q, one pass from a fresh initialisation. Summed over i it
        is the fall of the risk over a pass, the first step included. Loss units of such a pass, not of the trained
        model; positive for proponents.
    Needs: gradients, along passes of its own. Weight decay, momentum and schedules of the training are left out.
    Cost: P n gradients and P n m / batch_size forward passes for P orders.
    Source: Ghorbani & Zou 2019, arXiv:1904.02868, algorithm 2; survey section 4.3.3. Their code gives the first
        instance of an order nothing, and searches the learning rate by accuracy on test instances; here by the risk
        of training instances.

    Attributes:
        lr: learning rate; null is that of the trained model, with a warning when its steps were not those of plain
            SGD; search tries 0.1 to 0.00003 in half powers of ten.
        batch_size: instances of a step, which share its fall equally.
        inits: initialisations that take turns; the first is the trained model's own.
        permutations: orders at most.
        stop: budget (after all of them), stderr, paper, or any of stderr and paper, whichever comes first. Rules look
            at the mean over test instances, so that the values for one depend on the others; set more permutations
            with them.
        check_every: orders from one look at the rule to the next.
        target_stderr: stderr stops when the largest standard error is below this part of the range of values, both of
            the mean over test instances; after 50 orders at least.
        convergence: paper stops when running means of the last ``window`` orders differ from the newest by less than
            this, relative to each value and averaged over instances.
        window: orders that the rule of the paper looks back on.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENTS})
    refuses: ClassVar[Mapping[str, str]] = {"memorization": NO_SELF}
    scale: ClassVar[Scale] = "loss"
    card: ClassVar[Card] = Card(
        family="shapley",
        full="n P (p + m)",
        incremental="n P",
        storage="n m",
        assumptions="one pass",
        groups="additive",
        paper="Ghorbani & Zou 2019",
    )

    lr: Literal["search"] | float | None = None
    batch_size: int = 1
    inits: int = 1
    permutations: int = 200
    stop: Literal["budget", "stderr", "paper", "any"] = "budget"
    check_every: int = 10
    target_stderr: float = 0.1
    convergence: float = 0.05
    window: int = 100

    def __post_init__(self) -> None:
        """Check ranges."""
        check_permutations(self.permutations, False, self.check_every)
        for name in ("batch_size", "inits", "window"):
            if getattr(self, name) < 1:
                raise ConfigError(f"estimator.{name} must be at least 1, got {getattr(self, name)}; raise it")
        for name in ("target_stderr", "convergence"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"estimator.{name} must not be negative, got {getattr(self, name)}; use 0 for never")
        if isinstance(self.lr, float | int) and not 0 < self.lr < float("inf"):
            raise ConfigError(f"estimator.lr must be positive, search or null, got {self.lr}; try 0.1")

    def plan(self, prospect: Prospect) -> Work:
        """All orders: the stopping rule can only save some."""
        net, n, m = prospect.net, len(prospect.train), len(prospect.test)
        passes = self.permutations + (TRIALS * len(CANDIDATES) if self.lr == "search" else 0)
        each = _bytes(n, m, net.parameters)
        watched = self.permutations * -(-n // self.batch_size) * m
        return Work(
            gradients=float(passes * n),
            flops=6.0 * net.macs * passes * n + 2.0 * net.macs * watched,
            numbers=6.0 * passes * n / self.batch_size * net.parameters + 4.0 * self.permutations * n * m,
            bytes=8.0 * (4 * n * m + self.permutations * n) + at_once(self.permutations, each) * each,
            formula=f"{self.permutations} orders x {n} steps x (1 gradient + {m} forward passes)",
        )

    def estimate(self, run: Run) -> Influence:
        """Passes in random orders until the rule stops."""
        online = Online(run.gradients.fitted, run.train, run.test, self.batch_size, self.inits)
        lr = self._rate(run, online)
        orders = subsets.permutations(run.train.ids, self.permutations, run.drawn("permutations"))

        def walk(part: NDArray[np.int64]) -> Array:
            return online.falls(part, lr)

        each = _bytes(len(run.train), len(run.test), online.parameters)
        stop = Stop(
            rule=self.stop,
            every=self.check_every,
            target=self.target_stderr,
            change=self.convergence,
            window=self.window,
        )
        found = gathered(walk, orders, each, stop, 1)
        inits = "one initialisation" if self.inits == 1 else f"{self.inits} initialisations that take turns"
        report = {
            "lr": lr,
            "fall_of_test_risk": float(found.values[:, -1].sum()),
            "stderr_holds": f"draw of orders, {inits}; {APART}",
        }
        joint = joint_table(run.train.ids, found.values[:, :-1], found.values[:, -1], found.stderr[:, -1])
        return run.influence(
            found.values[:, :-1],
            stderr=found.stderr[:, :-1],
            scale=self.scale,
            report=report | found.report,
            tables={"joint": joint},
        )

    def _rate(self, run: Run, online: Online) -> float:
        if self.lr == "search":
            return online.best_rate(subsets.permutations(run.train.ids, TRIALS, run.rng("learning rate")))
        recipe = online.fitted.recipe
        if self.lr is None and recipe.unlike_sgd:
            run.warn(
                f"passes of plain SGD take the learning rate {recipe.optimizer.lr:g}, which was chosen for a training "
                f"with {recipe.unlike_sgd}; set estimator.lr=search or a number"
            )
        return float(recipe.optimizer.lr if self.lr is None else self.lr)


def _bytes(n: int, m: int, parameters: int) -> int:
    """What an order takes: falls and copies for their means; parameters, gradients and their updates."""
    return 8 * (3 * n * (m + 1) + 4 * parameters)
