"""A single linear layer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from influx.models.inputs import flat_size, flatten
from influx.models.settings import check_flag
from influx.problem import Data


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Linear regression, or a linear softmax classifier: ``(b, d) -> (b, n_outputs)``."""

    bias: bool = True

    def __post_init__(self) -> None:
        """Check ranges."""
        check_flag("bias", self.bias)

    def build(self, data: Data) -> nn.Module:
        """The untrained layer, initialised from torch's global generator.

        Raises:
            IncompatibleError: the data are token ids.
        """
        head = nn.Linear(flat_size(data, "linear"), data.n_outputs, bias=self.bias)
        return nn.Sequential(*flatten(data), head)
