"""What single words contribute to influence: the strongest pairs word by word, and the share of special tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from influx.engines.gradients import Gradients, GradientsAt
from influx.engines.token_rows import TokenRows, dots, matches
from influx.engines.words import Words
from influx.problem import Checkpoint, Split

SAMPLED = (256, 1024)  # training and test instances, evenly spaced, by which the share of special tokens is measured
Weighted = Sequence[tuple[Checkpoint, float]]


def word_table(
    gradients: Gradients,
    weighted: Weighted,
    words: Words,
    values: NDArray[np.float64],
    *,
    tests: int,
    pairs: int,
    vocabulary: Sequence[str],
    dtype: torch.dtype | None,
) -> pd.DataFrame:
    """Terms of ``values`` (n_train, n_test) by token, for the strongest pairs of the first ``tests`` test instances.

    Columns test_id, train_id, side (proponent or opponent, at most ``pairs`` of each), token, word, contribution; the
    contributions of a pair sum to its value. Pairs in order of strength, their tokens by the size of what they add.
    """
    row, column, side = strongest(values, tests, pairs)
    rows, columns = np.unique(row), np.unique(column)
    number = torch.full((len(rows), len(columns)), -1)
    number[np.searchsorted(rows, row), np.searchsorted(columns, column)] = torch.arange(len(row))
    keys, terms = [np.empty(0, np.int64)], [np.empty(0)]
    for checkpoint, weight in weighted if len(row) else ():
        at = gradients.at(checkpoint, dtype=dtype)
        sides = (_tables(words, at, gradients.train.take(rows)), _tables(words, at, gradients.test.take(columns)))
        for mine, theirs in zip(*sides, strict=True):
            for one, other in matches(mine, theirs):
                which = number.to(one.device)[mine.row[one], theirs.row[other]]
                one, other, which = (part[which >= 0] for part in (one, other, which))
                product = (mine.vectors[one].double() * theirs.vectors[other].double()).sum(1)
                keys.append((which << 32 | mine.token[one]).cpu().numpy())
                terms.append(weight * product.cpu().numpy())
    key, place = np.unique(np.concatenate(keys), return_inverse=True)
    contribution = np.bincount(place, np.concatenate(terms), len(key))
    pair, token = key >> 32, key & (1 << 32) - 1
    order = np.lexsort((-np.abs(contribution), pair))
    pair, token, contribution = pair[order], token[order], contribution[order]
    return pd.DataFrame(
        {
            "test_id": gradients.test.ids[column[pair]],
            "train_id": gradients.train.ids[row[pair]],
            "side": np.array(["proponent", "opponent"])[side[pair]],
            "token": token,
            "word": [vocabulary[t] if t < len(vocabulary) else str(t) for t in token.tolist()],
            "contribution": contribution,
        }
    )


def strongest(
    values: NDArray[np.float64], tests: int, pairs: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Rows, columns and sides (0 proponent, 1 opponent) of the strongest pairs, column by column."""
    found: list[tuple[int, int, int]] = []
    for column in range(min(tests, values.shape[1])):
        for side, signed in enumerate((values[:, column], -values[:, column])):
            best = np.argsort(-signed, kind="stable")[:pairs]
            found += [(int(row), column, side) for row in best[signed[best] > 0]]
    parts = np.array(found, np.int64).reshape(-1, 3)
    return parts[:, 0], parts[:, 1], parts[:, 2]


def special_share(
    gradients: Gradients, weighted: Weighted, words: Words, special: Sequence[int], dtype: torch.dtype | None
) -> dict[str, Any]:
    """For the report: Σ |influence by special tokens| / (the same + Σ |influence by words|) over pairs of instances.

    ``SAMPLED`` instances are taken; of these no more are held than fit.
    """
    train, test = (_spread(s, most) for s, most in zip((gradients.train, gradients.test), SAMPLED, strict=True))
    sums = np.zeros((2, len(train), len(test)))
    for checkpoint, weight in weighted:
        at = gradients.at(checkpoint, dtype=dtype)
        for columns, theirs in words.held(at, test):
            for rows, mine in words.blocks(at, train):
                for one, other in zip(mine, theirs, strict=True):
                    for total, kept in zip(sums, (TokenRows.only, TokenRows.without), strict=True):
                        product = dots(kept(one, special), kept(other, special))
                        total[rows, columns] += weight * product.double().cpu().numpy()
    by_special, by_words = np.abs(sums).sum((1, 2))
    share = float(by_special / (by_special + by_words)) if by_special + by_words else float("nan")
    return {"special_share": share, "special_share_of": f"{len(train)} training and {len(test)} test instances"}


def sampled(n: int, m: int) -> int:
    """How many instances ``special_share`` looks at."""
    return min(n, SAMPLED[0]) + min(m, SAMPLED[1])


def _spread(split: Split, most: int) -> Split:
    """At most so many instances, evenly spaced."""
    if len(split) <= most:
        return split
    return split.take(np.unique(np.linspace(0, len(split) - 1, most).astype(np.int64)))


def _tables(words: Words, at: GradientsAt, split: Split) -> list[TokenRows]:
    """Of all instances together."""
    made = [tables for _, tables in words.blocks(at, split)]
    return [TokenRows.joined(parts) for parts in zip(*made, strict=True)]
