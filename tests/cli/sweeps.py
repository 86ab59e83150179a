"""Sweeps as their jobs leave them, and how they stand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from influx.commands.status import states
from influx.commands.sweep import Entry, Sweep

SMALL = ("dataset=iris", "dataset.n_train=30", "training.epochs=2", "truth=none", "metric=[]", "baselines=[]")


def sweep_of(folder: Path, **entries: Entry) -> Sweep:
    """A sweep with one job for each entry, as their processes left them."""
    sweep = Sweep(folder)
    sweep.begin({}, entries, [])
    for job, entry in entries.items():
        if entry.status != "pending":
            sweep.record(job, entry)
        elif entry.slurm:
            sweep.submitted({}, {job: entry.slurm})
    return Sweep(folder)


def told(folder: Path) -> dict[str, str]:
    return {str(vars(state)["overrides"]): state.status for state in states(folder)}


def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """A Slurm whose ``squeue`` answers this, and counts how often it was asked."""
    program = tmp_path / "bin" / "squeue"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho asked >> {tmp_path}/asked\n{answer}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
