"""What workers share, foreseen: gradient similarity in shares, retrainings in blocks."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from influx.planning import NetShape, Prospect, Work

if TYPE_CHECKING:
    from influx.engines.similarity import Checkpointed
    from influx.problem import Problem
    from influx.rates import Rates

WORKER_SECONDS = 8.0  # until workers, which start together, have libraries, data and checkpoints


def rounds(count: int, workers: int) -> int:
    """Pieces that the busiest of the workers does, one after another."""
    return -(-count // workers)


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Gradient similarity in shares (see ``engines.shares``), with rows not rounded to blocks of gradients.

    Attributes:
        count: shares.
        rows: of a share.
        each: work of a share; the columns' gradients belong to every one.
        before: work that every worker does before its first share.
        disk_bytes: what workers leave, which stays until the run ends.
    """

    count: int
    rows: int
    each: Work
    before: Work
    disk_bytes: float

    @classmethod
    def of(cls, part: Checkpointed, problem: Problem, shape: NetShape, number_bytes: int) -> Shared:
        """How an estimator on a net of some shape is shared; its values have ``number_bytes`` each."""
        from influx.engines.shares import rows_wanted
        from influx.learners.torch.learner import TorchLearner

        n, m = len(problem.train), len(problem.test)
        rows, checkpoints = min(rows_wanted(m), n), part.checkpoints or len(shape.saved) - 1
        few = dataclasses.replace(problem.data, train=problem.data.train.take(slice(0, rows)))
        learner = problem.learner
        if isinstance(learner, TorchLearner):  # what the net allows need not be tried again
            learner = learner.shortened(learner.training, few)
        prospect = Prospect(problem=dataclasses.replace(problem, data=few, learner=learner), who="", shape=shape)
        one = dataclasses.replace(part, checkpoints=1)
        each = dataclasses.replace(one, choose="even").plan(prospect)
        random = getattr(part, "dim", None) is not None  # a variance beside each value
        return cls(
            count=checkpoints * rounds(n, rows),
            rows=rows,
            each=each,
            before=Work(flops=one.plan(prospect).flops - each.flops),
            disk_bytes=float(number_bytes * (1 + random) * checkpoints * n * m),
        )

    def seconds(self, rates: Rates, workers: int) -> float:
        """Until the last worker is done, each with the given speed."""
        return rates.seconds(self.before) + rounds(self.count, workers) * rates.seconds(self.each)

    def sentence(self, workers: int, floor_mb: float) -> str:
        """The shares in words; ``floor_mb`` is what every process holds."""
        return (
            f"{self.count:,} shares of {self.rows:,} rows at a checkpoint, {rounds(self.count, workers):,} one after "
            f"another; a worker holds {(floor_mb + self.each.bytes / 1e6) / 1e3:.2g} GB, what workers leave takes "
            f"{self.disk_bytes / 1e9:.2g} GB of disk until the run ends"
        )
