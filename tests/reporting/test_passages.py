"""Texts in the report and on the terminal: shared words are marked, and nothing in a text is more than text."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from influx.errors import DataError
from influx.reporting import html, passages, tables
from influx.reporting.record import RunRecord
from influx.vocabulary import BOUNDARY, as_bytes, bounded, pieces, spelled
from tests.reporting.test_html import parsed

VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "cat", "dog", "<script>alert(1)</script>", ".")
EVIL = "<script>alert(1)</script>"
MAKE = Callable[..., RunRecord]


def display(n_train: int = 40, n_test: int = 12) -> dict[str, Any]:
    """Training texts in turn share the cat, the script or nothing but a full stop with every test text."""
    texts = [("Cat .", [2, 3, 6]), (f"{EVIL} .", [2, 5, 6]), ("dog bird .", [2, 4, 1, 6])]
    spans = [[(0, 0), (0, 3), (4, 5)], [(0, 0), (0, len(EVIL)), (len(EVIL) + 1, len(EVIL) + 2)]]
    spans.append([(0, 0), (0, 3), (4, 8), (9, 10)])
    rows = {"train": [i % 3 for i in range(n_train)]}
    own = f'the cat "{EVIL}" bird .'
    own_spans = [(0, 0), (4, 7), (9, 9 + len(EVIL)), (len(own) - 6, len(own) - 2), (len(own) - 1, len(own))]
    shown = {
        "train": as_bytes([bounded(texts[i][0], spans[i]) for i in rows["train"]]),
        "test": as_bytes([bounded(own, own_spans)] * n_test),
    }
    tokens = {"train": np.zeros((n_train, 5), np.int64), "test": np.zeros((n_test, 5), np.int64)}
    for row, i in enumerate(rows["train"]):
        tokens["train"][row, : len(texts[i][1])] = texts[i][1]
    tokens["test"][:] = [2, 3, 5, 1, 6]
    return passages.arrays(shown, tokens, (0, 1, 2))


def texts_of(record: RunRecord) -> Path:
    return record.folder.parent.parent / "problems" / "abc123" / "display.npz"


@pytest.fixture
def record(make_run: MAKE) -> RunRecord:
    made = make_run("texts", images=False)
    np.savez(texts_of(made), **display())
    return RunRecord.load(made.folder)


def test_bounded_texts_come_apart_again() -> None:
    text = "A  b" + BOUNDARY + "c\n d" + "x" * 100
    found, between = pieces(bounded(text, [(0, 0), (0, 1), (3, 4), (8, 109)], cut=True))
    assert found == ["", "A", "b", "d" + "x" * 46 + "…"]
    assert between == ["", "", " ", " c ", " …"]


def test_spelled_texts_have_a_piece_for_every_token() -> None:
    x = np.array([[2, 3, 1, 6, 0], [2, 9, 0, 0, 0]])
    shown = [pieces(text.decode())[0] for text in spelled(x, VOCABULARY)]
    assert shown == [["", "cat", "[UNK]", "."], ["", "9"]]


def test_words_in_common_are_marked_and_marks_of_punctuation_and_unknown_words_are_not(record: RunRecord) -> None:
    assert record.passages is not None and record.images == {}
    own = record.passages.passage("test", 0)
    assert own.words == {3, 5}
    marked = [[t for t, mark in record.passages.passage("train", i).marked(own.words) if mark] for i in range(3)]
    assert marked == [["Cat"], [EVIL], []]


def test_pieces_of_a_word_are_marked_together() -> None:
    passage = passages.Passage((("", None), ("un", 7), ("", None), ("do", 8), (" ", None), ("it", 9)))
    assert list(passage.marked(frozenset({7, 8}))) == [("undo", True), (" it", False)]


def test_scripts_in_texts_stay_text(record: RunRecord) -> None:
    found = parsed(html.page([record]))
    assert len(found.all("script")) == 1 and found.all("mark")
    assert EVIL in found.texts and not found.all("img")
    assert not [a for _, attributes in found.tags for a in attributes if a.startswith("on")]
    assert any("Words that are in the test text too are underlined." in text for text in found.texts)


def test_the_terminal_shows_texts_with_shared_words_between_signs(record: RunRecord) -> None:
    file = io.StringIO()
    Console(file=file, width=100).print(tables.neighbours(record, 500, 6))
    shown = file.getvalue()
    assert "*Cat*" in shown and "*dog*" not in shown and "*.*" not in shown and "the cat" in shown


def test_signs_that_reorder_or_control_a_line_are_not_printed(record: RunRecord) -> None:
    evil = display()
    evil["test"] = as_bytes([bounded("a\u202eb \x1b[31m c", [(0, 0), (0, 3)])] * 12)
    np.savez(texts_of(record), **evil)
    again = RunRecord.load(record.folder)
    page = html.page([again])
    assert "\u202e" not in page and "\x1b" not in page


def test_texts_whose_tokens_are_not_theirs_are_shown_unmarked(record: RunRecord) -> None:
    changed = display()
    changed["train_tokens"][:, 1:] = 0
    np.savez(texts_of(record), **changed)
    again = RunRecord.load(record.folder)
    assert "<mark>" not in html.page([again]) and "Cat" in html.page([again])


@pytest.mark.parametrize("damage", ["rows", "kind", "missing", "special", "bytes"])
def test_damaged_texts_end_in_one_sentence(damage: str, record: RunRecord) -> None:
    arrays = display()
    if damage == "rows":
        arrays["train"] = arrays["train"][:-1]
    elif damage == "kind":
        arrays["test_tokens"] = arrays["test_tokens"].astype(float)
    elif damage == "missing":
        del arrays["test"]
    elif damage == "special":
        arrays["special"] = np.zeros((2, 2))
    np.savez(texts_of(record), **arrays)
    if damage == "bytes":
        content = texts_of(record).read_bytes()
        texts_of(record).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"display\.npz") as caught:
        _ = RunRecord.load(record.folder).passages
    assert "\n" not in str(caught.value)
