"""Damped influence functions by other libraries: contenders of ``bench_curvature``, and the process that runs them.

Needs numpy, torch and the one library that is asked for, so that each may live in an environment of its own. The
problem comes as ``problem.npz``: weights of a fully connected tanh net, data, and the damping (weight decay included,
as their losses are plain cross-entropies). ``Way.prepare`` does what is not timed; the function that it returns
computes (1/n) ∇L(z_j)ᵀ (C + δI)⁻¹ ∇L(z_i) as a matrix (n_train, n_test). Each library's own scale is converted:
dattri and pyDVL leave out 1/n, captum sums over instances and so needs δn as its damping, LiSSA's damping is δ over its
scale in dattri.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import re
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

DENSE = 12_000  # parameters from which whole matrices are not tried
MEMORY = 16 << 30  # bytes that a process may take
PROBLEM = "problem.npz"
VALUES = "values.npy"
HESSIAN, EMPIRICAL = "hessian", "empirical fisher"
Compute = Callable[[], Any]


@dataclass(frozen=True)
class Given:
    """A trained net and its data on a device; ``damping`` is all that is added to the curvature."""

    folder: Path
    device: str
    model: nn.Sequential
    damping: float
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor

    @classmethod
    def read(cls, folder: Path, device: str) -> Given:
        """From ``problem.npz``."""
        found = dict(np.load(folder / PROBLEM))
        layers: list[nn.Module] = []
        for number in range(int(found["layers"])):
            weight, bias = (torch.from_numpy(found[f"{kind}{number}"]) for kind in ("weight", "bias"))
            layer = nn.Linear(weight.shape[1], weight.shape[0])
            layer.load_state_dict({"weight": weight, "bias": bias})
            layers += [nn.Tanh(), layer] if number else [layer]
        data = {key: torch.from_numpy(found[key]).to(device) for key in ("x_train", "y_train", "x_test", "y_test")}
        return cls(folder, device, nn.Sequential(*layers).to(device).eval(), float(found["damping"]), **data)

    @property
    def n(self) -> int:
        """Training instances."""
        return len(self.x_train)

    def sets(self) -> tuple[TensorDataset, TensorDataset]:
        """Training and test instances."""
        return TensorDataset(self.x_train, self.y_train), TensorDataset(self.x_test, self.y_test)


@dataclass(frozen=True)
class Way:
    """One way to compute influence. ``kind`` names the curvature that it is about, ``method`` what it is like."""

    method: str
    label: str
    kind: str
    prepare: Callable[[Given], Compute]
    most: float = float("inf")  # parameters


def _dattri(name: str, damping: str = "regularization", **settings: Any) -> Callable[[Given], Compute]:
    """An attributor on one full batch: over several it averages inverses, not curvatures."""
    scale = settings.get("scaling", 1.0)

    def prepare(given: Given) -> Compute:
        from dattri.algorithm import base, influence_function
        from dattri.task import AttributionTask

        base.tqdm = lambda batches, **_: batches  # no progress bars

        def loss(params: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
            outputs = torch.func.functional_call(given.model, params, data[0].reshape(-1, given.x_train.shape[1]))
            return cross_entropy(outputs, data[1].reshape(-1).long())

        train, test = given.sets()
        loaders = DataLoader(train, given.n), DataLoader(test, len(test))

        def compute() -> Any:
            torch.manual_seed(0)
            task = AttributionTask(loss_func=loss, model=given.model, checkpoints=given.model.state_dict())
            make = getattr(influence_function, f"IFAttributor{name}")
            theirs = make(task=task, device=given.device, **settings, **{damping: given.damping / scale})
            theirs.cache(loaders[0])
            return theirs.attribute(*loaders) / given.n

        return compute

    return prepare


def _pydvl(name: str, batch: int | None = None, **settings: Any) -> Callable[[Given], Compute]:
    """An influence model of ``pydvl.influence.torch``, with its cross-entropy."""

    def prepare(given: Given) -> Compute:
        import pydvl.influence.torch as theirs

        loader = DataLoader(given.sets()[0], batch or given.n)
        own: dict[str, Any] = {"loss": cross_entropy, "regularization": given.damping}
        own = {"hessian_regularization": given.damping} if name == "Ekfac" else own

        def compute() -> Any:
            torch.manual_seed(0)
            fitted = getattr(theirs, f"{name}Influence")(given.model, **own, **settings).fit(loader)
            return fitted.influences(given.x_test, given.y_test, given.x_train, given.y_train).T / given.n

        return compute

    return prepare


def _captum(name: str, **settings: Any) -> Callable[[Given], Compute]:
    """An influence function of captum: curvature of the sum, so that values have our scale."""

    def prepare(given: Given) -> Compute:
        from captum.influence._core import arnoldi_influence_function, influence_function

        module = arnoldi_influence_function if name == "Arnoldi" else influence_function

        def compute() -> Any:
            torch.manual_seed(0)
            theirs = getattr(module, f"{name}InfluenceFunction")(
                given.model,
                given.sets()[0],
                checkpoint="",
                checkpoints_load_func=lambda module, path: 1.0,
                loss_fn=nn.CrossEntropyLoss(reduction="sum"),
                batch_size=given.n,
                sample_wise_grads_per_batch=True,
                hessian_reg=given.damping * given.n,
                **settings,
            )
            return theirs.influence((given.x_test, given.y_test)).T

        return compute

    return prepare


def _kronfluence(**settings: Any) -> Callable[[Given], Compute]:
    """Factors and pairwise scores, written to a temporary folder as it wants."""

    def prepare(given: Given) -> Compute:
        from kronfluence.analyzer import Analyzer, prepare_model
        from kronfluence.arguments import FactorArguments, ScoreArguments
        from kronfluence.task import Task

        class Classification(Task):
            def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
                outputs = model(batch[0])
                drawn = torch.multinomial(outputs.detach().softmax(-1), 1).flatten() if sample else batch[1]
                return cross_entropy(outputs, drawn, reduction="sum")

            def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
                return self.compute_train_loss(batch, model)

        task = Classification()
        model = prepare_model(given.model, task)
        train, test = (TensorDataset(*(t.cpu() for t in part.tensors)) for part in given.sets())

        def compute() -> Any:
            torch.manual_seed(0)
            with tempfile.TemporaryDirectory() as folder:
                cpu = not given.device.startswith("cuda")
                analyzer = Analyzer("if", model, task, cpu=cpu, disable_tqdm=True, output_dir=folder)
                factor = FactorArguments(strategy="ekfac", **settings)
                analyzer.fit_all_factors("f", train, per_device_batch_size=given.n, factor_args=factor)
                sizes = {"per_device_query_batch_size": len(test), "per_device_train_batch_size": given.n}
                scored = ScoreArguments(damping_factor=given.damping)
                analyzer.compute_pairwise_scores("s", "f", test, train, score_args=scored, **sizes)
                return analyzer.load_pairwise_scores("s")["all_modules"].T / given.n

        return compute

    return prepare


STEPS = {"batch_size": 32, "recursion_depth": 500, "num_repeat": 4}
WAYS: dict[str, list[Way]] = {
    "dattri": [
        Way("exact", "explicit", HESSIAN, _dattri("Explicit"), DENSE),
        Way("cg", "10 steps (default)", HESSIAN, _dattri("CG")),
        Way("cg", "50 steps", HESSIAN, _dattri("CG", max_iter=50)),
        Way("lissa", "5,000 of 1, scale 50 (default)", HESSIAN, _dattri("LiSSA", "damping", scaling=50.0)),
        Way("lissa", "4 x 500 of 32, scale 2", HESSIAN, _dattri("LiSSA", "damping", scaling=2.0, **STEPS)),
        Way("arnoldi", "100 of 100 (default)", HESSIAN, _dattri("Arnoldi")),
        Way("arnoldi", "100 of 200", HESSIAN, _dattri("Arnoldi", max_iter=200)),
        Way("datainf", "default", EMPIRICAL, _dattri("DataInf")),
        Way("ekfac", "default", EMPIRICAL, _dattri("EKFAC", "damping")),
    ],
    "pydvl": [
        Way("exact", "direct", HESSIAN, _pydvl("Direct"), DENSE),
        Way("cg", "one by one (default)", HESSIAN, _pydvl("Cg")),
        Way("cg", "block", HESSIAN, _pydvl("Cg", solve_simultaneously=True)),
        Way("lissa", "1,000 of 32, scale 10 (default)", HESSIAN, _pydvl("Lissa", 32)),
        Way("lissa", "1,000 of 32, scale 2", HESSIAN, _pydvl("Lissa", 32, scale=2.0)),
        Way("lissa", "1,000 of all, scale 1", HESSIAN, _pydvl("Lissa", scale=1.0)),
        Way("arnoldi", "rank 10 (default)", HESSIAN, _pydvl("Arnoldi")),
        Way("arnoldi", "rank 100", HESSIAN, _pydvl("Arnoldi", rank=100)),
        Way("nystrom", "rank 100", HESSIAN, _pydvl("NystroemSketch", rank=100)),
        Way("ekfac", "default", "ggn", _pydvl("Ekfac")),
        Way("ekfac", "updated diagonal", "ggn", _pydvl("Ekfac", update_diagonal=True)),
    ],
    "captum": [
        Way("exact", "naive, all directions", HESSIAN, _captum("Naive", projection_dim=DENSE), DENSE),
        Way("arnoldi", "50 of 200 (default)", HESSIAN, _captum("Arnoldi")),
        Way("arnoldi", "100 of 200", HESSIAN, _captum("Arnoldi", projection_dim=100)),
    ],
    "kronfluence": [
        Way("ekfac", "sampled labels (default)", "ggn", _kronfluence()),
        Way("ekfac", "own labels", EMPIRICAL, _kronfluence(use_empirical_fisher=True)),
    ],
}


def ways(library: str) -> list[Way]:
    """Ways of a library; influx's are in a module that the others do not need."""
    return importlib.import_module("bench_curvature_cases").WAYS if library == "influx" else WAYS[library]


