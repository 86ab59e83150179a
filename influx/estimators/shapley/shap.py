"""Shapley values of input features: which of them make the risk of an instance small."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pandas as pd

from influx.engines.explanations import NOTE, Output, by_test, check_output, held, parts, products
from influx.engines.feature_games import (
    LEAST,
    FeatureGame,
    PairedKernel,
    background_of,
    drawn_pairs,
    explained,
    players_of,
    samples_of,
)
from influx.engines.games import Array, Coalitions
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.problem import Split
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class SHAP:
    """Shapley values of features, and products of these explanations for pairs of instances.

    Estimates: φ_f(j), the Shapley value of feature f in the game v_j(S) = the mean over background instances b of
        -L at x_j with the features outside S taken from b; Σ_f φ_f(j) = v_j(all) - v_j(none). They are in the tables
        ``feature_importance`` (mean over test instances of the value and of its size) and ``features`` (per test
        instance, up to 1,000,000 rows). The matrix holds Σ_f φ_f(i) φ_f(j), positive where the same features lower
        the risks of i and j. It compares explanations of one trained model and estimates no effect of training;
        only the order of the values means something. Beyond ``max_exact`` features φ is from drawn coalitions by
        weighted least squares; the errors of both factors are of one draw and do not cancel in their product.
    Needs: nothing but outcomes of the trained model, on inputs made from the data.
    Cost: (n + m) K B forward passes for K coalitions and B background instances; K = 2^d for d features up to
        ``max_exact``. Memory for the values, d (n + m), and the (n, m) result.
    Source: Lundberg & Lee 2017, arXiv:1705.07874, theorem 2, with pairs of coalitions as in Covert & Lee 2021,
        arXiv:2012.01536; survey section 4.3.3. There the output is explained, here by default the risk. Absent features
        come from the background whatever the present ones are.

    Attributes:
        output: what features divide: loss (minus the risk), logit (log p_y / (1 - p_y) of the label, or the predicted
            value) or accuracy.
        background: how many drawn training instances absent features are taken from (all where there are fewer), or
            mean for the mean input.
        patch: null for every input number as a feature; for images the side of squares of pixels.
        max_exact: features up to which all coalitions are valued.
        n_samples: coalitions beyond that, in pairs with their complements; null is 2 d + 2048, at least 8 d. The
            standard errors are those of this draw; that of the background is part of the game.
    """

    requires: ClassVar[frozenset[Need]] = frozenset()
    refuses: ClassVar[Mapping[str, str]] = {"memorization": NOTE}
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="shapley",
        full="(n + m) K B",
        incremental="n K B",
        storage="d (n + m)",
        assumptions="none",
        groups="no",
        paper="Lundberg & Lee 2017",
    )

    output: Output = "loss"
    background: Literal["mean"] | int = 10
    patch: int | None = None
    max_exact: int = 12
    n_samples: int | None = None

    def __post_init__(self) -> None:
        """Check ranges."""
        check_output(self.output)
        for name in ("background", "patch"):
            value = getattr(self, name)
            if isinstance(value, int) and value < 1:
                raise ConfigError(f"estimator.{name} must be at least 1, got {value}; raise it")
        if not 0 <= self.max_exact <= 20:
            raise ConfigError(f"estimator.max_exact must be between 0 and 20, got {self.max_exact}; change it")
        if self.n_samples is not None and (self.n_samples < LEAST or self.n_samples % 2):
            raise ConfigError(f"estimator.n_samples must be even and at least {LEAST}, got {self.n_samples}; change it")

    def plan(self, prospect: Prospect) -> Work:
        """Forward passes on imputed inputs."""
        players = self._players(prospect)[0]
        background = len(background_of(prospect, self.background))
        coalitions, d = self._coalitions(len(players)), len(players)
        n, m, numbers = len(prospect.train), len(prospect.test), players.shape[1]
        passes = float(coalitions * background * (n + m))
        return Work(
            flops=(2.0 * prospect.shape.macs if prospect.shape else 2.0 * numbers) * passes
            + 2.0 * d * ((n + m) * coalitions + n * m),
            numbers=passes * (numbers + 3 * prospect.problem.data.n_outputs),
            bytes=8.0 * (4 * d * (n + m) + n * m) + held(n, coalitions),
            formula=f"{n + m} instances x {coalitions} coalitions x {background} background instances forward passes",
        )

    def estimate(self, run: Run) -> Influence:
        """Explain test and training instances, then compare."""
        members, names = self._players(run)
        background, coalitions = background_of(run, self.background), self._coalitions(len(names))
        exact = len(names) <= self.max_exact
        kernel = None if exact else PairedKernel(drawn_pairs(len(names), coalitions // 2, run.rng("coalitions")))

        def explain(split: Split) -> tuple[Array, Array]:
            games = (
                FeatureGame(
                    outcomes=run.outcomes,
                    task=run.problem.data.task,
                    output=self.output,
                    split=part,
                    background=background,
                    members=members,
                )
                for part in parts(split, coalitions)
            )
            return explained(games, kernel)

        values, stderr = explain(run.test)
        labels, test = {"feature": names}, values[:, :-1]
        importance = {"value": values[:, -1], "stderr": stderr[:, -1], "mean_size": np.abs(test).mean(axis=1)}
        return run.influence(
            products(run, explain(run.train)[0][:, :-1], test),
            scale=self.scale,
            self_influence_note=NOTE,
            tables={"feature_importance": pd.DataFrame(labels | importance)}
            | by_test("features", labels, test, stderr[:, :-1], run.test.ids),
            report={
                "features": len(names),
                "coalitions": coalitions,
                "exact": exact,
                "background": len(background),
                "output": self.output,
            },
        )

    def _players(self, run: Run | Prospect) -> tuple[Coalitions, list[str]]:
        check_output(self.output, run.problem.data)
        return players_of(run.problem.data, self.patch)

    def _coalitions(self, players: int) -> int:
        return 1 << players if players <= self.max_exact else samples_of(players, self.n_samples)
