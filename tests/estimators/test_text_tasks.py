"""Estimators on text classification and on language models, against loops over torch's own autograd and optimizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from influx.engines.curvature import Curvature
from influx.errors import IncompatibleError, NumericalError
from influx.learners.torch.optimizers import SGD, Adam
from influx.models.text_decoder import TextDecoder
from influx.models.text_encoder import TextEncoder
from influx.oracles import banks, checkpoints, plain, projected, retraining, toys
from influx.oracles.dense import dense_matrix
from influx.oracles.toys import Toy

SMALL = {"width": 4, "heads": 2, "hidden": 4}
DAMPING = 3.0  # above minus the Hessian's least eigenvalue


@pytest.fixture(scope="module", params=["encoder", "decoder"])
def toy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Toy:
    model: Any = {"encoder": TextEncoder, "decoder": TextDecoder}[request.param](**SMALL)
    task = "density" if request.param == "decoder" else "classification"
    optimizer = SGD(lr=0.1, momentum=0.5, weight_decay=0.01)
    return toys.train(tmp_path_factory.mktemp("toy"), toys.tokens(task), model, optimizer)


def test_leave_one_out_is_training_again_without_each_text(toy: Toy) -> None:
    found = toy.estimate("loo", ceiling_budget=0)
    values, own = retraining.leave_one_out(toy)
    np.testing.assert_allclose(found.values, values, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(found.self_influence, own, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(("name", "pair"), [("tracincp", checkpoints.dot), ("gas", checkpoints.cosine)])
def test_sums_over_checkpoints_are_those_of_gradients_written_out(name: str, pair: Any, toy: Toy) -> None:
    found = toy.estimate(name)
    values, own = checkpoints.contributions(toy, checkpoints.checkpoint_weights(toy), lambda *_: pair)
    np.testing.assert_allclose(found.values, values.sum(0), rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(found.self_influence, own.sum(0), rtol=1e-9, atol=1e-13)


@pytest.mark.slow
def test_influence_functions_are_those_of_the_dense_hessian(toy: Toy) -> None:
    h = dense_matrix(toy, "hessian")
    mine, theirs = (plain.gradients(toy, toy.module(), split) for split in (toy.train, toy.test))
    expected = mine @ np.linalg.solve(h + DAMPING * np.eye(len(h)), theirs.T) / len(mine)
    with_ekfac = {"tolerance": 1e-12, "preconditioner": "ekfac"}
    for name, settings in (("if_exact", {}), ("if_cg", {"tolerance": 1e-12}), ("if_cg", with_ekfac)):
        found = toy.estimate(name, curvature="hessian", damping=DAMPING, **settings)
        np.testing.assert_allclose(found.values, expected, rtol=1e-6, atol=1e-11)


def test_advice_for_a_hessian_that_is_not_positive_is_a_curvature_of_the_task(toy: Toy) -> None:
    density = toy.problem.data.task == "density"
    other = "empirical_fisher" if density else "ggn"  # a density has no Gauss-Newton matrix
    for name in ("if_exact", "if_cg"):
        with pytest.raises(NumericalError, match=f"set estimator.damping=.* or estimator.curvature={other}$"):
            toy.estimate(name, curvature="hessian", damping=0.0)
    assert np.isfinite(toy.estimate("if_cg", curvature=other, damping=DAMPING).values).all()
    curvature = Curvature(toy.fitted, toy.train)
    mean = curvature.trace(curvature.operator(other, 0.0)) / curvature.at.size
    assert curvature.operator("hessian", None).damping == pytest.approx(0.1 * mean)
    if density:
        with pytest.raises(IncompatibleError, match="no Gauss-Newton matrix or Fisher matrix"):
            toy.estimate("if_cg", curvature="sampled_fisher", damping=DAMPING)


@pytest.mark.slow
def test_exact_unrolling_comes_close_to_leaving_out(toy: Toy) -> None:
    found, exact = (toy.estimate(name, **s).values for name, s in (("hydra", {}), ("loo", {"ceiling_budget": 0})))
    assert np.corrcoef(found.ravel(), exact.ravel())[0, 1] > 0.9


@pytest.mark.slow
def test_downsampling_is_the_gap_of_means_of_models_trained_on_subsets(toy: Toy) -> None:
    masks = banks.of_sizes(toy, "draws/fixed/6", [6] * 30)
    expected, _ = banks.gap(masks, banks.outcomes(toy, masks)[0])
    found = toy.estimate("downsampling", models=30, fraction=0.7)
    np.testing.assert_allclose(found.values, expected, rtol=1e-8, atol=1e-11)


@pytest.mark.slow
def test_trak_is_regression_on_gradients_of_margins_written_out(toy: Toy) -> None:
    module, density = toy.module(), toy.problem.data.task == "density"
    margin = (lambda risk, _: -risk[0, 0]) if density else projected.margin(toy)
    mine, theirs = (projected.gradients(toy, module, split, margin) for split in (toy.train, toy.test))
    q = np.ones(len(mine)) if density else projected.slopes(toy, module, toy.train)
    found = toy.estimate("trak", kind="none", damping=5.0)
    np.testing.assert_allclose(
        found.values, q[:, None] * projected.regression(mine, theirs, 5.0), rtol=1e-7, atol=1e-12
    )


@pytest.mark.slow
def test_projections_keep_inner_products_of_gradients_nearly(toy: Toy) -> None:
    found, exact = toy.estimate("tracinrp", dim=4096), toy.estimate("tracincp")
    assert np.corrcoef(found.values.ravel(), exact.values.ravel())[0, 1] > 0.95


def test_training_goes_on_where_it_was_and_in_float32(tmp_path: Path) -> None:
    model, data = TextEncoder(**SMALL), toys.tokens()
    toy = toys.train(tmp_path, data, model, Adam(lr=0.01), dtype="float32")
    states = list(toy.fitted.replay(0, 3))
    assert states[-1].losses == toy.fitted.trajectory.loss[:3].tolist()
    assert toy.estimate("loo", ceiling_budget=0).values.dtype == np.float64
