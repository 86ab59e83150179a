#!/usr/bin/env python
"""Time leave-one-out and permutation Shapley values of a logistic regression against pyDVL with joblib.

    pip install pyDVL
    python scripts/bench_shapley.py [--permutations 50] [--jobs 2] [--repeats 3] [--peer-python PYTHON]

Breast cancer, 200 training and 100 test instances, two classes, 30 standardised inputs and a column of ones, ridge
penalty on all of them: one optimum on every subset, empty and single-class ones included, so that both train the same
models. Utility: minus the mean log loss on the test set. No truncation, equal numbers of trained models. pyDVL runs
scikit-learn's LogisticRegression (lbfgs, tolerance 1e-6) in ``--jobs`` processes that are started before the clock is;
influx runs in this process with as many threads and writes its bank of models. Minima over repeats. Errors of the
Shapley values are root mean squares against nineteen times as many other permutations by influx. With
``--peer-python`` pyDVL is taken from another environment.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

DECAY, MORE = 0.01, 20
PROBLEM = [
    "dataset=breast_cancer",
    "dataset.n_train=200",
    "dataset.n_test=100",
    "model=logistic",
    f"model.weight_decay={DECAY}",
    "model.penalise_intercept=true",
    "truth=none",
    "metric=[]",
    "baselines=[]",
    "output_dtype=float64",
    "quiet=true",
]

TMC = ["estimator.truncation=0", "estimator.stop=budget", "estimator.antithetic=false"]


def peer(folder: Path, permutations: int, jobs: int) -> None:
    """Leave-one-out and Shapley values by pyDVL, on the data in ``folder``; results and seconds beside them."""
    import joblib
    from pydvl.valuation import Dataset, LOOValuation, MinUpdates, ModelUtility, SupervisedScorer, TMCShapleyValuation
    from pydvl.valuation.samplers.truncation import NoTruncation
    from sklearn.linear_model import LogisticRegression

    data = dict(np.load(folder / "data.npz"))

    class Penalised:
        """Mean log loss over the subset plus DECAY / 2 |w|²."""

        def fit(self, x: Any, y: Any) -> Penalised:
            self.theta = np.zeros(x.shape[1])
            if len(x):
                both = np.unique(y)
                if len(both) == 1:  # scikit-learn refuses: the other class with no weight gives the same optimum
                    x, y = np.vstack([x, x[:1]]), np.append(y, 1 - both[0])
                weights = np.ones(len(x))
                weights[-1] = 1.0 if len(both) == 2 else 0.0
                c = 2 / (DECAY * weights.sum())  # two opposite vectors of half the size carry half the penalty
                made = LogisticRegression(C=c, fit_intercept=False, tol=1e-6, max_iter=1000)
                self.theta = made.fit(x, y, sample_weight=weights).coef_[0]
            return self

        def predict(self, x: Any) -> Any:
            return (x @ self.theta > 0).astype(int)

        def score(self, x: Any, y: Any) -> float:
            return -float(np.logaddexp(0, -(2 * y - 1) * (x @ self.theta)).mean())

        def get_params(self, deep: bool = True) -> dict[str, Any]:
            return {}

        def set_params(self, **given: Any) -> Penalised:
            return self

    train = Dataset(data["x_train"], data["y_train"])
    test = Dataset(data["x_test"], data["y_test"])
    empty = -float(np.log(2))
    utility = ModelUtility(Penalised(), SupervisedScorer(_scorer, test, default=empty))
    told: dict[str, Any] = {}
    methods = {
        "loo": lambda: LOOValuation(utility),
        "shapley": lambda: TMCShapleyValuation(
            utility, truncation=NoTruncation(), is_done=MinUpdates(permutations), seed=0, show_warnings=False
        ),
    }
    with joblib.parallel_config(backend="loky", n_jobs=jobs):
        joblib.Parallel()(joblib.delayed(_warm)() for _ in range(4 * jobs))
        for name, make in methods.items():
            start = time.perf_counter()
            result = make().fit(train).result
            told[name] = {"seconds": time.perf_counter() - start, "counts": float(np.mean(result.counts))}
            np.save(folder / f"{name}.npy", np.asarray(result.values)[np.argsort(result.indices)])
    usage = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    told["peak_mb"] = {"process": usage[0], "largest worker": usage[1]}
    (folder / "told.json").write_text(json.dumps(told), encoding="utf-8")


def _scorer(model: Any, x: Any, y: Any) -> float:
    return float(model.score(x, y))


def _warm() -> int:
    import pydvl.valuation  # noqa: F401
    import sklearn.linear_model  # noqa: F401

    return 0


def own(name: str, settings: list[str], outputs: Path, seed: int = 0) -> tuple[float, np.ndarray, dict[str, Any]]:
    """Seconds, mean influence over the test set, and the report, of a run of influx with an empty bank."""
    import shutil

    import influx

    shutil.rmtree(outputs, ignore_errors=True)
    result = influx.run([*PROBLEM, f"estimator={name}", *settings, f"paths.outputs={outputs}"])
    cost = result.record.section("cost")[name]
    return float(cost["seconds"]), np.asarray(result.influence, np.float64).mean(axis=1), cost


def main() -> None:
    """Run both and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--permutations", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peer is not None:
        peer(given.peer, given.permutations, given.jobs)
        return
    from rich.console import Console
    from rich.table import Table

    from influx.config import compose
    from influx.job import assemble

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = assemble(compose([*PROBLEM, "estimator=loo", f"paths.outputs={folder}"])).problem.data
        arrays = {}
        for name, split in (("train", data.train), ("test", data.test)):
            x = np.asarray(split.x, np.float64).reshape(len(split), -1)
            arrays |= {f"x_{name}": np.hstack([x, np.ones((len(x), 1))]), f"y_{name}": split.y}
        np.savez(folder / "data.npz", **arrays)
        settings = {
            "loo": ("loo", ["estimator.ceiling_budget=0", "estimator.renormalise=true"]),
            "shapley": ("tmc_shapley", [*TMC, f"estimator.permutations={given.permutations}"]),
        }
        seconds = {key: [] for key in settings} | {f"pyDVL {key}": [] for key in settings}
        values, costs = {}, {}
        for _ in range(given.repeats):
            for key, (estimator, options) in settings.items():
                spent, values[key], costs[key] = own(estimator, options, folder / "outputs")
                seconds[key].append(spent)
            command = [given.peer_python, __file__, "--peer", str(folder), "--jobs", str(given.jobs)]
            subprocess.run([*command, "--permutations", str(given.permutations)], check=True)
            told = json.loads((folder / "told.json").read_text(encoding="utf-8"))
            for key in settings:
                seconds[f"pyDVL {key}"].append(told[key]["seconds"])
        many = [*TMC, f"estimator.permutations={MORE * given.permutations}"]
        # the same permutations and others: without the former, the latter are independent of both
        truth = (MORE * own("tmc_shapley", many, folder / "outputs")[1] - values["shapley"]) / (MORE - 1)
        theirs = {key: np.load(folder / f"{key}.npy") for key in settings}
        table = Table(
            "method", "who", "trained models", "seconds", "ratio", "error", title="logistic regression, n = 200"
        )
        for key in settings:
            best, peer_best = min(seconds[key]), min(seconds[f"pyDVL {key}"])
            reference = theirs["loo"] if key == "loo" else truth
            errors = [float(np.sqrt(((v[key] - reference) ** 2).mean())) for v in (values, theirs)]
            trained = f"{costs[key]['trainings']:,}"
            table.add_row(key, "influx", trained, f"{best:.3f}", "1.0", f"{errors[0]:.2e}")
            ratio, updates = peer_best / best, told[key]["counts"]
            table.add_row(key, "pyDVL", f"{updates:.0f} x 200", f"{peer_best:.2f}", f"{ratio:.1f}", f"{errors[1]:.2e}")
        console = Console(width=110)
        console.print(table)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        size = float(np.sqrt((truth**2).mean()))
        console.print(f"peak MB: influx {peak:.0f}, pyDVL {told['peak_mb']}; root mean square Shapley value {size:.2e}")
        console.print(
            "error of loo: difference between the two; of shapley: against 19 times as many other permutations"
        )


if __name__ == "__main__":
    main()
