"""Word gradients as rows of an embedding's whole gradient, one instance at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from torch import nn

from influx.models.text_decoder import TextDecoder
from influx.models.text_encoder import TextEncoder
from influx.oracles import plain
from influx.oracles.checkpoints import RATES, checkpoint_weights, left_out
from influx.oracles.comparison import Comparison, Oracle, compare
from influx.oracles.plain import Array
from influx.oracles.toys import Toy, tokens, train
from influx.problem import Split

EXACT = 1e-12  # float64 sums in another order
SPECIAL = (0, 1, 2)  # of the toy's vocabulary
Kept = Callable[[Array], Array]  # (n, words, width) -> the same with some words set to zero


def word_gradients(toy: Toy, module: nn.Module, split: Split) -> Array:
    """``(n, words, width)`` gradients of each instance's risk with respect to the word embedding."""
    words = len(toy.problem.data.vocabulary)
    tables = [m.get_parameter("weight") for m in module.modules() if isinstance(m, nn.Embedding)]
    return plain.gradients(toy, module, split, tables).reshape(len(split), words, -1)


def contributions(toy: Toy, weights: dict[int, float], kept: Kept = lambda g: g) -> tuple[Array, Array]:
    """What checkpoints and words add to values (C, n_train, n_test, words), and to self-influence (n_train,)."""
    values, own = [], np.zeros(len(toy.train))
    for step, weight in weights.items():
        module = toy.module(step)
        mine, theirs = (kept(word_gradients(toy, module, split)) for split in (toy.train, toy.test))
        found = [[[float(a @ b) for a, b in zip(g, h, strict=True)] for h in theirs] for g in mine]
        values.append(weight * np.array(found))
        own += weight * (mine**2).sum((1, 2))
    return np.stack(values), own


def without_special(g: Array) -> Array:
    """Special tokens set to zero."""
    g = g.copy()
    g[:, SPECIAL] = 0
    return g


def largest(k: int) -> Kept:
    """All but the k words of largest norm of each instance set to zero."""

    def kept(g: Array) -> Array:
        result = np.zeros_like(g)
        for i, rows in enumerate(g):
            best = sorted(range(len(rows)), key=lambda w: -float(np.linalg.norm(rows[w])))[:k]
            result[i, best] = rows[best]
        return result

    return kept


def _toys(below: Path) -> Iterator[tuple[str, Toy]]:
    net = TextEncoder(width=4, hidden=5)
    yield "classification", train(below, tokens(), net, schedule="cosine", warmup_steps=2)
    yield "language", train(below, tokens("density"), TextDecoder(width=4, hidden=5))


def tracin_we(below: Path) -> Iterator[Comparison]:
    """The embedding's whole gradient by autograd; its rows are the words' terms."""
    for kind, toy in _toys(below):
        for told, settings, kept in (
            ("", {}, lambda g: g),
            (", special tokens left out", {"special_tokens": "exclude"}, without_special),
            (", two words of each", {"topk": 2}, largest(2)),
        ):
            found = toy.estimate("tracin_we", jackknife=True, word_tests=len(toy.test), word_pairs=99, **settings)
            terms, own = contributions(toy, checkpoint_weights(toy), kept)
            yield compare(f"autograd loop, {kind}{told}", found.values, terms.sum((0, 3)), EXACT)
            yield compare(f"autograd loop on itself, {kind}{told}", _own(found.self_influence), own, EXACT)
            expected = left_out(terms.sum(3))
            yield compare(f"leaving out each checkpoint, {kind}{told}", _own(found.stderr), expected, 1e-7)
            yield from _words(toy, found.tables["words"], terms.sum(0), f"{kind}{told}")
        for lr_at in RATES:
            weights = checkpoint_weights(toy, lr_at, "calibrated")
            values = toy.estimate("tracin_we", lr_at=lr_at, weight="calibrated").values
            expected = contributions(toy, weights)[0].sum((0, 3))
            yield compare(f"calibrated, lr_at={lr_at}, {kind}", values, expected, EXACT)


def _words(toy: Toy, table: object, terms: Array, told: str) -> Iterator[Comparison]:
    """The table of words against ``terms`` (n_train, n_test, words)."""
    import pandas as pd

    assert isinstance(table, pd.DataFrame)
    listed = np.zeros_like(terms)
    rows = np.searchsorted(toy.train.ids, table["train_id"])  # ids of toys are ascending
    columns = np.searchsorted(toy.test.ids, table["test_id"])
    np.add.at(listed, (rows, columns, table["token"].to_numpy()), table["contribution"].to_numpy())
    yield compare(f"words, {told}", listed, terms, EXACT)


def _own(values: object) -> Array:
    assert isinstance(values, np.ndarray)
    return values


ORACLES: dict[str, Oracle] = {"tracin_we": tracin_we}
