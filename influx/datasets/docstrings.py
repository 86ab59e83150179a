"""Docstrings of Python's standard library, labelled by their module: texts that every machine has."""

from __future__ import annotations

import ast
import platform
import sysconfig
import tokenize
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from influx.datasets.settings import check_choice, check_count, check_sizes
from influx.datasets.texts import TASKS, text_data
from influx.datasets.tokens import TokenSettings
from influx.errors import ConfigError, DataError
from influx.problem import Data

# tests, programs, data and what is installed beside the library
LEFT_OUT = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "ensurepip", "pydoc_data"}
    | {"__pycache__", "_distutils_hack"}
)
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True, kw_only=True)
class Docstrings:
    """Docstrings of modules, classes and functions of this interpreter's standard library; the label is the module.

    Of top-level modules and packages, the ``modules`` ones with the most docstrings; docstrings of fewer than
    ``min_words`` words are left out, and of equal ones all but the first. Sources are parsed, never imported. An id is
    the position in this order: modules by name, files by path, then lines. Another version of Python has other texts.
    The other settings are those of ``Text``.
    """

    modules: int = 8
    min_words: int = 6
    task: str = "classification"
    n_train: int | None = 400
    n_test: int | None = 80
    test_fraction: float = 0.2
    tokenizer: str = "word"
    vocabulary: int = 1000
    length: int = 48
    lowercase: bool = True

    def __post_init__(self) -> None:
        """Check the settings."""
        check_sizes(self.n_train, self.n_test, self.test_fraction)
        check_choice("dataset.task", self.task, TASKS)
        check_count("dataset.min_words", self.min_words or 0)
        least = 2 if self.task == "classification" else 1
        if not isinstance(self.modules, int) or isinstance(self.modules, bool) or self.modules < least:
            raise ConfigError(
                f"dataset.modules must be a whole number of at least {least}, got {self.modules!r}; "
                "set dataset.modules=8"
            )
        self._tokens()

    def load(self, seed: int) -> Data:
        """The docstrings, split by ``seed``."""
        texts, labels = chosen(library(), self.modules, self.min_words)
        names = sorted(set(labels))
        if len(names) < self.modules:
            raise DataError(
                f"dataset.modules={self.modules} is more than the {len(names)} modules with docstrings of at least "
                f"{self.min_words} words; lower it or dataset.min_words"
            )
        source = f"Docstrings of the standard library of Python {platform.python_version()}"
        return text_data(
            texts,
            labels,
            self._tokens(),
            name="docstrings",
            where="docstrings",
            task=self.task,
            n_train=self.n_train,
            n_test=self.n_test,
            test_fraction=self.test_fraction,
            seed=seed,
            notes=(f"{source}, labelled by module: {', '.join(names)}.",),
        )

    def _tokens(self) -> TokenSettings:
        return TokenSettings(
            tokenizer=self.tokenizer, vocabulary=self.vocabulary, length=self.length, lowercase=self.lowercase
        )


@cache
def library() -> tuple[tuple[str, str], ...]:
    """Module and docstring of everything that this interpreter's standard library documents."""
    return tuple(docstrings(Path(sysconfig.get_path("stdlib"))))


def docstrings(root: Path) -> Iterator[tuple[str, str]]:
    """Module and docstring, of the files below ``root`` in the order of modules, paths and lines."""
    for entry in sorted(root.iterdir(), key=lambda path: path.name):
        if entry.suffix == ".py" and entry.is_file():
            yield from ((entry.stem, text) for text in _of_file(entry))
        elif entry.name not in LEFT_OUT and (entry / "__init__.py").is_file():
            for file in sorted(entry.rglob("*.py")):
                if LEFT_OUT.isdisjoint(file.relative_to(root).parts):
                    yield from ((entry.name, text) for text in _of_file(file))


def _of_file(path: Path) -> Iterator[str]:
    try:
        with tokenize.open(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old ways to write strings
            tree = ast.parse(file.read())
    except (SyntaxError, ValueError, OSError):  # a template, not a program
        return
    for node in _documented(tree):
        text = ast.get_docstring(node)
        if text:
            yield text.encode("utf-8", "replace").decode()


def _documented(node: ast.AST) -> Iterator[Documented]:
    """What may have a docstring, in the order of lines; expressions are not searched."""
    if isinstance(node, DOCUMENTED):
        yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield from _documented(child)


def chosen(found: tuple[tuple[str, str], ...], modules: int, min_words: int) -> tuple[list[str], list[str]]:
    """Texts and their modules, of those ``modules`` with the most long and different docstrings; ties by name."""
    kept: dict[str, str] = {}  # text -> module
    for module, text in found:
        if len(text.split()) >= min_words:
            kept.setdefault(text, module)
    counts = Counter(kept.values())
    most = set(sorted(counts, key=lambda name: (-counts[name], name))[:modules])
    texts = [text for text, module in kept.items() if module in most]
    return texts, [kept[text] for text in texts]
