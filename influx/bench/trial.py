"""Estimators on one problem: what they find, how it agrees with ground truth, and what it took."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from influx import interrupts
from influx.bench.clock import Kernel, Rounds
from influx.bench.fingerprint import fingerprint
from influx.bench.measures import Entry, Value
from influx.bench.suites import Trials
from influx.config import choices_of, compose, load_choice, quoted
from influx.engines.retrain import Bank
from influx.errors import ConfigError, InfluxError, Interrupted, UserError
from influx.influence import Influence
from influx.instantiate import build
from influx.job import Job, assemble
from influx.judged import Judged
from influx.metrics.tidy import Status
from influx.problem import Fitted
from influx.run import Estimator, refuse_missing
from influx.store import Folder
from influx.trained import trained_problem

COLD = "cold"  # below the problem's folder, where an estimate retrains and keeps what it does not hold
OF_METRICS = {"retrain", "altered"}  # what metrics have trained stays for the next estimator
SAME = 1e-6  # of the largest value: rounds that differ by more did not do the same
Suspect = Callable[[str, Rounds[Influence]], bool]
OK: Status = "ok"
T = TypeVar("T")


def job_of(settings: list[str], outputs: Path) -> Job:
    """The problem that overrides describe, below ``outputs``, on one thread and without what a run adds."""
    own = [f"paths.outputs={quoted(str(outputs))}", "estimator=random", "baselines=[]", "quiet=true", "threads=1"]
    return assemble(compose([*settings, *own]))


class Problem:
    """A trained problem with its ground truth, and room for estimates that start from nothing."""

    def __init__(self, job: Job, kernel: Kernel) -> None:
        self.job, self.kernel = job, kernel
        self.fitted: Fitted = trained_problem(job)
        self._own = {path.name for path in job.problem_folder.path.iterdir()} - {COLD} | OF_METRICS
        self.truth: Influence | None = None
        if job.truth is not None:
            run = job.run(self.fitted, job.truth.requires, job.truth_name, job.bank())
            self.truth = job.truth.estimate(run)

    def rounds(self, name: str, estimator: Estimator) -> tuple[Rounds[Influence], list[Bank]]:
        """Estimates of one estimator, none done yet, each with a bank of its own; the banks as they are opened."""
        opened: list[Bank] = []
        place = self.job.problem_folder.path / COLD

        def estimate() -> Influence:
            opened.append(Bank(self.job.problem, Folder(place / "retrain"), self.job.executor))
            return estimator.estimate(self.job.run(self.fitted, estimator.requires, name, opened[-1]))

        return Rounds(make=estimate, same=agree, kernel=self.kernel, clear=self._clear), opened

    def _clear(self) -> None:
        """Leave the trained problem alone: what another estimate stored beside it would be read, and time saved."""
        folder = self.job.problem_folder.path
        for path in folder.iterdir():
            if path.name not in self._own:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        (folder / COLD).mkdir()

    def judge(
        self, name: str, estimator: Estimator, influence: Influence, wanted: Mapping[str, Any]
    ) -> dict[str, Value]:
        """The wanted metrics of an influence, as far as the problem has them."""
        found: dict[str, Value] = {}
        for who, metric in self.job.metrics.items():
            interrupts.check()
            run = self.job.run(self.fitted, metric.requires, who, self.job.bank(), self.truth)
            judged = Judged(job=self.job, name=name, estimator=estimator, own=influence, warnings=run.warnings)
            table = metric.evaluate(influence, replace(run, judged=judged))
            for row in table.to_dict("records"):
                if row["metric"] in wanted:
                    found[str(row["metric"])] = Value(
                        value=float(row["value"]),
                        low=float(row["ci_low"]),
                        high=float(row["ci_high"]),
                        better=wanted[row["metric"]],
                        status=str(row["status"]),
                        protocol=str(row["protocol"]),
                    )
        return found


def arrays(influence: Influence) -> dict[str, NDArray[Any]]:
    """All that an estimate says in numbers, by name."""
    found = {"values": influence.values, "self_influence": influence.self_influence, "stderr": influence.stderr}
    found |= {f"replicate {number}": values for number, values in enumerate(influence.replicates)}
    for name, table in influence.tables.items():
        numbers = table.select_dtypes(["number", "bool"])
        found |= {f"{name}.{column}": numbers[column].to_numpy(np.float64, na_value=np.nan) for column in numbers}
    return {name: array for name, array in found.items() if array is not None and array.size}


def agree(left: Influence, right: Influence) -> bool:
    """Whether two estimates are the same up to rounding."""
    a, b = arrays(left), arrays(right)
    return a.keys() == b.keys() and all(_close(a[name], b[name]) for name in a)


def _close(left: NDArray[Any], right: NDArray[Any]) -> bool:
    size = float(np.max(np.abs(left), initial=0.0, where=np.isfinite(left))) or 1.0
    return left.shape == right.shape and np.allclose(left, right, rtol=0.0, atol=SAME * size, equal_nan=True)


def estimators(trials: Trials, job: Job) -> Iterator[tuple[str, Estimator | Entry | str]]:
    """Name and estimator, or what stops one that should work, or why one that nobody asked for is left out.

    Raises:
        ConfigError: an estimator or a setting of one does not exist.
    """
    named = dict(trials.estimators)
    every = [name for name in choices_of("estimator") if name not in named] if trials.every else []
    for name, given in [*named.items(), *((name, {}) for name in every)]:
        if name in trials.without:
            yield name, trials.without[name]
            continue
        settings = dict(given)
        choice = str(settings.pop("estimator", name))
        estimator = build(load_choice("estimator", choice) | settings, "estimator", [])
        yield name, _usable(estimator, choice, job, asked=name in named)


def _usable(estimator: Estimator, choice: str, job: Job, asked: bool) -> Estimator | Entry | str:
    try:
        refuse_missing(estimator.requires, job.problem.learner.provides, choice, job.settings.choices["model"])
        planned = tried(partial(job.work, estimator, choice), UserError)
    except UserError as error:
        return Entry(error=str(error)) if asked else str(error)
    return Entry(error=planned) if isinstance(planned, str) else estimator


def entry_of(
    problem: Problem, key: str, estimator: Estimator, trials: Trials, suspect: Suspect
) -> tuple[Entry, Rounds[Influence]]:
    """Measure one estimator; what goes wrong inside it is noted, the others go on.

    Raises:
        ConfigError: the suite wants a metric that the problem does not have.
    """
    name = key.rpartition("/")[2]
    rounds, banks = problem.rounds(name, estimator)

    def measure() -> dict[str, Value]:
        rounds.go(partial(suspect, key))
        return problem.judge(name, estimator, rounds.first, trials.values)

    values = tried(measure)
    if isinstance(values, str):
        return Entry(error=values), rounds
    missing = [metric for metric in trials.values if metric not in values]
    if missing:
        raise ConfigError(f"no metric of {key} gives {', '.join(missing)}; correct the suite's values")
    prints = {what: fingerprint(array) for what, array in arrays(rounds.first).items()}
    return timed(Entry(values=values, prints=prints, trainings=banks[0].requested), rounds), rounds


def tried(work: Callable[[], T], *let: type[Exception]) -> T | str:
    """What it gives, or what stopped it: a bug in one place must not hide what the others do.

    Raises:
        Interrupted: a signal asked to stop.
        Exception: one of those that are ``let`` through.
    """
    through: tuple[type[Exception], ...] = (Interrupted, *let)
    try:
        return work()
    except through:
        raise
    except InfluxError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def timed(entry: Entry, rounds: Rounds[Influence]) -> Entry:
    """The entry with what the rounds have measured by now."""
    return replace(
        entry,
        processor=rounds.processor,
        kernel=rounds.kernel_time,
        noise=rounds.noise,
        wall=rounds.wall,
        memory=rounds.memory if math.isfinite(rounds.memory) else math.nan,
        rounds=rounds.count,
        steady=rounds.steady,
    )
