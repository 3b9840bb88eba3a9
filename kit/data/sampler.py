"""Batches of items of similar length, and the loader that reads them."""

import functools
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, get_worker_info

from kit.core.exceptions import KitError
from kit.data.dataset import Pixels, ProductDataset

SHARED = "/dev/shm"  # where workers put their batches, 64 MB in a container by default
MORE_SHARED = "start the container with --shm-size=2g, or pass -p workers 0"
PREFETCHED = 2  # batches per worker, torch's default
IN_USE = 3  # batches besides: one that is trained on, one that Accelerate holds ready, one that comes
SOCKETS = 70  # bytes that TMPDIR may have: the path of a worker's socket in it may have a hundred
LOST = 1800  # seconds without a batch after which it is taken for lost


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
        self,
        lengths: Sequence[int] | np.ndarray,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        pool: int = 50,
        accumulate: int = 1,
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


def make_loader(
    products: ProductDataset,
    batch_size: int,
    shuffle: bool = False,
    seed: int = 0,
    workers: int = 0,
    accumulate: int = 1,
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
        collate_fn=_collate,
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


def _collate(batch: Any) -> Any:
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
