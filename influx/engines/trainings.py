"""Further trainings of a problem, each recorded in a folder of its own, by a run's workers where it has some."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from influx import interrupts, progress
from influx.engines.executor import Arrays, Task
from influx.engines.parts import drawn_part
from influx.engines.retrain import Bank
from influx.problem import Problem, trained_again
from influx.store import Folder, content_hash
from influx.trained import trained

KIND = "training"


def train_ahead(bank: Bank, numbers: Iterable[int], name: str = "training", share: float = 1.0) -> None:
    """Let workers do the trainings that are not there; without workers whoever needs them trains.

    They are those of ``Run.trained``, of which 0 is the bank's own problem, or of ``trained_on_part``.
    """
    executor, problems = bank.executor, _folder(bank)
    if not executor.spreads or executor.served is not None:
        return
    again = {number: _again(bank.problem, number, name, share).id for number in numbers if number or share < 1}
    missing = [number for number, own in again.items() if not (problems / own / "problem.json").is_file()]
    if len(missing) > 1:
        with progress.task("further trainings", len(missing)) as done:
            for _ in executor.do(_task(bank.problem, problems, missing, name, share), lambda number: done(1)):
                interrupts.check()


def described_trainings(bank: Bank, told: Mapping[str, Any]) -> Task:
    """The task that ``told`` describes, in another process."""
    numbers = [int(number) for number in told["numbers"]]
    return _task(bank.problem, _folder(bank), numbers, told["name"], float(told["share"]))


def _folder(bank: Bank) -> Path:
    """That of all problems."""
    return bank.folder.path.parent.parent


def _again(problem: Problem, number: int, name: str, share: float) -> Problem:
    return trained_again(problem, number, name) if share == 1 else drawn_part(problem, number, share, name)


def _task(problem: Problem, problems: Path, numbers: list[int], name: str, share: float) -> Task:
    threads = torch.get_num_threads()

    def do(place: int) -> Arrays:
        again = _again(problem, numbers[place], name, share)  # one at a time: each may hold a copy of its data
        trained(again, Folder(problems / again.id))
        return {"trained": np.array(numbers[place])}

    told = {"kind": KIND, "problem": problem.id, "seed": problem.seed, "numbers": numbers, "name": name, "share": share}
    return Task(
        names=[content_hash([KIND, _again(problem, n, name, share).id, threads], 24) for n in numbers],
        do=do,
        at_once=1,
        threads=threads,
        told=told | {"threads": threads},
        arrays=dict,
    )
