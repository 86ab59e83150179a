"""Functions of outputs: their gradients, and how the risk falls when the margin rises."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from influx.engines.outputs import OutputGradients, curvatures, output_value
from influx.errors import IncompatibleError
from influx.learners.torch.tasks import Classification, Density, Regression, Task

CASES: list[tuple[Task, Tensor, Tensor]] = [
    (Classification(), torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]]).double(), torch.tensor([0, 2])),
    (Regression(), torch.tensor([[1.5], [-0.5]]).double(), torch.tensor([0.5, 2.0]).double()),
    (Density(), torch.tensor([[1.5], [-0.5]]).double(), torch.tensor([0.5, 2.0]).double()),
]
ids = [type(case[0]).__name__ for case in CASES]


@pytest.mark.parametrize(("task", "outputs", "y"), CASES, ids=ids)
def test_the_risks_gradient_is_minus_the_slope_times_the_margins(task: Task, outputs: Tensor, y: Tensor) -> None:
    of = OutputGradients(task)
    found = of(outputs, y)
    torch.testing.assert_close(-of.slopes[:, None] * found, task.output_gradient(outputs, y))


@pytest.mark.parametrize(("task", "outputs", "y"), CASES[:2], ids=ids[:2])
def test_curvature_is_the_second_derivative_in_the_margin(task: Task, outputs: Tensor, y: Tensor) -> None:
    of = OutputGradients(task)
    of(outputs, y)
    margins = task.margin(outputs, y)
    if isinstance(task, Regression):
        expected = torch.ones(2, dtype=torch.float64)
    else:
        p = torch.sigmoid(margins)
        expected = p * (1 - p)
    torch.testing.assert_close(curvatures(task, of.slopes), expected)


def test_a_density_has_no_curvature_of_its_output() -> None:
    with pytest.raises(IncompatibleError, match="with_r=false"):
        curvatures(Density(), torch.ones(2))


def test_a_saturated_instance_keeps_its_direction() -> None:
    outputs, y = torch.tensor([[60.0, -60.0, -61.0]]), torch.tensor([0])
    of = OutputGradients(Classification())
    found = of(outputs, y)
    torch.testing.assert_close(found[0, 0], torch.tensor(1.0))
    torch.testing.assert_close(found[0, 1:].sum(), torch.tensor(-1.0))
    assert 0 <= float(of.slopes[0]) < 1e-15 and bool(torch.isfinite(of.slopes).all())


@pytest.mark.parametrize(
    ("name", "expected"), [("square", 12.5), ("mean", -0.5), ("l1", 3.5), ("l2", 5.0), ("linf", 4.0), ("loss", None)]
)
def test_values(name: str, expected: float | None) -> None:
    outputs, y = torch.tensor([[3.0, -4.0]]), torch.tensor([1])
    found = output_value(name, Classification(), outputs, y)  # type: ignore[arg-type]
    wanted = Classification().loss(outputs, y) if expected is None else torch.tensor([expected])
    torch.testing.assert_close(found, wanted)
