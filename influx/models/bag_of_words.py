"""The mean of a text's word vectors and a linear head: no order, no attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from influx.models.inputs import text_size
from influx.models.settings import check_count
from influx.problem import Data
from influx.vocabulary import PADDING


def mean_of_words(found: Tensor, x: Tensor) -> Tensor:
    """``(b, width)`` means of tokens' representations ``found`` (b, length, width); padding in ``x`` is left out."""
    words = (x != PADDING).to(found)
    weights = words / words.sum(1, keepdim=True).clamp_min(1)
    return torch.einsum("bld,bl->bd", found, weights)


class MeanOfWords(nn.Module):
    """``(b, length) -> (b, k)``: logits that are a mean over the tokens of a text, each by itself."""

    def __init__(self, width: int, vocabulary: int, outputs: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.head = nn.Linear(width, outputs)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)  # a token's vector has length 1 about

    def forward(self, x: Tensor) -> Tensor:
        """Logits, or the predicted value."""
        output: Tensor = self.head(mean_of_words(self.embedding(x), x))
        return output


@dataclass(frozen=True, kw_only=True)
class BagOfWords:
    """Word vectors, their mean and a linear head: token ids ``(b, length) -> (b, n_outputs)``.

    fastText's classifier (Joulin et al. 2016, arXiv:1607.01759) without n-grams. Its logits are a polynomial of the
    parameters, so that a training of it is smooth, and what leaving a text out does can be known (docs/text.md).
    """

    width: int = 32

    def __post_init__(self) -> None:
        """Check ranges."""
        check_count("width", self.width)

    def build(self, data: Data) -> nn.Module:
        """The untrained network, initialised from torch's global generator.

        Raises:
            IncompatibleError: the data are no token ids.
        """
        vocabulary, _ = text_size(data, "bag_of_words")
        return MeanOfWords(self.width, vocabulary, data.n_outputs)
