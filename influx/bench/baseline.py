"""Read a results file back, and refuse it at once where it is damaged: it decides whether a change passes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

from influx.bench.measures import SCHEMA, Check, Entry, Kind, Results, Value
from influx.bench.suites import Better
from influx.errors import DataError

PLACES = 3  # suite, problem and estimator
Holds = Callable[[Any], bool]


def load(path: Path) -> Results:
    """Read what ``influx.bench.measures.save`` wrote.

    Raises:
        DataError: there is no such file, or it is no whole results file of this version.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["schema"] != SCHEMA:
            raise DataError(
                f"{path} has schema {values['schema']}, this influx reads {SCHEMA}; delete it and make it anew"
            )
        results = Results(
            machine=_all(_text, values["machine"], "machine"),
            suites={name: _suite(name, node) for name, node in _items(values["suites"], "suites")},
            entries={key: _entry(key, node) for key, node in _items(values["entries"], "entries")},
            checks=[_check(node) for node in values["checks"]],
        )
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; make it by --update-baseline") from error
    except KeyError as error:
        raise DataError(
            f"{path} is no results file of influx bench (no {error}); delete it and make it anew"
        ) from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is no results file of influx bench ({error}); delete it and make it anew") from error
    for key in results.entries:
        if key.partition("/")[0] not in results.suites:
            raise DataError(f"{path} has {key} of a suite that it does not list; delete it and make it anew")
    return results


def _suite(name: str, node: Mapping[str, Any]) -> dict[str, Any]:
    _hold(_text(node["protocol"]), f"protocol of {name}", node["protocol"])
    _hold(_positive(node["seconds"]), f"seconds of {name}", node["seconds"])
    return dict(node)


def _entry(key: str, node: Mapping[str, Any]) -> Entry:
    _hold(len(key.split("/")) == PLACES, "an entry", key)
    plain = _numbers(node)
    plain["values"] = {name: _value(f"{name} of {key}", value) for name, value in _items(node["values"], key)}
    plain["prints"] = {name: tuple(sums) for name, sums in _items(node["prints"], key)}
    entry = Entry(**plain)
    _hold(_text(entry.error), f"error of {key}", entry.error)
    if entry.error:
        return entry
    for name, sums in entry.prints.items():
        _hold(len(sums) > 2 and all(map(_number, sums)), f"fingerprint {name} of {key}", node["prints"][name])
    _hold("values" in entry.prints, f"prints of {key}", node["prints"])
    for name, holds in TIMES.items():
        _hold(holds(plain[name]), f"{name} of {key}", node[name])
    return entry


def _value(where: str, node: Mapping[str, Any]) -> Value:
    value = Value(**_numbers(node))
    _hold(value.better in get_args(Better), f"direction of {where}", value.better)
    _hold(_text(value.status) and _text(value.protocol), f"status and protocol of {where}", node)
    for name in ("low", "high"):
        _hold(_number_or_none(getattr(value, name)), f"{name} of {where}", node[name])
    holds = _number if value.status == "ok" else _number_or_none
    _hold(holds(value.value), f"value of {where}", node["value"])
    return value


def _check(node: Mapping[str, Any]) -> Check:
    check = Check(**node)
    _hold(check.kind in get_args(Kind) and _text(check.where), "a check", node)
    return check


def _items(node: Any, what: str) -> list[tuple[str, Any]]:
    _hold(isinstance(node, dict), what, node)
    return list(node.items())


def _all(holds: Holds, node: Any, what: str) -> dict[str, Any]:
    for name, value in _items(node, what):
        _hold(holds(value), f"{name} of {what}", value)
    return dict(node)


def _numbers(node: Mapping[str, Any]) -> dict[str, Any]:
    return {key: math.nan if value is None else value for key, value in node.items()}


def _hold(holds: bool, what: str, value: Any) -> None:
    if not holds:
        raise ValueError(f"{what} cannot be {str(value)[:60]!r}")


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number_or_none(value: Any) -> bool:
    return _number(value) or (isinstance(value, float) and math.isnan(value))


def _positive(value: Any) -> bool:
    return _number(value) and value > 0


def _memory(value: Any) -> bool:
    return _number_or_none(value) and not value < 0


TIMES: dict[str, Holds] = {"processor": _positive, "kernel": _positive, "noise": _positive, "memory": _memory}
