"""What a module reads of instances: numbers, and for density models their labels and the latent draws of their risk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from influx.errors import IncompatibleError
from influx.learners.torch.loading import lies_apart
from influx.problem import Data, Split
from influx.streams import normals

PINNED_BYTES = 64 << 20  # more at once is copied as it stands: pinning takes its time and holds memory
TRAINING = "draws"  # beginning of the names of draws of training, whatever those of evaluation are called


@dataclass(frozen=True, kw_only=True)
class Attached:
    """Inputs become flat: ``[instance | one-hot label | draws]``. A module is then a function of its inputs alone.

    Draws belong to instances, so an instance's risk does not depend on its batch, and one that is removed leaves the
    draws of the others as they are.

    Attributes:
        seed: of the problem.
        numbers: standard normal numbers per draw.
        training: draws per training step, fresh ones every step.
        evaluation: draws of every other risk, always the same.
        name: which draws of evaluation.
        classes: width of the one-hot label; 0 leaves it out.
    """

    seed: int
    numbers: int
    training: int
    evaluation: int
    name: str = "draws"
    classes: int = 0

    def known(self, x: Tensor, y: Tensor) -> Tensor:
        """Instances (n, ...) and their labels, without draws."""
        flat = x.flatten(1)
        return torch.cat([flat, F.one_hot(y.long(), self.classes).to(flat)], 1) if self.classes else flat

    def evaluated(self, known: Tensor, ids: NDArray[np.int64]) -> Tensor:
        """With the draws of evaluation."""
        return self._drawn(known, ids, self.name, self.evaluation)

    def trained(self, known: Tensor, ids: NDArray[np.int64], order: int, step: int) -> Tensor:
        """With the draws of the step that leaves state ``step`` of the training numbered ``order``."""
        return self._drawn(known, ids, f"{TRAINING}/{order}/{step}", self.training)

    def _drawn(self, known: Tensor, ids: NDArray[np.int64], name: str, count: int) -> Tensor:
        if not self.numbers:
            return known
        drawn = torch.from_numpy(normals(self.seed, name, ids, count * self.numbers))
        return torch.cat([known, drawn.to(known)], 1)


def attached_to(model: object, data: Data, seed: int) -> Attached | None:
    """What the modules of a model choice read beside the instances; None for nothing.

    Raises:
        IncompatibleError: the model reads labels that the data do not have.
    """
    noise, conditional = getattr(model, "noise", None), bool(getattr(model, "conditional", False))
    numbers = 0 if noise is None else int(noise(data))
    if not (numbers or conditional):
        return None
    if conditional and not data.classes:
        raise IncompatibleError("model.conditional=true needs labels that are classes; set model.conditional=false")
    return Attached(
        seed=seed,
        numbers=numbers,
        training=getattr(model, "draws", 1),
        evaluation=getattr(model, "evaluation_draws", 1),
        classes=len(data.classes) if conditional else 0,
    )


def evaluation_tensors(
    split: Split, attached: Attached | None, dtype: torch.dtype, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """What the module reads in evaluation, and the targets."""
    x, y = to_tensors(split, dtype, device)
    return x if attached is None else attached.evaluated(attached.known(x, y), split.ids), y


def placed(split: Split, attached: Attached | None, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """The same on the device; in the host's memory where inputs would take most of the device's."""
    return evaluation_tensors(split, attached, dtype, "cpu" if lies_apart(split, dtype, device) else device)


def carried(tensor: Tensor, device: torch.device | str) -> Tensor:
    """On the device; the host goes on while it is copied there, unless it is large."""
    if torch.device(device).type == "cuda" and not tensor.is_cuda and tensor.nbytes <= PINNED_BYTES:
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def to_tensors(split: Split, dtype: torch.dtype, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Floating-point inputs and targets in ``dtype``; integer ones stay integer."""

    def convert(array: NDArray[np.generic]) -> Tensor:
        repeated = array.size > 1 and not any(array.strides)  # what a plan has in place of data: one number
        tensor = torch.from_numpy(array[(slice(1),) * array.ndim].copy() if repeated else np.ascontiguousarray(array))
        if tensor.is_floating_point() and tensor.nbytes > PINNED_BYTES:
            tensor = tensor.to(dtype)  # first, since the device may have no room for it in a wider type
        tensor = carried(tensor, device)
        tensor = tensor.to(dtype) if tensor.is_floating_point() else tensor
        return tensor.expand(array.shape) if repeated else tensor

    return convert(split.x), convert(split.y)
