#!/usr/bin/env python
"""Time influence functions of influx against dattri, pyDVL, captum and kronfluence on the same trained nets.

    pip install captum dattri kronfluence
    python -m venv peers && peers/bin/pip install 'pydvl[influence]'
    python scripts/bench_curvature.py [--cases 1 2 3] [--peers dattri pydvl captum kronfluence] [--repeats 3]
        [--pydvl-python peers/bin/python] [--device cuda] [--quick] [--json FILE]

Everyone gets the same parameters (float32; influx computes in float64), the same data and δ = 0.01, to which weight
decay 0.001 is added for those who leave it out. Each way first runs once in a process of its own, which gives peak
memory and what it refuses; then the good ones of each library run in one process each, in turn, with the machine's
matrix product between them. Imports and training are not timed; everything from the trained net to the matrix of
influence is. Minima over repeats. Each way is held against the exact influence of its own kind of curvature: rank
correlation, mean over test instances, and root mean square error over the reference's root mean square. The column
"x influx" is in times of influx's fastest way that is exact for the Hessian. A process may take 16 GB.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_curvature_cases import CURVATURES, Case, cases, reference
from bench_curvature_peers import EMPIRICAL, HESSIAN, VALUES, WAYS, ways
from bench_gradients import gemm, verdict
from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata

PEERS = list(WAYS)
SLOW = 30.0  # seconds after which a way is not repeated
EXACT = 1e-3  # relative error from which influence does not count as exact
GOALS = {"ekfac": 0.9, "arnoldi": 0.9, "lissa": 0.9}  # rank correlation of influx


@dataclass
class Entry:
    """What is known of one way."""

    library: str
    number: int
    method: str
    label: str
    kind: str
    alone: dict[str, Any] = field(default_factory=dict)
    runs: list[float] = field(default_factory=list)
    spearman: float = math.nan
    spearman_hessian: float = math.nan
    error: float = math.nan

    @property
    def refused(self) -> str:
        """Why it gave nothing, or an empty string."""
        return str(self.alone.get("refused", ""))

    @property
    def seconds(self) -> float:
        """The best of its runs."""
        return min([self.alone.get("seconds", math.inf), *self.runs])

    def judge(self, values: np.ndarray, references: dict[str, np.ndarray]) -> None:
        """Agreement with the exact influence."""
        if not np.isfinite(values).all():
            self.alone["refused"] = f"gives {np.isnan(values).mean():.0%} NaN, {np.isinf(values).mean():.0%} infinite"
            return
        exact = references[self.kind]
        self.spearman, self.spearman_hessian = spearman(values, exact), spearman(values, references[HESSIAN])
        self.error = float(np.linalg.norm(values - exact) / np.linalg.norm(exact))


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation, mean over columns."""
    x, y = (rankdata(values, axis=0) - (len(values) + 1) / 2 for values in (a, b))
    return float(((x * y).sum(0) / np.sqrt((x * x).sum(0) * (y * y).sum(0))).mean())


class Worker:
    """A process that runs ways of one library."""

    def __init__(self, library: str, folder: Path, args: argparse.Namespace):
        python = args.pydvl_python if library == "pydvl" else sys.executable
        script = str(Path(__file__).with_name("bench_curvature_peers.py"))
        options = ["--device", args.device, "--threads", str(args.threads)]
        self.command, self.folder = [python, script, library, str(folder), *options], folder
        self.process: subprocess.Popen[str] | None = None

    def once(self, number: int, limit: float) -> dict[str, Any]:
        """One run in a fresh process."""
        try:
            done = subprocess.run(
                self.command, input=f"{number}\n", capture_output=True, text=True, timeout=limit, check=False
            )
            found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        except OSError as error:
            return {"refused": str(error)}
        except subprocess.TimeoutExpired:
            return {"refused": f"not done after {limit:g} s"}
        except (IndexError, json.JSONDecodeError):
            last = done.stderr.strip().splitlines() or [""]
            return {"refused": f"ended with status {done.returncode}: {last[-1][-200:]}"}
        return found

    def again(self, number: int) -> float:
        """Seconds of one run in the process that is kept; infinite where it fails now."""
        if self.process is None:
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self.process = subprocess.Popen(self.command, text=True, **pipes)
        assert self.process.stdin and self.process.stdout
        try:
            print(number, file=self.process.stdin, flush=True)
            return float(json.loads(self.process.stdout.readline()).get("seconds", math.inf))
        except (BrokenPipeError, json.JSONDecodeError):  # it died: the next way gets another
            self.process = None
            return math.inf

    def close(self) -> None:
        """End the process."""
        if self.process is not None and self.process.stdin:
            self.process.stdin.close()
            self.process.wait()


