"""TracInCP by influx and by others: contenders of ``bench_gradients``.

``prepare`` of a contender returns a function that computes the matrix (n_train, n_test) and reads every checkpoint on
the way; imports and data are ready before. Each library is imported only when asked for.
"""

from __future__ import annotations

import importlib
import logging
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

from influx.engines.retrain import Bank
from influx.engines.weighting import weighted_checkpoints
from influx.estimators.trajectory.tracincp import TracInCP
from influx.learners.torch.fitted import TorchFitted, load_parameters
from influx.problem import Problem
from influx.run import Run
from influx.store import Folder

Compute = Callable[[], np.ndarray]


class RefusedError(Exception):
    """A contender cannot do this problem; the message says why."""


@dataclass(frozen=True)
class Option:
    """One way to run a contender; a fallback is tried only where all before it failed."""

    label: str = ""
    batch: int = 0
    sample_wise: bool = True
    fallback: bool = False


@dataclass(frozen=True)
class Trained:
    """A problem and its trained model."""

    problem: Problem
    fitted: TorchFitted

    def weighted(self) -> list[tuple[str, float]]:
        """Files of the checkpoints and their weights."""
        fitted, n = self.fitted, len(self.problem.train)
        pairs = weighted_checkpoints(fitted.checkpoints, fitted.learning_rates, n, None, "next", "paper")
        return [(str(checkpoint.path), weight) for checkpoint, weight in pairs]

    def tensors(self) -> tuple[TensorDataset, TensorDataset]:
        """Training and test instances on the model's device."""
        train, test = self.problem.train, self.problem.test
        return TensorDataset(*self.fitted.tensors(train)), TensorDataset(*self.fitted.tensors(test))


class Contender(Protocol):
    """Someone who computes TracInCP."""

    def options(self, n: int) -> list[Option]:
        """Ways to run on ``n`` training instances, of which the fastest counts."""
        ...

    def prepare(self, trained: Trained, option: Option) -> Compute:
        """Everything that is not timed."""
        ...


class Influx:
    """The estimator ``tracincp``."""

    def options(self, n: int) -> list[Option]:
        """It chooses for itself."""
        return [Option()]

    def prepare(self, trained: Trained, option: Option) -> Compute:
        """Every call has a run of its own, so that nothing is remembered."""
        return self.at("model", trained)

    def at(self, precision: str, trained: Trained) -> Compute:
        """The same in a lower precision."""
        estimator = TracInCP(precision=precision) if precision != "model" else TracInCP()

        def compute() -> np.ndarray:
            bank = Bank(trained.problem, Folder(Path(tempfile.gettempdir())))
            needs = TracInCP.requires
            run = Run(problem=trained.problem, fitted=trained.fitted, bank=bank, requires=needs)
            return np.asarray(estimator.estimate(run).values)

        return compute


