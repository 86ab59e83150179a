"""Which runs may be compared: those on one problem, against one ground truth, measured in one way."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from influx.errors import ConfigError

if TYPE_CHECKING:
    from influx.reporting.record import RunRecord

PROBLEM, TRUTH = "problem", "ground truth"
CHOSEN = ("dataset", "corruption", "model", "optimizer", "training", "truth")  # groups of a config
PARTS = (*CHOSEN, "seed")
DATA = ("dataset", "corruption", "seed")  # what settles instances and labels
NAMED = ("dataset", "model")  # in the title of a protocol, whatever the others are about
TRAINED = ("optimizer.", "training.")  # settings that may differ between models
DEFAULT = "sgd"  # of optimizers: the one that a model's name alone stands for, without momentum
TOLD = 3  # settings in that title
SHOWN = 60  # characters of a value
EXPLAINED = r"(bank=\w+): [^;]*"  # what a protocol adds to the name of a bank, worded otherwise in earlier versions
MISSING = "-"  # for the value of a setting that a record does not have


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs of one protocol.

    Attributes:
        rows: their places among all runs.
        protocol: in words, by what it is about: the problem, the ground truth, every metric.
        title: what tells the problem from those of other groups; empty when there are none.
        models: what was trained, where this is more than one: each run is judged by the truth of its own model.
    """

    rows: tuple[int, ...]
    protocol: Mapping[str, str]
    title: str = ""
    models: tuple[str, ...] = ()


@dataclass
class _Found:
    """A protocol that is being put together: its first run, what is known of it, problems by model, places of runs."""

    first: RunRecord
    protocol: dict[str, str]
    problems: dict[str, str]
    rows: list[int]

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(self.problems) if len(self.problems) > 1 else ()

    @property
    def named(self) -> tuple[str, ...]:
        """What names the problem: not the model where there are several."""
        return tuple(part for part in NAMED if part != "model" or not self.models)


def protocol_of(record: RunRecord, metrics: Sequence[str]) -> dict[str, str]:
    """What must agree: the trained problem, how its truth was made, and how each of ``metrics`` was measured."""
    found = {PROBLEM: str(record.section("problem").get("id", "")), TRUTH: f"{record.truth_name}: {record.protocol}"}
    for row in record.metric_rows:
        if row["metric"] in metrics and row["status"] == "ok" and row["protocol"]:
            told = re.sub(EXPLAINED, r"\1", str(row["protocol"]))
            if row["estimator"] == record.estimator:
                found[str(row["metric"])] = told
            else:
                found.setdefault(str(row["metric"]), told)
    return found


def grouped(records: Sequence[RunRecord], metrics: Sequence[str], force: bool) -> list[Group]:
    """The records by protocol, in the order in which protocols come first.

    Runs of other models, or of another optimizer, on the same instances have one protocol.

    Raises:
        ConfigError: there are several and ``force`` is not set.
    """
    found: list[_Found] = []
    for place, record in enumerate(records):
        own = protocol_of(record, metrics)
        fitting = next((group for group in found if not _conflicts(group, record, own)), None)
        if fitting is None:
            fitting = _Found(record, {}, {}, [])
            found.append(fitting)
        fitting.protocol |= {name: told for name, told in own.items() if name not in fitting.protocol}
        fitting.problems.setdefault(trained_as(record), own[PROBLEM])
        fitting.rows.append(place)
    if len(found) > 1 and not force:
        _refuse(found)
    titles = _titles(found)
    return [
        Group(rows=tuple(group.rows), protocol=_in_words(group), title=title, models=group.models)
        for group, title in zip(found, titles, strict=True)
    ]


def _conflicts(group: _Found, record: RunRecord, own: Mapping[str, str]) -> list[str]:
    """What keeps a record out of a group; another model on its instances does not."""
    known = group.protocol
    found = [name for name in known if name in own and name != PROBLEM and known[name] != own[name]]
    other = trained_as(record) not in group.problems and _same_instances(group.first, record)
    return found if other or own[PROBLEM] in group.problems.values() else [PROBLEM, *found]


def trained_as(record: RunRecord) -> str:
    """Which model of its instances a run is about: the model's name, and the optimizer unless it is plain SGD."""
    model, optimizer = record.choice("model"), record.choice("optimizer")
    settings = record.config.get("optimizer")
    if isinstance(settings, Mapping) and settings.get("momentum"):
        optimizer += " with momentum"
    return model if optimizer in ("", DEFAULT) else f"{model} by {optimizer}"


