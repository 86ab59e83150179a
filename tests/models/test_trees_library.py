"""Trees of scikit-learn as they are read, against what the objects that grew them predict themselves."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from influx.engines.forest_reading import read
from influx.errors import IncompatibleError
from influx.store import Folder
from tests.models.test_trees import TASKS, learner, make

TREES = (DecisionTreeClassifier, DecisionTreeRegressor)  # those of extra trees inherit from them
BOOSTED: dict[str, tuple[type, type]] = {
    "gradient_boosting": (GradientBoostingClassifier, GradientBoostingRegressor),
    "hist_gradient_boosting": (HistGradientBoostingClassifier, HistGradientBoostingRegressor),
}
AVERAGED: dict[str, tuple[type, type]] = {
    "random_forest": (RandomForestClassifier, RandomForestRegressor),
    "extra_trees": (ExtraTreesClassifier, ExtraTreesRegressor),
}
NAMES = [*BOOSTED, *AVERAGED]


def kept(name: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the library fits from now on: a boosted ensemble, or every tree of a forest."""
    found: list[Any] = []
    for cls in BOOSTED.get(name, TREES):

        def fit(self: Any, *given: Any, right: Any = cls.fit, **named: Any) -> Any:  # type: ignore[attr-defined]
            found.append(self)
            return right(self, *given, **named)

        monkeypatch.setattr(cls, "fit", fit)
    return found


def library_of(name: str, fitted: list[Any], classes: int) -> Any:
    """The library's ensemble; that of a forest is made around its trees."""
    if name in BOOSTED:
        return fitted[0]
    forest = AVERAGED[name][0 if classes else 1]()
    forest.estimators_, forest.n_outputs_, forest.n_features_in_ = fitted, 1, fitted[0].n_features_in_
    if classes:
        forest.classes_, forest.n_classes_ = np.arange(classes), classes
    return forest


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", NAMES)
def test_margins_of_the_leaves_are_the_librarys_own(
    name: str, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes, fits = TASKS[task], kept(name, monkeypatch)
    data = make(classes)
    fitted = learner(name).fit(data, 3, Folder(tmp_path))
    assert len(fits) == (1 if name in BOOSTED else 5)
    library, found = library_of(name, fits, classes), read(fitted, data)
    ask = library.predict if not classes else library.decision_function if name in BOOSTED else library.predict_proba
    for ours, split in zip(found.margins(), (data.train, data.test), strict=True):
        theirs = np.reshape(ask(split.x), (len(split), -1)).T
        assert np.ptp(theirs) > 0.1
        assert ours == pytest.approx(theirs, abs=1e-10)
    if classes:
        share = library.predict_proba(data.test.x)[np.arange(len(data.test)), data.test.y]
        share = share if name in BOOSTED else (5 * share + 1 / classes) / 6  # one more tree that is undecided
        assert fitted.outcomes(data.test).loss == pytest.approx(-np.log(share), abs=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_trees_that_are_misread_are_refused_when_they_are_grown(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(f"influx.learners.trees.{name if name in BOOSTED else 'averaged'}")
    right = module.grown

    def shifted(tree: Any) -> Any:
        feature, threshold, *rest = right(tree)
        return feature, threshold + 0.3, *rest

    monkeypatch.setattr(module, "grown", shifted)
    model = learner(name)
    with pytest.raises(IncompatibleError, match=rf"margins .* model={name} must .* differ by up to \d.*; "):
        model.fit(make(2), 0, Folder(tmp_path))
    assert not (tmp_path / model.file).exists()
