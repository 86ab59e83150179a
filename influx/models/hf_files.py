"""The files of a model of the transformers library: where they are, what they hold, and the model that they make."""

from __future__ import annotations

import copy
import hashlib
import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from influx.errors import ConfigError, DataError

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
WEIGHTS = (".safetensors", ".safetensors.index.json")
INSTALL = "models of the transformers library need it, and it is not installed; pip install 'influx[text]'"


@dataclass(frozen=True)
class Source:
    """One model as files. Other files under the same name are another source: their ``digest`` differs."""

    name: str
    folder: Path
    digest: str
    language: bool
    pretrained: bool
    download: bool
    outputs: int

    def new(self) -> Any:
        """A copy of the model; parameters that the files do not have are new, as in a model of the configuration."""
        config = copy.deepcopy(_configured(self))
        if not self.pretrained:
            return self._fresh(config)
        read, missing, _ = _read(self)
        made = copy.deepcopy(read)
        if missing:
            fresh = dict(self._fresh(config).named_parameters())
            with torch.no_grad():
                for name in missing:
                    made.get_parameter(name).copy_(fresh[name])
        return made

    def unused(self) -> tuple[str, ...]:
        """Names of weights in the files that the model has no place for, those of a head apart."""
        return _read(self)[2] if self.pretrained else ()

    def _fresh(self, config: Any) -> Any:
        with failing(self.name, self.download, self.pretrained):
            return self.kind.from_config(
                config, attn_implementation="eager", dtype=torch.float32, trust_remote_code=False
            )

    @property
    def kind(self) -> Any:
        """The library's class that finds the model's own."""
        found = library()
        return found.AutoModelForCausalLM if self.language else found.AutoModelForSequenceClassification

    @property
    def options(self) -> Mapping[str, Any]:
        """Of every reading: no code, no network unless it is allowed, and of a hub's model always the same commit."""
        here = {} if is_folder(self.name) else {"revision": self.folder.name}
        return here | {"local_files_only": not self.download, "trust_remote_code": False}


def library() -> ModuleType:
    """The transformers library, quiet.

    Raises:
        ConfigError: it is not installed.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise ConfigError(INSTALL) from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def is_folder(name: str) -> bool:
    """Whether a model's name is a folder.

    Raises:
        ConfigError: the file system refuses to look it up.
    """
    try:
        return Path(name).expanduser().is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # too long, not permitted, the home of nobody
        reason = getattr(error, "strerror", None) or str(error)
        shown = name if len(name) <= 80 else f"{name[:80]}…"
        raise ConfigError(f"model.name={shown} cannot be looked up ({reason}); set model.name to a folder") from error


@contextmanager
def failing(name: str, download: bool, weights: bool) -> Iterator[None]:
    """Turns whatever the library raises about a model's files into one sentence."""
    try:
        yield
    except ConfigError:  # the library is not here
        raise
    except Exception as error:
        if not is_folder(name) and not download:
            raise ConfigError(
                f"model.name={name} is no folder and no model that was downloaded before, and model.download is "
                "false; set model.download=true to fetch it, or name a folder"
            ) from error
        reason, needed = " ".join(str(error).split())[:200], " and model.safetensors" if weights else ""
        raise DataError(
            f"the model {name} cannot be read ({reason}); it needs a config.json of a known kind{needed}"
        ) from error


def located(name: str, download: bool) -> Path:
    """The folder of the files: the one that is named, or that of a commit among what was downloaded."""
    return Path(name) if is_folder(name) else _fetched(name, download)


@lru_cache(maxsize=8)
def _fetched(name: str, download: bool) -> Path:
    cached = library().utils.cached_file
    with failing(name, download, False):
        folder = Path(cached(name, CONFIG, local_files_only=not download)).parent
        if download:
            cached(name, TOKENIZER, revision=folder.name, _raise_exceptions_for_missing_entries=False)
    return folder


def digest(name: str, folder: Path, weights: bool) -> str:
    """Hash of the configuration, the tokenizer and the ``weights``; a commit of the hub stands for its weights."""
    here = is_folder(name)
    whole = hashlib.sha256(b"" if here else folder.name.encode())
    endings = WEIGHTS if here and weights else ()
    with failing(name, True, weights):
        for path in sorted(folder.iterdir()):
            if path.name in (CONFIG, TOKENIZER) or path.name.endswith(endings):
                found = path.stat()
                stamp = found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino
                whole.update(f"{path.name}={_hash(path, stamp)}\n".encode())
    return whole.hexdigest()[:32]


@lru_cache(maxsize=64)
def _hash(path: Path, stamp: tuple[int, ...]) -> str:
    """Of a file's contents, read once as long as its ``stamp`` is the same."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=2)
def _configured(source: Source) -> Any:
    """The configuration without dropout and with the outputs that are wanted."""
    with failing(source.name, source.download, source.pretrained):
        config = library().AutoConfig.from_pretrained(source.name, **source.options)
    config.use_cache = False
    if not source.language:
        config.num_labels = source.outputs
    for name, value in config.to_dict().items():
        if "drop" in name and isinstance(value, int | float) and not isinstance(value, bool):
            setattr(config, name, 0.0)
    return config


@lru_cache(maxsize=2)
def _read(source: Source) -> tuple[Any, tuple[str, ...], tuple[str, ...]]:
    """The model in float32; parameters of its head that the files lack; weights of theirs below the head that it lacks.

    Raises:
        DataError: the files are damaged, or have no weights of this shape for a part that is not the head.
    """
    options = dict(source.options) | {
        "config": copy.deepcopy(_configured(source)),
        "use_safetensors": True,
        "attn_implementation": "eager",
        "dtype": torch.float32,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # a head for other classes
    }
    with failing(source.name, source.download, True), torch.random.fork_rng(devices=[]):
        read, told = source.kind.from_pretrained(source.name, **options)
    unfit = {key[0] for key in told["mismatched_keys"]}
    lacking, inner = unfit | set(told["missing_keys"]), {id(p) for p in read.base_model.parameters()}
    missing = [(name, id(parameter) in inner) for name, parameter in read.named_parameters() if name in lacking]
    # a pooler serves classification alone, and models of masked words have none
    damaged = [name for name, below in missing if below and (name in unfit or ".pooler." not in name)]
    if damaged:
        raise DataError(
            f"the weights of model.name={source.name} do not fit its {CONFIG}: {len(damaged)} parameters below the "
            f"head are missing or of another shape (such as {damaged[0]}); name a folder whose files belong together, "
            "or set model.pretrained=false"
        )
    parts, prefix = {name for name, _ in read.base_model.named_children()}, f"{read.base_model_prefix}."
    unused = [key for key in told["unexpected_keys"] if key.removeprefix(prefix).split(".")[0] in parts]
    return read, tuple(name for name, _ in missing), tuple(sorted(unused))