def _same_instances(one: RunRecord, other: RunRecord) -> bool:
    """Whether data, their corruption, seed and splits are the same."""
    settings = [flat({key: record.config.get(key) for key in DATA}) for record in (one, other)]
    tables = ((one.train, other.train), (one.test, other.test))
    columns = ["id", "label"]
    return settings[0] == settings[1] and all(a[columns].equals(b[columns]) for a, b in tables)


def _refuse(groups: Sequence[_Found]) -> None:
    (left, known), (right, own) = ((group.first, group.protocol) for group in groups[:2])
    names = _conflicts(groups[0], right, own)
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
        "--force for a table of each protocol"
    )


def _apart(told: str, other: str) -> str:
    """The parts of a protocol that the other has not."""
    parts = [part for part in told.split("; ") if part not in other.split("; ")]
    return "; ".join(parts) or told


def _in_words(group: _Found) -> dict[str, str]:
    record, several = group.first, group.models
    chosen = [f"{part} {name}" for part in group.named if (name := record.choice(part))]
    ids = [f"model {model} (id {problem})" for model, problem in group.problems.items()]
    ids = ids if several else [f"id {group.protocol[PROBLEM]}"]
    return {**group.protocol, PROBLEM: ", ".join([*chosen, f"seed {record.manifest.get('seed', '?')}", *ids])}


def _titles(groups: Sequence[_Found]) -> list[str]:
    """Dataset and model, if it is one, of each; where these do not tell them apart, other choices, then settings."""
    if len(groups) < 2:
        return [""] * len(groups)
    records = [group.first for group in groups]
    told = [[f"{part} {name}" for part in group.named if (name := group.first.choice(part))] for group in groups]
    for alike in _alike(told):
        chosen = {group: [records[i].choice(group) for i in alike] for group in CHOSEN}
        _tell(told, alike, [(k, found) for k, found in chosen.items() if k not in NAMED and len(set(found)) > 1])
    for alike in _alike(told):
        several = any(groups[i].models for i in alike)
        differing = settings_that_differ([records[i] for i in alike])
        kept = [(k, found) for k, found in differing.items() if not (several and k.startswith("model."))]
        _tell(told, alike, kept[:TOLD])
    return [", ".join(parts) for parts in told]


def _alike(told: Sequence[Sequence[str]]) -> list[list[int]]:
    """Places of those that are told alike, where there are several."""
    found = [[i for i, other in enumerate(told) if other == one] for one in told]
    return [places for i, places in enumerate(found) if len(places) > 1 and places[0] == i]


def _tell(told: list[list[str]], places: Sequence[int], found: Sequence[tuple[str, Sequence[str]]]) -> None:
    for n, i in enumerate(places):
        told[i] = told[i] + [f"{name} {values[n]}" for name, values in found if values[n]]


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
        By dotted name, the value in every record, ``MISSING`` where it has none.
    """
    groups = ("estimator", "perspective") if own else PARTS
    flattened = [flat({key: record.config.get(key) for key in groups if key in record.config}) for record in records]
    names = dict.fromkeys(name for settings in flattened for name in settings)
    values = {name: tuple(settings.get(name, MISSING) for settings in flattened) for name in names}
    differing = {name: found for name, found in values.items() if len(set(found)) > 1}
    return {name: tuple(_short(value, name) for value in found) for name, found in differing.items()}


def beside_models(records: Sequence[RunRecord]) -> list[str]:
    """What has to be said of runs of several models: settings of their training that differ as well."""
    first = {trained_as(record): record for record in reversed(records)}
    models = list(dict.fromkeys(trained_as(record) for record in records))
    told = []
    for name, values in settings_that_differ([first[model] for model in models]).items():
        having = [(value, model) for value, model in zip(values, models, strict=True) if value != MISSING]
        differs = len({value for value, _ in having}) > 1  # else the optimizer's own, whose name is in the row
        if name.startswith(TRAINED) and differs and not name.endswith("_target_"):
            told.append(f"{name} is {', '.join(f'{value} for {model}' for value, model in having)}")
    return [f"not the model alone differs: {'; '.join(told)}"] if told else []


def _short(value: str, name: str) -> str:
    if name.endswith("_target_"):
        value = value.rpartition(".")[2]
    return value if len(value) <= SHOWN else value[: SHOWN - 3] + "..."
