"""A problem made of objects in memory: how a module that somebody trained reads the instances that they hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from influx.datasets.given import FIRST, Instances, instances_of
from influx.errors import DataError, IncompatibleError
from influx.learners.torch.given import Given, Part, Unpacked, arguments_of, half_squares, outputs_of, token_loss
from influx.learners.torch.losses import AsGiven, LossFunction, OwnLoss, check_loss
from influx.problem import Data, DataKind, Split, TaskName

LOSSES = ("cross_entropy", "mse")
EXACT = 1 << 24  # whole numbers up to it are float32 numbers


@dataclass(frozen=True, kw_only=True)
class Problemlike:
    """``factory`` builds the module that reads ``data``; the person's module is its part ``inner``.

    ``own_task`` is what outputs mean where the data's task does not say it.
    """

    data: Data
    factory: Given
    inner: str
    own_task: OwnLoss | None


def problem_of(
    module: nn.Module, train: Any, test: Any, loss: str | LossFunction, classes: Sequence[str] | None
) -> Problemlike:
    """The module and the instances as a learner reads them.

    Raises:
        DataError: the instances are no numbers of one shape, or targets do not fit the loss.
        IncompatibleError: the model does not take them, or the loss does not fit its outputs.
    """
    if isinstance(loss, str) and loss not in LOSSES:
        raise IncompatibleError(
            f"loss must be {' or '.join(LOSSES)}, or a function (outputs, y) -> (n,), got {loss!r}; change it"
        )
    arguments = arguments_of(module)
    sides = [instances_of(source, which, arguments) for source, which in ((train, "train"), (test, "test"))]
    _check_alike(*sides)
    return _Reading(module, sides[0], sides[1], loss).problem(classes)


def _check_alike(train: Instances, test: Instances) -> None:
    if list(train.inputs) != list(test.inputs):
        raise DataError(f"train has inputs {list(train.inputs)} and test {list(test.inputs)}; give both the same")
    pairs = {name or "x": (train.inputs[name], test.inputs[name]) for name in train.inputs} | {"y": (train.y, test.y)}
    for name, (left, right) in pairs.items():
        if left.shape[1:] != right.shape[1:] or left.dtype.kind != right.dtype.kind:
            raise DataError(
                f"{name} is {left.dtype} {left.shape[1:]} per instance in train and {right.dtype} {right.shape[1:]} in "
                "test; give both the same"
            )


@dataclass(frozen=True)
class _Reading:
    module: nn.Module
    train: Instances
    test: Instances
    loss: str | LossFunction

    def problem(self, classes: Sequence[str] | None) -> Problemlike:
        inputs, outputs = [self._part(name, side) for name, side in self._sides()], self._probe()
        raw = outputs
        wrapped = FIRST not in self.train.inputs or len(inputs) > 1 or outputs.ndim == 1
        if outputs.ndim == 1:
            outputs = outputs.unsqueeze(1)
        one = self._one_target(outputs, raw.ndim == 1)
        if one is not None:
            y, own = one
            module = Unpacked(self.module, tuple(inputs)) if wrapped else self.module
            task: TaskName = "classification" if y[0].dtype.kind == "i" else "regression"
            return self._made(module, inputs if wrapped else None, y, task, own, classes, outputs)
        risk = self._risk(outputs)
        check_loss(risk, raw, self._tensor(self.train.y[self._rows]))
        parts = [*inputs, self._part(None, (self.train.y, self.test.y))]
        labels = self._labels()
        module = Unpacked(self.module, tuple(parts), risk)
        return self._made(module, parts, labels, "density", None, classes, outputs)

    def _made(
        self,
        module: nn.Module,
        packed: list[Part] | None,
        y: tuple[NDArray[Any], NDArray[Any]],
        task: TaskName,
        own: OwnLoss | None,
        classes: Sequence[str] | None,
        outputs: Tensor,
    ) -> Problemlike:
        x = [self._x(side, packed, task == "density") for side in (self.train, self.test)]
        splits = [Split(x=a, y=b, ids=np.arange(len(b), dtype=np.int64)) for a, b in zip(x, y, strict=True)]
        data = Data(
            name="given",
            task=task,
            kind=_kind(x[0], packed is not None),
            train=splits[0],
            test=splits[1],
            classes=self._classes(y, classes, outputs.shape[-1] if task == "classification" and own is None else 0),
        )
        inner = "inner." if isinstance(module, Unpacked) else ""
        own_risk: TaskName | None = "density" if task == "density" else None
        factory = Given(module=module.eval(), task=own_risk, squared_errors=self.loss == "mse")
        return Problemlike(data=data, factory=factory, inner=inner, own_task=own)

    def _sides(self) -> list[tuple[str, tuple[NDArray[Any], NDArray[Any]]]]:
        return [(name, (self.train.inputs[name], self.test.inputs[name])) for name in self.train.inputs]

    def _part(self, name: str | None, sides: tuple[NDArray[Any], NDArray[Any]]) -> Part:
        whole = sides[0].dtype.kind == "i"
        low, high = (min(int(a.min()) for a in sides), max(int(a.max()) for a in sides)) if whole else (0, 0)
        return Part(name or None, sides[0].shape[1:], whole, low, high)

    @torch.no_grad()
    def _probe(self) -> Tensor:
        """Outputs of a few training instances."""
        few = {name: self._tensor(array[self._rows]) for name, array in self.train.inputs.items()}
        first = [few.pop(FIRST)] if FIRST in few else []
        try:
            found = outputs_of(self.module(*first, **few))
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            shapes = ", ".join(f"{name or 'x'} {array.shape[1:]}" for name, array in self.train.inputs.items())
            raise IncompatibleError(
                f"the model does not take inputs of shape {shapes} per instance ({str(error).splitlines()[0]}); pass "
                "train and test as the model reads them"
            ) from error
        if len(found) != len(self._rows) or found.ndim == 0:
            raise IncompatibleError(
                f"the model must return one row per instance, got shape {tuple(found.shape)} for {len(self._rows)} "
                "instances; wrap it in a module that does"
            )
        return found

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        dtype = next(self.module.parameters()).dtype
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    @property
    def _rows(self) -> list[int]:
        """Two training instances with different targets, where there are such: the first, and the next unlike it."""
        flat = self.train.y.reshape(len(self.train), -1)
        unlike = np.flatnonzero((flat != flat[0]).any(1))
        return [0, *([int(unlike[0])] if len(unlike) else range(1, min(2, len(flat))))]

    def _one_target(
        self, outputs: Tensor, flat: bool
    ) -> tuple[tuple[NDArray[Any], NDArray[Any]], OwnLoss | None] | None:
        """Targets and task where outputs are (n, k) and every instance has one target; None where it is otherwise."""
        y = (self.train.y, self.test.y)
        if self.loss == "mse":
            y = (y[0].astype(np.float32), y[1].astype(np.float32))
        if y[0].ndim == 2 and y[0].shape[1] == 1 and self.loss != "cross_entropy":
            y = (y[0][:, 0], y[1][:, 0])
        if outputs.ndim != 2 or y[0].ndim != 1 or (self.loss == "mse" and outputs.shape[1] != 1):
            return None
        if callable(self.loss):
            if y[0].dtype.kind == "i" and min(int(part.min()) for part in y) < 0:  # no classes: -1 and 1, say
                y = (y[0].astype(np.float32), y[1].astype(np.float32))
            whole = self.train.y.dtype.kind == "i"
            own = AsGiven(self.loss, flat, column=self.train.y.ndim == 2, whole=whole)
            check_loss(self.loss, outputs[:, 0] if flat else outputs, self._tensor(self.train.y[self._rows]))
            return y, OwnLoss(own)
        if self.loss == "cross_entropy" and (y[0].dtype.kind != "i" or outputs.shape[1] < 2):
            raise IncompatibleError(
                f"loss='cross_entropy' needs whole-number targets and an output for each class, got {y[0].dtype} "
                f"targets and {outputs.shape[1]} outputs; use loss='mse' or a function (outputs, y) -> (n,)"
            )
        return y, None

    def _risk(self, outputs: Tensor) -> LossFunction:
        """The loss of one instance where its output or its target is more than a number."""
        shape = self.train.y.shape[1:]
        if callable(self.loss):
            return self.loss
        if self.loss == "mse":
            if math.prod(outputs.shape[1:]) != math.prod(shape):
                raise IncompatibleError(
                    f"loss='mse' needs targets of the outputs' shape {tuple(outputs.shape[1:])}, got {shape}; reshape y"
                )
            return half_squares
        if outputs.ndim == 3 and tuple(outputs.shape[1:-1]) == shape:
            return token_loss(self._shifted(outputs))
        if outputs.ndim > 2 and tuple(outputs.shape[2:]) == shape:
            return lambda found, y: torch.nn.functional.cross_entropy(found, y, reduction="none").flatten(1).mean(1)
        raise IncompatibleError(
            f"loss='cross_entropy' needs outputs (n, classes) or (n, length, vocabulary) and a whole-number target for "
            f"each, got outputs {tuple(outputs.shape[1:])} and targets {shape} per instance; pass a function "
            "(outputs, y) -> (n,)"
        )

    @torch.no_grad()
    def _shifted(self, outputs: Tensor) -> bool:
        """Whether a token predicts the next one, which a model that computes its own loss shows."""
        if FIRST in self.train.inputs:
            return False
        few = {name: self._tensor(array[:1]) for name, array in self.train.inputs.items()}
        y = self._tensor(self.train.y[:1])
        try:
            own = getattr(self.module(**few, labels=y), "loss", None)
        except TypeError:
            own = None
        if own is None:
            return False
        for shifted in (True, False):
            if torch.allclose(token_loss(shifted)(outputs[:1], y)[0], own, rtol=1e-3, atol=1e-4):
                return shifted
        raise IncompatibleError(
            "the model's own loss is not the mean cross-entropy of its tokens; pass loss as a function "
            "(logits, labels) -> (n,)"
        )

    def _labels(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """What people see of targets that are not one number: nothing."""
        y = (self.train.y, self.test.y)
        return y if y[0].ndim == 1 else (np.zeros(len(y[0]), np.float32), np.zeros(len(y[1]), np.float32))

    def _classes(
        self, y: tuple[NDArray[Any], NDArray[Any]], given: Sequence[str] | None, width: int
    ) -> tuple[str, ...]:
        if y[0].dtype.kind != "i":
            return ()
        low, high = min(int(part.min()) for part in y), max(int(part.max()) for part in y)
        if low < 0 and not width:
            return ()
        count = width or high + 1
        if low < 0 or high >= count:
            raise DataError(
                f"y must be classes from 0 to {count - 1}, the model's outputs, got {low} to {high}; number them anew"
            )
        if given is not None and len(given) != count:
            raise DataError(f"classes must have {count} names, got {len(given)}; give one for each output")
        return tuple(str(name) for name in (given or range(count)))

    def _x(self, side: Instances, packed: list[Part] | None, targets: bool) -> NDArray[Any]:
        if packed is None:
            return side.inputs[FIRST]
        arrays = [*side.inputs.values(), *([side.y] if targets else [])]
        flat = [array.reshape(len(array), -1) for array in arrays]
        if all(part.whole for part in packed):
            return np.concatenate(flat, axis=1)
        largest = max(max(abs(part.low), abs(part.high)) for part in packed)
        if largest > EXACT:
            raise DataError(f"whole numbers beside others must be at most {EXACT}, got {largest}; number them anew")
        wide = any(array.dtype == np.float64 for array in arrays)
        return np.concatenate([part.astype(np.float64 if wide else np.float32) for part in flat], axis=1)


def _kind(x: NDArray[Any], packed: bool) -> DataKind:
    if x.dtype.kind == "i":
        return "text"
    return "image" if x.ndim == 4 and not packed else "tabular"


def as_states(checkpoints: Any) -> list[Any] | None:
    """A list of checkpoints (paths or state dicts); None where it is one path."""
    if isinstance(checkpoints, Sequence) and not isinstance(checkpoints, str):
        return list(checkpoints)
    return [checkpoints] if isinstance(checkpoints, Mapping) else None
