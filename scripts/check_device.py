#!/usr/bin/env python
"""Hold every estimator of nets on an accelerator against the same on the processor, in float64.

    python scripts/check_device.py [--device cuda] [--only NAME …] [--json FILE]

Two tiny nets, a plain and a convolutional one, are trained on both devices from the same start with the same batches.
Differences are relative to the largest value. Exit code 1 when one exceeds the bound, with the names.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from influx.catalogue import rows
from influx.errors import UserError
from influx.learners.torch.optimizers import SGD, Adam
from influx.models.cnn import CNN
from influx.models.mlp import MLP
from influx.needs import Need
from influx.oracles import toys
from influx.oracles.toys import Toy, estimator_named

BOUND = 1e-8
NETS = {
    "mlp": (toys.table(n_train=24), MLP(width=8)),
    "cnn": (toys.images(n_train=24), CNN(channels=[4], hidden=8)),
}


def trained(below: Path, net: str, name: str, device: str) -> Toy:
    """The toy on a device, in a folder of its own."""
    data, model = NETS[net]
    optimizer = Adam(lr=0.01) if name == "tracin_adam" else SGD(lr=0.1, momentum=0.5, weight_decay=0.01)
    return toys.train(below / device, data, model, optimizer, batch_size=6, epochs=3, device=device)


def compared(below: Path, net: str, name: str, device: str) -> dict[str, Any]:
    """Largest difference of one estimator's values, and seconds on each device."""
    found, seconds = [], []
    try:
        for where in ("cpu", device):
            toy = trained(below, net, name, where)
            start = time.perf_counter()
            found.append(toy.estimate(name).values)
            seconds.append(time.perf_counter() - start)
    except UserError as error:
        return {"net": net, "estimator": name, "refused": str(error)}
    size = float(np.nanmax(np.abs(found[0]))) or 1.0
    different = float(np.nanmax(np.abs(found[1] - found[0]))) / size
    same = bool((np.isnan(found[0]) == np.isnan(found[1])).all())
    return {"net": net, "estimator": name, "difference": different if same else np.inf, "seconds": seconds}


def main() -> int:
    """Compare, and print as it goes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="*", help="estimators; default all that take nets")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("--device cuda, but torch sees no CUDA device")
    names = args.only or [
        row["name"] for row in rows("estimators") if Need.LINEAR_MODEL not in estimator_named(row["name"]).requires
    ]
    console, results = Console(), []
    with tempfile.TemporaryDirectory() as below:
        for net, name in product(NETS, names):
            results.append(compared(Path(below), net, name, args.device))
            found = results[-1]
            seconds = " and ".join(f"{s:.2f} s" for s in found.get("seconds", []))
            console.print(net, name, found.get("refused") or f"{found['difference']:.1e}", seconds)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))
    bad = [f"{r['net']}: {r['estimator']}" for r in results if r.get("difference", 0.0) > BOUND]
    console.print(f"torch {torch.__version__}: {len(results)} comparisons, over {BOUND:g}: {', '.join(bad) or 'none'}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
