"""Generated samples: copies and authentic ones by plain distances, influence on them by the estimator itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from influx.config import Settings, compose
from influx.datasets.digits import Digits
from influx.engines import generation
from influx.errors import ConfigError, IncompatibleError
from influx.influence import Influence
from influx.job import Job, assemble
from influx.judged import Judged
from influx.metrics.generated import COPIES, INFLUENCE, NAMES, GeneratedSamples
from influx.metrics.tidy import tables_of
from influx.problem import Split
from influx.streams import normals, stream
from influx.trained import trained_problem

SMALL = [
    *("dataset=iris", "dataset.n_train=30", "dataset.n_test=10", "model=vae", "model.width=[4]", "model.latent=2"),
    *("training.epochs=2", "training.dtype=float64", "truth=none", "baselines=[random]", "quiet=true", "metric=[]"),
    *("training.checkpoints=2", "optimizer.lr=0.01"),
]
METRIC = GeneratedSamples(samples=6, k=3, listed=2, n_boot=100)


def settings_of(*overrides: str) -> Settings:
    return compose([*SMALL, *overrides])


def job_of(tmp_path: Path, *overrides: str) -> Job:
    settings = settings_of(*overrides)
    return assemble(replace(settings, values={**settings.values, "paths": {"outputs": str(tmp_path)}}))


def judged_of(job: Job) -> tuple[Judged, Any]:
    fitted = trained_problem(job)
    run = job.run(fitted, job.estimator.requires, job.estimator_name, job.bank())
    made = Judged.of(job, job.estimator_name, job.estimator.estimate(run), [])
    return made, replace(job.run(fitted, METRIC.requires, "generated", job.bank()), judged=made)


def test_samples_are_decoded_normals_and_do_not_depend_on_their_number(tmp_path: Path) -> None:
    job = job_of(tmp_path, "model.conditional=true")
    fitted, data = trained_problem(job), job.problem.data
    made = generation.generated(fitted, data, 6, 3, job.problem.seed)
    few = generation.generated(fitted, data, 2, 3, job.problem.seed)
    assert made is not None and few is not None and made.given
    np.testing.assert_array_equal(made.split.x[:2], few.split.x)
    assert made.split.y.tolist() == [0, 1, 2, 0, 1, 2]
    drawn = normals(job.problem.seed, "generated", np.arange(6), 2)
    import torch

    latent = torch.cat([torch.from_numpy(drawn), torch.eye(3, dtype=torch.float64)[made.split.y]], 1)
    w, b, v, c = fitted.model().decoder.parameters()  # type: ignore[attr-defined]
    expected = (torch.tanh(latent @ w.T + b) @ v.T + c).detach().numpy()
    np.testing.assert_allclose(made.split.x, expected, rtol=1e-6)
    assert not set(made.split.ids) & (set(data.train.ids) | set(data.test.ids))
    distances = np.linalg.norm(made.split.x[:, None] - data.train.x, axis=2)
    np.testing.assert_allclose(made.nearest.distance, np.sort(distances, axis=1)[:, :3], rtol=1e-5)


def test_without_labels_a_sample_has_that_of_its_nearest_instance(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    made = generation.generated(trained_problem(job), job.problem.data, 6, 3, 0)
    assert made is not None and not made.given
    np.testing.assert_array_equal(made.split.y, job.problem.train.y[made.nearest.rows[:, 0]])


def test_influence_on_samples_is_that_of_the_estimator_on_such_test_instances(tmp_path: Path) -> None:
    made, _ = judged_of(job_of(tmp_path, "estimator=vae_tracin", "matrix_mb=0"))
    test = made.job.problem.test
    np.testing.assert_allclose(made.on(test).values, made.own.values, rtol=1e-12)
    few = made.on(test.take(slice(2, 5)))
    assert isinstance(few.values, np.memmap)
    np.testing.assert_allclose(few.values, made.own.values[:, 2:5], rtol=1e-10)


def test_estimators_that_retrain_are_refused_on_other_instances(tmp_path: Path) -> None:
    job = job_of(tmp_path, "estimator=loo", "dataset.n_train=10")
    made = Judged.of(job, "loo", Influence(values=np.zeros((10, 10))), [])
    with pytest.raises(IncompatibleError, match="this estimator retrains models"):
        made.on(job.problem.test)
    found = METRIC.evaluate(made.own, replace(judged_run(job), judged=made)).set_index("metric")
    assert (found.status[list(INFLUENCE)] == "not applicable").all() and (found.status[list(COPIES)] == "ok").all()


def judged_run(job: Job) -> Any:
    return job.run(trained_problem(job), METRIC.requires, "generated", job.bank())


def test_numbers_and_tables_by_plain_loops(tmp_path: Path) -> None:
    made, run = judged_of(job_of(tmp_path, "estimator=tracincp", "model.conditional=true"))
    frame = METRIC.evaluate(made.own, run)
    found, data = frame.set_index("metric"), run.problem.data
    assert list(found.index) == list(NAMES) and (found.status == "ok").all()
    samples = generation.generated(run.fitted, data, 6, 3, run.problem.seed)
    assert samples is not None
    values, x = made.on(samples.split).values, np.float64(data.train.x)
    mine = np.linalg.norm(np.float64(samples.split.x)[:, None] - x, axis=2)
    its = np.linalg.norm(np.float64(data.test.x)[:, None] - x, axis=2).min(axis=1)
    inner = np.linalg.norm(x[:, None] - x, axis=2) + np.diag(np.full(len(x), np.inf))
    near = mine.argmin(axis=1)
    flags = np.repeat([True, False], [6, 10])
    expected = {
        "generated_copying": roc_auc_score(flags, -np.concatenate([mine.min(axis=1), its])),
        "generated_authentic": np.mean([mine[s].min() > inner[i].min() for s, i in enumerate(near)]),
        "generated_nearest_place": np.mean([(values[:, s] > values[i, s]).sum() / 29 for s, i in enumerate(near)]),
    }
    shares, labels = [], []
    for s in range(6):
        top = np.argsort(-values[:, s])[:3]
        shares.append(np.isin(np.argsort(mine[s])[:3], top).mean())
        labels.append((data.train.y[top] == s % 3).mean())
    expected |= {"generated_nearest_share": np.mean(shares), "generated_same_label": np.mean(labels)}
    for name, value in expected.items():
        assert found.value[name] == pytest.approx(value, abs=1e-9), name
    assert np.isnan(found.ci_low["generated_nearest_share"])  # 0 for all
    found = found.drop("generated_nearest_share")
    assert (found.ci_low <= found.value).all() and (found.value <= found.ci_high).all()
    table = tables_of(frame)["generated"]
    assert set(tables_of(frame)) == {"generated"} and len(table) == 6 * 2 * 2  # no images of a table
    one = table[(table["sample"] == 4) & (table["role"] == "opponent") & (table["rank"] == 2)].iloc[0]
    row = np.argsort(values[:, 4])[1]
    assert one["train_id"] == data.train.ids[row] and one["influence"] == pytest.approx(values[row, 4])
    assert one["distance"] == pytest.approx(mine[4, row]) and one["label"] == data.classes[1]
    assert one["nearest_id"] == data.train.ids[near[4]]


def test_copies_are_told() -> None:
    x = np.random.default_rng(0).normal(size=(40, 3))
    train = Split(x=x, y=np.zeros(40), ids=np.arange(40))
    test = Split(x=np.random.default_rng(1).normal(size=(30, 3)), y=np.zeros(30), ids=40 + np.arange(30))
    copies = x[:20] + 1e-6
    made = generation.Generated(
        Split(x=copies, y=np.zeros(20), ids=100 + np.arange(20)), False, generation.nearest(train, copies, 1)
    )
    run: Any = SimpleNamespace(train=train, test=test, rng=lambda purpose: stream(0, purpose))
    copying, authentic = METRIC._copies(made, run)
    assert copying.value == 1 and authentic.value == 0 and authentic.ci_high < 0.2


def test_copies_of_duplicated_instances_are_told() -> None:
    x = np.random.default_rng(0).normal(size=(40, 3))
    x = np.concatenate([x, x[:20], x[:5]])
    train = Split(x=x, y=np.zeros(65), ids=np.arange(65))
    plain = np.linalg.norm(x[:, None] - x, axis=2)
    found, number = generation.different(train)
    np.testing.assert_allclose(found, np.where(plain > 0, plain, np.inf).min(axis=1))
    assert number == 25
    copies = x[:20] + 1e-6
    made = generation.Generated(
        Split(x=copies, y=np.zeros(20), ids=100 + np.arange(20)), False, generation.nearest(train, copies, 1)
    )
    run: Any = SimpleNamespace(train=train, test=train, rng=lambda purpose: stream(0, purpose))
    authentic = list(METRIC._copies(made, run))[1]
    assert authentic.value == 0 and "25 of them copies of others" in authentic.protocol
    same = Split(x=np.ones((6, 3)), y=np.zeros(6), ids=np.arange(6))
    run = SimpleNamespace(train=same, test=same, rng=run.rng)
    assert (
        list(METRIC._copies(replace(made, nearest=generation.nearest(same, copies, 1)), run))[1].status == "degenerate"
    )


@pytest.mark.parametrize(
    ("shares", "words"),
    [([0.1, 0.2, 0.3, 0.4], "no interval from 4 samples"), ([0.5] * 9, "no interval: all resamples agree")],
)
def test_no_interval_from_few_samples_or_equal_ones(shares: list[float], words: str) -> None:
    run: Any = SimpleNamespace(rng=lambda purpose: stream(0, purpose))
    row = METRIC._mean("name", np.array(shares), run, "", "")
    assert np.isnan(row.ci_low) and np.isnan(row.ci_high) and row.note == words and row.status == "ok"


def test_what_the_estimator_warns_of_on_samples_is_passed_on(tmp_path: Path) -> None:
    job = other(tmp_path, "model=autoregressive", "model.width=[4]", "estimator=vae_tracin")
    made, _ = judged_of(job)
    made.on(job.problem.test.take(slice(0, 2)))
    assert any("takes no latent draws" in sentence for sentence in made.warnings)


def test_images_are_kept_as_people_see_them(tmp_path: Path) -> None:
    job = job_of(tmp_path, "dataset=digits", "dataset.n_train=60", "dataset.n_test=20", "estimator=tracincp")
    made, run = judged_of(job)
    tables = tables_of(METRIC.evaluate(made.own, run))
    pictures = tables["generated_images"]
    assert pictures[["channels", "height", "width"]].drop_duplicates().to_numpy().tolist() == [[1, 8, 8]]
    shown = np.stack([np.frombuffer(p, np.uint8) for p in pictures["pixels"]]) / 255
    samples = generation.generated(run.fitted, run.problem.data, 6, 3, run.problem.seed)
    assert samples is not None
    clean = Digits(n_train=60, n_test=20, standardize=False).load(0)
    mean, std = clean.train.x.mean(axis=0), clean.train.x.std(axis=0)
    expected = np.clip(samples.split.x * np.where(std > 0, std, 1) + mean, 0, 1)
    np.testing.assert_allclose(shown, expected, atol=1 / 255)


def other(tmp_path: Path, *overrides: str) -> Job:
    settings = compose([o for o in SMALL if not o.startswith("model")] + list(overrides))
    return assemble(replace(settings, values={**settings.values, "paths": {"outputs": str(tmp_path)}}))


def test_models_without_samples_are_not_applicable(tmp_path: Path) -> None:
    found = METRIC.evaluate(Influence(values=np.zeros((30, 10))), judged_run(other(tmp_path, "model=mlp")))
    assert (found.status == "not applicable").all() and found.note.str.contains("no density model").all()


def test_a_density_in_closed_form_makes_samples_with_its_moments(tmp_path: Path) -> None:
    job = other(tmp_path, "model=gaussian", "estimator=generative_downsampling", "model.penalty=0.1")
    data = job.problem.data
    made = generation.generated(trained_problem(job), data, 4000, 3, 0)
    assert made is not None and not made.given
    np.testing.assert_allclose(made.split.x.mean(axis=0), data.train.x.mean(axis=0), atol=0.08)
    expected = np.cov(data.train.x.T, bias=True) + 0.1 * np.eye(4)
    np.testing.assert_allclose(np.cov(made.split.x.T), expected, atol=0.12)


@pytest.mark.parametrize("name", ["samples", "k", "listed"])
def test_numbers_below_one_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"metric.generated.{name} must be at least 1, got 0"):
        GeneratedSamples(**{name: 0})
