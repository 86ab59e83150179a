"""Class, shortcut, mixed data and target identification, against counts by hand and scikit-learn."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import median_abs_deviation
from sklearn.metrics import average_precision_score, roc_auc_score

from influx.errors import ConfigError
from influx.influence import Influence
from influx.metrics.class_detection import NAMES, ClassDetection
from influx.metrics.mixed_data import MixedData
from influx.metrics.shortcut import ShortcutDetection
from influx.metrics.target_identification import TargetIdentification, upper_tail
from influx.problem import Split
from influx.streams import stream

N, M = 40, 12
RNG = np.random.default_rng(0)
TRAIN, TEST = RNG.integers(0, 3, N), RNG.integers(0, 3, M)
VALUES = RNG.normal(size=(N, M))
PREDICTED = np.where(np.arange(M) < 8, TEST, (TEST + 1) % 3)


def run_of(flags: Any = None, test_flags: Any = None, *, prediction: Any = PREDICTED, task: str = "classification"):
    data = SimpleNamespace(flags=flags or {}, test_flags=test_flags or {}, classes=("a", "b", "c"), task=task)
    train, test = (Split(x=np.zeros((len(y), 1)), y=y, ids=100 + np.arange(len(y))) for y in (TRAIN, TEST))
    return SimpleNamespace(
        train=train,
        test=test,
        problem=SimpleNamespace(data=data),
        outcomes=lambda split: SimpleNamespace(prediction=prediction),
        rng=lambda purpose: stream(0, purpose),
    )


def judged(metric: Any, run: Any, values: np.ndarray = VALUES) -> pd.DataFrame:
    return metric.evaluate(Influence(values=values), run).set_index("metric")


@pytest.mark.parametrize("correct_only", [False, True])
def test_classes_and_subclasses_of_proponents_are_counted(correct_only: bool) -> None:
    hidden, its = RNG.integers(0, 6, N), RNG.integers(0, 6, M)
    metric = ClassDetection(k=4, correct_only=correct_only, n_boot=100)
    found = judged(metric, run_of({"subclass": hidden}, {"subclass": its}))
    columns = [j for j in range(M) if PREDICTED[j] == TEST[j] or not correct_only]
    for kind, mine, of in (("class", TRAIN, TEST), ("subclass", hidden, its)):
        shares = []
        for j in columns:
            best = sorted(range(N), key=lambda i: -VALUES[i, j])[:4]
            shares.append([mine[i] == of[j] for i in best])
        assert found.value[f"same_{kind}_first"] == pytest.approx(np.mean([s[0] for s in shares]))
        assert found.value[f"same_{kind}_share"] == pytest.approx(np.mean(shares))
    assert (found.n == len(columns)).all() and found.protocol.str.contains("k=4").all()


def test_class_detection_says_what_it_cannot_tell() -> None:
    found = judged(ClassDetection(n_boot=100), run_of())
    assert list(found.status) == ["ok", "ok", "not applicable", "not applicable"]
    assert "grouped_classes" in found.note["same_subclass_first"]
    flat = judged(ClassDetection(n_boot=100), run_of(), np.ones((N, M)))
    assert (flat.status[:2] == "degenerate").all() and flat.note.iloc[0].endswith("(12 constant)")
    assert (judged(ClassDetection(k=41, n_boot=100), run_of()).status == "not applicable").all()
    assert list(judged(ClassDetection(n_boot=100), run_of(task="regression")).index) == list(NAMES)


def test_ties_at_the_place_asked_about_are_left_out() -> None:
    values = VALUES.copy()
    values[:, 0] = np.arange(N) == 5  # one proponent, then ties
    values[:, 1] = np.maximum(np.arange(N), 30)  # ties behind the ninth
    values[:, 2] = np.minimum(np.arange(N), 30)  # ties for the first
    found = judged(ClassDetection(k=4, n_boot=100), run_of(), values)
    assert found.n["same_class_first"] == M - 1 and found.n["same_class_share"] == M - 2
    first = [TRAIN[values[:, j].argmax()] == TEST[j] for j in range(M) if j != 2]
    assert found.value["same_class_first"] == pytest.approx(np.mean(first))
    assert "2 of 12 test instances left out for a tie" in found.note["same_class_share"]


def test_rounding_of_stored_numbers_is_no_ranking() -> None:
    """Float32 of one number and its neighbour: constant as stored, with spread as float64."""
    noise = np.where(RNG.random((N, M)) < 0.5, np.float32(0.1), np.nextafter(np.float32(0.1), np.float32(1)))
    assert np.isnan(upper_tail(noise, 3)).all() and np.isfinite(upper_tail(VALUES.astype(np.float32), 3)).all()
    marked, carry = TRAIN == 1, TEST != 1
    run = run_of({"shortcut": marked}, {"shortcut": carry}, prediction=np.ones(M))
    assert (judged(ShortcutDetection(n_boot=100), run, noise).status == "degenerate").all()


def test_only_training_instances_with_scores_are_ranked() -> None:
    flags, test_flags, values = poisoned()
    has = np.arange(N) % 4 != 1  # 5 of a target's poison and others have none
    values[~has] = np.nan
    found = judged(TargetIdentification(k=2, n_boot=100), run_of(flags, test_flags), values)
    hit = PREDICTED == TEST
    tails = upper_tail(values[has][:, hit], 2)
    assert found.value["target_auroc"] == pytest.approx(roc_auc_score(test_flags["target"][hit], tails))
    scores = [average_precision_score((flags["poison_of"] == 100 + j)[has], values[has, j]) for j in (0, 1)]
    assert found.value["poison_auprc"] == pytest.approx(np.mean(scores))
    assert found.protocol[:4].str.contains("30 of 40 training instances").all()
    assert "no interval from 2 targets" in found.note["target_auroc"] and np.isnan(found.ci_low["target_auroc"])
    values[has.nonzero()[0][0], 3] = np.inf
    values[has, 4] = 1.0
    found = judged(TargetIdentification(k=2, n_boot=100), run_of(flags, test_flags), values)
    assert "1 not finite, 1 no spread" in found.note["target_auroc"]


def test_columns_without_an_order_are_left_out() -> None:
    values = VALUES.copy()
    values[:, 0], values[3, 1] = 1.0, np.inf
    found = judged(ClassDetection(k=1, n_boot=100), run_of(), values)
    assert found.value["same_class_first"] == np.mean(TRAIN[values[:, 2:].argmax(0)] == TEST[2:])
    assert found.n["same_class_first"] == M - 2 and "1 not finite, 1 constant" in found.note["same_class_first"]


@pytest.mark.parametrize("mark", ["shortcut", "backdoor"])
def test_marked_instances_speak_against_the_true_label_of_those_that_fell_for_the_mark(mark: str) -> None:
    marked = (TRAIN == 1) & (np.arange(N) < 30)
    carry = np.arange(M) > 2
    found = judged(ShortcutDetection(n_boot=100), run_of({mark: marked}, {mark: carry}, prediction=np.ones(M)))
    asked = [j for j in range(M) if carry[j] and TEST[j] != 1]
    assert found.value["shortcut_auprc"] == pytest.approx(
        np.mean([average_precision_score(marked, -VALUES[:, j]) for j in asked])
    )
    assert found.value["shortcut_auroc"] == pytest.approx(
        np.mean([roc_auc_score(marked, -VALUES[:, j]) for j in asked])
    )
    assert (found.n == len(asked)).all()


@pytest.mark.parametrize(
    ("flags", "test_flags", "reason"),
    [
        ({}, {}, "set corruption=shortcut"),
        ({"shortcut": TRAIN == 1}, {"shortcut": np.zeros(M, bool)}, "no test instance carries"),
        ({"shortcut": TRAIN == 1}, {"shortcut": TEST == 1}, "no test instance with the mark is predicted as 'b'"),
    ],
)
def test_no_test_instance_that_fell_for_the_mark_is_no_score_of_zero(flags: Any, test_flags: Any, reason: str) -> None:
    found = judged(ShortcutDetection(n_boot=100), run_of(flags, test_flags))
    assert found.value.isna().all() and (found.status == "not applicable").all()
    assert found.note.str.contains(reason).all()


@pytest.mark.parametrize("correct_only", [False, True])
def test_foreign_instances_explain_foreign_ones(correct_only: bool) -> None:
    foreign, asked = np.arange(N) % 5 == 0, np.arange(M) >= 6
    run = run_of({"foreign": foreign}, {"foreign": asked})
    found = judged(MixedData(correct_only=correct_only, n_boot=100), run)
    columns = [j for j in range(6, M) if PREDICTED[j] == TEST[j] or not correct_only]
    expected = np.mean([average_precision_score(foreign, VALUES[:, j]) for j in columns])
    assert found.value["mixed_auprc"] == pytest.approx(expected) and (found.n == len(columns)).all()
    nobody = judged(MixedData(n_boot=100), run_of({"foreign": foreign}, {"foreign": PREDICTED != TEST}))
    assert (nobody.status == "not applicable").all() and nobody.value.isna().all()
    assert (judged(MixedData(n_boot=100), run_of()).status == "not applicable").all()


def test_the_upper_tail_is_a_robust_z() -> None:
    for j, tail in enumerate(upper_tail(VALUES, 3)):
        column = VALUES[:, j]
        spread = median_abs_deviation(column, scale="normal")
        assert tail == pytest.approx((np.sort(column)[-3] - np.median(column)) / spread)
    assert np.isnan(upper_tail(np.array([[0.0, 1], [0, np.inf], [0, 3], [9, 4]]), 1)).all()


def poisoned() -> tuple[dict[str, Any], dict[str, Any], np.ndarray]:
    """Targets 0, 1 and 9, the last missed by the attack; poison in the rows from 3·j on."""
    of, values = np.full(N, -1), VALUES.copy()
    for target in (0, 1, 9):
        of[3 * target : 3 * target + 3] = 100 + target
    values[0:2, 0] += 3
    values[3:6, 1] += 2
    return {"poison_of": of}, {"target": np.isin(np.arange(M), [0, 1, 9])}, values


def test_targets_are_found_by_their_tails_and_poison_by_its_influence() -> None:
    flags, test_flags, values = poisoned()
    found = judged(TargetIdentification(k=2, n_boot=100), run_of(flags, test_flags), values)
    hit = PREDICTED == TEST  # the first eight
    tails, target = upper_tail(values, 2)[hit], test_flags["target"][hit]
    assert found.value["target_auroc"] == pytest.approx(roc_auc_score(target, tails))
    assert found.value["target_auprc"] == pytest.approx(average_precision_score(target, tails))
    scores = [average_precision_score(flags["poison_of"] == 100 + j, values[:, j]) for j in (0, 1)]
    assert found.value["poison_auprc"] == pytest.approx(np.mean(scores)) and found.n["poison_auprc"] == 2
    assert found.value["target_attack_success"] == pytest.approx(2 / 3) and found.n["target_auroc"] == 8


def test_a_failed_attack_has_no_targets() -> None:
    flags, test_flags, values = poisoned()
    failed = run_of(flags, test_flags, prediction=np.where(test_flags["target"], 5, TEST))
    found = judged(TargetIdentification(n_boot=100), failed, values)
    assert (found.status[:4] == "not applicable").all() and found.value["target_attack_success"] == 0
    assert "the attack failed" in found.note["target_auroc"]
    assert (judged(TargetIdentification(n_boot=100), run_of()).status == "not applicable").all()
    flat = judged(TargetIdentification(k=2, n_boot=100), run_of(flags, test_flags), np.ones((N, M)))
    assert (flat.status[:4] == "degenerate").all()
    deep = judged(TargetIdentification(k=41, n_boot=100), run_of(flags, test_flags), values)
    assert deep.status["target_auroc"] == "not applicable" and deep.status["poison_auroc"] == "ok"


@pytest.mark.parametrize("make", [ClassDetection, TargetIdentification])
def test_settings_are_checked(make: Any) -> None:
    with pytest.raises(ConfigError, match=r"\.k must be at least 1"):
        make(k=0)
    with pytest.raises(ConfigError, match="n_boot"):
        make(n_boot=10)
