"""Random forest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from influx.learners.trees.averaged import Averaged


@dataclass(frozen=True, kw_only=True)
class RandomForest(Averaged):
    """Averaged trees with the best splits of drawn inputs, each on a bootstrap sample.

    See ``Averaged``; optimizer and training settings are unused.
    """

    name: ClassVar[str] = "random_forest"

    def tree(self, classes: int, **settings: Any) -> Any:
        """One tree."""
        from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

        return (DecisionTreeClassifier if classes else DecisionTreeRegressor)(**settings)
