"""Does influence on a test instance rank flagged training instances first? Shared by detection metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from influx.metrics.aligned import left_out
from influx.metrics.detection import chance_ap, detect
from influx.metrics.per_test import summarise
from influx.metrics.statistics import FloatArray, constant_columns
from influx.metrics.tidy import Measured, sentences, unavailable
from influx.run import Run

HIGH = "training instances ranked by influence, high first"
LOW = "training instances ranked by influence, low first"


def names(metric: str) -> list[str]:
    """Names of the two rows."""
    return [f"{metric}_auprc", f"{metric}_auroc"]


def flagged_rows(
    metric: str,
    values: NDArray[Any],
    flags: NDArray[np.bool_],
    *,
    computed: NDArray[np.bool_],
    run: Run,
    n_boot: int,
    protocol: str,
    rule: str = HIGH,
) -> list[Measured]:
    """Average precision and AUROC of ``flags`` by each column, and their means over columns.

    Args:
        metric: how the names of the rows begin.
        values: ``(n_train, q)`` influence on the test instances asked about.
        flags: ``(n_train, q)`` what is to be found for each.
        computed: ``(n_train,)`` training instances with scores; the others are not ranked.
        run: for the bootstrap over test instances.
        n_boot: resamples.
        protocol: which test instances these are.
        rule: how ``values`` rank, for the protocol.

    Columns that are constant or not finite have no value and are counted in the note, and so are those for which there
    is nothing, or nothing else, to be found.
    """
    everything, values, flags = len(values), values[computed], flags[computed]
    if not len(values):
        return unavailable(names(metric), "not applicable", "no training instance has scores", protocol)
    broken, constant = ~np.isfinite(values).all(axis=0), constant_columns(values)
    of_one_kind = ~(broken | constant) & (flags.all(axis=0) | ~flags.any(axis=0))
    precision, area = per_column(values, flags, ~(broken | constant))
    lacking = f"{int(of_one_kind.sum())} test instances have all or none to be found among the instances with scores"
    note = sentences(left_out(broken, constant), lacking if of_one_kind.any() else "")
    expected = [chance_ap(len(flags), int(column.sum())) for column in flags.T[np.isfinite(precision)]]
    chance = (float(np.mean(expected)) if expected else np.nan, 0.5)
    rows = []
    for name, found, random in zip(names(metric), (precision, area), chance, strict=True):
        rows.append(
            summarise(
                name,
                found,
                rng=run.rng("test instances"),
                n_boot=n_boot,
                protocol=sentences(protocol, rule, f"{len(values)} of {everything} training instances"),
                note=sentences(f"random ranking: {random:.4f}" if expected else "", note),
            )
        )
    return rows


def per_column(
    values: NDArray[Any], flags: NDArray[np.bool_], usable: NDArray[np.bool_]
) -> tuple[FloatArray, FloatArray]:
    """Average precision and AUROC ``(q,)`` of each usable column of two (n, q) arrays; NaN for the others."""
    found = np.full((2, values.shape[1]), np.nan)
    once = np.ones((1, len(values)))
    for column in np.flatnonzero(usable & flags.any(axis=0) & ~flags.all(axis=0)).tolist():
        result = detect(np.asarray(values[:, column], dtype=np.float64), flags[:, column], once)
        found[:, column] = result.average_precision[0], result.auroc[0]
    return found[0], found[1]
