#!/usr/bin/env python
"""What estimators cost on problems that do not fit this machine: the tables of docs/scaling.md.

    python scripts/scaling_table.py [--machine h100] [--workers 64] [--only NAME …] [--write]

The figures are those of ``influx plan --machine``: operations counted from the sizes of the problem, divided by the
speeds in ``conf/machine``. Without ``--write`` tables are printed, with it they replace those in docs/scaling.md.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from influx.commands.outlook import Outlook
from influx.commands.plan import described_machine
from influx.commands.spreading import WORKER_SECONDS, Shared
from influx.config import compose, load_choice
from influx.datasets.described import described
from influx.engines.similarity import Checkpointed
from influx.errors import UserError
from influx.instantiate import build
from influx.job import assemble
from influx.learners.torch.costs import MANY, cheaper
from influx.planning import NetShape, Planned, Prospect, Work
from influx.problem import Problem
from influx.rates import Machine
from influx.run import Estimator

DOC = Path(__file__).parents[1] / "docs" / "scaling.md"
ESTIMATORS = (
    *("feature_similarity", "knn_shapley", "representer_point", "tracin_last", "if_last_layer"),
    *("tracinrp", "tracincp", "gas", "tracin", "hydra_fast", "hydra"),
    *("datainf", "if_ekfac", "if_arnoldi", "if_lissa", "if_cg", "if_exact"),
    *("group_loo", "downsampling", "datamodels", "loo", "tmc_shapley"),
)
RETRAINING, MANY_ROWS = 5, 1_000_000  # the last five retrain: out of reach of so many rows
COMMON = ["truth=none", "metric=[]", "baselines=[]", "training.checkpoints=10"]
CIFAR = [*COMMON, "dataset=cifar10", "training.epochs=20", "training.batch_size=128"]
PROBLEMS = {
    "cifar10-resnet9-1000": [*CIFAR, "model=resnet9", "dataset.n_test=1000"],
    "cifar10-resnet9-10000": [*CIFAR, "model=resnet9"],
    "cifar10-resnet18-1000": [*CIFAR, "model=torchvision", "dataset.n_test=1000"],
    "cifar10-resnet18-10000": [*CIFAR, "model=torchvision"],
    "imagenet-resnet50-1000": [
        *(*COMMON, "dataset=synthetic", "dataset.n_train=1281167", "dataset.n_test=1000", "dataset.classes=1000"),
        *("dataset.shape=[3,224,224]", "model=torchvision", "model.architecture=resnet50"),
        *("training.epochs=90", "training.batch_size=256"),
    ],
}
HEAD = "| estimator | {one} | {many} | memory | disk | work |\n|---|---|---|---|---|---|"
LAYERS, WIDTH, LENGTH, WORDS = 24, 1856, 1024, 32_000  # of the transformer: 1.1e9 parameters
SEQUENCES, ASKED = (10_000, 100_000, 1_000_000), 100
TEXT = ("tracin_last", "tracinrp", "tracincp", "datainf", "if_lissa", "if_cg", "if_exact")


def main() -> None:
    """Make the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machine", default="h100")
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--only", nargs="*", choices=[*PROBLEMS, "transformer"], default=[*PROBLEMS, "transformer"])
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    machines = [described_machine(asked.machine, n, None) for n in (1, asked.workers)]
    for name in asked.only:
        lines = transformer(machines) if name == "transformer" else planned(PROBLEMS[name], machines)
        table = "\n".join([HEAD.format(one=f"1 {asked.machine}", many=f"{asked.workers} {asked.machine}"), *lines])
        if asked.write:
            pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
            text, count = re.subn(pattern, lambda m: f"{m[1]}{table}\n{m[2]}", DOC.read_text(), flags=re.S)  # noqa: B023
            if count != 1:
                raise SystemExit(f"{DOC} has no place for the table {name}")
            DOC.write_text(text)
        print(f"{name}\n{table}\n", flush=True)


