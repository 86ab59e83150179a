"""LoGra."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from influx.engines.draws import Partial, named_parts
from influx.engines.gradients import GradientsAt
from influx.engines.leverage import leverage, leverage_flops
from influx.engines.low_rank import Init, Layers, low_rank
from influx.engines.members import Spread
from influx.engines.projected import NOT_ASKED
from influx.engines.stored import Projections, Store, projection_seed, stored_bytes
from influx.engines.stored_ahead import store_ahead
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run

RELATIVE = 0.1  # damping over a layer's mean eigenvalue where none is given
FEW = 256  # instances whose exact norms say what projections keep
DRAWN = "the spread over random projections of one model: not that over trainings"
Normalize = Literal["none", "loss_relative"]
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class LoGra:
    """Influence functions on gradients between small projections of every layer's inputs and output gradients.

    Estimates: (1/n) Σ_l g̃_l(z_j)ᵀ (F_l + δ_l I)⁻¹ g̃_l(z_i) with g̃_l = P_r G_l P_cᵀ, F_l = (1/n) Σ g̃_l g̃_lᵀ, and G_l
        the gradient of the weight of layer l. Loss units; positive for proponents. With rank as large as all sides
        it is damped influence with the empirical Fisher matrix of each weight, exactly; with δ → ∞, δ times it is
        gradient similarity. Biases, norms and embeddings are left out.
    Needs: per-instance gradients at the final parameters.
    Cost: n + m gradients, which are never written out; n k² numbers per layer on disk; n k⁴ + k⁶ / 3 operations per
        layer (n² k² + n³ / 3 where n is less than k²), memory k⁴.
    Source: Choe et al. 2024, arXiv:2405.13954, section 3, and its library LogIX for δ and the normalisation. Random
        projections have orthonormal rows, times a factor that keeps products unbiased; here in double precision.

    Attributes:
        rank: k, numbers that each side is projected to; a side with fewer keeps all of its own.
        init: random, or pca: the principal directions of inputs and output gradients over the training set, in one more
            pass.
        projections: random projections that values are averaged over, with the standard error of their mean; their
            spread is that of the choice of directions, not that over trainings.
        parameters: all, or the beginnings of the names of those whose gradients are compared, such as [4,6] for some
            layers of a sequence.
        store: how gradients lie on disk: as they are (model), or in float16, half as large (a quarter of float64):
            rows divided by their largest number, off by about 2e-4 of their length.
        damping: δ, the same in all layers; None means a tenth of each layer's mean eigenvalue (heuristic).
        normalize: none, or loss_relative: rows divided by the square root of their self-influence; then ranks only.
        self_influence: also compute each training instance's influence on itself.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENTS})
    scale: ClassVar[Scale] = "loss"
    card: ClassVar[Card] = Card(
        family="projected",
        full="n (√p k + k⁴) per layer",
        incremental="n k²",
        storage="n k² + k⁴ per layer",
        assumptions="stationary, layers independent, empirical Fisher, low rank",
        groups="additive",
        paper="Choe et al. 2024",
    )

    rank: int = 64
    init: Init = "random"
    projections: int = 1
    parameters: str | list[str] = "all"
    store: Store = "model"
    damping: float | None = None
    normalize: Normalize = "none"
    self_influence: bool = True

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.rank < 1:
            raise ConfigError(f"estimator.rank must be at least 1, got {self.rank}; set for example estimator.rank=64")
        named_parts(self.parameters)
        if self.projections < 1:
            raise ConfigError(f"estimator.projections must be at least 1, got {self.projections}; raise it")
        if self.projections > 1 and self.init == "pca":
            raise ConfigError(
                f"estimator.projections={self.projections} averages over random projections, and principal directions "
                "are not drawn; set estimator.init=random or estimator.projections=1"
            )
        if self.damping is not None and not 0 < self.damping < math.inf:
            raise ConfigError(f"estimator.damping must be positive and finite or null, got {self.damping}; use null")
        if self.normalize == "loss_relative" and not self.self_influence:
            raise ConfigError("estimator.normalize=loss_relative needs estimator.self_influence=true; set it")

    @property
    def refuses(self) -> Mapping[str, str]:
        """Perspectives that the settings leave out."""
        return {} if self.self_influence else {"memorization": NOT_ASKED}

    def plan(self, prospect: Prospect) -> Work:
        """Gradients of both splits, and one regression per layer."""
        net, n, m = prospect.net, len(prospect.train), len(prospect.test)
        sizes = [(min(self.rank, r) * min(self.rank, c), r + c) for r, c, _ in net.sides if r and c]
        flops = sum(leverage_flops(n, dim, m, False, self.self_influence) for dim, _ in sizes)
        flops += sum(2.0 * self.rank * width for _, width in sizes) * (n + m)
        stored, largest = sum(dim for dim, _ in sizes), max((dim for dim, _ in sizes), default=0)
        passes, times = 2 if self.init == "pca" else 1, self.projections
        matrices = 3.0 if times > 1 else 1.0
        once = f"{passes} x {n} + {m} gradients to {stored} numbers, {len(sizes)} regressions"
        return Work(
            gradients=float(times * (passes * n + m)),
            flops=times * (6.0 * net.macs * (passes * n + m) + flops),
            numbers=times * (2.0 * stored * (n + m) + (len(sizes) + matrices - 1) * n * m),
            bytes=8.0 * (2 * min(n, largest) ** 2 + largest * min(n, largest) + matrices * n * m + m * stored),
            disk=stored_bytes(times * n, stored, net.number_bytes, self.store),
            formula=once if times == 1 else f"{times} x ({once})",
        )

    def estimate(self, run: Run) -> Influence:
        """Layer by layer from stored projections, one projection after the other."""
        every = range(self.projections)
        store_ahead(run, self, [partial(self._projections, run, number) for number in every])
        means = Spread(run, self.projections)
        own, reports = np.zeros(len(run.train)), []
        for number in every:
            values, mine, told = self._scored(run, self._projections(run, number))
            means.add(values)
            own += mine / self.projections
            reports.append(told)
        report: dict[str, Any] = {name: float(np.mean([told[name] for told in reports])) for name in reports[0]}
        report |= {"layers": int(report["layers"]), "numbers": int(report["numbers"])}
        values, stderr = means.finish()
        if stderr is not None:
            report |= {"projections": self.projections, "stderr_degrees": self.projections - 1, "stderr_holds": DRAWN}
        return run.influence(
            values,
            scale="rank" if self.normalize == "loss_relative" else self.scale,
            stderr=stderr,
            self_influence=own if self.self_influence else None,
            self_influence_note="" if self.self_influence else NOT_ASKED,
            report=report,
        )

    def _projections(self, run: Run, number: int) -> Projections:
        """Of the gradients, by the projection with that number; 0 is the one that others draw too."""
        gradients, checkpoint = self._gradients(run), run.final
        again = run.drawn(f"projection/again {number}").integers(1 << 63)
        seed = int(again) if number else projection_seed(run, None)
        told = {"kind": "low rank", "rank": self.rank, "init": self.init, "seed": seed, "small sides": "whole"}
        told |= {"parameters": list(gradients.parts)} if gradients.parts else {}
        return Projections(
            fitted=gradients.fitted,
            train=run.train,
            step=checkpoint.step,
            open=lambda: gradients.at(checkpoint),
            make=lambda at: low_rank(at, run.train, self.rank, self.init, seed),
            told=told,
            output="loss",
            norms=False,
            store=self.store,
        )

    def _gradients(self, run: Run) -> Partial:
        known = run.gradients
        return Partial(known.fitted, known.train, known.test, parts=named_parts(self.parameters))

    def _scored(self, run: Run, projections: Projections) -> tuple[Array, Array, dict[str, float]]:
        """Values, self-influence and what to tell, by one projection."""
        n = len(run.train)
        layers, tests = projections.projection, projections.computed(run.test).projections
        assert isinstance(layers, Layers)
        values, own, dampings = run.zeros(), np.zeros(n), {}
        for name, columns in zip(layers.names, layers.slices, strict=True):
            solved = leverage(
                lambda columns=columns: ((p.rows, p.projections[:, columns]) for p in projections.stored()),  # type: ignore[misc]
                n,
                tests[:, columns],
                None if self.damping is None else n * self.damping,
                RELATIVE,
                own=self.self_influence,
                mean_over=columns.stop - columns.start,
            )
            dampings[name] = solved.damping / n
            for rows, found in solved.values():
                values[rows] += found.cpu().numpy()
            for rows, found in solved.own() if self.self_influence else []:
                own[rows] += found.cpu().numpy()
        if self.normalize == "loss_relative":
            for start in range(0, n, 4096):
                part = slice(start, start + 4096)
                lengths = np.sqrt(own[part])[:, None]
                np.divide(values[part], lengths, out=values[part], where=lengths > 0)
        kept = captured(projections, layers, self._gradients(run).at(run.final))
        damping = float(np.mean([*dampings.values()]))
        return values, own, {"layers": len(dampings), "mean_damping": damping, "numbers": layers.dim, "captured": kept}


def captured(projections: Projections, layers: Layers, at: GradientsAt) -> float:
    """Share of the squared gradients, of all parameters, that lies in the directions kept, of a few training instances.

    Exact norms of all would take as long as the projections.
    """
    part = next(projections.stored())
    few = min(FEW, len(part.slopes))
    whole = float(at.squares(projections.train.take(slice(0, few))).sum())
    kept = sum(
        float(part.projections[:few, columns].double().square().sum()) / length**2
        for columns, length in zip(layers.slices, layers.lengths, strict=True)
    )
    return kept / whole if whole > 0 else 0.0
