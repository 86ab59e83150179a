"""Small transformers over token ids, in operations that every derivative and ``torch.func`` knows.

Attention is written out: fused kernels have no second derivatives and no batching over models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from influx.errors import ConfigError
from influx.models.layers import ACTIVATIONS, activation
from influx.models.settings import check_choice, check_count
from influx.vocabulary import PADDING


class Sizes(Protocol):
    """Settings that encoder and decoder share."""

    @property
    def width(self) -> int:
        """Of a token's representation."""
        ...

    @property
    def depth(self) -> int:
        """Blocks."""
        ...

    @property
    def heads(self) -> int:
        """Of attention; they divide ``width``."""
        ...

    @property
    def hidden(self) -> int:
        """Width of the hidden layer in a block."""
        ...

    @property
    def activation(self) -> str:
        """After that layer."""
        ...


def check_sizes(model: Sizes) -> None:
    """Check ranges (``ConfigError``)."""
    for name in ("width", "depth", "heads", "hidden"):
        check_count(name, getattr(model, name))
    check_choice("activation", model.activation, ACTIVATIONS)
    if model.width % model.heads:
        raise ConfigError(
            f"model.width must be a multiple of model.heads={model.heads}, got {model.width}; set for example "
            f"model.width={model.heads * max(model.width // model.heads, 1)}"
        )


@dataclass(frozen=True)
class Masks:
    """Which token may attend to which: ``hidden`` (b or 1, 1, length, length) is true where it may not."""

    hidden: Tensor

    @classmethod
    def of_padding(cls, x: Tensor) -> Masks:
        """All but padding."""
        return cls((x == PADDING)[:, None, None, :])

    @classmethod
    def causal(cls, length: int, like: Tensor) -> Masks:
        """Itself and those before it."""
        return cls(torch.ones(length, length, dtype=torch.bool, device=like.device).triu(1)[None, None])


class Attention(nn.Module):
    """Self-attention with several heads (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.projections = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, masks: Masks) -> Tensor:
        """``(b, length, width) -> (b, length, width)``."""
        b, length, width = x.shape
        packed = self.projections(x).view(b, length, 3, self.heads, width // self.heads)
        q, k, v = packed.permute(2, 0, 3, 1, 4).unbind(0)  # (b, heads, length, d)
        scores = q @ k.transpose(2, 3) / math.sqrt(width // self.heads)
        # a finite number: a row that is all hidden would be 0/0
        scores = scores.masked_fill(masks.hidden, torch.finfo(scores.dtype).min)
        mixed = torch.softmax(scores, -1) @ v
        output: Tensor = self.output(mixed.transpose(1, 2).reshape(b, length, width))
        return output


class Block(nn.Module):
    """Attention, then a layer per token; both on what is normalised, added to what was (pre-LN, Xiong et al. 2020)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(sizes.width)
        self.attention = Attention(sizes.width, sizes.heads)
        self.before_layer = nn.LayerNorm(sizes.width)
        self.layer = nn.Sequential(
            nn.Linear(sizes.width, sizes.hidden), activation(sizes.activation), nn.Linear(sizes.hidden, sizes.width)
        )

    def forward(self, x: Tensor, masks: Masks) -> Tensor:
        """``(b, length, width) -> (b, length, width)``."""
        x = x + self.attention(self.before_attention(x), masks)
        added: Tensor = self.layer(self.before_layer(x))
        return x + added


class Transformer(nn.Module):
    """Tokens ``(b, length)`` and masks to representations ``(b, length, width)``.

    ``length`` counts the learned positions, the first of which a shorter input uses.
    """

    def __init__(self, sizes: Sizes, vocabulary: int, length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, sizes.width)
        self.positions = nn.Parameter(torch.empty(length, sizes.width))
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.depth))
        self.norm = nn.LayerNorm(sizes.width)
        for table in (self.embedding.weight, self.positions):  # a token's vector has length 1 about
            nn.init.normal_(table, std=sizes.width**-0.5)

    def forward(self, x: Tensor, masks: Masks) -> Tensor:
        """Normalised after the last block."""
        length = x.shape[1]  # a slice of all would hide the parameter from those who look for its uses
        positions = self.positions if length == len(self.positions) else self.positions[:length]
        found: Tensor = self.embedding(x) + positions
        for block in self.blocks:
            found = block(found, masks)
        output: Tensor = self.norm(found)
        return output
