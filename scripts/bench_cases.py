"""Trained nets of ``bench_gradients``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from bench_peers import Trained
from torch import Tensor, nn

from influx.datasets.digits import Digits
from influx.learners.torch.learner import NetFactory, TorchLearner
from influx.learners.torch.optimizers import SGD
from influx.learners.torch.training import Training
from influx.models.cnn import CNN
from influx.models.mlp import MLP
from influx.models.resnet9 import ResNet9
from influx.problem import Data, Problem, Split
from influx.store import Folder


@dataclass(frozen=True)
class Transformer:
    """Two encoder layers on tokens, mean over positions, linear head."""

    width: int = 64
    heads: int = 4
    vocabulary: int = 1000

    def build(self, data: Data) -> nn.Module:
        """The untrained network."""
        return TokenClassifier(self, data.train.x.shape[1], data.n_outputs)


class TokenClassifier(nn.Module):
    """``(b, length) -> (b, outputs)``."""

    def __init__(self, settings: Transformer, length: int, outputs: int) -> None:
        super().__init__()
        d = settings.width
        self.embedding = nn.Embedding(settings.vocabulary, d)
        self.position = nn.Parameter(0.1 * torch.randn(length, d))
        layers = [
            nn.TransformerEncoderLayer(d, settings.heads, 4 * d, dropout=0.0, activation="gelu", batch_first=True)
            for _ in range(2)
        ]
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(d, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """Class scores."""
        return self.head(self.layers(self.embedding(tokens) + self.position).mean(1))


@dataclass(frozen=True)
class Case:
    """A trained net to analyse and what must be reached: times the fastest peer, share of the matrix product."""

    title: str
    model: NetFactory
    n: int
    m: int
    checkpoints: int
    goal: float = 0.0
    share: float = 0.0
    lr: float = 0.05

    def data(self) -> Data:
        """Digits for the MLP; otherwise classes that differ in their mean, or in their most frequent tokens."""
        if isinstance(self.model, MLP):
            return Digits(n_train=self.n, n_test=self.m).load(0)
        rng, text = np.random.default_rng(0), isinstance(self.model, Transformer)
        y = rng.integers(10, size=self.n + self.m)
        if text:
            own, length = rng.integers(1000, size=(10, 50)), 64
            x = rng.integers(1000, size=(len(y), length))
            x = np.where(rng.random(x.shape) < 0.3, own[y[:, None], rng.integers(50, size=x.shape)], x)
        else:
            x = (rng.normal(size=(len(y), 3, 32, 32)) + 0.3 * rng.normal(size=(10, 3, 32, 32))[y]).astype(np.float32)
        ids = np.arange(len(y))
        train, test = (Split(x=x[p], y=y[p], ids=ids[p]) for p in (slice(0, self.n), slice(self.n, None)))
        classes = tuple(str(c) for c in range(10))
        kind = "text" if text else "image"
        return Data(name="synthetic", task="classification", kind=kind, train=train, test=test, classes=classes)

    def trained(self, data: Data, folder: Path, device: str) -> Trained:
        """Trained in ``folder``, or read from it."""
        training = Training(epochs=self.checkpoints, batch_size=50, checkpoints=self.checkpoints, device=device)
        learner = TorchLearner(model=self.model, optimizer=SGD(lr=self.lr), training=training)
        problem = Problem(data=data, learner=learner, seed=0, config={"title": self.title})
        return Trained(problem, learner.fit(data, 0, Folder(folder)))


CASES = {
    "a": Case("MLP 64-256-128-10 on digits", MLP(width=[256, 128]), 1400, 397, 5, goal=30, lr=0.1),
    "b": Case("CNN 32-64-64, 128, 3x32x32", CNN(channels=[32, 64, 64]), 2000, 100, 3, goal=2, share=0.5),
    "c": Case("transformer, 2 layers, width 64, 64 tokens of 1,000", Transformer(), 1000, 50, 2),
    "d": Case("ResNet-9, 16 to 128 channels, group norm, 3x32x32", ResNet9(width=0.25, activation="gelu"), 500, 50, 2),
}
