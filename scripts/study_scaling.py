#!/usr/bin/env python
"""Measure how memory and time grow with the size of a problem, beside what the survey's Table 1 says.

    python scripts/study_scaling.py [--part memory time] [--methods tracincp hydra] [--quick] [--json FILE]

Memory: the peak of a process that trains an MLP 64-128-10 for one epoch on synthetic data and runs ``tracincp`` for 20
test instances, with 2,000 and with 50,000 training instances, each in a process of its own. Inputs are a mapped file
and so is the result. The peak (``ru_maxrss``) counts pages of both once they have been touched, so it grows at least by
their size; the part above the imports is given too, since a large library hides growth in a percentage.

Time: processor seconds of ``estimate`` with training excluded, on one thread (waiting for a disk or for other programs
does not count), the minimum over rounds that go through all sizes in turn, so that a slow moment hits all alike. "Full"
is the time for one test instance, "incremental" what a further one adds: the time for many less the time for one (or
few), divided by the difference of their numbers.

Exponents: a time is c + a x^b, and c, which is reading files, choosing how to compute and so on, is of no interest. All
three are fitted by least squares of the logarithms, with c from 0 to the smallest time; ± is the standard error of b,
which includes that c is not known. Where Table 1 says that a size does not matter, b is the slope of log t against
log x. b agrees with Table 1 when it is within 0.15 and not when it is farther away than that and two standard errors
("lower" where it is cheaper than Table 1's order); anything between is unclear. The error does not know of differences
from run to run: on a busy machine incremental exponents moved by several of it, so repeat the script before believing a
"no". A free c says little when a time is a sum of several powers; the local slopes from size to size are in the JSON
file. a is in nanoseconds, at the sizes that the axis leaves as they are. The number of parameters p is varied by the
width of a network: two hidden layers of that width, or two convolutions with so many channels.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.optimize import curve_fit

from influx.catalogue import list_estimators
from influx.engines import layers
from influx.engines.retrain import Bank
from influx.learners.torch.fitted import TorchFitted
from influx.learners.torch.learner import TorchLearner
from influx.learners.torch.optimizers import SGD, Adam
from influx.learners.torch.training import Training
from influx.models.cnn import CNN
from influx.models.mlp import MLP
from influx.oracles.toys import estimator_named
from influx.problem import Data, Problem, Split
from influx.run import Run
from influx.store import Folder

SMALL, LARGE, MEMORY_TESTS, ALLOWED = 2_000, 50_000, 20, 10.0  # training instances; percent
TOLERANCE = 0.15
CLASSES = tuple("abcdefghij")
MOST_TESTS = 4097
RAM = Path("/dev/shm")  # files here cost no waiting for a disk
SCRATCH = tempfile.TemporaryDirectory(dir=RAM if RAM.is_dir() else None)  # of trained networks and retraining banks

Part = Literal["full", "incremental"]
Times = dict["Size", float]


@dataclass(frozen=True)
class Size:
    """A problem and its training: ``steps`` in batches of ``batch`` (0: everything), all saved if ``every``.

    ``models`` is what an estimator that samples subsets gets for its setting of that name. ``written`` forgoes the
    faster products, so that what Table 1 counts is what is done.
    """

    n: int
    m: int = 1
    width: int = 64
    steps: int = 1
    batch: int = 0
    every: bool = False
    net: Literal["mlp", "cnn"] = "mlp"
    optimizer: Literal["sgd", "momentum", "adam"] = "sgd"
    block: int | None = None
    models: int = 0
    written: bool = False  # gradients of linear layers written out, where factors would be faster

    @property
    def training(self) -> Size:
        """Without what training does not depend on."""
        return replace(self, m=0, models=0, written=False)


@dataclass(frozen=True)
class Series:
    """Sizes along one axis. ``claim`` is the exponent in Table 1, None where it has none; ``why`` it may differ."""

    axis: str  # n, 2^n, m, b, K (models), T (steps), C (checkpoints) or p (by the width)
    part: Part
    values: tuple[int, ...]
    base: Size
    claim: float | None = 1.0
    why: str = ""
    plain: bool = False  # no fixed cost in the fit
    few: int = 1  # test instances whose time is subtracted for the incremental time

    def sizes(self, quick: bool) -> list[Size]:
        """The problems, the smallest first."""
        names = {"n": "n", "2^n": "n", "m": "m", "b": "batch", "K": "models", "T": "steps", "C": "steps", "p": "width"}
        name = names[self.axis]
        changes: list[dict[str, Any]] = [{name: value} for value in self.values[: -1 if quick else None]]
        return [replace(self.base, **change) for change in changes]


@dataclass(frozen=True)
class Method:
    """An estimator, its column of Table 1 with full and incremental time, and what to measure."""

    column: str
    full: str
    incremental: str
    series: tuple[Series, ...]
    settings: dict[str, Any] = field(default_factory=dict)


FACTORS = "a product of two gradients of a linear layer costs d_in + d_out, not d_in d_out"
LINEAR_PRODUCTS = FACTORS + "; only the gradients themselves cost p"
HELD = "not tested; perhaps what is held for all test instances outgrows the caches"
UNKNOWN = "not known: see the local slopes"
IMAGES = (
    "not tested; perhaps small convolutions are slower per multiply-add, and gradients written out outgrow the caches"
)
WIDTHS, CHANNELS = (181, 256, 362, 512, 724, 1024), (64, 91, 128, 181, 256, 362)


def doubled(start: int, times: int = 5) -> tuple[int, ...]:
    """``start`` and its doubles."""
    return tuple(start << k for k in range(times + 1))


def checkpoint_series() -> tuple[Series, ...]:
    """Sums over checkpoints: C takes the place of T (section 5.2.1.1)."""
    base = Size(n=4096, width=128, steps=2, every=True)
    wide, images = replace(base, n=1024, steps=1), replace(base, n=32, steps=1, net="cnn")
    tests = replace(base, n=1024, width=512, steps=1, m=257)  # so wide that products cost more than their sums
    return (
        Series("n", "full", doubled(2048), base),
        Series("p", "full", WIDTHS, wide),
        Series("p", "full", CHANNELS, images, 1.0, IMAGES),
        Series("C", "full", doubled(1), base),
        Series("n", "incremental", doubled(512, 4), tests),
        Series("p", "incremental", WIDTHS[:5], replace(wide, n=4096, m=513), 1.0, LINEAR_PRODUCTS, True),
        Series("p", "incremental", (128, *WIDTHS[:4]), replace(wide, m=513, written=True), plain=True, few=65),
        Series("p", "incremental", CHANNELS[:5], replace(images, n=64, m=513), 1.0, IMAGES, True, few=65),
        Series("C", "incremental", doubled(1, 4), tests),
        Series("m", "incremental", doubled(128, 4), tests),
    )


def visit_series(optimizer: Literal["sgd", "momentum", "adam"] = "sgd") -> tuple[Series, ...]:
    """Sums over steps, in the worst case that Table 1 is about: every batch holds everything."""
    base = Size(n=512, width=128, steps=8, optimizer=optimizer)
    wide, images = replace(base, n=128, steps=4), replace(base, n=32, steps=2, net="cnn")
    tests = replace(base, n=512, width=512, steps=1, m=257)
    return (
        Series("n", "full", doubled(256), base),
        Series("p", "full", WIDTHS, wide),
        Series("T", "full", doubled(4), base),
        Series("n", "incremental", doubled(512, 4), tests),
        Series("p", "incremental", WIDTHS[:5], replace(tests, n=2048, m=513), 1.0, LINEAR_PRODUCTS, True),
        Series("p", "incremental", CHANNELS[:4], replace(images, n=64, m=129), 1.0, IMAGES, few=33),
        Series("T", "incremental", doubled(2, 4), tests),
        Series("m", "incremental", doubled(128, 4), tests),
    )


def hydra_series() -> tuple[Series, ...]:
    """Tangents of all instances through every step, in batches of 16."""
    base = Size(n=128, width=64, steps=32, batch=32)
    tests = replace(base, n=128, batch=64, steps=4, m=2049)
    batch = "a Hessian product of a batch costs b p for every instance; Table 1 takes b as a constant"
    return (
        Series("n", "full", doubled(64, 4), base),
        Series("p", "full", (45, 64, 91, 128, 181, 256), replace(base, n=64, steps=8)),
        Series("T", "full", doubled(4, 4), base),
        Series("b", "full", doubled(16, 4), replace(base, n=256, steps=16), 0.0, batch),
        Series("n", "incremental", doubled(64, 4), replace(tests, width=16, steps=16, m=4097), 1.0, HELD),
        Series("p", "incremental", (64, 91, 128, 181), tests, 1.0, HELD),
        Series("T", "incremental", doubled(2, 3), tests, 0.0),
        Series("m", "incremental", doubled(256, 4), tests, 1.0, HELD),
    )


def fast_series() -> tuple[Series, ...]:
    """The same without curvature: a sum over steps of products with the final test gradients, batches of everything."""
    base = Size(n=256, width=64, steps=8)
    tests = replace(base, steps=1, m=4097)
    kernel = "nothing is carried for an instance: for SGD the final test gradients meet those of every step"
    return (
        Series("n", "full", doubled(64, 4), base, 1.0),
        Series("p", "full", (64, 91, 128, 181, 256), replace(base, n=128, steps=4), 1.0),
        Series("T", "full", doubled(4, 4), base),
        Series("n", "incremental", doubled(64, 4), tests, 1.0, HELD),
        Series("p", "incremental", (64, 91, 128, 181, 256), tests, 1.0, LINEAR_PRODUCTS, True),
        Series("T", "incremental", doubled(1, 4), tests, 0.0, kernel),
        Series("m", "incremental", doubled(256, 4), tests, 1.0, HELD),
    )


def backward_series() -> tuple[Series, ...]:
    """Adjoints of test risks: Table 1 has no column of theirs, these are the costs that the estimators state."""
    base = Size(n=64, width=64, steps=8, batch=16)
    tests = replace(base, m=65)
    return (
        Series("T", "incremental", doubled(4), tests),
        Series("p", "incremental", (45, 64, 91, 128, 181), tests),
        Series("b", "incremental", doubled(16, 4), replace(tests, n=256, steps=16)),
        Series("n", "incremental", doubled(16, 3), tests, 0.0),
        Series("m", "incremental", doubled(16), base),
    )


def loo_series() -> tuple[Series, ...]:
    """Retraining in blocks of 16 models, so that no block is padded: n + 1 models are trained."""
    models = tuple(16 * 2**k - 1 for k in range(1, 6))
    base = Size(n=63, width=32, steps=256, batch=16, block=16)
    own = "each model is also evaluated on the n training instances, for self-influence"
    return (
        Series("n", "full", models, base, 1.0, own),
        Series("T", "full", doubled(16), base),
        Series("p", "full", (32, 45, 64, 91, 128), replace(base, n=31, steps=64), None, "a step costs p"),
        Series("n", "incremental", models, replace(base, batch=64, steps=16, m=4097), 1.0, HELD),
        Series("m", "incremental", doubled(256, 4), replace(base, batch=64, steps=16)),
    )


def exact_series() -> tuple[Series, ...]:
    """The p x p curvature matrix is built and factorised."""
    base = Size(n=1024, width=8, steps=4, every=True)
    why = "the exact solve: n p² + p³ (section 5.1.1.1); Table 1 is about stochastic estimates of it"
    return (
        Series("n", "full", doubled(512), base),
        Series("p", "full", (8, 12, 18, 27, 39), replace(base, n=256), 1.0, why),
        Series("n", "incremental", doubled(256, 4), replace(base, m=4097), 1.0, HELD),
        Series("p", "incremental", (8, 12, 18, 27), replace(base, m=4097), 1.0, "a solution of p numbers costs p²"),
        Series("m", "incremental", doubled(256, 4), base, 1.0, HELD),
    )


def lissa_series() -> tuple[Series, ...]:
    """So many batches whatever n, then a pass over the training set."""
    base = Size(n=4096, width=64, steps=1)
    tests = replace(base, n=1024, width=128, m=65)
    return (
        Series("n", "full", doubled(2048, 4), base),
        Series("p", "full", (91, 128, 181, 256, 362), replace(base, n=1024)),
        Series("n", "incremental", doubled(1024, 3), tests, 1.0, "the batches of the solver take a time of their own"),
        Series("p", "incremental", (91, 128, 181, 256), tests),
        Series("m", "incremental", doubled(32, 3), tests),
    )


def representer_series() -> tuple[Series, ...]:
    """The last layer fitted again on n features, then products of features."""
    base = Size(n=1024, width=64, steps=1)
    return (
        Series("n", "full", doubled(2048), base, 1.0, "steps of the fit differ"),
        Series("n", "incremental", doubled(512, 4), replace(base, m=4097)),
        Series("m", "incremental", doubled(512, 3), base, 1.0, HELD),
    )


def downsampling_series() -> tuple[Series, ...]:
    """K models in blocks of 12, the multiple that blocks are padded to."""
    base = Size(n=64, width=32, steps=256, batch=16, block=12, models=96)
    own = "each model is also evaluated on the training instances, for memorization"
    return (
        Series("K", "full", tuple(12 * 2**k for k in range(1, 6)), base, 1.0, own),
        Series("T", "full", doubled(16), base),
        Series("K", "incremental", tuple(12 * 2**k for k in range(2, 6)), replace(base, steps=16, m=4097), 1.0, HELD),
        Series("m", "incremental", doubled(256, 4), replace(base, steps=16)),
    )


def shapley_series() -> tuple[Series, ...]:
    """Every coalition is trained: the axis is 2^n."""
    base = Size(n=8, width=32, steps=64, block=12)
    return (
        Series("2^n", "full", (6, 7, 8, 9, 10, 11), base),
        Series("2^n", "incremental", (7, 8, 9, 10), replace(base, steps=4, m=4097), 1.0, HELD),
        Series("m", "incremental", doubled(512, 3), replace(base, n=9, steps=4)),
    )


def methods() -> dict[str, Method]:
    """What can be measured, by the name of the estimator."""
    tracin, hydra = ("TracIn", "n p T", "n p T"), ("HyDRA", "n p T", "n p")
    none, quiet = {"audit": 0}, {"audit": 0, "self_influence": False}
    return {
        "loo": Method("LOO", "n T", "n", loo_series(), {"ceiling_budget": 0}),
        "downsampling": Method("Downsamp.", "K T", "K", downsampling_series()),
        "shapley": Method("Shapley", "2^n T", "2^n", shapley_series()),
        "if_lissa": Method("Inf. Func.", "n p", "n p", lissa_series(), {"depth": 8, "repeats": 1, "damping": 0.1}),
        "if_exact": Method("Inf. Func.", "n p", "n p", exact_series()),
        "representer_point": Method("Rep. Pt.", "n", "n", representer_series()),
        "tracincp": Method(*tracin, checkpoint_series()),
        "tracin_last": Method(*tracin, checkpoint_series()),
        "gas": Method(*tracin, checkpoint_series()),
        "gas_layerwise": Method(*tracin, checkpoint_series()),
        "tracin": Method(*tracin, visit_series()),
        "renorm_tracin": Method(*tracin, visit_series()),
        "tracin_momentum": Method(*tracin, visit_series("momentum"), {"self_influence": False}),
        "tracin_adam": Method(*tracin, visit_series("adam"), {"self_influence": False}),
        "hydra": Method(*hydra, hydra_series(), none),
        "hydra_fast": Method(*hydra, fast_series(), none),
        "sgd_influence": Method("(HyDRA)", "m b p T", "b p T", backward_series(), quiet),
        "magic": Method("(HyDRA)", "m b p T", "b p T", backward_series(), quiet),
    }


DEFAULT = (
    "loo",
    "downsampling",
    "shapley",
    "if_lissa",
    "if_exact",
    "representer_point",
    "tracincp",
    "tracin",
    "hydra",
    "hydra_fast",
    "sgd_influence",
    "magic",
)


def clouds(n: int, shape: tuple[int, ...], seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Noise around one centre per class."""
    rng, y = np.random.default_rng(seed), np.arange(n) % len(CLASSES)
    centres = np.random.default_rng(0).normal(size=(len(CLASSES), *shape))
    return (rng.normal(size=(n, *shape)) + centres[y]).astype(np.float32), y


