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
from influx.engines.narrowed import Narrowed, narrowed
from influx.errors import IncompatibleError
from influx.job import Job
from influx.manifest import measured
from influx.manifest import read as read_manifest
from influx.other_models import work_under_others
from influx.planning import Work
from influx.problem import Fitted
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
    """A metric that asks the estimator again on the run's own training."""

    def asks(self, m: int) -> Mapping[int, int]:
        """How often about how many of ``m`` test instances."""
        ...


def asked_about(job: Job, name: str, estimator: Estimator, tests: NDArray[np.int64], seeds: int) -> Asked:
    """Ask about the test instances in the rows ``tests``, in this process; of ``seeds`` trainings, as the run did.

    What is trained or stored by now is read. Opening the recorded trainings takes no part in the time.

    Raises:
        UserError: the estimator cannot be asked so.
    """
    seconds, files = 0.0, set[Path]()
    for number in range(seeds):
        own = job.trained_again(number)
        problem = narrowed(own.problem, tests)
        with noted() as read:
            fitted, bank = trained_problem(own), own.bank()
            run = replace(own, problem=problem).run(
                fitted, estimator.requires, name, Narrowed.of_bank(bank, problem, tests)
            )
            with measured() as spent:
                estimator.estimate(replace(run, origin=bank))
        seconds += spent.seconds
        files |= read
    return Asked(seconds=seconds, files=frozenset(files))


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
            for size, times in metric.asks(len(job.problem.test)).items():
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
