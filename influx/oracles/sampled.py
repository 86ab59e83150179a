"""Rules over retrained models, from models trained one at a time and written out cell by cell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from influx.influence import Influence
from influx.learners.torch.optimizers import SGD
from influx.models.mlp import MLP
from influx.oracles import banks
from influx.oracles.comparison import Comparison, compare
from influx.oracles.plain import Array
from influx.oracles.toys import Toy, table, train
from influx.streams import stream

EXACT = 1e-9  # float64 sums in another order, over a few steps
SOLVED = 1e-6  # two iterations for one optimum


def _toy(below: Path) -> Toy:
    return train(below, table(), MLP(width=4), SGD(lr=0.3, momentum=0.5, weight_decay=0.01))


def _with_mean(test: Array) -> Array:
    return np.column_stack([test, test.mean(axis=1)])


def _against(label: str, found: Influence, value: Array, error: Array, bound: float = EXACT) -> Iterator[Comparison]:
    """Pointwise and joint values (n, m + 1) with their standard errors."""
    assert found.stderr is not None
    joint = found.tables["joint"]
    yield compare(f"{label}: influence", found.values, value[:, :-1], bound)
    yield compare(f"{label}: standard error", found.stderr, error[:, :-1], bound)
    yield compare(f"{label}: joint influence", joint["influence"], value[:, -1], bound)
    yield compare(f"{label}: standard error of the joint influence", joint["stderr_design"], error[:, -1], bound)
    spread = value[:, :-1].std(axis=1, ddof=1) / np.sqrt(value.shape[1] - 1)
    yield compare(f"{label}: its error over test instances", joint["stderr_test"], spread, bound)


def _on_itself(label: str, found: Influence, value: Array, error: Array) -> Iterator[Comparison]:
    """Memorization from the diagonal of an influence of training on training instances."""
    own = found.tables["memorization"]
    assert found.self_influence is not None
    yield compare(f"{label}: memorization", found.self_influence, np.diag(value), EXACT)
    yield compare(f"{label}: standard error of memorization", own["stderr"], np.diag(error), EXACT)


def downsampling(below: Path) -> Iterator[Comparison]:
    """In and out means of models trained one at a time, for all three samplings."""
    toy, models = _toy(below), 40
    masks = banks.of_sizes(toy, "draws/fixed/6", [6] * models)
    test, own = banks.outcomes(toy, masks)
    found = toy.estimate("downsampling", models=models, fraction=0.7)
    yield from _against("subsets of one size", found, *banks.gap(masks, _with_mean(test)))
    yield from _on_itself("subsets of one size", found, *banks.gap(masks, own))

    masks = banks.by_chance(toy, "draws/bernoulli/0.7", [0.7] * models)
    test, _ = banks.outcomes(toy, masks)
    found = toy.estimate("downsampling", models=models, sampling="bernoulli")
    yield from _against("independent instances", found, *banks.gap(masks, _with_mean(test)))

    halves = [banks.of_sizes(toy, f"draws/fixed/{size}", [size] * (models // 2)) for size in (6, 5)]
    masks = np.stack(halves, axis=1).reshape(models, -1)
    test = _with_mean(banks.outcomes(toy, masks)[0])
    value, error = np.empty((2, len(toy.train), test.shape[1]))
    for i, j in np.ndindex(value.shape):
        inside = [test[k, j] for k in range(0, models, 2) if masks[k, i]]
        outside = [test[k, j] for k in range(1, models, 2) if not masks[k, i]]
        value[i, j] = np.mean(outside) - np.mean(inside)
        error[i, j] = np.sqrt(np.var(outside, ddof=1) / len(outside) + np.var(inside, ddof=1) / len(inside))
    found = toy.estimate("downsampling", models=models, sampling="paired_sizes")
    yield from _against("sizes s and s - 1", found, value, error)


def banzhaf(below: Path) -> Iterator[Comparison]:
    """Differences of means, and the normal equations with their sandwich."""
    toy, models = _toy(below), 40
    masks = banks.by_chance(toy, "draws/bernoulli/0.5", [0.5] * models)
    test, own = banks.outcomes(toy, masks)
    found = toy.estimate("banzhaf", models=models)
    yield from _against("difference of means", found, *banks.gap(masks, _with_mean(test)))
    yield from _on_itself("difference of means", found, *banks.gap(masks, own))
    found = toy.estimate("banzhaf", models=models, rule="ols")
    yield from _against("least squares", found, *_columns(masks, _with_mean(test)))
    yield from _on_itself("least squares", found, *_columns(masks, own))


def _columns(masks: NDArray[np.int64], risks: Array) -> tuple[Array, Array]:
    pairs = [banks.regression(masks, column) for column in risks.T]
    return np.column_stack([value for value, _ in pairs]), np.column_stack([error for _, error in pairs])


def ame(below: Path) -> Iterator[Comparison]:
    """Differences of means at each p, and LASSO by coordinate descent with cross-validation."""
    toy, models, ps = _toy(below), 60, np.array([0.3, 0.5, 0.7])
    order = stream(toy.problem.seed, "ame/densities").permuted(np.tile(np.arange(3), (models // 3, 1)), axis=1).ravel()
    masks = np.empty((models, len(toy.train)), np.int64)
    for k, p in enumerate(ps.tolist()):
        masks[order == k] = banks.by_chance(toy, f"draws/bernoulli/{p}", [p] * int((order == k).sum()))
    test = _with_mean(banks.outcomes(toy, masks)[0])
    settings = {"models": models, "probabilities": ps.tolist(), "folds": 4, "path": 5, "path_ratio": 0.01}
    pairs = [banks.gap(masks[order == k], test[order == k]) for k in range(3)]
    value = np.mean([value for value, _ in pairs], axis=0)
    error = np.sqrt(np.sum([error**2 for _, error in pairs], axis=0)) / 3
    yield from _against("inverse probabilities", toy.estimate("ame", rule="ipw", **settings), value, error)

    unit = np.sqrt(np.mean(1 / (ps * (1 - ps))))
    x = np.where(masks > 0, 1 / ps[order][:, None], -1 / (1 - ps[order][:, None])) / unit
    y = test.copy()
    for k in range(3):
        x[order == k] -= x[order == k].mean(axis=0)
        y[order == k] -= y[order == k].mean(axis=0)
    weigh = np.where(masks > 0, 1 / ps[order][:, None], -1 / (1 - ps[order][:, None]))
    moment = 1 / (ps * (1 - ps)) / unit
    for post in (False, True):
        fits = [_cross_validated(x, column, 4, np.geomspace(1, 0.01, 5), post) for column in y.T]
        label = "lasso, least squares on its support" if post else "lasso"
        value, error = (unit * np.column_stack([fit[k] for fit in fits]) for k in (0, 1))
        found = toy.estimate("ame", post_ols=post, debias=False, **settings)
        yield from _against(label, found, -value, error, SOLVED)
        both = zip(y.T, fits, strict=True)
        pairs = [_debiased(x, column, fit[2], 4, post, weigh, order, moment) for column, fit in both]
        value, error = (np.column_stack(part) for part in zip(*pairs, strict=True))
        found = toy.estimate("ame", post_ols=post, **settings)
        yield from _against(f"{label}, debiased", found, -value, error, SOLVED)


def _cross_validated(x: Array, y: Array, folds: int, ratios: Array, post: bool) -> tuple[Array, Array, float]:
    """Slopes of one outcome at the penalty of the one-standard-error rule, their jackknife error, and the penalty."""
    parts = np.array_split(np.arange(len(x)), folds)
    penalties = np.abs(x.T @ y / len(x)).max() * ratios
    errors = np.empty((folds, len(penalties)))
    for number, part in enumerate(parts):
        rest = np.setdiff1d(np.arange(len(x)), part)
        for place, penalty in enumerate(penalties):
            residual = y[part] - x[part] @ banks.lasso(x[rest], y[rest], penalty)
            errors[number, place] = np.mean(residual**2)
    mean, spread = errors.mean(axis=0), errors.std(axis=0, ddof=1) / np.sqrt(folds)
    best = int(np.argmin(mean))
    chosen = next(p for p, error in zip(penalties, mean, strict=True) if error <= mean[best] + spread[best])
    return *_jackknifed(x, y, chosen, post), float(chosen)


def _fitted(x: Array, y: Array, penalty: float, support: NDArray[np.int64] | None) -> Array:
    """LASSO, or least squares on a support."""
    if support is None:
        return banks.lasso(x, y, penalty)
    slopes = np.zeros(x.shape[1])
    slopes[support] = np.linalg.lstsq(x[:, support], y, rcond=None)[0]
    return slopes


def _jackknifed(x: Array, y: Array, penalty: float, post: bool) -> tuple[Array, Array]:
    """Slopes and their jackknife error over 20 parts, on the support of the whole."""
    support = np.flatnonzero(banks.lasso(x, y, penalty)) if post else None
    every, count = np.arange(len(x)), 20
    rests = [np.setdiff1d(every, part) for part in np.array_split(every, count)]
    left = np.stack([_fitted(x[rest], y[rest], penalty, support) for rest in rests])
    error = np.sqrt((count - 1) / count * ((left - left.mean(axis=0)) ** 2).sum(axis=0))
    return _fitted(x, y, penalty, support), error


def _debiased(
    x: Array,
    y: Array,
    penalty: float,
    folds: int,
    post: bool,
    weigh: Array,
    group: NDArray[np.int64],
    moment: Array,
) -> tuple[Array, Array]:
    """Mean over models of slopes from other folds and weighted residuals, and its standard error, group by group."""
    every, each = np.arange(len(x)), np.empty_like(x)
    for fold in np.array_split(every, folds):
        rest = np.setdiff1d(every, fold)
        support = np.flatnonzero(banks.lasso(x[rest], y[rest], penalty)) if post else None
        slopes = _fitted(x[rest], y[rest], penalty, support)
        for k in fold:
            count = (group == group[k]).sum()
            each[k] = moment[group[k]] * slopes + weigh[k] * (y[k] - x[k] @ slopes) * count / (count - 1)
    parts = [each[group == g] for g in range(len(moment))]
    variance = np.mean([part.var(axis=0, ddof=1) / len(part) for part in parts], axis=0) / len(parts)
    return np.mean([part.mean(axis=0) for part in parts], axis=0), np.sqrt(variance)


def datamodels(below: Path) -> Iterator[Comparison]:
    """LASSO by coordinate descent, its penalty from held-out models."""
    toy, models, ratios = _toy(below), 60, np.geomspace(1, 0.01, 5)
    masks = banks.by_chance(toy, "draws/bernoulli/0.5", [0.5] * models)
    test, cut = _with_mean(banks.outcomes(toy, masks)[0]), 48
    judge = cut + (models - cut) // 2
    weigh, one = np.where(masks > 0, 2.0, -2.0), np.zeros(models, np.int64)  # one group
    plain, corrected, facts = [], [], []
    for y in test.T:
        x_mean, y_mean = masks[:cut].mean(axis=0), y[:cut].mean()
        x, centred = masks[:cut] - x_mean, y[:cut] - y_mean
        tried = [banks.lasso(x, centred, p) for p in np.abs(x.T @ centred / cut).max() * ratios]
        residual = [y - y_mean - (masks - x_mean) @ slopes for slopes in tried]
        best = int(np.argmin([np.sum(r[cut:judge] ** 2) for r in residual]))
        penalty = float(np.abs(x.T @ centred / cut).max() * ratios[best])
        whole, centred = masks - masks.mean(axis=0), y - y.mean()
        plain.append(_jackknifed(whole, centred, penalty, post=False))
        corrected.append(_debiased(whole, centred, penalty, 10, False, weigh, one, np.ones(1)))
        r2 = 1 - np.sum(residual[best][judge:] ** 2) / np.sum((y[judge:] - y[judge:].mean()) ** 2)
        facts.append([y.mean() - masks.mean(axis=0) @ plain[-1][0], r2, penalty])
    settings = {"models": models, "held_out": 0.2, "path": 5, "path_ratio": 0.01, "target": "loss"}
    for label, pairs in (("lasso", plain), ("debiased", corrected)):
        found = toy.estimate("datamodels", debias=label == "debiased", **settings)
        value, error = (np.column_stack(part) for part in zip(*pairs, strict=True))
        yield from _against(label, found, -value, error, SOLVED)
        if label == "lasso":
            columns = found.tables["datamodels"][["intercept", "r2", "penalty"]]
            yield compare("intercept, R² on held-out models and penalty", columns, np.array(facts)[:-1], SOLVED)


def c_score(below: Path) -> Iterator[Comparison]:
    """Mean risks of models that leave an instance out, size by size."""
    toy, runs, sizes = _toy(below), 30, [3, 6]
    n, m = len(toy.train), len(toy.test)
    score, error, weighted, total = np.zeros(n), np.zeros(n), np.zeros((n, m)), np.zeros((n, 1))
    on_test = np.zeros(m)
    for size in sizes:
        masks = banks.of_sizes(toy, f"draws/fixed/{size}", [size] * runs)
        test, own = banks.outcomes(toy, masks)
        on_test -= test.mean(axis=0) / len(sizes)
        for i in range(n):
            out = own[masks[:, i] == 0, i]
            score[i] -= out.mean() / len(sizes)
            error[i] += out.var(ddof=1) / len(out) / len(sizes) ** 2
        with_ = masks.sum(axis=0)[:, None]
        weight = with_ * (runs - with_) / runs
        weighted, total = weighted + weight * banks.gap(masks, test)[0], total + weight
    found = toy.estimate("c_score", runs=runs, sizes=[0.3, 0.7])
    scores = found.tables["c_score"]
    yield compare("mean risk of models without it", scores[scores["split"] == "train"]["score"], score, EXACT)
    yield compare("its standard error", scores[scores["split"] == "train"]["stderr"], np.sqrt(error), EXACT)
    yield compare("mean risk on test instances", scores[scores["split"] == "test"]["score"], on_test, EXACT)
    yield compare("differences of means, weighted", found.values, weighted / total, EXACT)


def data_oob(below: Path) -> Iterator[Comparison]:
    """Mean risks of bootstrap models that did not draw an instance."""
    toy, models = _toy(below), 40
    counts = banks.drawn(toy, "draws/bootstrap", models)
    test, own = banks.outcomes(toy, counts)
    out = [own[counts[:, i] == 0, i] for i in range(len(toy.train))]
    found = toy.estimate("data_oob", models=models)
    yield from _against("bootstrap models", found, *banks.gap(counts, _with_mean(test)))
    values = found.tables["data_oob"]
    yield compare("out-of-bag value", values["value"], [-risks.mean() for risks in out], EXACT)
    error = [risks.std(ddof=1) / np.sqrt(len(risks)) for risks in out]
    yield compare("its standard error", values["stderr"], error, EXACT)


def group_loo(below: Path) -> Iterator[Comparison]:
    """Trainings without each class, one at a time."""
    toy = _toy(below)
    classes = sorted(set(toy.train.y.tolist()))
    members = np.stack([toy.train.y == label for label in classes])
    for renormalise in (False, True):
        full, own = banks.trained(toy, np.ones(len(toy.train)), renormalise)
        pairs = [banks.trained(toy, 1 - group.astype(int), renormalise) for group in members]
        effect, on_train = (np.stack(part) for part in zip(*pairs, strict=True))
        found = toy.estimate("group_loo", renormalise=renormalise)
        label = f"without each class, renormalise={str(renormalise).lower()}"
        listed = found.tables["group_influence"]["influence"].to_numpy().reshape(len(classes), -1)
        yield compare(label, listed, effect - full, EXACT)
        place, size = toy.train.y, members.sum(axis=1)[toy.train.y]
        yield compare(f"{label}: shares", found.values, (effect - full)[place] / size[:, None], EXACT)
        itself = [(on_train[c, i] - own[i]) / size[i] for i, c in enumerate(place)]
        assert found.self_influence is not None
        yield compare(f"{label}: on itself", found.self_influence, itself, EXACT)


ORACLES = {
    "ame": ame,
    "banzhaf": banzhaf,
    "c_score": c_score,
    "data_oob": data_oob,
    "datamodels": datamodels,
    "downsampling": downsampling,
    "group_loo": group_loo,
}
