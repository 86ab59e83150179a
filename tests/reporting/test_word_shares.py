"""Influence by words on the page: the largest first, the rest summed, and no word is more than text."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from influx.reporting import html, word_shares
from influx.reporting.record import RunRecord

EVIL = "<script>alert(1)</script>"


def saved(folder: Path, table: pd.DataFrame) -> RunRecord:
    table.to_parquet(folder / "words.parquet")
    (folder / "estimate.json").write_text(json.dumps({"tables": ["words"]}))
    return RunRecord.load(folder)


@pytest.fixture
def words() -> pd.DataFrame:
    first = [(500, 103, "proponent", i, f"word{i}", 1.0 / (i + 1)) for i in range(10)]
    second = [(500, 104, "opponent", 3, EVIL, -0.5), (501, 100, "proponent", 4, "cat", 0.25)]
    return pd.DataFrame(
        [*first, *second], columns=["test_id", "train_id", "side", "token", "word", "contribution"]
    ).astype({"test_id": "int64"})


def test_pairs_are_shown_word_by_word_and_escaped(folder: Path, words: pd.DataFrame) -> None:
    shown = str(word_shares.section(saved(folder, words)))
    assert "word0 +1.00 · word1 +0.500" in shown and "word7 +0.125" in shown and "word8" not in shown
    assert f"2 others {1 / 9 + 1 / 10:+.3f}" in shown
    assert EVIL not in shown and "&lt;script&gt;alert(1)&lt;/script&gt; -0.500" in shown
    assert shown.index("Test instance 500") < shown.index("Test instance 501")


def test_it_is_part_of_the_page(folder: Path, words: pd.DataFrame) -> None:
    record = saved(folder, words)
    assert "Influence by words" in html.page([record])


def test_other_tables_of_that_name_are_left_to_the_others(folder: Path, record: RunRecord) -> None:
    assert str(word_shares.section(record)) == ""
    other = pd.DataFrame({"word": ["a"], "count": [1]})
    assert str(word_shares.section(saved(folder, other))) == ""
