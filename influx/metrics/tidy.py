"""The one shape of a metric's result."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import pandas as pd

Status = Literal["ok", "degenerate", "not applicable"]
COLUMNS = ("metric", "value", "ci_low", "ci_high", "n", "status", "protocol", "note")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One number with its uncertainty and its protocol.

    ``n`` is what the interval was taken over (test instances unless ``protocol`` says otherwise). A number that
    cannot be had has ``value`` NaN, a ``status`` other than ok and the reason in ``note``.
    """

    metric: str
    value: float = math.nan
    ci_low: float = math.nan
    ci_high: float = math.nan
    n: int = 0
    status: Status = "ok"
    protocol: str = ""
    note: str = ""


def unavailable(metrics: Sequence[str], status: Status, note: str, protocol: str = "") -> list[Measured]:
    """One row without a value per name, all for the same reason."""
    return [Measured(metric=name, status=status, note=note, protocol=protocol) for name in metrics]


def sentences(*parts: str) -> str:
    """The non-empty parts, joined by ``"; "``."""
    return "; ".join(part for part in parts if part)


def tidy(rows: Iterable[Measured]) -> pd.DataFrame:
    """A DataFrame with one row per number and the columns ``COLUMNS``."""
    return pd.DataFrame([asdict(row) for row in rows], columns=list(COLUMNS))
