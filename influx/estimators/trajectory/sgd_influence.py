"""SGD-influence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from influx.engines.path import check_sgd, recorded, start_of_last
from influx.engines.unrolling import Backward, backward_work
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class SGDInfluence(Backward):
    """SGD-influence: what removing an instance does to a test risk, backwards through the steps of SGD.

    Estimates: -dL(z_j; θ_T)/dw_i through the recorded steps of SGD, the first-order effect of removing i. Loss units;
        positive for proponents.
    Needs: every step of the training, backwards (replayed); per-instance gradients; curvature of its batches.
    Cost: (n + m) T Hessian products of a batch (m without self-influence); memory m p numbers.
    Source: Hara, Nitanda & Maehara 2019, arXiv:1906.08473; survey section 5.2.2.2. Momentum is differentiated too. The
        authors' code for nets divides by the batch size twice; weight decay here belongs to no instance.

    Attributes:
        self_influence: compute it too, for (n + m) / m times the cost.
        audit: instances to remove really, and to nudge for finite differences; 0 for none, growth is
            reported all the same.
        curve_tests: of how many test instances, the first ones, to keep when their strongest proponents and opponents
            were influential.
        epochs: go back through the last so many epochs only (the authors find few enough); None means all.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.TRAJECTORY, Need.GRADIENTS, Need.CURVATURE})
    scale: ClassVar[Scale] = "loss"
    card: ClassVar[Card] = Card(
        family="trajectory",
        full="m b p T",
        incremental="b p T",
        storage="p C",
        assumptions="training is smooth in the weights; SGD",
        groups="additive",
        paper="Hara et al. 2019",
    )

    epochs: int | None = None

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if self.epochs is not None and self.epochs < 1:
            raise ConfigError(f"estimator.epochs must be at least 1 or null, got {self.epochs}; use null for all")

    def plan(self, prospect: Prospect) -> Work:
        """Hessian products of every batch for all targets."""
        recipe = recorded(prospect)
        check_sgd(recipe, "sgd_influence", "magic")
        return backward_work(prospect, self.self_influence, start_of_last(recipe, self.epochs))

    def estimate(self, run: Run) -> Influence:
        """Adjoints backwards."""
        recipe = run.path.fitted.recipe
        check_sgd(recipe, "sgd_influence", "magic")
        return self.backward(run, start_of_last(recipe, self.epochs))
