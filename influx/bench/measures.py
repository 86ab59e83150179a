"""What a benchmark found, as it stands in results.json and in a baseline: plain numbers, no places."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from influx.store import write_atomically, write_text

SCHEMA = 2
DIGITS = 7  # significant ones that files keep
Kind = Literal["run", "quality", "speed", "memory"]


@dataclass(frozen=True, kw_only=True)
class Value:
    """One metric of one estimator; ``better`` says which way, ``status`` is ok unless there is no number."""

    value: float
    low: float
    high: float
    better: str
    status: str = "ok"
    protocol: str = ""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One estimator on one problem of one suite.

    Attributes:
        values: metrics by name.
        prints: fingerprints of the matrix and of what stands beside it, see ``influx.bench.fingerprint``.
        processor: processor seconds of the fastest of ``rounds`` estimates.
        kernel: those of the reference kernel, timed between the same rounds.
        noise: median over least of the kernel's times, 1 on a quiet machine.
        wall: seconds on the clock of the fastest estimate; for people, no gate looks at them.
        memory: MB by which the process grew during the estimate, in the round with the least.
        trainings: models retrained.
        steady: whether all rounds gave the same numbers.
        error: what went wrong, or an empty string.
    """

    values: Mapping[str, Value] = field(default_factory=dict)
    prints: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    processor: float = math.nan
    kernel: float = math.nan
    noise: float = 1.0
    wall: float = math.nan
    memory: float = math.nan
    trainings: int = 0
    rounds: int = 0
    steady: bool = True
    error: str = ""

    @property
    def ratio(self) -> float:
        """Time in units of the kernel's."""
        return self.processor / self.kernel


@dataclass(frozen=True, kw_only=True)
class Check:
    """Something that must hold without any baseline: an order, an oracle, a slope; ``run`` if it could not be tried."""

    where: str
    kind: Kind
    passed: bool
    message: str


@dataclass(kw_only=True)
class Results:
    """All of one benchmark. ``suites`` has the protocol and the seconds of each suite."""

    machine: dict[str, str]
    suites: dict[str, dict[str, Any]] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """For JSON, with stable order and rounded numbers."""
        return {
            "schema": SCHEMA,
            "machine": self.machine,
            "suites": self.suites,
            "entries": {key: _plain(asdict(entry)) for key, entry in sorted(self.entries.items())},
            "checks": [asdict(check) for check in self.checks],
        }

    def text(self) -> str:
        """The file's content: one line an entry, so that differences can be read."""
        plain = self.plain()
        entries = plain.pop("entries")
        rows = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v, sort_keys=True)}" for k, v in entries.items())
        head = json.dumps(plain, indent=1, sort_keys=True, ensure_ascii=False).removesuffix("\n}")
        return f'{head},\n "entries": {{\n{rows}\n }}\n}}\n'


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def save(results: Results, path: Path) -> None:
    """Write a results file or baseline: whole or not at all."""
    write_atomically(path, lambda temporary: write_text(temporary, results.text()))
