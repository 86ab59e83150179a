"""``influx compare``: finished runs side by side, on the screen, as JSON or as CSV."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
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
    """Print the finished runs in ``places`` side by side, one table per protocol; the exit code.

    Raises:
        DataError: a place holds no finished run.
        ConfigError: protocols differ without ``force``, or a metric or reference is unknown.
    """
    from influx.commands.comparisons import Asked, comparisons_of
    from influx.commands.finished import finished

    records, notes = finished(places)
    asked = Asked(metrics=tuple(metrics), lower_is_better=lower_is_better, against=against, force=force)
    found = comparisons_of(records, asked, notes)
    if form == "json":
        print(json.dumps(_plain(as_json(found)), indent=1, ensure_ascii=False))
    elif form == "csv":
        write_csv(found)
    else:
        from influx.reporting import progress
        from influx.reporting.comparison_table import comparison_table

        progress.console().print(comparison_table(found))
    return 0


def as_json(made: Sequence[Comparison]) -> dict[str, Any]:
    """Everything in plain types; rows, pairs, references and protocols by number, from 0."""
    return {
        "metric": made[0].metric,
        "lower_is_better": made[0].lower_is_better,
        "columns": _joined(c.columns for c in made),
        "rows": [
            asdict(entry) | {"scores": _scores(entry), "protocol": n} for n, c in enumerate(made) for entry in c.entries
        ],
        "pairs": [
            {"row": c.entries[i].name, "minus": c.entries[j].name, "protocol": n} | asdict(difference)
            for n, c in enumerate(made)
            for (i, j), difference in sorted(c.pairs.items())
        ],
        "references": [" / ".join(c.entries[i].name for i in c.references) or None for c in made],
        "protocols": [dict(c.protocol) for c in made],
        "notes": list(dict.fromkeys(note for c in made for note in c.notes)),
        "footnotes": _joined(dict(c.footnotes) for c in made),
        "commands": _joined(c.commands for c in made),
    }


def _joined(parts: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """One mapping of all; what comes first counts."""
    found: dict[str, str] = {}
    for part in parts:
        found |= {key: value for key, value in part.items() if key not in found}
    return found


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


def write_csv(made: Sequence[Comparison]) -> None:
    """One line per row, numbers in full."""
    from influx.results import as_text

    writer = csv.writer(sys.stdout, lineterminator="\n")
    head, columns = ["estimator", "name", "kind", "run", "model", "protocol"], _joined(c.columns for c in made)
    for metric in columns:
        head += [metric, f"{metric}_ci_low", f"{metric}_ci_high", f"{metric}_status"]
    head += ["difference", "difference_ci_low", "difference_ci_high", "letters", "pareto"]
    writer.writerow([*head, "seconds", "peak_mb", "trainings"])
    for number, entry in ((n, entry) for n, c in enumerate(made, start=1) for entry in c.entries):
        cells: list[Any] = [entry.estimator, entry.name, entry.kind, entry.run, entry.model, number]
        for metric in columns:
            score = entry.scores.get(metric)
            cells += [score.value, score.low, score.high, score.word or "ok"] if score else ["", "", "", ""]
        cells += [*_numbers(entry.difference), entry.letters, "yes" if entry.front else ""]
        cells += [entry.seconds, entry.peak_mb, entry.trainings]
        writer.writerow(["" if isinstance(c, float) and math.isnan(c) else as_text(c) for c in cells])


def _numbers(difference: Difference | None) -> list[Any]:
    return ["", "", ""] if difference is None else [difference.value, difference.low, difference.high]