def explore(
    worker: Worker, library: str, size: int, limit: float, references: dict[str, np.ndarray], methods: list[str]
) -> list[Entry]:
    """Every way of a library once, alone."""
    entries = []
    for number, way in enumerate(ways(library)):
        entry = Entry(library, number, way.method, way.label, way.kind)
        if methods and way.method not in methods:
            continue
        entries.append(entry)
        if size > way.most:
            entry.alone = {"refused": f"not tried: whole matrices of {size:,} parameters"}
            continue
        start = time.perf_counter()
        entry.alone = worker.once(number, limit)
        if not entry.refused:
            entry.judge(np.load(worker.folder / VALUES), references)
        took = f"{time.perf_counter() - start:.0f} s, {entry.alone}"
        print(f"{library} {way.method} {way.label}: {took}", file=sys.stderr)
    return entries


def compete(entries: list[Entry], workers: dict[str, Worker], args: argparse.Namespace) -> float:
    """Run the good ones in turn; the best matrix product of the run."""
    able = [e for e in entries if not e.refused and e.seconds <= SLOW]
    rate = gemm(args.device)
    for _ in range(args.repeats):
        for entry in able:
            time.sleep(0.1)  # threads of the process before spin for a while on the processors
            entry.runs.append(workers[entry.library].again(entry.number))
            rate = max(rate, gemm(args.device, repeats=2))
    for worker in workers.values():
        worker.close()
    return rate


