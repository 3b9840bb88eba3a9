"""What frozen backbones make of the items, computed once, kept on disk, and reused by every run that reads it.

T tokens · R regions · L layers · d backbone width
"""

import functools
import hashlib
import math
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import timm
import torch
import transformers
from torch import Tensor, nn
from tqdm.auto import tqdm

from kit.backbones import identity
from kit.config import ROOT, KitError, TrainConfig
from kit.datasets import Features, Products, loader
from kit.models import Classifier, text_layers
from kit.runs import write_atomically
from kit.twins import file_stamp

BATCH = 32
FORMAT = 1  # of what is kept: raise it where reading images or pooling changes


def precompute(
    config: TrainConfig, backbones: dict[str, nn.Module], parts: dict[str, Products], device: torch.device
) -> list[str]:
    """Puts the outputs of each frozen backbone in the place of the tokens or pixels of `parts`, from the cache or
    computed; gives the sides whose backbone still has to run with the model.

    A system that reads one vector a side gets that alone: of a text the top layer's first token and the mean of its
    tokens, `[2, 1, d]`; of an image the mean of its regions, `[1, d]`. Outputs that would take more than `features_gb`
    GiB are not kept: then such a system has its vectors computed and kept, and for any other the backbone runs at every
    step.
    """
    running = []
    for side, backbone in backbones.items():
        if side not in config.frozen:
            running.append(side)
            continue
        backbone.eval().requires_grad_(False).to(device)
        filled = {name: part for name, part in parts.items() if len(part)}
        frozen = _Frozen(config, side, backbone, device, pooled=False)
        plans = {name: frozen.plan(part) for name, part in filled.items()}
        fits = sum(2 * sum(rows) * math.prod(shape) for rows, shape in plans.values()) <= config.features_gb * 2**30
        if not fits and config.pooled:
            frozen = _Frozen(config, side, backbone, device, pooled=True)
            plans = {name: frozen.plan(part) for name, part in filled.items()}
        elif not fits:
            running.append(side)
            continue
        for name, (rows, shape) in plans.items():
            values = frozen.cached(filled[name], rows, shape)
            if config.pooled and fits:
                values, rows = _pool(side, values, rows)
            parts[name].sides[side] = Features("layers" if side == "text" else "regions", values, rows)
        backbone.cpu()
    return running


def _pool(side: str, values: np.ndarray, rows: list[int]) -> tuple[np.ndarray, list[int]]:
    """The vectors of each item out of its whole outputs, and how many it has."""
    vectors = []
    for end, count in zip(np.cumsum(rows), rows, strict=True):
        item = values[end - count : end].astype(np.float32)
        text = side == "text"
        vectors.append(np.stack([item[0, -1:], item[:, -1:].mean(0)]) if text else item.mean(0, keepdims=True))
    return np.concatenate(vectors).astype(np.float16), [len(vectors[0])] * len(rows)


class _Frozen:
    """One frozen backbone as `config` reads it; `pooled`: one vector, of a text two, in the place of its outputs."""

    def __init__(self, config: TrainConfig, side: str, backbone: nn.Module, device: torch.device, pooled: bool):
        self.config, self.side, self.backbone, self.device, self.pooled = config, side, backbone, device, pooled
        self.layers = slice(-1, None) if pooled else text_layers(config)

    def plan(self, part: Products) -> tuple[list[int], tuple[int, ...]]:
        """How many rows each item's outputs have, and the shape of a row."""
        one = self.forward(next(iter(loader(part.part(np.arange(1)), 1))))[0]
        fixed = self.pooled or self.side == "image"
        return [len(one)] * len(part) if fixed else part.lengths.tolist(), tuple(one.shape[1:])

    @torch.inference_mode()
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """`[B, T, L, d]` or `[B, R, d]`."""
        batch = {key: value.to(self.device) for key, value in batch.items()}
        if self.side == "image":
            regions = self.backbone(batch["pixels"])
            return regions.mean(1, keepdim=True) if self.pooled else regions
        layers = torch.stack(self.backbone(batch["ids"], batch["mask"])[self.layers], dim=2)  # [B, T, L, d]
        if not self.pooled:
            return layers
        mask = batch["mask"][:, :, None, None]
        return torch.stack([layers[:, 0], (layers * mask).sum(1) / mask.sum(1)], dim=1)  # [B, 2, 1, d]

    def cached(self, part: Products, rows: list[int], shape: tuple[int, ...]) -> np.ndarray:
        """The outputs for all items of `part`, in half precision, mapped from the cache's file."""
        path = ROOT / "cache" / f"{self.side}-{self.key(part)}.npy"
        size = (sum(rows), *shape)
        values = _read(path)
        if values is None or values.shape != size or values.dtype != np.float16:
            write_atomically(path, lambda temporary: self.write(temporary, part, rows, size))
            values = _read(path)
        return values

    def write(self, path: Path, part: Products, rows: list[int], size: tuple[int, ...]) -> None:
        values = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=size)
        if hasattr(os, "posix_fallocate"):  # a full disk shows here, as an error, and not in the map, as a crash
            with open(path, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        ends = np.cumsum(rows)
        only = Products(part.lengths, {self.side: part.sides[self.side]}, places=part.places)
        batches = loader(only, BATCH, workers=self.config.workers)
        for batch in tqdm(batches, desc=f"frozen {self.side}", leave=False):
            for row, value in zip(batch["row"].tolist(), self.forward(batch).cpu().numpy(), strict=True):
                values[ends[row] - rows[row] : ends[row]] = value[: rows[row]]  # without the padding
        values.flush()

    def key(self, part: Products) -> str:
        """A hash of all that the outputs depend on: weights, what is read of them, and the contents of the items."""
        config, source = self.config, part.sides[self.side]
        digest = hashlib.sha256(identity(getattr(config, self.side), self.side, config.pretrained).encode())
        random = None if config.pretrained else config.seed  # of random weights
        text = self.side == "text"
        read = str(self.layers) if text else (config.image_size, self.backbone.mean, self.backbone.std)
        version = transformers.__version__ if text else timm.__version__
        digest.update(repr((FORMAT, version, read, self.pooled, random)).encode())
        for place in part.places:
            if text:
                digest.update(np.array([*source.ids[place], -1], np.int32).tobytes())
            else:
                digest.update(_file_hash(source.paths[place], file_stamp(source.paths[place])))
        return digest.hexdigest()[:24]


@functools.cache
def _file_hash(path: str, stamp: tuple[int, int]) -> bytes:
    """Of the contents; read once a process, unless `stamp` changes."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).digest()
    except OSError as error:
        raise KitError(f"{path} cannot be read ({error}): replace the file.") from error


def _read(path: Path) -> np.ndarray | None:
    """The array in `path`, mapped and not loaded; None where there is none that can be read."""
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None


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
        for side, values in zip(sums, model.head.inputs(layers, batch["mask"], regions), strict=True):
            if values is not None:
                sums[side][0] += values.sum(0, dtype=torch.float64).cpu()
                sums[side][1] += values.float().square().sum(0, dtype=torch.float64).cpu()
                sums[side][2] += len(values)
        seen += len(batch["row"])
        if seen >= items:
            break
    for side, layer in (("text", model.head.text_input), ("image", model.head.image_input)):
        total, squares, count = sums[side]
        if count:
            mean = total / count
            std = (squares / count - mean.square()).clamp_min(0).sqrt()
            layer.fit(mean.reshape(layer.mean.shape), std.reshape(layer.std.shape))
