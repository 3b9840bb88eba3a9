"""Items as tensors, one batch at a time: tokens and pixels, or the outputs of frozen backbones.

B batch · T tokens · R regions · L layers · d backbone width · N items
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.contrib.concurrent import thread_map

from kit.config import TrainConfig
from kit.core.cache import cached_memmap, content_hashes, fingerprint, release
from kit.core.console import Bar
from kit.data.images import DECODER, read_pixels


class RaggedArray:
    """Items of different lengths, concatenated in `values` `[Σ lengths, …]`; item i has `lengths[i]` rows.

    `key` names them in the batch: "ids" `[T]` (of pairs `[T, 2]`), "layers" `[T, L, d]` or "regions" `[R, d]`.
    """

    def __init__(self, key: str, values: np.ndarray, lengths: Sequence[int] | np.ndarray):
        self.key, self.values = key, values
        self.offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])

    @property
    def item_bytes(self) -> int:
        """Return the size of the longest item."""
        return int(np.diff(self.offsets).max(initial=0)) * self.values[:1].nbytes

    def batch(self, places: np.ndarray) -> Tensor:
        """Return these items, padded with zeros to the longest."""
        starts, ends = self.offsets[places], self.offsets[places + 1]
        padded = np.empty((len(places), (ends - starts).max(), *self.values.shape[1:]), self.values.dtype)
        for item, start, end in zip(padded, starts, ends, strict=True):
            item[: end - start] = self.values[start:end]
            item[end - start :] = 0
        return torch.from_numpy(padded)


class Pixels:
    """Images of the items, `[size, size, 3]` each, 0 to 255: read from `cached` `[N, size, size, 3]` or decoded.

    An item whose path is None has a white image.
    """

    key = "pixels"

    def __init__(self, paths: list[str | None], size: int, cached: np.ndarray | None = None):
        self.paths, self.size, self.cached = paths, size, cached
        self.item_bytes = size * size * 3

    def batch(self, places: np.ndarray) -> Tensor:
        if self.cached is not None:
            return torch.from_numpy(self.cached[places])
        return torch.from_numpy(np.stack([read_pixels(self.paths[place], self.size) for place in places]))


class ProductDataset(Dataset):
    """Items, read one batch at a time: their rows, masks, labels if known, and the tensors of each side.

    `lengths`: tokens of each item · `sides`: "text" and "image" → RaggedArray or Pixels, of which an item's place is in
    `places` · `labels`: positions among the model's outputs · `missing` `[N, 2]`: whether an item lacks text or image,
    if the model wants to know · `targets` `[N, K]`: what the model learns in place of the labels, if it has a teacher.
    """

    targets: np.ndarray | None = None

    def __init__(self, lengths: np.ndarray, sides: dict, labels: np.ndarray | None = None, places=None, missing=None):
        self.lengths, self.sides, self.labels, self.missing = np.asarray(lengths), sides, labels, missing
        self.places = np.arange(len(self.lengths)) if places is None else places

    def part(self, rows: np.ndarray) -> "ProductDataset":
        """Return the items at `rows`, in that order, without copying anything."""
        labels = None if self.labels is None else self.labels[rows]
        missing = None if self.missing is None else self.missing[rows]
        part = ProductDataset(self.lengths[rows], self.sides, labels, self.places[rows], missing)
        part.targets = None if self.targets is None else self.targets[rows]
        return part

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitems__(self, rows: list[int]) -> dict[str, Tensor]:
        """Return ids, mask `[B, T]` · layers `[B, T, L, d]` · pixels `[B, H, W, 3]` · regions `[B, R, d]` · row, label
        `[B]` · missing `[B, 2]` · target `[B, K]`: those that it has, padded with zeros to the batch's longest item.
        """
        lengths = torch.from_numpy(self.lengths[rows])
        batch = {"row": torch.tensor(rows), "mask": (torch.arange(int(lengths.max())) < lengths[:, None]).long()}
        if self.labels is not None:
            batch["label"] = torch.from_numpy(self.labels[rows])
        if self.missing is not None:
            batch["missing"] = torch.from_numpy(self.missing[rows])
        if self.targets is not None:
            batch["target"] = torch.from_numpy(self.targets[rows])
        return batch | {side.key: side.batch(self.places[rows]) for side in self.sides.values()}


def cache_pixels(config: TrainConfig, parts: dict[str, ProductDataset]) -> None:
    """Decode the images of `parts` once, at the model's size, into the cache, if they fit in `images_gb` GiB.

    Raise KitError if an image is unreadable.
    """
    size = (config.image_size, config.image_size, 3)
    filled = [part for part in parts.values() if len(part) and isinstance(part.sides.get("image"), Pixels)]
    if sum(len(part) for part in filled) * np.prod(size) > config.images_gb * 2**30:
        return
    for part in filled:
        source = part.sides["image"]

        def write(values: np.ndarray, paths: list[str | None] = source.paths) -> None:
            def fill(i: int) -> None:
                values[i] = read_pixels(paths[i], config.image_size)
                if i % 4096 == 0:
                    release(values)

            thread_map(fill, range(len(paths)), desc="images", leave=False, tqdm_class=Bar)

        name = f"pixels-{fingerprint(DECODER, str(size), *content_hashes(source.paths))}"
        source.cached = cached_memmap(name, (len(source.paths), *size), np.dtype(np.uint8), write)
