"""Products as tensors: tokens and pixels, or what frozen backbones make of them, and the batches they travel in.

B batch · T tokens · R regions · L layers · d backbone width · N items
"""

import functools
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info
from tqdm.contrib.concurrent import thread_map

from kit import tokenise
from kit.backbones import Source, load_tokenizer
from kit.cache import array, content_hashes, digest, recall, release
from kit.challenge import product_texts
from kit.config import KitError, TrainConfig
from kit.console import Bar
from kit.pictures import DECODER, read_pixels

NICE = 10  # of the thread that reads ahead, on Linux: at 19 it starves beside other programs
SHARED = "/dev/shm"  # where workers put their batches, 64 MB in a container by default
MORE_SHARED = "start the container with --shm-size=2g, or pass -p workers 0"
PREFETCHED = 2  # batches per worker, torch's default
IN_USE = 3  # batches besides: one that is trained on, one that Accelerate holds ready, one that comes
SOCKETS = 70  # bytes that TMPDIR may have: the path of a worker's socket in it may have a hundred
LOST = 1800  # seconds without a batch after which it is taken for lost
TEXTS = 4096  # tokenised at once: what a tokenizer makes of a text takes a hundred times the memory of its ids


class Rows:
    """Rows of unlike length, one after the other in `values` `[Σ lengths, …]`; item i has `lengths[i]` of them.

    `key`, of the batch: "ids", rows `[T]`; "layers", rows `[T, L, d]`; or "regions", rows `[R, d]`.
    """

    def __init__(self, key: str, values: np.ndarray, lengths: Sequence[int]):
        self.key, self.values = key, values
        self.offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])

    @property
    def item_bytes(self) -> int:
        """The size of the longest item."""
        return int(np.diff(self.offsets).max(initial=0)) * self.values[:1].nbytes

    def batch(self, places: np.ndarray) -> Tensor:
        """The rows of these items, padded with zeros to the longest."""
        starts, ends = self.offsets[places], self.offsets[places + 1]
        padded = np.empty((len(places), (ends - starts).max(), *self.values.shape[1:]), self.values.dtype)
        for item, start, end in zip(padded, starts, ends, strict=True):
            item[: end - start] = self.values[start:end]
            item[end - start :] = 0
        return torch.from_numpy(padded)


class Pixels:
    """Images of the items, `[size, size, 3]` each, 0 to 255: out of `cached` `[N, size, size, 3]`, or else decoded.

    An item whose path is None has a white one.
    """

    key = "pixels"

    def __init__(self, paths: list[str | None], size: int, cached: np.ndarray | None = None):
        self.paths, self.size, self.cached = paths, size, cached
        self.item_bytes = size * size * 3

    def batch(self, places: np.ndarray) -> Tensor:
        if self.cached is not None:
            return torch.from_numpy(self.cached[places])
        return torch.from_numpy(np.stack([read_pixels(self.paths[place], self.size) for place in places]))


