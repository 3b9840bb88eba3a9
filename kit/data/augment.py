"""How training items vary from epoch to epoch: images are lightly augmented, and a side of some items is left out.

N items · B images of a batch · H, W pixels
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from kit.config import TrainConfig


def vary(batch: dict[str, Tensor], seeds: np.ndarray, config: TrainConfig) -> dict[str, Tensor]:
    """Return the batch with its images augmented and a side of some items left out, as the items' `seeds` `[N]` decide.

    `batch["row"]` are the items' places in `seeds`; an item that lacks one side keeps the other.
    """
    changes = {}
    if config.augment and "pixels" in batch:
        changes["pixels"] = augment(batch["pixels"], _image_seeds(batch, seeds))
    if (missing := batch.get("missing")) is not None:
        drawn = torch.from_numpy(seeds).to(missing.device)[batch["row"]][:, None]  # [B, 1]
        side = drawn % 2 == torch.arange(2, device=missing.device)  # [B, 2]
        chosen = side & (drawn < config.modality_dropout * 2**32)
        changes["missing"] = missing | (chosen & ~missing.flip(1))
    return batch | changes


def _image_seeds(batch: dict[str, Tensor], seeds: np.ndarray) -> list[int]:
    """Return a seed per image of the batch: the item's, plus 1 for its second image, 2 for the third, …"""
    of_items, counts = seeds[batch["row"].cpu().numpy()].tolist(), [1] * len(batch["row"])
    if "images" in batch:
        counts = batch["images"].tolist()
    return [seed + place for seed, count in zip(of_items, counts, strict=True) for place in range(count)]


def augment(pixels: Tensor, seeds: Iterable[int]) -> Tensor:
    """Return images `[B, H, W, 3]`, 0 to 255, each flipped, cropped and recoloured as its own seed alone decides.

    Crops keep at least 80 % of the area; hues stay, because they tell products apart.
    """
    light = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomResizedCrop(pixels.shape[1:3], scale=(0.8, 1.0), ratio=(0.9, 1.1)),
            v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
        ]
    )
    images = []
    with torch.random.fork_rng(devices=[]):  # torchvision draws on the processor, also for images on a GPU
        for image, seed in zip(pixels.permute(0, 3, 1, 2), seeds, strict=True):  # [3, H, W] each
            torch.default_generator.manual_seed(seed)
            images.append(light(image))
    return torch.stack(images).permute(0, 2, 3, 1).contiguous()
