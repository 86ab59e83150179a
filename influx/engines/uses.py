"""Calls whose per-instance gradients are known: products, convolutions, embeddings, norms, sums and scales."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from influx.engines import elementwise, recurrence
from influx.engines.attention import attention
from influx.engines.convolutions import Convolved, Geometry
from influx.engines.factors import Dense, OneHot, Product
from influx.engines.recorder import Function, Handler, Recorder, unknown
from influx.errors import IncompatibleError

Args = Sequence[Any]
Kwargs = Mapping[str, Any]
_signature = cache(inspect.signature)


def _named(names: str, args: Args, kwargs: Kwargs) -> list[Any]:
    """Arguments in the order of ``names``, None for those left out."""
    order = names.split()
    given = [*args, *[None] * (len(order) - len(args))]
    for name, value in kwargs.items():
        if name in order:
            given[order.index(name)] = value
    return given


def _rows(x: Tensor, instances: int) -> Tensor:
    """``(b, L, d)``: positions of an instance are together."""
    return x.reshape(instances, -1, x.shape[-1])


def _linear(recorder: Recorder, func: Function, args: Args, kwargs: Kwargs) -> Tensor:
    x, weight, bias = _named("input weight bias", args, kwargs)
    output: Tensor = func(*args, **kwargs)
    recorder.release((x,))
    return _product(recorder, output, x, weight, bias, inputs_first=False)


def _product(recorder: Recorder, output: Tensor, x: Tensor, weight: Tensor, bias: object, inputs_first: bool) -> Tensor:
    b, inputs = recorder.instances, x.detach()

    def term(g: Tensor) -> Product:
        return Product(Dense(_rows(inputs, b)), Dense(_rows(g, b)), inputs_first)

    if weight.ndim != 2:
        recorder.release((weight, bias))
        return output
    return recorder.note(output, x, term, weight, bias)


def _matmul(recorder: Recorder, func: Function, args: Args, kwargs: Kwargs) -> Any:
    x, weight = _named("input other", args, kwargs)
    if not recorder.is_selected(weight) or recorder.is_selected(x) or weight.ndim != 2 or x.ndim < 2:
        return unknown(recorder, func, args, kwargs)
    return _product(recorder, func(*args, **kwargs), x, weight, None, inputs_first=True)


def _addmm(recorder: Recorder, func: Function, args: Args, kwargs: Kwargs) -> Any:
    bias, x, weight = _named("input mat1 mat2", args, kwargs)
    plain = len(args) == 3 and not kwargs and bias.ndim == 1 and not recorder.is_selected(x)
    if not plain or bias.shape != weight.shape[1:]:
        return unknown(recorder, func, args, kwargs)
    return _product(recorder, func(*args), x, weight, bias, inputs_first=True)


def _bilinear(recorder: Recorder, func: Function, args: Args, kwargs: Kwargs) -> Any:
    """Linear in the products of the two inputs."""
    x, other, weight, bias = _named("input1 input2 weight bias", args, kwargs)
    output: Tensor = func(*args, **kwargs)
    recorder.release((x, other))
    b, left, right = recorder.instances, x.detach(), other.detach()

    def term(g: Tensor) -> Product:
        products = left[..., :, None] * right[..., None, :]
        return Product(Dense(_rows(products.flatten(-2), b)), Dense(_rows(g, b)))

    return recorder.note(output, x, term, weight, bias)


def _embedding(recorder: Recorder, func: Function, args: Args, kwargs: Kwargs) -> Any:
    names = "input weight padding_idx max_norm norm_type scale_grad_by_freq sparse"
    tokens, weight, padding, max_norm, _, by_frequency, _ = _named(names, args, kwargs)
    if max_norm is not None:
        raise IncompatibleError(
            "an embedding with max_norm changes its weight in the forward pass, so that gradients belong to no fixed "
            "model; set max_norm=None"
        )
    if by_frequency:
        return unknown(recorder, func, args, kwargs)
    output: Tensor = func(*args, **kwargs)
    b, size = recorder.instances, len(weight)

    def term(g: Tensor) -> Product:
        rows, index = _rows(g, b), tokens.reshape(b, -1)
        if padding is not None:
            rows = rows.masked_fill((index == padding % size)[:, :, None], 0)
        return Product(OneHot(index, size), Dense(rows), inputs_first=True)

    return recorder.note(output, tokens, term, weight)


def _convolution(dims: int, recorder: Recorder, func: Function, args: Args, kwargs: Kwargs) -> Any:
    names = "input weight bias stride padding dilation groups"
    x, weight, bias, stride, padding, dilation, groups = _named(names, args, kwargs)
    output: Tensor = func(*args, **kwargs)
    recorder.release((x,))
    if x.ndim < dims + 2:
        recorder.release((weight, bias))
        return output
    every, b, inputs = partial(_every, dims), recorder.instances, x.detach()
    kernel, dilation = tuple(weight.shape[2:]), every(dilation, 1)
    if padding == "same":  # torch pads more at the end
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        inputs = F.pad(inputs, [side for t in reversed(total) for side in (t // 2, t - t // 2)])
    geometry = Geometry(
        kernel, every(stride, 1), every(0 if isinstance(padding, str) else padding, 0), dilation, groups or 1
    )

    def term(g: Tensor) -> Convolved:
        return Convolved(geometry, b, inputs, g, lambda: _by_channel(g, b))

    return recorder.note(output, x, term, weight, bias)


def _transposed(dims: int, recorder: Recorder, func: Function, args: Args, kwargs: Kwargs) -> Any:
    """The adjoint of a convolution: its input has the place of that one's output gradient, and the reverse."""
    names = "input weight bias stride padding output_padding groups dilation"
    x, weight, bias, stride, padding, _, groups, dilation = _named(names, args, kwargs)
    output: Tensor = func(*args, **kwargs)
    recorder.release((x,))
    if x.ndim < dims + 2:
        recorder.release((weight, bias))
        return output
    every, b, inputs = partial(_every, dims), recorder.instances, x.detach()
    geometry = Geometry(tuple(weight.shape[2:]), every(stride, 1), every(padding, 0), every(dilation, 1), groups or 1)

    def term(g: Tensor) -> Convolved:
        return Convolved(geometry, b, g, inputs, lambda: _by_channel(g, b))

    recorder.note(output, x, term, weight)
    return recorder.note(output, x, term, None, bias)  # other positions than the weight's