class Products(Dataset):
    """Items, read a batch at a time: their rows, masks, labels where known, and what their sides give.

    `lengths`: tokens of each item · `sides`: "text" and "image" → Rows or Pixels, of which an item's place is in
    `places` · `labels`: positions among the model's outputs.
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

    def __getitems__(self, rows: list[int]) -> Mapping[str, Tensor]:
        """What `read` gives, at once in a process that only reads, or else while the step before is computed."""
        if get_worker_info() or torch.cuda.is_available():
            return self.read(rows)
        return Coming(functools.partial(self.read, rows))

    def read(self, rows: list[int]) -> dict[str, Tensor]:
        """ids, mask `[B, T]` · layers `[B, T, L, d]` · pixels `[B, H, W, 3]` · regions `[B, R, d]` · row, label `[B]`.

        What is shorter than the batch's longest is padded with zeros.
        """
        lengths = torch.from_numpy(self.lengths[rows])
        batch = {"row": torch.tensor(rows), "mask": (torch.arange(lengths.max()) < lengths[:, None]).long()}
        if self.labels is not None:
            batch["label"] = torch.from_numpy(self.labels[rows])
        return batch | {side.key: side.batch(self.places[rows]) for side in self.sides.values()}


class Coming(Mapping):
    """A batch that `read` gives, in a thread meanwhile: who asks for it waits, or reads it where that has not begun."""

    def __init__(self, read: Callable[[], dict[str, Tensor]]):
        self.read, self.future = read, _reader(os.getpid()).submit(read)

    @functools.cached_property
    def batch(self) -> dict[str, Tensor]:
        return self.read() if self.future.cancel() else self.future.result()

    def to(self, device: torch.device, non_blocking: bool = False) -> dict[str, Tensor]:
        return {key: value.to(device, non_blocking=non_blocking) for key, value in self.batch.items()}

    def __getitem__(self, key: str) -> Tensor:
        return self.batch[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.batch)

    def __len__(self) -> int:
        return len(self.batch)


@functools.cache
def _reader(process: int) -> ThreadPoolExecutor:
    """A thread of this process (a fork has none of its parent's) that leaves the cores to those that compute."""

    def yielding() -> None:
        if sys.platform == "linux":  # elsewhere a thread has no priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)

    return ThreadPoolExecutor(1, initializer=yielding)


def make_products(
    config: TrainConfig, codes: list[int], frames: dict[str, pd.DataFrame], backbones: dict[str, Source]
) -> dict[str, Products]:
    """The items of each frame, tokens and pixels, as these backbones want them."""
    parts = {}
    for name, frame in frames.items():
        labels = None if name == "test" else pd.Categorical(frame["label"], categories=codes).codes.astype(int)
        parts[name] = Products(np.ones(len(frame), int), {}, labels)
        if "text" in backbones:
            ids = tokens(config, backbones["text"], product_texts(frame))
            parts[name].lengths = np.diff(ids.offsets)
            parts[name].sides["text"] = ids
        if "image" in backbones:
            parts[name].sides["image"] = Pixels(frame["image_path"].tolist(), config.image_size)
    return parts


def tokens(config: TrainConfig, backbone: Source, texts: list[str]) -> Rows:
    """Token ids of the texts; each text is tokenised once and kept. Raises KitError."""
    most = min(config.max_tokens, backbone.outline.max_tokens)

    def compute(new: list[int]) -> list[np.ndarray]:
        tokenizer, found = load_tokenizer(config.text, config.pretrained), []
        for start in Bar(range(0, len(new), TEXTS), desc="tokens", leave=False):
            part = [texts[i] for i in new[start : start + TEXTS]]
            found += [np.array(ids, np.int32) for ids in tokenizer(part, most)]
        return found

    store = f"tokens-{digest(backbone.identity, str(most), str(tokenise.FORMAT), version('tokenizers'))}"
    ids = recall(store, [digest(text) for text in texts], pa.list_(pa.int32()), compute)
    values = ids.flatten().to_numpy()
    if values.max(initial=0) >= backbone.outline.vocabulary:
        raise KitError(f"The tokenizer of {config.text!r} has more tokens than its model: they do not belong together.")
    return Rows("ids", values, ids.value_lengths().to_numpy())


def keep_pixels(config: TrainConfig, parts: dict[str, Products]) -> None:
    """Decodes the images of `parts` once, to be read from the cache at the size that the model sees, where they take no
    more than `images_gb` GiB. Raises KitError where one is not readable."""
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

        name = f"pixels-{digest(DECODER, str(size), *content_hashes(source.paths))}"
        source.cached = array(name, (len(source.paths), *size), np.dtype(np.uint8), write)


class LengthBatches:
    """Batch sampler: items of like length together, shuffled anew each epoch (paper section 4.3).

    Shuffled items are sorted by length within pools of `pool` steps, and the steps are shuffled again; each is cut into
    `accumulate` batches of `batch_size` items, so that what a step learns from does not depend on how it is cut. The
    items that make no whole step are taken out before the sorting and come last: each of them weighs more there, and a
    random choice of items of any length keeps that step unbiased. With `shuffle=False` the longest come first, so that
    memory runs out at once or never.

    `start`: how many steps of the epoch are done already · `full`: the last batch, where it is short, is filled up with
    its own items.
    """

    drop_last = False

    def __init__(
        self, lengths: list[int], batch_size: int, shuffle: bool, seed: int = 0, pool: int = 50, accumulate: int = 1
    ):
        self.lengths, self.batch_size, self.shuffle = np.asarray(lengths), batch_size, shuffle
        self.seed, self.pool, self.accumulate = seed, pool, accumulate
        self.epoch, self.start, self.full = 0, 0, False

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size) - self.start * self.accumulate

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        order = self._order()[self.start * self.accumulate * self.batch_size :]
        for i in range(0, len(order), self.batch_size):
            batch = order[i : i + self.batch_size]
            yield (np.resize(batch, self.batch_size) if self.full else batch).tolist()

    def _order(self) -> np.ndarray:
        if not self.shuffle:
            return np.argsort(-self.lengths, kind="stable")
        random, step = np.random.default_rng((self.seed, self.epoch)), self.batch_size * self.accumulate
        order = random.permutation(len(self.lengths))
        whole = len(order) // step
        order, rest = order[: whole * step], order[whole * step :]  # Accelerate wants a short batch last
        pools = [order[i : i + step * self.pool] for i in range(0, len(order), step * self.pool)]
        *pools, rest = (part[np.argsort(self.lengths[part], kind="stable")] for part in (*pools, rest))
        steps = np.concatenate([*pools, order[:0]]).reshape(whole, step)[random.permutation(whole)]
        return np.concatenate([steps.ravel(), rest])


