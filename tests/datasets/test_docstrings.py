"""Docstrings of a library: parsed and not run, in a fixed order, by top-level module."""

from __future__ import annotations

from pathlib import Path

import pytest

from influx.datasets import docstrings
from influx.datasets.docstrings import Docstrings, chosen
from influx.errors import ConfigError, DataError

FILES = {
    "alpha.py": '"""Module alpha."""\nraise SystemExit(3)\n\ndef f():\n    "First of alpha."\n'
    + '    class C:\n        """Inner\n        class."""\n',
    "beta/__init__.py": '"""Package beta."""\n',
    "beta/inner.py": "if True:\n    try:\n        async def g():\n            'An async one.'\n"
    + "    except OSError:\n        def h():\n            '''In a handler.'''\n",
    "beta/test/test_it.py": '"""Not this."""\n',
    "test/__init__.py": '"""Nor this."""\n',
    "site-packages/other/__init__.py": '"""Nor that."""\n',
    "notpackage/file.py": '"""Nor a folder that is no package."""\n',
    "broken.py": '"""Unread."""\ndef f(:\n',
    "bytes.py": '"""Bad bytes."""\n',
    "escapes.py": 'x = "\\d"\n"""Not the first."""\n',
}


@pytest.fixture
def library(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (tmp_path / "bytes.py").write_bytes(b'"""Bad \xff bytes."""\n')
    return tmp_path


def test_docstrings_are_found_in_order_without_running_anything(library: Path) -> None:
    assert list(docstrings.docstrings(library)) == [
        ("alpha", "Module alpha."),
        ("alpha", "First of alpha."),
        ("alpha", "Inner\nclass."),
        ("beta", "Package beta."),
        ("beta", "An async one."),
        ("beta", "In a handler."),
    ]


def test_the_modules_with_the_most_docstrings_are_chosen() -> None:
    found = tuple((m, f"{m} says {i} words") for m, n in (("d", 2), ("b", 3), ("a", 2), ("c", 1)) for i in range(n))
    others = (("c", "b says 0 words"), ("c", "short one"), ("c", "short two"))
    texts, labels = chosen((*found, *others), 2, 3)
    assert labels == ["b", "b", "b", "a", "a"]
    assert texts[0] == "b says 0 words" and len(set(texts)) == 5


@pytest.fixture
def as_library(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tokenizers")
    monkeypatch.setattr(docstrings, "library", lambda: tuple(docstrings.docstrings(library)))


@pytest.mark.usefixtures("as_library")
def test_a_dataset_of_them_names_its_modules(tmp_path: Path) -> None:
    data = Docstrings(modules=2, min_words=2, n_train=None, n_test=2, vocabulary=30, length=6).load(0)
    assert data.classes == ("alpha", "beta") and len(data.train) == 4 and data.kind == "text"
    assert "labelled by module: alpha, beta" in data.notes[0]
    assert (
        data.fingerprint()
        == Docstrings(modules=2, min_words=2, n_train=None, n_test=2, vocabulary=30, length=6).load(0).fingerprint()
    )


@pytest.mark.usefixtures("as_library")
def test_too_many_modules_and_bad_settings_are_refused() -> None:
    with pytest.raises(DataError, match=r"dataset\.modules=8 is more than the 2 modules"):
        Docstrings(min_words=2).load(0)
    with pytest.raises(ConfigError, match=r"dataset\.modules must be .*, got 1; "):
        Docstrings(modules=1)
    assert Docstrings(modules=1, task="language").modules == 1


@pytest.mark.slow
def test_the_standard_library_has_enough_of_them() -> None:
    pytest.importorskip("tokenizers")
    data = Docstrings().load(0)
    assert len(data.classes) == 8 and len(data.train) == 400 and len(data.test) == 80
