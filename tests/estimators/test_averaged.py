"""Averages over trainings and checkpoints: what they are of, what they refuse, and how stable they say to be."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import spearmanr

from influx.config import compose
from influx.engines.repeats import Repeats
from influx.errors import ConfigError, IncompatibleError
from influx.influence import Influence
from influx.instantiate import build
from influx.learners.linear.ridge import Ridge
from influx.manifest import signs
from influx.models.mlp import MLP
from influx.needs import Need
from influx.oracles import toys
from influx.oracles.toys import estimator_named
from influx.planning import Prospect, Work


def repeats(values: np.ndarray) -> Repeats:
    made = Repeats(SimpleNamespace(zeros=lambda: np.zeros(values.shape[1:])))  # type: ignore[arg-type]
    for one in values:
        made.add(Influence(values=one))
    return made


def test_means_errors_and_stability_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("influx.engines.repeats.BLOCK_BYTES", 1)
    values = np.random.default_rng(0).normal(size=(4, 20, 3)) + np.random.default_rng(1).normal(size=(20, 3))
    found = repeats(values)
    assert np.allclose(found.mean, values.mean(axis=0), atol=1e-14)
    pairs = [
        spearmanr(values[a, :, j], values[b, :, j]).statistic for j in range(3) for a in range(4) for b in range(a)
    ]
    assert found.stability()["rank_stability"] == pytest.approx(np.mean(pairs))
    assert np.allclose(found.stderr(), values.std(axis=0, ddof=1) / 2, atol=1e-14)


def test_repetitions_that_agree_are_stable_and_noise_is_not() -> None:
    one = np.random.default_rng(0).normal(size=(200, 3))
    same = repeats(np.stack([one, 2 * one, one + 1]))
    assert same.stability() == {"rank_stability": pytest.approx(1), "rank_stability_of_mean": pytest.approx(1)}
    noise = repeats(np.random.default_rng(1).normal(size=(5, 200, 3))).stability()
    assert abs(noise["rank_stability"]) < 0.1 and noise["rank_stability_of_mean"] < 0.3


def test_constant_columns_have_no_stability_and_missing_rows_stay_missing() -> None:
    values = np.random.default_rng(0).normal(size=(3, 10, 2))
    values[:, :, 1], values[:, 4] = 7.0, np.nan
    found = repeats(values)
    assert np.isnan(found.mean[4]).all() and not np.isnan(np.delete(found.mean, 4, 0)).any()
    pairs = [spearmanr(*np.delete(values[[a, b], :, 0], 4, 1)).statistic for a, b in ((0, 1), (0, 2), (1, 2))]
    assert found.stability()["rank_stability"] == pytest.approx(np.mean(pairs))


def test_repetitions_with_values_for_other_instances_are_refused() -> None:
    values = np.random.default_rng(0).normal(size=(2, 10, 2))
    values[0, :4], values[1, 6:] = np.nan, np.nan
    with pytest.raises(IncompatibleError, match="for 6 training instances, of which 2 had one before"):
        repeats(values)


def test_other_draws_in_each_training_are_refused_before_any_work(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table(), MLP(width=2), epochs=1)
    prospect = Prospect(problem=toy.problem, who="averaged")

    def planned(**settings: object) -> Work:
        given = {"of": "loo", "count": 2, "settings": {"ceiling_budget": 0} | settings}
        return estimator_named("averaged", given).plan(prospect)  # type: ignore[attr-defined, no-any-return]

    with pytest.raises(IncompatibleError, match="draws 3 training instances anew for each training"):
        planned(budget=3)
    assert planned(indices=toy.train.ids[:3].tolist()).more_trainings == planned(budget=None).more_trainings - 6


def test_checkpoints_of_one_training_give_no_standard_error(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table(), MLP(width=2), epochs=2, checkpoints=2)
    found = toy.estimate("averaged", of="gradient_norm", over="checkpoints", count=2)
    assert found.stderr is None and "stderr_degrees" not in found.report
    assert (found.tables["averaged"]["spread"] > 0).all()


def test_needs_scale_and_refusals_are_those_of_the_other() -> None:
    loo = estimator_named("averaged", {"of": "loo"})
    assert loo.requires == {Need.RETRAIN} and loo.scale == "loss"
    assert estimator_named("averaged", {"of": "gas"}).refuses.keys() == {"memorization"}  # type: ignore[attr-defined]
    ended = estimator_named("averaged", {"of": "if_ekfac", "over": "checkpoints"})
    assert ended.requires == {Need.CURVATURE, Need.STATES}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"over": "checkpoints"}, "tracincp does not look at the final net alone"),
        ({"of": "averaged"}, "averages averages"),
        ({"count": 1}, r"estimator\.count must be at least 2"),
        ({"of": "tracinc"}, r"of=tracinc does not exist \(did you mean"),
        ({"of": "if_exact", "settings": {"dampin": 0.1}}, r"estimator\.settings\.dampin is not a setting"),
        ({"of": "if_exact", "settings": {"damping": -1.0}}, r"estimator\.settings\.damping must not be negative"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        estimator_named("averaged", settings)


def test_settings_of_the_other_are_given_on_the_command_line() -> None:
    settings = compose(["estimator=averaged", "estimator.of=if_exact", "estimator.settings={damping: 0.5}"])
    assert build(settings["estimator"], "estimator", []).settings == {"damping": 0.5}


def test_training_without_randomness_is_refused_before_any_work(tmp_path: Path) -> None:
    toy = toys.learned(tmp_path, toys.table("regression"), Ridge(weight_decay=0.1))
    averaged = estimator_named("averaged", {"of": "cooks_distance"})
    with pytest.raises(IncompatibleError, match="no randomness to average over"):
        averaged.plan(Prospect(problem=toy.problem, who="averaged"))  # type: ignore[attr-defined]


def test_the_sign_is_that_of_the_other() -> None:
    unsigned, signed = estimator_named("averaged", {"of": "dtrak"}), estimator_named("averaged", {"of": "tracincp"})
    assert signs("averaged", unsigned, {}) == signs("averaged", estimator_named("dtrak", {}), {})
    told = signs("averaged", signed, {"dtrak": estimator_named("dtrak", {}), "random": estimator_named("random", {})})
    assert told["sign"].startswith("positive influence") and told["unsigned"] == ["dtrak"]
