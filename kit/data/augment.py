"""How training items vary from epoch to epoch: images are lightly augmented, and a side of some items is left out.

N items · B images of a batch · H, W pixels
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from kit.config import TrainConfig


def vary(batch: dict[str, Tensor], seeds: np.ndarray, config: TrainConfig, device: torch.device) -> dict[str, Tensor]:
    """Return the batch on `device`, its images augmented and a side of some items left out, as the items' `seeds` `[N]`
    decide.

    `batch["row"]` are the items' places in `seeds`; an item that lacks one side keeps the other.
    """
    # read before they are moved: to read them back from a GPU would wait for the step that it is at
    own = seeds[batch["row"].numpy(force=True)]  # [B]
    of_images = _image_seeds(own, batch)
    changes, batch = {}, {key: value.to(device, non_blocking=True) for key, value in batch.items()}
    if config.augment and "pixels" in batch:
        changes["pixels"] = augment(batch["pixels"], of_images)
    if (missing := batch.get("missing")) is not None:
        drawn = torch.from_numpy(own).to(device)[:, None]  # [B, 1]
        side = drawn % 2 == torch.arange(2, device=missing.device)  # [B, 2]
        chosen = side & (drawn < config.modality_dropout * 2**32)
        changes["missing"] = missing | (chosen & ~missing.flip(1))
    return batch | changes


def _image_seeds(seeds: np.ndarray, batch: dict[str, Tensor]) -> list[int]:
    """Return a seed per image of the batch: the item's of `seeds` `[B]`, plus 1 for its second image, 2 for the third,
    …"""
    counts = batch["images"].tolist() if "images" in batch else [1] * len(seeds)
    return [seed + place for seed, count in zip(seeds.tolist(), counts, strict=True) for place in range(count)]


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
