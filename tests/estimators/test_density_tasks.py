"""Estimators on density models, against loops over torch's own autograd and optimizer with latent draws written out."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import influx
from influx.config import compose, conf_dir, load_choice
from influx.engines.default_curvature import suited
from influx.errors import IncompatibleError
from influx.estimators.retraining.averaged import Averaged
from influx.influence import Influence
from influx.job import assemble
from influx.learners.torch.optimizers import SGD
from influx.models.autoregressive import Autoregressive
from influx.models.vae import VAE
from influx.oracles import banks, checkpoints, plain, projected, toys
from influx.oracles.dense import dense_matrix
from influx.oracles.toys import Toy, estimator_named
from influx.problem import Split
from influx.streams import normals

MODELS: dict[str, Any] = {
    "vae": VAE(width=[4], latent=2, draws=2, evaluation_draws=3),
    "autoregressive": Autoregressive(width=[4]),
}
DAMPING = 0.5


@dataclass(frozen=True, kw_only=True)
class Density(Toy):
    """A toy whose modules may read latent draws behind the numbers of an instance."""

    def tensors(self, split: Split) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        model = self.learner.model
        return self.seen(split, "draws", getattr(model, "evaluation_draws", 0)), Toy.tensors(split)[1]

    def seen(self, split: Split, name: str, count: int) -> Tensor:
        x = Toy.tensors(split)[0]
        drawn = normals(self.problem.seed, name, split.ids, count * getattr(self.learner.model, "latent", 0))
        return torch.cat([x, torch.from_numpy(drawn)], 1)


@pytest.fixture(scope="module", params=MODELS)
def toy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Density:
    data = replace(toys.table(n_train=7, n_test=3), task="density")
    model, optimizer = MODELS[request.param], SGD(lr=0.02, momentum=0.5, weight_decay=0.01)
    made = toys.train(tmp_path_factory.mktemp("toy"), data, model, optimizer)
    return Density(problem=made.problem, fitted=made.fitted, folder=made.folder)


def by_default(toy: Toy, name: str, **settings: Any) -> Influence:
    """What a run asks the estimator for where no curvature was chosen."""
    fitting, notices = suited({name: estimator_named(name, settings)}, "density")
    assert "estimator.curvature=empirical_fisher was taken" in notices[name]
    return fitting[name].estimate(toy.run(fitting[name], name))


@pytest.mark.parametrize(("name", "pair"), [("tracincp", checkpoints.dot), ("gas", checkpoints.cosine)])
def test_sums_over_checkpoints_are_those_of_gradients_written_out(name: str, pair: Any, toy: Density) -> None:
    found = toy.estimate(name)
    values, own = checkpoints.contributions(toy, checkpoints.checkpoint_weights(toy), lambda *_: pair)
    np.testing.assert_allclose(found.values, values.sum(0), rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(found.self_influence, own.sum(0), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("if_exact", {}),
        pytest.param("influence_functions", {}, marks=pytest.mark.slow),
        pytest.param("if_cg", {"tolerance": 1e-12}, marks=pytest.mark.slow),
        pytest.param("if_arnoldi", {"rank": 999, "iterations": 999}, marks=pytest.mark.slow),
    ],
)
def test_influence_functions_take_the_empirical_fisher_matrix(name: str, settings: Any, toy: Density) -> None:
    found = by_default(toy, name, damping=DAMPING, **settings)
    mine, theirs = (plain.gradients(toy, toy.module(), split) for split in (toy.train, toy.test))
    matrix = dense_matrix(toy, "empirical_fisher") + DAMPING * np.eye(mine.shape[1])
    expected = mine @ np.linalg.solve(matrix, theirs.T) / len(mine)
    np.testing.assert_allclose(found.values, expected, rtol=1e-5, atol=1e-9)
    assert found.report["curvature"] == "empirical_fisher"


@pytest.mark.slow
def test_layers_alone_have_the_blocks_of_the_empirical_fisher_matrix(toy: Density) -> None:
    found, module = by_default(toy, "if_ekfac", damping=DAMPING, whole=10**6), toy.module()
    linear = isinstance(toy.learner.model, VAE)  # whose weights have their bias beside them in one block

    def block_of(name: str) -> str:
        return name.rpartition(".")[0] if linear else name

    expected = np.zeros_like(found.values)
    for block_name in {block_of(name) for name, _ in module.named_parameters()}:
        only = [p for name, p in module.named_parameters() if block_of(name) == block_name]
        mine, theirs = (plain.gradients(toy, module, split, only) for split in (toy.train, toy.test))
        block = mine.T @ mine / len(mine) + (DAMPING + 0.01) * np.eye(mine.shape[1])
        expected += mine @ np.linalg.solve(block, theirs.T) / len(mine)
    np.testing.assert_allclose(found.values, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.slow
def test_trak_is_regression_on_gradients_of_log_densities(toy: Density) -> None:
    module = toy.module()
    mine, theirs = (projected.gradients(toy, module, s, lambda risk, _: -risk[0, 0]) for s in (toy.train, toy.test))
    found = toy.estimate("trak", kind="none", damping=5.0)
    np.testing.assert_allclose(found.values, projected.regression(mine, theirs, 5.0), rtol=1e-7, atol=1e-12)


def trained(toy: Density, weights: Any, subset: bool) -> tuple[Any, Any]:
    """Risks of test (m,) and training instances (n,) after the recorded steps with ``weights`` (n,)."""
    module, record, optimizer = toy.module(0).train(), toy.trajectory(), toy.learner.optimizer
    steps = torch.optim.SGD(module.parameters(), lr=1.0, momentum=0.5, weight_decay=optimizer.weight_decay)
    weight, row_of = torch.from_numpy(np.asarray(weights, np.float64)), {int(i): r for r, i in enumerate(toy.train.ids)}
    for step, lr in enumerate(record["lr"][:, 0]):
        batch = record["batch_ids"][record["batch_offsets"][step] : record["batch_offsets"][step + 1]]
        rows = [row_of[int(i)] for i in batch]
        x = toy.seen(toy.train, f"draws/0/{step}", getattr(toy.learner.model, "draws", 0))[rows]
        total = float(weight[rows].sum()) or 1.0
        steps.param_groups[0]["lr"] = float(lr)
        steps.zero_grad()
        ((weight[rows] * module(x)[:, 0]).sum() / (total if subset else len(rows))).backward()
        steps.step()
    return plain.losses(toy, module, toy.test), plain.losses(toy, module, toy.train)


@pytest.mark.slow
def test_leave_one_out_is_training_again_with_the_draws_of_the_others(toy: Density) -> None:
    found, n = toy.estimate("loo", ceiling_budget=0), len(toy.train)
    test, own = trained(toy, np.ones(n), False)
    without = [trained(toy, 1 - unit, False) for unit in np.eye(n)]
    np.testing.assert_allclose(found.values, [risks - test for risks, _ in without], rtol=1e-8, atol=1e-12)
    alone = [risks[i] - own[i] for i, (_, risks) in enumerate(without)]
    np.testing.assert_allclose(found.self_influence, alone, rtol=1e-8, atol=1e-12)


@pytest.mark.slow
def test_downsampling_is_the_gap_of_means_of_models_trained_on_subsets(toy: Density) -> None:
    masks = banks.of_sizes(toy, "draws/fixed/5", [5] * 30)
    expected, _ = banks.gap(masks, np.stack([trained(toy, mask, True)[0] for mask in masks]))
    found = toy.estimate("downsampling", models=30, fraction=0.7)
    np.testing.assert_allclose(found.values, expected, rtol=1e-8, atol=1e-11)


def test_only_what_asks_for_a_gauss_newton_matrix_of_densities_is_changed() -> None:
    names = ("if_cg", "datainf", "tracincp", "influence_functions")
    given = {name: estimator_named(name) for name in names} | {
        "hessian": estimator_named("if_cg", {"curvature": "hessian"}),
        "identity": estimator_named("influence_functions", {"solver": "identity"}),
    }
    found, notices = suited(given, "density")
    assert set(notices) == {"if_cg", "influence_functions"}
    assert all(found[name] is given[name] for name in given if name not in notices)
    assert {found[name].curvature for name in notices} == {"empirical_fisher"}  # type: ignore[attr-defined]
    assert suited(given, "classification") == (given, {})


SMALL = ["dataset=wine", "dataset.n_train=24", "dataset.n_test=4", "model.width=[4]", "optimizer.lr=0.01"]
SMALL += ["training.epochs=6", "truth=none", "metric=[]", "quiet=true"]
LESS = {"if_lissa": ["estimator.depth=50", "estimator.repeats=1"]}
ASKING = [p.stem for p in sorted((conf_dir() / "estimator").glob("*.yaml"))]
ASKING = [name for name in ASKING if load_choice("estimator", name).get("curvature") == "ggn"]


def test_averages_ask_an_estimator_that_fits(toy: Density) -> None:
    averaged = Averaged(of="if_exact", settings={"damping": DAMPING}, over="checkpoints", count=2)
    inner, notice = averaged._fitting("density")
    assert inner == replace(estimator_named("if_exact", {"damping": DAMPING}), curvature="empirical_fisher")  # type: ignore[type-var]
    assert "estimator.settings.curvature=empirical_fisher was taken" in notice
    assert averaged._fitting("classification") == (estimator_named("if_exact", {"damping": DAMPING}), "")
    asked = replace(averaged, settings={"curvature": "ggn"})
    assert asked._fitting("density") == (estimator_named("if_exact", {"curvature": "ggn"}), "")


def test_the_saved_settings_hold_what_was_taken_unless_the_users_own_files_ask(tmp_path: Path) -> None:
    told = ["dataset=wine", "model=autoregressive", "estimator=if_exact", "truth=none", "metric=[]", "baselines=[]"]
    taken, asked = (assemble(compose([*told, *more])) for more in ([], ["estimator.curvature=empirical_fisher"]))
    assert taken.name == asked.name and taken.settings["estimator"] == asked.settings["estimator"]
    assert "if_exact" in taken.notices and not asked.notices
    of_experiment, of_estimator = tmp_path / "a" / "experiment" / "mine.yaml", tmp_path / "b" / "estimator"
    of_experiment.parent.mkdir(parents=True)
    of_experiment.write_text("# @package _global_\nestimator:\n  curvature: ggn\n")
    shutil.copytree(conf_dir() / "estimator", of_estimator)
    for overrides, folder in (([*told, "experiment=mine"], tmp_path / "a"), (told, tmp_path / "b")):
        kept = assemble(compose(overrides, folder))
        assert kept.settings["estimator"]["curvature"] == "ggn" and not kept.notices


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ASKING if name != "fast_if"])  # which needs a last linear layer
def test_runs_say_which_curvature_was_taken(name: str, tmp_path: Path) -> None:
    told = [*SMALL, "model=vae", f"estimator={name}", "baselines=[]", f"paths.outputs={tmp_path}"]
    run = influx.run([*told, *LESS.get(name, [])])
    assert any("estimator.curvature=empirical_fisher was taken" in said for said in run.record.manifest["warnings"])
    report = json.loads((run.folder / "estimate.json").read_text())["report"]
    assert report["curvature"] == "empirical_fisher" and np.isfinite(np.asarray(run.influence)).all()


@pytest.mark.slow
def test_baselines_have_it_too_and_what_was_asked_for_is_refused(tmp_path: Path) -> None:
    told = [*SMALL, "model=autoregressive", f"paths.outputs={tmp_path}", "baselines=[if_exact]"]
    run = influx.run([*told, "estimator=if_cg", "estimator.curvature=hessian", "estimator.damping=50"])
    (said,) = [w for w in run.record.manifest["warnings"] if "was taken in its place" in w]
    assert said.startswith("if_exact: a density model has no Gauss-Newton matrix")
    with pytest.raises(IncompatibleError, match="has no Gauss-Newton matrix or Fisher matrix of its outputs"):
        influx.run([*told, "estimator=if_cg", "estimator.curvature=ggn"])
