"""What an estimator or a metric may ask of a trained problem."""

from __future__ import annotations

from enum import StrEnum


class Need(StrEnum):
    """One engine or artefact. A learner lists in ``provides`` those that it can serve.

    Data (features, labels, ids) and per-instance outcomes (loss, margin, prediction) of the trained
    model are always there and are not listed.
    """

    FEATURES = "features"  # learned representation of an instance
    GRADIENTS = "gradients"  # per-instance gradients of the risk
    CURVATURE = "curvature"  # Hessian or Gauss-Newton products of the training objective
    CHECKPOINTS = "checkpoints"  # parameters along training, with learning rates
    STATES = "states"  # parameters along training, whatever the learning rates
    TRAJECTORY = "trajectory"  # every step: batch ids, learning rates, clip factors, replay
    LINEAR_HEAD = "linear_head"  # a last layer that is linear in the features
    LINEAR_MODEL = "linear_model"  # a linear model with a penalty at its optimum, in closed form or by Newton's method
    FOREST = "forest"  # trees as arrays: the leaf of every instance, what leaves add, derivatives of the risk
    RETRAIN = "retrain"  # training again on weighted or reduced training sets
