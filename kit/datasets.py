"""Products as tensors: tokens and pixels, or what frozen backbones make of them, and the batches they travel in.

B batch · T tokens · R regions · L layers · d backbone width · N items
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from kit.backbones import ImageBackbone, TextBackbone, load_tokenizer
from kit.challenge import on_white, product_texts
from kit.config import KitError, TrainConfig


def read_pixels(path: str, size: int, mean: tuple, std: tuple) -> Tensor:
    """The image at `path` as `[3, size, size]`, transparent parts on white, normalised.

    Raises KitError, naming the file, where it is not a readable image.
    """
    try:
        with Image.open(path) as image:
            image.draft("RGB", (size, size))  # JPEG only: decode at the nearest smaller scale
            image = on_white(image).convert("RGB")
            pixels = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise KitError(f"{path} cannot be read as an image ({error}): replace the file.") from error
    pixels = (pixels / 255 - np.float32(mean)) / np.float32(std)
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())  # [H, W, 3] → [3, H, W]


class Tokens:
    """Token ids of the items, `[T]` each."""

    key = "ids"

    def __init__(self, ids: list[list[int]]):
        self.ids = ids

    def __getitem__(self, row: int) -> Tensor:
        return torch.tensor(self.ids[row])


class Pixels:
    """Images of the items, read when asked for, `[3, size, size]` each; `mean` and `std` are the backbone's."""

    key = "pixels"

    def __init__(self, paths: list[str], size: int, mean: tuple, std: tuple):
        self.paths, self.size, self.mean, self.std = paths, size, mean, std

    def __getitem__(self, row: int) -> Tensor:
        return read_pixels(self.paths[row], self.size, self.mean, self.std)


class Features:
    """A frozen backbone's outputs, rows of unlike length: `values` `[Σ lengths, …]`, of which row i has `lengths[i]`.

    `key`: "layers", rows `[T, L, d]`, or "regions", rows `[R, d]`.
    """

    def __init__(self, key: str, values: np.ndarray, lengths: list[int]):
        self.key, self.values = key, values
        self.offsets = np.concatenate([[0], np.cumsum(lengths)])

    def __getitem__(self, row: int) -> Tensor:
        return torch.from_numpy(self.values[self.offsets[row] : self.offsets[row + 1]].astype(np.float32))


class Products(Dataset):
    """Items: each gives its row, the mask of its tokens, its label where known, and what its sides give.

    `lengths`: tokens of each item · `sides`: "text" → Tokens or Features, "image" → Pixels or Features, of which an
    item's place is in `places` · `labels`: positions among the model's outputs.
    """

    def __init__(self, lengths: np.ndarray, sides: dict, labels: np.ndarray | None = None, places=None):
        self.lengths, self.sides, self.labels = np.asarray(lengths), sides, labels
        self.places = np.arange(len(self.lengths)) if places is None else places

    def part(self, rows: np.ndarray) -> "Products":
        """The items at `rows`, in that order; nothing is copied."""
        labels = None if self.labels is None else self.labels[rows]
        return Products(self.lengths[rows], self.sides, labels, self.places[rows])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> dict:
        item = {"row": row, "mask": torch.ones(self.lengths[row], dtype=torch.long)}
        if self.labels is not None:
            item["label"] = int(self.labels[row])
        return item | {side.key: side[self.places[row]] for side in self.sides.values()}


def collate(items: list[dict]) -> dict[str, Tensor]:
    """ids, mask `[B, T]` · layers `[B, T, L, d]` · pixels `[B, 3, H, W]` · regions `[B, R, d]` · row, label `[B]`."""
    batch = {}
    for key, first in items[0].items():
        values = [item[key] for item in items]
        batch[key] = pad_sequence(values, batch_first=True) if isinstance(first, Tensor) else torch.tensor(values)
    return batch


def make_products(
    config: TrainConfig,
    codes: list[int],
    frames: dict[str, pd.DataFrame],
    backbones: dict[str, TextBackbone | ImageBackbone],
) -> dict[str, Products]:
    """The items of each frame, tokens and pixels, as these backbones want them."""
    parts = {}
    for name, frame in frames.items():
        labels = None if name == "test" else pd.Categorical(frame["label"], categories=codes).codes.astype(int)
        parts[name] = Products(np.ones(len(frame), int), {}, labels)
    if text := backbones.get("text"):
        encode = load_tokenizer(config.text, config.pretrained)
        for name, frame in frames.items():
            ids = encode(product_texts(frame), min(config.max_tokens, text.max_tokens))
            if max((max(row) for row in ids), default=0) >= text.vocabulary:
                raise KitError(
                    f"The tokenizer of {config.text!r} has more tokens than its model: they do not belong together."
                )
            parts[name].lengths = np.array([len(row) for row in ids], int)
            parts[name].sides["text"] = Tokens(ids)
    if image := backbones.get("image"):
        for name, frame in frames.items():
            paths = frame["image_path"].tolist()
            parts[name].sides["image"] = Pixels(paths, config.image_size, image.mean, image.std)
    return parts


class LengthBatches:
    """Batch sampler: items of like length together, shuffled anew each epoch (paper section 4.3).

    Shuffled items are sorted by length within pools of `pool` batches, and the batches are shuffled again. With
    `shuffle=False` the longest come first, so that memory runs out at once or never.
    """

    drop_last = False

    def __init__(self, lengths: list[int], batch_size: int, shuffle: bool, seed: int = 0, pool: int = 50):
        self.lengths, self.batch_size, self.shuffle = np.asarray(lengths), batch_size, shuffle
        self.seed, self.pool, self.epoch = seed, pool, 0

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        if not self.shuffle:
            order = np.argsort(-self.lengths, kind="stable")
            yield from (order[i : i + self.batch_size].tolist() for i in range(0, len(order), self.batch_size))
            return
        random = np.random.default_rng((self.seed, self.epoch))
        order = random.permutation(len(self.lengths))
        size = self.batch_size * self.pool
        pools = [order[i : i + size] for i in range(0, len(order), size)]
        order = np.concatenate([pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools])
        batches = [order[i : i + self.batch_size].tolist() for i in range(0, len(order), self.batch_size)]
        whole = len(order) // self.batch_size
        for i in (*random.permutation(whole), *range(whole, len(batches))):  # Accelerate wants a short one last
            yield batches[i]


def loader(products: Products, batch_size: int, shuffle: bool = False, seed: int = 0, workers: int = 0) -> DataLoader:
    """Length-bucketed batches of `products`; worker processes only where there are images to decode."""
    workers = workers if isinstance(products.sides.get("image"), Pixels) else 0
    return DataLoader(
        products,
        batch_sampler=LengthBatches(products.lengths, batch_size, shuffle, seed),
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
