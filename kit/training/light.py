"""Light baselines, without gradient steps: on the text alone, and on the features of frozen backbones.

N items · K classes · d width
"""

import time
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from sklearn.pipeline import Pipeline

from kit.config import TrainConfig
from kit.data.items import data_fingerprints, read_items
from kit.data.text import product_texts
from kit.models.backbones import find_backbones
from kit.runs import TrainingRun
from kit.training.features import precompute
from kit.training.inputs import make_datasets
from kit.training.neighbours import Neighbours
from kit.training.probe import fit_probe, make_probe
from kit.training.summary import report_blank_images, summarise_items
from kit.training.tfidf import Calibrated, tfidf_model


def fit(run: TrainingRun) -> None:
    """Fit a light baseline in each fold of the run's configuration and write the run's results.

    tfidf: TF-IDF of character n-grams and a linear support vector machine, with calibrated probabilities. logistic and
    neighbours: the probe (`kit.training.probe`) and the nearest neighbours (`kit.training.neighbours`) of the text's
    mean token and the image's mean region. logistic_text, logistic_image: the probe of one of them.

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
            inputs, widths = mean_features(config, codes, frames, state.device)
            model = Neighbours(widths, state.device) if config.system == "neighbours" else make_probe(widths)
        train = frames["train"]
        folds, labels = train["fold"].to_numpy(), train["label"].to_numpy()
        groups = train.get("group", train["id"]).to_numpy()
        oof, test = np.zeros((len(folds), len(codes))), np.zeros((config.folds, len(frames["test"]), len(codes)))
        for fold in range(config.folds):
            learn, scored = folds != fold, folds == fold
            fit_model: Any = fit_probe if isinstance(model, Pipeline) else type(model).fit
            model = fit_model(model, inputs["train"][learn], labels[learn], groups[learn])
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


def mean_features(
    config: TrainConfig, codes: list[int], frames: dict, device: torch.device
) -> tuple[dict[str, np.ndarray], tuple[int, int]]:
    """Return each frame's features `[N, d_text + d_image]`, means over tokens and over regions, and both widths, 0 for
    a side that the system does not read."""
    backbones = find_backbones(config)
    parts = make_datasets(config, codes, frames, backbones)
    precompute(config, backbones, parts, device, "no")
    text, image = (backbones[side].outline.width if side in backbones else 0 for side in ("text", "image"))
    features = {name: np.empty((0, text + image), np.float32) for name in parts}
    for name, part in parts.items():
        if len(part):
            # of the text's two vectors the mean token, behind the first; of the image the mean region
            sides = [
                values.values.reshape(len(part), -1)[:, -backbones[side].outline.width :]
                for side, values in part.sides.items()
            ]
            features[name] = np.hstack(sides, dtype=np.float32)
    return features, (text, image)
