"""What is measured on an instance under a retrained model: a risk, smaller when the model is more right."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from influx.errors import ConfigError
from influx.problem import Data, Outcomes, Split

Target = Literal["loss", "margin", "zero_one"]


def check_target(target: str, data: Data | None = None) -> None:
    """Refuse a target that does not exist, or that these data do not have.

    Raises:
        ConfigError: naming the setting.
    """
    if target not in get_args(Target):
        raise ConfigError(f"estimator.target must be one of {', '.join(get_args(Target))}, got {target!r}; change it")
    if target == "zero_one" and data is not None and data.task != "classification":
        raise ConfigError("estimator.target=zero_one needs classes, and this is regression; use estimator.target=loss")


def risks(outcomes: Outcomes, split: Split, target: Target) -> NDArray[np.float64]:
    """``(..., n)``: the training loss, minus the margin, or whether the predicted class is wrong."""
    if target == "loss":
        return np.asarray(outcomes.loss, dtype=np.float64)
    if target == "margin":
        return -np.asarray(outcomes.margin, dtype=np.float64)
    return np.asarray(outcomes.prediction != split.y, dtype=np.float64)
