"""Ways of asking for influence: section 3.2 of the survey, each over the matrix that an estimator returns.

A perspective first says whether an estimator can answer (``check``, before any work), then turns what was found under
one or several trainings into one result with a table ``perspective``.
"""
