"""Extremely randomised trees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from influx.learners.trees.averaged import Averaged


@dataclass(frozen=True, kw_only=True)
class ExtraTrees(Averaged):
    """Averaged trees with the best of random splits, each on everything.

    See ``Averaged``; optimizer and training settings are unused.
    """

    name: ClassVar[str] = "extra_trees"

    bootstrap: bool = False

    def tree(self, classes: int, **settings: Any) -> Any:
        """One tree."""
        from sklearn.tree import ExtraTreeClassifier, ExtraTreeRegressor

        return (ExtraTreeClassifier if classes else ExtraTreeRegressor)(**settings)
