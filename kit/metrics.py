"""Scores and their uncertainty. numpy only.

N items · K classes
"""

import numpy as np


def confusion(true: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts `[K, K]`, true class by predicted class; both inputs `[N]` are class positions 0 … K-1."""
    return np.bincount(true * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def f1_per_class(counts: np.ndarray) -> np.ndarray:
    """F1 `[…, K]` from confusion counts `[…, K, K]`; nan for a class that neither truth nor prediction has."""
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    total = counts.sum(-1) + counts.sum(-2)
    with np.errstate(invalid="ignore"):
        return np.where(total > 0, 2 * hits / np.maximum(total, 1), np.nan)


def macro_f1(true: np.ndarray, predicted: np.ndarray) -> float:
    """Mean F1 over the classes that truth or prediction has: the challenge's score (as scikit-learn's)."""
    values, codes = np.unique(np.concatenate([true, predicted]), return_inverse=True)
    counts = confusion(codes[: len(true)], codes[len(true) :], len(values))
    return float(np.nanmean(f1_per_class(counts)))


def bootstrap_macro_f1(
    true: np.ndarray, predicted: np.ndarray, other: np.ndarray | None = None, samples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile bootstrap interval, over items, of macro-F1; with `other`, of how much `predicted` gains on it.

    The gain is paired: both predictions are scored on the same resampled items.
    """
    random, scores = np.random.default_rng(seed), []
    for _ in range(samples):
        rows = random.integers(0, len(true), len(true))
        score = macro_f1(true[rows], predicted[rows])
        scores.append(score if other is None else score - macro_f1(true[rows], other[rows]))
    low, high = np.percentile(scores, [2.5, 97.5])
    return float(low), float(high)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities `[N, K]`, in double precision so that rows sum to one."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)
