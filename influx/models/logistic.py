"""Multinomial logistic regression."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from influx.errors import IncompatibleError
from influx.models.inputs import flat_size, flatten
from influx.models.settings import check_flag
from influx.problem import Data


@dataclass(frozen=True, kw_only=True)
class Logistic:
    """Softmax regression: one weight vector per class, also for two classes. ``(b, d) -> (b, classes)`` logits.

    With weight decay the training objective is strongly convex, so its optimum does not depend on the
    initialisation; with one vector per class it is unique only then.
    """

    bias: bool = True

    def __post_init__(self) -> None:
        """Check ranges."""
        check_flag("bias", self.bias)

    def build(self, data: Data) -> nn.Module:
        """The untrained layer, initialised from torch's global generator.

        Raises:
            IncompatibleError: the task is regression or the data are token ids.
        """
        if data.task != "classification":
            raise IncompatibleError(
                f"model=logistic expects classes, dataset={data.name} is a {data.task} task; choose model=linear"
            )
        head = nn.Linear(flat_size(data, "logistic"), data.n_outputs, bias=self.bias)
        return nn.Sequential(*flatten(data), head)
