"""A finished training, ready to predict: its items or new ones, prepared as in training, and the model of each fold.

N items · K classes
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from accelerate import Accelerator
from torch import Tensor, nn

from kit.config import LIGHT, TrainConfig
from kit.core.exceptions import KitError
from kit.core.files import TRAIN_AGAIN
from kit.data.dataset import ProductDataset
from kit.data.items import data_fingerprints, read_items, require_same_data
from kit.metrics import softmax
from kit.models.classifier import Classifier
from kit.runs import TrainingRun
from kit.training.predict import prediction_batches, run_batches
from kit.training.run_trainer import make_accelerator, predicting, prepare_items
from kit.training.saved_weights import load_weights, require_backbones


@dataclass(frozen=True, eq=False)
class Trained:
    """A finished training of a network.

    `codes` `[K]`: in the order of the model's outputs · `frames`, `products`: items and their datasets, by part.
    """

    run: TrainingRun
    config: TrainConfig
    codes: list[int]
    frames: dict[str, pd.DataFrame]
    products: dict[str, ProductDataset]
    accelerator: Accelerator
    build: Callable[[], Classifier]
    latest: dict[int, nn.Module] = field(default_factory=dict)  # the model that was asked for last, by its fold

    def model(self, fold: int) -> Any:
        """Return the model of a fold in evaluation mode. Raise KitError if its weights are missing or another's."""
        if fold in self.latest:
            return self.latest[fold]
        self.latest.clear()
        path = self.run.folder / f"model-{fold}.safetensors"
        if not path.is_file():
            raise KitError(f"{path} is missing: {TRAIN_AGAIN}.")
        model = self.build().to(self.accelerator.device)
        load_weights(model, path, model.frozen_prefixes)
        self.latest[fold] = self.accelerator.prepare_model(model, evaluation_mode=True).eval()
        return self.latest[fold]

    def probabilities(self, models: Sequence[nn.Module], items: ProductDataset) -> list[np.ndarray]:
        """Return each model's probabilities `[N, K]` of `items`, in their order; a batch is read once for all."""
        if not len(items):
            return [np.zeros((0, len(self.codes)), np.float32) for _ in models]
        batches = prediction_batches(items, self.config, self.accelerator)

        def forward(batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
            return tuple(model(batch) for model in models)

        return [softmax(each) for each in run_batches(forward, batches, len(items), models[0], self.accelerator)]

    def places(self, ids: list) -> np.ndarray:
        """Return the places of out-of-fold items in the frame `train`. Raise KitError if the run predicted no such."""
        train = self.frames["train"]
        scored = np.flatnonzero(train["fold"] >= 0)
        places = pd.Index(train["id"].iloc[scored]).get_indexer(ids)
        if (places < 0).any():
            missing = [one for one, place in zip(ids, places, strict=True) if place < 0]
            raise KitError(
                f"The run {self.run.name!r} has no out-of-fold item {missing[0]!r}: take ids of oof.parquet."
            )
        return scored[places]


def open_trained(run: TrainingRun, data: str = "") -> Trained:
    """Return a finished training with its items; outputs of frozen backbones come from the cache, or are computed.
    `data`: the run's challenge folder, if it has moved.

    Raise KitError if the run is not finished, or no network, or if its items or backbones have changed since.
    """
    run.require()
    config = predicting(dataclasses.replace(run.config, data=data or run.config.data))
    if config.system in LIGHT:
        raise KitError(f"The run {run.name!r} is a {config.system} baseline, which keeps no network: take another run.")
    require_backbones(run)
    accelerator, codes = make_accelerator(config), run.predictions("oof")[1]
    _, frames = read_items(config)
    require_same_data(run, data_fingerprints(frames), "put back the old data, or train the run again")
    products, build = prepare_items(config, codes, frames, accelerator)
    return Trained(run, config, codes, frames, products, accelerator, build)
