"""DataInf: the inverse of a sum replaced by the sum of inverses, one instance and one layer at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from influx import progress
from influx.engines.compared import AUDITED, compared
from influx.engines.gradients import GradientsAt
from influx.engines.layer_plans import datainf_work
from influx.engines.operators import Kind
from influx.errors import ConfigError, NumericalError
from influx.planning import Prospect, Work
from influx.problem import Split
from influx.run import Run


@dataclass
class MeanOfInverses:
    """(1/n) Σ_j (λ_l I + g_j g_jᵀ)⁻¹ for every layer l, by the Sherman-Morrison formula.

    Attributes:
        at: per-instance gradients at the final parameters, float64.
        train: the n instances.
        columns: of each layer among all p numbers.
        ridge: λ_l of each layer, weight decay included.
        report: what is worth showing.
    """

    at: GradientsAt
    train: Split
    columns: list[slice]
    ridge: list[float]
    report: dict[str, float | str]

    @torch.no_grad()
    def solve(self, rhs: Tensor) -> Tensor:
        """``(k, p)`` for right-hand sides ``(k, p)``, all in one pass over the training set."""
        found, n = torch.zeros_like(rhs), len(self.train)
        with progress.task("mean of inverses", n) as done:
            for flat in written(self.at, self.train):
                for columns, ridge in zip(self.columns, self.ridge, strict=True):
                    g = flat[:, columns]
                    shares = (rhs[:, columns] @ g.T) / (ridge + g.square().sum(1))  # (k, b)
                    found[:, columns] -= shares @ g
                done(len(flat))
        for columns, ridge in zip(self.columns, self.ridge, strict=True):
            found[:, columns] = (rhs[:, columns] + found[:, columns] / n) / ridge
        return found

    def quadratic(self, rows: Tensor) -> Tensor:
        """``(k,)`` values of rows ``(k, p)``: as much work as ``solve``."""
        return (rows * self.solve(rows)).sum(1)


def written(at: GradientsAt, split: Split) -> Iterator[Tensor]:
    """Gradients ``(b, p)`` written out, block by block."""
    return (rows.flat() for _, rows in at.written(split))


def _layers(at: GradientsAt, decay: Tensor) -> dict[str, slice]:
    """Columns of each layer: the tensors of one module that come one after the other and have one weight decay."""
    found: dict[str, slice] = {}
    start, last = 0, ""
    for name, p in at.parameters.items():
        part = slice(start, start + p.numel())
        module = name.rpartition(".")[0]
        together = last and last.rpartition(".")[0] == module and bool(decay[found[last].start] == decay[part.start])
        if together:
            found[last] = slice(found[last].start, part.stop)
        else:
            found[name], last = part, name
        start = part.stop
    return found


@dataclass(frozen=True, kw_only=True)
class DataInf:
    """Swaps mean and inverse in the damped empirical Fisher matrix of every layer, a weight with its bias.

    The error that this makes vanishes as λ grows; at the paper's λ solutions are far too large, and only their
    direction is of use. Weight decay is added to λ_l, as the regulariser's curvature.

    Source: Kwon et al. 2024, arXiv:2310.00902, eq. 5.

    Attributes:
        factor: λ_l in mean squares of a number of the layer's gradients, when no damping is given.
        audit: compare a few solutions with exact ones when there are at most 2,000 parameters.
    """

    factor: float = 0.1
    audit: bool = True

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.factor > 0:
            raise ConfigError(
                f"estimator.factor must be above 0, got {self.factor}; the paper sets estimator.factor=0.1"
            )

    def check(self, kind: Kind) -> None:
        """Refuse another curvature.

        Raises:
            ConfigError: names the one.
        """
        if kind != "empirical_fisher":
            raise ConfigError(
                "estimator.curvature must be empirical_fisher for DataInf, which inverts outer products of the risk's "
                f"own gradients, got {kind}; set estimator.curvature=empirical_fisher"
            )

    def inverse(self, run: Run, kind: Kind, damping: float | None) -> MeanOfInverses:
        """One pass for λ; ``damping`` is λ_l of every layer when it is given.

        Raises:
            ConfigError: ``kind`` is not ``empirical_fisher``.
            NumericalError: λ is zero somewhere.
        """
        self.check(kind)
        engine = run.curvature
        at, decay = engine.at, engine.decay
        layers = _layers(at, decay)
        columns = list(layers.values())
        total = torch.zeros(at.size, dtype=torch.float64, device=decay.device)
        with torch.no_grad():
            for flat in written(at, run.train):
                total += flat.square().sum(0)
        means = [float(total[part].mean()) / len(run.train) for part in columns]
        chosen = [self.factor * mean if damping is None else damping for mean in means]
        ridge = [own + float(decay[part.start]) for own, part in zip(chosen, columns, strict=True)]
        self._check(list(layers), ridge, max(means), damping)
        delta = torch.cat(
            [decay.new_full((part.stop - part.start,), own) for part, own in zip(columns, chosen, strict=True)]
        )
        report: dict[str, float | str] = {
            "damping": float(delta.mean()),
            "damping_min": min(chosen),
            "damping_max": max(chosen),
        }
        inverse = MeanOfInverses(at, run.train, columns, ridge, report)
        if self.audit and at.size <= AUDITED:
            report.update(compared(run, kind, inverse.solve, delta))
        return inverse

    def work(self, prospect: Prospect, kind: Kind, own: bool) -> Work:
        """Passes for λ and for the solutions, and the passes for influence."""
        return datainf_work(prospect, own)

    @staticmethod
    def _check(names: list[str], ridge: list[float], largest: float, damping: float | None) -> None:
        zero = [name for name, own in zip(names, ridge, strict=True) if not own > 0]
        if not zero:
            return
        why = "estimator.damping is 0" if damping is not None else "its gradients are zero for every training instance"
        raise NumericalError(
            f"DataInf divides by λ, which is {ridge[names.index(zero[0])]:.2g} for {zero[0]} because {why}; set "
            f"estimator.damping={max(0.1 * largest, 1e-6):.2g} or train with optimizer.weight_decay above 0"
        )
