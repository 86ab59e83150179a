"""What curvature solvers would take, before they do it."""

from __future__ import annotations

from influx.engines.factorised import RAISE, check_size
from influx.engines.operators import Kind
from influx.planning import Prospect, Work

HELD_BYTES = 512 << 20  # of test vectors held at once: more test instances take more passes over the training set


def together(p: int, copies: int = 1) -> int:
    """Test instances that one pass over the training set serves, with ``copies`` vectors (p,) held of each."""
    return max(1, HELD_BYTES // (8 * copies * p))


def pass_work(prospect: Prospect, own: float = 0.0, points: int = 1, copies: int = 2) -> Work:
    """Gradients of all instances and their products; ``own`` multiply-adds more per training instance.

    Training gradients are those at ``points`` parameter vectors, for as many test instances at a time as are held.
    """
    n, m, p = len(prospect.train), len(prospect.test), prospect.net.parameters
    held = min(m, together(p, max(1, copies - 1)))
    passes = points * -(-m // held)
    return Work(
        gradients=float(passes * n + m),
        flops=2 * (6.0 * prospect.net.macs * (passes * n + m) + 2.0 * points * n * m * p + 2.0 * n * own),
        bytes=8.0 * (float(copies) * held * p + n * m),
        formula=f"{f'{passes} ' if passes > 1 else ''}n + m gradients, n m p products with n={n}, m={m}, p={p}",
    )


def product_work(prospect: Prospect, kind: Kind, products: float, instances: int | None = None) -> Work:
    """``products`` products of a vector with the curvature of all (or some) instances, float64."""
    n = len(prospect.train) if instances is None else instances
    per_instance = 4.0 * prospect.net.macs if kind.endswith("_fisher") else 12.0 * prospect.net.macs
    return Work(
        flops=2 * per_instance * n * products,
        formula=f"{products:.0f} products with the curvature of {n} instances",
    )


def matrix_work(prospect: Prospect, kind: Kind, max_p: int, remedy: str = RAISE) -> Work:
    """Building and factorising the whole matrix, and solving with it for the test instances."""
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
    return build + Work(flops=2 * solve, bytes=8.0 * 4.0 * p**2)


def exact_work(prospect: Prospect, kind: Kind, max_p: int, remedy: str = RAISE) -> Work:
    """The whole matrix, and the passes for influence, also of each training instance on itself."""
    p = prospect.net.parameters
    made = matrix_work(prospect, kind, max_p, remedy)
    vectors = 3.0 * min(len(prospect.test), together(p)) * p
    return made + Work(bytes=made.bytes + 8.0 * vectors) + pass_work(prospect, float(p) ** 2)


CG_ITERATIONS = 30  # products per right-hand side that conjugate gradients usually take


def cg_work(prospect: Prospect, kind: Kind, own: bool) -> Work:
    """Conjugate gradients for the test instances and, with ``own``, for the training instances."""
    n, m, p = len(prospect.train), len(prospect.test), prospect.net.parameters
    solves = m + (n if own else 0)
    held = min(m, together(p))
    inside = Work(flops=2 * 8.0 * CG_ITERATIONS * solves * min(solves, held) * p, bytes=8.0 * 6 * held * p)
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
