"""Scores and their uncertainty, in numpy.

N items · K classes
"""

import numpy as np
from scipy import special
from scipy.optimize import minimize_scalar


def confusion(true: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return counts `[K, K]`, true class by predicted class; both inputs `[N]` are class indices 0 … K-1."""
    return np.bincount(true * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def f1_per_class(counts: np.ndarray) -> np.ndarray:
    """Return F1 `[…, K]` from confusion counts `[…, K, K]`; nan for a class that is neither true nor predicted."""
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    total = counts.sum(-1) + counts.sum(-2)
    with np.errstate(invalid="ignore"):
        return np.where(total > 0, 2 * hits / np.maximum(total, 1), np.nan)


def macro_f1(true: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean F1 over the classes that are true or predicted: the challenge's score, as in scikit-learn."""
    (true, predicted), classes = _positions(true, predicted)
    return float(np.nanmean(f1_per_class(confusion(true, predicted, classes))))


def weighted_f1(true: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean F1 over the true classes, each weighted by its number of items, as in scikit-learn."""
    (true, predicted), classes = _positions(true, predicted)
    counts = confusion(true, predicted, classes)
    return float(np.average(f1_per_class(counts), weights=counts.sum(1)))


def bootstrap_macro_f1(
    true: np.ndarray,
    predicted: np.ndarray,
    other: np.ndarray | None = None,
    *,
    groups: np.ndarray | None = None,
    samples: int = 1000,
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval, over items, of macro-F1; with `other`, of the gain of `predicted` over it.

    `predicted` and `other` are `[N]`, or `[S, N]` for several seeds, whose mean score counts. The gain is paired: both
    are scored on the same resampled items. With `groups` `[N]`, whole groups are drawn: near-duplicates are right or
    wrong together, so that single items would make the interval too narrow.

    If classes are small, a resample scores below the sample, just as the sample scores below its population. So the
    interval of a score is the basic bootstrap of its logit, which reflects the resamples about the score; percentiles
    would count that shift twice (benchmarks/interval_coverage.py). In a gain the shift largely cancels, and its
    interval is the percentiles. Both intervals include the estimate.
    """
    systems = [np.atleast_2d(predicted), *([] if other is None else [np.atleast_2d(other)])]
    (true, *rows), classes = _positions(true, *np.concatenate(systems))
    cells = true * classes + np.stack(rows)  # [S, N]: each item's cell in its system's confusion counts
    seeds, group = len(systems[0]), np.arange(len(true))
    if groups is not None:
        group = np.unique(groups, return_inverse=True)[1]
    drawable = group.max() + 1

    def score(times: np.ndarray) -> float:
        """Return the score if each group `[G]` is there so many times."""
        counts = np.stack([np.bincount(row, times[group], classes**2) for row in cells]).reshape(-1, classes, classes)
        each = np.nanmean(f1_per_class(counts), axis=1)
        return each[:seeds].mean() - (0 if other is None else each[seeds:].mean())

    random, estimate = np.random.default_rng(0), score(np.ones(drawable))
    draws = (random.integers(0, drawable, drawable) for _ in range(samples))
    resampled = [score(np.bincount(draw, minlength=drawable)) for draw in draws]
    low, high = np.percentile(resampled, [2.5, 97.5])
    if other is None:
        half = 0.5 / len(true)  # half an item, so that scores of 0 and 1 have a logit
        odds, *ends = ((value + half) / (1 - value + half) for value in (estimate, high, low))
        reflected = odds**2 / np.array(ends)
        low, high = np.clip((reflected * (1 + half) - half) / (reflected + 1), 0, 1)
    return float(min(low, estimate)), float(max(high, estimate))


def bootstrap_mean(values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean of `values` `[N]`: the percentiles of resampled means."""
    random = np.random.default_rng(0)
    means = [values[random.integers(0, len(values), len(values))].mean() for _ in range(2000)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _positions(*labels: np.ndarray) -> tuple[list[np.ndarray], int]:
    """Return class codes as indices 0 … K-1 among those that occur, and K."""
    codes, positions = np.unique(np.stack(labels), return_inverse=True)
    return list(positions.reshape(len(labels), -1)), len(codes)


def scores(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return cross-entropy (nats), macro-F1 and accuracy of probabilities `[N, K]`; `labels` `[N]`: class indices."""
    true = probabilities[np.arange(len(labels)), labels]
    predicted = probabilities.argmax(1)
    loss = -np.log(np.maximum(true, np.finfo(np.float32).tiny)).mean()
    accuracy = (predicted == labels).mean()
    return {"loss": float(loss), "macro_f1": macro_f1(labels, predicted), "accuracy": float(accuracy)}


def calibration_bins(sure: np.ndarray, bins: int = 15) -> list[np.ndarray]:
    """Return the positions of items in `bins` bins of equally many each (Nguyen and O'Connor 2015), in the order of
    `sure` `[N]`, the probability of the predicted class."""
    return np.array_split(np.argsort(sure, kind="stable"), min(bins, len(sure)))


def calibration_error(sure: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """Return the expected calibration error: the mean gap, over items, between a bin's mean probability of the
    predicted class, `sure` `[N]`, and the share of its predictions that are `right` `[N]`."""
    parts = calibration_bins(sure, bins)
    return float(sum(abs(sure[part].mean() - right[part].mean()) * len(part) for part in parts) / len(sure))


def calibration_error_by_chance(sure: np.ndarray) -> float:
    """Return the mean `calibration_error` if the probabilities `sure` `[N]` were exact: what so few items leave."""
    drawn = np.random.default_rng(0).random((200, len(sure))) < sure
    return float(np.mean([calibration_error(sure, right) for right in drawn]))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities `[N, K]`, in double precision so that rows sum to one."""
    return special.softmax(logits.astype(np.float64), axis=1)


def temperature(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return the temperature by which logits `[N, K]` lose least on labels `[N]`, and that loss (Guo et al. 2017)."""

    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        return -special.log_softmax(logits / np.exp(log_temperature), axis=1)[rows, labels].mean()

    best = minimize_scalar(loss, bounds=(-3, 3), method="bounded")
    return float(np.exp(best.x)), float(best.fun)
