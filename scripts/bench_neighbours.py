"""Shapley values of nearest neighbours, by influx and by others: seconds, memory and largest difference.

    python scripts/bench_neighbours.py --peer-python PYTHON

PYTHON is an interpreter with ``pip install pyDVL opendataval 'transformers<4.41'``, which pin other versions of torch
and numpy; dattri is run by this one. Each contender runs in a process of its own on the same features, labels and k;
peers that loop over pairs get few test instances, and their seconds are scaled up to all of them. Peers return means
over test instances, so means are compared, with those of a plain numpy computation. Memory is the growth of the
process over its imports and data, the result included. Features are float64 except where a contender says otherwise;
seconds are scaled, memory is not. pyDVL runs in one process, as it does by default.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

CLASSES, WIDTH, K = 10, 64, 5
MEASURED = {"influx": 1000, "numpy": 1000, "opendataval": 1000, "pyDVL": 20, "dattri": 2}  # test instances
REPEATS = {"influx": 5}
Means = Callable[[], np.ndarray]
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def data(n: int, m: int) -> Arrays:
    """Clouds that overlap: training features and labels, then those of test instances."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLASSES, WIDTH))
    y = rng.integers(CLASSES, size=n + m)
    x = 0.3 * centres[y] + rng.normal(size=(n + m, WIDTH))
    return x[:n], y[:n], x[n:], y[n:]


def influx(arrays: Arrays) -> Means:
    """All values (n, m), then their means."""
    from influx.engines.neighbour_games import knn_shapley
    from influx.problem import Split

    x, y, points, labels = arrays
    train, test = Split(x=x, y=y, ids=np.arange(len(y))), Split(x=points, y=labels, ids=np.arange(len(labels)))
    return lambda: knn_shapley(train, test, k=K, classes=CLASSES)


def plain_numpy(arrays: Arrays) -> Means:
    """Distances by subtraction and a stable sort, one test instance at a time."""
    x, y, points, labels = arrays
    n = len(y)
    weights = 1 / np.maximum(K, np.arange(1, n + 1))

    def values() -> np.ndarray:
        out = np.empty((n, len(points)))
        for j, (point, label) in enumerate(zip(points, labels, strict=True)):
            order = np.argsort(np.square(x - point).sum(axis=1), kind="stable")
            hit = (y[order] == label).astype(float)
            steps = (hit - np.append(hit[1:], 0.0)) * weights
            out[order, j] = np.cumsum(steps[::-1])[::-1]
        return out

    return values


def opendataval(arrays: Arrays) -> Means:
    """Means; loops over ranks. It takes no features but in float32."""
    import torch
    from opendataval.dataval.knnshap.knnshap import KNNShapley

    x, y, points, labels = (torch.from_numpy(part) for part in arrays)
    x, points = x.float(), points.float()

    def values() -> np.ndarray:
        evaluator = KNNShapley(k_neighbors=K, batch_size=4096)
        evaluator.input_data(x, y[:, None], points, labels[:, None])
        return evaluator.train_data_values().evaluate_data_values()

    return values


def pydvl(arrays: Arrays) -> Means:
    """Means; loops over ranks of each test instance."""
    from pydvl.valuation import Dataset, KNNShapleyValuation
    from sklearn.neighbors import KNeighborsClassifier

    x, y, points, labels = arrays
    model = KNeighborsClassifier(n_neighbors=K)
    train, test = Dataset(x=x, y=y), Dataset(x=points, y=labels)
    return lambda: np.asarray(KNNShapleyValuation(model, test, progress=False).fit(train).result.values)


def dattri(arrays: Arrays) -> Means:
    """All values; loops over ranks of each test instance. Distances are rounded to float32."""
    import torch
    from dattri.algorithm.data_shapley import KNNShapleyAttributor
    from torch.utils.data import DataLoader, TensorDataset

    x, y, points, labels = (torch.from_numpy(part) for part in arrays)
    train, test = (DataLoader(TensorDataset(*pair), batch_size=4096) for pair in ((x, y), (points, labels)))

    def values() -> np.ndarray:
        return KNNShapleyAttributor(k_neighbors=K).attribute(train, test, y.tolist(), labels.tolist()).numpy().T

    return values


CONTENDERS = {"influx": influx, "numpy": plain_numpy, "opendataval": opendataval, "pyDVL": pydvl, "dattri": dattri}


def work(name: str, n: int, m: int, threads: int, folder: Path) -> None:
    """Run one contender on the first ``MEASURED`` of m test instances; write figures and means."""
    x, y, points, labels = data(n, m)
    count = min(MEASURED[name], m)
    compute = CONTENDERS[name]((x, y, points[:count], labels[:count]))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for repeat in range(REPEATS.get(name, 1)):
        started = time.perf_counter()
        found = compute()
        seconds.append(time.perf_counter() - started)
        if repeat == 0:
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        if repeat < REPEATS.get(name, 1) - 1:
            del found
    means = {}
    for part in {count, *MEASURED.values()}:
        if part <= count and found.ndim == 2:
            means[str(part)] = found[:, :part].mean(axis=1)
    if found.ndim == 1:
        means[str(count)] = found
    np.savez(folder / f"{name}.npz", **means)
    figures = {"first": seconds[0], "best": min(seconds), "megabytes": grown, "count": count}
    (folder / f"{name}.json").write_text(json.dumps(figures))


def compare(n: int, m: int, options: argparse.Namespace, folder: Path) -> None:
    """One table."""
    rows = {}
    for name in CONTENDERS:
        python = options.peer_python if name in ("opendataval", "pyDVL") else sys.executable
        command = [python, __file__, "--worker", name, str(n), str(m), str(folder), "--threads", str(options.threads)]
        environment = os.environ | {"OMP_NUM_THREADS": str(options.threads), "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name}: not run ({(done.stderr.strip() or 'no message').splitlines()[-1]})")
            continue
        rows[name] = json.loads((folder / f"{name}.json").read_text())
    print(f"\n{n} training and {m} test instances, {WIDTH} features, k={K}, {options.threads} threads")
    print(f"{'':12} {'seconds':>9} {'over influx':>11} {'growth MB':>9} {'difference':>10}")
    reference = np.load(folder / "numpy.npz")
    for name, row in rows.items():
        scale = m / row["count"]
        found = np.load(folder / f"{name}.npz")
        difference = max(np.abs(found[part] - reference[part]).max() for part in found.files)
        note = "" if scale == 1 else f"  measured on {row['count']} test instances, scaled linearly"
        ratio = row["best"] * scale / rows["influx"]["best"]
        print(f"{name:12} {row['best'] * scale:9.2f} {ratio:11.1f} {row['megabytes']:9.0f} {difference:10.1e}{note}")
    print(f"influx: best of {REPEATS['influx']} calls, the first took {rows['influx']['first']:.2f} s", flush=True)


def main() -> None:
    """Compare at each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 50_000])
    parser.add_argument("--tests", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--worker", nargs=4, metavar=("NAME", "N", "M", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        name, n, m, folder = options.worker
        work(name, int(n), int(m), options.threads, Path(folder))
        return
    for n in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            compare(n, options.tests, options, Path(folder))


if __name__ == "__main__":
    main()
