"""Estimators that compare projected gradients."""
