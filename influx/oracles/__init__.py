"""Slow and plain computations that estimators are held against.

One module per family of estimators, with ``ORACLES``: estimator name → oracle. An oracle trains toy problems below
a folder, runs the estimator on them and yields comparisons with loops over torch's autograd, torch's optimizers or
closed forms. Nothing here uses the engines.
"""
