"""Which way to products of gradients is taken for the lower cost."""

from __future__ import annotations

import pytest

from influx.learners.torch.costs import MANY, cheaper


@pytest.mark.parametrize(
    ("positions", "d_in", "d_out", "way"),
    [
        (1, 256, 128, "factors"),
        (4, 256, 256, "factors"),  # 0.11 against 0.86 microseconds per pair as measured
        (16, 256, 256, "written"),  # 1.6 against 0.82
        (16, 768, 3072, "factors"),  # 11 against 32
        (32, 768, 768, "written"),  # 18 against 7.6
        (1024, 27, 64, "written"),  # a convolution's first layer
    ],
)
def test_the_way_is_the_faster_one_as_measured(positions: int, d_in: int, d_out: int, way: str) -> None:
    assert cheaper(positions, d_in, d_out, MANY, MANY) == way


def test_gradients_are_not_written_out_for_a_few_products() -> None:
    assert cheaper(16, 256, 256, 1000, 1) == "factors"
    assert cheaper(16, 256, 256, 1000, 1000) == "written"


def test_one_hot_inputs_cost_no_products() -> None:
    assert cheaper(20, 1000, 64, MANY, MANY) == "written"
    assert cheaper(16, 1000, 64, MANY, MANY, inner=65) == "factors"
