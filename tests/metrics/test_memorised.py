"""Memorised instances by self-influence, held against scikit-learn's AUROC and plain means."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from influx.errors import ConfigError
from influx.influence import Influence
from influx.metrics.memorised import HIGH, Memorised, kinds_of, names
from influx.metrics.tidy import tables_of
from influx.problem import Split
from influx.streams import stream

N = 60
RNG = np.random.default_rng(0)
MISLABELED, RARE, DUPLICATE = (np.arange(N) % 10 == place for place in (0, 1, 2))
RARE[10] = True  # of two kinds
DUPLICATE_OF = np.where(DUPLICATE, 500 + np.arange(N) + 1, -1)
OF = np.full(N, False)
OF[np.flatnonzero(DUPLICATE) + 1] = True
FLAGS = {"mislabeled": MISLABELED, "rare": RARE.astype(np.int64), "duplicate": DUPLICATE, "duplicate_of": DUPLICATE_OF}
X = RNG.normal(size=(N, 3))
X[DUPLICATE] = X[np.flatnonzero(DUPLICATE) + 1]
TRAIN = Split(x=X, y=np.zeros(N), ids=500 + np.arange(N))
LOSS = RNG.normal(size=N) + MISLABELED
OWN = RNG.gamma(2.0, size=N) + MISLABELED + 2 * RARE
METRIC = Memorised(n_boot=200)


def run_of(flags: Any = None, kind: str = "tabular") -> Any:
    data = SimpleNamespace(flags=FLAGS if flags is None else flags, kind=kind)
    return SimpleNamespace(
        train=TRAIN,
        problem=SimpleNamespace(data=data),
        outcomes=lambda split: SimpleNamespace(loss=LOSS),
        rng=lambda purpose: stream(0, purpose),
    )


def judged(own: Any = OWN, run: Any = None, **fields: Any) -> pd.DataFrame:
    influence = Influence(values=np.zeros((N, 1)), self_influence=own, **fields)
    return METRIC.evaluate(influence, run or run_of()).set_index("metric")


def groups() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Kind -> rows that are asked about, and which of them are of the kind."""
    kinds = {"mislabeled": MISLABELED, "rare": RARE, "duplicated": OF}
    several = sum(k.astype(int) for k in kinds.values()) > 1
    others = ~np.any([*kinds.values(), DUPLICATE], axis=0)
    return {name: (others | (flags & ~several), flags & ~several) for name, flags in kinds.items()}


def test_each_kind_is_held_against_what_is_of_no_kind() -> None:
    found = judged()
    assert list(found.index) == [name for kind in ("mislabeled", "rare", "duplicated") for name in names(kind)]
    distance = np.linalg.norm(X[:, None] - X, axis=2) + np.diag(np.full(N, np.inf))
    scores = {"auroc": OWN, "by_risk": LOSS, "by_distance": distance.min(axis=1)}
    for kind, (asked, flags) in groups().items():
        for measure, score in scores.items():
            expected = roc_auc_score(flags[asked], HIGH[kind] * score[asked])
            assert found.value[f"memorised_{measure}_{kind}"] == pytest.approx(expected, abs=1e-12)
        expected = average_precision_score(flags[asked], HIGH[kind] * OWN[asked])
        assert found.value[f"memorised_ap_{kind}"] == pytest.approx(expected, abs=1e-12)
        ratio = OWN[flags].mean() / OWN[asked & ~flags].mean()
        assert found.value[f"memorised_ratio_{kind}"] == pytest.approx(ratio, abs=1e-12)
        gain = found.value[f"memorised_auroc_{kind}"] - found.value[f"memorised_by_risk_{kind}"]
        assert found.value[f"memorised_gain_risk_{kind}"] == pytest.approx(gain, abs=1e-12)
        assert found.n[f"memorised_auroc_{kind}"] == asked.sum()
    assert (found.ci_low <= found.value).all() and (found.value <= found.ci_high).all()
    assert "suspect: low self-influence" in found.protocol["memorised_auroc_duplicated"]
    assert "suspect: high self-influence" in found.protocol["memorised_auroc_rare"]


def test_exact_copies_are_nearest_to_each_other() -> None:
    assert judged().value["memorised_by_distance_duplicated"] == 1.0


def test_instances_of_two_kinds_are_left_out_and_counted() -> None:
    assert "1 of several kinds left out" in judged().protocol["memorised_auroc_rare"]
    changed = OWN.copy()
    changed[10] = 1e9
    assert judged(changed).value["memorised_auroc_rare"] == judged().value["memorised_auroc_rare"]


def test_of_equal_instances_only_the_one_that_was_copied_is_asked_about() -> None:
    np.testing.assert_array_equal(kinds_of(FLAGS, TRAIN.ids)["duplicated"], OF)
    changed = OWN.copy()
    changed[DUPLICATE] = 1e9
    assert judged(changed).value.equals(judged().value)
    assert kinds_of({"mislabeled": np.zeros(N, bool)}, TRAIN.ids) == {}


def test_nothing_known_is_not_applicable() -> None:
    found = judged(run=run_of({}))
    assert (found.status == "not applicable").all() and "corruption=memorable" in found.note.iloc[0]
    assert found.value.isna().all() and len(found) == 7 * len(HIGH)


@pytest.mark.parametrize(
    ("fields", "status", "note"),
    [
        ({"own": None}, "not applicable", "gives no self-influence"),
        ({"own": OWN, "self_influence_note": "it is a constant"}, "not applicable", "it is a constant"),
        ({"own": np.ones(N)}, "degenerate", "the same score"),
        ({"own": np.where(np.arange(N) == 3, np.nan, OWN)}, "degenerate", "1 of 60 training instances have no finite"),
    ],
)
def test_without_usable_self_influence_the_others_remain(fields: Any, status: str, note: str) -> None:
    found = judged(**fields)
    for measure in ("auroc", "ap", "ratio", "gain_risk", "gain_distance"):
        assert found.status[f"memorised_{measure}_rare"] == status and note in found.note[f"memorised_{measure}_rare"]
    assert found.status["memorised_by_risk_rare"] == found.status["memorised_by_distance_rare"] == "ok"


def test_a_ratio_to_what_is_about_zero_is_degenerate() -> None:
    found = judged(np.random.default_rng(5).normal(size=N))
    assert found.status["memorised_ratio_rare"] == "degenerate" and found.status["memorised_auroc_rare"] == "ok"


def test_tokens_have_no_distances() -> None:
    found = judged(run=run_of(kind="text"))
    assert (
        found.status["memorised_by_distance_rare"] == found.status["memorised_gain_distance_rare"] == "not applicable"
    )
    assert found.status["memorised_gain_risk_rare"] == "ok"


def test_the_curve_is_a_table() -> None:
    frame = METRIC.evaluate(Influence(values=np.zeros((N, 1)), self_influence=OWN), run_of())
    table = tables_of(frame)["memorised"]
    assert table["series"].unique().tolist() == ["mislabeled", "rare", "duplicated"]
    assert (table.groupby("series")["found"].max() == 1).all()


def test_too_few_resamples_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"metric\.memorised\.n_boot must be at least 100"):
        Memorised(n_boot=10)
