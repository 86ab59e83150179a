"""Gradient similarity over checkpoints: Σ_c w_c ⟨g_i, g_j⟩ and its relatives.

An estimator of this family is a point of it: which parameters, which comparison of gradients (see ``kernels``),
which checkpoints and weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from influx.engines import precision as lower
from influx.engines.attribution import doubted_work, doubts
from influx.engines.curves import Curves
from influx.engines.gradients import BLOCK_BYTES, HELD, Gradients, Select
from influx.engines.kernels import Block, Kernel
from influx.engines.path import Path
from influx.engines.precision import Precision
from influx.engines.projections import Kind, projection_flops
from influx.engines.shares import Compared
from influx.engines.spread import JACKKNIFE, Spread
from influx.engines.stored import Store, stored_bytes
from influx.engines.weighting import RateAt, Weight, used_of, weighted_checkpoints
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.problem import Checkpoint

if TYPE_CHECKING:
    from influx.run import Run

Choose = Literal["even", "loss_drop"]


def checkpoints_used(prospect: Prospect, settings: Checkpointed) -> int:
    """How many of the checkpoints that will be saved are used.

    Raises:
        ConfigError: fewer are saved than asked for.
    """
    return used_of(len(prospect.net.saved), settings.checkpoints, settings.weight)


def mean_losses(gradients: Gradients, saved: list[Checkpoint]) -> NDArray[np.float64]:
    """Mean test risk at each checkpoint, in float64."""
    fitted, test = gradients.fitted, gradients.test
    y = fitted.tensors(test)[1]
    exact = y.double() if y.is_floating_point() else y
    outputs = (fitted.outputs(fitted.model(checkpoint.step), test).double() for checkpoint in saved)
    return np.array([float(fitted.task.loss(found, exact).mean()) for found in outputs])


@dataclass(frozen=True)
class Similarity:
    """``values`` (n_train, n_test), ``self_values`` (n_train,), and the count of gradients that vanished."""

    values: NDArray[np.float64]
    self_values: NDArray[np.float64]
    vanished: int


def gradient_similarity(
    blocks: Iterable[tuple[Checkpoint, float, Block]],
    values: NDArray[np.float64],
    curves: Curves,
    spread: tuple[Spread, NDArray[np.float64]] | None = None,
) -> Similarity:
    """Σ_c w_c k(g_i, g_j); ``values`` and the matrix beside ``spread`` hold zeros and take the sums."""
    own, vanished, sums = np.zeros(len(values)), 0, torch.from_numpy(values)
    for checkpoint, weight, block in blocks:
        rows, columns = block.rows, block.columns
        found = block.values.cpu()
        sums[rows, columns].add_(found, alpha=weight)
        curves.add(checkpoint.step, rows, columns, found.numpy(), weight)
        if spread is not None:
            spread[1][rows, columns] += spread[0].term(block, weight).cpu().numpy()
        if columns.start == 0:
            mine = weight * block.own.double().cpu().numpy()
            own[rows] += mine
            curves.add_own(checkpoint.step, rows, mine)
            vanished += block.vanished
    return Similarity(values, own, vanished)


@dataclass(frozen=True, kw_only=True)
class Checkpointed:
    """What estimators that sum over checkpoints share: their settings, and all but the comparison of gradients."""

    requires: ClassVar[frozenset[Need]] = frozenset({Need.CHECKPOINTS, Need.GRADIENTS})
    checkpoints: int | None = None
    choose: Choose = "even"
    lr_at: RateAt = "next"
    weight: Weight = "paper"
    jackknife: bool = False
    precision: Precision = "model"
    curve_tests: int = 3

    def __post_init__(self) -> None:
        """Check ranges; a uniform sum needs no learning rates."""
        if self.weight == "uniform":
            object.__setattr__(self, "requires", self.requires - {Need.CHECKPOINTS} | {Need.STATES})
        if self.curve_tests < 0:
            raise ConfigError(f"estimator.curve_tests must not be negative, got {self.curve_tests}; use 0 for none")
        if self.choose == "loss_drop" and self.checkpoints is None:
            raise ConfigError(
                "estimator.choose=loss_drop keeps some of the checkpoints, estimator.checkpoints=null keeps all; "
                "set for example estimator.checkpoints=3"
            )

    def plan(self, prospect: Prospect) -> Work:
        """Gradients and products at every checkpoint used."""
        return similarity_work(prospect, self)

    def weighted(self, run: Run) -> list[tuple[Checkpoint, float]]:
        """The checkpoints used and their weights."""
        saved = run.states if Need.STATES in run.requires else run.checkpoints
        between = self.weight == "calibrated" or (self.weight == "paper" and self.lr_at != "next")
        rates = run.learning_rates if between else run.gradients.fitted.learning_rates
        losses = mean_losses(run.gradients, saved) if self.choose == "loss_drop" else None
        n = len(run.train)
        return weighted_checkpoints(saved, rates, n, self.checkpoints, self.lr_at, self.weight, losses)

    def influence(
        self,
        run: Run,
        kernel: Kernel,
        *,
        scale: Scale = "rank",
        select: Select = "all",
        spread: Spread | None = None,
        note: str = "",
        report: Mapping[str, Any] | None = None,
        gradients: Gradients | None = None,
    ) -> Influence:
        """Compare by ``kernel``; ``spread`` is the standard error unless ``jackknife`` asks for that of checkpoints.

        ``gradients`` replace those of the run's risk.
        """
        weighted, gradients = self.weighted(run), gradients or run.gradients
        if self.jackknife and len(weighted) < 2:
            raise ConfigError(
                f"estimator.jackknife leaves out one checkpoint after the other and needs 2, got {len(weighted)}; "
                "raise estimator.checkpoints or training.checkpoints"
            )
        kind = JACKKNIFE if self.jackknife else spread
        curves = Curves(run.train, run.test, [c.step for c, _ in weighted], self.curve_tests)
        measured = self._precision_error(run, gradients, weighted[0][0], kernel, select)
        with lower.computing(self.precision, gradients.fitted.device, gradients.fitted.recipe.dtype):
            compared = Compared(gradients, weighted, kernel, select, lower.dtype_of(self.precision))
            blocks = compared.blocks(run, self)  # before there are matrices: a worker goes no further
            values, beside = run.zeros(), (kind, run.zeros()) if kind else None
            found = gradient_similarity(blocks, values, curves, beside)
        if beside is not None:
            beside[0].finish(beside[1], values, len(weighted))
            measured["stderr"] = beside[0].meaning
        sentences, explained = doubts(Path(gradients.fitted), run.gradients, clips=False)
        for sentence in sentences:
            run.warn(sentence)
        used = {"checkpoints": len(weighted), "choose": self.choose, "weight": self.weight, "lr_at": self.lr_at}
        return run.influence(
            values,
            scale=scale,
            stderr=beside[1] if beside else None,
            self_influence=found.self_values,
            self_influence_note=note,
            tables={"curves": curves.table()},
            report=used | {"vanished_gradients": found.vanished} | measured | explained | dict(report or {}),
        )

    def _precision_error(
        self, run: Run, gradients: Gradients, first: Checkpoint, kernel: Kernel, select: Select
    ) -> dict[str, Any]:
        """Lower against full precision on the first instances at the first checkpoint."""
        if self.precision == "model":
            return {}
        few = [split.take(slice(0, lower.INSTANCES)) for split in (run.train, run.test)]

        def matrix(precision: Precision) -> NDArray[np.float64]:
            found = np.zeros((len(few[0]), len(few[1])))
            with lower.computing(precision, gradients.fitted.device, gradients.fitted.recipe.dtype):
                at = gradients.at(first, select, lower.dtype_of(precision))
                for block in kernel(at, first, *few):
                    found[block.rows, block.columns] = block.values.cpu().numpy()
            return found

        measured = lower.error(matrix(self.precision), matrix("model"))
        for sentence in lower.doubts(self.precision, measured):
            run.warn(sentence)
        return {"precision": self.precision} | measured


def similarity_work(
    prospect: Prospect,
    settings: Checkpointed,
    *,
    select: Select = "all",
    norms: int = 0,
    dim: int | None = None,
    kind: Kind = "gaussian",
    store: Store = "model",
) -> Work:
    """Predicted work of ``gradient_similarity`` over the checkpoints that ``settings`` keep.

    ``norms`` is how many parts of a gradient are made unit vectors, ``dim`` what gradients are projected to, how, and
    how they are stored.

    Raises:
        ConfigError: fewer checkpoints are saved than asked for.
    """
    net, n, m = prospect.net, len(prospect.train), len(prospect.test)
    count = checkpoints_used(prospect, settings)
    judged = len(net.saved) if settings.choose == "loss_drop" else 0
    head = select == "head"
    dot, layers = (net.head_dot, 1) if head else (net.dot, net.depth)
    projecting = drawing = 0.0
    if dim is not None:
        dim = net.parameters if kind == "none" or (kind == "sparse" and dim > net.parameters) else dim
        dot, layers = float(dim), 2  # and the variance
        projecting = projection_flops(kind, dim, net.parameters, net.sides) * (n + m)
        dense = kind in ("gaussian", "rademacher")
        drawing = 4.0 * dim * net.parameters if dense else 2.0 * net.parameters * (n + m)  # a number drawn costs four
    # products of each layer's factors, the sum over checkpoints, its curves, the norms, the squares
    passes = layers + 2 + norms + 2 * settings.jackknife
    stderr = settings.jackknife or dim is not None
    disk = (
        0.0 if dim is None or settings.precision != "model" else stored_bytes(count * n, dim, net.number_bytes, store)
    )
    what = f"{dot:.3g} multiply-adds per pair{' (last layer)' if head else ''}"
    made = Work(
        gradients=float(count * (n + m)),
        flops=count * (6.0 * net.macs * (n + m) + 2.0 * dot * n * m + projecting) + 2.0 * judged * net.macs * m,
        numbers=float(count * (passes * n * m + drawing)),
        bytes=8.0 * (1 + stderr) * n * m + 8.0 * min(n, 4096) * m + (1 + HELD) * min(BLOCK_BYTES, 4 * dot * max(n, m)),
        disk=disk,
        formula=f"{count} checkpoints x ({n} + {m}) gradients, {count} x {n} x {m} products of {what}",
    )
    return made + doubted_work(prospect)


def scale_of(weight: Weight, unlike_sgd: str) -> Scale:
    """Only calibrated weights of plain SGD are in loss units; ``unlike_sgd`` says what the training had instead."""
    return "loss" if weight == "calibrated" and not unlike_sgd else "rank"
