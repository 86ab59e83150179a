"""Removal curves against models trained one at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from influx.errors import ConfigError
from influx.influence import Influence
from influx.learners.linear.ridge import Ridge
from influx.learners.torch.optimizers import SGD
from influx.metrics.banks import FIRST_TUNING_SEED, Halves
from influx.metrics.removal import SubsetRemoval
from influx.metrics.tidy import tables_of
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy
from tests.metrics.retrained import prospect_of, run_of, without

N, M, SEEDS, COUNTS = 20, 24, 2, {0.1: 2, 0.3: 6}


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return toys.train(tmp_path, toys.table(n_train=N, n_test=M), MLP(width=3), SGD(lr=0.3), batch_size=10)


def measured(toy: Toy, values: np.ndarray, **settings: Any) -> pd.DataFrame:
    metric = SubsetRemoval(**({"shares": list(COUNTS), "seeds": SEEDS, "n_boot": 100} | settings))
    return metric.evaluate(Influence(values=values), run_of(toy, metric, "removal"))


@pytest.mark.parametrize("bank", ["test", "tune"])
def test_curves_are_those_of_models_trained_one_at_a_time(toy: Toy, bank: Any) -> None:
    values = np.random.default_rng(0).normal(size=(N, M))
    frame = measured(toy, values, bank=bank)
    assert frame.protocol.str.contains(f"bank={bank}").all()
    found, judge = frame.set_index("metric").value, Halves.in_bank(prospect_of(toy), SEEDS, bank)
    first = 0 if bank == "test" else FIRST_TUNING_SEED
    by_help = sorted(range(N), key=lambda i: -values[i, judge.ranking].sum())
    orders = {
        "top": [by_help] * SEEDS,
        "bottom": [by_help[::-1]] * SEEDS,
        "random": SubsetRemoval(seeds=SEEDS, bank=bank)._random(prospect_of(toy)).tolist(),
    }
    assert orders["random"][0] != orders["random"][1]
    loss: dict[tuple[str, float], float] = {}
    right: dict[tuple[str, float], float] = {}
    each: dict[tuple[str, float], np.ndarray] = {}
    for kind, order in orders.items():
        for share, count in {0.0: 0, **COUNTS}.items():
            made = [without(toy, order[seed][:count], first + seed) for seed in range(SEEDS)]
            each[kind, share] = np.stack([one.loss[judge.judging] for one in made])
            loss[kind, share] = each[kind, share].mean()
            right[kind, share] = np.mean([(one.prediction == toy.test.y)[judge.judging] for one in made])
    for end, sign in (("top", 1), ("bottom", -1)):
        low, high = (sign * (loss[end, share] - loss["random", share]) for share in COUNTS)
        assert found[f"removal_{end}_10"] == pytest.approx(low, abs=1e-12)
        assert found[f"removal_{end}_30"] == pytest.approx(high, abs=1e-12)
        area = (0.1 * low / 2 + 0.2 * (low + high) / 2) / 0.3
        assert found[f"removal_area_{end}"] == pytest.approx(area, abs=1e-12)
        low, high = (sign * (right["random", share] - right[end, share]) for share in COUNTS)
        area = (0.1 * low / 2 + 0.2 * (low + high) / 2) / 0.3
        assert found[f"removal_accuracy_{end}"] == pytest.approx(area, abs=1e-12)
        fell = [sign * (each[end, share] - each["random", share]) for share in COUNTS]
        r = max(0.0, np.corrcoef(0.1 * fell[0] / 2 + 0.2 * (fell[0] + fell[1]) / 2)[0, 1])
        assert found[f"removal_ceiling_{end}"] == pytest.approx(2 * r / (1 + r), abs=1e-9)
    names = {"top": "top by influence", "bottom": "bottom by influence", "random": "random"}
    for table, expected in (("removal", loss), ("removal_accuracy", right)):
        curve = tables_of(frame)[table]
        drawn = curve.set_index(["series", "removed"]).iloc[:, 0]
        assert {(kind, share): drawn[name, share] for kind, name in names.items() for share in (0.0, *COUNTS)} == (
            pytest.approx(expected, abs=1e-12)
        )
        assert (curve.ci_low <= curve.iloc[:, 2]).all() and (curve.iloc[:, 2] <= curve.ci_high).all()


def test_harmful_instances_are_at_the_bottom_of_the_right_ranking(tmp_path: Path) -> None:
    data = toys.table("regression", n_train=40, n_test=20)
    y = data.train.y.copy()
    y[:4] += 20
    toy = toys.learned(tmp_path, replace(data, train=replace(data.train, y=y)), Ridge(weight_decay=0.01))
    alone = np.array([without(toy, [i], 0, "full").loss for i in range(40)]) - without(toy, [], 0).loss
    settings: Any = {"shares": [0.1], "ends": ["bottom"]}
    right, wrong = (measured(toy, sign * alone, **settings).set_index("metric") for sign in (1, -1))
    assert right.ci_low["removal_area_bottom"] > 0 > wrong.ci_high["removal_area_bottom"]


def test_what_cannot_be_had_has_a_reason_instead_of_a_number(toy: Toy, tmp_path: Path) -> None:
    flat = measured(toy, np.ones((N, M)))
    assert (flat.status == "degenerate").all() and flat.value.isna().all() and flat.note.all()
    data = toys.table("regression", n_train=8, n_test=6)
    plain = toys.train(tmp_path, data, MLP(width=2), SGD(lr=0.1), batch_size=8)
    frame = measured(plain, np.random.default_rng(0).normal(size=(8, 6)), shares=[0.25], ends=["top"], seeds=1)
    assert frame.status.tolist() == ["ok", "ok", *["not applicable"] * 2]
    assert "seeds=1" in frame.note.iloc[2] and "regression" in frame.note.iloc[3]
    assert set(tables_of(frame)) == {"removal"}


def test_the_plan_names_the_models_that_are_trained(toy: Toy) -> None:
    metric = SubsetRemoval(shares=[0.3], seeds=2, n_boot=100)
    run, planned = run_of(toy, metric, "removal"), metric.plan(prospect_of(toy))
    metric.evaluate(Influence(values=np.random.default_rng(0).normal(size=(N, M))), run)
    assert not any(len(run.bank.missing(design)) for design in planned.trainings)
    assert run.bank.requested == sum(map(len, planned.trainings)) + planned.own_trainings


@pytest.mark.parametrize(
    "settings", [{"shares": [0.95]}, {"shares": [0.2, 0.1]}, {"ends": ["middle"]}, {"seeds": 0}, {"bank": "train"}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"metric\.removal\.{next(iter(settings))}"):
        SubsetRemoval(**settings)
