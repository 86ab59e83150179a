"""Groups: of one instance, of all, in files; shares that sum to the group's effect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from influx.engines.groups import Groups, groups_of
from influx.errors import ConfigError, IncompatibleError
from influx.estimators.retraining import group_loo
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy, estimator_named
from influx.perspectives.asked import refused_by
from influx.planning import Prospect


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return toys.train(tmp_path, toys.table(), MLP(width=4))


def grouped(path: Path, rows: dict[int, list[str]]) -> str:
    lines = ["train_id,group", *(f"{identity},{name}" for identity, names in rows.items() for name in names)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_groups_of_one_are_leave_one_out(toy: Toy, tmp_path: Path) -> None:
    file = grouped(tmp_path / "groups.csv", {int(i): [f"only {i}"] for i in toy.train.ids})
    found, expected = toy.estimate("group_loo", groups=file), toy.estimate("loo", ceiling_budget=0)
    assert np.allclose(found.values, expected.values, atol=1e-12)
    assert np.allclose(found.self_influence, expected.self_influence, atol=1e-12)


def test_shares_sum_to_the_effect_of_the_group(toy: Toy) -> None:
    found = toy.estimate("group_loo", groups="cluster", group_count=3)
    table = found.tables["group_influence"]
    effects = table["influence"].to_numpy().reshape(3, -1)
    sizes = found.tables["groups"]["size"].to_numpy()
    assert np.allclose(found.values.sum(axis=0), effects.sum(axis=0), atol=1e-12)
    for effect, size in zip(effects, sizes, strict=True):
        assert (np.abs(found.values - effect / size).max(axis=1) < 1e-12).sum() == size
    assert np.allclose(found.tables["groups"]["influence"], effects.mean(axis=1))


def test_an_instance_in_two_groups_has_both_shares_and_one_in_none_has_none(toy: Toy, tmp_path: Path) -> None:
    ids = toy.train.ids.tolist()
    file = grouped(tmp_path / "groups.csv", {ids[0]: ["a", "b"], ids[1]: ["a"], ids[2]: ["b"]})
    found = toy.estimate("group_loo", groups=file)
    effects = found.tables["group_influence"]["influence"].to_numpy().reshape(2, -1)
    assert np.allclose(found.values[:3], [effects.sum(axis=0) / 2, effects[0] / 2, effects[1] / 2], atol=1e-12)
    assert np.isnan(found.values[3:]).all() and np.isnan(found.self_influence[3:]).all()
    assert (found.report["in_no_group"], found.report["in_several_groups"]) == (6, 1)


def test_without_everything_the_first_model_is_left(toy: Toy, tmp_path: Path) -> None:
    file = grouped(tmp_path / "groups.csv", {int(i): ["all"] for i in toy.train.ids})
    found = toy.estimate("group_loo", groups=file)
    x, y = toy.tensors(toy.test)
    import torch

    first, last = (torch.nn.functional.cross_entropy(toy.module(s)(x), y, reduction="none") for s in (0, None))
    assert np.allclose(found.values.sum(axis=0), (first - last).detach(), atol=1e-9)


def test_seeds_are_averaged_with_their_error(toy: Toy) -> None:
    found, one = toy.estimate("group_loo", seeds=3), toy.estimate("group_loo")
    parts = np.stack(found.replicates)
    assert np.allclose(parts[0], one.values, atol=1e-12) and one.stderr is None
    assert np.allclose(found.values, parts.mean(axis=0), atol=1e-12)
    assert found.stderr is not None
    assert np.allclose(found.stderr, parts.std(axis=0, ddof=1) / np.sqrt(3), atol=1e-12)
    assert found.tables["groups"]["stderr"].notna().all() and one.tables["groups"]["stderr"].isna().all()


def test_a_group_without_instances_spoils_nothing(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = toy.estimate("group_loo")
    groups = groups_of(toy.run(estimator_named("group_loo"), "group_loo"), "label", 1, 1)
    more = Groups((*groups.names, "empty"), np.vstack([groups.members, np.zeros((1, 9), bool)]))
    monkeypatch.setattr(group_loo, "groups_of", lambda *_: more)
    found = toy.estimate("group_loo")
    assert np.allclose(found.values, expected.values, atol=1e-12) and np.isfinite(found.values).all()
    assert np.allclose(found.self_influence, expected.self_influence, atol=1e-12)


def test_a_share_is_no_memorization(toy: Toy) -> None:
    assert "share" in toy.estimate("group_loo").self_influence_note
    with pytest.raises(IncompatibleError, match="share"):
        refused_by(estimator_named("group_loo"), "memorization", "group_loo")


def test_the_plan_counts_every_matrix_held_at_once(toy: Toy) -> None:
    work = estimator_named("group_loo", {"seeds": 5}).plan(Prospect(problem=toy.problem, who="group_loo"))
    assert work.bytes >= 4 * 5 * 8 * len(toy.train) * len(toy.test)


@pytest.mark.parametrize("name", ["group_count", "group_size", "seeds"])
def test_numbers_below_one_are_refused(toy: Toy, name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        toy.estimate("group_loo", **{name: 0})
