#!/usr/bin/env python
"""Tree methods against the tree-influence package: same values, and seconds at n = 20,000.

    python scripts/bench_trees.py --peer /path/to/python [--n 20000] [--trees 100] [--m 100] [--limit 60]

``--peer`` is an interpreter with tree-influence 0.1.7, lightgbm 3.3, xgboost 1.5, catboost, pandas below 2.1 and
scikit-learn below 1.2.

Values: the package's own trees, read as arrays, go through influx's computations; largest difference relative to the
largest value. For three classes also with the package's second derivative put into influx's computation: the library's,
a multiple of the risk's own, which the package takes for the derivative of the gradient too.

Seconds of the processor, two classes, one thread: both begin with a trained library model in memory and end with the
values, the fastest of three (one where the package takes more than ten). The package, with its defaults, which for
LeafInfluence are all trees: ``fit`` and ``get_local_influence``. Influx, on a model of its own with the same settings:
reading the trees from the library, checking them, and ``estimate``. A package that has used ``--limit`` seconds is
ended and shown with the least that its ratio can be: LeafInfluence, n² loops in Python, which at a fortieth of n ends.

Left out: LeafRefit, whose port takes gradients after the tree that it refits instead of before, TREX for regression,
whose weights in the package are half of those that decompose its fit, LeafSim for regression, where its signs are
others, and TreeSim, which is a slower LeafSim.

Then BoostIn alone for doubling n: seconds, and the rise of the peak of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from bench_trees_peer import REPEATS, data
from rich.console import Console
from rich.table import Table
from study_trees_speed import again

from influx.engines.forest import Forest, Objective
from influx.engines.forest_losses import Losses, Slopes
from influx.influence import Influence
from influx.learners.trees.learner import TreeLearner
from influx.learners.trees.lightgbm import LightGBM
from influx.learners.trees.xgboost import XGBoost
from influx.oracles.toys import estimator_named, learned
from influx.problem import Data, Split

PEERS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {  # theirs -> settings, ours, settings
    "BoostIn": ({}, "boostin", {"leaf_value": "released"}),
    "LeafInfluenceSP": ({}, "leaf_influence", {"update_set": "single", "cross_class": False}),
    "LeafInfluence": ({"update_set": -1}, "leaf_influence", {"cross_class": False, "self_influence": False}),
    "Trex": ({}, "trex", {}),
    "LeafSim": ({}, "tree_similarity", {"cosine": False}),
}
UNLIKE = ("Trex", "LeafSim")  # which are something else for regression
CURVED = ("LeafInfluenceSP", "LeafInfluence")  # whose gradients move, so that second derivatives count as such
SMALLER = {"LeafInfluence": 40}  # timed at that part of n too
LEAST = 200  # instances, from which trees are grown
LIBRARIES: dict[str, Any] = {"lightgbm": LightGBM(), "xgboost": XGBoost(max_depth=5, learning_rate=0.3)}
OBJECTIVES: dict[str, Any] = {"regression": "squared_error", "binary": "logistic", "multiclass": "softmax"}


def theirs(peer: str, **asked: Any) -> dict[str, np.ndarray]:
    """What the package computed."""
    script = Path(__file__).with_name("bench_trees_peer.py")
    with tempfile.TemporaryDirectory() as folder:
        asked["out"] = f"{folder}/out.npz"
        told = [peer, "-W", "ignore", str(script), json.dumps(asked)]
        subprocess.run(told, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        with np.load(asked["out"], allow_pickle=False) as arrays:
            return dict(arrays)


def forest_of(found: dict[str, np.ndarray], task: str) -> Forest:
    """The package's trees."""
    rate, l2, scale = found["rule"]
    factor = 1 / scale if scale else 1.0
    leaves = [found[name].transpose(1, 2, 0).astype(np.int32) for name in ("train_leaves", "test_leaves")]
    sizes = found["sizes"].astype(np.int64)
    return Forest(
        boosted=True,
        objective=Objective(OBJECTIVES[task]),
        train_y=found["y"],
        test_y=found["y_test"],
        base=found["base"],
        train_leaves=leaves[0],
        test_leaves=leaves[1],
        values=found["values"],
        sizes=sizes,
        fixed=np.zeros(sizes.shape, bool),
        rate=float(rate),
        l2=float(l2) * factor,
        factor=factor,
    )


