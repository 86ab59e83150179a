"""What layer-wise curvature would take, before it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from influx.engines.solver_plans import HELD_BYTES, pass_work, together
from influx.planning import Prospect, Work

if TYPE_CHECKING:
    from influx.engines.operators import Kind
    from influx.engines.solvers.ekfac import EKFAC


def ekfac_work(prospect: Prospect, kind: Kind, solver: EKFAC) -> Work:
    """The layers' curvature, and the passes for influence."""
    return layered_work(prospect, kind, solver) + layer_pass_work(prospect)


def _precision(prospect: Prospect) -> tuple[float, float]:
    """Of gradients: time of an operation in that of a float32 one, bytes of a number."""
    from influx.engines.curvature import SMALL

    size = 8 if prospect.net.parameters <= SMALL else prospect.net.number_bytes
    return size / 4, float(size)


def layer_pass_work(prospect: Prospect) -> Work:
    """Gradients of all instances and their products, layer by layer."""
    from influx.engines.layer_passes import MOST

    net, n, m = prospect.net, len(prospect.train), len(prospect.test)
    times, size = _precision(prospect)
    p = net.parameters
    each = sum(rows + columns if columns else numbers for rows, columns, numbers in net.sides) if net.plain else p
    held = int(min(m, max(1, HELD_BYTES // (size * each)), MOST))
    passes = -(-m // held)
    return Work(
        gradients=float(passes * n + m),
        flops=times * (6.0 * net.macs * (passes * n + m) + 2.0 * n * m * p),
        bytes=size * 2.0 * held * each + 8.0 * n * m,
        formula=f"{f'{passes} ' if passes > 1 else ''}n + m gradients, n m p products with n={n}, m={m}, p={p}",
    )


def layered_work(prospect: Prospect, kind: Kind, solver: EKFAC) -> Work:
    """Passes for factors and eigenvalues, the layers' decomposition, and the comparison for small nets."""
    from influx.engines.compared import AUDITED, ROWS
    from influx.engines.kronecker import SIDE, WHOLE

    p = prospect.net.parameters
    n = min(len(prospect.train), solver.max_examples or len(prospect.train))
    repeats = 1
    if kind in ("ggn", "fisher"):
        repeats = prospect.problem.data.n_outputs
    elif kind == "sampled_fisher":
        repeats = solver.samples
    passes = 1 if solver.strategy == "kfac" else 2
    m, every = len(prospect.test), len(prospect.train)
    flops = held = cubes = 0.0
    times, size = _precision(prospect)
    largest = 0  # of the matrices to diagonalise, one after the other
    for rows, columns, numbers in prospect.net.sides:
        product = rows or numbers // max(columns, 1)
        if not columns or numbers <= solver.own_matrix:
            bases = [numbers] if numbers <= max(solver.own_matrix, WHOLE) and solver.strategy != "diagonal" else []
        else:
            bases = [d for d in (rows, columns) if d and d <= SIDE and solver.strategy != "diagonal"]
        squares = float(sum(d**2 for d in bases))
        cubes += 15.0 * sum(d**3 for d in bases)
        flops += passes * repeats * n * squares
        flops += (2.0 * m * product * sum(bases) if columns else m * squares) + every * squares
        held += (1.0 + size / 8) * squares + 2.0 * numbers
        largest = max(largest, *bases, 0)
    audited = p if solver.audit and p <= AUDITED else 0
    made = Work(
        gradients=float(passes * repeats * n),
        flops=2 * cubes
        + times * (passes * n * (2.0 + 4.0 * repeats) * prospect.net.macs + 2.0 * passes * repeats * n * p + flops),
        bytes=8.0 * (held + 3.0 * largest**2 + 2.0 * p),
        formula=f"{passes} passes of {repeats} gradients over {n} instances, d³ of layers' sides, d <= {largest}",
    )
    if audited:
        rows = min(every, ROWS)
        made += Work(
            gradients=float(every * prospect.problem.data.n_outputs + rows),
            flops=2 * (2.0 * every * prospect.problem.data.n_outputs * p**2 + 2 / 3 * p**3),
            bytes=8.0 * (held + 4.0 * p**2 + rows * p),
            formula="p³ to compare with the exact solution",
        )
    return made


def datainf_work(prospect: Prospect, own: bool) -> Work:
    """One pass for λ, one for all solutions; with ``own`` as many more products as training instances."""
    n, m, p = len(prospect.train), len(prospect.test), prospect.net.parameters
    solves = m + (n if own else 0)
    passes = 2 + (max(1, 8 * p * n // (64 << 20)) if own else 0)
    made = Work(
        gradients=float(passes * n),
        flops=2 * (6.0 * prospect.net.macs * passes * n + 4.0 * n * solves * p),
        bytes=8.0 * 2.0 * min(m, together(p)) * p,
        formula=f"{passes} passes over {n} instances, 4 n {solves} p",
    )
    return made + pass_work(prospect)
