"""Linear references to hold a model against: on words alone, and on what frozen backbones give.

N items · K classes · d width
"""

import time

import numpy as np
import torch
from accelerate import PartialState
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from kit.config import TrainConfig
from kit.data.items import data_fingerprints, read_items
from kit.data.text import product_texts
from kit.models.backbones import find_backbones
from kit.runs import Run
from kit.training.features import precompute
from kit.training.inputs import make_datasets
from kit.training.summary import report_blank_images, summarise_items
from kit.training.tfidf import Calibrated, tfidf_model

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
        report_blank_images(run, frames)
        if config.system == "tfidf":
            inputs = {name: np.array(product_texts(frame), object) for name, frame in frames.items()}
            model = Calibrated(tfidf_model())
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
        summary |= summarise_items(frames, data_fingerprints(frames)) | {
            "seconds": round(time.perf_counter() - started, 1)
        }
        run.write(codes, (train[folds >= 0], oof[folds >= 0]), (frames["test"], test), summary)
        print(run, flush=True)
    state.wait_for_everyone()


def _pooled(config: TrainConfig, codes: list[int], frames: dict, device: torch.device) -> dict[str, list[np.ndarray]]:
    """Of each frame, text (mean over tokens) and image (mean over regions) features, `[N, d]` each."""
    backbones = find_backbones(config)
    products = make_datasets(config, codes, frames, backbones)
    precompute(config, backbones, products, device, "no")
    found = {}
    for name, part in products.items():
        sides = [np.empty((0, backbone.outline.width)) for backbone in backbones.values()]
        if len(part):
            sides = [part.sides[side].values.astype(np.float32) for side in ("text", "image")]
            sides[0] = sides[0].reshape(len(part), 2, -1)[:, 1]  # the mean token
        found[name] = sides
    return found
