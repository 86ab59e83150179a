"""Sign and rank agree with exact leave-one-out where it is known in closed form or by Newton's method."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from influx.config import choices_of
from influx.learners.linear.logistic import Logistic
from influx.learners.linear.ridge import Ridge
from influx.needs import Need
from influx.oracles.influence_functions import DECAY, leave_one_out, logistic_problem, ridge_problem
from influx.oracles.toys import Toy, estimator_named, learned
from influx.problem import Learner
from tests.contract.exemptions import AGREEMENT, Agreement

PROBLEMS = {"ridge": ridge_problem, "logistic": logistic_problem}
LINEAR: dict[str, Learner] = {  # the same objectives for estimators that need a linear model
    "ridge": Ridge(weight_decay=DECAY, penalise_intercept=True),
    "logistic": Logistic(weight_decay=DECAY, penalise_intercept=True),
}


@dataclass(frozen=True)
class Solved:
    problem: str
    toy: Toy
    truth: np.ndarray
    known: dict[str, np.ndarray] = field(default_factory=dict)

    def values(self, name: str) -> np.ndarray:
        """Of an estimator, which both tests look at."""
        if name not in self.known:
            linear = Need.LINEAR_MODEL in estimator_named(name).requires
            toy = learned(self.toy.folder, self.toy.problem.data, LINEAR[self.problem]) if linear else self.toy
            self.known[name] = toy.estimate(name).values
        return self.known[name]


@pytest.fixture(scope="module", params=list(PROBLEMS))
def solved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Solved:
    folder: Path = tmp_path_factory.mktemp(request.param)
    toy, refit = PROBLEMS[request.param](folder, checkpoints=10, checkpoint_spacing="log")
    return Solved(request.param, toy, leave_one_out(refit, len(toy.train)))


@pytest.mark.parametrize("name", choices_of("estimator"))
def test_sign_and_rank_agree_with_exact_leave_one_out(name: str, solved: Solved) -> None:
    expected = AGREEMENT.get(name, Agreement())
    least = getattr(expected, solved.problem)
    if least is None:
        pytest.skip(expected.reason)
    values, truth = solved.values(name), solved.truth
    rank = np.mean([spearmanr(values[:, j], truth[:, j]).statistic for j in range(truth.shape[1])])
    sign = np.abs(truth)[np.sign(values) == np.sign(truth)].sum() / np.abs(truth).sum()
    assert rank >= least[0] and sign >= least[1], f"Spearman {rank:.3f}, sign {sign:.3f}, expected {least}"


@pytest.mark.parametrize("name", choices_of("estimator"))
def test_estimates_in_loss_units_are_of_the_right_size(name: str, solved: Solved) -> None:
    expected = AGREEMENT.get(name, Agreement())
    if estimator_named(name).scale != "loss" or not expected.size:
        pytest.skip("only the order of its values means something" if expected.size else expected.reason)
    slope = (solved.values(name) * solved.truth).sum() / np.square(solved.truth).sum()
    assert 0.7 < slope < 1.4
