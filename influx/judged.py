"""What a run's metrics say of one estimator, and that estimator asked again under other trainings of the same data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influx import interrupts
from influx.errors import IncompatibleError
from influx.influence import Influence
from influx.job import Job, check_needs
from influx.learners.torch.learner import TorchLearner
from influx.metrics.tidy import tables_of
from influx.needs import Need
from influx.problem import Fitted, Split, only_training
from influx.run import Estimator
from influx.streams import stream_seed
from influx.timed import Asked, asked_about
from influx.trained import trained_problem

STILL = 1e-12  # factor of the learning rate of a net that is trained without learning


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One estimator of a run; ``own`` is its influence that the metric was given.

    ``look`` says that ``own`` is what the run's perspective made of it. ``warnings`` collects what the estimator warned
    of on the way; ``cost`` is what ``own`` took, as the manifest has it, empty where that is not known.
    """

    job: Job
    name: str
    estimator: Estimator
    own: Influence
    look: bool = False
    warnings: list[str] = field(default_factory=list)
    cost: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, job: Job, name: str, own: Influence, warnings: list[str], cost: Mapping[str, Any] | None = None
    ) -> Judged:
        """The run's estimator or one of its baselines, by name."""
        estimator = job.baselines.get(name, job.estimator)
        look = name not in job.baselines
        return cls(job=job, name=name, estimator=estimator, own=own, look=look, warnings=warnings, cost=cost or {})

    def trained(self, number: int) -> Influence:
        """Its influence under the training numbered ``number``, in initialisation, batch order and own draws; 0 is own.

        Raises:
            IncompatibleError: training has no randomness.
        """
        if why := only_training(self.job.problem.learner):
            raise IncompatibleError(why)
        return self.own if number == 0 else self._seen(self.job.trained_again, number)

    def under(self, model: str, given: Mapping[str, Any] | None, setting: str) -> Influence:
        """Its influence under another model of the same data, optimizer, training and seed.

        Raises:
            IncompatibleError: that model does not serve the estimator's needs, or does not take the data.
        """
        from influx.other_models import with_model

        other = with_model(self.job, model, given, setting)
        check_needs(other.problem.learner, self.estimator, self.name, model)
        other.work(self.estimator, self.name)
        return self._seen(other.trained_again, 0)

    def untrained(self, number: int) -> Influence:
        """Its influence under a net with another initialisation that went through the training without learning.

        Every checkpoint is the new initialisation: the learning rate is ``STILL`` times the problem's, so that weights
        of checkpoints keep their proportions and what is read at checkpoints is right up to a factor. What follows the
        steps is not: of an unrolled training only the first order in the rate would remain, and the fall of a risk in
        one step would be lost in rounding. The estimator's own draws are as before.

        Raises:
            IncompatibleError: the learner is no net, the estimator retrains, so that no weights can be replaced, or it
                follows the steps of training, which do nothing here.
        """
        learner, problem = self.job.problem.learner, self.job.problem
        if not isinstance(learner, TorchLearner):
            raise IncompatibleError("only a net has weights to initialise again; choose a net such as model=mlp")
        if getattr(learner, "deterministic", False):
            raise IncompatibleError("a net that was trained elsewhere has no weights to initialise again here")
        if Need.RETRAIN in self.estimator.requires:
            raise IncompatibleError("this estimator trains models of its own; there are no weights to replace")
        if getattr(self.estimator, "trains", False):
            raise IncompatibleError("this estimator trains the problem again; there are no weights to replace there")
        if Need.TRAJECTORY in self.estimator.requires or getattr(self.estimator, "follows", False):
            raise IncompatibleError(
                "this estimator follows the steps of training, and a net that does not learn takes none; choose one "
                "that reads checkpoints, such as estimator=tracincp"
            )
        still = replace(learner.optimizer, lr=learner.optimizer.lr * STILL)  # type: ignore[type-var]

        def job(which: int) -> Job:
            net = replace(
                problem,
                learner=replace(learner, optimizer=still),
                seed=stream_seed(problem.seed, f"untrained/{which}"),
                config={**problem.config, "untrained": True},
            )
            return replace(self.job, problem=net)

        return self._seen(job, number, self.job)

    def on(self, test: Split) -> Influence:
        """Its influence under the problem's own training on other test instances, without the run's perspective.

        Their ids must not be those of instances of the problem.

        Raises:
            IncompatibleError: the estimator retrains, and the bank keeps what its models make of the problem's own
                instances alone.
        """
        if Need.RETRAIN in self.estimator.requires:
            raise IncompatibleError(
                "this estimator retrains models, of which only what they make of the run's own test instances is kept"
            )
        problem = self.job.problem
        other = replace(problem, data=replace(problem.data, test=test, test_flags={}, display={}))
        own = self.job.bank()
        run = replace(self.job, problem=other).run(
            trained_problem(self.job), self.estimator.requires, self.name, own.of(other)
        )
        found = self.estimator.estimate(replace(run, origin=own))
        self.warnings.extend(run.warnings)
        return found

    def about(self, tests: NDArray[np.int64]) -> Asked:
        """What its estimate takes on the test instances in the rows ``tests`` alone, without the run's perspective.

        Raises:
            UserError: it cannot be asked about these alone.
        """
        seeds = self.job.perspective.seeds if self.look else 1
        return asked_about(self.job, self.name, self.estimator, tests, seeds)

    def _seen(self, make: Callable[[int], Job], number: int, view: Job | None = None) -> Influence:
        """Through the perspective, which may want several trainings; ``view`` has the problem that estimators see."""
        seeds = self.job.perspective.seeds if self.look else 1
        found = []
        for which in range(number * seeds, (number + 1) * seeds):
            job = make(which)
            run = (view or job).run(trained_problem(job), self.estimator.requires, self.name, (view or job).bank())
            found.append(self.estimator.estimate(run))
            if view is None:
                self.warnings.extend(run.warnings)
        asked = self.job.run(run.fitted, frozenset(), self.name, self.job.bank())
        return self.job.perspective.look(found, asked) if self.look else found[0]


Rated = tuple[pd.DataFrame, dict[str, pd.DataFrame]]


def judge(
    job: Job,
    fitted: Fitted,
    truth: Influence | None,
    name: str,
    influence: Influence,
    warn: Callable[[str], None],
    cost: Mapping[str, Any] | None = None,
) -> Rated:
    """Rows of all metrics of the job, and their further tables by name; both say which estimator it is.

    ``cost`` is what the influence took, as the manifest has it.
    """
    rows: list[pd.DataFrame] = []
    tables: dict[str, pd.DataFrame] = {}
    for metric_name, metric in job.metrics.items():
        interrupts.check()
        run = job.run(fitted, metric.requires, metric_name, job.bank(), truth)
        run = replace(run, judged=Judged.of(job, name, influence, run.warnings, cost))
        rows.append(metric.evaluate(influence, run))
        tables |= {key: table.assign(estimator=name) for key, table in tables_of(rows[-1]).items()}
        rows[-1].attrs.clear()  # pandas would compare them
        for sentence in run.warnings:
            warn(f"{metric_name}: {sentence}")
    table = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()
    table.insert(0, "estimator", name)
    return table, tables
