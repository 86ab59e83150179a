"""Tokens and texts: which tokens are no words, and texts that show where their tokens are.

A text of ``Data.display`` is UTF-8 with ``BOUNDARY`` before and after every token: what lies between two tokens, a
token, what lies between, and so on. The j-th token of an instance is the j-th that is not padding; a token that stands
for no text, such as a beginning, is empty there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

PADDING = 0
BOUNDARY = "\x1f"  # ASCII's unit separator, which no text has: ``bounded`` takes it out
LONGEST = 48  # characters of a token that are kept for people
MARKED = re.compile(r"\[[A-Z0-9_]+\]|</?[A-Za-z_]+>|<\|[a-z_]+\|>")  # how tokenizers write what is no word
UNKNOWN = ("[UNK]", "<UNK>", "<|UNK|>")  # in capitals


def special_tokens(vocabulary: Sequence[str], tokenizer: str = "") -> tuple[int, ...]:
    """Padding, beginnings, ends and unknown words.

    They are what ``tokenizer`` (``Data.tokenizer``) lists as special; without one, or where its list has none of them,
    what is written as ``[CLS]``, ``<s>`` or ``<|end|>``.
    """
    listed = _listed(tokenizer) & set(vocabulary)
    special = (i for i, token in enumerate(vocabulary) if (token in listed if listed else MARKED.fullmatch(token)))
    return tuple(sorted({PADDING, *special}))


def ends(vocabulary: Sequence[str], tokenizer: str = "") -> tuple[int, ...]:
    """Special tokens that stand for no word of a text: all but unknown words."""
    special = special_tokens(vocabulary, tokenizer)
    return tuple(i for i in special if i == PADDING or vocabulary[i].upper() not in UNKNOWN)


@lru_cache(maxsize=4)
def _listed(tokenizer: str) -> frozenset[str]:
    """What a tokenizer of the tokenizers library, as JSON, calls special."""
    try:
        found = json.loads(tokenizer) if tokenizer else {}
        listed = {token["content"] for token in found.get("added_tokens") or () if token.get("special")}
        unknown = found.get("model", {}).get("unk_token") if listed else None
        return frozenset(listed | ({unknown} if isinstance(unknown, str) else set()))
    except (ValueError, KeyError, TypeError, AttributeError):  # not of this library
        return frozenset()


def bounded(text: str, spans: Sequence[tuple[int, int]], cut: bool = False) -> str:
    """A text for people: tokens at ``spans`` (start, stop) between boundaries, white space as single spaces.

    Tokens longer than ``LONGEST`` are shortened; what follows the last token is left out, with three dots if ``cut``.
    Of tokens that are parts of one character, or stand for the space before one, the last shows it.
    """
    parts, end = [], 0
    for (start, stop), (following, last) in zip(spans, [*spans[1:], (0, 0)], strict=True):
        stop = following if last and start <= following < stop else stop
        token = text[start:stop]
        parts += [_plain(text[end:start]), _plain(token if len(token) <= LONGEST else token[: LONGEST - 1] + "…")]
        end = max(stop, end)
    return BOUNDARY.join([*parts, " …" if cut else ""])


def _plain(text: str) -> str:
    return re.sub(r"[\s\x00-\x1f]+", " ", text)


def pieces(text: str) -> tuple[list[str], list[str]]:
    """The tokens of such a text, and what lies before each of them and after the last."""
    parts = text.split(BOUNDARY)
    return parts[1::2], parts[0::2]


def spelled(tokens: NDArray[np.int64], vocabulary: Sequence[str], tokenizer: str = "") -> NDArray[np.bytes_]:
    """Such texts of instances (n, length) whose own text is not known: their tokens with spaces between."""
    special = set(ends(vocabulary, tokenizer))
    texts = []
    for row in tokens:
        words = [str(t) if t >= len(vocabulary) else vocabulary[t] for t in row.tolist() if t != PADDING]
        marks = [t in special for t in row.tolist() if t != PADDING]
        shown = ["" if mark else word for word, mark in zip(words, marks, strict=True)]
        text, spans, at = " ".join(shown), [], 0
        for word in shown:
            spans.append((at, at + len(word)))
            at += len(word) + 1
        texts.append(bounded(text, spans))
    return as_bytes(texts)


def as_bytes(texts: Sequence[str]) -> NDArray[np.bytes_]:
    """``(n,)`` UTF-8: a quarter of the memory of numpy's own texts, and saved without pickling."""
    return np.array([text.encode("utf-8", "replace") for text in texts], dtype=np.bytes_)
