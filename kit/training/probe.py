"""The probe: logistic regression on one vector per side, the plain reference for every model of the same features.

N items · K classes · d width
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupShuffleSplit, PredefinedSplit
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer, StandardScaler
from threadpoolctl import threadpool_limits

from kit.core.arrays import LINEAR, Arrays, fitted, put_under, set_fitted, take_under
from kit.data.folds import split_evenly

INNER = 3  # folds that choose the weights and C
WEIGHTS = [{"text": 10.0, "image": image} for image in (2.5, 5.0, 10.0)]  # the vectors' lengths
CS = [0.03, 0.1, 0.3, 1.0]  # inverse regularisation at these lengths
SEARCHED = 10_000  # items that choose them at most; C is a prior's variance, so more would choose hardly another


def make_probe(widths: Sequence[int], standardise: bool = True) -> Pipeline:
    """Return a pipeline from features `[N, Σd]` to codes `[N]`; `widths`: d of text and image, 0 for a side left out.

    Each side is standardised and brought to a fixed length of its own; without `standardise`, it is only multiplied by
    that length.
    """
    sides = scale_sides(widths, standardise).set_params(transformer_weights=WEIGHTS[1])
    return make_pipeline(sides, LogisticRegression(max_iter=2000))


def scale_sides(widths: Sequence[int], standardise: bool = True) -> ColumnTransformer:
    """Return a transformer of features `[N, Σd]` that standardises each side and brings it to length 1, if asked."""
    scaler = make_pipeline(StandardScaler(), Normalizer()) if standardise else FunctionTransformer()
    edges = np.cumsum([0, *widths])
    return ColumnTransformer(
        [(name, scaler, slice(*edges[i : i + 2])) for i, name in enumerate(("text", "image")) if widths[i]]
    )


def scales(sides: ColumnTransformer) -> Arrays:
    """Return the means and deviations of a fitted transformer that standardises each side."""
    return {
        f"{name}.{key}": values
        for name, scaler, _ in sides.transformers_
        for key, values in fitted(scaler[0], "mean", "scale").items()
    }


def set_scales(sides: ColumnTransformer, arrays: Arrays) -> ColumnTransformer:
    """Fit a transformer to what `scales` returned, and return it."""
    widths = {name: len(arrays[f"{name}.mean"]) for name, _, _ in sides.transformers}
    sides.fit(np.zeros((1, sum(widths.values())), np.float32))  # of the right shape; the numbers follow
    for name, scaler, _ in sides.transformers_:
        set_fitted(scaler[0], take_under(name, arrays), "mean", "scale")
    return sides


class Probe(ClassifierMixin, BaseEstimator):
    """The probe with what `fit_probe` chooses."""

    def __init__(self, widths: Sequence[int]):
        self.widths = widths

    def fit(self, features: np.ndarray, y: np.ndarray, groups: np.ndarray) -> "Probe":
        """Fit to features `[N, Σd]`, codes and groups `[N]`."""
        self.model_ = fit_probe(make_probe(self.widths), features, y, groups)
        self.classes_ = self.model_.classes_
        return self

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        return self.model_.predict_proba(features)

    def state(self) -> Arrays:
        """Return what `restore` needs to predict the same."""
        sides, regression = self.model_
        lengths = {name: np.array(length) for name, length in sides.transformer_weights.items()}
        return fitted(regression, *LINEAR) | scales(sides) | put_under("length", lengths)

    def restore(self, arrays: Arrays) -> "Probe":
        """Return this model as it was when `state` was asked."""
        self.model_ = make_probe(self.widths)
        lengths = {name: float(length) for name, length in take_under("length", arrays).items()}
        set_scales(self.model_[0].set_params(transformer_weights=lengths), arrays)
        set_fitted(self.model_[1], arrays, *LINEAR)
        return set_fitted(self, arrays, "classes")


def fit_probe(model: Pipeline, features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> Pipeline:
    """Return `model` fitted to features `[N, Σd]`, with the lengths and the C that lose least in inner folds.

    Folds never split a group. Of more than SEARCHED items, that many choose. If there are too few items for inner
    folds, lengths and C are the middle ones.
    """
    some, large = np.arange(len(labels)), len(labels) > SEARCHED
    if large:
        sample = GroupShuffleSplit(1, train_size=SEARCHED / len(labels), random_state=0)
        some, _ = next(sample.split(labels, groups=groups))
    with threadpool_limits(1, user_api="blas"):  # small matrices: two threads on busy cores took 19 times as long
        chosen = _search(model, features[some], labels[some], groups[some])
    with threadpool_limits(None if large else 1, user_api="blas"):
        return clone(model).set_params(**chosen).fit(features, labels)


def _search(model: Pipeline, features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> dict:
    """Return the parameters of `model` that lose least in inner folds."""
    grid = {"columntransformer__transformer_weights": WEIGHTS, "logisticregression__C": CS}
    if len(model[0].transformers) == 1:
        del grid["columntransformer__transformer_weights"]
    counts = pd.Series(labels).value_counts()
    able = min(counts.max(), len(np.unique(groups))) >= INNER
    inner = split_evenly(pd.Series(labels), INNER, 0, groups) if able else np.zeros(len(labels))
    if any(len(np.unique(labels[inner != part])) < 2 for part in range(INNER)):
        return {"logisticregression__C": CS[1]}
    search = GridSearchCV(model, grid, scoring=_log_likelihood, cv=PredefinedSplit(inner), refit=False)
    return search.fit(features, labels).best_params_


def _log_likelihood(model: Pipeline, features: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean log-likelihood of labels `[N]`; a class that the model never saw counts as all but impossible."""
    likely = np.where(model.classes_ == labels[:, None], model.predict_proba(features), 0).sum(1)
    return float(np.log(np.maximum(likely, 1e-6)).mean())