def measure(letter: str, case: Case, args: argparse.Namespace) -> dict[str, Any]:
    """All numbers of one case."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case.write(folder, letter, args.quick)
        _, fitted = case.trained(folder)
        size = sum(q.numel() for q in fitted.model().parameters())
        checked = {kind: reference(case, folder, kind) for kind in CURVATURES}
        references = {kind: exact for kind, (exact, _) in checked.items()}
        workers = {library: Worker(library, folder, args) for library in ["influx", *args.peers]}
        entries = [
            e
            for library, worker in workers.items()
            for e in explore(worker, library, size, args.limit, references, args.methods)
        ]
        rate = compete(entries, workers, args)
    return {
        "case": letter,
        "title": case.title,
        "goal": case.goal,
        "n": case.n,
        "m": case.m,
        "parameters": size,
        "gemm_flops_per_s": rate,
        "reference_errors": {kind: error for kind, (_, error) in checked.items()},
        "ways": [told(e) for e in entries],
        "entries": entries,
    }


def told(entry: Entry) -> dict[str, Any]:
    """One way for a file, without numbers that JSON does not know."""
    found = asdict(entry) | {"seconds": entry.seconds, "runs": [r for r in entry.runs if math.isfinite(r)]}
    return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in found.items()}


def fastest(entries: list[Entry]) -> Entry | None:
    """The fastest exact way among some, for the Hessian; ways of any method count that come near enough."""
    able = [e for e in entries if not e.refused and e.error <= EXACT and e.kind == HESSIAN]
    return min(able, key=lambda e: e.seconds, default=None)


def show(console: Console, found: dict[str, Any]) -> None:
    """One table and what follows from it."""
    entries: list[Entry] = found["entries"]
    own = [e for e in entries if e.library == "influx"]
    ours, theirs = fastest(own), fastest([e for e in entries if e.library != "influx"])
    size = f"{found['n']:,} x {found['m']:,}, {found['parameters']:,} parameters"
    columns = (
        "contender",
        "method",
        "way",
        "kind",
        "seconds",
        "x influx",
        "Spearman",
        "to Hessian",
        "error",
        "peak MB",
    )
    table = Table(*columns, title=f"({found['case']}) {found['title']}: {size}")
    for e in entries:
        start = (e.library, e.method, e.label, e.kind)
        if e.refused:
            table.add_row(*start, "refused")
            continue
        times = f"{e.seconds / ours.seconds:.1f}" if ours else ""
        agrees = (f"{e.spearman:.4f}", f"{e.spearman_hessian:.3f}", f"{e.error:.1e}", f"{e.alone['peak_mb']:,.0f}")
        table.add_row(*start, f"{e.seconds:.3f}", times, *agrees)
    console.print(table)
    for e in entries:
        if e.refused:
            console.print(f"{e.library} {e.method}, {e.label}: {e.refused}", markup=False, soft_wrap=True)
    rate = f"{found['gemm_flops_per_s'] / 1e9:.0f} GFLOP/s (2048³ product, float32)"
    checked = ", ".join(f"{kind} {error:.0e}" for kind, error in found["reference_errors"].items())
    console.print(f"{rate}; references against torch alone: {checked}")
    if ours and theirs:
        name = f"the fastest exact peer ({theirs.library} {theirs.method}, {theirs.label})"
        for number in dict.fromkeys([ours.number, *(e.number for e in own if e.method == "exact" and not e.refused)]):
            e = own[number]
            ratio, goal = theirs.seconds / e.seconds, found["goal"] if e is ours else 0.0
            console.print(f"influx {e.method}, {e.label}, {e.kind}: {ratio:.2f} x {name}{verdict(ratio, goal)}")
    accuracy(console, entries)


def accuracy(console: Console, entries: list[Entry]) -> None:
    """Whether influx is as accurate as the best peer's of the same method and curvature, and accurate enough."""
    good = [e for e in entries if not e.refused]
    for method, kind in dict.fromkeys((e.method, e.kind) for e in good if e.library == "influx"):
        same = [e for e in good if (e.method, e.kind) == (method, kind)]
        own = [e for e in same if e.library == "influx"]
        peer = max((e for e in same if e.library != "influx"), key=lambda e: e.spearman, default=None)
        if peer:
            console.print(f"{method} of the {kind}: {peer.library}, {peer.label}, {peer.spearman:.4f}", soft_wrap=True)
            best = max(own, key=lambda e: e.spearman)
            for mine in own[:1] if own[0] is best else [own[0], best]:
                reached = verdict(round(mine.spearman, 4), round(peer.spearman, 4))
                console.print(f"  influx, {mine.label}, {mine.spearman:.4f}{reached}", soft_wrap=True)
    for method, goal in GOALS.items():
        for e in (e for e in good if e.library == "influx" and e.method == method and e.kind != EMPIRICAL):
            console.print(f"{method} of the {e.kind}, {e.label}: {e.spearman:.4f}{verdict(e.spearman, goal)}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(cases(False)), default=list(cases(False)))
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS)
    parser.add_argument("--pydvl-python", default=sys.executable)
    parser.add_argument("--methods", nargs="*", default=[], help="exact, cg, lissa…: these only")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=300.0, help="seconds after which a way is too slow")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="200 training and 20 test instances, to try the script")
    parser.add_argument("--json", type=Path, help="also write all numbers here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    console, found = Console(width=150), []
    console.print(f"torch {torch.__version__}, {args.threads} threads, {args.device}")
    for letter in args.cases:
        found.append(measure(letter, cases(args.quick)[letter], args))
        show(console, found[-1])
        del found[-1]["entries"]
    if args.json:
        everything = {"torch": torch.__version__, "threads": args.threads, "device": args.device, "cases": found}
        args.json.write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    main()
