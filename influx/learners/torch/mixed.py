"""Mixed precision: the passes of a training step in bfloat16; its parameters, risks and updates in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Precision = Literal["model", "bfloat16"]


def passed(precision: Precision, call: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Outputs of ``call`` on inputs ``x``; with bfloat16 by torch's autocast, and then in float32.

    Only products and convolutions are in bfloat16, and what follows them as it stands. Gradients of float32 parameters
    are float32. Converted weights are not kept for a second use, which functional transforms do not allow.
    """
    if precision == "model":
        return call(x)
    with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):
        outputs = call(x)
    return outputs.float()
