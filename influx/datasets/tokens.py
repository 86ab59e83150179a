"""From texts to rows of token ids, by a tokenizer trained on the training texts or one that is given as a file."""

from __future__ import annotations

import importlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influx.datasets.settings import check_flag, looked_up
from influx.errors import ConfigError, DataError
from influx.vocabulary import PADDING, as_bytes, bounded

KINDS = ("word", "bpe")
MARKS = ("[PAD]", "[UNK]", "[CLS]")  # ids 0, 1 and 2 of a tokenizer that is trained here
PADS = ("[PAD]", "<pad>", "<|pad|>")  # as others call it
FILE = "tokenizer.json"
AT_ONCE = 1 << 20  # characters of texts whose encodings are held together
LARGEST = 1 << 21  # ids of a tokenizer that is given; the largest ones that exist have some 260,000


@dataclass(frozen=True, kw_only=True)
class TokenSettings:
    """How texts become tokens; see ``Text`` for the meaning of the fields."""

    tokenizer: str
    vocabulary: int
    length: int
    lowercase: bool

    def __post_init__(self) -> None:
        """Check the settings."""
        check_flag("dataset.lowercase", self.lowercase)
        for name, least in (("vocabulary", len(MARKS) + 1), ("length", 2)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(
                    f"dataset.{name} must be a whole number of at least {least}, got {value!r}; correct dataset.{name}"
                )
        if not isinstance(self.tokenizer, str) or not self.tokenizer:
            raise ConfigError(
                f"dataset.tokenizer must be word, bpe or a {FILE}, got {self.tokenizer!r}; set dataset.tokenizer=word"
            )


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Texts as tokens: ``train`` and ``test`` (n, length) int64 and, for people, texts with their tokens bounded."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]
    display: dict[str, NDArray[np.bytes_]]
    vocabulary: tuple[str, ...]
    tokenizer: str
    notes: tuple[str, ...]


def tokenized(train: Sequence[str], test: Sequence[str], settings: TokenSettings) -> Tokens:
    """Tokens of both splits; nothing of the test texts goes into the tokenizer.

    Raises:
        ConfigError: the library is not installed, or ``length`` leaves no room for words.
        DataError: a tokenizer's file is missing or damaged, or it cannot encode the texts.
    """
    given = settings.tokenizer not in KINDS
    tokenizer = _opened(settings.tokenizer) if given else _trained(train, settings)
    tokenizer.no_padding()
    marks = tokenizer.num_special_tokens_to_add(False)
    if marks >= settings.length:
        raise ConfigError(
            f"dataset.length must be above the {marks} marks that the tokenizer adds to each text, got "
            f"{settings.length}; raise dataset.length"
        )
    tokenizer.enable_truncation(settings.length)
    tokenizer.encode_special_tokens = True  # who writes [PAD] in a text means these characters
    new, vocabulary = _renumbered(tokenizer)
    rows, shown, cut = {}, {}, {}
    for part, texts in (("train", train), ("test", test)):
        rows[part], shown[part], cut[part] = _encoded(tokenizer, texts, new, settings.length)
    how = f"from {FILE}" if given else f"trained on the training texts ({settings.tokenizer})"
    notes = [f"Tokenizer {how}: {len(vocabulary):,} tokens; at most {settings.length} per text."]
    if any(cut.values()):
        notes.append(f"{cut['train']} training and {cut['test']} test texts were longer and were cut.")
    return Tokens(
        train=rows["train"],
        test=rows["test"],
        display=shown,
        vocabulary=vocabulary,
        tokenizer=tokenizer.to_str(),
        notes=tuple(notes),
    )


def _library() -> ModuleType:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # threads of its own would warn of every later fork
    try:
        return importlib.import_module("tokenizers")
    except ImportError as error:
        raise ConfigError(
            "texts need the tokenizers library, which is not installed; pip install 'influx[text]'"
        ) from error


def _trained(texts: Iterable[str], settings: TokenSettings) -> Any:
    """Words and marks of punctuation, or pieces of them; ids by frequency, then alphabet."""
    library = _library()
    parts = library.normalizers, library.pre_tokenizers, library.processors, library.models, library.trainers
    normalizers, pre_tokenizers, processors, models, trainers = parts
    common = {"vocab_size": settings.vocabulary, "special_tokens": list(MARKS), "show_progress": False}
    if settings.tokenizer == "word":
        tokenizer = library.Tokenizer(models.WordLevel(unk_token=MARKS[1]))
        trainer = trainers.WordLevelTrainer(**common)
    else:
        tokenizer = library.Tokenizer(models.BPE(unk_token=MARKS[1]))
        trainer = trainers.BpeTrainer(**common)  # a mark of continued words would be numbered at random
    steps = [normalizers.NFC(), normalizers.Replace(library.Regex(r"\s+"), " "), normalizers.Strip()]
    steps += [normalizers.Lowercase()] if settings.lowercase else []
    tokenizer.normalizer = normalizers.Sequence(steps)
    if settings.tokenizer == "word":
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    else:  # "▁" begins a word
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() > settings.vocabulary:  # more characters than that: the most frequent ones
        kept = _alphabet(texts, tokenizer.normalizer, settings.vocabulary - len(MARKS))
        trainer = trainers.BpeTrainer(**common, initial_alphabet=kept, limit_alphabet=len(kept))
        tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{MARKS[2]} $A", special_tokens=[(MARKS[2], 2)])
    return tokenizer


def _alphabet(texts: Iterable[str], normalizer: Any, size: int) -> list[str]:
    """The most frequent characters, ties by their code; the library's own limit breaks ties at random."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update("▁" + normalizer.normalize_str(text).replace(" ", "▁"))
    return sorted(counts, key=lambda character: (-counts[character], character))[:size]


def _opened(path: str) -> Any:
    library, file = _library(), looked_up(path, "tokenizer", "dataset.tokenizer")
    file = file / FILE if file.is_dir() else file
    if not file.is_file():
        raise DataError(
            f"dataset.tokenizer must be word, bpe or a {FILE}, and there is no file {file}; set dataset.tokenizer=word"
        )
    try:
        found = library.Tokenizer.from_file(str(file))
    except Exception as error:  # the library has no class of its own for damage
        reason = " ".join(str(error).split())[:160]
        raise DataError(f"{file} cannot be read as a tokenizer ({reason}); save it again") from error
    largest = max(found.get_vocab(with_added_tokens=True).values(), default=0)
    if largest >= LARGEST:
        raise DataError(f"{file} numbers a token {largest:,}, and ids must be below {LARGEST:,}; number them from 0")
    return found


def _renumbered(tokenizer: Any) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Old id -> new id, so that padding is 0 and the others keep their order; and the tokens by their new ids."""
    known = {index: token for token, index in tokenizer.get_vocab(with_added_tokens=True).items()}
    size = max(known, default=-1) + 1
    padding = next((p for p in map(tokenizer.token_to_id, PADS) if p is not None), None)
    others = [i for i in range(size) if i != padding]
    new = np.zeros(size, np.int64)
    new[others] = np.arange(1, len(others) + 1)
    first = MARKS[0] if padding is None else known[padding]
    return new, (first, *(known.get(i, f"[unused{i}]") for i in others))


def _encoded(
    tokenizer: Any, texts: Sequence[str], new: NDArray[np.int64], length: int
) -> tuple[NDArray[np.int64], NDArray[np.bytes_], int]:
    """Rows of tokens, texts for people, and how many texts were cut."""
    rows, shown, cut = np.full((len(texts), length), PADDING, np.int64), [], 0
    for start, stop in _batches(texts):
        some = texts[start:stop]
        try:
            encoded = tokenizer.encode_batch(some)
        except Exception as error:  # the library has no class of its own
            reason = " ".join(str(error).split())[:160]
            raise DataError(
                f"the tokenizer of dataset.tokenizer cannot encode the texts ({reason}); give it a token for what it "
                "does not know, or set dataset.tokenizer=word"
            ) from error
        for place, (text, found) in enumerate(zip(some, encoded, strict=True), start):
            rows[place, : len(found.ids)] = new[found.ids]
            if (rows[place, : len(found.ids)] == PADDING).any():
                raise DataError(
                    f"the tokenizer of dataset.tokenizer makes padding of a word of a text ({text[:60]!r}); "
                    "remove it from the text, or set dataset.tokenizer=word"
                )
            marks = found.special_tokens_mask
            spans = [(0, 0) if mark else span for mark, span in zip(marks, found.offsets, strict=True)]
            spans = [(_begun(text, *span), span[1]) for span in spans]
            longer = bool(found.overflowing)
            cut += longer
            shown.append(bounded(text, spans, longer))
    return rows, as_bytes(shown), cut


def _batches(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """First and last + 1 of neighbours with ``AT_ONCE`` characters together; or a single longer text."""
    start, total = 0, 0
    for i, text in enumerate(texts):
        total += len(text)
        if total > AT_ONCE and i > start:
            yield start, i
            start, total = i, len(text)
    if texts:
        yield start, len(texts)


def _begun(text: str, start: int, stop: int) -> int:
    """Where a token begins without the space that belongs to some."""
    return stop - len(text[start:stop].lstrip())