def on_forest(forest: Forest, name: str, settings: dict[str, Any], task: str) -> np.ndarray:
    """An estimator's values on given trees, without a trained problem around them."""
    splits = [SimpleNamespace(y=y, x=None, ids=np.arange(len(y))) for y in (forest.train_y, forest.test_y)]
    sized = [_Sized(split.y) for split in splits]
    classes = () if task == "regression" else tuple(map(str, range(int(forest.train_y.max()) + 1)))
    kind = "regression" if task == "regression" else "classification"
    problem = SimpleNamespace(data=SimpleNamespace(task=kind, classes=classes))
    run: Any = SimpleNamespace(
        forest=forest,
        train=sized[0],
        test=sized[1],
        who=name,
        problem=problem,
        zeros=lambda: np.zeros((len(forest.train_y), len(forest.test_y))),
        warn=lambda sentence: None,
        influence=lambda values, **more: Influence(values=values, **more),
    )
    return np.asarray(estimator_named(name, settings).estimate(run).values)


@dataclass(frozen=True)
class Scaled(Slopes):
    """Derivatives of a gradient that is said to move ``scale`` times as much as it does."""

    scale: float

    def along(self, moved: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Changes of g and h; that of h has its scale from the leaf's value that it is multiplied by."""
        first, second = super().along(moved)
        return self.scale * first, second

    def pull_back(self, margins: torch.Tensor, first: torch.Tensor, value: torch.Tensor) -> None:
        """The transpose for the change of g + value · h."""
        super().pull_back(margins, self.scale * first, value / self.scale)


def with_scaled(forest: Forest, name: str, task: str) -> np.ndarray:
    """An estimator's values with the library's second derivative as the derivative of the gradient."""
    plain, scale = Losses.at, 1 / forest.factor

    def at(losses: Losses, margins: torch.Tensor, cross: bool = True) -> Slopes:
        return Scaled(**vars(plain(losses, margins, cross)), scale=scale)

    with mock.patch.object(Losses, "at", at):
        return on_forest(forest, *PEERS[name][1:], task)


class _Sized:
    """Labels with a length."""

    def __init__(self, y: np.ndarray) -> None:
        self.y, self.ids = y, np.arange(len(y))

    def __len__(self) -> int:
        return len(self.y)


def problem(task: str, n: int, m: int) -> Data:
    """The package's problem as influx holds it."""
    x, y, x_test, y_test = data(task, n, m)
    classes = () if task == "regression" else tuple(map(str, np.unique(y)))
    splits = [
        Split(x=a.astype(np.float32), y=b if classes else b.astype(np.float32), ids=np.arange(len(b)))
        for a, b in ((x, y), (x_test, y_test))
    ]
    kind: Any = "classification" if classes else "regression"
    return Data(name="peer", task=kind, kind="tabular", train=splits[0], test=splits[1], classes=classes)


def seconds(folder: Path, given: Data, learner: TreeLearner, name: str, settings: dict[str, Any]) -> float:
    """The fastest reading of the trained trees with their check and the estimate."""
    estimator, best = estimator_named(name, settings), np.inf
    for _ in range(REPEATS):
        toy = learned(folder, given, learner)  # trained once, then opened from its file
        start = time.process_time()
        estimator.estimate(again(toy).run(estimator, name))
        best = min(best, time.process_time() - start)
    return float(best)


def growth(folder: Path, n: int, m: int, trees: int) -> tuple[float, float]:
    """Seconds of BoostIn, and megabytes by which it raises the memory of a process of its own at its peak."""
    learned(folder, problem("binary", n, m), growing("lightgbm", trees))  # so that the other need not train
    told = [sys.executable, __file__, "--grown", str(folder), f"--n={n}", f"--m={m}", f"--trees={trees}"]
    took, more = subprocess.run(told, check=True, capture_output=True, text=True).stdout.split()
    return float(took), float(more)


def growing(library: str, trees: int) -> TreeLearner:
    """The library's learner for that many trees."""
    return replace(LIBRARIES[library], n_estimators=trees)


def grown(folder: Path, n: int, m: int, trees: int) -> None:
    """Print what ``growth`` reads."""
    given, learner = problem("binary", n, m), growing("lightgbm", trees)
    learned(folder, problem("binary", LEAST, m), learner).estimate("boostin")  # what is imported and set up once
    toy = learned(folder, given, learner)
    Path("/proc/self/clear_refs").write_text("5", "ascii")  # the peak is the memory now
    before = memory("VmRSS")
    again(toy).estimate("boostin")
    more = memory("VmHWM") - before
    print(seconds(folder, given, learner, "boostin", {}), more)


def memory(name: str) -> float:
    """Megabytes of this process: VmRSS now, VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def values_rows(peer: str) -> Iterator[list[str]]:
    """Library, task, method, largest difference, and that with the package's second derivative where it counts."""
    for library in LIBRARIES:
        for task in OBJECTIVES:
            explainers = {
                name: given for name, (given, _, _) in PEERS.items() if task != "regression" or name not in UNLIKE
            }
            given = {"library": library, "task": task, "n": 200, "m": 20, "trees": 10, "repeats": 1}
            found = theirs(peer, **given, explainers=explainers)
            forest = forest_of(found, task)
            for name in explainers:
                cells = [on_forest(forest, *PEERS[name][1:], task)]
                if task == "multiclass" and name in CURVED:
                    cells.append(with_scaled(forest, name, task))
                largest = np.abs(found[name]).max()
                yield [library, task, name, *(f"{np.abs(ours - found[name]).max() / largest:.1e}" for ours in cells)]


def seconds_rows(peer: str | None, folder: Path, n: int, m: int, trees: int, limit: int) -> Iterator[list[str]]:
    """Library, method, n, seconds of both and their ratio; influx alone where there is no package."""
    for library in LIBRARIES:
        learner = growing(library, trees)
        for name in PEERS:
            for size in sorted({n, max(n // SMALLER.get(name, 1), min(n, LEAST))}):
                mine = seconds(folder, problem("binary", size, m), learner, *PEERS[name][1:])
                given = {"library": library, "task": "binary", "n": size, "m": m, "trees": trees}
                both = against(peer, name, mine, given | {"repeats": REPEATS, "limit": limit}) if peer else ("", "")
                yield [library, name, f"{size:,}", both[0], f"{mine:.3f}", both[1]]


def against(peer: str, name: str, mine: float, given: dict[str, Any]) -> tuple[str, str]:
    """Seconds of the package and how many times those of influx they are."""
    try:
        found = theirs(peer, **given, explainers={name: PEERS[name][0]})
    except subprocess.CalledProcessError as error:
        if error.returncode == -signal.SIGXCPU:
            return f"not done in {given['limit']}", f"> {given['limit'] / mine:.0f}"
        return f"ended with {error.returncode}", ""  # it has told why
    took = float(found[f"{name}_seconds"].sum())
    return f"{took:.2f}", f"{took / mine:.1f}"


def show(title: str, head: list[str], rows: Iterator[list[str]], console: Console) -> None:
    """A table, and its rows as they come."""
    table = Table(*head, title=title)
    for cells in rows:
        print(" | ".join(cells), file=sys.stderr, flush=True)
        table.add_row(*cells)
    console.print(table)


def main() -> None:
    """Values, seconds, growth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer")
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--m", type=int, default=100)
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--limit", type=int, default=60, help="seconds for each method of the package")
    parser.add_argument("--grown", type=Path, help=argparse.SUPPRESS)
    asked, console = parser.parse_args(), Console(width=140)
    torch.set_num_threads(1)
    if asked.grown:
        grown(asked.grown, asked.n, asked.m, asked.trees)
        return
    if asked.peer:
        head = ["library", "task", "method", "largest difference", "with the package's second derivative"]
        show("values, n = 200, 10 trees", head, values_rows(asked.peer), console)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        head = ["library", "method", "n", "tree-influence s", "influx s", "ratio"]
        rows = seconds_rows(asked.peer, folder, asked.n, asked.m, asked.trees, asked.limit)
        show(f"m = {asked.m}, {asked.trees} trees, two classes", head, rows, console)
        sizes = [asked.n // 4, asked.n // 2, asked.n, 2 * asked.n]
        times, more = zip(*(growth(folder, n, asked.m, asked.trees) for n in sizes), strict=True)
        exponent = np.polyfit(np.log(sizes), np.log(times), 1)[0]
        told = ", ".join(f"{n}: {t:.3f} s, {mb:.0f} MB" for n, t, mb in zip(sizes, times, more, strict=True))
        console.print(f"boostin, lightgbm, {told} of memory; exponent in n {exponent:.2f}")


if __name__ == "__main__":
    main()
