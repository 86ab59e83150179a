"""The judged estimator asked again: under other seeds and under nets that have not learnt."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

import influx
from influx.config import Settings, compose
from influx.errors import ConfigError, IncompatibleError, NumericalError
from influx.influence import Influence
from influx.job import Job, assemble
from influx.judged import Judged
from influx.metrics.randomisation import Randomisation
from influx.oracles import plain
from influx.oracles.toys import Toy
from influx.streams import stream
from influx.trained import trained_problem

SMALL = [
    *("dataset=iris", "dataset.n_train=20", "dataset.n_test=6", "model.width=[4]", "training.epochs=2"),
    *("training.dtype=float64", "truth=none", "baselines=[random]", "quiet=true", "training.checkpoints=2"),
]


@cache
def settings_of(*overrides: str) -> Settings:
    return compose([*SMALL, *overrides])


def job_of(tmp_path: Path, *overrides: str) -> Job:
    settings = settings_of(*overrides)
    return assemble(replace(settings, values={**settings.values, "paths": {"outputs": str(tmp_path)}}))


def judged_of(job: Job) -> Judged:
    run = job.run(trained_problem(job), job.estimator.requires, job.estimator_name, job.bank())
    return Judged.of(job, job.estimator_name, job.estimator.estimate(run), [])


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_an_untrained_net_stays_at_its_new_initialisation(tmp_path: Path, optimizer: str) -> None:
    job = job_of(tmp_path, f"optimizer={optimizer}", "optimizer.weight_decay=0.01")
    found = judged_of(job).untrained(0)
    (folder,) = [f for f in (tmp_path / "problems").iterdir() if f.name != job.problem.id]
    toy = Toy(problem=job.problem, fitted=None, folder=folder)
    first, last = (torch_vector(toy.module(step)) for step in (0, toy.steps()[-1]))
    own = torch_vector(replace(toy, folder=job.problem_folder.path).module(0))
    np.testing.assert_allclose(first, last, atol=1e-9)
    assert np.abs(first - own).max() > 0.1
    # TracInCP with equal rates at equal parameters is proportional to the products of gradients
    products = plain.gradients(toy, toy.module(0), toy.train) @ plain.gradients(toy, toy.module(0), toy.test).T
    ratio = np.asarray(found.values) / products
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-5)


def torch_vector(module: Any) -> np.ndarray:
    return np.concatenate([p.detach().numpy().ravel() for p in module.parameters()])


def test_untrained_nets_differ_and_the_estimators_draws_do_not(tmp_path: Path) -> None:
    judged = judged_of(job_of(tmp_path, "estimator=random"))
    np.testing.assert_array_equal(judged.untrained(0).values, judged.own.values)
    assert not np.array_equal(judged.trained(1).values, judged.own.values)
    nets = judged_of(job_of(tmp_path))
    assert spearmanr(nets.untrained(0).values[:, 0], nets.untrained(1).values[:, 0]).statistic < 0.999


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["model=ridge", "dataset=diabetes"], "only a net"),
        (["estimator=loo"], "trains models of its own"),
        (["estimator=hydra"], "follows the steps of training"),
        (["estimator=tracin_ideal"], "follows the steps of training"),
    ],
)
def test_what_has_no_weights_to_replace_is_refused(tmp_path: Path, overrides: list[str], reason: str) -> None:
    given = [o for o in SMALL if not o.startswith(("model", "training", "dataset"))] if len(overrides) > 1 else SMALL
    estimator = [] if len(overrides) == 1 else ["estimator=random"]
    job = assemble(compose([*given, f"paths.outputs={tmp_path}", *overrides, *estimator]))
    judged = Judged.of(job, job.estimator_name, Influence(values=np.ones((1, 1))), [])
    with pytest.raises(IncompatibleError, match=reason):
        judged.untrained(0)


def test_what_learning_rates_decide_is_refused(tmp_path: Path) -> None:
    job = job_of(tmp_path, "estimator=source", "estimator.segments=1")
    with pytest.raises(IncompatibleError, match="follows the steps of training"):
        Judged.of(job, "source", Influence(values=np.ones((1, 1))), []).untrained(0)


def test_a_run_measures_stability_between_its_own_trainings(tmp_path: Path) -> None:
    metrics = ["metric=[stability,randomisation]", "metric.stability.seeds=2", "metric.stability.k=5"]
    few = ["metric.stability.n_boot=100", "metric.randomisation.n_boot=100", "output_dtype=float64"]
    one = influx.run([*SMALL, *metrics, *few, f"paths.outputs={tmp_path}"])
    again = job_of(tmp_path).trained_again(1)
    other = again.estimator.estimate(again.run(trained_problem(again), again.estimator.requires, "", again.bank()))
    expected = np.mean([spearmanr(one.influence[:, j], other.values[:, j]).statistic for j in range(6)])
    table = one.metrics.set_index(["estimator", "metric"])
    assert table.value["tracincp", "stability_spearman"] == pytest.approx(expected)
    assert table.value["random", "randomisation"] == pytest.approx(1)
    assert abs(table.value["random", "stability_spearman"]) < 0.3
    assert (table.status == "ok").all()


def test_expected_influence_is_asked_again_as_a_whole(tmp_path: Path) -> None:
    """Means over two trainings: the first two are the run's own, the next two those of the second answer."""
    job = job_of(tmp_path, "perspective=expected", "perspective.seeds=2")
    judged = Judged.of(job, job.estimator_name, Influence(values=np.ones((20, 6))), [])
    jobs = [job.trained_again(number) for number in (2, 3)]
    runs = [one.run(trained_problem(one), one.estimator.requires, "", one.bank()) for one in jobs]
    expected = np.mean([job.estimator.estimate(run).values for run in runs], axis=0)
    np.testing.assert_allclose(judged.trained(1).values, expected)
    assert judged.trained(0) is judged.own


