"""A run seen at another point of its training."""

from __future__ import annotations

from dataclasses import replace

from influx.errors import IncompatibleError
from influx.learners.torch.fitted import TorchFitted
from influx.problem import Checkpoint
from influx.run import Run


def after_start(run: Run) -> list[Checkpoint]:
    """Saved checkpoints without the initialisation, which is no point of training."""
    saved, fitted = run.states, run.fitted
    return saved[1:] if isinstance(fitted, TorchFitted) and fitted.from_start else saved


def ended_at(run: Run, checkpoint: Checkpoint) -> Run:
    """The run as if the saved ``checkpoint`` were the final model.

    Only what reads the final model may be asked of it: learning rates, steps and retraining are those of the whole.

    Raises:
        IncompatibleError: the model is no net.
    """
    if not isinstance(run.fitted, TorchFitted):
        raise IncompatibleError(f"{run.who} needs the checkpoints of a net; choose a model such as model=mlp")
    return replace(run, fitted=replace(run.fitted, until=checkpoint.step))
