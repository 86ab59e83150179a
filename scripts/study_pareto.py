#!/usr/bin/env python
"""Linear datamodeling score (LDS) against seconds of modern and classic estimators: tables, and a picture per problem.

    python scripts/study_pareto.py [--problems digits images] [--outputs FOLDER] [--images FOLDER] [--markdown FILE]

``digits``: 1,000 training and 100 test instances, the default network and recipe. ``images``: digits in colours on
patches of photographs (3 channels of 32 by 32, both from scikit-learn; needs Pillow), a tenth of the labels wrong, a
small convolutional network. Every estimator is judged by the same models on random halves of the training set,
``--subsets`` of them under ``--seeds`` initialisations and batch orders each. Seconds are those of the fastest
of ``--repeats`` computations (long ones are made once) on one thread, each in a copy of a folder that holds the trained
model and the models of the score and nothing else; where an estimator trains models of its own, a further computation
finds these there and gives the seconds without them. The problem's own training is in no figure. What ``--outputs``
holds is not computed again. Intervals are 95 %.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pareto_tables import Pair, Row, Score, picture, table
from sklearn.datasets import load_digits, load_sample_images

import influx
from influx.api import Result
from influx.commands.comparable import of_predictions
from influx.commands.paired import LDS, N_BOOT, differences_of
from influx.config import compose
from influx.engines.audit import audit
from influx.influence import Influence
from influx.job import assemble
from influx.metrics.lds import LinearDatamodelingScore
from influx.metrics.predicted import TABLE, Predicted
from influx.metrics.tidy import tables_of
from influx.reporting.comparison import Difference
from influx.run import Run
from influx.store import content_hash
from influx.streams import stream
from influx.trained import trained_problem

Numbers = NDArray[np.float64]
COMMON = ["truth=none", "baselines=[]", "quiet=true"]
IMAGES = [
    *("dataset=npz", "dataset.n_train=200", "dataset.n_test=40", "corruption=label_noise"),
    *("model=cnn", "model.channels=[4]", "model.hidden=64", "optimizer.lr=0.01"),
    *("training.epochs=20", "training.batch_size=20"),
]
PROBLEMS = {"digits": ["dataset=digits", "dataset.n_test=100"], "images": IMAGES}
SIDE, CROP = 32, 24  # of a patch, of the digit on it
SHIFT = 0  # pixels that a digit stands off the middle, at most
DIM = 0.15  # brightness of the photographs
LONG = 20.0  # seconds, above which a computation is made once
MADE = "computed.json"
AUDITED = 4  # instances removed and nudged to judge the derivative
OFF = "estimator.self_influence=false"
ESTIMATORS = {
    "gas": ["estimator=gas"],
    "tracincp": ["estimator=tracincp"],
    "trak 1": ["estimator=trak", OFF],
    "trak 5": ["estimator=trak", OFF, "estimator.models=5"],
    "trak 10": ["estimator=trak", OFF, "estimator.models=10"],
    "if_ekfac": ["estimator=if_ekfac", OFF],
    "source": ["estimator=source", OFF],
    "magic": ["estimator=magic", OFF, "estimator.audit=0"],
}
TRAININGS = {"trak 5": 4, "trak 10": 9}
CLAIMS = {  # the first is above the second, by whom
    ("trak 5", "trak 1"): "Park et al. 2023",
    ("trak 10", "trak 5"): "Park et al. 2023",
    ("source", "if_ekfac"): "Bae et al. 2024",
    ("magic", "source"): "Ilyas & Engstrom 2025",
}
MANY = "Ilyas et al. 2022"


@dataclass(frozen=True, kw_only=True)
class Judge:
    """The score's settings, and the problem with the models that it rests on."""

    metric: LinearDatamodelingScore
    run: Run

    @classmethod
    def of(cls, settings: list[str]) -> Judge:
        """From the settings of a run that was made."""
        job = assemble(compose(settings))
        metric = job.metrics["lds"]
        assert isinstance(metric, LinearDatamodelingScore)
        return cls(metric=metric, run=job.run(trained_problem(job), metric.requires, "lds", job.bank()))

    @property
    def alone(self) -> Judge:
        """By the models with the explained one's initialisation and batch order, from which only the data differ."""
        return replace(self, metric=replace(self.metric, seeds=1))

    def score(self, influence: Numbers) -> tuple[Score, Predicted]:
        """LDS with its interval, and the predictions and outcomes that it rests on."""
        frame = self.metric.evaluate(Influence(values=influence), self.run)
        found = frame.set_index("metric").loc["lds"]
        score = float(found["value"]), float(found["ci_low"]), float(found["ci_high"])
        return score, Predicted.read(tables_of(frame)[TABLE])