def run_of(untrained: Any) -> Any:
    return SimpleNamespace(again=SimpleNamespace(untrained=untrained), rng=lambda purpose: stream(0, purpose))


def test_randomisation_is_the_mean_correlation_over_initialisations() -> None:
    rng = np.random.default_rng(0)
    given = [Influence(values=rng.normal(size=(30, 4)), self_influence=rng.normal(size=30)) for _ in range(3)]
    found = Randomisation(inits=2, n_boot=100).evaluate(given[2], run_of(lambda n: given[n])).set_index("metric")
    pairs = [(one.values[:, j], given[2].values[:, j]) for one in given[:2] for j in range(4)]
    assert found.value["randomisation"] == pytest.approx(np.mean([spearmanr(*pair).statistic for pair in pairs]))
    own = [spearmanr(one.self_influence, given[2].self_influence).statistic for one in given[:2]]
    assert found.value["randomisation_self"] == pytest.approx(np.mean(own))
    assert found.ci_low["randomisation_self"] < found.value["randomisation_self"] < found.ci_high["randomisation_self"]


@pytest.mark.parametrize(("error", "status"), [(IncompatibleError, "not applicable"), (NumericalError, "degenerate")])
def test_random_weights_without_influence_are_a_state(error: type[Exception], status: str) -> None:
    def refuse(number: int) -> Influence:
        raise error("for a reason")

    found = Randomisation(n_boot=100).evaluate(Influence(values=np.ones((30, 4))), run_of(refuse))
    assert (found.status == status).all() and found.note.str.contains("for a reason").all() and found.value.isna().all()


def test_constant_influence_and_missing_self_influence_are_states() -> None:
    one = Influence(values=np.ones((30, 4)))
    found = Randomisation(n_boot=100).evaluate(one, run_of(lambda n: one)).set_index("metric")
    assert list(found.status) == ["degenerate", "not applicable"]
    flat = Influence(values=np.arange(120.0).reshape(30, 4), self_influence=np.ones(30))
    found = Randomisation(n_boot=100).evaluate(flat, run_of(lambda n: flat)).set_index("metric")
    assert list(found.status) == ["ok", "degenerate"]


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"metric\.randomisation\.inits"):
        Randomisation(inits=0)
