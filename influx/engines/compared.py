"""How far an approximate inverse of the curvature is from the exact one, for a few gradients of a small net."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from influx.engines.operators import Kind
from influx.engines.regressed import rank_correlations
from influx.run import Run

AUDITED = 2000  # parameters at most
TESTS, ROWS = 2, 500  # test and training instances


@torch.no_grad()
def compared(
    run: Run, kind: Kind, solve: Callable[[Tensor], Tensor], damping: Tensor, held: float | None = None
) -> dict[str, float]:
    """Relative error of solutions and rank correlation of influence, at the same ``damping`` (p,).

    With ``held``, the squared Frobenius norm of an approximation that is a projection of this very curvature, also
    ``captured``: its share of that of the whole. What is missing is between layers, and off the diagonal of their
    bases.
    """
    report = {}
    matrix = run.curvature.matrix(kind, AUDITED)
    if held is not None:
        matrix.diagonal().sub_(run.curvature.decay)
        report["captured"] = held / max(float(matrix.square().sum()), 1e-300)
        matrix.diagonal().add_(run.curvature.decay)
    matrix.diagonal().add_(damping)
    at = run.curvature.at
    theirs = at.rows(*at.tensors(run.test.take(slice(0, TESTS)))).flat()
    exact, found = torch.linalg.solve(matrix, theirs.T), solve(theirs).T
    report["error"] = float(((found - exact).norm(dim=0) / exact.norm(dim=0).clamp_min(1e-300)).mean())
    rows = torch.cat([block.flat() for _, block in at.blocks(run.train.take(slice(0, ROWS)))])
    report["spearman"] = rank_correlation(rows @ found, rows @ exact)
    return report


def rank_correlation(left: Tensor, right: Tensor) -> float:
    """Mean Spearman correlation of columns ``(n, c)``, ties at their mean rank; NaN if one on the right is constant."""
    return float(rank_correlations(left.cpu().numpy(), right.cpu().numpy()).mean())
