"""``influx compare``: finished runs side by side, on the screen, as JSON or as CSV."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from influx.reporting.comparison import Comparison, Difference, Entry

Form = Literal["table", "json", "csv"]


def compare(
    places: Sequence[Path],
    metrics: Sequence[str] = (),
    *,
    against: str = "",
    lower_is_better: bool = False,
    force: bool = False,
    form: Form = "table",
) -> int:
    """Print the finished runs in ``places`` side by side; the exit code.

    Raises:
        DataError: a place holds no finished run.
        ConfigError: protocols differ without ``force``, or a metric or reference is unknown.
    """
    from influx.commands.comparisons import Asked, comparison_of
    from influx.commands.finished import finished

    records, notes = finished(places)
    asked = Asked(metrics=tuple(metrics), lower_is_better=lower_is_better, against=against, force=force)
    found = comparison_of(records, asked, notes)
    if form == "json":
        print(json.dumps(_plain(as_json(found)), indent=1, ensure_ascii=False))
    elif form == "csv":
        write_csv(found)
    else:
        from influx.reporting import progress
        from influx.reporting.comparison_table import comparison_table

        progress.console().print(comparison_table(found))
    return 0


def as_json(found: Comparison) -> dict[str, Any]:
    """Everything in plain types."""
    return {
        "metric": found.metric,
        "lower_is_better": found.lower_is_better,
        "columns": dict(found.columns),
        "rows": [asdict(entry) | {"scores": _scores(entry)} for entry in found.entries],
        "pairs": [
            {"row": found.entries[i].name, "minus": found.entries[j].name} | asdict(difference)
            for (i, j), difference in sorted(found.pairs.items())
        ],
        "reference": None if found.reference is None else found.entries[found.reference].name,
        "protocols": [dict(protocol) for protocol in found.protocols],
        "notes": list(found.notes),
        "footnotes": dict(found.footnotes),
        "commands": dict(found.commands),
    }


def _scores(entry: Entry) -> dict[str, dict[str, Any]]:
    return {
        metric: {"value": score.value, "ci_low": score.low, "ci_high": score.high, "status": score.word or "ok"}
        for metric, score in entry.scores.items()
    }


def _plain(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_csv(found: Comparison) -> None:
    """One line per row, numbers in full."""
    from influx.results import as_text

    writer = csv.writer(sys.stdout, lineterminator="\n")
    head = ["estimator", "name", "kind", "run", "protocol"]
    for metric in found.columns:
        head += [metric, f"{metric}_ci_low", f"{metric}_ci_high", f"{metric}_status"]
    head += ["difference", "difference_ci_low", "difference_ci_high", "letters", "pareto"]
    writer.writerow([*head, "seconds", "peak_mb", "trainings"])
    for entry in found.entries:
        cells: list[Any] = [entry.estimator, entry.name, entry.kind, entry.run, entry.protocol + 1]
        for metric in found.columns:
            score = entry.scores.get(metric)
            cells += [score.value, score.low, score.high, score.word or "ok"] if score else ["", "", "", ""]
        cells += [*_numbers(entry.difference), entry.letters, "yes" if entry.front else ""]
        cells += [entry.seconds, entry.peak_mb, entry.trainings]
        writer.writerow(["" if isinstance(c, float) and math.isnan(c) else as_text(c) for c in cells])


def _numbers(difference: Difference | None) -> list[Any]:
    return ["", "", ""] if difference is None else [difference.value, difference.low, difference.high]
