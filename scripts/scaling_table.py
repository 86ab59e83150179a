#!/usr/bin/env python
"""What estimators cost on problems that do not fit this machine: the tables of docs/scaling.md.

    python scripts/scaling_table.py [--machine h100] [--workers 64] [--only NAME …] [--write]

The figures are those of ``influx plan --machine``: operations counted from the sizes of the problem, divided by the
speeds in ``conf/machine``. Without ``--write`` tables are printed, with it they replace those in docs/scaling.md.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from influx.commands.outlook import Outlook
from influx.commands.plan import described_machine
from influx.config import compose, load_choice
from influx.errors import UserError
from influx.instantiate import build
from influx.job import Job, assemble
from influx.planning import Planned
from influx.rates import Machine
from influx.run import Estimator

DOC = Path(__file__).parents[1] / "docs" / "scaling.md"
RETRAINING = ("group_loo", "downsampling", "datamodels", "loo", "tmc_shapley")
ESTIMATORS = (
    *("feature_similarity", "knn_shapley", "representer_point", "tracin_last", "if_last_layer"),
    *("tracinrp", "tracincp", "gas", "tracin", "hydra_fast", "hydra"),
    *("datainf", "if_ekfac", "if_arnoldi", "if_lissa", "if_cg", "if_exact"),
    *RETRAINING,
)
MANY_ROWS = 1_000_000  # out of reach of those that retrain
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
SEQUENCES = (10_000, 100_000, 1_000_000)
TEXT = [  # 1.05e9 parameters
    *(*COMMON[:-1], "experiment=gpt2_shaped", "dataset.n_test=100", "dataset.length=1024", "dataset.vocabulary=32000"),
    *("model.width=1856", "model.depth=24", "model.heads=16", "model.hidden=7424"),
    *("training.epochs=1", "training.batch_size=8", "training.checkpoints=3"),
]
TEXT_ESTIMATORS = (
    *("tracin_last", "tracinrp", "tracincp", "trak", "logra", "less"),
    *("if_ekfac", "datainf", "if_lissa", "if_cg", "if_exact"),
)


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
        lines = (
            transformer(machines) if name == "transformer" else planned(assembled(PROBLEMS[name]), machines, ESTIMATORS)
        )
        table = "\n".join([HEAD.format(one=f"1 {asked.machine}", many=f"{asked.workers} {asked.machine}"), *lines])
        if asked.write:
            pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
            text, count = re.subn(pattern, lambda m: f"{m[1]}{table}\n{m[2]}", DOC.read_text(), flags=re.S)  # noqa: B023
            if count != 1:
                raise SystemExit(f"{DOC} has no place for the table {name}")
            DOC.write_text(text)
        print(f"{name}\n{table}\n", flush=True)


def assembled(overrides: list[str]) -> Job:
    """As ``influx plan`` assembles a run."""
    return assemble(compose([*overrides, "estimator=random"]), sizes=True)


def planned(job: Job, machines: list[Machine], names: Sequence[str], suffix: str = "") -> list[str]:
    """One line for the training, then one per estimator on the trained problem; ``suffix`` follows their names."""
    lines: list[str] = []
    rows = [Outlook(job, machine).stages() for machine in machines]
    lines.append(line(f"training{suffix}", [row[0] for row in rows]))
    for name in names if len(job.problem.train) < MANY_ROWS else [n for n in names if n not in RETRAINING]:
        try:
            estimator = build(load_choice("estimator", name), "estimator", [])
            if not isinstance(estimator, Planned):
                continue
            rows = []
            for machine in machines:
                outlook = Outlook(replace(job, estimator=cast(Estimator, estimator)), machine, warm=True)
                rows.append([stage for stage in outlook.stages() if stage["stage"] == "estimate"])
            lines.append(line(f"{name}{suffix}", [row[0] for row in rows]))
        except UserError as error:
            lines.append(f"| {name}{suffix} | refused | | | | {str(error).partition(';')[0]} |")
    return lines


def line(name: str, rows: list[dict[str, Any]]) -> str:
    """A line of a table: seconds on each machine, memory, disk (of the last) and work; bold: too much."""
    memory = size(1e6 * (rows[0]["memory_mb"] or 0))
    memory = f"**{memory}**" if rows[0]["state"] == "exceeds memory" else memory
    times = " | ".join(duration(row["seconds"]) for row in rows)
    return f"| {name} | {times} | {memory} | {size(1e6 * (rows[-1]['disk_mb'] or 0))} | {rows[0]['work']} |"


def transformer(machines: list[Machine]) -> list[str]:
    """A decoder of 1.05e9 parameters, made once, with more and more sequences."""
    lines, job = list[str](), assembled([*TEXT, f"dataset.n_train={SEQUENCES[0]}"])
    lines += planned(job, machines, TEXT_ESTIMATORS, f", n = {SEQUENCES[0]:,}")
    for n in SEQUENCES[1:]:
        dataset = build(compose([*TEXT, f"dataset.n_train={n}"])["dataset"], "dataset", [])
        data, learner = dataset.describe(), vars(job.problem.learner)
        for kept in ("_counts", "_tried"):  # the net does not depend on n
            if kept in learner:
                learner[kept] = data, learner[kept][1]
        other = replace(job, problem=replace(job.problem, data=data))
        lines += planned(other, machines, TEXT_ESTIMATORS[:-1], f", n = {n:,}")
    return lines


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
