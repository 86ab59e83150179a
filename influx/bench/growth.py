"""How the time of an estimator grows with one size of the problem."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from influx.bench.clock import Kernel, Rounds
from influx.bench.measures import Check
from influx.bench.suites import Growth
from influx.bench.trial import Problem, job_of
from influx.config import load_choice
from influx.influence import Influence
from influx.instantiate import build

RETRIES = 3  # measurements of all sizes again before a slope counts as too steep


def check(where: str, growth: Growth, outputs: Path, kernel: Kernel) -> Check:
    """The slope of log time over log size, held against what theory allows.

    Raises:
        UserError: the suite describes no problem that the estimator can work on.
    """
    about = partial(rounds_of, growth.estimator, growth.vary, settings=growth.settings, outputs=outputs, kernel=kernel)
    rounds = [about(size) for size in growth.sizes]
    for one in rounds:
        one.go(lambda found: False)
    for _ in range(RETRIES):
        if slope(growth.sizes, rounds) <= growth.slope:
            break
        for one in rounds:
            one.once()
    found = slope(growth.sizes, rounds)
    times = ", ".join(f"{size}: {one.processor * 1000:.3g} ms" for size, one in zip(growth.sizes, rounds, strict=True))
    passed = found <= growth.slope
    limit = "within" if passed else "at most allowed:"
    message = (
        f"time grows with {growth.vary} to the power {found:.2f}, {limit} {growth.slope:g}"
        f"{f' (theory: {growth.formula})' if growth.formula else ''}; {times}"
    )
    return Check(where=f"{where}/{growth.estimator}", kind="speed", passed=passed, message=message)


def slope(sizes: Sequence[int], rounds: Sequence[Rounds[Influence]]) -> float:
    """Least squares through the logarithms, time in units of the kernel's."""
    times = [math.log(one.processor / one.kernel_time) for one in rounds]
    return float(np.polyfit(np.log(np.asarray(sizes, dtype=np.float64)), times, 1)[0])


def rounds_of(
    name: str, vary: str, size: int, settings: Sequence[str], outputs: Path, kernel: Kernel
) -> Rounds[Influence]:
    """Estimates of the estimator ``name``, none done yet, on a problem whose setting ``vary`` is ``size``.

    Raises:
        UserError: that is no problem, or there is no such estimator.
    """
    estimator = build(load_choice("estimator", name), "estimator", [])
    job = job_of([*settings, f"{vary}={size}", "truth=none", "metric=[]"], outputs)
    return Problem(job, kernel).rounds(name, estimator)[0]
