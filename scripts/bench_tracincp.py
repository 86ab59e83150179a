#!/usr/bin/env python
"""Time TracInCP against captum's on the same trained network, in one process and interleaved.

    pip install captum
    python scripts/bench_tracincp.py [--repeats 5]

Digits, MLP 64-256-128-10, 1,400 training and 397 test instances, 5 checkpoints, all parameters, exact. captum's
``TracInCP`` runs with its sample-wise trick at the best of several batch sizes, everything it loads already in
memory. Minima over repeats; the largest difference is relative to the largest influence.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from captum.influence import TracInCP
from torch import nn

from influx.datasets.digits import Digits
from influx.engines.gradients import Gradients
from influx.engines.similarity import gradient_similarity, weighted_checkpoints
from influx.learners.torch.fitted import TorchFitted, load_parameters
from influx.learners.torch.learner import TorchLearner
from influx.learners.torch.optimizers import SGD
from influx.learners.torch.training import Training
from influx.models.mlp import MLP
from influx.problem import Data
from influx.store import Folder

BATCHES = (100, 350, 1400)
GOAL = 25.0


def ours(fitted: TorchFitted, data: Data) -> tuple[float, np.ndarray]:
    """Seconds and influence (n_train, n_test), reading checkpoints included."""
    start = time.perf_counter()
    weighted = weighted_checkpoints(fitted.checkpoints, fitted.learning_rates, len(data.train), None, "next", "paper")
    values = np.zeros((len(data.train), len(data.test)))
    gradient_similarity(Gradients(fitted, data.train, data.test), weighted, values)
    return time.perf_counter() - start, values


def captums(fitted: TorchFitted, data: Data, batch: int, folder: Path) -> tuple[float, np.ndarray]:
    """Seconds and influence (n_train, n_test) by captum, loading checkpoints included."""
    x, y = torch.from_numpy(data.train.x), torch.from_numpy(data.train.y)
    model = fitted.model()
    lr = fitted.recipe.lr(0)

    def load(module: nn.Module, path: str) -> float:
        load_parameters(module, Path(path))
        return lr

    tracin = TracInCP(
        model,
        torch.utils.data.TensorDataset(x, y),
        [str(c.path) for c in fitted.checkpoints[:-1]],
        load,
        loss_fn=nn.CrossEntropyLoss(reduction="sum"),
        batch_size=batch,
        sample_wise_grads_per_batch=True,
    )
    test = (torch.from_numpy(data.test.x), torch.from_numpy(data.test.y))
    start = time.perf_counter()
    values = tracin.influence(test, k=None)
    return time.perf_counter() - start, values.T.numpy()


def main() -> None:
    """Train once, then time both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    data = Digits(n_train=1400, n_test=397).load(0)
    training = Training(epochs=5, batch_size=50, checkpoints=5)
    learner = TorchLearner(model=MLP(width=[256, 128]), optimizer=SGD(lr=0.1), training=training)
    with tempfile.TemporaryDirectory() as name:
        fitted = learner.fit(data, 0, Folder(Path(name)))
        mine: list[float] = []
        theirs: dict[int, list[float]] = {batch: [] for batch in BATCHES}
        for _ in range(repeats):
            seconds, values = ours(fitted, data)
            mine.append(seconds)
            for batch in BATCHES:
                seconds, reference = captums(fitted, data, batch, Path(name))
                theirs[batch].append(seconds)
    best = min(theirs, key=lambda b: min(theirs[b]))
    ratio = min(theirs[best]) / min(mine)
    difference = np.abs(values - reference).max() / np.abs(reference).max()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"influx      {min(mine):7.3f} s   ({', '.join(f'{s:.3f}' for s in mine)})")
    for batch, seconds in theirs.items():
        print(f"captum      {min(seconds):7.3f} s   batches of {batch} ({', '.join(f'{s:.2f}' for s in seconds)})")
    print(
        f"ratio       {ratio:7.1f} x   to captum's best (goal {GOAL:g} x: {'reached' if ratio >= GOAL else 'MISSED'})"
    )
    print(f"difference  {difference:7.1e}     of the largest influence")


if __name__ == "__main__":
    main()