@cache
def trained(size: Size) -> tuple[Problem, TorchFitted]:
    """The problem, with more test instances than any size asks for, and its recorded training."""
    shape = (16,) if size.net == "mlp" else (1, 16, 16)
    pairs = clouds(size.n, shape, 1), clouds(MOST_TESTS, shape, 2)
    splits = [Split(x=x, y=y, ids=np.arange(len(y))) for x, y in pairs]
    kind: Literal["tabular", "image"] = "tabular" if size.net == "mlp" else "image"
    data = Data(name="clouds", task="classification", kind=kind, train=splits[0], test=splits[1], classes=CLASSES)
    per_epoch = -(-size.n // (size.batch or size.n))
    if size.steps % per_epoch:
        raise ValueError(f"{size} does not end with an epoch")
    training = Training(
        epochs=size.steps // per_epoch,
        batch_size=size.batch or size.n,
        checkpoints=1,
        checkpoint_spacing="every" if size.every else "even",
        block=size.block,
    )
    model = MLP(width=size.width, depth=2) if size.net == "mlp" else CNN(channels=[size.width] * 2, hidden=8)
    optimizer = Adam(lr=1e-3) if size.optimizer == "adam" else SGD(lr=0.05, momentum=0.9 * (size.optimizer != "sgd"))
    learner = TorchLearner(model=model, optimizer=optimizer, training=training)
    problem = Problem(data=data, learner=learner, seed=0, config=asdict(size))
    return problem, learner.fit(data, 0, Folder(Path(SCRATCH.name) / problem.id))


def parameters(size: Size) -> int:
    """Number of parameters p."""
    return sum(p.numel() for p in trained(size.training)[1].build(0).parameters())


def seconds(name: str, size: Size, settings: dict[str, Any]) -> float:
    """Processor time of one estimate, with nothing retrained before."""
    whole, fitted = trained(size.training)
    problem = replace(whole, data=replace(whole.data, test=whole.test.take(slice(0, size.m))))
    estimator = estimator_named(name, settings | ({"models": size.models} if size.models else {}))
    with tempfile.TemporaryDirectory(dir=SCRATCH.name) as folder:
        bank = Bank(problem, Folder(Path(folder)))
        run = Run(problem=problem, fitted=fitted, bank=bank, requires=estimator.requires, who=name)
        with patch.object(layers, "cheaper", always_written) if size.written else nullcontext():
            start = time.process_time()
            estimator.estimate(run)
            return time.process_time() - start


def always_written(*_: Any, **__: Any) -> str:
    """In place of the engine's choice between factors and gradients written out."""
    return "written"


def measure(name: str, method: Method, budget: float, quick: bool) -> Times:
    """Seconds of every size that the method's series need: minima over rounds through all of them."""
    sizes: list[Size] = []
    for series in method.series:
        for size in series.sizes(quick):
            sizes += [size] if series.part == "full" else [size, replace(size, m=series.few)]
    found: dict[Size, list[float]] = {size: [] for size in sizes}
    for size in found:
        seconds(name, size, method.settings)  # also trains
    start, rounds = time.perf_counter(), 0
    while rounds < (2 if quick else 4) or time.perf_counter() - start < budget:
        rounds += 1
        for size, times in found.items():
            times.append(seconds(name, size, method.settings))
    took = time.perf_counter() - start
    print(f"{name}: {len(found)} sizes, {rounds} rounds, {took:.0f} s", file=sys.stderr, flush=True)
    return {size: min(times) for size, times in found.items()}


def exponent(x: NDArray[np.float64], t: NDArray[np.float64], plain: bool) -> tuple[float, float, float]:
    """The b of t = c + a x^b, its standard error, and a in the unit of t; with c = 0 if ``plain``."""
    u, v = np.log(x / x[-1]), np.log(t / t[-1])
    if plain:
        slope, covariance = np.polyfit(u, v, 1, cov=True)
        b, error, a = slope[0], np.sqrt(covariance[0, 0]), np.exp(slope[1])
        return float(b), float(error), float(a * t[-1] / x[-1] ** b)

    def model(u: NDArray[np.float64], c: float, a: float, b: float) -> NDArray[np.float64]:
        return np.log(c + a * np.exp(b * u))

    bounds = ([0, 1e-6, 0], [np.exp(v.min()), 2, 5])
    found, covariance = curve_fit(model, u, v, [bounds[1][0] / 4, 0.9, 1], bounds=bounds)
    _, a, b = found
    return float(b), float(np.sqrt(covariance[2, 2])), float(a * t[-1] / x[-1] ** b)


def verdict(b: float, error: float, claim: float | None) -> str:
    """Whether an exponent is the claimed one; unclear where noise could explain the difference, lower if cheaper."""
    if claim is None:
        return "–"
    away = abs(b - claim)
    no = "lower" if b < claim else "no"
    return "yes" if away <= TOLERANCE else no if away > TOLERANCE + 2 * error else "unclear"


def row(name: str, method: Method, series: Series, times: Times, quick: bool) -> dict[str, Any]:
    """One line of the table, with the numbers behind it."""
    sizes = series.sizes(quick)
    t = np.array([times[size] for size in sizes])
    if series.part == "incremental":
        t = t - np.array([times[replace(size, m=series.few)] for size in sizes])
        t = t if series.axis == "m" else t / (series.base.m - series.few)
    values = series.values[: len(sizes)]
    x = np.array([parameters(size) for size in sizes] if series.axis == "p" else values, float)
    x = 2.0**x if series.axis == "2^n" else x - (series.axis == "m")
    b, error, a = exponent(x, t, series.plain or series.claim == 0) if (t > 0).all() else (float("nan"),) * 3
    return {
        "estimator": name,
        "column": method.column,
        "table1": method.full if series.part == "full" else method.incremental,
        "part": series.part,
        "axis": series.axis,
        "net": series.base.net,
        "written": series.base.written,
        "sizes": x.tolist(),
        "seconds": t.tolist(),
        "local_slopes": (np.diff(np.log(np.maximum(t, 1e-12))) / np.diff(np.log(x))).tolist(),
        "claim": series.claim,
        "exponent": b,
        "error": error,
        "constant": a,
        "agrees": verdict(b, error, series.claim),
        "why": series.why,
    }


def time_table(rows: list[dict[str, Any]]) -> Table:
    """Exponents beside Table 1, with the constants a of a x^b."""
    titles = (
        "estimator",
        "Table 1",
        "time",
        "axis",
        "from … to",
        "ms",
        "claim",
        "exponent",
        "a, ns",
        "agrees",
        "why not",
    )
    table = Table(*titles)
    for number, r in enumerate(rows):
        last = number + 1 == len(rows) or rows[number + 1]["estimator"] != r["estimator"]
        axis = r["axis"] + (" (cnn)" if r["net"] == "cnn" else "") + (" (written)" if r["written"] else "")
        ends = [1e3 * r["seconds"][0], 1e3 * r["seconds"][-1]]
        table.add_row(
            *(r["estimator"], f"{r['column']}: {r['table1']}", r["part"], axis),
            f"{r['sizes'][0]:,.0f} … {r['sizes'][-1]:,.0f}",
            f"{ends[0]:.3g} … {ends[1]:.3g}",
            "–" if r["claim"] is None else f"{r['claim']:g}",
            f"{r['exponent']:.2f} ± {r['error']:.2f}",
            f"{1e9 * r['constant']:.2g}",
            f"[bold]{r['agrees']}[/]" if r["agrees"] == "no" else r["agrees"],
            "" if r["agrees"] in ("yes", "–") else r["why"] or UNKNOWN,
            end_section=last,
        )
    return table


def peak() -> float:
    """Most memory that this process has held so far, in MB."""
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held / 1e6 if sys.platform == "darwin" else held * 1024 / 1e6


def memory_child(n: int, checkpoints: int) -> None:
    """Train and estimate in this process; print its peaks after each stage."""
    found = {"imports": peak()}
    splits = []
    for name, count, seed in (("train", n, 1), ("test", MEMORY_TESTS, 2)):
        path = Path(SCRATCH.name) / f"{name}.npy"
        x = np.lib.format.open_memmap(path, "w+", np.float32, (count, 64))
        for start in range(0, count, 1000):
            x[start : start + 1000] = clouds(min(1000, count - start), (64,), seed + start)[0]
        x.flush()
        mapped = np.load(path, mmap_mode="c")  # writeable, since torch insists, but never written
        splits.append(Split(x=mapped, y=np.arange(count) % len(CLASSES), ids=np.arange(count)))
    data = Data(name="clouds", task="classification", kind="tabular", train=splits[0], test=splits[1], classes=CLASSES)
    training = Training(epochs=1, batch_size=50, checkpoints=checkpoints)
    learner = TorchLearner(model=MLP(width=128), optimizer=SGD(lr=0.05), training=training)
    problem = Problem(data=data, learner=learner, seed=0, config={"n": n})
    fitted = learner.fit(data, 0, Folder(Path(SCRATCH.name) / "problem"))
    found["training"] = peak()
    estimator = estimator_named("tracincp")
    bank = Bank(problem, Folder(Path(SCRATCH.name) / "problem/retrain"))
    run = Run(problem=problem, fitted=fitted, bank=bank, requires=estimator.requires, matrix_mb=0.0)
    result = estimator.estimate(run)
    assert isinstance(result.values, np.memmap)
    mapped_mb = (data.train.x.nbytes + result.values.nbytes) / 1e6
    print(json.dumps(found | {"estimate": peak(), "mapped": mapped_mb, "n": n, "checkpoints": checkpoints}))


def memory(checkpoints: int) -> dict[str, Any]:
    """Peaks of the two processes and their growth in percent."""
    made = []
    for n in (SMALL, LARGE):
        command = [sys.executable, __file__, "--child", str(n), str(checkpoints)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        made.append(json.loads(done.stdout.splitlines()[-1]))
    small, large = made
    growth = 100 * (large["estimate"] / small["estimate"] - 1)
    return {"processes": made, "growth_percent": growth, "checkpoints": checkpoints}


def memory_table(results: list[dict[str, Any]]) -> Table:
    """Peaks in MB."""
    titles = ("checkpoints", "n", "imports", "training", "estimate", "above imports", "files mapped", "growth")
    table = Table(*titles, title=f"peak memory of tracincp, MB (growth must be below {ALLOWED:g}%)")
    for result in results:
        for at in result["processes"]:
            numbers = [at["imports"], at["training"], at["estimate"], at["estimate"] - at["imports"], at["mapped"]]
            verdict = "reached" if result["growth_percent"] < ALLOWED else "MISSED"
            growth = f"{result['growth_percent']:.1f}% ({verdict})" if at["n"] == LARGE else ""
            table.add_row(f"{at['checkpoints']}", f"{at['n']:,}", *(f"{x:.1f}" for x in numbers), growth)
        table.add_section()
    return table


def chosen_methods(names: Iterable[str]) -> dict[str, Method]:
    """Those of ``names`` that this version has."""
    there, known = {r["name"] for r in list_estimators()}, methods()
    return {name: known[name] for name in names if name in there}


def main() -> None:
    """Measure the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=["memory", "time"], default=["memory", "time"])
    parser.add_argument("--methods", nargs="+", choices=list(methods()), default=list(DEFAULT))
    parser.add_argument("--quick", action="store_true", help="fewer sizes and rounds, about two minutes")
    parser.add_argument("--seconds", type=float, help="spent on each method after a first round")
    parser.add_argument("--json", type=Path, help="write all numbers there")
    parser.add_argument("--child", nargs=2, type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "The given NumPy array is not writable")
    if asked.child:
        return memory_child(*asked.child)
    console, results = Console(width=None if sys.stdout.isatty() else 200), {}
    if "memory" in asked.part:
        results["memory"] = [memory(checkpoints) for checkpoints in (4, 10)]
        console.print(memory_table(results["memory"]))
    if "time" in asked.part:
        rows: list[dict[str, Any]] = []
        budget = asked.seconds or (0.5 if asked.quick else 30.0)
        for name, method in chosen_methods(asked.methods).items():
            times = measure(name, method, budget, asked.quick)
            rows += [row(name, method, series, times, asked.quick) for series in method.series]
        results["time"] = rows
        console.print(time_table(rows))
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
