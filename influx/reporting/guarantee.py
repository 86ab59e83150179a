"""One sentence on what is guaranteed of an estimator's values, from the rows of its metrics or its construction."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from influx.guarantees import by_construction
from influx.reporting import text

NOTHING: Mapping[str, Any] = {}


def guarantee_line(
    rows: Iterable[Mapping[str, Any]], estimator: str, settings: Mapping[str, Any] = NOTHING, *, truth: bool = False
) -> str:
    """Exact, a bound, a calibrated interval with its measured coverage, or none; certified budgets beside it.

    Args:
        rows: of ``metrics.csv``.
        estimator: whose values.
        settings: its fields, which tell what no row of metric=guarantee does.
        truth: the run has ground truth.
    """
    own = {str(row["metric"]): row for row in rows if row["estimator"] == estimator}
    main = own.get("guarantee")
    parts = [] if main is None else [_main(main, own.get("guarantee_coverage"), own.get("guarantee_gain"))]
    bound = own.get("guarantee_stability")
    if bound is not None and bound["status"] == "ok":
        parts.append(f"bounded: leave-one-out is at most {float(bound['value']):.3g} (median over cells)")
    certificates = []
    for name, row in own.items():
        found = re.fullmatch(r"certified_radius_k(\d+)", name)
        if found and row["status"] == "ok" and math.isfinite(row["value"]):
            certificates.append(_certified(int(found[1]), int(row["value"])))
    derived = [] if parts or certificates else [by_construction(estimator, settings, truth)]
    return "; ".join([*parts, *derived, *certificates])


def _certified(parts: int, radius: int) -> str:
    if radius < 0:  # the median test prediction is wrong without any change
        return f"no certificate for half of the test predictions: a vote of {parts} parts is wrong on them"
    return (
        f"certified: with a vote of {parts} parts, half of the test predictions withstand {radius} changed training "
        "instances"
    )


def _main(row: Mapping[str, Any], coverage: Mapping[str, Any] | None, gain: Mapping[str, Any] | None) -> str:
    kind, _, rest = str(row["protocol"]).partition("; ")
    if row["status"] != "ok" or not math.isfinite(float(row["value"])):
        return f"none: {row['note'] or row['status']}"
    if kind == "exact":
        return f"exact: {rest.split('; ')[0]}"
    level = re.search(r"level ([\d.]+)", rest)
    said = f"{kind}: value ± {float(row['value']):.3g} at level {level[1] if level else '?'}"
    if kind == "calibrated" and coverage is not None and coverage["status"] == "ok":
        low, high = coverage["ci_low"], coverage["ci_high"]
        said += f", measured coverage {text.score(coverage['value'])} {text.interval(low, high)}".rstrip()
    if kind == "calibrated" and gain is not None and gain["status"] == "ok" and float(gain["value"]) <= 0:
        said += ", no narrower than around a constant: take the order of the values, not their size"
    return said
