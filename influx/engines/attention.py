"""Self-attention with packed projections, as calls that the recorder sees and with instances first."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from influx.engines.recorder import Function, Handler, Recorder, unknown
from influx.errors import IncompatibleError

SIGNATURE = inspect.signature(F.multi_head_attention_forward)
ABSENT = ("bias_k", "bias_v", "static_k", "static_v")


def attention(
    linear: Handler, recorder: Recorder, func: Function, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """``F.multi_head_attention_forward`` of queries (L, b, d) that are also keys and values; others are no use."""
    bound = SIGNATURE.bind(*args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments
    x = given["query"]
    if given["training"] and given["dropout_p"] > 0:
        raise IncompatibleError(
            "dropout is active in eval mode, so that gradients are random; pass training=self.training"
        )
    same = x is given["key"] is given["value"] and x.ndim == 3
    odd = given["add_zero_attn"] or given["use_separate_proj_weight"] or any(given[k] is not None for k in ABSENT)
    if not same or odd or (given["is_causal"] and given["attn_mask"] is None):
        return unknown(recorder, func, args, kwargs)
    length, b, width = x.shape
    heads = given["num_heads"]
    packed = linear(recorder, F.linear, (x.transpose(0, 1), given["in_proj_weight"], given["in_proj_bias"]), {})
    q, k, v = packed.view(b, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)  # (b, heads, L, d)
    mask = _mask(given, q)
    if given["need_weights"]:
        weights = (q * math.sqrt(heads / width)) @ k.transpose(2, 3)
        weights = F.softmax(weights if mask is None else weights + mask, -1)
        mixed = weights @ v
        weights = weights.mean(1) if given["average_attn_weights"] else weights
    else:
        mixed, weights = F.scaled_dot_product_attention(q, k, v, mask), None
    mixed = mixed.transpose(1, 2).reshape(b, length, width)
    output = linear(recorder, F.linear, (mixed, given["out_proj_weight"], given["out_proj_bias"]), {})
    return output.transpose(0, 1), weights


def _mask(given: Mapping[str, Any], q: Tensor) -> Tensor | None:
    """What is added to the scores ``(b, heads, L, L)``, of a broadcastable shape."""
    b, heads, length, _ = q.shape
    mask, padding = (_additive(given[name], q) for name in ("attn_mask", "key_padding_mask"))
    if mask is not None and mask.ndim == 3:
        mask = mask.view(b, heads, length, length)
    if padding is None:
        return mask
    padding = padding.view(b, 1, 1, length)
    return padding if mask is None else mask + padding


def _additive(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """Minus infinity where a mask of booleans is true."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, -math.inf)
