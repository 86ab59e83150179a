"""Recurrent layers step by step, as calls that the recorder sees and with instances first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from influx.engines.recorder import Function, Handler, Recorder, unknown

State = tuple[Tensor, ...]  # (b, hidden) each; the first is what a step returns
Step = Callable[[Tensor, Tensor, State], State]  # what input and state contribute to the gates, state -> state


def _gru(given: Tensor, own: Tensor, state: State) -> State:
    (reset, update, new), (reset_own, update_own, new_own) = given.chunk(3, 1), own.chunk(3, 1)
    candidate = torch.tanh(new + torch.sigmoid(reset + reset_own) * new_own)
    return (candidate + torch.sigmoid(update + update_own) * (state[0] - candidate),)


def _lstm(given: Tensor, own: Tensor, state: State) -> State:
    enter, keep, new, leave = (given + own).chunk(4, 1)
    cell = torch.sigmoid(keep) * state[1] + torch.sigmoid(enter) * torch.tanh(new)
    return torch.sigmoid(leave) * torch.tanh(cell), cell


def _plain(function: Callable[[Tensor], Tensor], given: Tensor, own: Tensor, state: State) -> State:
    return (function(given + own),)


def _layers(
    step: Step, linear: Handler, recorder: Recorder, func: Function, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """``torch.gru`` and its like of padded sequences; packed ones, projections and active dropout are no use."""
    weights = args[2] if len(args) == 9 and not kwargs else None
    if not isinstance(weights, list | tuple) or not any(map(recorder.is_selected, weights)) or args[0].ndim != 3:
        return unknown(recorder, func, args, kwargs)
    x, first, _, biased, count, dropout, training, both, batch_first = args
    each = 4 if biased else 2
    if len(weights) != each * count * (2 if both else 1) or (training and dropout > 0):
        return unknown(recorder, func, args, kwargs)
    states = first if isinstance(first, list | tuple) else (first,)
    x = x if batch_first else x.transpose(0, 1)
    ends: list[State] = []
    for _ in range(count):
        outputs = []
        for backwards in (False, True) if both else (False,):
            number = len(ends)
            own = [*weights[each * number : each * (number + 1)], None, None][:4]
            made, end = _run(step, linear, recorder, x, tuple(s[number] for s in states), own, backwards)
            outputs.append(made)
            ends.append(end)
        x = torch.cat(outputs, 2) if both else outputs[0]
    last = [torch.stack(parts) for parts in zip(*ends, strict=True)]
    return (x if batch_first else x.transpose(0, 1), *last)


def _run(
    step: Step,
    linear: Handler,
    recorder: Recorder,
    x: Tensor,
    state: State,
    weights: Sequence[Tensor | None],
    backwards: bool,
) -> tuple[Tensor, State]:
    """Outputs ``(b, L, hidden)`` and last state of one layer in one direction over ``x`` (b, L, d)."""
    from_input, from_state, bias, own_bias = weights
    given = linear(recorder, F.linear, (x, from_input, bias), {})
    order = range(x.shape[1])
    outputs = {}
    for t in reversed(order) if backwards else order:
        own = linear(recorder, F.linear, (state[0], from_state, own_bias), {})
        state = step(given[:, t], own, state)
        outputs[t] = state[0]
    return torch.stack([outputs[t] for t in order], 1), state


def _cell(
    step: Step, linear: Handler, recorder: Recorder, func: Function, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """``torch.gru_cell`` and its like, of one step."""
    if kwargs or len(args) not in (4, 6) or args[0].ndim != 2:
        return unknown(recorder, func, args, kwargs)
    x, first, from_input, from_state = args[:4]
    bias, own_bias = args[4:] or (None, None)
    state = tuple(first) if isinstance(first, list | tuple) else (first,)
    given = linear(recorder, F.linear, (x, from_input, bias), {})
    own = linear(recorder, F.linear, (state[0], from_state, own_bias), {})
    found = step(given, own, state)
    return found if len(found) > 1 else found[0]


def handlers(linear: Handler) -> dict[Function, Handler]:
    """Of all recurrent layers, given that of ``F.linear``."""
    tanh, relu = partial(_plain, torch.tanh), partial(_plain, torch.relu)
    layers: dict[Function, Step] = {torch.gru: _gru, torch.lstm: _lstm, torch.rnn_tanh: tanh, torch.rnn_relu: relu}
    cells: dict[Function, Step] = {torch.gru_cell: _gru, torch.lstm_cell: _lstm}
    cells |= {torch.rnn_tanh_cell: tanh, torch.rnn_relu_cell: relu}
    return {
        **{func: partial(_layers, step, linear) for func, step in layers.items()},
        **{func: partial(_cell, step, linear) for func, step in cells.items()},
    }
