#!/usr/bin/env python
"""Time exact TracInCP over all parameters against captum, dattri and kronfluence on the same trained nets.

    pip install captum dattri kronfluence
    python scripts/bench_gradients.py [--cases a b c d] [--peers captum dattri kronfluence] [--repeats 3]
        [--device cuda] [--json FILE]

Each contender first runs once per batch size in a process of its own, which gives peak memory and what it refuses;
then the good ones run in this process, in turn, with the machine's matrix product between them. Everyone reads the
checkpoints; imports and training are not timed. Minima over repeats. Differences are relative to the largest
influence of influx; the nets are smooth where possible, so that rounding does not decide which unit is on.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_cases import CASES, Case
from bench_peers import CONTENDERS, Compute, Influx, Option, RefusedError, Trained, missing, quiet
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

NEAR = 1.3  # options that are this much slower than a contender's best are not repeated
OFF = 5e-6  # difference that rounding does not explain, unless it decides which unit is on
OTHER = 0.2  # share of pairs that are off where it is not the same quantity
SLOW = 30.0  # seconds after which a contender is not repeated


VALUES = "values.npy"
FORMULA = "C [(n + m)(forward + backward to inputs + weight gradients written out) + n m products]"


@dataclass
class Needed:
    """Floating-point operations that exact TracInCP needs: per instance, and per pair and checkpoint."""

    forward: float = 0.0
    backward: float = 0.0
    weights: float = 0.0
    product: float = 0.0
    first: bool = True

    def layer(self, positions: int, d_in: int, d_out: int) -> None:
        """A weight that is used at some positions; written out, or products of factors where that is less."""
        work = 2.0 * positions * d_in * d_out
        factors = positions**2 * (d_in + d_out)
        self.forward += work
        self.backward += 0.0 if self.first else work
        self.weights += work if factors >= d_in * d_out else 0.0
        self.product += 2.0 * min(factors, d_in * d_out)
        self.first = False

    def total(self, case: Case) -> float:
        """Over all checkpoints, instances and pairs."""
        each = self.forward + self.backward + self.weights
        return case.checkpoints * ((case.n + case.m) * each + case.n * case.m * self.product)


def needed(module: nn.Module, x: Tensor) -> Needed:
    """Counted on one instance; small parameters count in products only, tokens' embeddings not at all."""
    found = Needed()

    def count(layer: nn.Module, args: tuple[Tensor, ...], output: Any) -> None:
        if isinstance(layer, nn.Linear):
            found.layer(output[..., 0].numel(), layer.in_features, layer.out_features)
        elif isinstance(layer, nn.Conv2d):
            found.layer(output[0, 0].numel(), layer.weight[0].numel(), layer.out_channels)
        elif isinstance(layer, nn.MultiheadAttention):
            positions, d = args[0].shape[1:]
            found.layer(positions, d, 3 * d)
            found.layer(positions, d, d)
            found.forward += 4.0 * positions**2 * d
            found.backward += 8.0 * positions**2 * d
        else:
            found.first = False  # an embedding

    own = [layer for layer in module.modules() if next(layer.parameters(recurse=False), None) is not None]
    hooks = [layer.register_forward_hook(count) for layer in own]
    module(x)
    for hook in hooks:
        hook.remove()
    small = [p for p in module.parameters() if p.ndim == 1]
    found.product += 2.0 * sum(p.numel() for p in small)
    return found


def gemm(device: str, size: int = 2048, repeats: int = 5) -> float:
    """Float32 operations per second of a large matrix product."""
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    return 2 * size**3 / min(timed(lambda: torch.mm(a, b), device)[0] for _ in range(repeats))


def timed(compute: Any, device: str) -> tuple[float, Any]:
    """Seconds and result."""
    synchronise = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    synchronise()
    start = time.perf_counter()
    result = compute()
    synchronise()
    return time.perf_counter() - start, result


def peak(device: str) -> float:
    """Largest memory of this process so far in MB: the accelerator's where there is one, else the processor's.

    The processor's counter of children starts at their parent's on Linux.
    """
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")
    if status.exists():
        lines = (line.split() for line in status.read_text().splitlines())
        return next(int(words[1]) / 1024 for words in lines if words[0] == "VmHWM:")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1 << 20)