def coloured(path: Path) -> None:
    """1,797 images of the shape of CIFAR: digits in bright colours on dimmed patches of two photographs."""
    digits, photographs = load_digits(), load_sample_images().images
    rng = stream(0, "study/coloured digits")
    small = torch.from_numpy(digits.images[:, None] / 16.0)
    large = torch.nn.functional.interpolate(small, size=(CROP, CROP), mode="bilinear").numpy()[:, 0]
    made = np.empty((len(large), 3, SIDE, SIDE), np.uint8)
    for image, digit in zip(made, large, strict=True):
        photograph = photographs[rng.integers(len(photographs))]
        top, left = (rng.integers(side - SIDE) for side in photograph.shape[:2])
        patch = photograph[top : top + SIDE, left : left + SIDE].transpose(2, 0, 1) * DIM
        ink, (down, right) = np.zeros((SIDE, SIDE)), rng.integers(-SHIFT, SHIFT + 1, 2) + (SIDE - CROP) // 2
        ink[down : down + CROP, right : right + CROP] = digit
        colour = rng.integers(200, 256, 3)[:, None, None]
        image[:] = patch * (1 - ink) + colour * ink
    np.savez(path, x=made, y=digits.target)


def estimators(downsampling: Sequence[int]) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Settings by the name of a row, and trainings that it makes."""
    more = {f"downsampling {k}": ["estimator=downsampling", f"estimator.models={k}"] for k in downsampling}
    return ESTIMATORS | more, TRAININGS | {f"downsampling {k}": k for k in downsampling}


def claims(downsampling: Sequence[int]) -> dict[Pair, str]:
    """Which row should be above which, and by whom."""
    counts = sorted(downsampling)
    return CLAIMS | {(f"downsampling {b}", f"downsampling {a}"): MANY for a, b in pairwise(counts)}


def computed(settings: list[str], source: Path, place: Path, *, kept: bool = False) -> tuple[Numbers, float]:
    """Influence and seconds in a copy of ``source``; with ``kept`` projections go, and other trainings stay."""
    done = place / MADE
    if not done.is_file():
        shutil.rmtree(place, ignore_errors=True)
        left_out = shutil.ignore_patterns("projected") if kept else None
        shutil.copytree(source / "problems", place / "problems", ignore=left_out)
        job = assemble(compose([*settings, "metric=[]", f"paths.outputs={place}"]))
        bank = job.bank()
        run = job.run(trained_problem(job), job.estimator.requires, job.estimator_name, bank)
        start = time.process_time()
        found = job.estimator.estimate(run)
        spent = time.process_time() - start
        if kept and bank.trained:
            raise SystemExit(f"{settings}: models were trained that should have been kept")
        np.save(place / "influence.npy", np.asarray(found.values, dtype=np.float64))
        made = {"seconds": spent, "growth": found.report.get("growth"), "warnings": run.warnings}
        done.write_text(json.dumps(made), encoding="utf-8")
    return np.load(place / "influence.npy"), float(json.loads(done.read_text(encoding="utf-8"))["seconds"])


def measured(settings: list[str], judge: Judge, prepared: Path, folder: Path, trainings: int, repeats: int) -> Row:
    """Score and time one estimator."""
    first = folder / "cold-0"
    influence, seconds = computed(settings, prepared, first)
    repeats = repeats if seconds < LONG else 1
    cold = [seconds] + [computed(settings, prepared, folder / f"cold-{i}")[1] for i in range(1, repeats)]
    warm = (
        [computed(settings, first, folder / f"kept-{i}", kept=True)[1] for i in range(repeats)] if trainings else cold
    )
    (lds, over_all), (own, of_own) = judge.score(influence), judge.alone.score(influence)
    predicted, seconds, without = (over_all, of_own), min(cold), min(warm)
    return Row(lds=lds, own=own, predicted=predicted, trainings=trainings, seconds=seconds, without=without)


def diagnosis(settings: list[str], place: Path) -> list[str]:
    """What an unrolled estimate that was computed there says of its training, and a few real removals of it."""
    job = assemble(compose([*settings, "metric=[]", f"paths.outputs={place}"]))
    run = job.run(trained_problem(job), job.estimator.requires, job.estimator_name, job.bank())
    made = json.loads((place / MADE).read_text(encoding="utf-8"))
    found, doubts = audit(run.path, run.train, run.test, np.load(place / "influence.npy"), AUDITED, derivative=True)
    errors = ", ".join(f"{name} {found[name]:.2g}" for name in ("removal_error", "derivative_error"))
    said = "; ".join([*made["warnings"], *doubts]) or "none"
    return [
        f"`{job.estimator_name}`: growth {made['growth']:.2f}; with {AUDITED} instances {errors}. Warnings: {said}."
    ]


def differences(predicted: dict[str, Predicted], wanted: Sequence[Pair]) -> dict[Pair, Difference]:
    """LDS of one row minus that of another, over the same resamples of subsets and test instances."""
    names = list(predicted)
    found = differences_of(of_predictions(list(predicted.values()), N_BOOT), LDS, 0).differences
    made = {}
    for pair in wanted:
        i, j = (names.index(name) for name in pair)
        one = found[min(i, j), max(i, j)]
        made[pair] = one if i < j else Difference(value=-one.value, low=-one.high, high=-one.low, n=one.n)
    return made


def training(settings: list[str], folder: Path) -> float:
    """Seconds of the problem's own training, made now unless it was made there before."""
    done = folder / "training.json"
    if not done.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        job, start = assemble(compose(settings)), time.process_time()
        trained_problem(job)
        done.write_text(json.dumps(time.process_time() - start), encoding="utf-8")
    return float(json.loads(done.read_text(encoding="utf-8")))