class Captum:
    """``captum.influence.TracInCP`` with its sample-wise trick, without it where it refuses."""

    def options(self, n: int) -> list[Option]:
        """Several batch sizes."""
        tried = [Option(f"batches of {b}", b) for b in (n // 40, n // 14, n // 4, n)]
        return [*tried, Option("instance by instance", n // 4, sample_wise=False, fallback=True)]

    def prepare(self, trained: Trained, option: Option) -> Compute:
        """The influence object; it loads checkpoints when asked for influence."""
        from captum.influence import TracInCP as Theirs

        train, test = trained.tensors()
        weights = dict(trained.weighted())

        def load(module: nn.Module, path: str) -> float:
            load_parameters(module, Path(path))
            return weights[path]

        theirs = Theirs(
            trained.fitted.model(),
            train,
            list(weights),
            load,
            loss_fn=nn.CrossEntropyLoss(reduction="sum" if option.sample_wise else "none"),
            batch_size=option.batch,
            sample_wise_grads_per_batch=option.sample_wise,
        )
        return lambda: theirs.influence(test.tensors, k=None).T.cpu().numpy()


class Dattri:
    """``dattri.algorithm.tracin.TracInAttributor`` without projection."""

    def options(self, n: int) -> list[Option]:
        """It recomputes the test gradients for every batch: few batches."""
        return [Option(f"batches of {b}", b) for b in (n // 10, n // 4, n)]

    def prepare(self, trained: Trained, option: Option) -> Compute:
        """Task and loaders."""
        from dattri.algorithm import tracin
        from dattri.task import AttributionTask

        tracin.tqdm = lambda batches, **_: batches  # no progress bars
        model, weighted = trained.fitted.model(), trained.weighted()

        def loss(params: dict[str, Tensor], instance: tuple[Tensor, Tensor]) -> Tensor:
            x, y = instance
            return nn.functional.cross_entropy(functional_call(model, params, x[None]), y[None])

        def load(module: nn.Module, path: str) -> nn.Module:
            load_parameters(module, Path(path))
            return module.eval()

        train, test = trained.tensors()
        loaders = DataLoader(train, option.batch), DataLoader(test, len(test))
        paths, weights = zip(*weighted, strict=True)
        device = str(trained.fitted.device)

        def compute() -> np.ndarray:
            task = AttributionTask(loss, model, list(paths), checkpoints_load_func=load)
            theirs = tracin.TracInAttributor(task, torch.tensor(weights), normalized_grad=False, device=device)
            theirs.projector_kwargs = None  # an argument of None means a projection to 512 numbers
            return theirs.attribute(*loaders).cpu().numpy()

        return compute


class Kronfluence:
    """``kronfluence`` with identity factors: the scores of each checkpoint, weighted and summed."""

    def options(self, n: int) -> list[Option]:
        """Several batch sizes."""
        return [Option(f"batches of {b}", b) for b in (n // 16, n // 4, n)]

    def prepare(self, trained: Trained, option: Option) -> Compute:
        """Tracked model and datasets.

        Raises:
            RefusedError: some parameters are in modules that it does not track.
        """
        from kronfluence.analyzer import Analyzer, prepare_model
        from kronfluence.arguments import FactorArguments, ScoreArguments
        from kronfluence.module.tracked_module import TrackedModule
        from kronfluence.task import Task

        class Classification(Task):
            def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
                x, y = batch
                return nn.functional.cross_entropy(model(x), y, reduction="sum")

            def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
                return self.compute_train_loss(batch, model)

        logging.disable(logging.WARNING)
        task, weighted = Classification(), trained.weighted()
        model = prepare_model(trained.fitted.model(), task)
        # the tracker adds parameters of its own beside the layer it wraps
        tracked = {id(p) for m in model.modules() if isinstance(m, TrackedModule) for p in m.parameters()}
        every = dict(trained.fitted.model().named_parameters())
        left = [n for n, p in model.named_parameters() if id(p) not in tracked]
        if left:
            raise RefusedError(
                f"tracks only Linear and Conv2d: {len(left)} of {len(every)} tensors left out ({left[0]}, …)"
            )
        plain = trained.fitted.model()
        train, test = (TensorDataset(*(t.cpu() for t in part.tensors)) for part in trained.tensors())

        def compute() -> np.ndarray:
            total: Any = 0.0
            with tempfile.TemporaryDirectory() as folder:
                cpu = trained.fitted.device.type == "cpu"
                analyzer = Analyzer("tracin", model, task, cpu=cpu, disable_tqdm=True, output_dir=folder)
                analyzer.fit_all_factors("id", train, factor_args=FactorArguments(strategy="identity"))
                wrapped = dict(model.named_parameters())
                for number, (path, weight) in enumerate(weighted):
                    load_parameters(plain, Path(path))
                    with torch.no_grad():
                        for name, value in plain.named_parameters():
                            owner, _, leaf = name.rpartition(".")
                            wrapped[f"{owner}.original_module.{leaf}"].copy_(value)
                    analyzer.compute_pairwise_scores(
                        str(number),
                        "id",
                        test,
                        train,
                        per_device_query_batch_size=len(test),
                        per_device_train_batch_size=option.batch,
                        score_args=ScoreArguments(),
                    )
                    total = total + weight * analyzer.load_pairwise_scores(str(number))["all_modules"]
            return total.T.cpu().numpy()

        return compute


CONTENDERS: dict[str, Contender] = {
    "influx": Influx(),
    "captum": Captum(),
    "dattri": Dattri(),
    "kronfluence": Kronfluence(),
}


def missing(name: str) -> str:
    """Why a library cannot be imported, or an empty string."""
    try:
        importlib.import_module(name)
    except ImportError as error:
        return f"cannot be imported ({error}); pip install {name}"
    return ""


def quiet() -> None:
    """No advice."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
