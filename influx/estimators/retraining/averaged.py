"""An estimator averaged over trainings or checkpoints."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from influx.config import load_choice
from influx.engines.default_curvature import suited
from influx.engines.repeats import SAME_ROWS, Repeats
from influx.engines.trainings import train_ahead
from influx.engines.views import after_start, ended_at
from influx.errors import ConfigError, IncompatibleError, UserError
from influx.influence import Influence, Scale
from influx.instantiate import build
from influx.needs import Need
from influx.planning import Planned, Prospect, Work
from influx.problem import TaskName, only_training, trained_again
from influx.run import Card, Estimator, Run

THROUGHOUT = frozenset({Need.CHECKPOINTS, Need.STATES, Need.TRAJECTORY, Need.RETRAIN, Need.FOREST, Need.LINEAR_MODEL})


@dataclass(frozen=True, kw_only=True)
class Averaged:
    """The mean of another estimator over several trainings, or over points of one.

    Estimates: (1/K) Σ_k I_k, where I_k is the other estimator's influence after the training with the k-th
        initialisation, batch order and draws of its own (the first is the problem's), or at the k-th saved checkpoint.
        Scale and sign are those of the other. The standard error is that of the mean over trainings, from the spread of
        the I_k; checkpoints of one training are not independent and give none. The table says for each test instance
        how far the I_k spread and how alike two rank, the report what that makes of two such means. All I_k must have
        values for the same training instances.
    Needs: what the other estimator needs; over checkpoints, these.
    Cost: K times that of the other, and K - 1 trainings, which are kept beside the problem and shared with
        whatever asks for the same ones. Memory for three matrices (n, m) beside the other's.
    Source: K & Søgaard 2021, arXiv:2111.04683, expected influence; Park et al. 2023, arXiv:2303.14186, ensembles over
        models and checkpoints. ``of=if_ekfac over=checkpoints`` is EK-FAC influence averaged over checkpoints. The
        perspective ``expected`` asks the same of whichever estimator is chosen; here it is an estimator that can stand
        beside others and be judged like them.

    Attributes:
        of: the other estimator, by the name of a choice that comes with influx; estimators of your own are not taken.
        settings: its settings that differ from its defaults, such as {damping: 0.1}.
        over: seeds (trainings that differ in initialisation and batch order) or checkpoints (for estimators that look
            at the final model alone, evenly spaced in training, the last one included).
        count: K, at least 2.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.CHECKPOINTS, Need.GRADIENTS})
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="retraining",
        full="K × that of another",
        incremental="K × that of another",
        storage="K p, n m",
        assumptions="those of another",
        groups="additive",
        paper="K & Søgaard 2021",
    )

    of: str = "tracincp"
    settings: dict[str, Any] | None = None
    over: Literal["seeds", "checkpoints"] = "seeds"
    count: int = 5

    def __post_init__(self) -> None:
        """Check ranges; needs, scale and refusals are those of the other estimator."""
        if self.count < 2:
            raise ConfigError(f"estimator.count must be at least 2 to average over, got {self.count}; raise it")
        if self.over not in ("seeds", "checkpoints"):
            raise ConfigError(f"estimator.over must be seeds or checkpoints, got {self.over!r}; change it")
        if self.of == "averaged":
            raise ConfigError("estimator.of=averaged averages averages; name another estimator, such as tracincp")
        inner = self._inner
        needs = inner.requires
        if self.over == "checkpoints":
            if needs & THROUGHOUT or getattr(inner, "trains", False):
                raise ConfigError(
                    f"estimator.over=checkpoints asks an estimator at other points of the training, and {self.of} does "
                    f"not look at the final net alone; set estimator.over=seeds, or for example estimator.of=if_ekfac"
                )
            needs = needs | {Need.STATES}
        own = {"requires": needs, "scale": inner.scale, "card": replace(self.card, groups=inner.card.groups)}
        for name, value in own.items():
            if value != getattr(self, name):
                object.__setattr__(self, name, value)
        if hasattr(inner, "sign"):
            object.__setattr__(self, "sign", inner.sign)
        refuses = getattr(inner, "refuses", None)
        if refuses:
            told = {perspective: self._renamed(why) for perspective, why in refuses.items()}
            object.__setattr__(self, "refuses", told)

    @property
    def trains(self) -> bool:
        """Whether it looks at other trainings of the problem, which no one else can replace."""
        return self.over == "seeds"

    @property
    def about_all(self) -> str:
        """Why the other cannot be asked about some of the test instances, or an empty string."""
        return str(getattr(self._inner, "about_all", ""))

    @property
    def _inner(self) -> Estimator:
        node = load_choice("estimator", self.of, None, "of") | (self.settings or {})
        with self._explained():
            made: Estimator = build(node, "estimator.settings", [])
        return made

    def _fitting(self, task: TaskName) -> tuple[Estimator, str]:
        """The other with a curvature that risks of the task have, and what to say where this is not its default."""
        inner = self._inner
        if "curvature" in (self.settings or {}):
            return inner, ""
        fitting, notices = suited({self.of: inner}, task)
        return fitting[self.of], self._renamed(notices.get(self.of, ""))

    def _renamed(self, told: str) -> str:
        """A sentence of the other estimator, with its settings named as they are set here."""
        names = "|".join(load_choice("estimator", self.of, None, "of"))
        return re.sub(rf"\bestimator\.(?=({names})\b)", "estimator.settings.", told)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            raise type(error)(self._renamed(str(error))) from error

    def plan(self, prospect: Prospect) -> Work:
        """The other's work as often, and trainings."""
        if self.trains and (why := only_training(prospect.problem.learner)):
            raise IncompatibleError(f"estimator=averaged: {why}, or take estimator={self.of} alone")
        inner, _ = self._fitting(prospect.problem.data.task)
        one = self._once(inner, prospect)
        n, m, count = len(prospect.train), len(prospect.test), self.count
        again = (1 + sum(map(len, one.trainings))) * (count - 1) if self.trains else 0
        return replace(
            one,
            more_trainings=count * one.more_trainings + again,
            more_alone=count * one.more_alone + (count - 1 if self.trains else 0),
            gradients=count * one.gradients,
            flops=count * one.flops,
            numbers=count * (one.numbers + 20.0 * n * m),
            compared=count * (one.compared + n * m * float(np.log2(max(n, 2)))),
            bytes=one.bytes + 24.0 * n * m,
            formula=f"{count} x ({one.formula or self.of})",
        )

    def _once(self, inner: Estimator, prospect: Prospect) -> Work:
        """The other's work; refuses one that would draw other instances each time."""
        if not isinstance(inner, Planned):
            return Work()
        with self._explained():
            one = inner.plan(replace(prospect, who=self.of))
        if self.trains and one.rows is not None:
            again = inner.plan(replace(prospect, who=self.of, problem=trained_again(prospect.problem, 1)))
            pairs = zip(one.trainings[:1], again.trainings[:1], strict=True)
            if any(not np.array_equal(first.weights, other.weights) for first, other in pairs):
                raise IncompatibleError(
                    f"estimator.of={self.of} draws {one.rows} training instances anew for each training: {SAME_ROWS}"
                )
        return one

    def estimate(self, run: Run) -> Influence:
        """Ask again and again, keeping the mean."""
        (inner, notice), repeats = self._fitting(run.problem.data.task), Repeats(run)
        if notice:
            run.warn(notice)
        for view in self._views(run):
            with self._explained():
                found = inner.estimate(replace(view, who=self.of))
            repeats.add(found)
        report = {"of": self.of, "over": self.over, "count": self.count} | repeats.stability()
        table, stderr = repeats.table(), None
        if self.trains:
            stderr, report["stderr_degrees"] = repeats.stderr(), self.count - 1
        return run.influence(
            repeats.mean,
            scale=self.scale,
            stderr=stderr,
            self_influence=repeats.self_influence,
            self_influence_note=repeats.note,
            tables={"averaged": table},
            report=report,
        )

    def _views(self, run: Run) -> Iterator[Run]:
        """The run under each training, or ended at each checkpoint."""
        if self.trains:
            train_ahead(run.origin or run.bank, range(self.count))
            yield from (run.trained(number) for number in range(self.count))
            return
        saved = after_start(run)
        if self.count > len(saved):
            raise ConfigError(
                f"estimator.count={self.count} but {len(saved)} checkpoints are saved after the start; set it to at "
                f"most {len(saved)}, or save more of them (training.checkpoints) or give more"
            )
        places = np.linspace(len(saved) / self.count, len(saved), self.count)
        yield from (ended_at(run, saved[round(place) - 1]) for place in places)
