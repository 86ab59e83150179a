"""The one shape of a metric's result."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import pandas as pd

Status = Literal["ok", "degenerate", "not applicable"]
TABLES = "tables"  # key of a frame's attrs
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


def tidy(rows: Iterable[Measured], tables: Mapping[str, pd.DataFrame] | None = None) -> pd.DataFrame:
    """A DataFrame with one row per number and the columns ``COLUMNS``; ``tables`` go along, see ``tables_of``."""
    frame = pd.DataFrame([asdict(row) for row in rows], columns=list(COLUMNS))
    if tables:
        frame.attrs[TABLES] = dict(tables)
    return frame


def tables_of(frame: pd.DataFrame) -> Mapping[str, pd.DataFrame]:
    """Further tables of a metric by name, such as the curve that a number summarises.

    A curve has the columns ``series`` (text), then x, then y under names that say what they are, and may have
    ``ci_low`` and ``ci_high``; reports draw it.
    """
    found: Mapping[str, pd.DataFrame] = frame.attrs.get(TABLES, {})
    return found
