"""Products over shared tokens, against the same products written out as dense tables."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from influx.engines import token_rows
from influx.engines.token_rows import TokenRows, dots, matches
from influx.engines.tokens import counts, shared_tokens, without_common
from influx.vocabulary import ends, special_tokens

SIZE, WIDTH = 30, 4


def texts(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(SIZE, (count, 9), generator=generator)
    index[:, 4:] = index[:, 4:] % 3  # frequent ones
    return index, torch.randn(count, 9, WIDTH, generator=generator, dtype=torch.float64)


def dense(index: Tensor, vectors: Tensor) -> Tensor:
    """``(b, SIZE, WIDTH)``, one position after the other."""
    found = torch.zeros(len(index), SIZE, WIDTH, dtype=torch.float64)
    for i, row in enumerate(index.tolist()):
        for position, token in enumerate(row):
            found[i, token] += vectors[i, position]
    return found


@pytest.mark.parametrize("frequent", [1, 40, 10**9])
@pytest.mark.parametrize("bytes_", [1, 1 << 20])
def test_products_are_those_of_dense_tables(frequent: int, bytes_: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_rows, "FREQUENT", frequent)
    monkeypatch.setattr(token_rows, "PAIRS_BYTES", {"cpu": bytes_})
    left, right = texts(13, 0), texts(7, 1)
    mine, theirs = dense(*left), dense(*right)
    found = dots(TokenRows.of(*left), TokenRows.of(*right))
    torch.testing.assert_close(found, torch.einsum("iwd,jwd->ij", mine, theirs), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(TokenRows.of(*left).squares(), mine.square().sum((1, 2)), rtol=1e-13, atol=0)


def test_matches_are_all_pairs_of_entries_with_one_token_and_no_other() -> None:
    left, right = TokenRows.of(*texts(5, 2)), TokenRows.of(*texts(4, 3))
    pairs = {(int(a), int(b)) for one, other in matches(left, right) for a, b in zip(one, other, strict=True)}
    tokens = left.token.tolist(), right.token.tolist()
    assert pairs == {(a, b) for a, t in enumerate(tokens[0]) for b, u in enumerate(tokens[1]) if t == u}


def test_nothing_shared_gives_zeros() -> None:
    index, vectors = texts(3, 4)
    left, right = TokenRows.of(index, vectors), TokenRows.of(index + SIZE, vectors)
    assert not dots(left, right).any() and not list(matches(left, right))


def test_joined_parts_are_the_whole() -> None:
    index, vectors = texts(11, 5)
    parts = [TokenRows.of(index[s], vectors[s]) for s in (slice(0, 4), slice(4, 5), slice(5, 11))]
    found, expected = TokenRows.joined(parts), TokenRows.of(index, vectors)
    for name in ("row", "token", "vectors"):
        assert torch.equal(getattr(found, name), getattr(expected, name))


def test_the_largest_words_of_each_text_are_kept_and_the_dropped_ones_are_not() -> None:
    index, vectors = texts(8, 6)
    rows, table = TokenRows.of(index, vectors), dense(index, vectors).norm(dim=2)
    kept = rows.largest(2)
    for i in range(8):
        assert set(kept.token[kept.row == i].tolist()) == set(table[i].topk(2).indices.tolist())
    assert set(rows.without((0, 2)).token.tolist()) == set(rows.token.tolist()) - {0, 2}
    assert set(rows.only((0, 2)).token.tolist()) == {0, 2}


def test_words_without_gradient_take_no_place() -> None:
    index, vectors = texts(4, 7)
    vectors[index == 1] = 0
    assert 1 not in TokenRows.of(index, vectors).token


def test_texts_are_counted() -> None:
    left, right = texts(40, 8)[0].numpy() + 3, texts(30, 9)[0].numpy() + 3
    bags = [[set(row.tolist()) for row in side] for side in (left, right)]
    common = np.array([[len(a & b) for b in bags[1]] for a in bags[0]])
    assert shared_tokens(left, right) == common.sum()
    without = [[set(bag) - {3, 4, 5} for bag in side] for side in bags]
    apart = np.mean([[not a & b for b in without[1]] for a in without[0]])
    assert without_common(left, right, (3, 4, 5)) == pytest.approx(apart) and 0 < apart < 1
    found = counts(left, 40, (4,)).toarray()
    np.testing.assert_array_equal(found[:, 5], (left == 5).sum(1))
    assert not found[:, 4].any()


def test_marks_are_told_from_words() -> None:
    vocabulary = ["[PAD]", "[UNK]", "the", "<s>", "</s>", "[", "list[int]", "<|end|>", "[CLS]", "<", "<="]
    assert special_tokens(vocabulary) == (0, 1, 3, 4, 7, 8)
    assert special_tokens(()) == (0,) and ends(vocabulary) == (0, 3, 4, 7, 8)


def test_a_tokenizer_says_which_tokens_are_special() -> None:
    added = [
        {"id": i, "content": token, "special": token != "[LIST]"} for i, token in enumerate(("<unk>", "§", "[LIST]"))
    ]
    tokenizer = json.dumps({"added_tokens": added, "model": {"unk_token": "<unk>"}})
    vocabulary = ["[PAD]", "<unk>", "§", "[LIST]", "</b>", "the"]
    assert special_tokens(vocabulary, tokenizer) == (0, 1, 2) and ends(vocabulary, tokenizer) == (0, 2)
    assert special_tokens(vocabulary, "no JSON") == special_tokens(vocabulary, "[]") == (0, 1, 3, 4)
