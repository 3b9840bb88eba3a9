"""Stackers: scikit-learn classifiers of items by their members' probabilities, `fit(X [N, M, K], y [N])`.

`y` holds class positions 0 … K-1, and all K columns are predicted, also those of classes that `y` lacks.

N items · M members · K classes
"""

import warnings
from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.ensemble import VotingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier


class Blend(ClassifierMixin, BaseEstimator):
    """A logarithmic opinion pool, p ∝ Π_m p_m^(sharpness · weights_m): log-loss is convex in the exponents.

    `weights_` `[M]`: non-negative, with sum 1.
    """

    FLOOR = 1e-4  # lowest probability counted, so that one member that excludes the true class does not decide alone

    def fit(self, X: np.ndarray, y: np.ndarray) -> "Blend":
        logs = np.log(np.maximum(X, self.FLOOR))
        truth = logs[np.arange(len(y)), :, y]  # [N, M]

        def loss(exponents):
            pooled = log_softmax(np.einsum("nmk,m->nk", logs, exponents), axis=1)
            slope = np.einsum("nk,nmk->m", np.exp(pooled), logs) - truth.sum(0)
            return -pooled[np.arange(len(y)), y].mean(), slope / len(y)

        members = X.shape[1]
        start = np.full(members, 1 / members)
        exponents = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, 10)] * members).x
        self.classes_, self.sharpness_ = np.arange(X.shape[2]), exponents.sum()
        self.weights_ = exponents / self.sharpness_ if self.sharpness_ > 0 else start
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        logs = np.log(np.maximum(X, self.FLOOR))
        return softmax(np.einsum("nmk,m->nk", logs, self.sharpness_ * self.weights_), axis=1)

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.predict_proba(X).argmax(1)


class Stacked(ClassifierMixin, BaseEstimator):
    """A classifier `model` on the square roots of the members' probabilities and of their blend's, side by side.

    The blend learns one weight per member, so that the classifier need not learn per class that a member is weak, for
    which few items are not enough. SURE synthetic items per class, on which all members agree, act as a prior and keep
    the column of a class that no item has.
    """

    SURE = 5

    def __init__(self, model: ClassifierMixin):
        self.model = model

    def fit(self, X: np.ndarray, y: np.ndarray) -> "Stacked":
        members, classes = X.shape[1:]
        self.blend_, self.classes_ = Blend().fit(X, y), np.arange(classes)
        sure = np.eye(classes).repeat(self.SURE, axis=0)  # [SURE·K, K]
        inputs = self._inputs(np.concatenate([X, sure[:, None].repeat(members, axis=1)]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # few steps on purpose: they regularise too
            self.model_ = clone(self.model).fit(inputs, np.concatenate([y, sure.argmax(1)]))
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return self.model_.predict_proba(self._inputs(X))

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.predict_proba(X).argmax(1)

    def _inputs(self, X: np.ndarray) -> np.ndarray:
        blended = self.blend_.predict_proba(X)[:, None]
        return np.sqrt(np.concatenate([X, blended], axis=1, dtype=np.float32)).reshape(len(X), -1)  # [N, (M + 1)·K]


def network(seed: int) -> Stacked:
    """Return the paper's feed-forward network on class probabilities: one hidden layer, mean of three initialisations.

    Its regularisation, and that of the logistic regression, was chosen on models of data/emoji, 229 to 1,144 items.
    """
    settings = {"activation": "tanh", "solver": "lbfgs", "alpha": 2.0, "max_iter": 50}
    starts = np.random.SeedSequence(seed).generate_state(3).tolist()
    networks = [(str(start), MLPClassifier((64,), random_state=start, **settings)) for start in starts]
    return Stacked(VotingClassifier(networks, voting="soft"))


METHODS: dict[str, Callable[[int], Blend | Stacked]] = {
    "network": network,
    "logistic": lambda seed: Stacked(LogisticRegression(C=2.0, max_iter=300)),
    "blend": lambda seed: Blend(),
}