def loader(
    products: Products, batch_size: int, shuffle: bool = False, seed: int = 0, workers: int = 0, accumulate: int = 1
) -> DataLoader:
    """Length-bucketed batches of `products`; worker processes where images are decoded, or where a GPU waits."""
    image = products.sides.get("image")
    decodes = isinstance(image, Pixels) and image.cached is None
    workers = workers if decodes or torch.cuda.is_available() else 0
    sizes = [8 * int(products.lengths.max(initial=0)), *(side.item_bytes for side in products.sides.values())]
    workers = _room(batch_size * sum(sizes), workers)
    return DataLoader(
        products,
        batch_sampler=LengthBatches(products.lengths, batch_size, shuffle, seed, accumulate=accumulate),
        collate_fn=_hand_over,
        num_workers=workers,
        worker_init_fn=_leave_signals,
        generator=torch.Generator().manual_seed(seed),  # an epoch's start draws from it, not from dropout's
        persistent_workers=workers > 0,
        timeout=LOST if workers else 0,
        pin_memory=torch.cuda.is_available(),
    )


def _leave_signals(worker: int) -> None:
    """An interruption is for the process that trains, which ends its readers itself; also one of a whole group."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _hand_over(batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The batch as it is; that of a worker is put into shared memory here, where a lack of it can be told: torch would
    lose the batch, and training would wait for it."""
    if get_worker_info():
        try:
            for value in batch.values():
                value.share_memory_()
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise KitError(f"A batch does not fit into {SHARED} ({reason}): {MORE_SHARED}.") from None
    return batch


def _room(size: int, workers: int) -> int:
    """Return how many of these workers can hand over batches of `size` bytes; say so if not all."""
    if workers and len(os.fsencode(tempfile.gettempdir())) > SOCKETS:
        _say(f"TMPDIR is too long a path for the sockets of workers, and none start: set one of {SOCKETS} letters.")
        return 0
    try:
        free = shutil.disk_usage(SHARED).free
    except OSError:  # a system that keeps it elsewhere, and has enough
        return workers
    room = min(workers, max(0, free // max(1, size) - IN_USE) // PREFETCHED)
    if room < workers:
        _say(f"{SHARED} is too small for {workers} workers that read such batches, and {room} start: {MORE_SHARED}.")
    return room


@functools.cache  # once
def _say(sentence: str) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(sentence, flush=True)
