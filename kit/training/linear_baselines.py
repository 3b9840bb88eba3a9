"""Linear baselines to compare a model with: on the text alone, and on the features of frozen backbones.

N items · K classes · d width
"""

import time
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from kit.config import TrainConfig
from kit.data.items import data_fingerprints, read_items
from kit.data.text import product_texts
from kit.models.backbones import find_backbones
from kit.runs import TrainingRun
from kit.training.features import precompute
from kit.training.inputs import make_datasets
from kit.training.summary import report_blank_images, summarise_items
from kit.training.tfidf import Calibrated, tfidf_model

C = 10.0  # inverse regularisation of the logistic regression; on the emoji's validation splits 100 does about as well


def fit(run: TrainingRun) -> None:
    """Fit a linear baseline in each fold of the run's configuration and write the run's results.

    tfidf: TF-IDF of character n-grams and a linear support vector machine, with calibrated probabilities. logistic:
    logistic regression on the text's mean token and the image's mean region.

    Raise KitError if the items or the backbones cannot be read.
    """
    state = PartialState()
    if state.is_main_process:
        started, config = time.perf_counter(), run.config
        run.clear()
        codes, frames = read_items(config)
        report_blank_images(run, frames)
        if config.system == "tfidf":
            inputs = {name: np.array(product_texts(frame), object) for name, frame in frames.items()}
            model = Calibrated(tfidf_model())
        else:
            inputs, text_width = _mean_features(config, codes, frames, state.device)
            model = logistic_model(text_width)
        train = frames["train"]
        folds, labels = train["fold"].to_numpy(), train["label"].to_numpy()
        groups = train.get("group", train["id"]).to_numpy()
        oof, test = np.zeros((len(folds), len(codes))), np.zeros((config.folds, len(frames["test"]), len(codes)))
        for fold in range(config.folds):
            learn, scored = folds != fold, folds == fold
            calibration = {"groups": groups[learn]} if config.system == "tfidf" else {}
            model.fit(inputs["train"][learn], labels[learn], **calibration)
            oof[scored] = model.predict_proba(inputs["train"][scored])
            if len(frames["test"]):
                test[fold] = model.predict_proba(inputs["test"])
        summary: dict[str, Any] = {
            "system": config.system,
            "text": config.text,
            "image": config.image,
            "recipe": config.recipe,
        }
        summary |= summarise_items(frames, data_fingerprints(frames))
        summary["seconds"] = round(time.perf_counter() - started, 1)
        run.write(codes, (train[folds >= 0], oof[folds >= 0]), (frames["test"], test), summary)
        print(run, flush=True)
    state.wait_for_everyone()


def logistic_model(text_width: int) -> Pipeline:
    """Return a pipeline from features `[N, d_text + d_image]` to codes `[N]`; each side is scaled by itself."""
    scaler, sides = make_pipeline(StandardScaler(), Normalizer()), (slice(0, text_width), slice(text_width, None))
    scalers = ColumnTransformer([(name, scaler, side) for name, side in zip(("text", "image"), sides, strict=True)])
    return make_pipeline(scalers, LogisticRegression(C=C, max_iter=2000))


def _mean_features(
    config: TrainConfig, codes: list[int], frames: dict, device: torch.device
) -> tuple[dict[str, np.ndarray], int]:
    """Return each frame's features `[N, d_text + d_image]`, means over tokens and over regions, and `d_text`."""
    backbones = find_backbones(config)
    parts = make_datasets(config, codes, frames, backbones)
    precompute(config, backbones, parts, device, "no")
    width = backbones["text"].outline.width
    features = {name: np.empty((0, width + backbones["image"].outline.width), np.float32) for name in parts}
    for name, part in parts.items():
        if len(part):
            text = part.sides["text"].values.reshape(len(part), 2, width)[:, 1]  # the mean token, behind the first
            image = part.sides["image"].values.reshape(len(part), -1)
            features[name] = np.hstack([text, image], dtype=np.float32)
    return features, width
