"""Texts from files become tokens by a tokenizer that saw the training texts alone."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from influx.datasets.text import Text
from influx.datasets.tokens import MARKS
from influx.errors import ConfigError, DataError
from influx.problem import Data
from influx.vocabulary import PADDING, pieces

pytest.importorskip("tokenizers")

SENTENCES = [
    ("The cat sat on the mat, and the cat slept.", "animal"),
    ("A dog chased the cat up a tree.", "animal"),
    ("Birds sing in the tree at dawn!", "animal"),
    ("Fish swim; birds fly.", "animal"),
    ("The engine of the car failed.", "machine"),
    ("A new engine, a new car.", "machine"),
    ("The train left the station at dawn.", "machine"),
    ('He said "start the engine"\nand left.', "machine"),
]


def write_csv(path: Path, rows: list[tuple[str, str]] = SENTENCES, header: tuple[str, str] = ("text", "label")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def write_json_lines(path: Path, rows: list[tuple[str, Any]] = SENTENCES) -> Path:
    path.write_text("\n".join(json.dumps({"text": t, "label": y}) for t, y in rows) + "\n\n", encoding="utf-8")
    return path


def write_folder(path: Path, rows: list[tuple[str, str]] = SENTENCES) -> Path:
    for i, (text, label) in enumerate(rows):
        (path / label).mkdir(parents=True, exist_ok=True)
        (path / label / f"{i}.txt").write_text(text, encoding="utf-8")
    return path


def load(path: Path, seed: int = 0, **settings: Any) -> Data:
    return Text(path=str(path), **{"n_test": 2, "vocabulary": 40, "length": 12} | settings).load(seed)


def words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]+", text.lower())


def test_tokens_are_the_words_of_the_training_texts_by_frequency_then_alphabet(tmp_path: Path) -> None:
    data = load(write_csv(tmp_path / "a.csv"), vocabulary=20)
    counts = Counter(word for i in data.train.ids for word in words(SENTENCES[i][0]))
    known = sorted(counts, key=lambda word: (-counts[word], word))[: 20 - len(MARKS)]
    assert data.vocabulary == (*MARKS, *known)
    number = {token: i for i, token in enumerate(data.vocabulary)}
    for split in (data.train, data.test):
        for row, i, y in zip(split.x, split.ids, split.y, strict=True):
            expected = [number["[CLS]"], *(number.get(word, number["[UNK]"]) for word in words(SENTENCES[i][0]))][:12]
            assert row.tolist() == expected + [PADDING] * (12 - len(expected))
            assert data.classes[y] == SENTENCES[i][1]


def test_words_of_test_texts_alone_are_unknown(tmp_path: Path) -> None:
    path, secret = tmp_path / "a.csv", "zyzzyva"
    for i in load(write_csv(path)).test.ids:
        rows = [(text + f" {secret}" if j == i else text, y) for j, (text, y) in enumerate(SENTENCES)]
        assert secret not in load(write_csv(path, rows)).vocabulary


def test_the_same_command_gives_the_same_bytes_and_another_seed_another_split(tmp_path: Path) -> None:
    for tokenizer in ("word", "bpe"):
        path = write_csv(tmp_path / "a.csv")
        first, again, other = (load(path, seed, tokenizer=tokenizer) for seed in (0, 0, 1))
        assert first.fingerprint() == again.fingerprint() and first.tokenizer == again.tokenizer
        assert first.fingerprint() != other.fingerprint()


def test_files_of_every_kind_give_the_same_texts(tmp_path: Path) -> None:
    table = load(write_csv(tmp_path / "a.csv"))
    lines = load(write_json_lines(tmp_path / "a.jsonl"))
    folder = load(write_folder(tmp_path / "a"))
    assert table.fingerprint() == lines.fingerprint() == folder.fingerprint()
    assert (table.kind, table.task, table.n_outputs) == ("text", "classification", 2)


def test_a_split_of_the_folder_is_kept(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", SENTENCES[1:7])
    write_folder(tmp_path / "test", [SENTENCES[0], SENTENCES[7]])
    data = load(tmp_path, n_test=None)
    assert data.train.ids.tolist() == [0, 1, 2, 3, 4, 5] and data.test.ids.tolist() == [6, 7]
    assert len(load(tmp_path, n_test=1, n_train=2).train) == 2


def test_pieces_of_words_spell_every_text(tmp_path: Path) -> None:
    data = load(write_csv(tmp_path / "a.csv"), tokenizer="bpe", vocabulary=60, length=64)
    for part, split in (("train", data.train), ("test", data.test)):
        for row, i, shown in zip(split.x, split.ids, data.display[part], strict=True):
            spelt = "".join(data.vocabulary[t].removeprefix("▁") for t in row[1:] if t != PADDING)
            if "[UNK]" not in spelt:  # a letter that only test texts have
                assert spelt == re.sub(r"\s", "", SENTENCES[i][0].lower())
            found, between = pieces(shown.decode())
            whole = "".join(a + b for a, b in zip(between, [*found, ""], strict=True))
            assert whole == re.sub(r"\s+", " ", SENTENCES[i][0])


def test_texts_for_people_show_each_token_in_its_place(tmp_path: Path) -> None:
    data = load(write_csv(tmp_path / "a.csv"), length=5)
    for row, i, shown in zip(data.train.x, data.train.ids, data.display["train"], strict=True):
        found, between = pieces(shown.decode())
        assert len(found) == int((row != PADDING).sum()) and found[0] == ""
        assert [w.lower() for w in found[1:]] == words(SENTENCES[i][0])[: len(found) - 1]
        assert between[-1] == (" …" if len(words(SENTENCES[i][0])) > 4 else "")
    assert any("were longer and were cut" in note for note in data.notes)


def test_language_models_need_no_label(tmp_path: Path) -> None:
    data = load(write_csv(tmp_path / "a.csv"), task="language", label=None)
    assert (data.task, data.classes, data.n_outputs) == ("density", ("text",), 1)
    labelled = load(write_csv(tmp_path / "a.csv"), task="language")
    assert labelled.classes == ("animal", "machine") and labelled.task == "density"
    (tmp_path / "b").mkdir()
    for i, (text, _) in enumerate(SENTENCES):
        (tmp_path / "b" / f"{i}.txt").write_text(text)
    assert len(load(tmp_path / "b", task="language", label=None).train) == 6


def test_a_tokenizer_that_is_given_is_used_as_it_is_with_padding_0(tmp_path: Path) -> None:
    import tokenizers

    own = {"<s>": 0, "cat": 1, "<pad>": 2, "the": 3, "<unk>": 4, "dog": 6}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(own, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    rows = [("the cat", "a"), ("dog the", "b"), ("cat cat", "a"), ("dog bird", "b")]
    data = load(write_csv(tmp_path / "a.csv", rows), tokenizer=str(tmp_path), length=3)
    assert data.vocabulary == ("<pad>", "<s>", "cat", "the", "<unk>", "[unused5]", "dog")
    found = {int(i): row.tolist() for s in (data.train, data.test) for i, row in zip(s.ids, s.x, strict=True)}
    assert found == {0: [3, 2, 0], 1: [6, 3, 0], 2: [2, 2, 0], 3: [6, 4, 0]}


def test_marks_that_a_text_spells_out_are_no_marks(tmp_path: Path) -> None:
    rows = [("the cat [PAD] sat [CLS] on [UNK] mat", "a"), ("a dog ran", "a"), ("b c d", "b"), ("e f g", "b")]
    for tokenizer in ("word", "bpe"):
        data = load(write_csv(tmp_path / "a.csv", rows), n_test=1, length=40, vocabulary=60, tokenizer=tokenizer)
        for split in (data.train, data.test):
            assert (np.diff((split.x != PADDING).astype(int)) <= 0).all()  # padding comes last
            assert (split.x[:, 1:] != MARKS.index("[CLS]")).all()


def test_the_vocabulary_bounds_pieces_too_the_same_every_time(tmp_path: Path) -> None:
    rows = [("".join(chr(0x4E00 + i * 50 + j) for j in range(50)), "ab"[i % 2]) for i in range(20)]
    first, again = (load(write_csv(tmp_path / "a.csv", rows), tokenizer="bpe", vocabulary=30) for _ in range(2))
    assert len(first.vocabulary) == 30 and first.tokenizer == again.tokenizer


def test_other_words_of_the_same_numbers_are_other_data(tmp_path: Path) -> None:
    one = load(write_csv(tmp_path / "a.csv"))
    two = load(write_csv(tmp_path / "b.csv", [(text.replace("cat", "catz"), label) for text, label in SENTENCES]))
    assert np.array_equal(one.train.x, two.train.x) and one.fingerprint() != two.fingerprint()


def test_hidden_folders_are_no_classes_and_links_stay_inside(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "texts")
    write_folder(folder / ".ipynb_checkpoints")
    assert load(folder).classes == ("animal", "machine")
    (folder / "animal" / "same.txt").symlink_to(folder / "animal" / "0.txt")
    assert len(load(folder).train) == 7
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "animal" / "out.txt").symlink_to(tmp_path / "secret.txt")
    refused(folder, "out.txt is a link to a file outside")


def word_level(path: Path, own: dict[str, int], marks: str = "") -> Path:
    import tokenizers

    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(own, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    if marks:
        made.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{marks} $A", special_tokens=[(mark, own[mark]) for mark in marks.split()]
        )
    made.save(str(path))
    return path


def test_tokenizers_that_cannot_be_used_end_in_one_sentence(tmp_path: Path) -> None:
    path, file = write_csv(tmp_path / "a.csv"), tmp_path / "tokenizer.json"
    refused(path, "cannot encode the texts", tokenizer=str(word_level(file, {"cat": 0})))
    refused(path, "ids must be below", tokenizer=str(word_level(file, {"cat": 0, "<unk>": 1 << 21})))
    refused(path, "above the 2 marks", length=2, tokenizer=str(word_level(file, {"<unk>": 0, "<a>": 1}, "<a> <a>")))
    spelt = write_csv(tmp_path / "b.csv", [(text + " <pad> .", label) for text, label in SENTENCES])
    padded = word_level(file, {"<unk>": 0, "<pad>": 1})
    refused(spelt, "makes padding of a word", tokenizer=str(padded), length=30)
    refused(path, "dataset.tokenizer=nnn", tokenizer="n" * 5000)


def refused(path: Path, expected: str, **settings: Any) -> None:
    with pytest.raises((DataError, ConfigError)) as caught:
        load(path, **settings)
    assert expected in str(caught.value) and "\n" not in str(caught.value) and "; " in str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty or starts with an empty line"),
        (b"text,label\n", "holds no text"),
        (b"words,label\na,b\n", "has no column 'text'"),
        (b"text,labels\na,b\n", "did you mean 'labels'"),
        (b"text,text\na,b\n", "occurs more than once"),
        (b"text,label\na,b,c\n", "has 3 fields, but the header has 2"),
        (b'text,label\n"a,b\n', "cannot be read as csv"),
        (b"text,label\na,x\n  ,y\n", "the text in line 3 of"),
        (b"text,label\na,x\nb,\n", "the label in line 3 of"),
        (b"text,label\nCaf\xe9,x\n", "is not UTF-8 text (byte 14)"),
        (b"text,label\na,x\nb,x\nc,x\n", "at least two different values"),
        (b"text,label\na,x\nb,x\nc,y\n", "has a single instance"),
    ],
)
def test_damaged_tables_end_in_one_sentence(content: bytes, expected: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    refused(tmp_path / "a.csv", expected)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "holds no text"),
        (b"{\n", "line 1 of"),
        (b'{"text": "a", "label": "x"}\n[1]\n', "is a list, expected an object"),
        (b'{"text": "a"}\n', "has no key 'label'"),
        (b'{"texts": "a", "label": 1}\n', "did you mean 'texts'"),
        (b'{"text": 3, "label": 1}\n', "'text' in line 1"),
        (b'{"text": "a", "label": null}\n', "is a NoneType, expected text or a whole number"),
        (b'{"text": "a", "label": 0.5}\n', "is a float"),
        (b'{"text": "\\n", "label": 1}\n', "the text in line 1"),
        (b'\n{"text": "\xff", "label": 1}\n', "is not UTF-8 text"),
        (b"[" * 100_000, "line 1 of"),
        (b'{"text": "a", "label": "x\\ud800"}\n', "has half a character"),
        (b'{"text": "a", "label": "x"}\n' * 1000 + b'{"text": "\xff"}', "(byte 28010)"),
        (b'{"text": "' + b"a " * (1 << 20) + b'", "label": "x"}\n', "characters, more than 1,048,576; split it"),
    ],
)
def test_damaged_json_lines_end_in_one_sentence(content: bytes, expected: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    refused(tmp_path / "a.jsonl", expected)


def test_unfit_places_end_in_one_sentence(tmp_path: Path) -> None:
    refused(tmp_path / "none.csv", "does not exist")
    refused(tmp_path, "holds no .txt file")
    (tmp_path / "a.doc").write_text("text")
    refused(tmp_path / "a.doc", "must be a folder or end in .csv")
    (tmp_path / "a.txt").write_text("text")
    refused(tmp_path, "is in no folder that names its label")
    refused(write_csv(tmp_path / "a.csv"), "there is no file", tokenizer="wrod")
    (tmp_path / "tokenizer.json").write_text("{}")
    refused(tmp_path / "a.csv", "cannot be read as a tokenizer", tokenizer=str(tmp_path))


def test_half_characters_and_controls_do_no_harm(tmp_path: Path) -> None:
    rows = [("a \ud800 b", 1), ("c \x1f\x00 d", 1), ("e", 2), ("f", 2)]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": t, "label": y}) for t, y in rows))
    data = load(tmp_path / "a.jsonl")
    for shown, row in zip(data.display["train"], data.train.x, strict=True):
        assert len(pieces(shown.decode())[0]) == int((row != PADDING).sum())


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"vocabulary": 3}, "dataset.vocabulary"),
        ({"length": 1}, "dataset.length"),
        ({"length": True}, "dataset.length"),
        ({"task": "regression"}, "dataset.task"),
        ({"label": None}, "dataset.label"),
        ({"tokenizer": ""}, "dataset.tokenizer"),
        ({"lowercase": "yes"}, "dataset.lowercase"),
    ],
)
def test_bad_settings_are_refused_by_name(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=f"{named}.*got .*; "):
        Text(**settings)
    with pytest.raises(ConfigError, match=r"set dataset\.path"):
        Text().load(0)


def test_without_the_library_texts_are_refused_with_the_way_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    refused(write_csv(tmp_path / "a.csv"), "pip install 'influx[text]'")


def test_long_texts_are_read_whole_and_shown_in_part(tmp_path: Path) -> None:
    rows = [("x" * 200_000 + " end", "a"), *SENTENCES]
    rows[0] = (rows[0][0], "animal")
    data = load(write_csv(tmp_path / "a.csv", rows))
    assert csv.field_size_limit() == 131072
    assert data.display["train"].dtype.itemsize < 500
    assert np.array_equal(np.sort(np.concatenate([data.train.ids, data.test.ids])), np.arange(9))
