"""Checkpoints that somebody passes in Python, as those of a training that is done: files, patterns or state dicts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from textwrap import shorten
from typing import Any

import numpy as np

from influx.errors import ConfigError, DataError
from influx.given import Problemlike, as_states
from influx.learners.torch.foreign import matched
from influx.learners.torch.imported import Imported, Loaded, digest_of


def source_of(given: Problemlike, checkpoints: Any, lrs: Any, steps: Any) -> Callable[[str], list[Loaded]]:
    """The checkpoints, the model itself being the last; they are read when what is returned is called.

    Raises:
        ConfigError: rates or steps are no numbers of their kind, or there are no checkpoints for them.
    """
    final = given.factory.module.state_dict()

    def own(step: int, rate: float | None = None) -> Loaded:
        return Loaded(step, rate, lambda module: final, digest_of(final), given=rate is not None)

    rates, numbers = _rates(lrs), _steps(steps)
    if checkpoints is None:
        if rates is None and numbers is None:
            return lambda inner: [own(0)]
        one = rates[0] if isinstance(rates, list) and len(rates) == 1 else rates
        if not isinstance(one, float) or numbers is None or len(numbers) > 1:
            raise ConfigError(
                "lrs and steps belong to checkpoints, and none were given; pass checkpoints=…, or the learning rate "
                "and the number of all steps of this model's training (lrs=0.1, steps=[1000])"
            )
        return lambda inner: [own(numbers[0], one)]

    def loaded(inner: str) -> list[Loaded]:
        states = as_states(checkpoints)
        found = (
            Imported(path=str(checkpoints), lr=rates, steps=numbers).loaded(inner)
            if states is None
            else _listed_states(states, rates, numbers, inner)
        )
        last = found[-1].read(given.factory.module)
        if digest_of(last) == digest_of(final):
            return found
        apart = found[-1].step - found[-2].step if len(found) > 1 else 1
        return [*found, own(found[-1].step + apart)]

    return loaded


def _plain(values: Any) -> Any:
    """A number or a list of them, of whatever holds numbers; None where it holds others."""
    try:
        held = values.detach().cpu() if hasattr(values, "detach") else values
        found = np.asarray([float(v) for v in held] if isinstance(held, list | tuple) else held)
    except (ValueError, TypeError, RuntimeError):
        return None
    return found.tolist() if found.dtype.kind in "iuf" and found.ndim < 2 else None


def _shown(values: Any) -> str:
    """In one short line."""
    return shorten(repr(values), 80, placeholder=" …")


def _rates(lrs: Any) -> float | list[float] | None:
    if lrs is None:
        return None
    found = _plain(lrs)
    listed = found if isinstance(found, list) else [found]
    if not listed or not all(rate is not None and math.isfinite(rate) and rate >= 0 for rate in listed):
        raise ConfigError(
            f"lrs must be a finite number of at least 0, or one for each checkpoint, got {_shown(lrs)}; correct it"
        )
    return [float(rate) for rate in found] if isinstance(found, list) else float(found)


def _steps(steps: Any) -> list[int] | None:
    if steps is None:
        return None
    found = _plain(steps)
    whole = isinstance(found, list) and bool(found) and all(math.isfinite(v) and v == int(v) for v in found)
    if not whole or found[0] < 0 or found != sorted({*found}):
        raise ConfigError(
            f"steps must be increasing whole numbers from 0, one for each checkpoint, got {_shown(steps)}; correct them"
        )
    return [int(step) for step in found]


def _listed_states(
    states: list[Any], rates: float | list[float] | None, steps: list[int] | None, inner: str
) -> list[Loaded]:
    """Checkpoints given one by one: files, or state dicts."""
    if not states:
        raise ConfigError("checkpoints is empty; pass files or state dicts of this model's training, or leave it out")
    for name, numbers in (("lrs", rates), ("steps", steps)):
        if isinstance(numbers, list) and len(numbers) != len(states):
            raise ConfigError(f"{name} has {len(numbers)} numbers for {len(states)} checkpoints; give one for each")
    found: list[Loaded] = []
    for number, state in enumerate(states):
        rate = rates[number] if isinstance(rates, list) else rates
        if isinstance(state, Mapping):
            found.append(_of_state(state, number, rate, inner))
            continue
        held = Imported(path=str(state), lr=rate).loaded(inner)
        if len(held) > 1:
            raise ConfigError(
                f"{state} in checkpoints holds {len(held)} checkpoints; pass it alone (checkpoints={str(state)!r}), or "
                "one file for each"
            )
        found.extend(held)
    told = steps is not None
    return [
        replace(one, step=step, told=one.told or told, before=one.before if step == one.step else ())
        for one, step in zip(found, steps or _counted(found), strict=True)
    ]


def _counted(found: list[Loaded]) -> list[int]:
    """Steps that the files tell; the numbers of the checkpoints where none does."""
    if not any(one.told for one in found):
        return list(range(len(found)))
    known = [one.step if one.told else None for one in found]
    if None in known or known != sorted({*known}):  # type: ignore[type-var]
        shown = ["unknown" if step is None else step for step in known]
        raise ConfigError(
            f"the steps of checkpoints must increase, their files and names tell {', '.join(map(str, shown))}; pass "
            "them in order of the training, or pass steps=[…]"
        )
    return [step for step in known if step is not None]


def _of_state(state: Mapping[str, Any], number: int, rate: float | None, inner: str) -> Loaded:
    tensors = {str(name): value for name, value in state.items() if hasattr(value, "detach")}
    if not tensors:
        raise DataError(f"checkpoint {number} holds no tensors; pass model.state_dict()")
    what = f"checkpoint {number}"
    digest = digest_of(tensors)
    return Loaded(
        number, rate, lambda module: matched(tensors, module, None, inner, what), digest, False, given=rate is not None
    )