def difference(values: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Largest difference relative to the largest value, and the share of pairs that are off."""
    found = np.abs(values - reference) / np.abs(reference).max()
    return float(found.max()), float((found > OFF).mean())


def child(case: Case, name: str, number: int, folder: Path, device: str) -> None:
    """Run one contender once and say what it took; ``number`` is that of its option."""
    trained = case.trained(case.data(), folder, device)
    option = CONTENDERS[name].options(case.n)[number]
    try:
        compute = CONTENDERS[name].prepare(trained, option)
        before = peak(device)
        seconds, values = timed(compute, device)
    except Exception as error:  # whatever a library raises is why it refuses
        reason = str(error).strip().splitlines() or [""]
        print(json.dumps({"refused": f"{type(error).__name__}: {reason[0]}"[:300]}))
        return
    memory = {"before_mb": before, "peak_mb": peak(device)}
    np.save(folder / VALUES, values)
    print(json.dumps({"seconds": seconds} | memory))


@dataclass
class Entry:
    """What is known of one way to run a contender."""

    name: str
    option: Option
    number: int
    alone: dict[str, Any] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    compute: Compute | None = None
    values: np.ndarray | None = None


def alone(letter: str, entry: Entry, folder: Path, device: str, limit: float | None) -> dict[str, Any]:
    """Run a contender in a process of its own."""
    command = [sys.executable, __file__, "--child", letter, entry.name, str(entry.number), str(folder)]
    try:
        done = subprocess.run(
            [*command, "--device", device], capture_output=True, text=True, timeout=limit, check=False
        )
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"refused": f"not done after {limit:g} s"}
    except (IndexError, json.JSONDecodeError):
        return {"refused": f"ended with status {done.returncode}: {done.stderr.strip()[-200:]}"}
    return found


def explore(letter: str, case: Case, names: list[str], folder: Path, device: str, limit: float) -> list[Entry]:
    """Every option of every contender once, alone; after a refusal only fallbacks."""
    entries: list[Entry] = []
    reference = np.zeros(())
    for name in ["influx", *names]:
        why = "" if name == "influx" else missing(name)
        state = "untried"
        for number, option in enumerate(CONTENDERS[name].options(case.n)):
            if why or (state == "done" if option.fallback else state == "refused"):
                continue
            entry = Entry(name, option, number)
            entry.alone = alone(letter, entry, folder, device, None if name == "influx" else limit)
            print(f"{letter} {name} {option.label}: {entry.alone}", file=sys.stderr)
            entries.append(entry)
            if "seconds" in entry.alone:
                values = np.load(folder / VALUES)
                reference = values if name == "influx" else reference
                entry.alone["difference"], entry.alone["off"] = most, off = difference(values, reference)
                if not off <= OTHER:
                    entry.alone["refused"] = (
                        f"gives other numbers: off by {most:.1e} of the largest, {off:.0%} of pairs"
                    )
            state = "refused" if "refused" in entry.alone else "done"
        if why:
            entries.append(Entry(name, Option(), 0, {"refused": why}))
    return entries


def compete(entries: list[Entry], trained: Trained, device: str, repeats: int) -> float:
    """Run the good ones in turn; the best matrix product of the run."""
    able = [e for e in entries if "refused" not in e.alone]
    rate = gemm(device)
    for _ in range(repeats):
        for entry in able:
            best = min(min([e.alone["seconds"], *e.seconds]) for e in able if e.name == entry.name)
            slow = entry.alone["seconds"] > SLOW and (entry.seconds or entry.alone["seconds"] > best)
            if slow or min(entry.seconds, default=best) > NEAR * best:
                continue
            if entry.compute is None:
                entry.compute = CONTENDERS[entry.name].prepare(trained, entry.option)
            for _ in range(3 if entry.name == "influx" else 1):
                seconds, entry.values = timed(entry.compute, device)
                entry.seconds.append(seconds)
            rate = max(rate, gemm(device, repeats=3))
    return rate


def precisions(trained: Trained, reference: np.ndarray) -> dict[str, float]:
    """Errors of lower precisions, relative to the largest influence."""
    found = {}
    for name in ("tf32", "bfloat16"):
        seconds, values = timed(Influx().at(name, trained), "cuda")
        found[f"{name}_error"], found[f"{name}_seconds"] = difference(values, reference)[0], seconds
    return found


def measure(letter: str, names: list[str], device: str, repeats: int, limit: float) -> dict[str, Any]:
    """All numbers of one case."""
    case = CASES[letter]
    data = case.data()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        on_cpu = case.trained(data, folder, "cpu")
        trained = case.trained(data, folder, device) if device != "cpu" else on_cpu
        module = on_cpu.fitted.model()
        counted = needed(module, on_cpu.fitted.tensors(data.train.take(slice(0, 1)))[0])
        entries = explore(letter, case, names, folder, device, limit)
        rate = compete(entries, trained, device, repeats)
        reference = next((e.values for e in entries if e.name == "influx" and e.values is not None), None)
        if reference is None:
            raise RefusedError(f"influx did not run: {entries[0].alone}")
        extra: dict[str, float] = {}
        if device != "cpu":
            extra = precisions(trained, reference)
            extra["cpu_difference"] = difference(Influx().prepare(on_cpu, Option())(), reference)[0]
    rows = [row(entry, reference) for entry in entries]
    ours = min(entries[0].seconds)
    peers = [r["seconds"] for r in rows[1:] if r["seconds"]]
    return {
        "case": letter,
        "title": case.title,
        "parameters": sum(p.numel() for p in module.parameters()),
        "n": case.n,
        "m": case.m,
        "checkpoints": case.checkpoints,
        "device": device,
        "per_instance_flops": [counted.forward, counted.backward, counted.weights],
        "per_pair_flops": counted.product,
        "needed_flops": counted.total(case),
        "gemm_flops_per_s": rate,
        "flops_per_s": counted.total(case) / ours,
        "share": counted.total(case) / ours / rate,
        "ratio": min(peers) / ours if peers else None,
        "contenders": rows,
        **extra,
    }


def row(entry: Entry, reference: np.ndarray) -> dict[str, Any]:
    """One contender's numbers."""
    found = entry.alone | {
        "name": entry.name,
        "option": entry.option.label,
        "seconds_alone": entry.alone.get("seconds"),
    }
    if entry.values is not None:
        found["difference"], found["off"] = difference(entry.values, reference)
    return found | {"seconds": min(entry.seconds, default=None), "seconds_in_turn": entry.seconds}


def show(console: Console, found: dict[str, Any]) -> None:
    """One table and what follows from it."""
    case = CASES[found["case"]]
    size = f"{found['n']:,} x {found['m']:,}, {found['checkpoints']} checkpoints, {found['parameters']:,} parameters"
    title = f"({found['case']}) {case.title}: {size}"
    table = Table(
        "contender", "way", "seconds", "runs", "x influx", "difference", "pairs off", "peak MB (before)", title=title
    )
    ours = found["contenders"][0]["seconds"]
    for r in found["contenders"]:
        memory = f"{r['peak_mb']:,.0f} ({r['before_mb']:,.0f})" if "peak_mb" in r else ""
        if "refused" in r:
            table.add_row(r["name"], r["option"], "refused", "", "", "see below")
            continue
        agrees = (f"{r['difference']:.1e}", f"{r['off']:.1%}", memory)
        seconds = r["seconds"] or r["seconds_alone"]
        runs = str(len(r["seconds_in_turn"])) if r["seconds"] else "alone"
        table.add_row(r["name"], r["option"], f"{seconds:.3f}", runs, f"{seconds / ours:.1f}", *agrees)
    console.print(table)
    for r in found["contenders"]:
        if "refused" in r:
            console.print(f"{r['name']}, {r['option'] or 'any'}, refused: {r['refused']}", markup=False, soft_wrap=True)
    forward, backward, weights = (f / 1e6 for f in found["per_instance_flops"])
    terms = f"forward {forward:.4g}, backward {backward:.4g}, weights {weights:.4g} MFLOP per instance"
    console.print(
        f"needed {found['needed_flops'] / 1e9:.4g} GFLOP = {FORMULA}: {terms}, {found['per_pair_flops']:.6g} per pair"
    )
    rates = f"{found['flops_per_s'] / 1e9:.1f} of {found['gemm_flops_per_s'] / 1e9:.1f} GFLOP/s"
    console.print(
        f"reached {rates} (2048³ product, float32): {100 * found['share']:.1f} %{verdict(found['share'], case.share)}"
    )
    ratio = found["ratio"]
    if ratio is not None:
        console.print(f"{ratio:.1f} x the fastest peer{verdict(ratio, case.goal)}")
    for name in ("cpu_difference", "tf32_error", "bfloat16_error"):
        if name in found:
            console.print(f"{name.replace('_', ' ')}: {found[name]:.1e} of the largest influence")


def verdict(value: float, goal: float) -> str:
    """Whether a goal was reached."""
    return f" (goal {goal:g}: {'reached' if value >= goal else 'MISSED'})" if goal else ""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    peers = [name for name in CONTENDERS if name != "influx"]
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--peers", nargs="*", choices=peers, default=peers)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=300.0, help="seconds after which a contender is too slow")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", type=Path, help="also write all numbers here")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    quiet()
    if args.child:
        letter, name, number, folder = args.child
        return child(CASES[letter], name, int(number), Path(folder), args.device)
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("--device cuda, but torch sees no CUDA device")
    console, found = Console(width=140), []
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.device}")
    for letter in args.cases:
        found.append(measure(letter, args.peers, args.device, args.repeats, args.limit))
        show(console, found[-1])
    if args.json:
        everything = {"torch": torch.__version__, "threads": torch.get_num_threads(), "cases": found}
        args.json.write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    main()
