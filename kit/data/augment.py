"""Light augmentation of training images.

B batch · H, W pixels
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torchvision.transforms import v2


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
