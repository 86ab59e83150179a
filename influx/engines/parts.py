"""Trainings on random parts of the training set, seen with all of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from influx.errors import IncompatibleError
from influx.problem import Data, Problem, only_training, trained_again
from influx.run import Run
from influx.store import Folder
from influx.streams import stream
from influx.trained import trained


def trained_on_part(run: Run, number: int, share: float, name: str) -> Run:
    """``run`` with a model that saw a random ``share`` of the training instances, all of which it still asks about.

    Initialisation and batch order are those of the training ``number`` of this ``name`` (see ``Run.trained``), the
    instances are drawn for it. The model is recorded as a problem of its own, beside this one. The bank stays that of
    ``run``.

    Raises:
        IncompatibleError: the model is not trained here.
    """
    if why := only_training(run.problem.learner):
        raise IncompatibleError(why)
    beside, base = (run.bank, run.problem) if run.origin is None else (run.origin, run.origin.problem)
    problem = drawn_part(base, number, share, name)
    fitted = trained(problem, Folder(beside.folder.path.parent.parent / problem.id))
    return replace(run, problem=replace(problem, data=run.problem.data), fitted=fitted)


def drawn_part(base: Problem, number: int, share: float, name: str) -> Problem:
    """The problem of a training of ``trained_on_part``."""
    again, n = trained_again(base, number, name), len(base.train)
    rng = stream(again.seed, f"draws/part of {share} for {name}")
    rows = np.sort(rng.permutation(n)[: max(1, round(share * n))])
    return replace(again, data=part_of(base.data, rows))


def part_of(data: Data, rows: NDArray[np.int64]) -> Data:
    """The data with some of its training instances."""
    return replace(
        data,
        train=data.train.take(rows),
        display={part: shown[rows] if part == "train" else shown for part, shown in data.display.items()},
        flags={name: np.asarray(values)[rows] for name, values in data.flags.items()},
    )
