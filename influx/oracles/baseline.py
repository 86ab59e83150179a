"""Baselines, by their definitions."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np

from influx.learners.torch.optimizers import SGD
from influx.models.cnn import CNN
from influx.models.mlp import MLP
from influx.models.text_encoder import TextEncoder
from influx.oracles import banks, plain
from influx.oracles.comparison import Comparison, compare
from influx.oracles.toys import Toy, images, table, tokens, train
from influx.streams import stream

Z = 4.0  # standard errors; the streams are fixed, so this is no matter of chance


def _toys(below: Path) -> Iterator[tuple[str, Toy]]:
    yield "mlp", train(below, table(), MLP(width=5))
    yield "regression mlp", train(below, table("regression"), MLP(width=5))
    yield "cnn", train(below, images(), CNN(channels=[4], hidden=5))


def random(below: Path) -> Iterator[Comparison]:
    """Independent standard normal numbers of one stream."""
    toy = train(below, table(n_train=400, n_test=6), MLP(width=2), epochs=1, batch_size=400)
    values = toy.estimate("random").values
    yield compare("the same numbers again", values, toy.estimate("random").values, 0.0)
    yield Comparison("mean 0 (standard errors)", abs(float(values.mean())) * np.sqrt(values.size), Z)
    spread = (float(values.var()) - 1) * np.sqrt(values.size / 2)
    yield Comparison("variance 1 (standard errors)", abs(spread), Z)
    correlated = np.corrcoef(values.T) - np.eye(values.shape[1])
    yield Comparison("columns independent (standard errors)", float(np.abs(correlated).max()) * np.sqrt(400), Z)
    other = train(below, toy.problem.data, MLP(width=2), epochs=1, batch_size=400, seed=1).estimate("random").values
    between = float(np.corrcoef(values.ravel(), other.ravel())[0, 1])
    yield Comparison("another seed is independent (standard errors)", abs(between) * np.sqrt(values.size), Z)


def loss(below: Path) -> Iterator[Comparison]:
    """Losses by torch itself, the same in every column."""
    for kind, toy in _toys(below):
        expected = plain.losses(toy, toy.module(), toy.train)
        found = toy.estimate("loss")
        assert found.self_influence is not None
        yield compare(f"torch losses, {kind}", found.values, np.repeat(expected[:, None], len(toy.test), 1), 1e-12)
        yield compare(f"torch losses on itself, {kind}", found.self_influence, expected, 1e-12)


def gradient_norm(below: Path) -> Iterator[Comparison]:
    """Norms of gradients by one backward pass per instance."""
    for kind, toy in _toys(below):
        expected = np.linalg.norm(plain.gradients(toy, toy.module(), toy.train), axis=1)
        found = toy.estimate("gradient_norm").values
        yield compare(f"autograd loop, {kind}", found, np.repeat(expected[:, None], len(toy.test), 1), 1e-10)


def feature_similarity(below: Path) -> Iterator[Comparison]:
    """Cosines of the inputs of the last layer."""
    for kind, toy in _toys(below):
        module = toy.module()
        left, right = (plain.features(module, toy.tensors(split)[0]) for split in (toy.train, toy.test))
        cosine = np.array([[f @ g / np.sqrt((f @ f) * (g @ g)) for g in right] for f in left])
        alike = toy.train.y[:, None] == toy.test.y[None, :]
        signed = np.where(alike, cosine, -cosine) if toy.task == "classification" else cosine
        yield compare(f"cosines, {kind}", toy.estimate("feature_similarity").values, signed, 1e-12)
        yield compare(
            f"cosines unsigned, {kind}", toy.estimate("feature_similarity", signed=False).values, cosine, 1e-12
        )


def confident_learning(below: Path) -> Iterator[Comparison]:
    """Probabilities of labels under models trained without a fold, one at a time with torch."""
    toy, count = train(below, table(n_train=14), MLP(width=4), SGD(lr=0.3, momentum=0.5)), 4
    order = stream(toy.problem.seed, "draws/folds").permutation(len(toy.train))  # ids of toys are ascending
    dealt = [i for label in range(3) for i in order.tolist() if toy.train.y[i] == label]
    expected = np.empty(len(toy.train))
    for fold in range(count):
        out = dealt[fold::count]
        weights = np.ones(len(toy.train))
        weights[out] = 0
        expected[out] = np.exp(-banks.trained(toy, weights)[1][out])
    found = toy.estimate("confident_learning", folds=count)
    yield compare("torch, fold by fold", found.values, np.repeat(expected[:, None], len(toy.test), 1), 5e-7)
    assert found.self_influence is not None
    yield compare("doubt", found.self_influence, 1 - expected, 5e-7)


def bm25(below: Path) -> Iterator[Comparison]:
    """The formula, word by word and pair by pair."""
    toy = train(below, tokens(n_train=14), TextEncoder(width=2, heads=1, hidden=2), epochs=1)
    texts = [[[int(w) for w in x if w > 2] for x in split.x] for split in (toy.train, toy.test)]
    mean = sum(map(len, texts[0])) / len(texts[0])
    for k1, b in ((1.2, 0.75), (0.0, 1.0), (3.0, 0.0)):
        expected = np.zeros((len(toy.train), len(toy.test)))
        for (i, document), (j, query) in product(enumerate(texts[0]), enumerate(texts[1])):
            for word in query:
                having, often = sum(word in text for text in texts[0]), document.count(word)
                idf = np.log(1 + (len(texts[0]) - having + 0.5) / (having + 0.5))
                held_back = 1 - b + b * len(document) / mean
                expected[i, j] += idf * often * (k1 + 1) / (often + k1 * held_back) if often else 0
        found = toy.estimate("bm25", k1=k1, b=b)
        yield compare(f"word by word, k1={k1:g}, b={b:g}", found.values, expected, 1e-12)


ORACLES = {
    "bm25": bm25,
    "confident_learning": confident_learning,
    "feature_similarity": feature_similarity,
    "gradient_norm": gradient_norm,
    "loss": loss,
    "random": random,
}
