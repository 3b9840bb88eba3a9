"""The linear model on words that every other model is held against, and the calibration of its margins.

N items · K classes
"""

import unicodedata

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.svm import LinearSVC

from kit.metrics import softmax


def _fold(text: str) -> str:
    """Return the text in lower case, each accent composed with its letter."""
    return unicodedata.normalize("NFC", text).lower()


def tfidf_model() -> Pipeline:
    """Texts `[N]` → codes `[N]`: TF-IDF of character n-grams within words, then a linear SVM (scikit-learn)."""
    grams = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 5), sublinear_tf=True, preprocessor=_fold)
    return make_pipeline(grams, LinearSVC(random_state=0))


class Calibrated:
    """`word_model` with probabilities: its margins, times a sharpness, through a softmax (temperature scaling).

    The sharpness is the one with the least cross-entropy on items that were held out, in three folds that never part a
    group; the likeliest class does not depend on it. As with Platt's targets, one in n + 2 items counts as of any
    class, so that few items without a mistake do not make it sure of everything. scikit-learn's CalibratedClassifierCV
    does nearly the same, but has no answer if all items of a class are held out at once.
    """

    FOLDS = 3

    def __init__(self, model: Pipeline):
        self.vectors, self.machine = model

    def fit(self, texts: np.ndarray, y: np.ndarray, groups: np.ndarray) -> "Calibrated":
        """Learn from texts, codes and groups `[N]` each."""
        vectors, folds = self.vectors.fit_transform(texts), min(self.FOLDS, len(np.unique(groups)))
        parts = GroupKFold(folds, shuffle=True, random_state=0).split(vectors, y, groups) if folds > 1 else ()
        held_out = []  # margins [n, K'] and true positions [n] of items of the classes that the machine learned
        for learn, scored in parts:
            known = np.unique(y[learn])
            scored = scored[np.isin(y[scored], known)]
            if len(known) > 1 and len(scored):
                machine = clone(self.machine).fit(vectors[learn], y[learn])
                held_out.append((_margins(machine, vectors[scored]), np.searchsorted(known, y[scored])))
        any_class = 1 / (sum(len(true) for _, true in held_out) + 2)

        def loss(log_sharpness: float) -> float:
            total = 0.0
            for margins, true in held_out:
                logs = log_softmax(np.exp(log_sharpness) * margins, axis=1)
                total -= (1 - any_class) * logs[np.arange(len(true)), true].sum() + any_class * logs.mean(1).sum()
            return total

        self.sharpness = float(np.exp(minimize_scalar(loss, bounds=(-5, 5)).x)) if held_out else 1.0
        self.machine.fit(vectors, y)
        return self

    def predict_proba(self, texts: np.ndarray) -> np.ndarray:
        return softmax(self.sharpness * _margins(self.machine, self.vectors.transform(texts)))


def _margins(machine: LinearSVC, vectors) -> np.ndarray:
    """`[N, K]`."""
    margins = machine.decision_function(vectors)
    return np.column_stack([-margins, margins]) if margins.ndim == 1 else margins  # one margin: two classes
