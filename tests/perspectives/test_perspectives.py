"""Each perspective over known matrices, and who is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

import influx
from influx.config import choices_of, load_choice
from influx.engines.groups import groups_of
from influx.errors import ConfigError, IncompatibleError
from influx.influence import Influence
from influx.instantiate import build
from influx.learners.torch.optimizers import SGD
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy, estimator_named
from influx.perspectives.asked import Perspective
from influx.run import Run
from tests.contract.exemptions import SETTINGS

SMALL = ["dataset=iris", "dataset.n_train=20", "dataset.n_test=6", "model.width=[4]", "training.epochs=2", "quiet=true"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toys.train(tmp_path_factory.mktemp("toy"), toys.table(n_train=9, n_test=4), MLP(width=4), SGD(lr=0.2))


@dataclass(frozen=True)
class Asked:
    """A perspective by name, on the toy."""

    toy: Toy
    name: str
    settings: dict[str, object]

    @property
    def made(self) -> Perspective:
        made: Perspective = build(load_choice("perspective", self.name) | self.settings, "perspective", [])
        return made

    def check(self, estimator: str, **settings: object) -> None:
        self.made.check(estimator_named(estimator, settings), estimator, self.toy.problem)

    def table(self, *found: Influence) -> pd.DataFrame:
        return self.look(*found).tables["perspective"]

    def look(self, *found: Influence) -> Influence:
        run: Run = self.toy.run(estimator_named("random"), "random")
        return self.made.look(found, run)


def asked(toy: Toy, name: str, **settings: object) -> Asked:
    return Asked(toy, name, settings)


def matrix(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(9, 4))


def test_group_influence_is_the_sum_over_members(toy: Toy, tmp_path: Path) -> None:
    ids, values = toy.train.ids, matrix()
    path = tmp_path / "mine.csv"
    path.write_text(f"train_id,group\n{ids[0]},a\n{ids[5]},a\n{ids[5]},b\n")
    look = asked(toy, "group", by=str(path)).look(Influence(values=values))
    long = look.tables["group_influence"].pivot(index="group", columns="test_id", values="influence")
    assert np.allclose(long.loc["a", toy.test.ids], values[0] + values[5], rtol=1e-14)
    assert np.allclose(long.loc["b", toy.test.ids], values[5], rtol=1e-14)
    table = look.tables["perspective"].set_index("group")
    assert np.isclose(table.loc["a", "influence"], (values[0] + values[5]).mean()) and table.loc["a", "size"] == 2


@pytest.mark.parametrize("by", ["label", "cluster", "random"])
def test_found_groups_follow_the_instances_and_not_their_places(toy: Toy, by: str) -> None:
    order = np.roll(np.arange(9), 4)
    moved = toy.with_data(replace(toy.problem.data, train=toy.train.take(order)))
    values, settings = matrix(), {"by": by, "group_count": 3, "group_size": 2}
    first = asked(toy, "group", **settings).table(Influence(values=values))
    second = asked(moved, "group", **settings).table(Influence(values=values[order]))
    assert first["size"].tolist() == second["size"].tolist() and len(first) == 3
    assert np.allclose(first["influence"], second["influence"], rtol=1e-12)


def test_joint_influence_is_the_mean_over_the_chosen_tests(toy: Toy) -> None:
    values, ids = matrix(), toy.test.ids
    table = asked(toy, "joint", tests=[int(ids[1]), int(ids[3])]).table(
        Influence(values=values, stderr=np.ones((9, 4)))
    )
    table = table.set_index("train_id").loc[toy.train.ids]
    assert np.allclose(table["influence"], values[:, [1, 3]].mean(axis=1), rtol=1e-14)
    assert np.allclose(table["stderr_test"], np.abs(values[:, 1] - values[:, 3]) / 2, rtol=1e-12)
    assert (table["stderr_design"] == 1).all()


def test_joint_influence_takes_the_error_that_an_estimator_gives_for_the_mean(toy: Toy) -> None:
    own = pd.DataFrame({"train_id": toy.train.ids[::-1], "stderr_design": np.arange(9.0)})
    table = asked(toy, "joint").table(Influence(values=matrix(), stderr=np.ones((9, 4)), tables={"joint": own}))
    assert table.set_index("train_id").loc[toy.train.ids, "stderr_design"].tolist() == list(range(8, -1, -1))


def test_expected_influence_is_the_mean_with_its_error(toy: Toy) -> None:
    parts = [matrix(seed) for seed in range(3)]
    look = asked(toy, "expected", seeds=3).look(*(Influence(values=p, self_influence=p[:, 0]) for p in parts))
    assert look.stderr is not None and look.self_influence is not None
    assert np.allclose(look.values, np.mean(parts, axis=0), rtol=1e-12, atol=1e-15)
    assert np.allclose(look.stderr, np.std(parts, axis=0, ddof=1) / np.sqrt(3), rtol=1e-12)
    assert np.allclose(look.self_influence, np.mean(parts, axis=0)[:, 0], rtol=1e-12, atol=1e-15)
    joint = np.mean(parts, axis=2)  # averaged over tests inside each training first
    table = look.tables["perspective"].set_index("train_id").loc[toy.train.ids]
    assert np.allclose(table["stderr_seeds"], joint.std(axis=0, ddof=1) / np.sqrt(3), rtol=1e-12)


def test_memorization_ranks_self_influence(toy: Toy) -> None:
    own = np.arange(9.0)
    table = asked(toy, "memorization").table(Influence(values=matrix(), self_influence=own))
    assert table["train_id"].tolist() == toy.train.ids[::-1].tolist() and table["rank"].tolist() == list(range(1, 10))


def test_ranks_are_means_over_tests(toy: Toy) -> None:
    values = matrix()
    table = asked(toy, "ranking", top=2).table(Influence(values=values)).set_index("train_id").loc[toy.train.ids]
    ranks = (-values).argsort(axis=0).argsort(axis=0) + 1
    assert np.allclose(table["mean_rank"], ranks.mean(axis=1))
    assert np.allclose(table["stderr_test"], ranks.std(axis=1, ddof=0) / np.sqrt(3))
    assert table["proponent_top_2"].tolist() == (ranks <= 2).sum(axis=1).tolist()
    assert table["opponent_top_2"].tolist() == (ranks > 7).sum(axis=1).tolist()


@pytest.mark.parametrize(
    ("perspective", "estimator", "reason"),
    [
        ("group", "loo", "do not add up"),
        ("memorization", "gas", "cosine"),
        ("memorization", "feature_similarity", "cosine"),
        ("cooks_distance", "tracincp", "not parameters"),
    ],
)
def test_who_cannot_answer_is_refused_by_name_with_another(
    toy: Toy, perspective: str, estimator: str, reason: str
) -> None:
    with pytest.raises(IncompatibleError, match=f"perspective={perspective}.*estimator={estimator}.*{reason}.*choose"):
        asked(toy, perspective).check(estimator)


def test_unknown_ids_are_refused_by_setting(toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"perspective\.tests must be ids"):
        asked(toy, "joint", tests=[3]).check("tracincp")
    path = tmp_path / "mine.csv"
    path.write_text("train_id,group\n7,a\n")
    with pytest.raises(ConfigError, match="names training ids that do not exist"):
        asked(toy, "group", by=str(path)).check("tracincp")
    with pytest.raises(ConfigError, match="label, cluster, random or a csv file"):
        asked(toy, "group", by="labels").check("tracincp")


def test_every_estimator_answers_every_perspective_or_is_refused_before_any_work(toy: Toy) -> None:
    for perspective in choices_of("perspective"):
        answered = 0
        for estimator in choices_of("estimator"):
            try:
                asked(toy, perspective).check(estimator)
                answered += 1
            except IncompatibleError as refusal:
                assert f"perspective={perspective} does not fit estimator={estimator}" in str(refusal)
        assert answered


def test_expected_influence_is_the_mean_of_runs_of_other_trainings(tmp_path: Path) -> None:
    outputs = f"paths.outputs={tmp_path}"
    quick = [*SMALL, outputs, "truth=none", "metric=[]", "output_dtype=float64"]
    one = influx.run(quick)
    two = influx.run([*quick, "perspective=expected", "perspective.seeds=2"])
    assert one.stderr is None and two.stderr is not None
    other = 2 * two.influence - one.influence
    assert not np.allclose(other, one.influence)
    assert np.allclose(two.stderr, np.abs(other - one.influence) / 2, rtol=1e-9)
    assert len(list((tmp_path / "problems").iterdir())) == 2
    assert {"sign_certain", "place_certain"} <= set(two.ranking.columns) and "sign_certain" not in one.ranking.columns
    both = two.ranking.merge(one.ranking, on=["test_id", "role", "rank"])
    assert len(both) == len(two.ranking)
    beyond = t.ppf(0.975, 1) * two.ranking["stderr"]
    assert (two.ranking["sign_certain"] == (two.ranking["influence"].abs() > beyond)).all()


def test_what_passes_the_check_can_be_answered(toy: Toy) -> None:
    """An estimator that is not refused gives what memorization needs."""
    view = asked(toy, "memorization")
    for name in choices_of("estimator"):
        estimator = estimator_named(name, SETTINGS.get(name))
        if estimator.requires <= toy.learner.provides and name not in ("tracin_adam", "tracin_we"):
            try:
                view.check(name)
            except IncompatibleError:
                continue
            found = estimator.estimate(toy.run(estimator, name))
            assert found.self_influence is not None and not found.self_influence_note, name


def test_without_effects_few_trainings_resolve_one_pair_in_twenty(toy: Toy) -> None:
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(200):
        parts = [Influence(values=rng.normal(size=(9, 4))) for _ in range(3)]
        shares.append(asked(toy, "expected", seeds=3).look(*parts).report["resolved_pairs"])
    assert 0.04 < np.mean(shares) < 0.06


def test_groups_without_instances_are_left_out(toy: Toy) -> None:
    data = replace(toy.problem.data, task="regression", train=replace(toy.train, y=np.repeat(0.5, 9)))
    groups = groups_of(toy.with_data(data).run(estimator_named("random"), "random"), "label", 4, 1)
    assert len(groups) == 1 and groups.members.all()
