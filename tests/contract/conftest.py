"""The problem on which the contract is checked."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from influx.learners.torch.learner import NetFactory
from influx.learners.torch.optimizers import SGD
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy
from influx.problem import Data, Learner
from tests.contract.checks import Maker


def small(
    below: Path,
    learner: Learner | None = None,
    data: Callable[..., Data] = toys.table,
    model: NetFactory | None = None,
    **settings: object,
) -> Toy:
    """A network trained in full batches, so that the order of instances has no say, with twins in the data."""
    made = data(n_train=9, n_test=4)
    rows = np.array([0, 1, 2, 3, 4, 5, 6, 7, 3])
    made = replace(made, train=replace(made.train, x=made.train.x[rows], y=made.train.y[rows]))
    if learner is not None:  # one without settings of training
        return toys.learned(below, made, learner)
    given = {"optimizer": SGD(lr=0.3, momentum=0.5, weight_decay=0.01), "batch_size": len(rows), "epochs": 4}
    return toys.train(below, made, model or MLP(width=4), **given | settings)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the problem trained."""
    folder = tmp_path_factory.mktemp("trained")
    small(folder)
    return folder


@pytest.fixture
def make(tmp_path: Path, trained: Path) -> Maker:
    """Each call gives the trained problem in a folder of its own, with nothing retrained yet."""
    calls = itertools.count()

    def copy(**settings: object) -> Toy:
        return small(shutil.copytree(trained, tmp_path / str(next(calls))), **settings)

    return copy
