#!/usr/bin/env python
"""Time TRAK, LoGra and EK-FAC against traker, dattri and kronfluence on the same trained nets, and compare scores.

    pip install traker dattri kronfluence
    python scripts/bench_projected.py [--cases a b c] [--libraries traker dattri kronfluence]
        [--groups trak logra ekfac tracinrp] [--dim 512] [--repeats 3] [--json FILE]

Every way runs in a process of its own, which gives peak memory; repeats go through all ways in turn. A time is from the
trained model to the matrix of scores, with nothing stored before (but for the way that says so); imports and training
are not timed. Times are the processor's, which others on the machine disturb little, minima over repeats; all ways run
on one thread. Scores are compared with the first of their group: the mean over test instances of
Spearman correlations, beside that of influx with another seed, which is what a random projection allows; and with
influx's projection put into the others, the largest difference relative to the largest score after one factor.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from bench_cases import CASES, Case
from bench_gradients import peak, timed
from bench_peers import quiet
from bench_projected_peers import Given, drawn, missing, ways
from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata

from influx.engines.projections import projection_flops
from influx.estimators.projected.trak import Trak

VALUES = "values.npy"
RELATIVE = 10.0  # damping over the mean eigenvalue, as influx chooses it
GOAL = 3.0  # times as fast as the fastest peer of a group


def child(letter: str, number: int, folder: Path, dim: int, damping: float) -> None:
    """Run one way once and say what it took."""
    torch.set_num_threads(1)
    case = CASES[letter]
    way = ways(case.n)[number]
    try:
        given = Given(case.trained(case.data(), folder, "cpu"), dim, damping)
        given = Given(given.trained, dim, damping, shared=drawn(given)) if "influx's" in way.label else given
        compute = way.prepare(given)
        before = peak("cpu")
        begun = process_time()
        elapsed, values = timed(compute, "cpu")
        seconds = process_time() - begun
    except Exception as error:  # whatever a library raises is why it refuses
        reason = str(error).strip().splitlines() or [""]
        print(json.dumps({"refused": f"{type(error).__name__}: {reason[0]}"[:300]}))
        return
    np.save(folder / VALUES, np.asarray(values, np.float64))
    print(json.dumps({"seconds": seconds, "elapsed": elapsed, "before_mb": before, "peak_mb": peak("cpu")}))


def alone(letter: str, number: int, folder: Path, dim: int, damping: float, limit: float) -> dict[str, Any]:
    """Run a way in a process of its own."""
    told = [letter, str(number), str(folder), str(dim), str(damping)]
    try:
        done = subprocess.run(
            [sys.executable, __file__, "--child", *told], capture_output=True, text=True, timeout=limit, check=False
        )
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"refused": f"not done after {limit:g} s"}
    except (IndexError, json.JSONDecodeError):
        return {"refused": f"ended with status {done.returncode}: {done.stderr.strip()[-200:]}"}
    return found


def spearman(values: np.ndarray, reference: np.ndarray) -> float:
    """Mean over columns."""
    left, right = (rankdata(v, axis=0) for v in (values, reference))
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(left.T, right.T, strict=True)]))


def scaled_difference(values: np.ndarray, reference: np.ndarray) -> float:
    """Largest difference relative to the largest value, after the factor that fits best."""
    factor = float((values * reference).sum() / np.square(values).sum())
    return float(np.abs(factor * values - reference).max() / np.abs(reference).max())


def measure(
    letter: str, libraries: list[str], groups: list[str], dim: int, repeats: int, limit: float
) -> dict[str, Any]:
    """All numbers of one case."""
    case, rows = CASES[letter], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = Given(case.trained(case.data(), folder, "cpu"), dim, 0.0)
        found = given.run(Trak(dim=dim, kind="gaussian", self_influence=False, damping=1.0))
        damping = RELATIVE * float(found.report["mean_eigenvalue"])
        for number, way in enumerate(ways(case.n)):
            if way.group not in groups:
                continue
            why = missing(way.library) if way.library in libraries else "left out"
            if way.library == "influx" or not why:
                rows.append(
                    {"number": number, "library": way.library, "way": way.label, "group": way.group} | {"runs": []}
                )
            else:
                print(f"{letter} {way.library} {way.label}: {why}", file=sys.stderr)
        references: dict[str, np.ndarray] = {}
        for turn in range(repeats):
            for row in rows:
                way = ways(case.n)[row["number"]]
                if "refused" in row or (turn and (way.check or row["runs"][-1] > limit / 4)):
                    continue
                taken = alone(letter, row["number"], folder, dim, damping, limit)
                print(f"{letter} {way.library} {way.label}: {taken}", file=sys.stderr)
                seconds = taken.pop("seconds", None)
                row |= taken if not turn else {}
                if seconds is None:
                    continue
                row["runs"].append(seconds)
                if not turn:
                    values = np.load(folder / VALUES)
                    reference = references.setdefault(way.group, values)
                    row["spearman"] = spearman(values, reference)
                    if way.check:
                        row["difference"] = scaled_difference(values, reference)
        net = given.trained.problem.learner.net_shape(given.trained.problem)  # type: ignore[attr-defined]
    flops = (case.n + case.m) * (6.0 * net.macs + projection_flops("gaussian", dim, net.parameters, net.sides))
    return {
        "case": letter,
        "title": case.title,
        "parameters": net.parameters,
        "n": case.n,
        "m": case.m,
        "dim": dim,
        "damping": damping,
        "dense_flops": flops,
        "ways": rows,
        "ratios": ratios(rows, case),
    }


def ratios(rows: list[dict[str, Any]], case: Case) -> dict[str, dict[str, float]]:
    """Each way of influx against the fastest peer of its group: times as fast, and its share of the least memory."""
    every, found = ways(case.n), {}
    able = [row for row in rows if row["runs"] and not every[row["number"]].check]
    for row in able:
        peers = [other for other in able if other["group"] == row["group"] and other["library"] != "influx"]
        if row["library"] == "influx" and peers:
            least = min(added(other) for other in peers)
            found[f"{row['group']}, {row['way']}"] = {
                "times": min(min(other["runs"]) for other in peers) / min(row["runs"]),
                "memory": added(row) / least,
            }
    return found


def added(row: dict[str, Any]) -> float:
    """Megabytes on top of what was there before."""
    return max(float(row["peak_mb"] - row["before_mb"]), 1.0)


def show(console: Console, found: dict[str, Any]) -> None:
    """One table and what follows from it."""
    size = f"{found['n']:,} x {found['m']:,}, {found['parameters']:,} parameters to {found['dim']:,} numbers"
    table = Table(
        *("group", "library", "way", "seconds", "runs", "Spearman", "difference", "peak MB (before)"),
        title=f"({found['case']}) {found['title']}: {size}",
    )
    for row in found["ways"]:
        told = [row["group"], row["library"], row["way"]]
        if not row["runs"]:
            table.add_row(*told, "refused", "", "", "", "see below")
            continue
        difference = f"{row['difference']:.1e}" if "difference" in row else ""
        memory = f"{row['peak_mb']:,.0f} ({row['before_mb']:,.0f})"
        agrees = f"{row['spearman']:.3f}"
        table.add_row(*told, f"{min(row['runs']):.3f}", str(len(row["runs"])), agrees, difference, memory)
    console.print(table)
    for row in found["ways"]:
        if "refused" in row:
            console.print(f"{row['library']}, {row['way']}, refused: {row['refused']}", markup=False, soft_wrap=True)
    console.print(f"dense projection and gradients need {found['dense_flops'] / 1e9:.4g} GFLOP")
    for way, told in found["ratios"].items():
        verdict = "reached" if told["times"] >= GOAL and told["memory"] <= 1 else "MISSED"
        console.print(
            f"{way}: {told['times']:.1f} x the fastest peer with {told['memory']:.2f} of the least memory "
            f"(goal {GOAL:g} and 1: {verdict})"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    libraries = ["traker", "dattri", "kronfluence"]
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["a", "b", "c"])
    parser.add_argument("--libraries", nargs="*", choices=libraries, default=libraries)
    groups = ["trak", "logra", "ekfac", "tracinrp"]
    parser.add_argument("--groups", nargs="+", choices=groups, default=groups)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=600.0, help="seconds after which a way is too slow")
    parser.add_argument("--json", type=Path, help="also write all numbers here")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    quiet()
    if args.child:
        letter, number, folder, dim, damping = args.child
        return child(letter, int(number), Path(folder), int(dim), float(damping))
    console, found = Console(width=150), []
    console.print(f"torch {torch.__version__}, one thread")
    for letter in args.cases:
        found.append(measure(letter, args.libraries, args.groups, args.dim, args.repeats, args.limit))
        show(console, found[-1])
    if args.json:
        everything = {"torch": torch.__version__, "threads": 1, "cases": found}
        args.json.write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    main()
