"""Light baselines, without gradient steps: on the text alone, and on the features of frozen backbones.

N items · K classes · d width
"""

import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState

from kit.config import NOT_TRAINED, OWN, TrainConfig
from kit.core.arrays import read_arrays, write_arrays
from kit.core.exceptions import KitError
from kit.data.items import data_fingerprints, read_items
from kit.data.text import product_texts
from kit.models.backbones import BackboneHandle, find_backbones
from kit.runs import TrainingRun
from kit.training.features import precompute
from kit.training.inputs import make_datasets
from kit.training.neighbours import Neighbours
from kit.training.probe import Probe
from kit.training.saved_weights import fingerprint_backbones
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
        if config.system == OWN:
            raise KitError(NOT_TRAINED)
        run.clear()
        codes, frames = read_items(config)
        report_blank_images(run, frames)
        backbones = find_backbones(config)
        inputs = read_inputs(config, codes, frames, backbones, state.device)
        train = frames["train"]
        if config.system == "tfidf" and not any(inputs["train"]):
            raise KitError(f"No item of {config.data} has a text, and tfidf reads nothing else: pass -p system image.")
        folds, labels = train["fold"].to_numpy(), train["label"].to_numpy()
        groups = train.get("group", train["id"]).to_numpy()
        oof, test = np.zeros((len(folds), len(codes))), np.zeros((config.folds, len(frames["test"]), len(codes)))
        for fold in range(config.folds):
            learn, scored = folds != fold, folds == fold
            model = new_model(config, backbones, state.device)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The number of unique classes is greater")  # many, of few items each
                model.fit(inputs["train"][learn], labels[learn], groups[learn])
            write_arrays(_path(run, fold), model.state())
            oof[scored] = model.predict_proba(inputs["train"][scored])
            if len(frames["test"]):
                test[fold] = model.predict_proba(inputs["test"])
        summary: dict[str, Any] = {
            "system": config.system,
            "text": config.text,
            "image": config.image,
            "recipe": config.recipe,
            "backbones": fingerprint_backbones(backbones),
        }
        summary |= summarise_items(frames, data_fingerprints(frames))
        summary["seconds"] = round(time.perf_counter() - started, 1)
        run.write(codes, (train[folds >= 0], oof[folds >= 0]), (frames["test"], test), summary)
        print(run, flush=True)
    state.wait_for_everyone()


def load(
    run: TrainingRun, backbones: dict[str, BackboneHandle], device: torch.device
) -> list[Calibrated | Probe | Neighbours]:
    """Return the model of each fold of a finished light baseline, over the run's backbones.

    Raise KitError if a file is missing or damaged.
    """
    folds = range(run.config.folds)
    return [new_model(run.config, backbones, device).restore(read_arrays(_path(run, fold))) for fold in folds]


def _path(run: TrainingRun, fold: int) -> Path:
    return run.folder / f"model-{fold}.safetensors"


def new_model(
    config: TrainConfig, backbones: dict[str, BackboneHandle], device: torch.device
) -> Calibrated | Probe | Neighbours:
    """Return the baseline of a configuration, not fitted yet."""
    if config.system == "tfidf":
        return Calibrated(tfidf_model())
    text, image = (backbones[side].outline.width if side in backbones else 0 for side in ("text", "image"))
    return Neighbours((text, image), device) if config.system == "neighbours" else Probe((text, image))


def read_inputs(
    config: TrainConfig, codes: list[int], frames: dict, backbones: dict[str, BackboneHandle], device: torch.device
) -> dict[str, np.ndarray]:
    """Return what the baseline reads of each frame's items: texts `[N]`, or features `[N, d_text + d_image]`, the means
    over tokens and over regions; of a side that it does not read there are none."""
    if config.system == "tfidf":
        return {name: np.array(product_texts(frame), object) for name, frame in frames.items()}
    parts = make_datasets(config, codes, frames, backbones)
    precompute(config, backbones, parts, device, "no")
    features = {}
    for name, part in parts.items():
        features[name] = np.empty((0, sum(backbone.outline.width for backbone in backbones.values())), np.float32)
        if len(part):
            # of the text's two vectors the mean token, behind the first; of the image the mean region
            sides = [
                values.values.reshape(len(part), -1)[:, -backbones[side].outline.width :]
                for side, values in part.sides.items()
            ]
            features[name] = np.hstack(sides, dtype=np.float32)
    return features