def _every(dims: int, value: Any, default: int) -> tuple[int, ...]:
    if value is None or isinstance(value, int):
        return (default if value is None else value,) * dims
    return tuple(value) * (dims if len(value) == 1 else 1)


def _by_channel(g: Tensor, instances: int) -> Tensor:
    """``(b, c)`` sums of gradients ``(b k, c, ...)``."""
    return g.reshape(instances, -1, g.shape[1], g[0, 0].numel()).sum((1, 3))


def _norm(names: str, recorder: Recorder, func: Function, args: Args, kwargs: Kwargs) -> Any:
    """A norm whose weight and bias act on what it would return without them."""
    given = dict(zip(names.split(), _named(names, args, kwargs), strict=True))
    if given.get("training"):
        raise IncompatibleError(
            "batch normalisation uses the statistics of the batch in eval mode, so that no instance has a gradient of "
            "its own; use running statistics (track_running_stats=True) or another norm"
        )
    weight, bias, x = given.get("weight"), given.get("bias"), given["input"]
    output: Tensor = func(*args, **kwargs)
    recorder.release((x,))
    plain = {k: v for k, v in given.items() if k not in ("weight", "bias", "input") and v is not None}
    inputs, b = x.detach(), recorder.instances
    shape = given.get("normalized_shape")
    shape = torch.Size((shape,) if isinstance(shape, int) else shape) if shape else None

    def term(g: Tensor) -> elementwise.Affine:
        return elementwise.Affine(lambda: func(inputs, **plain), g, b, shape)

    return recorder.note(output, x, term, weight, bias)


def _dropout(recorder: Recorder, func: Function, args: Args, kwargs: Kwargs) -> Any:
    """Refused when it is active: evaluation mode turns every dropout layer off."""
    settings = _signature(func).bind(*args, **kwargs)
    settings.apply_defaults()
    if settings.arguments["training"] and settings.arguments["p"] > 0:
        raise IncompatibleError(
            "dropout is active in eval mode, so that gradients are random; use nn.Dropout or pass "
            "training=self.training"
        )
    return unknown(recorder, func, args, kwargs)


HANDLERS: dict[Function, Handler] = {
    F.linear: _linear,
    F.embedding: _embedding,
    F.layer_norm: partial(_norm, "input normalized_shape weight bias eps"),
    F.rms_norm: partial(_norm, "input normalized_shape weight eps"),
    F.group_norm: partial(_norm, "input num_groups weight bias eps"),
    F.batch_norm: partial(_norm, "input running_mean running_var weight bias training momentum eps"),
    F.instance_norm: partial(_norm, "input running_mean running_var weight bias use_input_stats momentum eps"),
    F.multi_head_attention_forward: partial(attention, _linear),
    torch.conv1d: partial(_convolution, 1),
    torch.conv2d: partial(_convolution, 2),
    torch.conv3d: partial(_convolution, 3),
    torch.conv_transpose1d: partial(_transposed, 1),
    torch.conv_transpose2d: partial(_transposed, 2),
    torch.conv_transpose3d: partial(_transposed, 3),
    torch.addmm: _addmm,
    torch.bilinear: _bilinear,
    **dict.fromkeys((torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__), _matmul),
    **dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d, F.dropout3d), _dropout),
    **dict.fromkeys((F.alpha_dropout, F.feature_alpha_dropout), _dropout),
    **elementwise.HANDLERS,
    **recurrence.handlers(_linear),
}
