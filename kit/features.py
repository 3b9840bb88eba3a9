"""What frozen backbones make of the items, computed once and kept in memory; and the statistics of a head's inputs.

T tokens · R regions · L layers · d backbone width
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from tqdm.auto import tqdm

from kit.datasets import Features, Products, loader
from kit.models import Classifier

BATCH = 32


def precompute(model: Classifier, parts: list[Products], budget_gb: float, device: torch.device, workers: int) -> None:
    """Runs each frozen backbone of `model` once over the items of `parts`, and drops it from the model.

    Its outputs then come with the items. A backbone whose outputs would take more than what is left of `budget_gb` GiB
    stays in the model and runs at every step.
    """
    model.eval()
    left = budget_gb * 2**30
    for side in model.frozen:
        views = [Products(part.lengths, **{side: getattr(part, side)}) for part in parts]
        one = _forward(model, side, next(iter(loader(views[0], 1))), device)[0]  # tells the shape
        lengths = [part.lengths if side == "text" else [len(one)] * len(part) for part in parts]
        size = 2 * sum(map(sum, lengths)) * one[0].numel()
        if size > left:
            continue
        left -= size
        for part, view, rows in zip(parts, views, lengths, strict=True):
            features = Features("layers" if side == "text" else "regions", rows, *one.shape[1:])
            for batch in tqdm(loader(view, BATCH, workers=workers), desc=f"frozen {side}", leave=False):
                values = _forward(model, side, batch, device).cpu()
                for row, value in zip(batch["row"].tolist(), values, strict=True):
                    features.put(row, value[: rows[row]])  # without the padding
            setattr(part, side, features)
        setattr(model, side, None)


@torch.inference_mode()
def _forward(model: Classifier, side: str, batch: dict, device: torch.device) -> torch.Tensor:
    """`[B, T, L, d]` or `[B, R, d]`."""
    batch = {key: value.to(device) for key, value in batch.items()}
    if side == "image":
        return model.image(batch["pixels"])
    return model.text_layers(batch).transpose(1, 2)  # [B, L, T, d] → [B, T, L, d]


@torch.inference_mode()
def fit_inputs(
    model: Classifier, batches: Iterable[dict[str, Tensor]], device: torch.device, items: int = 2048
) -> None:
    """Sets the head's input means and deviations from the first `items` training items, backbones as they are."""
    model.eval()
    sums = {"text": [0.0, 0.0, 0], "image": [0.0, 0.0, 0]}  # of x, of x², and how many, in double precision
    seen = 0
    for batch in tqdm(batches, desc="standardise", leave=False):
        batch = {key: value.to(device) for key, value in batch.items()}
        layers, regions = model.features(batch)
        real = batch["mask"].bool()
        tokens = layers.transpose(1, 2)[real].cpu().double()  # [B, L, T, d] → [ΣT, L, d]
        for side, values in (("text", tokens), ("image", regions.flatten(0, 1).cpu().double())):
            sums[side][0] += values.sum(0)
            sums[side][1] += values.square().sum(0)
            sums[side][2] += len(values)
        seen += len(regions)
        if seen >= items:
            break
    for side, layer in (("text", model.head.text_input), ("image", model.head.image_input)):
        total, squares, count = sums[side]
        mean = total / count
        std = (squares / count - mean.square()).clamp_min(0).sqrt()
        layer.fit(mean.reshape(layer.mean.shape), std.reshape(layer.std.shape))
