"""Regression benchmark: suites of estimators on small problems, and gates that hold results against earlier ones."""
