"""Texts and labels from files: CSV, JSON lines, or folders of plain text."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from influx.datasets.table import refuse_repeated
from influx.errors import DataError, did_you_mean

SEPARATORS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson")
LONGEST = 1 << 20  # characters of a text, most of a book: to make tokens of one takes 200 bytes each
LONGEST_FIELD = 1 << 27  # of other columns; csv's own limit is lower
SPLITS = ("train", "test")


@dataclass
class Texts:
    """Texts in the order of their ids, with a label each; ``n_train`` where the source has a split of its own."""

    texts: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    n_train: int | None = None

    def add(self, text: str, label: str, where: str) -> None:
        """One more; ``where`` is what messages call it.

        Raises:
            DataError: the text or the label is empty, or the text too long to be one.
        """
        if len(text) > LONGEST:
            raise DataError(f"the text in {where} has {len(text):,} characters, more than {LONGEST:,}; split it")
        if not text.strip():
            raise DataError(f"the text in {where} is empty; write one or remove it")
        if not label.strip():
            raise DataError(
                f"the label in {where} is empty; fill it in, or set dataset.task=language, dataset.label=null"
            )
        self.texts.append(text)
        self.labels.append(label)


def read_texts(path: Path, text: str, label: str | None) -> Texts:
    """Whatever ``path`` is, by its ending; without a ``label`` all texts have the same.

    Args:
        path: an existing file or folder.
        text: column or key of the texts.
        label: column or key of the labels; a folder's are the names of the folders that hold the files.

    Raises:
        DataError: the file is of another kind, damaged, or has an empty or missing value; it is named with its place.
    """
    if path.is_dir():
        found = _folder(path, label is not None)
    elif path.suffix.lower() in SEPARATORS:
        found = _csv(path, SEPARATORS[path.suffix.lower()], text, label)
    elif path.suffix.lower() in JSON_LINES:
        found = _json_lines(path, text, label)
    else:
        endings = ", ".join((*SEPARATORS, *JSON_LINES))
        raise DataError(f"dataset.path must be a folder or end in {endings}, got {path}; rename or convert the file")
    if not found.texts:
        raise DataError(f"{path} holds no text; provide some")
    return found


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {_byte(path)}); save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the file") from error


def _byte(path: Path) -> int:
    """Where a file stops being UTF-8; a decoder knows the place in its own buffer alone."""
    at = 0
    with path.open("rb") as file:
        for line in file:
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return at + error.start
            at += len(line)
    return at


def _csv(path: Path, separator: str, text: str, label: str | None) -> Texts:
    found, before = Texts(), csv.field_size_limit(LONGEST_FIELD)
    try:
        with _decoding(path), path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file, delimiter=separator, strict=True)
            header = next(lines, [])
            if not header:
                raise DataError(f"{path} is empty or starts with an empty line; provide a header line and data")
            refuse_repeated(header, path.name)
            at = [
                _column(header, name, key, path) for name, key in (("text", text), ("label", label)) if key is not None
            ]
            for fields in lines:
                where = f"line {lines.line_num} of {path}"
                if fields and len(fields) != len(header):
                    raise DataError(f"{where} has {len(fields)} fields, but the header has {len(header)}; correct it")
                if fields:
                    found.add(fields[at[0]], fields[at[1]] if label is not None else "text", where)
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as csv ({error}); correct the file") from error
    finally:
        csv.field_size_limit(before)
    return found


def _column(header: list[str], setting: str, name: str, path: Path) -> int:
    if name not in header:
        hint = did_you_mean(name, header)
        shown = ", ".join(header[:10]) + (", ..." if len(header) > 10 else "")
        raise DataError(
            f"{path} has no column {name!r}{hint}; set dataset.{setting} to one of: {shown}{_else(setting)}"
        )
    return header.index(name)


def _else(setting: str) -> str:
    return ", or dataset.task=language and dataset.label=null" if setting == "label" else ""


def _json_lines(path: Path, text: str, label: str | None) -> Texts:
    found = Texts()
    with _decoding(path), path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"line {number} of {path}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where} is not JSON ({error}); write one object per line") from error
            if not isinstance(row, dict):
                raise DataError(
                    f"{where} is a {type(row).__name__}, expected an object with the key {text!r}; correct it"
                )
            content = _value(row, "text", text, where)
            if not isinstance(content, str):
                raise DataError(f"{text!r} in {where} is a {type(content).__name__}, expected text; correct it")
            named = "text" if label is None else _value(row, "label", label, where)
            if isinstance(named, bool) or not isinstance(named, str | int):
                raise DataError(
                    f"{label!r} in {where} is a {type(named).__name__}, expected text or a whole number; correct it"
                )
            if str(named).encode("utf-8", "replace").decode() != str(named):
                raise DataError(f"{label!r} in {where} has half a character ({named!r}); correct it")
            found.add(content.encode("utf-8", "replace").decode(), str(named), where)  # JSON allows half characters
    return found


def _value(row: dict[str, object], setting: str, key: str, where: str) -> object:
    if key not in row:
        hint = did_you_mean(key, row)
        shown = ", ".join(map(repr, list(row)[:10])) or "none"
        raise DataError(
            f"{where} has no key {key!r}{hint}; set dataset.{setting} to one of its keys: {shown}{_else(setting)}"
        )
    return row[key]


def _folder(root: Path, labelled: bool) -> Texts:
    """All ``*.txt`` below ``root``, the hidden ones apart; of ``root/train`` and then ``root/test`` if both are there.

    Raises:
        DataError: a link leads out of ``root``, a file is too long, empty, no text, or has no label.
    """
    whole = root.resolve()
    given = all((root / part).is_dir() for part in SPLITS)
    found = Texts()
    for start in [root / part for part in SPLITS] if given else [root]:
        found_here = (p for p in start.rglob("*.txt") if p.is_file())
        files = sorted(p for p in found_here if not any(n.startswith(".") for n in p.relative_to(start).parts))
        if not files:
            raise DataError(f"{start} holds no .txt file; add some or set dataset.path to another folder")
        for file in files:
            if labelled and file.parent == start:
                raise DataError(
                    f"{file} is in no folder that names its label; move it into one, or set dataset.task=language and "
                    "dataset.label=null"
                )
            if not file.resolve().is_relative_to(whole):
                raise DataError(f"{file} is a link to a file outside {root}; copy the file there or remove the link")
            if file.stat().st_size > 4 * LONGEST:  # at most 4 bytes per character
                raise DataError(f"{file} has more than {LONGEST:,} characters; split it")
            with _decoding(file):
                found.add(file.read_text(encoding="utf-8-sig"), file.parent.name if labelled else "text", str(file))
        if given and start.name == SPLITS[0]:
            found.n_train = len(found.texts)
    return found
