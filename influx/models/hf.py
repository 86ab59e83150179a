"""Models of the transformers library by folder or name, from safetensors or from their configuration alone."""

from __future__ import annotations

import copy
import importlib
import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from influx.errors import ConfigError, DataError, IncompatibleError
from influx.models.inputs import text_size
from influx.models.settings import check_choice, check_flag
from influx.models.text_decoder import LOGITS, next_token_risk
from influx.problem import Data, TaskName
from influx.vocabulary import PADDING, special_tokens

OBJECTIVES = ("classification", "language")
TOKENIZER = "tokenizer.json"
INSTALL = "models of the transformers library need it, and it is not installed; pip install 'influx[text]'"


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
        at_once = max(LOGITS // (len(self.ids) * x.shape[1]), 1) if self.language else len(x)
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
    off: a risk is a function of the parameters alone. All parameters are trained.
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
        source = Source(str(self._name()), self.objective == "language", self.pretrained, self.download, data.n_outputs)
        inner, folder = source.new()
        ids = _ids(data.vocabulary, vocabulary, folder, inner.config.vocab_size, source.name)
        most = getattr(inner.config, "max_position_embeddings", None)
        if isinstance(most, int) and length > most:
            raise IncompatibleError(
                f"model.name={source.name} reads {most} tokens, the texts have {length}; set dataset.length={most}"
            )
        if inner.config.pad_token_id is None:
            inner.config.pad_token_id = int(ids[PADDING])
        return OwnTokens(inner, ids, source.language, counts_from_0(source))

    def _name(self) -> str:
        if not self.name or not str(self.name).strip():
            raise ConfigError("no model was named; set model.name to a folder or to a name on the Hugging Face hub")
        return str(Path(self.name).expanduser()) if Path(self.name).expanduser().is_dir() else str(self.name)


@dataclass(frozen=True)
class Source:
    """One model as files."""

    name: str
    language: bool
    pretrained: bool
    download: bool
    outputs: int

    def new(self) -> tuple[Any, Path]:
        """A copy of the model with new parameters where the files have none, and the folder of its files."""
        found, folder = _configured(self)
        config = copy.deepcopy(found)
        if not self.pretrained:
            with _failing_as(self):
                return self.kind.from_config(config, attn_implementation="eager", trust_remote_code=False), folder
        read, missing = _read(self)
        made = copy.deepcopy(read)
        for name, parameter in made.named_parameters():
            if name in missing:
                _initialise(parameter, getattr(config, "initializer_range", 0.02))
        return made, folder

    @property
    def kind(self) -> Any:
        """The library's class that finds the model's own."""
        library = _library()
        return library.AutoModelForCausalLM if self.language else library.AutoModelForSequenceClassification


def _library() -> ModuleType:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise ConfigError(INSTALL) from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


class _failing_as:
    """Turns whatever the library raises about a model's files into one sentence."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Say what to do."""
        if error is None or not isinstance(error, Exception):
            return
        source, reason = self.source, " ".join(str(error).split())[:200]
        here = Path(source.name).is_dir()
        if not here and not source.download:
            raise ConfigError(
                f"model.name={source.name} is no folder and no model that was downloaded before, and model.download is "
                "false; set model.download=true to fetch it, or name a folder"
            ) from error
        raise DataError(
            f"the model {source.name} cannot be read ({reason}); it needs a config.json of a known kind"
            + (" and model.safetensors" if source.pretrained else "")
        ) from error


@lru_cache(maxsize=2)
def _configured(source: Source) -> tuple[Any, Path]:
    """The configuration without dropout and with the outputs that are wanted, and the folder of the files."""
    library = _library()
    options = {"local_files_only": not source.download, "trust_remote_code": False}
    with _failing_as(source):
        config = library.AutoConfig.from_pretrained(source.name, **options)
        cached = library.utils.cached_file
        folder = Path(cached(source.name, "config.json", local_files_only=not source.download)).parent
        if source.download:
            cached(source.name, TOKENIZER, _raise_exceptions_for_missing_entries=False)
    config.use_cache = False
    if not source.language:
        config.num_labels = source.outputs
    for name, value in config.to_dict().items():
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)
    return config, folder


@lru_cache(maxsize=2)
def _read(source: Source) -> tuple[Any, frozenset[str]]:
    """The model with what the files have, in float32, and the names of parameters that they do not have."""
    config, _ = _configured(source)
    options: Mapping[str, Any] = {
        "config": config,
        "local_files_only": not source.download,
        "trust_remote_code": False,
        "use_safetensors": True,
        "attn_implementation": "eager",
        "dtype": torch.float32,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # a head for other classes
    }
    with _failing_as(source), torch.random.fork_rng(devices=[]):  # it draws what is drawn again below
        read, told = source.kind.from_pretrained(source.name, **options)
    lacking = [*told["missing_keys"], *(key[0] for key in told["mismatched_keys"])]
    return read, frozenset(lacking)


@lru_cache(maxsize=2)
@torch.no_grad()
def counts_from_0(source: Source) -> bool:
    """Whether the model takes positions, and would take 0, 1, 2, … by itself; some leave out padding or begin later."""
    with torch.random.fork_rng(devices=[]):
        inner = source.new()[0].eval()
    if "position_ids" not in inspect.signature(inner.forward).parameters:
        return False
    inner.config.pad_token_id = inner.config.pad_token_id or 0
    ids = torch.arange(1, 7).view(2, 3) % inner.config.vocab_size
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    counted = inner(**given, position_ids=torch.arange(3).expand(2, 3)).logits
    return torch.allclose(counted, inner(**given).logits, rtol=1e-4, atol=1e-6)


def _initialise(parameter: nn.Parameter, deviation: float) -> None:
    """As these models do: normal matrices, no bias."""
    with torch.no_grad():
        if parameter.ndim > 1:
            parameter.normal_(std=deviation)
        else:
            parameter.zero_()


def _ids(vocabulary: Sequence[str], size: int, folder: Path, known: int, name: str) -> Tensor:
    """``(size,)`` the model's ids of the dataset's tokens."""
    if not vocabulary or not (folder / TOKENIZER).is_file():
        if size > known:
            raise IncompatibleError(
                f"model.name={name} knows {known} tokens, the dataset has {size}; set dataset.vocabulary={known}, or "
                "dataset.tokenizer to the folder of the model"
            )
        return torch.arange(size)
    try:
        tokenizers = importlib.import_module("tokenizers")
    except ImportError as error:
        raise ConfigError(INSTALL) from error
    try:
        of = tokenizers.Tokenizer.from_file(str(folder / TOKENIZER)).get_vocab(with_added_tokens=True)
    except Exception as error:  # the library has no class of its own for damage
        raise DataError(f"{folder / TOKENIZER} cannot be read as a tokenizer ({error}); save it again") from error
    special = set(special_tokens(vocabulary))
    unknown = [token for i, token in enumerate(vocabulary) if token not in of and i not in special]
    if unknown:
        raise IncompatibleError(
            f"model.name={name} does not know {len(unknown):,} of the dataset's {len(vocabulary):,} tokens (such as "
            f"{unknown[0]!r}); set dataset.tokenizer to the folder of the model"
        )
    own = set(of.values())
    spare = next((i for i in range(known - 1, -1, -1) if i not in own), max(own, default=0))
    found = [of.get(token, spare) for token in vocabulary]
    return torch.tensor([min(i, known - 1) for i in found])
