"""Generated samples on the page, each with its strongest proponents and opponents, as images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from influx.errors import DataError
from influx.reporting import reading
from influx.reporting import text as words
from influx.reporting.instances import HEADINGS, strip
from influx.reporting.markup import Markup, tag, text
from influx.reporting.png import data_uri
from influx.reporting.record import Neighbour, RunRecord

if TYPE_CHECKING:
    import pandas as pd

TABLE, IMAGES = "generated", "generated_images"  # of the metric of that name
COLUMNS = ("estimator", "sample", "label", "nearest_id", "nearest_distance", "role", "rank", "train_id", "influence")
PICTURE = ("estimator", "sample", "channels", "height", "width", "pixels")
SHOWN = 12


def section(record: RunRecord, names: list[str]) -> Markup | None:
    """The first samples with what the run's own estimator says of them; None where the data are no images.

    ``names`` are those of the metrics' tables.

    Raises:
        DataError: a table is damaged.
    """
    if TABLE not in names or IMAGES not in names or not record.images:
        return None
    path = record.folder / f"metric_{TABLE}.parquet"
    table, pictures = reading.read_parquet(path, COLUMNS), _pictures(record)
    own = table[table["estimator"] == record.estimator]
    if not set(own["train_id"]) | set(own["nearest_id"]) <= set(record.train["id"]):
        raise DataError(
            f"{path} names ids that ids.parquet does not hold; delete it and run the command of the run again"
        )
    shown = [sample for sample in sorted(own["sample"].unique().tolist()) if sample in pictures][:SHOWN]
    if not shown:
        return None
    lead = (
        f"{len(shown)} of {own['sample'].nunique()} samples. Proponents are training instances that lower the sample's "
        "risk, without which the model would find it less likely; the nearest training instance is beside it."
    )
    blocks = [_sample(record, own[own["sample"] == sample], pictures[sample]) for sample in shown]
    return tag("div", text("h3", "Generated samples"), text("p", lead, class_="lead"), *blocks)


def _sample(record: RunRecord, rows: pd.DataFrame, picture: NDArray[np.uint8]) -> Markup:
    first = rows.iloc[0]
    label, number, nearest = words.clean(str(first["label"])), int(first["sample"]), int(first["nearest_id"])
    its = words.clean(record.label("train", nearest))
    near = record.images["train"][int(record.positions["train"][nearest])]
    beside = f"nearest: id {nearest}, label {its}, {float(first['nearest_distance']):.2f} away"
    figures = [
        _figure(picture, f"generated sample {number}, label {label}", "generated"),
        _figure(near, f"nearest training instance {nearest}, label {its}", beside),
    ]
    sides = []
    for role, heading in HEADINGS.items():
        mine = rows[rows["role"] == role].sort_values("rank")
        found = [
            Neighbour(
                rank=int(rank),
                train_id=int(train_id),
                position=int(record.positions["train"][int(train_id)]),
                label=record.label("train", int(train_id)),
                influence=float(value),
                truth=np.nan,
            )
            for rank, train_id, value in zip(mine["rank"], mine["train_id"], mine["influence"], strict=True)
            if np.isfinite(value)
        ]
        sides.append(tag("div", text("p", heading, class_="side"), strip(record, found)))
    body = tag("div", tag("figure", *figures), tag("div", *sides, class_="sides"), class_="shown")
    return tag("div", text("h4", f"Sample {number}, label {label}"), body, class_="instance")


def _figure(image: NDArray[Any], alt: str, caption: str) -> Markup:
    return tag("figure", tag("img", src=data_uri(image), alt=alt), text("figcaption", caption))


def _pictures(record: RunRecord) -> dict[int, NDArray[np.uint8]]:
    """Images ``(c, h, w)`` by sample, of the run's own estimator."""
    path = record.folder / f"metric_{IMAGES}.parquet"
    table = reading.read_parquet(path, PICTURE)
    own = table[table["estimator"] == record.estimator]
    with reading.reading(path):
        found = {}
        for _, sample, *shape, pixels in own[list(PICTURE)].head(SHOWN).itertuples(index=False):
            found[int(sample)] = np.frombuffer(pixels, np.uint8).reshape([int(side) for side in shape])
    return found
