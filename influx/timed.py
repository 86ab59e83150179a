"""What an estimate takes where only some of the test instances are asked about, and where it is taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from influx.bench.machine import processor
from influx.errors import IncompatibleError
from influx.job import Job
from influx.manifest import measured
from influx.manifest import read as read_manifest
from influx.needs import Need
from influx.other_models import work_under_others
from influx.planning import Work
from influx.problem import Fitted, Problem
from influx.reads import noted
from influx.run import Estimator
from influx.trained import trained_problem


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One estimate. ``files`` are those that it read: models, retrained blocks, what is stored of a problem."""

    seconds: float
    files: frozenset[Path]


@runtime_checkable
class Repeating(Protocol):
    """A metric that asks the estimator again on the run's own training, or once about all where nothing else can be."""

    def asks(self, m: int) -> Mapping[int, int]:
        """How often about how many of ``m`` test instances."""
        ...


def asked_about(job: Job, name: str, estimator: Estimator, tests: NDArray[np.int64], seeds: int) -> Asked:
    """Ask about the test instances in the rows ``tests``, in this process; of ``seeds`` trainings, as the run did.

    What is trained or stored by now is read. Opening the recorded trainings takes no part in the time.

    Raises:
        UserError: the estimator cannot be asked so.
    """
    every = np.array_equal(tests, np.arange(len(job.problem.test)))
    if not every and (why := only_about_all(estimator)):
        raise IncompatibleError(why)
    seconds, files = 0.0, set[Path]()
    for number in range(seeds):
        own = job.trained_again(number)
        fitted, bank = trained_problem(own), own.bank()
        if every:
            run = own.run(fitted, estimator.requires, name, bank)
        else:
            problem = narrowed(own.problem, tests)
            few = replace(own, problem=problem).run(fitted, estimator.requires, name, bank.of(problem))
            run = replace(few, origin=bank)
        with noted() as found, measured() as spent:
            estimator.estimate(run)
        seconds += spent.seconds
        files |= found.read
    return Asked(seconds=seconds, files=frozenset(files))


def only_about_all(estimator: Estimator) -> str:
    """Why an estimator cannot be asked about some of a run's test instances alone; empty where it can."""
    if Need.RETRAIN in estimator.requires:
        return (
            "outcomes of retrained models come from the bank, whose trainings and evaluations on test instances cannot "
            "be told apart"
        )
    return str(getattr(estimator, "about_all", ""))


def narrowed(problem: Problem, tests: NDArray[np.int64]) -> Problem:
    """The problem with those of its test instances alone, ``tests`` being their rows."""
    data = problem.data
    display = {part: shown[tests] if part == "test" else shown for part, shown in data.display.items()}
    flags = {name: flag[tests] for name, flag in data.test_flags.items()}
    return replace(problem, data=replace(data, test=data.test.take(tests), test_flags=flags, display=display))


def saved_by_estimate(job: Job) -> list[Path]:
    """Files that the run's own estimate wrote; none where it has not been saved."""
    folder = job.run_folder
    stages = read_manifest(folder.path).get("stages", {})
    return [folder / name for name in stages.get("estimate", {}).get("files", ())]


def place(fitted: Fitted) -> str:
    """Threads and device, in words."""
    device, threads = getattr(fitted, "device", None), torch.get_num_threads()
    where = processor() or "a processor without a name"
    if isinstance(device, torch.device) and device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    return f"{threads} thread{'s' if threads > 1 else ''}, {where}"


def bytes_of(files: Sequence[Path]) -> int:
    """Of all files that are there."""
    found = 0
    for file in set(files):
        with suppress(FileNotFoundError):
            found += file.stat().st_size
    return found


def work_asked_again(job: Job) -> list[Work]:
    """What metrics take that ask again under another model, or on the run's own training, for each estimator of a run.

    On the run's own training nothing is trained again.
    """
    found = work_under_others(job)
    for key, metric in job.metrics.items():
        if not isinstance(metric, Repeating):
            continue
        for name, estimator in {job.estimator_name: job.estimator, **job.baselines}.items():
            seeds = 1 if name in job.baselines else job.perspective.seeds
            m = len(job.problem.test)
            asks = {m: 1} if only_about_all(estimator) else metric.asks(m)
            for size, times in asks.items():
                asked = replace(job, problem=narrowed(job.problem, np.arange(size)))
                with suppress(IncompatibleError):
                    told = f"{key}: {times * seeds} times {name} on {size} test instances"
                    found.append(_times(asked.work(estimator, name), times * seeds, told))
    return found


def _times(work: Work, times: int, formula: str) -> Work:
    return Work(
        gradients=times * work.gradients,
        flops=times * work.flops,
        numbers=times * work.numbers,
        compared=times * work.compared,
        bytes=work.bytes,
        formula=formula,
    )
