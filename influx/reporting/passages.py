"""Texts of instances, with the tokens that two of them share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influx.reporting import reading
from influx.reporting.text import clean
from influx.vocabulary import PADDING, pieces

PARTS = ("train", "test")


@dataclass(frozen=True)
class Passage:
    """One text in pieces, with the token that each piece is: None between tokens and where a token is no word."""

    pieces: tuple[tuple[str, int | None], ...]

    @property
    def words(self) -> frozenset[int]:
        """Its tokens, without marks of punctuation alone."""
        return frozenset(t for text, t in self.pieces if t is not None and any(map(str.isalnum, text)))

    def marked(self, shared: frozenset[int]) -> Iterator[tuple[str, bool]]:
        """Text and whether it is a token of ``shared``; on one line, without control characters."""
        told = ((clean(text), token is not None and token in shared) for text, token in self.pieces if text)
        for mark, together in groupby(told, key=itemgetter(1)):
            yield "".join(text for text, _ in together), mark


@dataclass(frozen=True)
class Passages:
    """All texts of a problem; arrays by split.

    Attributes:
        texts: (n,) UTF-8 in the form of ``influx.vocabulary``.
        tokens: (n, length).
        special: tokens that are no words.
    """

    texts: Mapping[str, NDArray[Any]]
    tokens: Mapping[str, NDArray[Any]]
    special: frozenset[int]

    def passage(self, axis: str, position: int) -> Passage:
        """The text of an instance; without tokens where they do not belong to it."""
        found, between = pieces(self.texts[axis][position].decode("utf-8", "replace"))
        row = self.tokens[axis][position]
        tokens: list[int | None] = [None if t in self.special else t for t in row[row != PADDING].tolist()]
        if len(tokens) != len(found):
            tokens = [None] * len(found)
        parts: list[tuple[str, int | None]] = []
        for gap, text, token in zip(between, found, tokens, strict=False):
            parts += [(gap, None), (text, token)]
        return Passage((*parts, (between[-1], None)))


def arrays(display: Mapping[str, NDArray[Any]], tokens: Mapping[str, NDArray[Any]], special: Any) -> dict[str, Any]:
    """What ``read`` reads, by name."""
    listed = {f"{part}_tokens": tokens[part] for part in PARTS}
    return {**display, **listed, "special": np.array(special, np.int64)}


def read(path: Path, rows: Mapping[str, int]) -> Passages | None:
    """Texts of a ``display.npz``; None where it holds images.

    Raises:
        DataError: the file is damaged.
    """
    with reading.reading(path), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        if "special" not in archive.files:
            return None
        texts = {part: archive[part] for part in PARTS}
        tokens = {part: archive[f"{part}_tokens"] for part in PARTS}
        special = archive["special"]
    with reading.reading(path):
        for part, count in rows.items():
            shapes = texts[part].shape, tokens[part].shape[:1], tokens[part].ndim
            if shapes != ((count,), (count,), 2) or (texts[part].dtype.kind, tokens[part].dtype.kind) != ("S", "i"):
                raise ValueError(f"expected {count} {part} texts with their tokens")
        if special.ndim != 1 or special.dtype.kind != "i":
            raise ValueError("expected the tokens that are no words")
    return Passages(texts, tokens, frozenset(special.tolist()))
