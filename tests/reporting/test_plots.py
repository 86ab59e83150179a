import base64
import io

import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

from influx.errors import DataError
from influx.reporting import agreement, svg
from influx.reporting.markup import escaped, tag
from influx.reporting.png import data_uri, png
from influx.reporting.record import RunRecord


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_decodes_to_the_same_pixels(channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    decoded = np.asarray(Image.open(io.BytesIO(png(image))))
    assert np.array_equal(decoded.reshape(image.shape), image)


def decoded(image: np.ndarray) -> np.ndarray:
    head, data = data_uri(image).split(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_floats_and_bytes_give_the_same_image() -> None:
    levels = np.random.default_rng(1).integers(0, 256, (3, 4, 4), dtype=np.uint8)
    assert np.array_equal(decoded(levels), decoded(levels / 255.0))
    assert np.array_equal(decoded(levels), levels.transpose(1, 2, 0))


def test_large_images_shrink_by_block_means() -> None:
    image = np.kron(np.arange(64, dtype=np.uint8).reshape(1, 8, 8), np.ones((1, 25, 25), np.uint8))  # 200 x 200
    assert decoded(image).shape == (66, 66)
    assert decoded(image)[0, 0] == 0 and decoded(image)[-1, -1] == 63


def test_odd_channel_counts_are_averaged() -> None:
    image = np.stack([np.zeros((4, 4)), np.ones((4, 4))])
    assert (decoded(image) == 128).all()


def test_images_with_nan_are_refused() -> None:
    with pytest.raises(DataError, match=r"display\.npz"):
        data_uri(np.full((1, 2, 2), np.nan))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.03, 0.02), (1e-9, 3e-9), (-1, 1), (0, 97)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    ticks = svg.nice_ticks(low, high)
    steps = np.diff(ticks)
    assert 3 <= len(ticks) <= 11 and np.allclose(steps, steps[0])
    assert low - 1e-12 <= ticks[0] and ticks[-1] <= high + 1e-12
    mantissa = steps[0] / 10.0 ** np.floor(np.log10(steps[0]) + 1e-9)
    assert np.isclose(mantissa, [1, 2, 2.5, 5]).any()


def test_constant_values_still_have_an_axis() -> None:
    low, high = svg.limits(np.zeros(4))
    assert low < 0 < high


def test_scatter_draws_every_point_once() -> None:
    values = np.linspace(-1, 1, 101)
    drawn = svg.scatter(values, values, labels=("x", "y"), title="t", description="d", key="k")
    assert drawn.count("h0") == 101 and drawn.count("<title") == 1 and drawn.count("<desc") == 1


def test_histogram_has_a_bar_per_filled_bin() -> None:
    drawn = svg.histogram(np.array([0.5, 0.52, -0.3]), label="l", title="t", description="d", key="k")
    assert drawn.count('class="bar"') == 2


def test_sampled_pairs_are_pairs_of_the_matrices(record: RunRecord) -> None:
    truth, estimate = agreement.sampled_pairs(record, points=50)
    assert len(truth) == 50
    known = {(float(t), float(e)) for t, e in zip(record.truth.ravel(), record.influence.ravel(), strict=True)}
    assert all((t, e) in known for t, e in zip(truth, estimate, strict=True))
    assert np.array_equal(truth, agreement.sampled_pairs(record, points=50)[0])


def test_all_pairs_are_taken_when_they_are_few(record: RunRecord) -> None:
    assert len(agreement.sampled_pairs(record)[0]) == 35 * 12


def test_spearman_per_test_agrees_with_scipy(record: RunRecord) -> None:
    found, looked_at = agreement.spearman_per_test(record)
    oracle = [spearmanr(record.truth[:35, j], record.influence[:35, j]).statistic for j in range(12)]
    assert looked_at == 12 and np.allclose(found, oracle, atol=1e-12)


def test_markup_escapes_children_and_attributes() -> None:
    assert tag("p", escaped("<b>&\x00"), title='"x" <y>') == '<p title="&quot;x&quot; &lt;y&gt;">&lt;b&gt;&amp; </p>'
