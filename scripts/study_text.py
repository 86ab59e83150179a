#!/usr/bin/env python
"""In which trainings on texts can leave-one-out be known, and what a query's length tells, in tables.

    python scripts/study_text.py [--tables trainings lengths] [--cases ...] [--outputs FOLDER]

``trainings``: 400 docstrings of four modules, 80 test texts. Per training: what ``magic`` finds out about it without
ground truth (``growth`` and ``removal_error``, see docs/leave_one_out.md), how well leave-one-out agrees with itself
across seeds, and the mean over test texts of the Spearman correlation of each estimator with it. Leave-one-out of
``--budget`` texts, under another initialisation and order of batches of ``--ceiling`` of them. ``lengths``: the queries
of experiment=text_language, their sources ranked by what can be seen without words. Intervals are 95 %: Wilson's of
accuracies, percentiles of 1,000 resamples of tests or queries elsewhere.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from study_modern import line, number

import influx
from influx.datasets.corruption.restated import Restated
from influx.datasets.docstrings import Docstrings
from influx.metrics.fact_tracing import Places, found_first, recall
from influx.metrics.unfairness import wilson
from influx.vocabulary import ends, special_tokens

ENCODER = ["model=text_encoder", "model.width=16", "model.hidden=32", "training.epochs=10"]
CASES: dict[str, tuple[str, list[str]]] = {
    "slow": ("bag of words, lr 1", ["optimizer.lr=1"]),
    "bag": ("bag of words, lr 2 (the experiment)", []),
    "fast": ("bag of words, lr 4", ["optimizer.lr=4"]),
    "transformer": ("transformer, lr 0.05, momentum 0.9", [*ENCODER, "optimizer.lr=0.05", "optimizer.momentum=0.9"]),
}
ESTIMATORS = ["magic", "tracincp", "tracin_last", "tracin_we"]


def trainings(outputs: Path, cases: list[str], budget: int, ceiling: int) -> None:
    """One row per training."""
    head = ["training", "test accuracy", "growth", "removal_error", "ceiling", *ESTIMATORS]
    print(line(head), line(["---"] * len(head)), sep="\n", flush=True)
    common = ["experiment=text_docstrings", "estimator=magic", "estimator.self_influence=false"]
    common += ["metric=[agreement,ceiling]", "quiet=true"]
    common += [f"baselines=[{','.join(ESTIMATORS[1:])}]", f"truth.budget={budget}", f"truth.ceiling_budget={ceiling}"]
    for name, settings in (CASES[case] for case in cases):
        result = influx.run([*common, *settings, f"paths.outputs={outputs}"])
        told = json.loads((result.folder / "estimate.json").read_text(encoding="utf-8"))["report"]
        test = result.problem.test
        with torch.no_grad():
            right = result.model()(torch.from_numpy(test.x)).argmax(1).numpy() == test.y
        low, high = wilson(float(right.mean()), len(right))
        row = [
            name,
            f"{right.mean():.3f} [{low:.2f}, {high:.2f}]",
            f"{told['growth']:.2f}",
            f"{told['removal_error']:.2f}",
        ]
        of = {name: result.metrics[result.metrics["estimator"] == name] for name in ESTIMATORS}
        row += [number(of["magic"], "ceiling_spearman"), *(number(of[name], "spearman") for name in ESTIMATORS)]
        print(line(row), flush=True)


def lengths() -> None:
    """Sources of the queries ranked by length, and by which kind of token stands where."""
    data = Restated().apply(Docstrings(task="language", length=32, n_train=1000, n_test=100).load(0), 0)
    fixed = ends(data.vocabulary, data.tokenizer)
    unknown = set(special_tokens(data.vocabulary, data.tokenizer)) - set(fixed)
    kinds = [np.where(np.isin(s.x, [*unknown]), 2, np.where(s.x == 0, 0, 1)) for s in (data.train, data.test)]
    stated, asked = data.flags["fact"], data.test_flags["fact"]
    queries = np.flatnonzero(asked >= 0)
    length = -np.abs((kinds[0] > 0).sum(1)[:, None] - (kinds[1][queries] > 0).sum(1)[None])
    same = (kinds[0][:, None] == kinds[1][queries][None]).sum(2)
    states = stated[:, None] == asked[queries]
    print(line(["by", "MRR", "first", "among the first 10"]), line(["---"] * 4), sep="\n")
    for name, values in (("length", length), ("unknown words and length", same), ("nothing", np.zeros(states.shape))):
        places = Places.of(np.asarray(values, np.float64), np.ones(len(queries), bool))
        reciprocal, first = found_first(places, states)
        found = np.stack([reciprocal, first, recall(places, states, 10)], 1)  # (queries, 3)
        drawn = np.random.default_rng(0).integers(len(found), size=(1000, len(found)))
        low, high = np.quantile(found[drawn].mean(1), [0.025, 0.975], axis=0)
        print(line([name, *(f"{v:.3f} [{a:.3f}, {b:.3f}]" for v, a, b in zip(found.mean(0), low, high, strict=True))]))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", default=["trainings", "lengths"], choices=["trainings", "lengths"])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--budget", type=int, default=40)
    parser.add_argument("--ceiling", type=int, default=20)
    parser.add_argument("--outputs", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        outputs = given.outputs or Path(scratch)
        if "trainings" in given.tables:
            trainings(outputs, given.cases, given.budget, given.ceiling)
    if "lengths" in given.tables:
        lengths()


if __name__ == "__main__":
    main()
