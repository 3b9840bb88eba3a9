"""Batches of items of similar length, and the loader that reads them."""

import functools
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, get_worker_info

from kit.core.exceptions import KitError, first_line
from kit.data.dataset import Pixels, ProductDataset

SHARED = "/dev/shm"  # workers put their batches here; 64 MB in a container by default
MORE_SHARED = "start the container with --shm-size=2g, or pass -p workers 0"
# workers that are forked share the cached arrays; others, such as Python 3.14's by default, would get a copy each
FORK = "fork" if sys.platform == "linux" else None
PREFETCHED = 2  # batches per worker, torch's default
IN_USE = 3  # further batches: one in training, one that Accelerate holds ready, one on its way
SOCKETS = 70  # longest TMPDIR in bytes: the path of a worker's socket in it is limited to about a hundred
LOST = 1800  # seconds after which a missing batch counts as lost


class LengthBatches:
    """Batch sampler that puts items of similar length together, reshuffled every epoch (paper section 4.3).

    Shuffled items are sorted by length within pools of POOL steps, and the steps are shuffled again. Each step is cut
    into `accumulate` batches of `batch_size` items, so the items of a step do not depend on how it is cut. The items
    left over from the last whole step are set aside before sorting and come last: each has more weight in that short
    step, so a random choice of any length keeps it unbiased. With `shuffle=False` the longest items come first, so that
    memory runs out immediately or never.

    `start`: the number of steps of the epoch that are already done · `full`: fill up a short last batch with its own
    items.
    """

    POOL = 50
    drop_last = False

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        accumulate: int = 1,
    ):
        self.lengths, self.batch_size, self.shuffle = np.asarray(lengths), batch_size, shuffle
        self.seed, self.accumulate = seed, accumulate
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
        pools = [order[i : i + step * self.POOL] for i in range(0, len(order), step * self.POOL)]
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
    """Return a loader of length-bucketed batches, with workers if images are decoded or a GPU has to be fed."""
    image = products.sides.get("image")
    decodes = isinstance(image, Pixels) and image.cached is None
    workers = workers if decodes or torch.cuda.is_available() else 0
    workers = _affordable_workers(batch_size * products.item_bytes, workers)
    return DataLoader(
        products,
        batch_sampler=LengthBatches(products.lengths, batch_size, shuffle, seed, accumulate=accumulate),
        collate_fn=_collate,
        num_workers=workers,
        worker_init_fn=_leave_signals,
        generator=torch.Generator().manual_seed(seed),  # so that starting an epoch does not advance dropout's
        persistent_workers=workers > 0,
        multiprocessing_context=FORK if workers else None,
        timeout=LOST if workers else 0,
        pin_memory=torch.cuda.is_available(),
    )


def _leave_signals(worker: int) -> None:
    """Leave interruptions to the training process, even those sent to its process group: it ends its workers itself."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _collate(batch: Any) -> Any:
    """Return the batch unchanged. In a worker, move it to shared memory first: if that is full, raise KitError here,
    because torch would lose the batch and training would wait for it."""
    if get_worker_info():
        try:
            for value in batch.values():
                value.share_memory_()
        except RuntimeError as error:
            raise KitError(f"A batch does not fit into {SHARED} ({first_line(error)}): {MORE_SHARED}.") from None
    return batch


def _affordable_workers(size: int, workers: int) -> int:
    """Return how many of these workers have room for batches of `size` bytes; print a sentence if not all have."""
    if workers and len(os.fsencode(tempfile.gettempdir())) > SOCKETS:
        _print_once(f"No workers start: TMPDIR is too long for their sockets, so set one of at most {SOCKETS} letters.")
        return 0
    try:
        free = shutil.disk_usage(SHARED).free
    except OSError:  # systems without it keep shared memory elsewhere, and have enough
        return workers
    room = min(workers, max(0, free // max(1, size) - IN_USE) // PREFETCHED)
    if room < workers:
        _print_once(
            f"Only {room} of {workers} workers start: {SHARED} is too small for their batches, so {MORE_SHARED}."
        )
    return room


@functools.cache
def _print_once(sentence: str) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(sentence, flush=True)
