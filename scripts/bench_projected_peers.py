"""Projected methods by influx and by others: contenders of ``bench_projected``.

``prepare`` of a way returns a function that computes a matrix (n_train, n_test) from the trained model on; imports,
data and settings are ready before. Ways of one group compute the same quantity up to a factor, each with random
projections of its own, or with the one in ``Given.shared``. Each library is imported only when asked for.
"""

from __future__ import annotations

import importlib
import logging
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from bench_peers import Trained
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from influx.engines.projections import Projector
from influx.engines.retrain import Bank
from influx.estimators.influence_functions.if_ekfac import EKFACInfluence
from influx.estimators.projected.logra import LoGra
from influx.estimators.projected.trak import Trak
from influx.estimators.trajectory.tracinrp import TracInRP
from influx.run import Run
from influx.trained import trained_problem as trained_problem  # what TRAK imports when it runs

Compute = Callable[[], Any]
LOGRA_RANK = 32
LOGRA_DAMPING = 0.1  # over each layer's mean eigenvalue: what influx takes


@dataclass(frozen=True)
class Given:
    """A trained problem, the numbers of a projection and the damping; ``seed`` numbers influx's own projections."""

    trained: Trained
    dim: int
    damping: float  # λ of ΦᵀΦ + λI, where entries of P have variance 1/D
    seed: int = 0
    shared: Tensor | None = None  # (p, D)

    @property
    def size(self) -> int:
        """Parameters p."""
        return sum(p.numel() for p in self.trained.fitted.model().parameters())

    def run(self, estimator: Any, fresh: bool = True) -> Any:
        """What an estimator finds; ``fresh`` forgets stored projections first."""
        fitted, problem = self.trained.fitted, replace(self.trained.problem, seed=self.seed)
        if fresh:
            shutil.rmtree(fitted.folder / "projected", ignore_errors=True)
        bank = Bank(problem, fitted.folder.sub("retrain"))
        return estimator.estimate(Run(problem=problem, fitted=fitted, bank=bank, requires=estimator.requires))


@dataclass(frozen=True)
class Way:
    """One way to compute the quantity of a group. ``check`` says that it is there for its numbers, not its time."""

    library: str
    label: str
    group: str
    prepare: Callable[[Given], Compute]
    check: bool = False


def _influx(make: Callable[[Given], Any], fresh: bool = True) -> Callable[[Given], Compute]:
    return lambda given: lambda: given.run(make(given), fresh).values


def _trak(kind: Any) -> Callable[[Given], Trak]:
    return lambda given: Trak(dim=given.dim, kind=kind, damping=given.damping, self_influence=False)


def _other(make: Callable[[Given], Any]) -> Callable[[Given], Compute]:
    return lambda given: _influx(make)(replace(given, seed=given.seed + 1))


