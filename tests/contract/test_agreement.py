"""Sign and rank agree with exact leave-one-out where it is known in closed form or by Newton's method."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from influx.config import choices_of
from influx.oracles.influence_functions import leave_one_out, logistic_problem, ridge_problem
from influx.oracles.toys import Toy
from tests.contract.exemptions import AGREEMENT, Agreement

PROBLEMS = {"ridge": ridge_problem, "logistic": logistic_problem}


@pytest.fixture(scope="module", params=list(PROBLEMS))
def solved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Toy, np.ndarray]:
    folder: Path = tmp_path_factory.mktemp(request.param)
    toy, refit = PROBLEMS[request.param](folder, checkpoints=10, checkpoint_spacing="log")
    return request.param, toy, leave_one_out(refit, len(toy.train))


@pytest.mark.parametrize("name", choices_of("estimator"))
def test_sign_and_rank_agree_with_exact_leave_one_out(name: str, solved: tuple[str, Toy, np.ndarray]) -> None:
    problem, toy, truth = solved
    expected = AGREEMENT.get(name, Agreement())
    least = getattr(expected, problem)
    if least is None:
        pytest.skip(expected.reason)
    values = toy.estimate(name).values
    rank = np.mean([spearmanr(values[:, j], truth[:, j]).statistic for j in range(truth.shape[1])])
    sign = np.abs(truth)[np.sign(values) == np.sign(truth)].sum() / np.abs(truth).sum()
    assert rank >= least[0] and sign >= least[1], f"Spearman {rank:.3f}, sign {sign:.3f}, expected {least}"


@pytest.mark.parametrize("name", choices_of("estimator"))
def test_estimates_in_loss_units_are_of_the_right_size(name: str, solved: tuple[str, Toy, np.ndarray]) -> None:
    _, toy, truth = solved
    influence = toy.estimate(name)
    if influence.scale != "loss":
        pytest.skip("only the order of its values means something")
    slope = (influence.values * truth).sum() / (truth * truth).sum()
    assert 0.7 < slope < 1.4
