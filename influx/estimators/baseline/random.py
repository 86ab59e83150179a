"""Random scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from influx.influence import Influence, Scale
from influx.needs import Need
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class Random:
    """Random influence, the floor of every comparison.

    Estimates: nothing; independent standard normal numbers.
    Needs: nothing.
    Cost: n m random numbers.
    Source: the usual reference row.
    """

    requires: ClassVar[frozenset[Need]] = frozenset()
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="baseline", full="n", incremental="n", storage="0", assumptions="none", groups="additive", paper="-"
    )

    def estimate(self, run: Run) -> Influence:
        """Draw from the stream of this purpose."""
        rng = run.rng("values")
        values = rng.standard_normal((len(run.train), len(run.test)))
        return run.influence(values, scale="rank", self_influence=rng.standard_normal(len(run.train)))
