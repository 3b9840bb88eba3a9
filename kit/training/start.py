"""How a head starts on a fold: standardised inputs, and a classifier that is the probe of the head's own vectors.

First the classifier, then the rest, is LP-FT (Kumar et al. 2022, Fine-tuning can distort pretrained features).

N items · K classes · D width
"""

from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import Tensor

from kit.config import TrainConfig
from kit.core.console import Bar
from kit.core.exceptions import KitError
from kit.data.dataset import ProductDataset
from kit.data.sampler import make_loader
from kit.models.classifier import Classifier
from kit.models.heads import CoAttentionHead
from kit.models.layers import Standardise, real_regions
from kit.training.features import not_finite
from kit.training.probe import fit_probe, make_probe

ITEMS = 2048  # training items, about, from which the inputs' means and deviations are taken


def fit_start(
    config: TrainConfig, model: Classifier, products: ProductDataset, groups: np.ndarray, device: torch.device
) -> None:
    """Fit the start of the head to the fold's training items, whose `groups` `[N]` inner folds never split.

    The inputs are standardised. A co-attention head projects regions onto their main directions, and its classifier
    becomes the probe of its vectors, which are means as long as attention is even. Raise KitError if the inputs are not
    finite.
    """
    _fit_inputs(config, model, products, device)
    if isinstance(model.head, CoAttentionHead):
        model.head.side_lengths.fill_(1)
        vectors = _joint_vectors(config, model, products, device)
        start = [_probe(config, vectors, products, groups) if PartialState().is_main_process else None]
        model.head.start_classifier(*broadcast_object_list(start)[0])


def _probe(
    config: TrainConfig, vectors: np.ndarray, products: ProductDataset, groups: np.ndarray
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the probe of vectors `[N, D]` or `[N, 2 D]` as a classifier's weight and bias, and the lengths `[2]`."""
    widths = [config.width if config.attention in ("both", side) else 0 for side in ("text", "image")]
    assert products.labels is not None
    probe = fit_probe(make_probe(widths, standardise=False), vectors, products.labels, groups)
    lengths, regression = probe[0].transformer_weights, probe[1]
    weight, bias = regression.coef_, regression.intercept_
    if len(bias) == 1:  # two classes: one margin
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return torch.tensor(weight), torch.tensor(bias), torch.tensor([lengths["text"], lengths["image"]])


@torch.inference_mode()
def _joint_vectors(
    config: TrainConfig, model: Classifier, products: ProductDataset, device: torch.device
) -> np.ndarray:
    """Return what the head's classifier sees of each item, `[N, D]` or `[N, 2 D]`."""
    model.eval()
    head: Any = model.head
    vectors, rows = [], []
    for batch in Bar(make_loader(products, config.micro_batch, workers=config.workers), desc="probe", leave=False):
        batch = {key: value.to(device) for key, value in batch.items()}
        vectors.append(head.joint(*model.complete(batch, *model.features(batch))).cpu())
        rows.append(batch["row"].cpu())
    return torch.cat(vectors)[torch.cat(rows).argsort()].numpy()


@torch.inference_mode()
def _fit_inputs(config: TrainConfig, model: Classifier, products: ProductDataset, device: torch.device) -> None:
    """Set the means and deviations of the head's inputs from about ITEMS training items and the untrained backbones.

    Sums on the device, not scikit-learn's StandardScaler, which would skip NaN and takes five times as long. Raise
    KitError if the inputs are not finite.
    """
    batches = make_loader(
        products, config.micro_batch, shuffle=True, workers=config.workers, accumulate=config.accumulate
    )
    model.eval()
    # of x and of x² in double precision, and the count
    sums: dict[str, list[Any]] = {side: [0.0, 0.0, 0] for side in ("text", "image")}
    means: dict[str, list[Tensor]] = {"text": [], "image": []}  # each batch's vectors
    head: Any = model.head
    seen = 0
    for batch in Bar(batches, desc="standardise", leave=False):
        batch = {key: value.to(device) for key, value in batch.items()}
        layers, regions = model.features(batch)
        shown = real_regions(regions, batch.get("images"))
        for side, values in zip(sums, head.inputs(layers, batch["mask"], regions, shown), strict=True):
            if values is not None:
                values = values.float()
                squares = values.square().sum(0)
                if not squares.isfinite().all():  # beyond single precision
                    squares = values.double().square().sum(0)
                sums[side][0] += values.sum(0).double()
                sums[side][1] += squares.double()
                sums[side][2] += len(values)
                means[side].append(values)
        seen += len(batch["row"])
        if seen >= ITEMS and seen % config.batch_size == 0:  # the same items, whatever `accumulate` is
            break
    for side, layer in (("text", model.head.text_input), ("image", model.head.image_input)):
        total, squares, count = sums[side]
        if count and isinstance(layer, Standardise):
            if not squares.isfinite().all():
                raise KitError(not_finite(config, side, "no"))
            mean = total / count
            std = (squares / count - mean.square()).clamp_min(0).sqrt()
            layer.fit(mean.reshape(layer.mean.shape), std.reshape(layer.std.shape))
            if model.missing is not None:  # start as one among the items' vectors
                vector = getattr(model.missing, side)
                vector.copy_(mean.reshape(vector.shape) + std.reshape(vector.shape) * vector)
    if isinstance(head, CoAttentionHead):
        head.start_projections(*(torch.cat(values) for values in means.values()))
