#!/usr/bin/env python
"""Check the cost model of gradient products: is the way that it chooses the faster one, layer by layer?

    python scripts/bench_costs.py [--repeats 5]

For linear layers of several sizes, numbers of positions and of instances, all products of the gradients of two blocks
are timed by factors and written out, in turn; written out includes writing. "loss" is what the model's choice costs
over the faster way. Fails if a choice loses more than half of the time, a quarter of it in the geometric mean.
"""

from __future__ import annotations

import argparse
import sys
import time
from unittest import mock

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from influx.engines import layers
from influx.engines.gradients import GradientsAt
from influx.learners.torch.costs import cheaper
from influx.learners.torch.tasks import task_for

SIZES = [
    (1, 64, 256, 1000, 400),
    (1, 1024, 128, 256, 100),
    (4, 64, 64, 256, 100),
    (4, 256, 256, 256, 100),
    (8, 128, 128, 256, 100),
    (16, 128, 128, 256, 100),
    (16, 256, 256, 128, 4),
    (16, 768, 768, 64, 32),
    (64, 64, 64, 128, 50),
    (64, 256, 64, 128, 2),
    (256, 32, 64, 64, 32),
]
WORST, MEAN = 1.5, 1.25


class Pooled(nn.Module):
    """One linear layer at every position, averaged."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.layer = nn.Linear(d_in, d_out)

    def forward(self, x: Tensor) -> Tensor:
        """``(b, positions, d_in)`` to ``(b, d_out)``."""
        return torch.tanh(self.layer(x)).mean(1)


def timed(positions: int, d_in: int, d_out: int, left: int, right: int, repeats: int) -> dict[str, float]:
    """Seconds of all products by each way, minima."""
    torch.manual_seed(0)
    at = GradientsAt(Pooled(d_in, d_out).eval(), task_for("classification"), "all", lambda split: None)  # type: ignore
    sides = [torch.randn(count, positions, d_in) for count in (left, right)]
    rows = [at.rows(x, torch.randint(0, d_out, (len(x),))).layers[0] for x in sides]
    best = {"factors": float("inf"), "written": float("inf")}
    for _ in range(repeats + 1):
        for way in best:
            for row in rows:
                row.made.clear()
            with mock.patch.object(layers, "cheaper", lambda *a, way=way, **k: way):
                start = time.perf_counter()
                rows[0].dot(rows[1])
                best[way] = min(best[way], time.perf_counter() - start)
    return best


def main() -> int:
    """Time all sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    table = Table(*"positions|d_in|d_out|left|right|factors ms|written ms|chosen|loss".split("|"))
    losses = []
    for size in SIZES:
        seconds = timed(*size, repeats)
        chosen = cheaper(*size)
        losses.append(seconds[chosen] / min(seconds.values()))
        times = (f"{1e3 * seconds[way]:.3g}" for way in ("factors", "written"))
        table.add_row(*map(str, size), *times, chosen, f"{losses[-1]:.2f} x")
    Console().print(table)
    mean = float(np.exp(np.mean(np.log(losses))))
    failed = max(losses) > WORST or mean > MEAN
    print(f"loss {mean:.2f} x on average, {max(losses):.2f} x at worst: {'MISSED' if failed else 'within bounds'}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
