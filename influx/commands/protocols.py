"""Which runs may be compared: those on one problem, against one ground truth, measured in one way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from influx.errors import ConfigError

if TYPE_CHECKING:
    from influx.reporting.record import RunRecord

PROBLEM, TRUTH = "problem", "ground truth"
PARTS = ("dataset", "corruption", "model", "optimizer", "training", "seed", "truth")  # of a config
SHOWN = 60  # characters of a value


def protocol_of(record: RunRecord, metrics: Sequence[str]) -> dict[str, str]:
    """What must agree: the trained problem, how its truth was made, and how each of ``metrics`` was measured."""
    found = {PROBLEM: str(record.section("problem").get("id", "")), TRUTH: f"{record.truth_name}: {record.protocol}"}
    for row in record.metric_rows:
        if row["metric"] in metrics and row["status"] == "ok" and row["protocol"]:
            if row["estimator"] == record.estimator:
                found[str(row["metric"])] = str(row["protocol"])
            else:
                found.setdefault(str(row["metric"]), str(row["protocol"]))
    return found


def grouped(
    records: Sequence[RunRecord], metrics: Sequence[str], force: bool
) -> tuple[list[int], list[dict[str, str]]]:
    """The protocol of each record, as an index, and every protocol in words by what it is about.

    Raises:
        ConfigError: there are several and ``force`` is not set.
    """
    groups: list[tuple[RunRecord, dict[str, str]]] = []
    chosen = []
    for record in records:
        own = protocol_of(record, metrics)
        fitting = (i for i, (_, known) in enumerate(groups) if not _conflicts(known, own))
        place = next(fitting, len(groups))
        if place == len(groups):
            groups.append((record, {}))
        groups[place][1].update({name: told for name, told in own.items() if name not in groups[place][1]})
        chosen.append(place)
    if len(groups) > 1 and not force:
        _refuse(groups)
    return chosen, [_in_words(record, protocol) for record, protocol in groups]


def _conflicts(known: Mapping[str, str], own: Mapping[str, str]) -> list[str]:
    return [name for name in known if name in own and known[name] != own[name]]


def _refuse(groups: Sequence[tuple[RunRecord, dict[str, str]]]) -> None:
    (left, known), (right, own) = groups[:2]
    names = _conflicts(known, own)
    differing = settings_that_differ([left, right])
    if names[0] == PROBLEM:
        told = [f"{key} is {a} in {left.name} and {b} in {right.name}" for key, (a, b) in differing.items()]
        told = told or [f"problem {known[PROBLEM]} in {left.name}, {own[PROBLEM]} in {right.name}"]
    else:
        told = [
            f"{n} is by ({_apart(known[n], own[n])}) in {left.name} and ({_apart(own[n], known[n])}) in {right.name}"
            for n in names
        ]
    more = f", and {len(told) - 1} more" if len(told) > 1 else ""
    others = f"; {len(groups)} protocols in all" if len(groups) > 2 else ""
    raise ConfigError(
        f"rows to compare need one protocol, these have several: {told[0]}{more}{others}; give runs of one, or add "
        "--force to see them with their protocols marked"
    )


def _apart(told: str, other: str) -> str:
    """The parts of a protocol that the other has not."""
    parts = [part for part in told.split("; ") if part not in other.split("; ")]
    return "; ".join(parts) or told


def _in_words(record: RunRecord, protocol: Mapping[str, str]) -> dict[str, str]:
    chosen = [f"{group} {name}" for group in ("dataset", "model") if (name := record.choice(group))]
    problem = ", ".join([*chosen, f"seed {record.manifest.get('seed', '?')}", f"id {protocol[PROBLEM]}"])
    return {**protocol, PROBLEM: problem}


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Settings by dotted name, values as text."""
    found: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = "null" if value is None else str(value)
    return found


def settings_that_differ(records: Sequence[RunRecord], *, own: bool = False) -> dict[str, tuple[str, ...]]:
    """Settings of the problem and its truth, or with ``own`` of estimator and perspective, that are not all the same.

    Returns:
        By dotted name, the value in every record, ``"-"`` where it has none.
    """
    groups = ("estimator", "perspective") if own else PARTS
    flattened = [flat({key: record.config.get(key) for key in groups if key in record.config}) for record in records]
    names = dict.fromkeys(name for settings in flattened for name in settings)
    values = {name: tuple(settings.get(name, "-") for settings in flattened) for name in names}
    differing = {name: found for name, found in values.items() if len(set(found)) > 1}
    return {name: tuple(_short(value, name) for value in found) for name, found in differing.items()}


def _short(value: str, name: str) -> str:
    if name.endswith("_target_"):
        value = value.rpartition(".")[2]
    return value if len(value) <= SHOWN else value[: SHOWN - 3] + "..."
