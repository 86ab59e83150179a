"""What curvature solvers would take, before they do it."""

from __future__ import annotations

from influx.engines.factorised import RAISE, check_size
from influx.engines.operators import Kind
from influx.planning import Prospect, Work


def pass_work(prospect: Prospect, own: float = 0.0) -> Work:
    """Gradients of all instances and their products; ``own`` multiply-adds more per training instance."""
    n, m, p = len(prospect.train), len(prospect.test), prospect.net.parameters
    return Work(
        gradients=float(n + m),
        flops=2 * (6.0 * prospect.net.macs * (n + m) + 2.0 * n * m * p + 2.0 * n * own),
        bytes=8.0 * (2.0 * m * p + n * m),
        formula=f"n + m gradients, n m p products with n={n}, m={m}, p={p}",
    )


def product_work(prospect: Prospect, kind: Kind, products: float, instances: int | None = None) -> Work:
    """``products`` products of a vector with the curvature of all (or some) instances, float64."""
    n = len(prospect.train) if instances is None else instances
    per_instance = 4.0 * prospect.net.macs if kind.endswith("_fisher") else 12.0 * prospect.net.macs
    return Work(
        flops=2 * per_instance * n * products,
        formula=f"{products:.0f} products with the curvature of {n} instances",
    )


def exact_work(prospect: Prospect, kind: Kind, max_p: int, remedy: str = RAISE) -> Work:
    """Building, factorising and solving with the whole matrix."""
    n, m, p = len(prospect.train), len(prospect.test), prospect.net.parameters
    check_size(p, max_p, remedy)
    outputs = prospect.problem.data.n_outputs
    solve = p**3 + 4.0 * m * p**2
    build = Work(flops=2 * 2.0 * n * p**2, bytes=8.0 * 4.0 * p**2, formula=f"n p² + p³ with p={p}")
    if not prospect.net.plain:
        times = p if kind == "hessian" else outputs
        build = Work(
            gradients=float(n * times) if kind != "hessian" else 0.0,
            flops=2 * 2.0 * n * outputs * p**2,
            bytes=8.0 * 4.0 * p**2,
            formula=f"{outputs} n p² + p³ with p={p}",
        )
        if kind == "hessian":
            build = product_work(prospect, kind, p)
    return build + Work(flops=2 * solve, bytes=8.0 * (4.0 * p**2 + 3.0 * m * p)) + pass_work(prospect, float(p) ** 2)


CG_ITERATIONS = 30  # products per right-hand side that conjugate gradients usually take


def cg_work(prospect: Prospect, kind: Kind, own: bool) -> Work:
    """Conjugate gradients for the test instances and, with ``own``, for the training instances."""
    n, m, p = len(prospect.train), len(prospect.test), prospect.net.parameters
    solves = m + (n if own else 0)
    inside = Work(flops=2 * 8.0 * CG_ITERATIONS * solves * min(solves, m) * p, bytes=8.0 * 6 * m * p)
    return product_work(prospect, kind, float(CG_ITERATIONS * solves)) + inside + pass_work(prospect)


def lissa_work(prospect: Prospect, kind: Kind, own: bool, steps: int, batch_size: int) -> Work:
    """Steps of all runs for all right-hand sides."""
    n, m = len(prospect.train), len(prospect.test)
    products = float(steps * (m + (n if own else 0)))
    return product_work(prospect, kind, products, min(batch_size, n)) + pass_work(prospect)


def arnoldi_work(prospect: Prospect, kind: Kind, iterations: int, rank: int) -> Work:
    """The Krylov space, orthogonalised twice, and what every instance has in it."""
    n, p, outputs = len(prospect.train), prospect.net.parameters, prospect.problem.data.n_outputs
    q = min(iterations, p)
    space = Work(
        gradients=float(n * outputs), flops=2 * 4.0 * q**2 * p, bytes=8.0 * 2.0 * q * p, formula=f"q² p with q={q}"
    )
    return product_work(prospect, kind, float(q)) + space + pass_work(prospect, float(min(rank, p)) * p)
