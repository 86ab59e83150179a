"""Tiny trained problems in float64 that oracles and contract checks look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from influx.config import load_choice
from influx.datasets.bundled import Bundled
from influx.engines.retrain import Bank
from influx.influence import Influence
from influx.instantiate import build
from influx.learners.torch.learner import NetFactory, TorchLearner
from influx.learners.torch.optimizers import SGD, Optimizer
from influx.learners.torch.training import Training
from influx.problem import Data, Learner, Problem, Split, TaskName
from influx.run import Estimator, Run
from influx.store import Folder


@dataclass(frozen=True, kw_only=True)
class Toy:
    """A problem with its trained model, and plain readings of what training wrote."""

    problem: Problem
    fitted: Any  # TorchFitted, or what another learner makes
    folder: Path

    @property
    def learner(self) -> TorchLearner:
        """Model, optimizer and training settings."""
        assert isinstance(self.problem.learner, TorchLearner)
        return self.problem.learner

    @property
    def train(self) -> Split:
        """The training split."""
        return self.problem.train

    @property
    def test(self) -> Split:
        """The test split."""
        return self.problem.test

    @property
    def task(self) -> TaskName:
        """Classification or regression."""
        return self.problem.data.task

    def run(self, estimator: Estimator, who: str, **fields: Any) -> Run:
        """The toy as an estimator sees it, with a retraining bank in its folder."""
        bank = Bank(self.problem, Folder(self.folder / "retrain"))
        given = {"requires": estimator.requires} | fields
        return Run(problem=self.problem, fitted=self.fitted, bank=bank, who=who, **given)

    def estimate(self, name: str, **settings: Any) -> Influence:
        """Run an estimator by name with some settings changed."""
        estimator = estimator_named(name, settings)
        return estimator.estimate(self.run(estimator, name))

    def with_data(self, data: Data) -> Toy:
        """The same trained model, seen with other training or test instances."""
        folder = self.folder / data.fingerprint()
        return replace(self, problem=replace(self.problem, data=data), folder=folder)

    def steps(self) -> list[int]:
        """Steps whose parameters were saved, read from the file names."""
        return sorted(int(path.stem[5:]) for path in (self.folder / "checkpoints").glob("step_*.safetensors"))

    def module(self, step: int | None = None) -> nn.Module:
        """The module in eval mode with saved parameters (default: the last)."""
        wanted = self.steps()[-1] if step is None else step
        module = self.learner.model.build(self.problem.data).double()
        module.load_state_dict(load_file(self.folder / "checkpoints" / f"step_{wanted:08d}.safetensors"))
        return module.eval()

    def trajectory(self) -> dict[str, NDArray[Any]]:
        """The arrays of ``trajectory.npz``."""
        with np.load(self.folder / "trajectory.npz", allow_pickle=False) as arrays:
            return dict(arrays)

    @staticmethod
    def tensors(split: Split) -> tuple[Tensor, Tensor]:
        """Inputs and targets, floating-point ones in float64."""
        x, y = torch.from_numpy(np.array(split.x)), torch.from_numpy(np.array(split.y))
        return (x.double() if x.is_floating_point() else x), (y.double() if y.is_floating_point() else y)


def estimator_named(name: str, settings: Mapping[str, Any] | None = None) -> Estimator:
    """An estimator built from its configuration file with some settings changed."""
    made: Estimator = build(load_choice("estimator", name) | dict(settings or {}), f"estimator={name}", [])
    return made


def train(below: Path, data: Data, model: NetFactory, optimizer: Optimizer | None = None, **settings: Any) -> Toy:
    """Train in float64 in a folder of its own below ``below``; the same request is answered from there.

    ``settings`` are those of ``Training``; a ``seed`` among them is the problem's.
    """
    seed = int(settings.pop("seed", 0))
    given: dict[str, Any] = {"epochs": 3, "batch_size": 4, "checkpoints": 3, "dtype": "float64"} | settings
    training = Training(**given)
    learner = TorchLearner(model=model, optimizer=optimizer or SGD(lr=0.2), training=training)
    config = {"model": repr(model), "optimizer": repr(learner.optimizer), "training": asdict(training)}
    problem = Problem(data=data, learner=learner, seed=seed, config=config)
    folder = below / problem.id
    return Toy(problem=problem, fitted=learner.fit(data, seed, Folder(folder)), folder=folder)


def learned(below: Path, data: Data, learner: Learner) -> Toy:
    """What another learner makes of the data, in a folder of its own below ``below``."""
    problem = Problem(data=data, learner=learner, seed=0, config={"model": repr(learner)})
    folder = below / problem.id
    return Toy(problem=problem, fitted=learner.fit(data, 0, Folder(folder)), folder=folder)


def converged(below: Path, data: Data, model: NetFactory, weight_decay: float, **settings: Any) -> Toy:
    """A model trained in full batches until its gradient vanishes (a convex problem with weight decay)."""
    optimizer = SGD(lr=0.2, momentum=0.8, weight_decay=weight_decay)
    given: dict[str, Any] = {"epochs": 500, "batch_size": len(data.train), "checkpoints": 1} | settings
    return train(below, data, model, optimizer, **given)


def table(task: TaskName = "classification", n_train: int = 9, n_test: int = 4, features: int = 3) -> Data:
    """Overlapping Gaussian clouds of three classes, or a noisy linear target. Training ids do not start at 0."""
    rng = np.random.default_rng(0)
    n = n_train + n_test
    x = rng.normal(size=(n, features))
    if task == "classification":
        y: NDArray[Any] = np.arange(n) % 3
        x += 1.5 * rng.normal(size=(3, features))[y]
    else:
        y = (x @ rng.normal(size=features) + 0.5 * rng.normal(size=n)).astype(np.float32)
    return _data("table", task, "tabular", x, y, n_train)


def images(n_train: int = 8, n_test: int = 3) -> Data:
    """One-channel noise whose classes differ in one corner."""
    rng = np.random.default_rng(0)
    y = np.arange(n_train + n_test) % 3
    x = rng.normal(size=(len(y), 1, 8, 8))
    x[:, :, :4, :4] += y[:, None, None, None]
    return _data("images", "classification", "image", x, y, n_train)


def tokens(task: TaskName = "classification", n_train: int = 9, n_test: int = 4, length: int = 6) -> Data:
    """Token ids with a beginning and padding at the end; a class prefers one of the words."""
    rng, marks, words = np.random.default_rng(0), ("[PAD]", "[UNK]", "[CLS]"), 9
    y = np.arange(n_train + n_test) % 3
    x = rng.integers(1, len(marks) + words, (len(y), length))
    x[:, 0], x[:, 1] = 2, len(marks) + y
    x[np.arange(length) >= rng.integers(3, length + 1, len(y))[:, None]] = 0
    whole = Split(x=x, y=y, ids=100 + np.arange(len(y)))
    train, test = whole.take(slice(0, n_train)), whole.take(slice(n_train, None))
    vocabulary = (*marks, *(f"word{i}" for i in range(words)))
    classes = ("a", "b", "c")
    return Data(name="tokens", task=task, kind="text", train=train, test=test, classes=classes, vocabulary=vocabulary)


def bundled(which: str, n_train: int, n_test: int) -> Data:
    """A few instances of a bundled dataset."""
    return Bundled(which=which, n_train=n_train, n_test=n_test).load(0)


def _data(
    name: str, task: TaskName, kind: Literal["tabular", "image"], x: NDArray[Any], y: NDArray[Any], n_train: int
) -> Data:
    whole = Split(x=x.astype(np.float32), y=y, ids=100 + np.arange(len(y)))
    classes = ("a", "b", "c") if task == "classification" else ()
    train, test = whole.take(slice(0, n_train)), whole.take(slice(n_train, None))
    return Data(name=name, task=task, kind=kind, train=train, test=test, classes=classes)
