"""What layer-wise curvature would take, before it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from influx.engines.solver_plans import pass_work
from influx.planning import Prospect, Work

if TYPE_CHECKING:
    from influx.engines.operators import Kind
    from influx.engines.solvers.ekfac import EKFAC


def ekfac_work(prospect: Prospect, kind: Kind, solver: EKFAC) -> Work:
    """Passes for factors and eigenvalues, and their decomposition for layers of equal size."""
    p, depth = prospect.net.parameters, max(prospect.net.depth, 1)
    n = min(len(prospect.train), solver.max_examples or len(prospect.train))
    repeats = 1
    if kind in ("ggn", "fisher"):
        repeats = prospect.problem.data.n_outputs
    elif kind == "sampled_fisher":
        repeats = solver.samples
    passes = 1 if solver.strategy == "kfac" else 2
    width = (p / depth) ** 0.5
    layers = 30.0 * depth * width**3 + 4.0 * (len(prospect.test) + len(prospect.train)) * p * width
    made = Work(
        gradients=float(passes * repeats * n),
        flops=2 * (2.0 * passes * repeats * n * p + layers),
        bytes=8.0 * 4.0 * p,
        formula=f"{passes} passes of {repeats} gradients over {n} instances, layers' d³",
    )
    return made + pass_work(prospect)


def datainf_work(prospect: Prospect, own: bool) -> Work:
    """One pass for λ, one for all solutions; with ``own`` as many more products as training instances."""
    n, m, p = len(prospect.train), len(prospect.test), prospect.net.parameters
    solves = m + (n if own else 0)
    passes = 2 + (max(1, 8 * p * n // (64 << 20)) if own else 0)
    made = Work(
        gradients=float(passes * n),
        flops=2 * 4.0 * n * solves * p,
        bytes=8.0 * 2.0 * m * p,
        formula=f"{passes} passes over {n} instances, 4 n {solves} p",
    )
    return made + pass_work(prospect)
