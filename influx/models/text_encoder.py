"""A small transformer that reads a whole text."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from influx.models.bag_of_words import mean_of_words
from influx.models.inputs import text_size
from influx.models.settings import check_choice
from influx.models.transformer import Masks, Sizes, Transformer, check_sizes
from influx.problem import Data

POOLINGS = ("mean", "first")


class PooledEncoder(nn.Module):
    """A transformer over all tokens of a text, their mean or the first, and a linear head: ``(b, length) -> (b, k)``.

    Padding is not attended to and not part of the mean, so a text's output does not depend on how much there is of it.
    """

    def __init__(self, sizes: Sizes, pooling: str, vocabulary: int, length: int, outputs: int) -> None:
        super().__init__()
        self.pooling = pooling
        self.transformer = Transformer(sizes, vocabulary, length)
        self.head = nn.Linear(sizes.width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, or the predicted value."""
        found = self.transformer(x, Masks.of_padding(x))
        output: Tensor = self.head(found[:, 0] if self.pooling == "first" else mean_of_words(found, x))
        return output


@dataclass(frozen=True, kw_only=True)
class TextEncoder:
    """A transformer encoder with learned positions and a linear head: token ids ``(b, length) -> (b, n_outputs)``.

    ``pooling``: mean of a text's tokens, or the first of them, which is the mark of the beginning. No dropout: a risk
    is a function of the parameters alone. The default is small and smooth on purpose (see ``MLP``).
    """

    width: int = 32
    depth: int = 1
    heads: int = 2
    hidden: int = 64
    activation: str = "gelu"
    pooling: str = "mean"

    def __post_init__(self) -> None:
        """Check ranges."""
        check_sizes(self)
        check_choice("pooling", self.pooling, POOLINGS)

    def build(self, data: Data) -> nn.Module:
        """The untrained network, initialised from torch's global generator.

        Raises:
            IncompatibleError: the data are no token ids.
        """
        vocabulary, length = text_size(data, "text_encoder")
        return PooledEncoder(self, self.pooling, vocabulary, length, data.n_outputs)
