"""K-FAC and EK-FAC: curvature layer by layer, from Kronecker factors of inputs and output gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, get_args

import numpy as np
import torch

from influx import progress
from influx.engines.blocks import Block, Strategy
from influx.engines.compared import AUDITED, compared
from influx.engines.inverses import by_instance, labels_of
from influx.engines.kronecker import block_for
from influx.engines.layer_passes import block_size
from influx.engines.layer_plans import ekfac_work
from influx.engines.layerwise import Layerwise, Part, alike, damped, decayed, layers_of
from influx.engines.operators import Kind
from influx.engines.pseudogradients import PseudoGradients
from influx.errors import ConfigError
from influx.planning import Prospect, Work
from influx.run import Run

if TYPE_CHECKING:
    from influx.engines.curvature import Curvature

SMALL = 1500  # numbers of a weight whose own matrix costs little more than its factors


@dataclass(frozen=True, kw_only=True)
class EKFAC:
    """Inverts the curvature of each layer alone, in the eigenbasis of its Kronecker factors.

    Two passes over the training set: one for the factors, one for the eigenvalues; ``kfac`` needs the first only.
    What is no product of inputs and output gradients gets a matrix of its own up to 2,000 numbers, else a diagonal.
    Inputs or outputs of a layer that are more than 8,000 keep their own basis. From 2,000 parameters on gradients
    have the precision of the model; sums over instances and decompositions are float64.

    Source: George et al. 2018, arXiv:1806.03884; Grosse et al. 2023, arXiv:2308.03296. They sample labels; ``ggn``
    here takes the expectation over labels instead.

    Attributes:
        strategy: ekfac, kfac (eigenvalues are products of the factors', Martens & Grosse 2015) or diagonal.
        samples: labels per instance when ``sampled_fisher`` is asked for.
        max_examples: training instances, drawn at random, that the curvature is estimated from; None takes all.
        whole: weights with at most so many numbers, their bias included, get their exact matrix instead; None means
            1,500 for ekfac and 0 for the others.
        audit: compare a few solutions with exact ones when there are at most 2,000 parameters.
    """

    strategy: Strategy = "ekfac"
    samples: int = 1
    max_examples: int | None = None
    whole: int | None = None
    audit: bool = True

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.strategy not in get_args(Strategy):
            raise ConfigError(
                f"estimator.strategy must be one of {', '.join(get_args(Strategy))}, got {self.strategy}; "
                "set for example estimator.strategy=ekfac"
            )
        if self.samples < 1:
            raise ConfigError(f"estimator.samples must be at least 1, got {self.samples}; set estimator.samples=1")
        if self.max_examples is not None and self.max_examples < 1:
            raise ConfigError(
                f"estimator.max_examples must be at least 1, got {self.max_examples}; "
                "set estimator.max_examples=null for all"
            )
        if self.whole is not None and self.whole < 0:
            raise ConfigError(f"estimator.whole must not be negative, got {self.whole}; set estimator.whole=0")

    @property
    def own_matrix(self) -> int:
        """``whole``, or what null stands for."""
        automatic = SMALL if self.strategy == "ekfac" else 0
        return automatic if self.whole is None else self.whole

    def check(self, kind: Kind) -> None:
        """Refuse a curvature that is no sum of outer products.

        Raises:
            ConfigError: names one that is.
        """
        if kind == "hessian":
            raise ConfigError(
                f"estimator.curvature must be a sum of outer products of gradients for {self.strategy}, got hessian; "
                "set estimator.curvature=ggn, or empirical_fisher for densities"
            )

    def inverse(self, run: Run, kind: Kind, damping: float | None) -> Layerwise:
        """Estimate the curvature of every layer and invert it with ``damping``; None is a tenth of its mean eigenvalue.

        Raises:
            ConfigError: ``kind`` is ``hessian``, which is no sum of outer products.
            NumericalError: a layer's curvature is singular.
        """
        self.check(kind)
        found = self.measured(run, kind)
        decay = run.curvature.decay
        parts = [damped(names, columns, block, decay[columns], damping) for names, columns, block in found]
        inverse = Layerwise(parts, self._report(parts))
        if self.audit and run.curvature.at.size <= AUDITED:
            held = sum(float(part.block.eigenvalues.square().sum()) for part in parts)
            exact: Kind = "empirical_fisher" if kind == "empirical_fisher" else "ggn"
            every = self.max_examples is None or self.max_examples >= len(run.train)
            projected = self.strategy != "kfac" and kind != "sampled_fisher" and every
            numbers = compared(run, exact, inverse.solve, inverse.damping, held if projected else None)
            inverse.report.update(numbers)
        return inverse

    def averaged(self, run: Run, kind: Kind, points: Sequence[Curvature]) -> tuple[Layerwise, list[float]]:
        """The mean curvature over several points of training, to apply functions of it: undamped, never inverted.

        The numbers are the exact traces at each of them, without weight decay.

        Raises:
            ConfigError: ``kind`` is ``hessian``.
        """
        self.check(kind)
        decay, parts, traces = run.curvature.decay, [], [0.0] * len(points)
        for names, columns, block in self.measured(run, kind, points, traces):
            values = decayed(block, decay[columns])
            parts.append(Part(names, columns, block, 0.0, values.clamp_min(0)))
        return Layerwise(parts, {"strategy": self.strategy}), traces

    @torch.no_grad()
    def measured(
        self, run: Run, kind: Kind, points: Sequence[Curvature] = (), traces: list[float] | None = None
    ) -> list[tuple[tuple[str, ...], slice, Block]]:
        """Names, columns and block of every layer, without weight decay and damping; without ``points`` at the end.

        ``traces`` takes that at each of the points.
        """
        sources = [self._source(run, kind, point) for point in points or (run.curvature,)]
        source, share = sources[0], 1 / len(sources)
        layers = list(layers_of(source.first(), source.at.parameters))
        blocks: list[Block] = [
            block_for(layer, columns.stop - columns.start, self.strategy, self.own_matrix, source.repeats > 1)
            for layer, _, columns in layers
        ]
        passes, size = 1 if self.strategy == "kfac" else 2, source.size
        whole = -(-len(source.split) // size) * size  # instances of whole blocks
        with progress.task("curvature", passes * len(sources) * source.repeats * whole) as done:
            for number, each in enumerate(sources):
                for rows, weight, again in each.blocks():
                    for block, layer in zip(blocks, alike(rows, len(blocks)), strict=True):
                        block.gather(layer, weight * share, again)
                    if traces is not None:
                        traces[number] += weight * float(rows.squares().sum())
                    done(size)
            for block in blocks:
                block.turn()
            for rows, weight, _ in chain.from_iterable(each.blocks() for each in sources * (passes - 1)):
                for block, layer in zip(blocks, rows.layers, strict=True):
                    block.measure(layer, weight * share)
                done(size)
        return [(names, columns, block) for (_, names, columns), block in zip(layers, blocks, strict=True)]

    def work(self, prospect: Prospect, kind: Kind, own: bool) -> Work:
        """Passes for factors and eigenvalues, their decomposition, and the passes for influence."""
        return ekfac_work(prospect, kind, self)

    def _source(self, run: Run, kind: Kind, engine: Curvature) -> PseudoGradients:
        """Gradients of the chosen instances, in blocks whose patches and gradients fit in memory."""
        split = run.train
        uniform = np.empty((len(split), 0))
        if kind == "sampled_fisher":
            more = [by_instance(run, f"labels of the sampled Fisher matrix {s}") for s in range(1, self.samples)]
            uniform = np.stack([labels_of(run, kind), *more], 1)  # type: ignore[list-item]
        if self.max_examples is not None and self.max_examples < len(split):
            chosen = np.sort(np.argsort(by_instance(run, "instances of the curvature"))[: self.max_examples])
            split, uniform = split.take(chosen), uniform[chosen]
        at, outputs = engine.layered, engine.outputs
        source = PseudoGradients(at, engine.fitted.task, split, kind, outputs, uniform, 1)
        return replace(source, size=block_size(at, split, source.first()))

    def _report(self, parts: list[Part]) -> dict[str, float | str]:
        """Damping and condition of the layers, and which share of the parameters is in which kind of block."""
        sizes = [part.divisor.numel() for part in parts]
        total = sum(sizes)
        report: dict[str, float | str] = {
            "strategy": self.strategy,
            "damping": sum(part.damping * size for part, size in zip(parts, sizes, strict=True)) / total,
            "damping_min": min(part.damping for part in parts),
            "damping_max": max(part.damping for part in parts),
            "lambda_max": max(float(part.divisor.max()) - part.damping for part in parts),
            "condition": max(float(part.divisor.max() / part.divisor.min()) for part in parts),
        }
        if self.strategy == "kfac":  # the others keep all of it
            kept = sum(float(part.block.eigenvalues.sum()) for part in parts)
            report["trace_kept"] = kept / max(sum(part.block.trace for part in parts), 1e-300)
        kinds = [(part.block.kind, size) for part, size in zip(parts, sizes, strict=True)]
        for kind in ("kronecker", "partial", "whole", "diagonal"):
            report[f"share_{kind}"] = sum(size for own, size in kinds if own == kind) / total
        return report
