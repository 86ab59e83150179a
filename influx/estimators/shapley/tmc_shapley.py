"""The Shapley value from permutations, truncated where nothing is left to gain."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import numpy as np

from influx.engines.game_plans import prefixes
from influx.engines.permutations import Truncation, check_permutations, drawn, sampled
from influx.engines.players import Cooperative, holds
from influx.engines.stopping import Stop
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class TMCShapley(Cooperative):
    """Truncated Monte Carlo Shapley.

    Estimates: the Shapley value as the mean over random permutations of L(z_j; θ_P) - L(z_j; θ_P∪i), P being the
        players before i. Once ``patience`` prefixes in a row are as good as all players up to ``truncation``, the
        later marginals of that permutation count as 0, which biases values towards 0. Loss units; positive for
        proponents.
    Needs: retraining.
    Cost: P n trainings for P permutations of n players, fewer by truncation; many at a time.
    Source: Ghorbani & Zou 2019, arXiv:1904.02868, algorithm 1; survey section 4.3.3. There the tolerance is relative
        to v(D), which means nothing for risks, and one permutation is walked at a time.

    Attributes:
        target: loss, margin (its negative) or zero_one.
        seeds: initialisations and batch orders to average over; the first is the trained model's own.
        empty_value: the risk of a model trained on nothing: init_model (the untrained net), uniform (all classes
            equally likely), or a number. Another one moves the values of all players equally.
        groups: null for instances as players; label, cluster, random or the path of a csv file (columns train_id and
            group) for groups, whose value is shared equally by their members. Instances in no group always train.
        group_count: number of groups for cluster, random and quantiles of a numeric target.
        group_size: instances per random group.
        permutations: how many at most.
        truncation: tolerance relative to |v(D) - v(∅)|, both averaged over test instances; 0 never truncates.
        patience: prefixes in a row within the tolerance before a permutation ends.
        antithetic: walk each permutation also backwards; the mean of both is then the unit of the standard error.
        block: prefixes of a permutation trained together; null is a tenth of the players, at least 4.
        stop: budget (after all permutations), stderr, paper, or any of stderr and paper, whichever comes first. Rules
            look at the mean over test instances, so that the values for one depend on the others; set more
            permutations with them.
        check_every: permutations from one look at the rule to the next.
        target_stderr: stderr stops when the largest standard error is below this part of the range of values, both of
            the mean over test instances; after 50 draws at least (permutations, or antithetic pairs).
        convergence: paper stops when running means of the last ``window`` permutations differ from the newest by less
            than this, relative to each value and averaged over players.
        window: permutations that the rule of the paper looks back on.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.RETRAIN})
    scale: ClassVar[Scale] = "loss"
    card: ClassVar[Card] = Card(
        family="shapley",
        full="n P T",
        incremental="n P",
        storage="n P m",
        assumptions="none",
        groups="exact",
        paper="Ghorbani & Zou 2019",
    )

    permutations: int = 100
    truncation: float = 0.01
    patience: int = 6
    antithetic: bool = True
    block: int | None = None
    stop: Literal["budget", "stderr", "paper", "any"] = "budget"
    check_every: int = 10
    target_stderr: float = 0.1
    convergence: float = 0.05
    window: int = 100

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        check_permutations(self.permutations, self.antithetic, self.check_every)
        for name in ("patience", "window", "block"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"estimator.{name} must be at least 1, got {value}; raise it")
        for name in ("truncation", "target_stderr", "convergence"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"estimator.{name} must not be negative, got {getattr(self, name)}; use 0 for never")

    def plan(self, prospect: Prospect) -> Work:
        """All prefixes of all permutations: truncation and the stopping rule can only save some."""
        scheme_of = partial(prefixes, block=self.block, antithetic=self.antithetic)
        return self.walked(prospect, self.permutations, scheme_of)

    def estimate(self, run: Run) -> Influence:
        """Walk permutations until the rule stops."""
        players = self.players(run)
        found = sampled(
            self.game(run, players),
            drawn(players.ids, self.permutations, self.antithetic, run.drawn("permutations")),
            np.ones(len(players)),
            Stop(
                rule=self.stop,
                every=self.check_every,
                target=self.target_stderr,
                change=self.convergence,
                window=self.window,
            ),
            antithetic=self.antithetic,
            block=self.block,
            truncation=Truncation(tolerance=self.truncation, patience=self.patience),
        )
        report = {
            "coalitions": found.coalitions,
            "truncated": 1 - found.walked,
            "stderr_holds": holds("permutations", self.seeds),
        }
        return self.result(run, players, found.values, found.stderr, {}, report | found.report)
