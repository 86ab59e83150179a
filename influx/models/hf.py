"""Models of the transformers library by folder or name, from safetensors or from their configuration alone."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from influx.errors import ConfigError, DataError, IncompatibleError
from influx.models.hf_files import CONFIG, INSTALL, TOKENIZER, Source, digest, is_folder, located
from influx.models.inputs import text_size
from influx.models.settings import check_choice, check_flag
from influx.models.text_decoder import LOGITS, next_token_risk
from influx.problem import Data, TaskName
from influx.vocabulary import PADDING, special_tokens

OBJECTIVES = ("classification", "language")


class OwnTokens(nn.Module):
    """A transformers model that reads the dataset's token ids: ``(b, length)`` to logits, or to risks ``(b, 1)``."""

    ids: Tensor

    def __init__(self, inner: nn.Module, ids: Tensor, language: bool, positions: bool) -> None:
        """``ids`` (vocabulary,) are the model's own ids of the dataset's tokens.

        ``positions``: give the model the positions that it would take, once per text and not once per batch. Then it
        looks up those of each text, of which the gradients are known.
        """
        super().__init__()
        self.inner, self.language, self.positions = inner, language, positions
        self.register_buffer("ids", ids, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of classes; or the mean risk of all tokens but the first, as ``CausalDecoder`` has it."""
        at_once = max(LOGITS // (vocabulary_of(self.inner) * x.shape[1]), 1) if self.language else len(x)
        if len(x) > at_once and not torch.is_grad_enabled():
            return torch.cat([self(part) for part in x.split(at_once)])
        given = {"position_ids": torch.arange(x.shape[1], device=x.device).expand(x.shape)} if self.positions else {}
        logits: Tensor = self.inner(input_ids=self.ids[x], attention_mask=(x != PADDING).long(), **given).logits
        if not self.language:
            return logits
        targets = x[:, 1:]
        return next_token_risk(logits[:, :-1], targets, self.ids[targets])


@dataclass(frozen=True, kw_only=True)
class HuggingFace:
    """Any model of the transformers library that classifies sequences or predicts next tokens.

    ``name`` is a folder with ``config.json`` and ``model.safetensors``, or a name on the Hugging Face hub, of which a
    copy must be here unless ``download``. Weights are read from safetensors only, and code of a model's own is never
    run. ``pretrained=false`` takes the configuration alone. ``objective=language`` makes a density model of next
    tokens.

    Tokens are looked up by their text in the model's ``tokenizer.json``, so that the dataset should have them from
    there: ``dataset.tokenizer=<the same folder>``; without that file ids are taken as they are. Dropout is switched
    off: a risk is a function of the parameters alone. All parameters are trained; of pretrained ones the head and a
    pooler alone may be missing, and are new.
    """

    name: str | None = None
    objective: str = "classification"
    pretrained: bool = True
    download: bool = False

    def __post_init__(self) -> None:
        """Check ranges."""
        check_choice("objective", self.objective, OBJECTIVES)
        check_flag("pretrained", self.pretrained)
        check_flag("download", self.download)

    @property
    def task(self) -> TaskName | None:
        """What is learned whatever the dataset is labelled for."""
        return "density" if self.objective == "language" else None

    def build(self, data: Data) -> nn.Module:
        """The model; what is not read from a file is initialised from torch's global generator.

        Raises:
            ConfigError: the library is not installed, no model is named, or it is not here.
            DataError: a file of the model is damaged.
            IncompatibleError: the data are no token ids, or the model does not know them.
        """
        vocabulary, length = text_size(data, "hf")
        source = self._source(data.n_outputs)
        inner = source.new()
        ids = _ids(data, vocabulary, source, vocabulary_of(inner))
        most = getattr(inner.config, "max_position_embeddings", None)
        if isinstance(most, int) and length > most:
            raise IncompatibleError(
                f"model.name={source.name} reads {most} tokens, the texts have {length}; set dataset.length={most}"
            )
        for config in (inner.config, inner.config.get_text_config()):  # some look for the last token that is none
            config.pad_token_id = int(ids[PADDING])
        return OwnTokens(inner, ids, source.language, counts_from_0(source))

    @property
    def identity(self) -> Mapping[str, str]:
        """What the files hold, whatever they are called."""
        return {"model": self._source(1).digest} if self.name else {}

    def doubts(self, data: Data) -> tuple[str, ...]:
        """That the files have more than the model takes: a configuration with too few layers drops the others."""
        source = self._source(data.n_outputs)
        unused = source.unused()
        if not unused:
            return ()
        return (
            f"model.name={source.name} has {len(unused)} weights below the head that its {CONFIG} has no place for "
            f"(such as {unused[0]}): they are left out; correct {CONFIG} if the model should have them",
        )

    def _source(self, outputs: int) -> Source:
        name = "" if self.name is None else str(self.name)
        if not name.strip():
            raise ConfigError("no model was named; set model.name to a folder or to a name on the Hugging Face hub")
        name = str(Path(name).expanduser()) if is_folder(name) else name
        folder = located(name, self.download)
        return Source(
            name=name,
            folder=folder,
            digest=digest(name, folder, self.pretrained),
            language=self.objective == "language",
            pretrained=self.pretrained,
            download=self.download,
            outputs=outputs,
        )


def vocabulary_of(inner: Any) -> int:
    """How many tokens a model knows.

    Raises:
        IncompatibleError: it reads something else.
    """
    known = getattr(inner.config.get_text_config(), "vocab_size", None)
    if not isinstance(known, int):
        raise IncompatibleError("the model of model.name has no vocabulary; name a model of tokens")
    return known


@lru_cache(maxsize=2)
@torch.no_grad()
def counts_from_0(source: Source) -> bool:
    """Whether the model takes positions, and would take 0, 1, 2, … by itself; some leave out padding or begin later."""
    with torch.random.fork_rng(devices=[]):
        inner = source.new().eval()
    if "position_ids" not in inspect.signature(inner.forward).parameters:
        return False
    inner.config.pad_token_id = inner.config.pad_token_id or 0
    ids = torch.arange(1, 7).view(2, 3) % vocabulary_of(inner)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    counted = inner(**given, position_ids=torch.arange(3).expand(2, 3)).logits
    return torch.allclose(counted, inner(**given).logits, rtol=1e-4, atol=1e-6)


def _ids(data: Data, size: int, source: Source, known: int) -> Tensor:
    """``(size,)`` the model's ids of the dataset's tokens: different ones of all that occur in a text.

    Padding, which no model reads, is the last id that is no token, or the last token.
    """
    vocabulary, file, name = data.vocabulary, source.folder / TOKENIZER, source.name
    if not vocabulary or not file.is_file():
        if size > known:
            raise IncompatibleError(
                f"model.name={name} knows {known} tokens, the dataset has {size}; set dataset.vocabulary={known}, or "
                "dataset.tokenizer to the folder of the model"
            )
        return torch.arange(size)
    of = _tokens(file)
    numbers = set(of.values())
    spare = [i for i in range(known) if i not in numbers]
    padding = of.get(vocabulary[PADDING], known)
    found = [padding if padding < known else spare.pop() if spare else known - 1]
    special = set(special_tokens(vocabulary, data.tokenizer))
    occurs = np.zeros(size, bool)
    for split in () if data.described else (data.train, data.test):
        occurs[split.x] = True
    for i, token in enumerate(vocabulary[1:], start=1):
        number = of.get(token, known)
        if token not in of and i in special and spare:
            number = spare.pop()
        if number >= known and occurs[i]:
            reason = "does not know" if token not in of else f"has no parameters, of {known:,} tokens, for"
            raise IncompatibleError(
                f"model.name={name} {reason} the dataset's token {token!r}; set dataset.tokenizer to the folder of the "
                "model, whose files must belong together"
            )
        found.append(number if number < known else found[0])
    return torch.tensor(found)


def _tokens(file: Path) -> dict[str, int]:
    """The ids of a ``tokenizer.json``."""
    try:
        tokenizers = importlib.import_module("tokenizers")
    except ImportError as error:
        raise ConfigError(INSTALL) from error
    try:
        of: dict[str, int] = tokenizers.Tokenizer.from_file(str(file)).get_vocab(with_added_tokens=True)
    except Exception as error:  # the library has no class of its own for damage
        raise DataError(f"{file} cannot be read as a tokenizer ({error}); save it again") from error
    return of
