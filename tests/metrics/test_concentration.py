"""Concentration bounds cover expectations found by enumeration, and halves of them would not."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from influx.config import load_choice
from influx.engines.retrain import Bank
from influx.engines.subsets import turns
from influx.guarantees import ORDERS, SUBSETS, UNBOUNDED, unbounded
from influx.influence import Influence
from influx.learners.linear.logistic import Logistic
from influx.metrics.concentration import Concentration, concentration, hoeffding, known_variance
from influx.oracles import toys
from influx.oracles.toys import estimator_named
from influx.store import Folder
from tests.metrics.enumerated import (
    EVERY,
    LEVEL,
    Array,
    M,
    N,
    at_density,
    bootstraps,
    bounded,
    coins,
    gap,
    of_size,
    one_less,
    over_sizes,
    parities,
    run_of,
    semivalue,
    sides,
)

FIVE = list(combinations(range(7), 5))  # an odd number, so that a reversed permutation has marginals of the same sign
WHOLE = {"truncation": 0.0}
BETA = {"alpha": 4.0, "beta": 1.0}


def share(off: Any, of: float = 1.0) -> float:
    """How many errors, relative to their bound, are within a part of it."""
    return float((np.array(off) <= of).mean())


@pytest.mark.parametrize(
    ("name", "settings", "risk", "exact"),
    [
        ("downsampling", {"models": 80, "fraction": 0.5}, (2,), lambda r, *_: gap(r, of_size(3))),
        ("downsampling", {"models": 80, "fraction": 0.5, "sampling": "paired_sizes"}, (2,), lambda r, *_: one_less(r)),
        ("downsampling", {"models": 80, "fraction": 0.5, "sampling": "bernoulli", "seeds": 80}, (2, False),
         lambda r, *_: gap(r, EVERY)),
        ("banzhaf", {"models": 80}, (2,), lambda r, *_: gap(r, EVERY)),
        ("data_oob", {"models": 80}, (N + 1,), lambda r, *_: gap(r, *bootstraps())),
        ("c_score", {"sizes": [0.4, 0.6], "runs": 40}, (2,), over_sizes),
        ("ame", {"models": 300, "probabilities": [0.4, 0.6], "rule": "ipw"}, (2,),
         lambda r, *_: (at_density(r, 0.4) + at_density(r, 0.6)) / 2),
    ],
    ids=["fixed_size", "paired_sizes", "own_seeds", "banzhaf", "data_oob", "c_score", "ame"],
)  # fmt: skip
def test_differences_of_means_are_within_their_bound(name: str, settings: Any, risk: Any, exact: Any) -> None:
    chances, off = coins(*risk), []
    for run, estimator, found, bound in bounded(name, settings, chances, N, 12):
        off.append(np.abs(found.values - exact(chances, estimator, run)) / bound.half)
    assert share(off) >= LEVEL > share(off, 0.5)


def told(bound: Concentration) -> float:
    """The half-width of another table."""
    found = re.search(r"likewise ± ([\d.]+)", bound.said)
    assert found is not None
    return float(found[1])


def test_out_of_bag_values_are_within_their_bound() -> None:
    risk, off = coins(N + 1), []
    exact = -np.diag(sides(risk, *bootstraps())[1][:, :N])
    for _, _, found, bound in bounded("data_oob", {"models": 80}, risk, N, 30):
        off.append(np.abs(found.tables["data_oob"]["value"] - exact) / told(bound))
    assert share(off) >= LEVEL > share(off, 0.5)


def test_c_scores_are_within_their_bound() -> None:
    risk, off, sizes = coins(2), [], [of_size(s) for s in (2, 4)]
    train = -np.mean([np.diag(sides(risk, some)[1][:, :N]) for some in sizes], axis=0)
    test = -np.mean([risk(some).mean(axis=0)[N:] for some in sizes], axis=0)
    for _, _, found, bound in bounded("c_score", {"sizes": [0.4, 0.6], "runs": 40}, risk, N, 25):
        off.append(np.abs(found.tables["c_score"]["score"] - np.append(train, test)) / told(bound))
    assert share(off) >= LEVEL > share(np.array(off)[:, :N], 0.5)


@pytest.mark.parametrize(
    ("name", "settings", "by"),
    [
        ("tmc_shapley", WHOLE | {"permutations": 60}, "Hoeffding, 30 independent pairs"),
        ("tmc_shapley", WHOLE | {"permutations": 30, "antithetic": False, "seeds": 2}, "Hoeffding, 30 independent"),
        ("beta_shapley", BETA | {"permutations": 60}, "Bernstein, 30 independent pairs"),
        ("beta_shapley", BETA | {"permutations": 100, "antithetic": False}, "Bernstein, 100 independent"),
        ("shapley_interaction", {"estimator": "permutation", "permutations": 30}, "Hoeffding, 30 independent"),
    ],
    ids=["tmc_pairs", "tmc", "beta_pairs", "beta", "interaction"],
)
def test_means_of_marginals_are_within_their_bound(name: str, settings: Any, by: str) -> None:
    risk, off = parities(*FIVE), []
    exact = semivalue(risk, 7, settings.get("alpha", 1.0), settings.get("beta", 1.0))
    plays = np.array([[player in some for some in FIVE] for player in range(7)])
    for _, _, found, bound in bounded(name, settings | {"empty_value": 0.0}, risk, 7, 40):
        assert by in bound.said and np.abs(found.values[~plays]).max() < 1e-12
        off.append((np.abs(found.values - exact) / bound.half)[plays])
    assert share(off) >= LEVEL > share(off, 0.5)


def test_members_share_the_bound_of_their_group() -> None:
    risk, members = parities((0, 1, 2)), np.arange(7) % 3  # classes of 3, 2 and 2 instances
    settings: Any = BETA | {"permutations": 40, "empty_value": 0.0, "groups": "label"}

    def by_class(inside: NDArray[Any]) -> Array:
        return np.concatenate([inside, risk(inside[:, members])[:, 7:]], axis=1)

    exact = semivalue(by_class, 3, 4.0, 1.0)[members] / np.bincount(members)[members, None]
    off = []
    for _, _, found, bound in bounded("beta_shapley", settings, risk, 7, 30):
        assert "at least 2 members" in bound.said
        off.append(np.abs(found.values - exact) / bound.half)
    assert share(off) >= LEVEL and np.max(off) > 0.3


def test_a_known_variance_gives_the_narrower_bound_of_rare_large_numbers() -> None:
    rare = 10.0 * (np.random.default_rng(0).random((4000, 200)) < 0.01)
    half = known_variance(1.0, 10.0, 200, LEVEL)
    off = np.abs(rare.mean(axis=1) - 0.1) / half
    assert share(off) >= LEVEL > share(off, 0.4) and half < hoeffding(10.0, (200,), LEVEL)
    assert 200 * half**2 / (2 * 1.0 + 2 / 3 * 10.0 * half) == pytest.approx(np.log(20))  # the inequality at its end


FAR = {
    "seeds": 3, "target_stderr": 0.1, "rule": {"banzhaf": "ols", "ame": "lasso"}, "truncation": 0.1, "stop": "stderr",
    "groups": "random", "empty_value": 3.0,
}  # fmt: skip


@pytest.mark.parametrize("name", [*SUBSETS, *ORDERS])
def test_the_remedies_that_a_reason_names_lead_to_a_bound(name: str) -> None:
    settings = load_choice("estimator", name)
    if name == "shapley_interaction":
        assert "exact" in unbounded(name, settings)
        settings["estimator"] = "permutation"
    for key, value in FAR.items():
        if key in settings:
            settings[key] = value[name] if isinstance(value, dict) else value
    remedies = {key: value for key, value in re.findall(r"estimator\.(\w+)=(\S+)", unbounded(name, settings))}
    assert len(remedies) >= 2
    for key, value in remedies.items():  # each is needed
        others = {k: yaml.safe_load(v) for k, v in remedies.items() if k != key}
        assert f"set estimator.{key}={value}" in unbounded(name, settings | others)
    settings |= {key: yaml.safe_load(value) for key, value in remedies.items()}
    assert unbounded(name, settings) == "" and "classes" in unbounded(name, settings, classes=False)
    estimator_named(name, settings)


def test_every_reason_without_a_bound_names_what_to_choose() -> None:
    for name, why in UNBOUNDED.items():
        settings = load_choice("estimator", name)
        settings |= {"estimator": "permutation"} if "estimator" in settings else {}
        assert unbounded(name, settings) == why and re.search(r"estimator[.=]\w+", why)


def test_means_over_trainings_have_no_bound() -> None:
    run: Any = run_of(coins(2), N, 0)
    run.again = SimpleNamespace(name="banzhaf", estimator=estimator_named("banzhaf", {"target": "zero_one"}))
    averaged = Influence(values=np.zeros((N, M)), report={"trainings": 5})
    assert "perspective=pointwise" in str(concentration(averaged, run, LEVEL))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["downsampling", "data_oob", "c_score"])
def test_errors_of_retrained_models_are_within_the_bound(name: str, tmp_path: Path) -> None:
    settings: Any = {"c_score": {"sizes": [0.4, 0.6], "runs": 40}}.get(name, {"models": 80})
    settings |= {"fraction": 0.5} if name == "downsampling" else {}
    toy = toys.learned(tmp_path, toys.table(n_train=N, n_test=M), Logistic(weight_decay=0.01))
    weights, power = np.unique(np.concatenate([EVERY[1:], bootstraps()[0]]), axis=0), (N + 1) ** np.arange(N)
    train, test = Bank(toy.problem, Folder(toy.folder / "retrain")).outcomes(turns(weights.astype(np.uint8), 1))
    wrong = np.concatenate([train.prediction != toy.train.y, test.prediction != toy.test.y], axis=1)
    table = np.full(((N + 1) ** N, N + M), np.nan)
    table[weights @ power] = wrong

    def risk(asked: NDArray[Any]) -> Array:
        return np.asarray(table[asked.astype(np.int64) @ power])

    off = []
    for run, estimator, found, bound in bounded(name, settings, risk, N, 60):
        if name == "c_score":
            exact = over_sizes(risk, estimator, run)
        else:
            exact = gap(risk, *bootstraps()) if name == "data_oob" else gap(risk, of_size(3))
        off.append(np.abs(found.values - exact) / bound.half)
    assert 0.05 < wrong.mean() < 0.95 and np.max(off) > 0.5 and share(off) >= LEVEL
