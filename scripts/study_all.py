#!/usr/bin/env python
"""Every registered estimator, held against leave-one-out by retraining: one table on digits, and one page of all.

    python scripts/study_all.py [--outputs FOLDER] [--only nets,trees] [--page FILE] [--markdown FILE]

Most estimators take the first problem, digits and a small network; those that need trees, a linear model, another
optimizer or a density take the same instances with such a model, each with some of the others beside them, and those
that need texts have a table of their own. Every problem is one or a few sweeps (``influx run -m``, printed as they
start) on one thread. The same command reads what is there. Then ``influx compare`` shows the tables and ``influx
report`` writes the page. A new estimator joins the first problem by itself, or that of the trees or linear models that
it needs.

The exit code is 1 if an estimator failed.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import influx

COMMON = (
    "dataset.n_train=100",
    "dataset.n_test=30",
    "metric=[agreement,ceiling,ranking]",
    "baselines=[]",
    "threads=1",
    "quiet=true",
)
BESIDE = ("loss", "random")  # in every table
REST = ("*",)  # estimators that no other sweep is about


@dataclass(frozen=True)
class Sweep:
    """Estimators that share ``settings`` of their own."""

    estimators: tuple[str, ...]
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A problem and the sweeps over it; estimators with the ``need`` are in the first of them."""

    problem: tuple[str, ...]
    sweeps: tuple[Sweep, ...]
    need: str = ""


TABLES = {
    "nets": Table(
        ("dataset=digits",),
        (
            Sweep(REST),
            Sweep(("shapley", "shapley_interaction", "shapley_taylor"), ("estimator.groups=label",)),
            Sweep(("tmc_shapley", "beta_shapley"), ("estimator.permutations=20",)),
            Sweep(("pbrf",), ("estimator.damping=0.1",)),  # of the automatic damping no minimisation converges
        ),
    ),
    "momentum": Table(
        ("dataset=digits", "optimizer.lr=0.02", "optimizer.momentum=0.9"),
        (Sweep(("tracin_momentum", "tracin", "tracincp", "sgd_influence", *BESIDE)),),
    ),
    "adam": Table(
        ("dataset=digits", "optimizer=adam", "optimizer.lr=0.01"),
        (Sweep(("tracin_adam", "tracin", "tracincp", "less", "magic", *BESIDE)),),
    ),
    "linear": Table(("dataset=digits", "model=logistic"), (Sweep(BESIDE),), need="linear_model"),
    "trees": Table(
        ("dataset=digits", "model=lightgbm", "model.n_estimators=20"),
        (Sweep(("feature_similarity", "knn_shapley", *BESIDE)),),
        need="forest",
    ),
    "densities": Table(
        ("dataset=digits", "model=vae", "optimizer=adam", "optimizer.lr=0.01"),
        (Sweep(("vae_tracin", "tracin_ad", "generative_downsampling", "tracincp", *BESIDE)),),
    ),
    "texts": Table(
        (
            "dataset=synthetic_text",
            "dataset.length=8",
            "model=text_encoder",
            "model.width=8",
            "model.hidden=16",
            "training.epochs=10",
            "training.batch_size=20",
            "truth.ceiling_budget=20",
        ),
        (Sweep(("tracin_we", "bm25", "tracin_last", "tracincp", "feature_similarity", *BESIDE)),),
    ),
}
ELSEWHERE = {
    "tracin_momentum": "momentum",
    "tracin_adam": "adam",
    "vae_tracin": "densities",
    "tracin_ad": "densities",
    "generative_downsampling": "densities",
    "tracin_we": "texts",
    "bm25": "texts",
}  # estimators that are not in the first table, and where they are


def filled() -> dict[str, Table]:
    """The tables with all estimators in their places."""
    needs = {str(row["name"]): set(row["needs"]) for row in influx.list_estimators()}
    apart = {table.need for table in TABLES.values() if table.need}
    own = {e for sweep in TABLES["nets"].sweeps for e in sweep.estimators} | ELSEWHERE.keys()
    rest = tuple(e for e, found in needs.items() if e not in own and not found & apart)
    made = {}
    for name, table in TABLES.items():
        needed = tuple(e for e, found in needs.items() if table.need in found)
        first, *others = table.sweeps
        estimators = rest if first.estimators == REST else needed + first.estimators
        made[name] = replace(table, sweeps=(replace(first, estimators=estimators), *others))
    return made


def commands(name: str, table: Table, outputs: Path) -> list[tuple[Path, list[str]]]:
    """Every sweep of a table: its folder, and the overrides that make it."""
    made = []
    for number, sweep in enumerate(table.sweeps, start=1):
        called = f"all_{name}" if number == 1 else f"all_{name}_{number}"
        chosen = f"estimator={','.join(sweep.estimators)}"
        overrides = [
            chosen,
            *table.problem,
            *sweep.settings,
            *COMMON,
            f"sweep.name={called}",
            f"paths.outputs={outputs}",
        ]
        made.append((outputs / "sweeps" / called, overrides))
    return made


def call(*arguments: str) -> int:
    """Run ``influx`` in a process of its own; its exit code."""
    print(f"$ influx {shlex.join(arguments)}", flush=True)
    return subprocess.run([sys.executable, "-m", "influx", *arguments], check=False).returncode


def markdown(places: Sequence[str]) -> str:
    """The tables for the documentation, without seconds, which are those of one machine."""
    told = [sys.executable, "-m", "influx", "compare", *places, "--force", "--json"]
    found = json.loads(subprocess.run(told, check=True, capture_output=True, text=True).stdout)
    head = ["model", "estimator", "Spearman with leave-one-out", "letters", "top-10 overlap", "trainings"]
    parts = []
    for number, protocol in enumerate(found["protocols"]):
        lines = [protocol["problem"], "", f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
        lines += [f"| {' | '.join(_cells(row))} |" for row in found["rows"] if row["protocol"] == number]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _cells(row: dict[str, Any]) -> list[str]:
    spearman, overlap = (_score(row["scores"].get(metric)) for metric in ("spearman", "topk_proponents"))
    trainings = "" if row["trainings"] is None else f"{row['trainings']:,.0f}"
    return [row["model"], row["name"].removesuffix(f", {row['model']}"), spearman, row["letters"], overlap, trainings]


def _score(score: dict[str, Any] | None) -> str:
    if score is None:
        return ""
    if score["status"] != "ok":
        return str(score["status"])
    low, high = (math.nan if score[end] is None else float(score[end]) for end in ("ci_low", "ci_high"))
    spread = f" [{low:.2f}, {high:.2f}]" if low == low and high == high else ""
    return f"{score['value']:.3f}{spread}"


def main() -> int:
    """Run the sweeps, show the tables, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    parser.add_argument("--only", default=",".join(TABLES), help="problems, by comma")
    parser.add_argument("--page", type=Path, default=Path("all_estimators.html"))
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    chosen = given.only.split(",")
    unknown = [name for name in chosen if name not in TABLES]
    if unknown:
        parser.error(f"--only takes {', '.join(TABLES)}, got {', '.join(unknown)}")
    sweeps = [sweep for name in chosen for sweep in commands(name, filled()[name], given.outputs)]
    failed = [folder for folder, overrides in sweeps if call("run", "-m", *overrides)]
    places = [str(folder) for folder, _ in sweeps if folder.is_dir()]
    shown = call("compare", *places, "--force")
    written = call("report", *places, "--force", "--output", str(given.page))
    if given.markdown and not shown:
        given.markdown.write_text(markdown(places), encoding="utf-8")
    return int(bool(failed or shown or written))


if __name__ == "__main__":
    sys.exit(main())
