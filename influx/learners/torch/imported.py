"""Settings of ``training=imported``: which checkpoints take the place of a training."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from influx.errors import ConfigError, DataError
from influx.learners.torch import foreign
from influx.learners.torch.moments import Moments, beside
from influx.learners.torch.training import Training
from influx.store import file_hash

if TYPE_CHECKING:
    from influx.learners.torch.imported_learner import ImportedLearner


@dataclass(frozen=True)
class Loaded:
    """One checkpoint of an imported training: ``read`` gives a full state dict for a module of the model.

    ``rate`` is the learning rate of the step that leaves it, None where nobody said or where parameter ``groups`` had
    several; ``before`` are those of steps that led to it, up to it, as far as they are known. ``digest`` stands for its
    tensors, ``moments`` finds what the optimizer remembered there. ``told`` is whether the step is known and not
    counted, ``given`` whether the rate comes from settings.
    """

    step: int
    rate: float | None
    read: Callable[[nn.Module], dict[str, Tensor]]
    digest: str
    told: bool = True
    given: bool = False
    before: tuple[float, ...] = ()
    groups: tuple[float, ...] = ()
    moments: Callable[[], Moments | None] = lambda: None

    @property
    def rates_known(self) -> bool:
        """Whether it alone tells the rates of the steps that led to it, of which there are some."""
        return self.step > 0 and (self.given or len(self.before) == self.step)


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Checkpoints of a training that influx did not do, in place of one.

    Attributes:
        path: a file, a folder or a pattern such as runs/*.ckpt: safetensors, or what torch.save wrote if it is tensors,
            numbers and text. Nothing else is unpickled.
        lr: learning rate of the steps that leave each checkpoint, one number or one per checkpoint; null reads it
            from the files (influx's recorders, Lightning and Hugging Face's trainer write it).
        steps: updates before each checkpoint, in the order of the files; null reads them from the files or their names.
        prefix: what names in the files begin with before those of the model; null finds out.
        dtype: parameters and arithmetic.
        device: cpu, cuda, or auto.
    """

    path: str | None = None
    lr: float | list[float] | None = None
    steps: list[int] | None = None
    prefix: str | None = None
    dtype: Literal["float32", "float64"] = "float32"
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check ranges."""
        rates = self.lr if isinstance(self.lr, list) else [] if self.lr is None else [self.lr]
        if not all(rate >= 0 and math.isfinite(rate) for rate in rates):
            raise ConfigError(f"training.lr must be finite and not negative, got {self.lr}; correct it")
        if self.steps is not None and (not self.steps or self.steps != sorted({*self.steps}) or self.steps[0] < 0):
            raise ConfigError(f"training.steps must be increasing whole numbers from 0, got {self.steps}; correct them")

    def learner(self, model: Any, optimizer: Any) -> ImportedLearner:
        """The learner that this makes of a model choice.

        Raises:
            ConfigError: no path is given.
        """
        if self.path is None:
            raise ConfigError("training.path must name checkpoints, got null; set training.path=runs/*.safetensors")
        from influx.learners.torch.imported_learner import ImportedLearner

        recipe = Training(epochs=1, batch_size=1, dtype=self.dtype, device=self.device)
        return ImportedLearner(model=model, optimizer=optimizer, training=recipe, source=self.loaded)

    def loaded(self, inner: str = "") -> list[Loaded]:
        """The checkpoints in order of training; ``inner`` is the part of the module that was trained.

        Raises:
            ConfigError: there are none, or their number is not that of ``lr`` or ``steps``.
            DataError: one cannot be read.
        """
        assert self.path is not None
        found = foreign.find(self.path)
        steps, rates = self._steps(found), self._rates(found)

        def reader(one: foreign.Found) -> Callable[[nn.Module], dict[str, Tensor]]:
            return lambda module: foreign.matched(
                foreign.tensors_of(one.path), module, self.prefix, inner, f"the checkpoint {one.path}"
            )

        return [
            Loaded(
                step,
                rate,
                reader(one),
                file_hash(one.path),
                one.step is not None or self.steps is not None,
                given=self.lr is not None,
                before=() if self.lr is not None or step != one.step else _before(one),  # it counts back from its own
                groups=one.rates or () if rate is None else (),
                moments=cache(partial(beside, one.path, self.prefix, inner)),
            )
            for step, rate, one in zip(steps, rates, found, strict=True)
        ]

    def _steps(self, found: list[foreign.Found]) -> list[int]:
        if self.steps is not None:
            _check_count("steps", len(self.steps), found)
            return self.steps
        steps = [one.step for one in found]
        known = [step for step in steps if step is not None]
        if len(found) > 1 and (len(known) < len(found) or len({*known}) < len(known)):
            raise ConfigError(
                f"the steps of {found[0].path.name} and {len(found) - 1} more checkpoints are not known from the files "
                "or their names (one number each, or step and a number); set training.steps to a list of them"
            )
        return known or [0]

    def _rates(self, found: list[foreign.Found]) -> list[float | None]:
        if isinstance(self.lr, list):
            _check_count("lr", len(self.lr), found)
            return list(self.lr)
        if self.lr is not None:
            return [self.lr] * len(found)
        for one in found:
            told = [rate for rates in (one.rates or (), *one.before) for rate in rates]
            if not all(math.isfinite(rate) and rate >= 0 for rate in told):
                raise DataError(
                    f"the checkpoint {one.path} tells the learning rate {one.rates}, which must be finite and not "
                    "negative; set training.lr"
                )
        return [_one_of(one.rates or ()) for one in found]


def _one_of(rates: tuple[float, ...]) -> float | None:
    """The rate of all parameter groups, None where it is not one."""
    return rates[0] if len({*rates}) == 1 else None


def _before(one: foreign.Found) -> tuple[float, ...]:
    """Rates of the steps that led to it; none where parameter groups had several."""
    known = [rate for rates in one.before if (rate := _one_of(rates)) is not None]
    return tuple(known) if len(known) == len(one.before) else ()


def _check_count(name: str, count: int, found: list[foreign.Found]) -> None:
    if count != len(found):
        raise ConfigError(
            f"training.{name} has {count} numbers for {len(found)} checkpoints; give one for each, in the order "
            f"{', '.join(one.path.name for one in found[:4])}{'…' if len(found) > 4 else ''}"
        )


def digest_of(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of names, shapes and numbers."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
