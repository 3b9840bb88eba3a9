"""The probe: logistic regression on one vector per side, the plain reference for every model of the same features.

N items · K classes · d width
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from threadpoolctl import threadpool_limits

from kit.data.folds import split_evenly

INNER = 3  # folds that choose the weights and C
WEIGHTS = [{"text": 10.0, "image": image} for image in (2.5, 5.0, 10.0)]  # the vectors' lengths
CS = [0.03, 0.1, 0.3, 1.0]  # inverse regularisation at these lengths


def make_probe(widths: Sequence[int], standardise: bool = True) -> Pipeline:
    """Return a pipeline from features `[N, Σd]` to codes `[N]`; `widths`: d of text and image, 0 for a side left out.

    Each side is brought to a fixed length of its own, and standardised before if `standardise`.
    """
    sides = scale_sides(widths, standardise).set_params(transformer_weights=WEIGHTS[1])
    return make_pipeline(sides, LogisticRegression(max_iter=2000))


def scale_sides(widths: Sequence[int], standardise: bool = True) -> ColumnTransformer:
    """Return a transformer of features `[N, Σd]` that standardises each side, if asked, and brings it to length 1."""
    scaler, edges = make_pipeline(*[StandardScaler()] * standardise, Normalizer()), np.cumsum([0, *widths])
    return ColumnTransformer(
        [(name, scaler, slice(*edges[i : i + 2])) for i, name in enumerate(("text", "image")) if widths[i]]
    )


@threadpool_limits.wrap(limits=1, user_api="blas")  # its matrices are small: two threads on busy cores took 19 times
def fit_probe(model: Pipeline, features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> Pipeline:
    """Return `model` fitted to features `[N, Σd]`, with the lengths and the C that lose least in inner folds.

    Folds never split a group. If there are too few items for inner folds, lengths and C are the middle ones.
    """
    grid = {"columntransformer__transformer_weights": WEIGHTS, "logisticregression__C": CS}
    if len(model[0].transformers) == 1:
        del grid["columntransformer__transformer_weights"]
    counts = pd.Series(labels).value_counts()
    able = min(counts.max(), len(np.unique(groups))) >= INNER
    inner = split_evenly(pd.Series(labels), INNER, 0, groups) if able else np.zeros(len(labels))
    if any(len(np.unique(labels[inner != part])) < 2 for part in range(INNER)):
        return model.set_params(logisticregression__C=CS[1]).fit(features, labels)
    search = GridSearchCV(model, grid, scoring=_log_likelihood, cv=PredefinedSplit(inner))
    return search.fit(features, labels).best_estimator_


def _log_likelihood(model: Pipeline, features: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean log-likelihood of labels `[N]`; a class that the model never saw counts as all but impossible."""
    likely = np.where(model.classes_ == labels[:, None], model.predict_proba(features), 0).sum(1)
    return float(np.log(np.maximum(likely, 1e-6)).mean())
