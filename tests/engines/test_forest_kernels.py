"""Leaf features and the linear model on them, against dense arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from influx.engines import forest_kernels
from influx.engines.forest import Forest, Objective
from influx.engines.forest_kernels import LeafFeatures, Link, fit_loss, fit_surrogate

OUTPUTS: dict[Link, int] = {"value": 1, "logistic": 1, "softmax": 3}


def grown(n: int = 150, m: int = 40, trees: int = 6, leaves: int = 5) -> Forest:
    """Random leaves, of which the last of every tree holds no training instance."""
    rng = np.random.default_rng(0)
    return Forest(
        boosted=False,
        objective=Objective("share"),
        train_y=rng.integers(2, size=n),
        test_y=rng.integers(2, size=m),
        base=np.zeros(1),
        train_leaves=rng.integers(leaves - 1, size=(trees, 1, n)).astype(np.int32),
        test_leaves=rng.integers(leaves, size=(trees, 1, m)).astype(np.int32),
        values=np.zeros(trees * leaves),
        sizes=np.full((trees, 1), leaves),
        fixed=np.zeros((trees, 1), bool),
    )


@pytest.mark.parametrize("few", [0, 64])
def test_blocks_of_products_are_those_of_dense_features(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forest_kernels, "FEW_LEAVES", few)
    monkeypatch.setattr(forest_kernels, "BLOCK_BYTES", 1)
    monkeypatch.setattr(forest_kernels, "STRETCH_BYTES", 1)
    monkeypatch.setattr(forest_kernels, "TOGETHER", 16)
    f = grown()
    train, test = (leaves[:, 0].T for leaves in (f.train_leaves, f.test_leaves))
    sizes = [np.maximum(np.bincount(tree, minlength=5), 1) for tree in train.T]
    wanted = sum((train[:, None, t] == test[None, :, t]) / sizes[t][train[:, t]][:, None] ** 2 for t in range(6))
    found, parts = np.full((150, 40), np.nan), []
    for rows, columns, products in LeafFeatures.of(f, 1.0).kernel():
        parts.append((rows, columns))
        found[rows, columns] = products
    assert len(parts) == 9  # three of up to 64 training instances, three of up to 16 test instances
    assert found == pytest.approx(np.asarray(wanted), rel=1e-14)


@pytest.mark.parametrize("link", OUTPUTS)
@pytest.mark.parametrize("penalty", [1.0, 1e-5])
def test_fit_is_a_minimum(link: Link, penalty: float) -> None:
    features, rng = LeafFeatures.of(grown(), 0.5), np.random.default_rng(1)
    labels = torch.from_numpy(rng.integers(max(2, OUTPUTS[link]), size=150))
    targets = (labels[:, None] == torch.arange(3)).double() if link == "softmax" else labels[:, None].double()
    fitted = fit_surrogate(features, targets, link, penalty, max_steps=50, tolerance=1e-10)
    assert fitted.residual <= 1e-10
    phi = torch.from_numpy(features.train.toarray())
    assert fitted.outputs.numpy() == pytest.approx((phi @ fitted.theta).numpy(), abs=1e-12)
    theta = fitted.theta.clone().requires_grad_()
    (slope,) = torch.autograd.grad(_objective(phi @ theta, theta, targets, link, penalty), theta)
    assert float(slope.norm()) <= 1.01e-10 * penalty * float(fitted.theta.norm()) + 1e-15


def _objective(outputs: Tensor, theta: Tensor, targets: Tensor, link: Link, penalty: float) -> Tensor:
    if link == "value":
        loss = 0.5 * (outputs - targets).square().mean()
    elif link == "logistic":
        loss = torch.nn.functional.binary_cross_entropy_with_logits(outputs, targets)
    else:
        loss = torch.nn.functional.cross_entropy(outputs, targets)
    return loss + 0.5 * penalty * theta.square().sum()


def test_losses_of_far_outputs_keep_their_digits() -> None:
    outputs = torch.tensor([[-800.0, -45.0, -1e-9, 30.0, 39.0, 41.0, 800.0]], dtype=torch.float64)
    for label in (0.0, 1.0):
        found = fit_loss(outputs, torch.full_like(outputs, label), "logistic")
        wanted = np.logaddexp(0.0, outputs[0].numpy()) - label * outputs[0].numpy()
        assert found.numpy() == pytest.approx(wanted, rel=1e-15, abs=1e-14)