def planned(overrides: list[str], machines: list[Machine]) -> list[str]:
    """One line for the training, then one per estimator on the trained problem."""
    lines: list[str] = []
    job = assemble(compose([*overrides, "estimator=random"]), sizes=True)
    rows = [Outlook(job, machine).stages() for machine in machines]
    lines.append(line("training", [row[0] for row in rows]))
    for name in ESTIMATORS if len(job.problem.train) < MANY_ROWS else ESTIMATORS[:-RETRAINING]:
        try:
            estimator = build(load_choice("estimator", name), "estimator", [])
            if not isinstance(estimator, Planned):
                continue
            rows = []
            for machine in machines:
                outlook = Outlook(replace(job, estimator=cast(Estimator, estimator)), machine, warm=True)
                rows.append([stage for stage in outlook.stages() if stage["stage"] == "estimate"])
            lines.append(line(name, [row[0] for row in rows]))
        except UserError as error:
            lines.append(f"| {name} | refused | | | | {str(error).partition(';')[0]} |")
    return lines


def line(name: str, rows: list[dict[str, Any]]) -> str:
    """A line of a table: seconds on each machine, memory, disk (of the last) and work; bold: too much."""
    memory = size(1e6 * (rows[0]["memory_mb"] or 0))
    memory = f"**{memory}**" if rows[0]["state"] == "exceeds memory" else memory
    times = " | ".join(duration(row["seconds"]) for row in rows)
    return f"| {name} | {times} | {memory} | {size(1e6 * (rows[-1]['disk_mb'] or 0))} | {rows[0]['work']} |"


def transformer(machines: list[Machine]) -> list[str]:
    """A decoder of 1.1e9 parameters, which influx has no model for, by the formulas that plan uses."""
    lines: list[str] = []
    for n in SEQUENCES:
        data = described("sequences", (LENGTH,), n, ASKED, ("0", "1"), "classification")
        problem = Problem(data=data, learner=None, seed=0, config={})  # type: ignore[arg-type]
        for name in TEXT:
            estimator = build(load_choice("estimator", name), "estimator", [])
            try:
                work: Work = estimator.plan(Prospect(problem=problem, who=name, shape=decoder(n)))
            except UserError as error:
                if n == SEQUENCES[0]:
                    lines.append(f"| {name} | refused | | | | {str(error).partition(';')[0]} |")
                continue
            seconds, disk = [machine.rates().seconds(work) for machine in machines], 4.0 * n * ASKED
            if isinstance(estimator, Checkpointed):
                shared = Shared.of(estimator, problem, decoder(n), 4)
                many = machines[-1]
                seconds[-1] = WORKER_SECONDS + shared.seconds(many.rates(), many.workers)
                disk += shared.disk_bytes
            times = " | ".join(map(duration, seconds))
            lines.append(f"| {name}, n = {n:,} | {times} | {size(work.bytes)} | {size(disk)} | |")
    return lines


def decoder(n: int) -> NetShape:
    """One epoch over ``n`` sequences in batches of 256, 3 checkpoints, float32 and Adam."""
    d = WIDTH
    matrices = [(3 * d, d), (d, d), (4 * d, d), (d, 4 * d)] * LAYERS + [(WORDS, d)]
    numbers = sum(a * b for a, b in matrices)
    dots = [
        float(a * b) if cheaper(LENGTH, b, a, MANY, MANY) == "written" else float(LENGTH**2 * (a + b))
        for a, b in matrices
    ]
    steps = -(-n // 256)
    return NetShape(
        parameters=numbers,
        head=WORDS * d,
        macs=float(LENGTH * numbers + 2 * LAYERS * LENGTH**2 * d),
        dot=sum(dots),
        head_dot=dots[-1],
        depth=len(matrices),
        sides=tuple((a, b, a * b) for a, b in matrices),
        plain=False,
        steps=steps,
        visits=n,
        saved=(0, steps // 3, 2 * steps // 3, steps),
        state_bytes=8 * numbers,
        parameter_bytes=4 * numbers,
    )


def duration(seconds: float) -> str:
    """Seconds in the unit that people use."""
    units = (("years", 365.25 * 86400), ("days", 86400.0), ("h", 3600.0), ("min", 60.0))
    name, unit = next(((name, unit) for name, unit in units if seconds >= 2 * unit), ("s", 1.0))
    found = seconds / unit
    return f"{found:,.0f} {name}" if found >= 10 else f"{found:.2g} {name}"


def size(number: float) -> str:
    """Bytes in the unit that people use."""
    name, unit = next(
        ((name, unit) for name, unit in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9)) if number >= unit), ("MB", 1e6)
    )
    return f"{number / unit:,.3g} {name}" if number / unit < 1000 else f"{number / unit:,.0f} {name}"


if __name__ == "__main__":
    main()
