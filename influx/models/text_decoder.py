"""A small transformer that predicts each token of a text from those before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from influx.errors import IncompatibleError
from influx.models.inputs import text_size
from influx.models.layers import unrounded
from influx.models.settings import check_flag
from influx.models.transformer import Masks, Sizes, Transformer, check_sizes
from influx.problem import Data, TaskName
from influx.vocabulary import PADDING

LOGITS = 1 << 24  # that are held at once where no gradient is wanted


def next_token_risk(logits: Tensor, targets: Tensor, ids: Tensor | None = None) -> Tensor:
    """``(b, 1)`` mean over the tokens of each text of -log p(token), in nats; padding is no token.

    ``logits`` (b, length, vocabulary) predict ``targets`` (b, length), which are ``ids`` among the logits.
    """
    logits, own = unrounded(logits), (targets if ids is None else ids).unsqueeze(-1)
    risks = torch.logsumexp(logits, -1) - logits.gather(-1, own).squeeze(-1)
    words = (targets != PADDING).to(risks)
    return ((risks * words).sum(1) / words.sum(1).clamp_min(1)).unsqueeze(1)


class CausalDecoder(nn.Module):
    """A transformer in which a token sees itself and those before it; the output is a text's risk ``(b, 1)``."""

    def __init__(self, sizes: Sizes, tied: bool, vocabulary: int, length: int) -> None:
        super().__init__()
        self.transformer = Transformer(sizes, vocabulary, length - 1)
        self.head = None if tied else nn.Linear(sizes.width, vocabulary)
        self.at_once = max(LOGITS // (vocabulary * (length - 1)), 1)

    def forward(self, x: Tensor) -> Tensor:
        """The mean risk of all tokens but the first, which nothing comes before."""
        if len(x) > self.at_once and not torch.is_grad_enabled():
            return torch.cat([self(part) for part in x.split(self.at_once)])
        return next_token_risk(self.logits(x), x[:, 1:])

    def logits(self, x: Tensor) -> Tensor:
        """``(b, length) -> (b, length - 1, vocabulary)`` of each next token."""
        known = x[:, :-1]
        found = self.transformer(known, Masks.causal(known.shape[1], known))
        if self.head is None:
            return F.linear(found, self.transformer.embedding.weight)
        output: Tensor = self.head(found)
        return output


@dataclass(frozen=True, kw_only=True)
class TextDecoder:
    """A causal transformer language model: token ids ``(b, length)`` to the risk of each text ``(b, 1)``.

    The risk is the mean over a text's tokens of -log p(token | those before), in nats; labels are not learned from.
    ``tied``: the tokens' embedding is the last layer too. No dropout: a risk is a function of the parameters alone.
    """

    task: ClassVar[TaskName] = "density"
    log_density: ClassVar[str] = "mean over tokens"  # minus the risk

    width: int = 32
    depth: int = 1
    heads: int = 2
    hidden: int = 64
    activation: str = "gelu"
    tied: bool = False

    def __post_init__(self) -> None:
        """Check ranges."""
        check_sizes(self)
        check_flag("tied", self.tied)

    def build(self, data: Data) -> nn.Module:
        """The untrained network, initialised from torch's global generator.

        Raises:
            IncompatibleError: the data are no token ids, or of one token.
        """
        vocabulary, length = text_size(data, "text_decoder")
        if length < 2:
            raise IncompatibleError(
                "model=text_decoder predicts tokens after the first; set dataset.length to 2 or more"
            )
        return CausalDecoder(self, self.tied, vocabulary, length)
