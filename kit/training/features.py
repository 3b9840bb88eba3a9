"""Outputs of frozen backbones, computed once, kept on disk, and reused by every run that reads them.

T tokens · R regions · L layers · d backbone width
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kit.config import TrainConfig
from kit.core.cache import cached_memmap, content_hashes, fingerprint, release
from kit.core.console import Bar
from kit.core.exceptions import KitError
from kit.data.dataset import ProductDataset, RaggedArray
from kit.data.images import DECODER
from kit.data.sampler import make_loader
from kit.models.backbones import BackboneHandle
from kit.models.classifier import fixed_layers
from kit.models.layers import first_and_mean

BATCH = 32
FEATURES_FORMAT = 2  # of the cached outputs: raise it when the same outputs are stored differently


def precompute(
    config: TrainConfig,
    backbones: dict[str, BackboneHandle],
    parts: dict[str, ProductDataset],
    device: torch.device,
    precision: str,
) -> list[str]:
    """Replace the tokens or pixels of `parts` by the outputs of each frozen backbone, cached or computed.

    Return the sides whose backbone still has to run with the model. A backbone whose outputs are all in the cache is
    not loaded.

    A pooled system gets only the vectors that it reads: the text's first token and mean token in the top layer,
    `[2, 1, d]`, and the image's mean region, `[1, d]`, of several images their mean. If the full outputs exceed
    `features_gb` GiB, pooled systems cache those vectors alone; for other systems the backbone runs at every step. With
    `train_text_layers` every system gets the full outputs of the text layers below.

    `precision` is the run's: with "no" the outputs are computed and kept in float32, exactly as the head would get them
    at every step; with "bf16" or "fp16" they are computed under autocast and kept in half precision, or in float32 if
    half precision cannot hold them. Raise KitError if a backbone returns numbers that are not finite.
    """
    torch.set_float32_matmul_precision("high")  # as in training, so that all runs find the same outputs in the cache
    running = []
    for side, backbone in backbones.items():
        if side not in config.frozen:
            running.append(side)
            continue
        filled = {name: part for name, part in parts.items() if len(part)}
        if side == "image":
            filled = {name: part.each_image() for name, part in filled.items()}
        poolable = config.pooled and not (side == "text" and config.train_text_layers)
        for pooled in (False, True) if poolable else (False,):
            frozen = _Frozen(config, backbone, device, precision, pooled)
            plans = {name: frozen.plan(part) for name, part in filled.items()}
            numbers = sum(int(rows.sum()) * math.prod(shape) for rows, shape in plans.values())
            able = [kind for kind in frozen.dtypes if pooled or numbers * kind.itemsize <= config.features_gb * 2**30]
            try:
                cached = {name: frozen.cached(filled[name], *plan, able) for name, plan in plans.items() if able}
            except OverflowError:  # only float32 holds them, which takes too much
                able = []
            if able:
                break
        if not able:
            running.append(side)
            continue
        for name, (rows, _) in plans.items():
            values = cached[name]
            if poolable and not pooled:
                values, rows = _pool(side, values, rows)
            if poolable and side == "image" and (images := parts[name].images) is not None:
                values, rows = _pool(side, values[images.values], np.diff(images.offsets))
                parts[name].images = None
            parts[name].sides[side] = RaggedArray("layers" if side == "text" else "regions", values, rows)
    return running


def _pool(side: str, values: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pooled vectors of each item from its full outputs, and the number of vectors per item."""
    starts, counts = np.cumsum(rows) - rows, rows[:, None]
    if side == "image":
        vectors = np.add.reduceat(values, starts, dtype=np.float32) / counts  # [N, d]
        return vectors.astype(values.dtype), np.ones(len(rows), int)
    top = values[:, -1]  # [Σ T, d]
    means = np.add.reduceat(top, starts, dtype=np.float32) / counts
    vectors = np.stack([top[starts], means], axis=1)[:, :, None]  # [N, 2, 1, d]
    return vectors.reshape(-1, 1, top.shape[1]).astype(values.dtype), np.full(len(rows), 2)


