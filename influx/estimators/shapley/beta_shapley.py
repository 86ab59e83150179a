"""Semivalues that weigh coalitions by a beta distribution of their size, from permutations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from influx.engines.coalitions import log_beta_weights, of_positions
from influx.engines.game_plans import prefixes
from influx.engines.permutations import check_permutations, drawn, sampled
from influx.engines.players import Cooperative, holds
from influx.engines.stopping import CHAIN_DRAWS, CHAINS, Stop
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class BetaShapley(Cooperative):
    """Beta(alpha, beta) Shapley: small coalitions weigh more when alpha is large.

    Estimates: Σ_S w_|S| (L(z_j; θ_S) - L(z_j; θ_S∪i)) over the sets S without i, w_s = B(s + beta, n - 1 - s + alpha)
        / B(alpha, beta), as the mean over random permutations of the marginals times n C(n - 1, s) w_s. Beta(1, 1) is
        the Shapley value; others do not add up to the gain of training. Loss units; positive for proponents.
    Needs: retraining.
    Cost: P n trainings for P permutations of n players, many at a time.
    Source: Kwon & Zou 2022, arXiv:2110.14049; survey section 4.3.3. Their code exchanges alpha and beta in the name.

    Attributes:
        target: loss, margin (its negative) or zero_one.
        seeds: initialisations and batch orders to average over; the first is the trained model's own.
        empty_value: the risk of a model trained on nothing: init_model (the untrained net), uniform (all classes
            equally likely), or a number. Another one moves the values of all players equally.
        groups: null for instances as players; label, cluster, random or the path of a csv file (columns train_id and
            group) for groups, whose value is shared equally by their members. Instances in no group always train.
        group_count: number of groups for cluster, random and quantiles of a numeric target.
        group_size: instances per random group.
        alpha: with beta=1 the larger, the more small coalitions weigh; 4 and 16 are usual.
        beta: with alpha=1 the larger, the more large coalitions weigh.
        permutations: how many at most.
        antithetic: walk each permutation also backwards; the mean of both is then the unit of the standard error.
        block: prefixes of a permutation trained together; null is a tenth of the players, at least 4.
        stop: budget (after all permutations), stderr or gelman_rubin. Rules look at the mean over test instances, so
            that the values for one depend on the others; set more permutations with them.
        check_every: permutations from one look at the rule to the next.
        target_stderr: stderr stops when the largest standard error is below this part of the range of values, both of
            the mean over test instances; after 50 draws at least (permutations, or antithetic pairs).
        gr_threshold: gelman_rubin stops when the statistic of ten chains of draws is below this, after 500 draws at
            least (permutations, or antithetic pairs).
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
        paper="Kwon & Zou 2022",
    )

    alpha: float = 4.0
    beta: float = 1.0
    permutations: int = 100
    antithetic: bool = True
    block: int | None = None
    stop: Literal["budget", "stderr", "gelman_rubin"] = "budget"
    check_every: int = 10
    target_stderr: float = 0.1
    gr_threshold: float = 1.05

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        check_permutations(self.permutations, self.antithetic, self.check_every)
        if self.block is not None and self.block < 1:
            raise ConfigError(f"estimator.block must be at least 1 or null, got {self.block}; raise it")
        least = CHAINS * CHAIN_DRAWS * (2 if self.antithetic else 1)
        if self.stop == "gelman_rubin" and self.permutations < least:
            raise ConfigError(
                f"estimator.stop=gelman_rubin needs estimator.permutations={least} at least, got {self.permutations}; "
                "raise it or use estimator.stop=stderr"
            )
        for name in ("alpha", "beta"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"estimator.{name} must be positive and finite, got {getattr(self, name)}; try 1")
        for name in ("target_stderr", "gr_threshold"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"estimator.{name} must not be negative, got {getattr(self, name)}; use 0 for never")

    def plan(self, prospect: Prospect) -> Work:
        """All prefixes of all permutations: the stopping rule can only save some."""
        scheme_of = partial(prefixes, block=self.block, antithetic=self.antithetic)
        return self.walked(prospect, self.permutations, scheme_of)

    def estimate(self, run: Run) -> Influence:
        """Walk permutations until the rule stops."""
        players = self.players(run)
        found = sampled(
            self.game(run, players),
            drawn(players.ids, self.permutations, self.antithetic, run.drawn("permutations")),
            of_positions(log_beta_weights(len(players), self.alpha, self.beta)),
            Stop(rule=self.stop, every=self.check_every, target=self.target_stderr, ratio=self.gr_threshold),
            antithetic=self.antithetic,
            block=self.block,
        )
        report = {"coalitions": found.coalitions, "stderr_holds": holds("permutations", self.seeds)}
        return self.result(run, players, found.values, found.stderr, {}, report | found.report)
