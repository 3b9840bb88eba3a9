"""Items as tensors, one batch at a time: tokens and pixels, or the outputs of frozen backbones.

B batch · I images of the batch's items · T tokens · R regions · L layers · d backbone width · N items
"""

import itertools
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

    `key` names them in the batch: "ids" `[T]` (of pairs `[T, 2]`), "layers" `[T, L, d]` or "regions" `[R, d]`;
    "images", the rows of an item's images, does not come into it.
    """

    def __init__(self, key: str, values: np.ndarray, lengths: Sequence[int] | np.ndarray):
        self.key, self.values = key, values
        self.offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])

    @property
    def item_bytes(self) -> int:
        """Return the size of the longest item."""
        return self.longest * self.values[:1].nbytes

    @property
    def longest(self) -> int:
        return int(np.diff(self.offsets).max(initial=0))

    def joined(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return these items' rows one after the other, and how many each has."""
        starts, ends = self.offsets[places], self.offsets[places + 1]
        return np.concatenate([self.values[a:b] for a, b in zip(starts, ends, strict=True)]), ends - starts

    def batch(self, places: np.ndarray) -> Tensor:
        """Return these items, padded with zeros to the longest."""
        starts, ends = self.offsets[places], self.offsets[places + 1]
        padded = np.empty((len(places), (ends - starts).max(), *self.values.shape[1:]), self.values.dtype)
        for item, start, end in zip(padded, starts, ends, strict=True):
            item[: end - start] = self.values[start:end]
            item[end - start :] = 0
        return torch.from_numpy(padded)


class Pixels:
    """Images, `[size, size, 3]` each, 0 to 255: read from `cached` `[N, size, size, 3]` or decoded.

    An image whose path is None is white.
    """

    key = "pixels"

    cached: np.ndarray | None = None

    def __init__(self, paths: list[str | None], size: int):
        self.paths, self.size = paths, size
        self.item_bytes = size * size * 3

    def batch(self, places: np.ndarray) -> Tensor:
        if self.cached is not None:
            return torch.from_numpy(self.cached[places])
        return torch.from_numpy(np.stack([read_pixels(self.paths[place], self.size) for place in places]))


class ProductDataset(Dataset):
    """Items, read one batch at a time: their rows, masks, labels if known, and the tensors of each side.

    `lengths`: tokens of each item · `sides`: "text" and "image" → RaggedArray or Pixels, of which an item's place is in
    `places` · `labels`: positions among the model's outputs · `missing` `[N, 2]`: whether an item lacks text or image,
    if the model wants to know · `targets` `[N, K]`: what the model learns in place of the labels, if it has a teacher ·
    `images`: if an item has several, the rows of each item's images in `sides["image"]`, where each image is once.
    """

    targets: np.ndarray | None = None
    images: RaggedArray | None = None

    def __init__(self, lengths: np.ndarray, sides: dict, labels: np.ndarray | None = None, places=None, missing=None):
        self.lengths, self.sides, self.labels, self.missing = np.asarray(lengths), sides, labels, missing
        self.places = np.arange(len(self.lengths)) if places is None else places

    def part(self, rows: np.ndarray) -> "ProductDataset":
        """Return the items at `rows`, in that order, without copying anything."""
        labels = None if self.labels is None else self.labels[rows]
        missing = None if self.missing is None else self.missing[rows]
        part = ProductDataset(self.lengths[rows], self.sides, labels, self.places[rows], missing)
        part.targets = None if self.targets is None else self.targets[rows]
        part.images = self.images
        return part

    def set_images(self, items: list[tuple[str | None, ...]], size: int) -> None:
        """Give each item the images with these paths, without those that are None; white if none is left."""
        paths = [tuple(path for path in several if path is not None) or (None,) for several in items]
        rows = list(itertools.chain(*paths))
        if len(rows) > len(paths):
            places = {path: place for place, path in enumerate(dict.fromkeys(rows))}
            counts = [len(several) for several in paths]
            self.images = RaggedArray("images", np.array([places[path] for path in rows]), counts)
            rows = list(places)
        self.sides["image"] = Pixels(rows, size)

    def each_image(self) -> "ProductDataset":
        """Return the images as items of their own, if an item has several; otherwise the items."""
        if self.images is None:
            return self
        side = self.sides["image"]
        return ProductDataset(np.ones(len(side.paths), int), {"image": side})

    @property
    def item_bytes(self) -> int:
        """Return the size in a batch of an item that is the longest in everything."""
        images = 1 if self.images is None else self.images.longest
        counts = {side: images if side == "image" else 1 for side in self.sides}
        return 8 * int(self.lengths.max(initial=0)) + sum(counts[n] * side.item_bytes for n, side in self.sides.items())

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitems__(self, rows: list[int]) -> dict[str, Tensor]:
        """Return ids, mask `[B, T]` · layers `[B, T, L, d]` · pixels `[I, H, W, 3]` · regions `[I, R, d]` · row, label
        `[B]` · missing `[B, 2]` · target `[B, K]`: those that it has, padded with zeros to the batch's longest item.

        I is B, unless an item of the dataset has several images: then `images` `[B]` says how many each has.
        """
        lengths = torch.from_numpy(self.lengths[rows])
        batch = {"row": torch.tensor(rows), "mask": (torch.arange(int(lengths.max())) < lengths[:, None]).long()}
        if self.labels is not None:
            batch["label"] = torch.from_numpy(self.labels[rows])
        if self.missing is not None:
            batch["missing"] = torch.from_numpy(self.missing[rows])
        if self.targets is not None:
            batch["target"] = torch.from_numpy(self.targets[rows])
        for name, side in self.sides.items():
            places = self.places[rows]
            if name == "image" and self.images is not None:
                places, counts = self.images.joined(places)
                batch["images"] = torch.from_numpy(counts)
            batch[side.key] = side.batch(places)
        return batch


def cache_pixels(config: TrainConfig, parts: dict[str, ProductDataset]) -> None:
    """Decode the images of `parts` once, at the model's size, into the cache, if they fit in `images_gb` GiB.

    Raise KitError if an image is unreadable.
    """
    size = (config.image_size, config.image_size, 3)
    filled = [part for part in parts.values() if len(part) and isinstance(part.sides.get("image"), Pixels)]
    if sum(len(part.sides["image"].paths) for part in filled) * np.prod(size) > config.images_gb * 2**30:
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
        source.cached = cached_memmap(name, (len(source.paths), *size), [np.dtype(np.uint8)], write)
