#!/usr/bin/env python
"""Tree methods against the tree-influence package: same values, and seconds at n = 20,000.

    python scripts/bench_trees.py --peer /path/to/python [--n 20000] [--trees 100] [--m 100]

``--peer`` is an interpreter with tree-influence 0.1.7, lightgbm 3.3, xgboost 1.5, catboost, pandas below 2.1 and
scikit-learn below 1.2. Values: the package's own trees, read as arrays, go through influx's computations; largest
difference relative to the largest value. Seconds: the package's ``fit`` and ``get_local_influence`` of a trained model
against ``estimate`` of influx on a model of its own with the same settings, reading and checking the trees included;
the fastest of three, in seconds of the processor, one thread each. Then BoostIn alone for doubling n: seconds, and the
rise of the peak of memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from bench_trees_peer import data
from rich.console import Console
from rich.table import Table

from influx.engines.forest import Forest, Objective
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
}
LIBRARIES: dict[str, TreeLearner] = {"lightgbm": LightGBM(), "xgboost": XGBoost(max_depth=5, learning_rate=0.3)}
OBJECTIVES: dict[str, Any] = {"regression": "squared_error", "binary": "logistic", "multiclass": "softmax"}


def theirs(peer: str, **asked: Any) -> dict[str, np.ndarray]:
    """What the package computed."""
    script = Path(__file__).with_name("bench_trees_peer.py")
    with tempfile.TemporaryDirectory() as folder:
        asked["out"] = f"{folder}/out.npz"
        subprocess.run([peer, "-W", "ignore", str(script), json.dumps(asked)], check=True)
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
    """The fastest of three, each on trees that are read from their file anew."""
    best = np.inf
    for _ in range(3):
        toy = learned(folder, given, learner)  # trained once
        start = time.process_time()
        toy.estimate(name, **settings)
        best = min(best, time.process_time() - start)
    return float(best)


def growth(folder: Path, n: int, m: int) -> tuple[float, float]:
    """Seconds of BoostIn, and megabytes by which it raises the memory of a process of its own at its peak."""
    learned(folder, problem("binary", n, m), LIBRARIES["lightgbm"])  # trained here, so that the other need not
    told = [sys.executable, __file__, "--grown", str(folder), "--n", str(n), "--m", str(m)]
    took, more = subprocess.run(told, check=True, capture_output=True, text=True).stdout.split()
    return float(took), float(more)


def grown(folder: Path, n: int, m: int) -> None:
    """Print them."""
    given, learner = problem("binary", n, m), LIBRARIES["lightgbm"]
    learned(folder, problem("binary", 200, m), learner).estimate("boostin")  # what is imported and set up once
    toy = learned(folder, given, learner)
    Path("/proc/self/clear_refs").write_text("5", "ascii")  # the peak is the memory now
    before = memory("VmRSS")
    toy.estimate("boostin")
    more = memory("VmHWM") - before
    print(seconds(folder, given, learner, "boostin", {}), more)


def memory(name: str) -> float:
    """Megabytes of this process: VmRSS now, VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def main() -> None:
    """Values, seconds, growth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer")
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--m", type=int, default=100)
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--grown", type=Path, help=argparse.SUPPRESS)
    asked, console = parser.parse_args(), Console(width=140)
    torch.set_num_threads(1)
    if asked.grown:
        grown(asked.grown, asked.n, asked.m)
        return
    if asked.peer:
        table = Table("library", "task", "method", "largest difference", title="values, n = 200, 10 trees")
        for library in LIBRARIES:
            for task in OBJECTIVES:
                explainers = {
                    name: given for name, (given, _, _) in PEERS.items() if (name, task) != ("Trex", "regression")
                }
                found = theirs(asked.peer, library=library, task=task, n=200, m=20, trees=10, explainers=explainers)
                forest = forest_of(found, task)
                for name in explainers:
                    ours = on_forest(forest, PEERS[name][1], PEERS[name][2], task)
                    gap = np.abs(ours - found[name]).max() / np.abs(found[name]).max()
                    table.add_row(library, task, name, f"{gap:.1e}")
        console.print(table)
    table = Table("library", "method", "tree-influence s", "influx s", "ratio", title=f"n = {asked.n}, m = {asked.m}")
    with tempfile.TemporaryDirectory() as folder:
        for library, learner in LIBRARIES.items():
            some = {name: PEERS[name][0] for name in ("BoostIn", "LeafInfluenceSP")}
            given = {"library": library, "task": "binary", "n": asked.n, "m": asked.m, "trees": asked.trees}
            found = theirs(asked.peer, **given, explainers=some) if asked.peer else {}
            for name in (*some, "LeafInfluence"):
                mine = seconds(Path(folder), problem("binary", asked.n, asked.m), learner, *PEERS[name][1:])
                known = f"{name}_seconds" in found
                took = float(found[f"{name}_seconds"].sum()) if known else np.nan
                table.add_row(library, name, f"{took:.2f}", f"{mine:.2f}", f"{took / mine:.1f}")
        console.print(table)
        sizes = [asked.n // 4, asked.n // 2, asked.n, 2 * asked.n]
        times, more = zip(*(growth(Path(folder), n, asked.m) for n in sizes), strict=True)
        exponent = np.polyfit(np.log(sizes), np.log(times), 1)[0]
        told = ", ".join(f"{n}: {t:.3f} s, {mb:.0f} MB" for n, t, mb in zip(sizes, times, more, strict=True))
        console.print(f"boostin, lightgbm, {told} of memory; exponent in n {exponent:.2f}")


if __name__ == "__main__":
    main()
