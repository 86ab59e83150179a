"""Which words make influence, where the estimator tells: its table ``words``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from influx.reporting import reading
from influx.reporting import text as words
from influx.reporting.markup import Markup, escaped, tag, text
from influx.reporting.record import RunRecord
from influx.reporting.sections import details, table

if TYPE_CHECKING:
    import pandas as pd

TABLE = "words"
COLUMNS = ("test_id", "train_id", "side", "word", "contribution")
TESTS = 6  # test instances on the page
WORDS = 8  # of a pair
NOTE = "Influence of a pair word by word: what each word that both texts contain adds, the largest first."


def section(record: RunRecord) -> Markup:
    """The strongest pairs of some test instances, word by word, or nothing."""
    ends = record.tables.get(TABLE)
    if ends is None or not set(COLUMNS) <= set(map(str, ends.frame.columns)) or not ends.rows:
        return Markup("")
    found = reading.read_parquet(record.folder / f"{TABLE}.parquet", COLUMNS)
    tests = list(dict.fromkeys(found["test_id"].tolist()))[:TESTS]
    parts = [_test(record, int(test), found[found["test_id"] == test]) for test in tests]
    return tag("section", text("h2", "Influence by words"), text("p", NOTE, class_="lead"), *parts)


def _test(record: RunRecord, test: int, found: pd.DataFrame) -> Markup:
    rows = []
    for _, pair in found.groupby(["train_id", "side"], sort=False):
        train, side = int(pair["train_id"].iloc[0]), str(pair["side"].iloc[0])
        rest = pair["contribution"].iloc[WORDS:]
        shown = [
            f"{words.clean(word)} {words.signed(float(value))}"
            for word, value in zip(pair["word"][:WORDS], pair["contribution"][:WORDS], strict=True)
        ]
        shown += [f"{len(rest)} others {words.signed(float(rest.sum()))}"] if len(rest) else []
        cells = (
            text("td", words.clean(record.label("train", train))),
            text("td", side),
            text("td", words.signed(float(pair["contribution"].sum())), class_="number"),
            tag("td", Markup(" · ".join(escaped(part) for part in shown))),
        )
        rows.append(tag("tr", text("th", train, scope="row"), *cells))
    headings = [("train id", ""), ("label", ""), ("side", ""), ("influence", "number"), ("words", "")]
    label = words.clean(record.label("test", test))
    caption = f"Test instance {test}, label {label}"
    return details(caption, table(caption, headings, rows))
