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
class Ahead:
    """Projected training gradients in pieces (see ``engines.stored_ahead``), before they are read.

    Attributes:
        count: pieces.
        work: of all of them.
    """

    count: int
    work: Work

    @classmethod
    def of(cls, part: object, n: int, shape: NetShape) -> Ahead | None:
        """How an estimator that stores projections of ``n`` instances shares them; None of another."""
        from influx.engines.projected import Projected
        from influx.engines.projections import Kind, projection_flops
        from influx.engines.stored_ahead import ROWS
        from influx.estimators.projected.less import Less
        from influx.estimators.projected.logra import LoGra
        from influx.estimators.trajectory.tracinrp import TracInRP

        kind: Kind
        if isinstance(part, LoGra):  # its regressions are the most of the rest
            kind, dim, members = "two_sided", part.rank**2, part.projections
        elif isinstance(part, Projected):
            kind, dim, members = part.kind, part.dim, part.models * part.checkpoints
        elif isinstance(part, TracInRP | Less) and part.precision == "model":
            kind, dim = part.kind, part.dim
            members = part.checkpoints or len(shape.saved) - 1
        else:
            return None
        each = 6.0 * shape.macs + projection_flops(kind, dim, shape.parameters, shape.sides)
        written = 0.0 if kind == "two_sided" else 2.0 * shape.parameters
        work = Work(flops=members * n * each, numbers=members * n * (2.0 * dim + written))
        return cls(count=members * rounds(n, ROWS), work=work)

    def seconds(self, rates: Rates, workers: int, whole: Work) -> float:
        """Of the whole estimate, whose rest one of them does."""
        return rates.seconds(whole) - rates.seconds(self.work) + self.share(rates, workers)

    def share(self, rates: Rates, workers: int) -> float:
        """Until the last piece is done."""
        return rates.seconds(self.work) * rounds(self.count, workers) / self.count

    def sentence(self, workers: int, floor_mb: float) -> str:
        """The pieces in words; ``floor_mb`` is what every process holds."""
        return (
            f"gradients to store in {self.count:,} pieces, {rounds(self.count, workers):,} one after another by "
            f"workers of {floor_mb / 1e3:.2g} GB and their gradients"
        )

    @property
    def disk_bytes(self) -> float:
        """Pieces go as soon as they are stored."""
        return 0.0


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Gradient similarity in shares (see ``engines.shares``), with rows not rounded to blocks of gradients.

    Attributes:
        count: shares.
        rows: of a share.
        each: work of a share; the columns' gradients belong to every one.
        before: work that every worker does before its first share.
        ahead: what is done, in pieces of its own, before there are shares; it is no part of ``each``.
        disk_bytes: what workers leave, which stays until the run ends.
    """

    count: int
    rows: int
    each: Work
    before: Work
    disk_bytes: float
    ahead: Ahead | None = None

    @classmethod
    def of(cls, part: Checkpointed, problem: Problem, shape: NetShape, number_bytes: int) -> Shared:
        """How an estimator on a net of some shape is shared; its values have ``number_bytes`` each."""
        from influx.engines.shares import BYTES, rows_wanted
        from influx.learners.torch.learner import TorchLearner

        n, m = len(problem.train), len(problem.test)
        ahead, checkpoints = Ahead.of(part, n, shape), part.checkpoints or len(shape.saved) - 1
        rows = min(BYTES // (4 * m) if ahead else rows_wanted(m), n)
        few = dataclasses.replace(problem.data, train=problem.data.train.take(slice(0, rows)))
        learner = problem.learner
        if isinstance(learner, TorchLearner):  # what the net allows need not be tried again
            learner = learner.shortened(learner.training, few)
        prospect = Prospect(problem=dataclasses.replace(problem, data=few, learner=learner), who="", shape=shape)
        one = dataclasses.replace(part, checkpoints=1)
        each = dataclasses.replace(one, choose="even").plan(prospect)
        before = Work(flops=one.plan(prospect).flops - each.flops)
        if ahead and (read := Ahead.of(one, rows, shape)):
            flops, numbers = each.flops - read.work.flops, each.numbers - read.work.numbers
            each = dataclasses.replace(each, flops=max(flops, 0.0), numbers=max(numbers, 0.0))
        random = getattr(part, "dim", None) is not None  # a variance beside each value
        return cls(
            count=checkpoints * rounds(n, rows),
            rows=rows,
            each=each,
            before=before,
            disk_bytes=float(number_bytes * (1 + random) * checkpoints * n * m),
            ahead=ahead,
        )

    def seconds(self, rates: Rates, workers: int, whole: Work) -> float:
        """Until the last worker is done, each with the given speed; ``whole`` is what one would do."""
        del whole
        ahead = self.ahead.share(rates, workers) if self.ahead else 0.0
        return ahead + rates.seconds(self.before) + rounds(self.count, workers) * rates.seconds(self.each)

    def sentence(self, workers: int, floor_mb: float) -> str:
        """The shares in words; ``floor_mb`` is what every process holds."""
        ahead = f"{self.ahead.sentence(workers, floor_mb)}; " if self.ahead else ""
        return ahead + (
            f"{self.count:,} shares of {self.rows:,} rows at a checkpoint, {rounds(self.count, workers):,} one after "
            f"another; a worker holds {(floor_mb + self.each.bytes / 1e6) / 1e3:.2g} GB, what workers leave takes "
            f"{self.disk_bytes / 1e9:.2g} GB of disk until the run ends"
        )


def shared(part: object, problem: Problem, shape: NetShape, number_bytes: int) -> Shared | Ahead | None:
    """How workers share an estimator or metric on a net of some shape; None where one process does it."""
    from influx.engines.similarity import Checkpointed

    if isinstance(part, Checkpointed):
        return Shared.of(part, problem, shape, number_bytes)
    return Ahead.of(part, len(problem.train), shape)
