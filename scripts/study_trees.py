#!/usr/bin/env python
"""Which tree methods tell what retraining would say? Every library on three datasets, with default trees.

    python scripts/study_trees.py [--tables verdicts,removal,speed,seconds] [--datasets ...] [--models lightgbm,xgboost]
                                  [--seeds 3] [--removed 30] [--markdown FILE]

verdicts: truth is leave-one-out by retraining, on one thread (200 training instances of digits). Per estimator: mean
over test instances of the Spearman correlation with truth [95 % interval over test instances], pooled Pearson
correlation, linear datamodeling score (100 random halves, retrained), AUROC of self-influence for labels flipped in a
tenth of the training set (classes only; a training of its own), seconds, and how many times faster than truth. Per
model the share of trees that sort the other instances into the same leaves when one is removed, over 20 removals: the
part of the truth that fixed splits can tell. About 15 minutes on one core.

removal: models are trained anew without the training instances that help half of the test instances most, and judged on
the other half: loss above that without as many random instances [95 % interval over seeds and test instances together],
and its mean over the curve. About 5 minutes.

speed: leave-one-out of all instances of the whole datasets, from ``removed`` of them, against boostin (averaged trees:
leaf_refit), with reading the trees and once they are read. seconds: the same of every estimator on the problems of the
verdicts. About 5 minutes each.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import study_trees_removal as removal
import study_trees_speed as speed
import study_trees_verdicts as verdicts
from study_trees_cases import AVERAGED, BOOSTED, DATASETS, Table


def main() -> None:
    """Every table, model and dataset that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", default="verdicts,removal,speed,seconds")
    parser.add_argument("--datasets", default=",".join(DATASETS))
    parser.add_argument("--models", default=",".join(BOOSTED | AVERAGED))
    parser.add_argument("--seeds", type=int, default=3, help="of removal")
    parser.add_argument("--removed", type=int, default=30, help="instances of speed and seconds")
    parser.add_argument("--markdown", type=Path, help="a file that tables are added to")
    given = parser.parse_args()
    heads = {"verdicts": verdicts.HEAD, "removal": removal.HEAD, "speed": speed.HEAD, "seconds": speed.SECONDS_HEAD}
    truths: dict[tuple[str, str], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for table in given.tables.split(","):
            told = Table(heads[table], given.markdown)
            for dataset in given.datasets.split(","):
                for model in given.models.split(","):
                    if table == "removal":
                        for cells in removal.rows(model, dataset, folder, given.seeds):
                            told.add(cells)
                    elif table == "speed":
                        told.add(speed.row(model, dataset, folder, given.removed))
                    elif table == "seconds":
                        for cells in speed.rows(model, dataset, folder, given.removed):
                            told.add(cells)
                    else:
                        for estimator in verdicts.estimators(model, dataset):
                            told.add(verdicts.row(model, dataset, estimator, folder, truths))


if __name__ == "__main__":
    main()
