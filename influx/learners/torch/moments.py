"""What optimizers remember from step to step, beside checkpoints that influx did not make: written and read by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from influx.errors import DataError
from influx.learners.torch import foreign
from influx.learners.torch.fitted import state_name
from influx.learners.torch.optimizers import Slots
from influx.store import file_hash

TORCH = {"exp_avg": "first", "exp_avg_sq": "second", "momentum_buffer": "momentum"}  # of torch's optimizers, and here


@dataclass(frozen=True)
class Moments:
    """Those of one checkpoint: in the file beside it, or in its own. ``slots`` names what there is.

    ``prefix`` and ``inner`` are as in ``foreign.matched``. ``digest`` stands for a file beside it; the checkpoint's own
    is known already. ``numbered`` is how many parameters its optimizer numbers, None where names are saved.
    """

    path: Path
    slots: frozenset[str]
    prefix: str | None
    inner: str
    digest: str = ""
    numbered: int | None = None

    def read(self, module: nn.Module, empty: Slots) -> Slots:
        """For the module's parameters, in their order; of one that was never updated they are zero, as in ``empty``.

        Raises:
            DataError: they cannot be read or are not those of this model.
        """
        held = _held(self.path)
        return {slot: self._matched(held.get(slot, {}), module, zeros) for slot, zeros in empty.items()}

    def _matched(self, held: Mapping[str, Tensor], module: nn.Module, zeros: list[Tensor]) -> list[Tensor]:
        names = [name.removeprefix(self.inner) for name, _ in module.named_parameters()]
        if self.numbered == len(names):
            held = {names[int(number)]: value for number, value in held.items()}
        begins = foreign.prefix_of(held, {name: name for name in names}) if self.prefix is None else self.prefix
        known = {name.removeprefix(begins): value for name, value in held.items() if name.startswith(begins)}
        strange = [name for name in known or held if name not in names]
        result = []
        for name, zero in zip(names, zeros, strict=True):
            value = known.get(name, zero)
            if value.shape != zero.shape or not torch.isfinite(value).all():
                strange.append(name)
                continue
            result.append(value.to(zero))
        if strange:
            raise DataError(
                f"the optimizer state {self.path} is not that of this model ({strange[0]!r} is not in the model, has "
                "another shape, or is not finite); choose the model that was trained"
            )
        return result


def noted(module: nn.Module, state: Mapping[Any, Mapping[str, Any]]) -> dict[str, Tensor]:
    """Tensors to save, ``slot.name``, of an optimizer's ``state`` by parameter; empty before its first step."""
    found = {}
    for name, parameter in module.named_parameters():
        for key, slot in TORCH.items():
            value = state[parameter].get(key) if parameter in state else None
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                found[f"{slot}.{name}"] = value.detach().cpu().contiguous()
    return found


def beside(checkpoint: Path, prefix: str | None, inner: str) -> Moments | None:
    """Those of a checkpoint, or None where nobody saved any.

    Raises:
        DataError: a file cannot be read.
    """
    own = foreign.OWN.fullmatch(checkpoint.name)
    if own is None:
        if checkpoint.suffix == ".safetensors":
            return None
        read = _optimizer_state(foreign.unpickled(checkpoint))
        return None if read is None else Moments(checkpoint, frozenset(read[0]), prefix, inner, numbered=read[1])
    path = checkpoint.parent / state_name(int(own[1]))
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as opened:
            names = {name.split(".", 1)[0] for name in opened.keys()}
    except (SafetensorError, OSError) as error:
        raise DataError(f"cannot read the optimizer state {path} ({error}); remove it, or save it again") from error
    return Moments(path, frozenset(names & {*TORCH.values()}), prefix, inner, file_hash(path))


def _held(path: Path) -> dict[str, dict[str, Tensor]]:
    """By slot, then by a parameter's name or number."""
    if path.suffix != ".safetensors":
        read = _optimizer_state(foreign.unpickled(path))
        return {} if read is None else read[0]
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(f"cannot read the optimizer state {path} ({error}); remove it, or save it again") from error
    held: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        slot, _, parameter = name.partition(".")
        held.setdefault(slot, {})[parameter] = tensor
    return held


def _optimizer_state(held: Mapping[str, Any]) -> tuple[dict[str, dict[str, Tensor]], int] | None:
    """Of ``optimizer.state_dict()`` in a training script's or Lightning's file, if it has one group of parameters.

    By slot and number of the parameter, and how many parameters there are: those never updated have nothing.

    Several groups number the parameters in an order of their own, which the file does not tell.
    """
    state = foreign.optimizer_in(held)
    groups, kept = state.get("param_groups"), state.get("state")
    if not isinstance(groups, list) or len(groups) != 1 or not isinstance(kept, Mapping):
        return None
    listed = groups[0].get("params") if isinstance(groups[0], Mapping) else None
    if not isinstance(listed, list):
        return None
    found: dict[str, dict[str, Tensor]] = {}
    for number, parameter in enumerate(listed):
        mine = kept.get(parameter)
        for key, slot in TORCH.items():
            value = mine.get(key) if isinstance(mine, Mapping) else None
            if isinstance(value, Tensor):
                found.setdefault(slot, {})[str(number)] = value
    return found, len(listed)
