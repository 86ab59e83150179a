"""Retraining from the trained parameters instead of the initialisation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from influx import interrupts, progress
from influx.engines import subsets
from influx.errors import IncompatibleError
from influx.learners.torch.fitted import TorchFitted
from influx.learners.torch.learner import TorchLearner
from influx.problem import Problem


def warm_losses(problem: Problem, fitted: object, removed: NDArray[np.int64], seed: int = 0) -> NDArray[np.float64]:
    """``(1 + K, m)`` test risks after the whole recipe once more from the trained parameters.

    First with everything, then without each of ``removed`` (K,): its weight is 0, batches are divided by their size.
    ``seed`` decides the order of batches; 0 is that of the training itself.

    Raises:
        IncompatibleError: the learner is no net.
    """
    learner = problem.learner
    if not isinstance(learner, TorchLearner) or not isinstance(fitted, TorchFitted):
        raise IncompatibleError("training on from the trained parameters takes a net; choose a model such as model=mlp")
    design = subsets.leave_one_out(len(problem.train), removed, seed, "full")
    size, found = learner.block_size(problem.data), []
    with progress.task("training on without each instance", len(design)) as done:
        for first in range(0, len(design), size):
            interrupts.check()
            part = design.rows(slice(first, first + size))
            found.append(learner.retrain(problem.data, problem.seed, part, fitted.model())[1].loss)
            done(len(part))
    return np.concatenate(found)