def drawn(given: Given) -> Tensor:
    """``(p, D)`` influx's Gaussian projection at the last checkpoint, whole."""
    trained = given.trained
    run = Run(
        problem=replace(trained.problem, seed=given.seed),
        fitted=trained.fitted,
        bank=Bank(trained.problem, trained.fitted.folder.sub("retrain")),
        requires=Trak.requires,
    )
    seed = int(run.drawn(f"projection/{run.final.step}").integers(1 << 63))
    projector, like = Projector(given.dim, "gaussian", seed, given.size), torch.empty(0)
    count = -(-given.size // projector._width)
    return torch.cat([projector._draw(number, like) for number in range(count)]) * given.dim**-0.5


def _traker(batch: int, shared: bool = False) -> Callable[[Given], Compute]:
    """``trak.TRAKer`` with its block-wise projector for processors, in single precision."""

    def prepare(given: Given) -> Compute:
        from trak import TRAKer
        from trak import traker as theirs
        from trak.projectors import AbstractProjector

        theirs.tqdm = lambda items, **_: items  # no progress bars
        train, test = given.trained.tensors()
        module = given.trained.fitted.model()
        state = {name: value.clone() for name, value in module.state_dict().items()}

        class Shared(AbstractProjector):
            def __init__(self, matrix: Tensor) -> None:
                super().__init__(matrix.shape[0], matrix.shape[1], 0, "normal", "cpu")
                self.matrix = matrix * given.dim**0.5  # as theirs: entries of variance one

            def project(self, grads: Any, model_id: int) -> Tensor:
                return torch.cat([g.flatten(1) for g in grads.values()], 1) @ self.matrix

        def compute() -> Any:
            with tempfile.TemporaryDirectory() as folder:
                made = TRAKer(
                    model=module,
                    task="image_classification",
                    train_set_size=len(train),
                    save_dir=folder,
                    device="cpu",
                    projector=Shared(given.shared) if shared and given.shared is not None else None,
                    proj_dim=given.dim,
                    use_half_precision=False,
                    lambda_reg=given.damping * given.dim / given.size,  # its gradients are over √p, its P times √D
                    logging_level=logging.CRITICAL,
                )
                made.load_checkpoint(state, model_id=0)
                for x, y in DataLoader(train, batch):
                    made.featurize(batch=(x, y), num_samples=len(x))
                made.finalize_features()
                made.start_scoring_checkpoint("bench", state, model_id=0, num_targets=len(test))
                for x, y in DataLoader(test, batch):
                    made.score(batch=(x, y), num_samples=len(x))
                return np.array(made.finalize_scores("bench"))

        return compute

    return prepare


def _dattri_trak(batch: int, shared: bool = False) -> Callable[[Given], Compute]:
    """``dattri.algorithm.trak.TRAKAttributor`` with its block-wise projector for processors."""

    def prepare(given: Given) -> Compute:
        from dattri.algorithm import trak as theirs
        from dattri.task import AttributionTask

        theirs.tqdm = lambda items, **_: items
        theirs.random_project = importlib.import_module("dattri.func.projection").random_project
        if shared:
            theirs.random_project = lambda *_, **__: lambda grads, ensemble_id: grads @ given.shared
        train, test = given.trained.tensors()
        model = given.trained.fitted.model()

        def outputs(params: Any, instance: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return functional_call(model, params, instance[0][None]), instance[1][None]

        def margin(params: Any, instance: tuple[Tensor, Tensor]) -> Tensor:
            p = torch.exp(-cross_entropy(*outputs(params, instance)))
            return torch.log(p / (1 - p))

        def probability(params: Any, instance: tuple[Tensor, Tensor]) -> Tensor:
            return torch.exp(-cross_entropy(*outputs(params, instance)))

        def compute() -> Any:
            task = AttributionTask(loss_func=margin, model=model, checkpoints=model.state_dict())
            made = theirs.TRAKAttributor(
                task=task,
                correct_probability_func=probability,
                projector_kwargs={"proj_dim": given.dim, "device": "cpu"},
                regularization=given.damping / given.size,  # its gradients are over √p
            )
            made.cache(DataLoader(train, batch))
            return made.attribute(DataLoader(test, batch)).detach()

        return compute

    return prepare


class Batched(nn.Module):
    """Takes one instance without an axis of instances too, which dattri tries first."""

    def __init__(self, net: nn.Module, axes: int) -> None:
        super().__init__()
        self.net, self.axes = net, axes

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of a batch."""
        outputs: Tensor = self.net(x if x.ndim == self.axes else x[None])
        return outputs


def _dattri_logra(batch: int) -> Callable[[Given], Compute]:
    """``dattri.algorithm.logra.LoGraAttributor``, which knows linear layers only, with gradients kept in memory."""

    def prepare(given: Given) -> Compute:
        from dattri.algorithm.block_projected_if import block_projected_if as module
        from dattri.algorithm.logra import LoGraAttributor
        from dattri.task import AttributionTask

        module.tqdm = lambda items, **_: items
        train, test = given.trained.tensors()
        model = Batched(given.trained.fitted.model(), train.tensors[0].ndim)

        def loss(net: nn.Module, batch: Any, device: str) -> Tensor:
            return cross_entropy(net(batch[0].to(device)), batch[1].to(device), reduction="sum")

        def compute() -> Any:
            torch.manual_seed(0)
            with tempfile.TemporaryDirectory() as folder:
                task = AttributionTask(loss_func=loss, model=model, checkpoints=model.state_dict())
                made = LoGraAttributor(
                    task=task, damping=LOGRA_DAMPING, proj_dim=LOGRA_RANK**2, offload="cpu", cache_dir=folder
                )
                made.cache(DataLoader(train, batch))
                return made.attribute(DataLoader(train, batch), DataLoader(test, batch)).detach() / len(train)

        return compute

    return prepare


def _kronfluence(batch: int) -> Callable[[Given], Compute]:
    """EK-FAC influence with the empirical Fisher matrix, and its own choice of damping."""

    def prepare(given: Given) -> Compute:
        from kronfluence.analyzer import Analyzer, prepare_model
        from kronfluence.arguments import FactorArguments, ScoreArguments
        from kronfluence.task import Task

        class Classification(Task):
            def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
                return cross_entropy(model(batch[0]), batch[1], reduction="sum")

            def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
                return self.compute_train_loss(batch, model)

        task = Classification()
        model = prepare_model(given.trained.fitted.model(), task)
        train, test = given.trained.tensors()

        def compute() -> Any:
            with tempfile.TemporaryDirectory() as folder:
                analyzer = Analyzer("if", model, task, cpu=True, disable_tqdm=True, output_dir=folder)
                factors = FactorArguments(strategy="ekfac", use_empirical_fisher=True)
                analyzer.fit_all_factors("f", train, per_device_batch_size=batch, factor_args=factors)
                sizes = {"per_device_query_batch_size": len(test), "per_device_train_batch_size": batch}
                scored = ScoreArguments(damping_factor=None)
                analyzer.compute_pairwise_scores("s", "f", test, train, score_args=scored, **sizes)
                return analyzer.load_pairwise_scores("s")["all_modules"].T / len(train)

        return compute

    return prepare


def ways(n: int) -> list[Way]:
    """All of them; the first of a group is its reference. Peers get batches that suit ``n`` instances."""
    batches = (n // 14, n // 4)
    found = [
        Way("influx", "gaussian", "trak", _influx(_trak("gaussian"))),
        Way("influx", "gaussian, read from disk", "trak", _influx(_trak("gaussian"), fresh=False)),
        Way("influx", "gaussian, another seed", "trak", _other(_trak("gaussian")), check=True),
        Way("influx", "rademacher", "trak", _influx(_trak("rademacher"))),
        Way("influx", "sparse, the default", "trak", _influx(_trak("sparse"))),
        Way("influx", "two_sided", "trak", _influx(_trak("two_sided"))),
    ]
    for batch in batches:
        found.append(Way("traker", f"batches of {batch}", "trak", _traker(batch)))
        found.append(Way("dattri", f"batches of {batch}", "trak", _dattri_trak(batch)))
    found += [
        Way("traker", "influx's projection", "trak", _traker(batches[0], shared=True), check=True),
        Way("dattri", "influx's projection", "trak", _dattri_trak(batches[0], shared=True), check=True),
        Way("influx", f"rank {LOGRA_RANK}, linear layers", "logra", _influx(_logra)),
        Way("influx", f"rank {LOGRA_RANK}, another seed", "logra", _other(_logra), check=True),
        Way("influx", f"rank {LOGRA_RANK}, all layers", "logra", _influx(_logra_of_all), check=True),
        *(Way("dattri", f"rank {LOGRA_RANK}, batches of {b}", "logra", _dattri_logra(b)) for b in batches),
        Way("influx", "empirical Fisher", "ekfac", _influx(_ekfac)),
        *(Way("kronfluence", f"batches of {b}", "ekfac", _kronfluence(b)) for b in batches),
        Way("influx", "last checkpoint", "tracinrp", _influx(_tracinrp)),
    ]
    return found


def _ekfac(given: Given) -> EKFACInfluence:
    return EKFACInfluence(curvature="empirical_fisher", self_influence=False, whole=0)


def _logra(given: Given) -> LoGra:
    """Of the layers that dattri knows."""
    modules = given.trained.fitted.model().named_modules()
    names = [name for name, module in modules if isinstance(module, nn.Linear)]
    return LoGra(rank=LOGRA_RANK, parameters=names, self_influence=False)


def _logra_of_all(given: Given) -> LoGra:
    return LoGra(rank=LOGRA_RANK, self_influence=False)


def _tracinrp(given: Given) -> TracInRP:
    return TracInRP(dim=given.dim, checkpoints=1, lr_at="prev", weight="uniform", curve_tests=0)


def missing(name: str) -> str:
    """Why a library cannot be imported, or an empty string."""
    modules = {"traker": "trak"}
    try:
        importlib.import_module(modules.get(name, name))
    except ImportError as error:
        return f"cannot be imported ({error}); pip install {name}"
    return ""
