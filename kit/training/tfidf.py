"""The text-only linear baseline that every other model is compared with, and the calibration of its margins.

N items · K classes
"""

import unicodedata

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.svm import LinearSVC

from kit.core.arrays import LINEAR, Arrays, array_text, fitted, set_fitted, text_array
from kit.metrics import softmax


def _normalise(text: str) -> str:
    """Return the text in lower case, each accent composed with its letter."""
    return unicodedata.normalize("NFC", text).lower()


def tfidf_model() -> Pipeline:
    """Return a pipeline from texts `[N]` to codes `[N]`: TF-IDF of character n-grams within words, a linear SVM."""
    grams = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 5), sublinear_tf=True, preprocessor=_normalise)
    return make_pipeline(grams, LinearSVC(random_state=0))


class Calibrated(ClassifierMixin, BaseEstimator):
    """`tfidf_model` with probabilities: the softmax of its margins times a sharpness (temperature scaling).

    The sharpness minimises the cross-entropy on held-out items, in three folds that never split a group; the most
    likely class does not depend on it. As with Platt's targets, one of n + 2 items counts as of any class, so that a
    few items without a mistake do not make the model sure of everything. scikit-learn's CalibratedClassifierCV does
    nearly the same, but fails if all items of a class are held out at once.
    """

    FOLDS = 3

    def __init__(self, model: Pipeline):
        self.model = model

    def fit(self, texts: np.ndarray, y: np.ndarray, groups: np.ndarray) -> "Calibrated":
        """Fit to texts, codes and groups `[N]` each."""
        self.vectorizer_, self.svm_ = clone(self.model)
        vectors, folds = self.vectorizer_.fit_transform(texts), min(self.FOLDS, len(np.unique(groups)))
        parts = GroupKFold(folds, shuffle=True, random_state=0).split(vectors, y, groups) if folds > 1 else ()
        held_out = []  # margins [n, K'] and true positions [n] of the items whose class the other folds have
        for learn, scored in parts:
            known = np.unique(y[learn])
            scored = scored[np.isin(y[scored], known)]
            if len(known) > 1 and len(scored):
                svm = clone(self.svm_).fit(vectors[learn], y[learn])
                held_out.append((_margins(svm, vectors[scored]), np.searchsorted(known, y[scored])))
        any_class = 1 / (sum(len(true) for _, true in held_out) + 2)

        def loss(log_sharpness: float) -> float:
            total = 0.0
            for margins, true in held_out:
                logs = log_softmax(np.exp(log_sharpness) * margins, axis=1)
                total -= (1 - any_class) * logs[np.arange(len(true)), true].sum() + any_class * logs.mean(1).sum()
            return total

        self.sharpness_ = float(np.exp(minimize_scalar(loss, bounds=(-5, 5)).x)) if held_out else 1.0
        self.classes_ = self.svm_.fit(vectors, y).classes_
        return self

    def predict_proba(self, texts: np.ndarray) -> np.ndarray:
        return softmax(self.sharpness_ * _margins(self.svm_, self.vectorizer_.transform(texts)))

    def predict(self, texts: np.ndarray) -> np.ndarray:
        return self.classes_[self.predict_proba(texts).argmax(1)]

    def state(self) -> Arrays:
        """Return what `restore` needs to predict the same."""
        arrays = fitted(self, "sharpness") | fitted(self.svm_, *LINEAR) | fitted(self.vectorizer_, "idf")
        grams = sorted(self.vectorizer_.vocabulary_, key=self.vectorizer_.vocabulary_.get)
        # half the size, and far closer than the float32 in which probabilities are kept
        return arrays | {"coef": arrays["coef"].astype(np.float32), "grams": text_array(grams)}

    def restore(self, arrays: Arrays) -> "Calibrated":
        """Return this model as it was when `state` was asked."""
        self.vectorizer_, self.svm_ = clone(self.model)
        self.vectorizer_.set_params(vocabulary=array_text(arrays["grams"]))
        self.vectorizer_.idf_ = arrays["idf"]
        set_fitted(self.svm_, arrays | {"coef": arrays["coef"].astype(float)}, *LINEAR)
        return set_fitted(self, arrays, "sharpness", "classes")


def _margins(svm: LinearSVC, vectors) -> np.ndarray:
    """Return each class's margin `[N, K]`."""
    margins = svm.decision_function(vectors)
    return np.column_stack([-margins, margins]) if margins.ndim == 1 else margins  # one margin: two classes
