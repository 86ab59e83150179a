#!/usr/bin/env python
"""The two reference workloads: their plans at full size, and runs of small versions beside the plans for these.

    python scripts/study_scale.py [--tables plans measured compiled] [--nets NAME ...] [--each] [--write]

ResNet-18 on 50,000 images of CIFAR-10's shape, and a decoder of GPT-2's sizes (124 million parameters) on 10,000
sequences of 1,024 tokens: ``conf/experiment/cifar_shaped_resnet18.yaml`` and ``gpt2_shaped.yaml``. ``plans``: what
``influx plan`` says of the full sizes, on an H100 and on this machine. ``measured``: small versions, ``influx plan``
and then ``influx run`` in processes of their own, on one thread. ``compiled``: a training step with
``torch.compile`` and without; ``--each`` compiles gradients of single instances as well, which takes minutes, and
``--nets`` measures some of its nets alone. With ``--write`` the tables replace those in docs/scaling.md. 14 minutes of
one core without ``--each``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # compilers are waited for, and counted

import torch
from scaling_table import duration, size
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from influx.commands.outlook import Outlook
from influx.commands.plan import described_machine
from influx.config import compose, load_choice
from influx.engines.gradients import GradientsAt
from influx.errors import UserError
from influx.instantiate import build
from influx.job import assemble
from influx.learners.torch.learner import TorchLearner
from influx.learners.torch.tasks import task_for
from influx.run import Estimator

DOC = Path(__file__).parents[1] / "docs" / "scaling.md"
COMMON = ["truth=none", "metric=[]", "baselines=[]", "threads=1"]
IMAGES = ["experiment=cifar_shaped_resnet18", *COMMON]
TEXT = ["experiment=gpt2_shaped", *COMMON]
FULL = {
    "ResNet-18, 50,000 images": [
        *(*IMAGES, "dataset.n_train=50000", "dataset.n_test=1000", "training.epochs=20", "training.batch_size=128"),
        "training.checkpoints=10",
    ],
    "GPT-2, 10,000 sequences": [
        *(*TEXT, "dataset.n_train=10000", "dataset.n_test=100", "dataset.length=1024", "dataset.vocabulary=50257"),
        *("model.width=768", "model.depth=12", "model.heads=12", "model.hidden=3072", "training.epochs=1"),
    ],
}
SMALL = {
    "ResNet-18, 100 images": IMAGES,
    "decoder, 200 sequences": [*TEXT, "dataset.length=128", "model.width=128"],
}
BLOCKS = ["dataset.length=128", "model.width=256", "model.heads=8", "model.hidden=1024"]
NETS = {"resnet18": ("ResNet-18, 32 images", IMAGES), "decoder": ("decoder, 16 x 128 tokens", [*TEXT, *BLOCKS])}
TABLES = ("plans", "measured", "compiled")
LONG = 300.0  # planned seconds of a small version that is not run
ESTIMATORS: dict[str, dict[str, Any]] = {
    "tracincp": {},
    "trak": {},
    "logra": {},
    "less": {},
    "if_ekfac": {"curvature": "empirical_fisher"},
}


def line(cells: list[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def table(head: list[str], lines: list[str]) -> list[str]:
    """A Markdown table."""
    return [line(head), "|" + "---|" * len(head), *lines]


def plans() -> list[str]:
    """Times and memory of both workloads at full size."""
    lines = []
    for name, overrides in FULL.items():
        start = time.process_time()
        job = assemble(compose([*overrides, "estimator=random"]), sizes=True)
        machines = [described_machine("h100", 1, None), None]
        rows = [Outlook(job, machine).stages()[0] for machine in machines]
        print(f"{name}: planned in {time.process_time() - start:.1f} s", flush=True)
        lines.append(planned(name, "training", rows))
        for estimator, settings in ESTIMATORS.items():
            try:
                made = build(load_choice("estimator", estimator) | settings, "estimator", [])
                job = replace(job, estimator=cast(Estimator, made))
                outlooks = [Outlook(job, machine, warm=True).stages() for machine in machines]
            except UserError as error:
                lines.append(line([name, estimator, "refused", "", "", "", str(error).partition(";")[0]]))
                continue
            lines.append(planned(name, estimator, [stages[2] for stages in outlooks]))
    return table(["workload", "", "1 h100", "this machine", "memory", "disk", "work"], lines)


def planned(workload: str, name: str, rows: list[dict[str, Any]]) -> str:
    """A row: on the first machine and on this one."""
    there, here = rows
    memory = size(1e6 * (there["memory_mb"] or 0))
    memory = f"**{memory}**" if there["state"] == "exceeds memory" else memory
    times = [duration(row["seconds"]) for row in (there, here)]
    return line([workload, name, *times, memory, size(1e6 * (there["disk_mb"] or 0)), there["work"]])


def influx(command: str, *arguments: str) -> str:
    """What a command prints, in a process of its own on one thread, whose clock is that of the processor."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    timed = "import time; time.perf_counter = time.process_time; from influx.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", timed, command, *arguments], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise SystemExit(f"influx {command} {' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def measured() -> list[str]:
    """Small versions: seconds and memory of the stages, planned and measured."""
    lines = []
    with tempfile.TemporaryDirectory() as below:
        for workload, overrides in SMALL.items():
            for number, (name, settings) in enumerate(ESTIMATORS.items()):
                given = [f"estimator.{key}={value}" for key, value in settings.items()]
                asked = [*overrides, f"estimator={name}", *given, f"paths.outputs={below}"]
                stages = {row["stage"]: row for row in json.loads(influx("plan", "--json", *asked))["stages"]}
                if stages["estimate"]["seconds"] > LONG:
                    lines.append(
                        line([workload, name, f"{stages['estimate']['seconds']:.3g} s", *["not run", "", "", ""]])
                    )
                    continue
                influx("run", *asked, "quiet=true", f"name={name}_{number}")
                told = json.loads((Path(below) / "runs" / f"{name}_{number}" / "manifest.json").read_text())
                for stage in ("train", "estimate") if number == 0 else ("estimate",):
                    found, foreseen = told["stages"][stage], stages[stage]
                    lines.append(compared(workload, "training" if stage == "train" else name, foreseen, found))
                    print(lines[-1], flush=True)
    head = ["workload", "", "planned", "measured", "measured / planned", "memory, planned", "memory, measured"]
    return table(head, lines)


def compared(workload: str, name: str, foreseen: dict[str, Any], found: dict[str, Any]) -> str:
    """A row."""
    seconds = [foreseen["seconds"], found["seconds"]]
    memory = [size(1e6 * foreseen["memory_mb"]), size(1e6 * found["peak_mb"])]
    return line([workload, name, *(f"{s:.3g} s" for s in seconds), f"{seconds[1] / seconds[0]:.2f}", *memory])


def nets(chosen: list[str]) -> Iterator[tuple[str, nn.Module, Any, Tensor, Tensor]]:
    """Modules with their task and a batch."""
    for name, overrides in ((name, overrides) for key, (name, overrides) in NETS.items() if key in chosen):
        job = assemble(compose([*overrides, "estimator=random"]))
        learner = job.problem.learner
        assert isinstance(learner, TorchLearner)
        x, y = learner.example(job.problem.data, 32 if job.problem.data.kind == "image" else 16)
        yield name, learner.model.build(job.problem.data), task_for(job.problem.data.task), x, y


def compiled(chosen: list[str], each_too: bool) -> list[str]:
    """Processor seconds of a training step as it is and compiled, and of gradients of single instances, two ways.

    The second way is compiled where ``each_too`` asks for it.
    """
    torch.set_num_threads(1)
    lines = []
    for name, module, task, x, y in nets(chosen):
        parameters = dict(module.named_parameters())

        def step(model: Any, x: Tensor = x, y: Tensor = y, task: Any = task, p: Any = parameters) -> Any:
            return torch.autograd.grad(task.loss(model(x), y).mean(), list(p.values()))

        def each(p: dict[str, Tensor], x: Tensor, y: Tensor, module: nn.Module = module, task: Any = task) -> Any:
            return grad(lambda p: task.loss(functional_call(module, p, (x[None],)), y[None]).sum())(p)

        module.train()
        plain, fast = step(module), torch.compile(module)
        took, found = once(partial(step, fast))
        off = max(float((a - b).norm() / a.norm().clamp_min(1e-12)) for a, b in zip(plain, found, strict=True))
        before, after = often(partial(step, module)), often(partial(step, fast))
        lines.append(row(name, "training step", before, after, took, f"{off:.1e}"))
        module.eval()
        at = GradientsAt(module, task, "all", lambda split: (torch.from_numpy(split.x), torch.from_numpy(split.y)))
        few, targets = x[:8], y[:8]
        at.rows(few, targets)  # settles
        seconds = often(lambda at=at, few=few, targets=targets: at.rows(few, targets).squares())  # type: ignore[misc]
        lines.append(row(name, "norms of 8 gradients, by factors", seconds, None, None, refused(at, few, targets)))
        frozen = {key: p.detach() for key, p in parameters.items()}
        call = partial(vmap(each, in_dims=(None, 0, 0)), frozen, few, targets)
        found_each = again(call) if each_too else (often(call), None, None, "not tried")
        lines.append(row(name, "8 gradients, vmap(grad)", *found_each))
        print("\n".join(lines[-3:]), flush=True)
    return table(["net", "", "seconds", "compiled", "compiling", "calls until it pays", "difference"], lines)


def again(call: Callable[[], dict[str, Tensor]]) -> tuple[float, float | None, float | None, str]:
    """Seconds of a call as it is and compiled, of compiling it, and how far apart the results are."""
    torch._dynamo.reset()
    plain, fast, before = call(), torch.compile(lambda: call()), often(call)
    try:
        took, found = once(fast)
    except Exception as error:  # of any kind
        return before, None, None, short(error)
    off = max(float((found[key] - value).norm() / value.norm().clamp_min(1e-12)) for key, value in plain.items())
    return before, often(fast), took, f"{off:.1e}"


def refused(at: GradientsAt, x: Tensor, y: Tensor) -> str:
    """What the compiler says to a pass that hooks watch."""
    torch._dynamo.reset()
    try:
        torch.compile(lambda: at.rows(x, y).squares(), fullgraph=True)()
    except Exception as error:  # of any kind
        return short(error)
    return "compiles"


def short(error: Exception) -> str:
    """The first sentence of an error."""
    first = next((text.strip() for text in str(error).splitlines() if text.strip()), type(error).__name__)
    return f"{type(error).__name__}: {first[:60]}".replace("|", "/")


def row(net: str, what: str, before: float, after: float | None, took: float | None, note: str) -> str:
    """A row of ``compiled``."""
    if after is None or took is None:
        return line([net, what, f"{before:.3f}", "-", "-", "-", note])
    pays = f"{took / (before - after):,.0f}" if after < before else "never"
    return line([net, what, f"{before:.3f}", f"{after:.3f}", f"{took:.0f}", pays, note])


def once(call: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of one call, those of processes that it waits for included, and what it returns."""
    start = sum(os.times()[:4])
    found = call()
    return sum(os.times()[:4]) - start, found


def often(call: Callable[[], Any], budget: float = 2.0) -> float:
    """Seconds of the fastest of several calls."""
    best, spent = once(call)[0], 0.0
    while spent < budget:
        start = time.process_time()
        call()
        best, spent = min(best, time.process_time() - start), spent + time.process_time() - start
    return best


def main() -> None:
    """Make the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS), help="of the table compiled")
    parser.add_argument("--each", action="store_true", help="compile gradients of single instances: minutes a net")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    if given.write and "compiled" in given.tables and not (given.each and len(given.nets) == len(NETS)):
        parser.error("--write replaces the whole table compiled; add --each without --nets, or choose other --tables")
    tables = {"plans": plans, "measured": measured, "compiled": partial(compiled, given.nets, given.each)}
    time.perf_counter = time.process_time  # other processes on the machine count for nothing
    for name in given.tables:
        start = time.process_time()
        found = "\n".join(tables[name]())
        print(f"{name} ({time.process_time() - start:.0f} s here)\n{found}\n", flush=True)
        if given.write:
            pattern = rf"(<!-- scale-{name} -->\n).*?(<!-- end -->)"
            text, count = re.subn(pattern, lambda m: f"{m[1]}{found}\n{m[2]}", DOC.read_text(), flags=re.S)  # noqa: B023
            if count != 1:
                raise SystemExit(f"{DOC} has no place for the table {name}")
            DOC.write_text(text)


if __name__ == "__main__":
    main()