class _Frozen:
    """One frozen backbone as `config` reads it; `pooled`: its mean vector alone, and the text's first token."""

    def __init__(self, config: TrainConfig, source: BackboneHandle, device: torch.device, precision: str, pooled: bool):
        self.config, self.source, self.device, self.pooled = config, source, device, pooled
        self.side, self.precision = source.side, precision
        self.dtypes = [np.dtype(kind) for kind in ([] if precision == "no" else [np.float16]) + [np.float32]]
        self.layers = slice(-1, None) if pooled else fixed_layers(config, source.outline.depth)

    def plan(self, part: ProductDataset) -> tuple[np.ndarray, tuple[int, ...]]:
        """Return the number of rows of each item's outputs, and the shape of a row."""
        outline = self.source.outline
        if self.side == "image":
            return np.full(len(part), 1 if self.pooled else outline.regions), (outline.width,)
        layers = len(range(outline.depth + 1)[self.layers])
        return np.full(len(part), 2) if self.pooled else part.lengths, (layers, outline.width)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the outputs for a batch, `[B, T, L, d]` or `[B, R, d]`."""
        backbone = self.source.frozen
        batch = {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}
        if self.side == "image":
            regions = backbone(batch["pixels"])
            return regions.mean(1, keepdim=True) if self.pooled else regions
        layers = torch.stack(backbone(batch["ids"], batch["mask"])[self.layers], dim=2)  # [B, T, L, d]
        return first_and_mean(layers, batch["mask"]) if self.pooled else layers

    def cached(
        self, part: ProductDataset, rows: np.ndarray, shape: tuple[int, ...], dtypes: Sequence[np.dtype]
    ) -> np.ndarray:
        """Return the outputs for all items of `part`, mapped from the cache, in the first of `dtypes` that holds them.

        Raise OverflowError if none does.
        """
        name, size = f"{self.side}-{self.key(part)}", (int(rows.sum()), *shape)
        return cached_memmap(name, size, dtypes, lambda values: self.write(values, part, rows))

    @torch.inference_mode()
    def write(self, values: np.ndarray, part: ProductDataset, rows: np.ndarray) -> None:
        """Fill `values` with the outputs. Raise OverflowError if its dtype cannot hold them, KitError if none can."""
        self.source.frozen.to(self.device)
        ends = np.cumsum(rows)
        only = ProductDataset(part.lengths, {self.side: part.sides[self.side]}, places=part.places)
        size = min(BATCH, self.config.micro_batch)  # smaller if memory ran out before
        batches = make_loader(only, size, workers=self.config.workers)
        kind = torch.bfloat16 if self.precision == "bf16" else torch.float16
        for count, batch in enumerate(Bar(batches, desc=f"frozen {self.side}", leave=False)):
            with torch.autocast(self.device.type, kind, enabled=self.precision != "no"):
                outputs = self.forward(batch).float().cpu().numpy()
            for row, value in zip(batch["row"].tolist(), outputs, strict=True):
                value = value[: rows[row]]  # without the padding
                peaks, limits = np.abs(value).max(axis=(0, -1)), np.finfo(values.dtype)  # largest value per layer
                if not np.isfinite(peaks).all():
                    raise KitError(not_finite(self.config, self.side, self.precision))
                if (peaks > limits.max).any() or ((peaks > 0) & (peaks < limits.tiny)).any():
                    raise OverflowError
                values[ends[row] - rows[row] : ends[row]] = value
            if count % 100 == 0:
                release(values)
        self.source.frozen.cpu()

    def key(self, part: ProductDataset) -> str:
        """Return a hash of everything that the outputs depend on: weights, layers, and the contents of the items."""
        source = part.sides[self.side]
        settings = (self.source.identity, str(self.pooled), self.precision, str(FEATURES_FORMAT))
        if self.side == "text":
            return fingerprint(*settings, str(self.layers), source.values.tobytes(), source.offsets.tobytes())
        return fingerprint(*settings, f"{self.config.image_size} {DECODER}", *content_hashes(source.paths))


def not_finite(config: TrainConfig, side: str, precision: str) -> str:
    """Return the message about a backbone whose outputs are NaN or infinite before any training."""
    advice = "fetch its weights again, they may be damaged" if precision == "no" else "pass -p precision no"
    return (
        f"The {side} backbone {getattr(config, side)!r} itself returns numbers that are not finite (NaN or "
        f"infinite) with precision {precision!r}: {advice}, or use another backbone."
    )