def about(result: Result, spent: float) -> list[str]:
    """The protocol in words, the ceiling, what random numbers reach, and the trained model."""
    rows, problem = result.metrics.set_index("metric"), result.record.section("problem")
    instances = pd.read_parquet(result.folder.parent.parent / "problems" / problem["id"] / "instances.parquet")
    found = instances[instances["split"] == "test"]["prediction"].to_numpy()
    return [
        f"Protocol: {rows.loc['lds', 'protocol']}.",
        f"Ceiling {rows.loc['lds_ceiling', 'value']:.3f}; random numbers {rows.loc['lds', 'value']:.3f}; test accuracy "
        f"{np.mean(found == result.problem.test.y):.2f}; the problem's own training {spent:.2f} s.",
    ]


def study(name: str, given: argparse.Namespace, folder: Path) -> list[str]:
    """Everything about one problem: its table, and its picture where one is wanted."""
    problem = [*PROBLEMS[name], *given.more]
    common = [*COMMON, *problem]
    folder.mkdir(parents=True, exist_ok=True)
    if name == "images":
        coloured(folder / "images.npz")
        common.append(f"dataset.path={folder / 'images.npz'}")
    lds = ["metric=[lds]", f"metric.lds.subsets={given.subsets}", f"metric.lds.seeds={given.seeds}"]
    key = content_hash(problem, 8)
    prepared = folder / f"prepared-{key}"
    random = [*common, *lds, "estimator=random", f"paths.outputs={prepared}"]
    spent = training(random, prepared)
    first, judge = influx.run(random), Judge.of(random)
    every, trainings = estimators(given.downsampling)
    rows = {}
    for title in [title for title in every if title in given.rows] if given.rows else every:
        place, count = folder / f"{title.replace(' ', '-')}-{key}", trainings.get(title, 0)
        row = measured([*common, *every[title]], judge, prepared, place, count, given.repeats)
        rows[title] = row
        print(f"{name}: {title}: LDS {row.lds[0]:.3f}, {row.seconds:.3g} s ({row.without:.3g} s)", flush=True)
    by = {pair: who for pair, who in claims(given.downsampling).items() if set(pair) <= set(rows)}
    found = [differences({title: row.predicted[i] for title, row in rows.items()}, list(by)) for i in range(2)]
    unrolled = [*common, *every["magic"]], folder / f"magic-{key}" / "cold-0"
    told = diagnosis(*unrolled) if "magic" in rows else []
    lines = [*about(first, spent), *told, "", *table(rows, found, by)]
    if given.images is not None:
        given.images.mkdir(parents=True, exist_ok=True)
        ceiling = float(first.metrics.set_index("metric")["value"]["lds_ceiling"])
        for own in (False, True):
            drawn = picture(name, rows, ceiling, own=own)
            (given.images / f"pareto_{name}{'_own_seed' * own}.svg").write_text(drawn, encoding="utf-8")
    return lines


def main() -> None:
    """Run, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--more", nargs="+", default=[], help="further settings of the problems: optimizer.lr=0.01")
    parser.add_argument("--rows", nargs="+", help="only these estimators, by the names of the table")
    parser.add_argument("--subsets", type=int, default=100, help="halves of the training set that the score rests on")
    parser.add_argument("--seeds", type=int, default=3, help="trainings on each of them")
    parser.add_argument("--downsampling", type=int, nargs="+", default=[100, 500], help="models of its rows")
    parser.add_argument("--repeats", type=int, default=2, help="computations of which the fastest counts")
    parser.add_argument("--outputs", type=Path, help="keep the runs there")
    parser.add_argument("--images", type=Path, help="write the pictures there")
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in given.problems:
            lines += [f"## {name}", "", *study(name, given, (given.outputs or Path(temporary)) / name), ""]
    print("\n".join(lines))
    if given.markdown is not None:
        given.markdown.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
