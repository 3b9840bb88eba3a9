"""Products as tensors: tokens, pixels or a frozen backbone's features, and the batches they travel in.

B batch · T tokens · R regions · L layers · d backbone width · N items
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from kit.config import KitError


def product_texts(frame: pd.DataFrame) -> list[str]:
    """Title and description as one text (paper section 4.2); the title alone where there is no description."""
    return (frame["title"] + (" " + frame["description"]).fillna("")).tolist()


def read_pixels(path: str, size: int, mean: tuple, std: tuple) -> Tensor:
    """The image at `path` as `[3, size, size]`, transparent parts on white, normalised.

    Raises KitError, naming the file, where it is not a readable image.
    """
    try:
        with Image.open(path) as image:
            image.draft("RGB", (size, size))  # JPEG only: decode at the nearest smaller scale
            if "A" in image.getbands() or "transparency" in image.info:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            pixels = np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise KitError(f"{path} cannot be read as an image ({error}): replace the file.") from error
    pixels = (pixels / 255 - np.float32(mean)) / np.float32(std)
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())  # [H, W, 3] → [3, H, W]


@dataclass
class Ragged:
    """Rows of unlike length in one tensor: row i is `values[offsets[i]:offsets[i + 1]]`."""

    values: Tensor
    offsets: np.ndarray

    @classmethod
    def allocate(cls, lengths: list[int], *shape: int) -> "Ragged":
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return cls(torch.empty(offsets[-1], *shape, dtype=torch.float16), offsets)

    def __getitem__(self, row: int) -> Tensor:
        return self.values[self.offsets[row] : self.offsets[row + 1]]


class Products(Dataset):
    """Items of a challenge frame. Each gives its row, label, mask, and of either side tokens or pixels, or features.

    `tokens`: token ids of each item · `classes`: the codes, in the order of the model's outputs · `layers`, `regions`:
    where given, a frozen text backbone's hidden states (rows `[T, L, d]`) and an image backbone's regions (`[R, d]`),
    which then stand in for tokens and pixels.
    """

    def __init__(self, frame: pd.DataFrame, tokens: list[list[int]], classes: list[int], pixels: dict | None = None):
        self.tokens, self.pixels = tokens, pixels
        self.paths = frame["image_path"].tolist()
        self.layers: Ragged | None = None
        self.regions: Ragged | None = None
        known = "label" in frame and frame["label"].notna().all()
        self.labels = pd.Categorical(frame["label"], categories=classes).codes.astype(int) if known else None

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, row: int) -> dict:
        item = {"row": row, "mask": torch.ones(len(self.tokens[row]), dtype=torch.long)}
        if self.labels is not None:
            item["label"] = int(self.labels[row])
        if self.layers is not None:
            item["layers"] = self.layers[row].float()
        else:
            item["ids"] = torch.tensor(self.tokens[row])
        if self.regions is not None:
            item["regions"] = self.regions[row].float()
        else:
            item["pixels"] = read_pixels(self.paths[row], **self.pixels)
        return item


def collate(items: list[dict]) -> dict[str, Tensor]:
    """ids, mask `[B, T]` · layers `[B, L, T, d]` · pixels `[B, 3, H, W]` · regions `[B, R, d]` · row, label `[B]`."""
    batch = {}
    for key in items[0]:
        values = [item[key] for item in items]
        if key in ("row", "label"):
            batch[key] = torch.tensor(values)
        elif key in ("pixels", "regions"):
            batch[key] = torch.stack(values)
        else:
            batch[key] = pad_sequence(values, batch_first=True)
    if "layers" in batch:
        batch["layers"] = batch["layers"].transpose(1, 2)  # [B, T, L, d] → [B, L, T, d]
    return batch


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
        for i in random.permutation(len(batches)):
            yield batches[i]


def loader(products: Products, batch_size: int, shuffle: bool, seed: int = 0, workers: int = 0) -> DataLoader:
    """Length-bucketed batches of `products`; worker processes only where there are images to decode."""
    workers = workers if products.regions is None else 0
    sampler = LengthBatches([len(ids) for ids in products.tokens], batch_size, shuffle, seed)
    return DataLoader(
        products,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
