#!/usr/bin/env python
"""Time leave-one-out retraining against a plain sequential PyTorch loop, in one process and interleaved.

    python scripts/bench_retraining.py [--problems small logistic wide] [--loop-models 8] [--repeats 3]

Per problem: seconds for all leave-one-out models by the retraining engine; seconds per model of the loop at the
better of one and all threads, measured on ``--loop-models`` models and multiplied up; their ratio; the largest
difference of loss differences between the two; and the rate of floating-point operations reached, as a share of
the machine's own float32 matrix product. Minima over repeats; the parts alternate so that drift hits them alike.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from influx.datasets.digits import Digits
from influx.engines import subsets
from influx.engines.retrain import Bank
from influx.learners.torch.learner import TorchLearner
from influx.learners.torch.optimizers import SGD
from influx.learners.torch.training import Training
from influx.models.linear import Linear
from influx.models.mlp import MLP
from influx.problem import Data, Problem
from influx.store import Folder


@dataclass(frozen=True)
class Case:
    """One problem: digits, 20 epochs, batches of 50, momentum 0.9."""

    title: str
    learner: TorchLearner
    models: int
    goal: float


def cases() -> dict[str, Case]:
    """The three problems and the ratio that each must reach."""
    training = Training(epochs=20, batch_size=50, checkpoints=1)

    def learner(model: MLP | Linear) -> TorchLearner:
        return TorchLearner(model=model, optimizer=SGD(lr=0.05, momentum=0.9), training=training)

    return {
        "small": Case("MLP 64-32-10, tanh", learner(MLP(width=32)), 1000, 40),
        "logistic": Case("logistic regression 64-10", learner(Linear()), 1000, 20),
        "wide": Case("MLP 64-256-128-10, tanh", learner(MLP(width=[256, 128])), 200, 3),
    }


def gemm_rate(size: int = 2048) -> float:
    """Float32 operations per second of one large matrix product."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    start = time.perf_counter()
    torch.mm(a, b)
    return 2 * size**3 / (time.perf_counter() - start)


def loop(case: Case, data: Data, removed: np.ndarray) -> tuple[float, np.ndarray]:
    """Train one model per removed instance as one would by hand; seconds and test losses (models, n_test)."""
    learner, training = case.learner, case.learner.training
    x, y = torch.from_numpy(data.train.x), torch.from_numpy(data.train.y)
    x_test, y_test = torch.from_numpy(data.test.x), torch.from_numpy(data.test.y)
    batches = training.batches(len(data.train), 0, 0)
    index = [torch.from_numpy(batches[t]) for t in range(len(batches))]
    initial = learner._module(data, 0, 0).state_dict()
    losses = []
    start = time.perf_counter()
    for row in removed:
        weights = torch.ones(len(x))
        if row >= 0:
            weights[row] = 0
        model = learner._module(data, 0, 0)
        model.load_state_dict(initial)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for rows in index:
            optimizer.zero_grad()
            risks = F.cross_entropy(model(x[rows]), y[rows], reduction="none")
            ((risks * weights[rows]).sum() / len(rows)).backward()
            optimizer.step()
        with torch.no_grad():
            losses.append(F.cross_entropy(model(x_test).double(), y_test, reduction="none").numpy())
    return time.perf_counter() - start, np.stack(losses)


def batched(case: Case, data: Data) -> tuple[float, np.ndarray]:
    """All leave-one-out models by the bank, files included; seconds and test losses, the full model first."""
    removed = np.arange(case.models)
    design = subsets.leave_one_out(len(data.train), removed, 0, "full")
    problem = Problem(data=data, learner=case.learner, seed=0, config={"case": case.title})
    with tempfile.TemporaryDirectory() as folder:
        bank = Bank(problem, Folder(Path(folder)))
        start = time.perf_counter()
        losses = bank.outcomes(design)[1].loss
        return time.perf_counter() - start, losses


def flops(case: Case, data: Data) -> float:
    """Operations of the matrix products that the trainings need (no backward to the inputs)."""
    sizes = [m.weight.shape for m in case.learner._module(data, 0, 0).modules() if isinstance(m, nn.Linear)]
    macs = [o * (i + 1) for o, i in sizes]
    visits = len(case.learner.training.batches(len(data.train), 0, 0).rows)
    return 2.0 * (case.models + 1) * visits * (3 * sum(macs) - macs[0])


def measure(case: Case, data: Data, loop_models: int, repeats: int) -> None:
    """Print one problem's lines."""
    threads = sorted({1, torch.get_num_threads()})
    removed = np.concatenate([[-1], np.linspace(0, case.models - 1, loop_models).astype(int)])
    engine, rates, by_hand = [], [], {t: [] for t in threads}
    for _ in range(repeats):
        rates.append(max(gemm_rate() for _ in range(3)))
        seconds, ours = batched(case, data)
        engine.append(seconds)
        for count in threads:
            torch.set_num_threads(count)
            seconds, theirs = loop(case, data, removed)
            by_hand[count].append(seconds / len(removed))
        torch.set_num_threads(threads[-1])
    best = min(by_hand, key=lambda t: min(by_hand[t]))
    total = min(by_hand[best]) * (case.models + 1)
    difference = ours[1 + removed[1:]] - ours[0] - (theirs[1:] - theirs[0])
    scale = np.abs(theirs[1:] - theirs[0]).max()
    rate = flops(case, data) / min(engine)
    ratio = total / min(engine)
    print(f"{case.title}: {case.models} leave-one-out models, n={len(data.train)}")
    print(f"  engine     {min(engine):8.2f} s   (all models, min of {repeats}: {_list(engine)})")
    print(f"  loop       {total:8.2f} s   ({1e3 * min(by_hand[best]):.1f} ms a model on {best} thread(s))")
    print(f"  ratio      {ratio:8.1f} x   (goal {case.goal:g} x: {'reached' if ratio >= case.goal else 'MISSED'})")
    print(f"  difference {np.abs(difference).max() / scale:8.1e}     of the largest loss difference")
    print(f"  rate       {rate / 1e9:8.1f} GFLOP/s, {100 * rate / max(rates):.0f}% of GEMM ({max(rates) / 1e9:.0f})")


def _list(seconds: list[float]) -> str:
    return ", ".join(f"{s:.2f}" for s in seconds)


def main() -> None:
    """Run the problems asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", choices=list(cases()), default=list(cases()))
    parser.add_argument("--loop-models", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    data = Digits(n_train=1000, n_test=397).load(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} processors")
    for name in chosen.problems:
        measure(cases()[name], data, chosen.loop_models, chosen.repeats)


if __name__ == "__main__":
    main()
