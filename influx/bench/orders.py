"""What must hold of a problem's results on any machine."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise

from influx.bench.measures import Check, Entry, Value
from influx.bench.suites import Order, Trials
from influx.errors import ConfigError


def checks(where: str, trials: Trials, entries: Mapping[str, Entry]) -> Iterator[Check]:
    """One check per assertion; ``entries`` by the names of the suite's estimators.

    Raises:
        ConfigError: an assertion names what was not measured.
    """
    for order in trials.orders:
        for upper, lower in pairwise(order.order):
            yield _above(where, order, upper, lower, entries)
        if order.of is not None:
            yield _within(where, order, order.of, entries)


def _above(where: str, order: Order, upper: str, lower: str, entries: Mapping[str, Entry]) -> Check:
    left, right = (_value(where, order.metric, name, entries) for name in (upper, lower))
    apart = left.value - right.value
    passed = apart > order.gap  # False for NaN
    half = math.hypot(left.high - left.low, right.high - right.low) / 2
    needed = f" by more than {order.gap:g}" if order.gap else ""
    stands = "is" if passed else "must be"
    message = (
        f"{order.metric}: {upper} {left.value:.3g} {stands} above {lower} {right.value:.3g}{needed}"
        f"{f' (±{half:.2g})' if math.isfinite(half) else ''}"
    )
    return Check(where=where, kind="quality", passed=passed, message=message)


def _within(where: str, order: Order, name: str, entries: Mapping[str, Entry]) -> Check:
    value = _value(where, order.metric, name, entries).value
    low = -math.inf if order.at_least is None else order.at_least
    high = math.inf if order.at_most is None else order.at_most
    passed = low <= value <= high
    bounds = [f"at least {low:g}"] * math.isfinite(low) + [f"at most {high:g}"] * math.isfinite(high)
    message = f"{order.metric}: {name} {value:.3g} {'is' if passed else 'must be'} {' and '.join(bounds)}"
    return Check(where=where, kind="quality", passed=passed, message=message)


def _value(where: str, metric: str, name: str, entries: Mapping[str, Entry]) -> Value:
    entry = entries.get(name)
    if entry is None:
        raise ConfigError(f"an order of {where} names {name}, which is not among its estimators; correct the suite")
    if entry.error:
        return Value(value=math.nan, low=math.nan, high=math.nan, better="higher", status="failed")
    if metric not in entry.values:
        raise ConfigError(f"an order of {where} names {metric}, which is not among its values; correct the suite")
    return entry.values[metric]
