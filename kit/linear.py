"""Linear references to hold a model against: on words alone, and on what frozen backbones give.

N items · K classes · d width
"""

import time

import numpy as np
import torch
from accelerate import PartialState
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import LinearSVC

from kit.backbones import find_backbones
from kit.challenge import product_texts
from kit.config import TrainConfig
from kit.datasets import make_products
from kit.features import precompute
from kit.items import describe_items, outline, read_items, tell_blanks
from kit.metrics import softmax
from kit.runs import Run
from kit.words import word_model

C = 10.0  # inverse regularisation of the logistic regression; on the sample's validation splits 100 does about as well


def fit(run: Run) -> None:
    """Fits a reference in each fold of the run's configuration, and writes the results of a run. Raises KitError.

    tfidf: TF-IDF of character n-grams and a linear support vector machine, with calibrated probabilities. logistic:
    logistic regression on the text's mean token and the image's mean region.
    """
    state = PartialState()
    if state.is_main_process:
        started, config = time.perf_counter(), run.config
        run.clear()
        codes, frames = read_items(config)
        tell_blanks(run, frames)
        if config.system == "tfidf":
            inputs = {name: np.array(product_texts(frame), object) for name, frame in frames.items()}
            model = Calibrated(word_model())
        else:
            inputs = _pooled(config, codes, frames, state.device)
            model = LogisticRegression(C=C, max_iter=2000)
        train = frames["train"]
        folds, labels = train["fold"].to_numpy(), train["label"].to_numpy()
        groups = train.get("group", train["id"]).to_numpy()
        oof, test = np.zeros((len(folds), len(codes))), np.zeros((config.folds, len(frames["test"]), len(codes)))
        for fold in range(config.folds):
            learn, scored = folds != fold, folds == fold
            scaled = inputs
            if config.system == "logistic":
                scalers = [make_pipeline(StandardScaler(), Normalizer()).fit(side[learn]) for side in inputs["train"]]
                scaled = {
                    name: np.hstack([scaler.transform(side) for scaler, side in zip(scalers, sides, strict=True)])
                    for name, sides in inputs.items()
                }
            more = {"groups": groups[learn]} if config.system == "tfidf" else {}
            model.fit(scaled["train"][learn], labels[learn], **more)
            oof[scored] = model.predict_proba(scaled["train"][scored])
            if len(frames["test"]):
                test[fold] = model.predict_proba(scaled["test"])
        summary = {"system": config.system, "text": config.text, "image": config.image, "recipe": config.recipe}
        summary |= describe_items(frames, outline(frames)) | {"seconds": round(time.perf_counter() - started, 1)}
        run.write(codes, (train[folds >= 0], oof[folds >= 0]), (frames["test"], test), summary)
        print(run, flush=True)
    state.wait_for_everyone()


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


def _pooled(config: TrainConfig, codes: list[int], frames: dict, device: torch.device) -> dict[str, list[np.ndarray]]:
    """Of each frame, text (mean over tokens) and image (mean over regions) features, `[N, d]` each."""
    backbones = find_backbones(config)
    products = make_products(config, codes, frames, backbones)
    precompute(config, backbones, products, device, "no")
    found = {}
    for name, part in products.items():
        sides = [np.empty((0, backbone.outline.width)) for backbone in backbones.values()]
        if len(part):
            sides = [part.sides[side].values.astype(np.float32) for side in ("text", "image")]
            sides[0] = sides[0].reshape(len(part), 2, -1)[:, 1]  # the mean token
        found[name] = sides
    return found
