"""Texts from a file or a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from influx.datasets.settings import check_choice, check_sizes, looked_up
from influx.datasets.text_files import read_texts
from influx.datasets.texts import TASKS, text_data
from influx.datasets.tokens import TokenSettings
from influx.errors import ConfigError, DataError
from influx.problem import Data


@dataclass(frozen=True, kw_only=True)
class Text:
    """Texts with a label each, as rows of token ids.

    ``path`` is a UTF-8 file with a header, ``.csv`` or ``.tsv``, with the columns ``text`` and ``label``; ``.jsonl``,
    one object per line with these keys; or a folder of ``.txt`` files, the label being the name of the folder that a
    file is in, split beforehand where there are ``train`` and ``test`` below. ``task=language`` is for models of the
    texts themselves; then ``label`` may be null. x is (n, length) int64: padding is 0, and texts are cut at ``length``.
    Hidden files and folders are left out, links out of the folder and texts above 1,048,576 characters are refused.

    ``tokenizer`` is trained on the training texts alone: ``word`` (words and marks, those outside the ``vocabulary``
    most frequent being unknown, id 1) or ``bpe`` (pieces of words, Sennrich et al. 2016); every text begins with id 2.
    Or it is the path of a ``tokenizer.json`` of the tokenizers library, or its folder, which is used as it is.
    """

    path: str | None = None
    text: str = "text"
    label: str | None = "label"
    task: str = "classification"
    n_train: int | None = None
    n_test: int | None = None
    test_fraction: float = 0.2
    tokenizer: str = "word"
    vocabulary: int = 2000
    length: int = 64
    lowercase: bool = True

    def __post_init__(self) -> None:
        """Check the settings."""
        check_sizes(self.n_train, self.n_test, self.test_fraction)
        check_choice("dataset.task", self.task, TASKS)
        if self.label is None and self.task == "classification":
            raise ConfigError(
                "dataset.label must name the column or key of the labels, got null; name it or set "
                "dataset.task=language"
            )
        self._tokens()

    def load(self, seed: int) -> Data:
        """The texts, split by ``seed``."""
        path = self._path()
        found = read_texts(path, str(self.text), None if self.label is None else str(self.label))
        return text_data(
            found.texts,
            found.labels,
            self._tokens(),
            name=path.stem,
            where=path.name,
            task=self.task,
            n_train=self.n_train,
            n_test=self.n_test,
            test_fraction=self.test_fraction,
            seed=seed,
            n_given=found.n_train,
        )

    def _path(self) -> Path:
        if self.path is None or not str(self.path).strip():
            raise ConfigError("no file or folder of texts was named; set dataset.path=...")
        path = looked_up(self.path, "file or folder")
        if not path.exists():
            raise DataError(f"{path} does not exist; set dataset.path to an existing file or folder")
        return path.resolve()  # a name even for "."

    def _tokens(self) -> TokenSettings:
        return TokenSettings(
            tokenizer=self.tokenizer, vocabulary=self.vocabulary, length=self.length, lowercase=self.lowercase
        )
