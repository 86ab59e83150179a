"""What a tracker is told of a run."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

HIDDEN = "(hidden)"
SECRET = re.compile(r"(^|[._])(secret|token|password|passwd|credential|api_?key|access_?key)s?($|[._])", re.IGNORECASE)
USER = re.compile(r"(?<=://)[^/@\s]+(?=@)")  # of an address with a password

Plain = str | int | float | bool


@dataclass(frozen=True, kw_only=True)
class Told:
    """A finished run.

    Attributes:
        name: of the run.
        params: settings by their dotted names; what looks like a secret is hidden.
        metrics: ``estimator/metric``, its interval as ``.ci_low`` and ``.ci_high``, ``estimator/seconds`` and the like;
            finite numbers.
        tags: id of the problem, ground truth, versions.
        report: the page about the run; None where there is none.
    """

    name: str
    params: Mapping[str, Plain]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    report: Path | None


class Tracker(Protocol):
    """Copies a run into the files of one tool. A frozen dataclass whose fields are its settings.

    ``package`` is what must be installed, ``extra`` the requirement that installs it.
    """

    package: ClassVar[str]
    extra: ClassVar[str]

    def log(self, told: Told, folder: Path) -> str:
        """Write everything below ``folder``, which is there and empty; the id of the tool's run.

        Raises:
            Exception: whatever the tool raises.
        """
        ...


def params_of(values: Mapping[str, Any], choices: Mapping[str, str], without: Collection[str]) -> dict[str, Plain]:
    """Settings flattened to dotted names, each group's choice under the group's name; ``without`` these groups."""
    chosen = {name: str(choice) for name, choice in choices.items() if name in values and name not in without}
    rest = {name: value for name, value in values.items() if name not in without}
    flat: dict[str, Plain] = {}
    for name, value in (*_flat(rest), *chosen.items()):
        flat[name] = HIDDEN if SECRET.search(name) else USER.sub(HIDDEN, value) if isinstance(value, str) else value
    return dict(sorted(flat.items()))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Plain]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key == "_target_":  # the group's choice says it shorter
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, bool | int | float | str):
            yield name, value
        else:  # a list, or null
            yield name, str(value)


def metrics_of(rows: Collection[Mapping[str, Any]], costs: Mapping[str, Any]) -> dict[str, float]:
    """Rows of ``metrics.json`` and costs of the manifest as numbers; a metric without a value is left out."""
    found: dict[str, float] = {}
    for row in rows:
        for column, ending in (("value", ""), ("ci_low", ".ci_low"), ("ci_high", ".ci_high")):
            _put(found, f"{row.get('estimator')}/{row.get('metric')}{ending}", row.get(column))
    for name, cost in costs.items():
        for key in ("seconds", "peak_mb", "trainings"):
            _put(found, f"{name}/{key}", cost.get(key) if isinstance(cost, Mapping) else None)
    return found


def _put(found: dict[str, float], name: str, value: object) -> None:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        found[name] = float(value)