def timed(compute: Compute, device: str) -> tuple[float, Any]:
    """Seconds and result."""
    synchronise = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    synchronise()
    start = time.perf_counter()
    result = compute()
    synchronise()
    return time.perf_counter() - start, result


def peak(device: str) -> float:
    """Largest memory of this process so far in MB: the accelerator's where there is one, else the processor's."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 1e6
    if sys.platform == "linux":  # where rusage of a child starts at its parent's
        return int(re.findall(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1 << 20)


def main() -> None:
    """Run the ways whose numbers come in, line by line; answer each with a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(args.threads)
    if args.device == "cpu" and sys.platform == "linux":  # an error, before the system kills some process
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    ready: dict[int, Compute] = {}
    for line in sys.stdin:
        try:
            number = int(line)
            if number not in ready:
                ready[number] = ways(args.library)[number].prepare(Given.read(args.folder, args.device))
            before = peak(args.device)
            seconds, values = timed(ready[number], args.device)
            found: dict[str, Any] = {"seconds": seconds, "before_mb": before, "peak_mb": peak(args.device)}
            np.save(args.folder / VALUES, values.detach().cpu().numpy() if isinstance(values, Tensor) else values)
        except Exception as error:  # whatever a library raises is why it refuses
            reason = str(error).strip().splitlines() or [""]
            found = {"refused": f"{type(error).__name__}: {reason[0]}"[:300]}
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
