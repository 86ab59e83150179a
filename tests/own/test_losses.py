"""A loss function of one's own, held against the closed forms of cross-entropy."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from influx.errors import IncompatibleError
from influx.learners.torch.losses import OwnLoss, check_loss
from influx.learners.torch.tasks import Classification

OUTPUTS = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()
Y = torch.tensor([0, 1, 2, 2, 0])


def own() -> OwnLoss:
    return OwnLoss(lambda outputs, y: F.cross_entropy(outputs, y, reduction="none"))


def test_values_and_derivatives_are_those_of_the_closed_forms() -> None:
    closed = Classification()
    assert torch.allclose(own().loss(OUTPUTS, Y), closed.loss(OUTPUTS, Y))
    assert torch.allclose(own().loss(OUTPUTS.expand(2, 5, 3), Y), closed.loss(OUTPUTS, Y).expand(2, 5))
    assert torch.allclose(own().output_gradient(OUTPUTS, Y), closed.output_gradient(OUTPUTS, Y))
    products = []
    for task in (own(), closed):
        factors = torch.stack([task.curvature_factor(OUTPUTS, Y, k) for k in range(3)])
        products.append(torch.einsum("kni,knj->nij", factors, factors))
    assert torch.allclose(products[0], products[1])


def test_negative_curvature_is_left_out() -> None:
    task = OwnLoss(lambda outputs, y: outputs[:, 0].square() - outputs[:, 1].square())
    factors = torch.stack([task.curvature_factor(OUTPUTS, Y, k) for k in range(3)])
    found = torch.einsum("kni,knj->nij", factors, factors)
    assert torch.allclose(found, torch.diag(torch.tensor([2.0, 0, 0])).double().expand(5, 3, 3))


def test_products_that_do_not_see_targets_are_refused() -> None:
    with pytest.raises(IncompatibleError, match="curvature=hessian or empirical_fisher"):
        own().curved(OUTPUTS, OUTPUTS)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda outputs, y: outputs.mean(), "one number per instance, shape (5,), got shape ()"),
        (lambda outputs, y: 1.0, "got float"),
        (lambda outputs, y: outputs @ outputs, "loss(outputs, y) fails on outputs of shape (5, 3)"),
    ],
)
def test_a_function_that_is_no_loss_is_refused(loss: object, words: str) -> None:
    def call(outputs: Tensor, y: Tensor) -> Tensor:
        assert callable(loss)
        found: Tensor = loss(outputs, y)
        return found

    with pytest.raises(IncompatibleError) as refused:
        check_loss(call, OUTPUTS, Y)
    assert words in str(refused.value)
