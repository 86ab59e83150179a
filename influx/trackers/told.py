"""What a tracker is told of a run."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

HIDDEN = "(hidden)"
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
SECRETS = {
    *("secret", "token", "password", "passwd", "passphrase", "pwd", "credential", "auth", "authorization", "bearer"),
    *("cookie", "signature", "apikey"),
}
KEYS = {"api", "access", "private", "ssh"}  # of a key
USER = re.compile(r"(?<=://)[^@\s]+(?=@)")  # of an address with a password
QUERY = re.compile(r"(?<=\?)\S*=\S*")  # of an address: signatures stand there

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
    """

    name: str
    params: Mapping[str, Plain]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]


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
        flat[name] = HIDDEN if _secret(name) else _plain(value)
    return dict(sorted(flat.items()))


def _secret(name: str) -> bool:
    words = [word.lower().removesuffix("s") for word in WORD.findall(name)]
    keys = {before for before, word in itertools.pairwise(words) if word == "key"}
    return bool(SECRETS & set(words) or {key.removesuffix("s") for key in KEYS} & keys)


def _plain(value: Plain) -> Plain:
    return QUERY.sub(HIDDEN, USER.sub(HIDDEN, value)) if isinstance(value, str) else value


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Plain]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key == "_target_":  # the group's choice says it shorter
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, bool | int | float | str):
            yield name, value
        elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            yield from _flat({str(number): item for number, item in enumerate(value)}, f"{name}.")
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
