"""What is done once before gradients are computed, whatever their number: a way to them is chosen."""

from __future__ import annotations

from influx.engines.gradients import BLOCK_BYTES
from influx.planning import NetShape, Work

TRIED = 3  # instances that ways are tried on, where their gradients fit


def settling_work(net: NetShape) -> Work:
    """Ways tried on a few instances and as much noise, mostly in double precision (``GradientsAt._settle``)."""
    few = TRIED if 8 * 4 * net.parameters <= BLOCK_BYTES else 1
    return Work(flops=net.macs * (6.0 + 76.0 * few), numbers=net.parameters * (10.0 + 20.0 * few))
