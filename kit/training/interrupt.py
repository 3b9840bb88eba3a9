"""Stopping a training before its end: on signals, after a time limit, or when its notebook is gone."""

import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import psutil
import torch
from accelerate import Accelerator

from kit.config import LAUNCHER

TOGETHER = timedelta(hours=6)  # so long processes wait for another, while the first computes frozen features
GRACE = 60  # seconds to wait for a batch after a reason to stop, so that its step can still be saved
TICK = 5  # seconds between checks for such a reason while waiting for a batch


class Interrupted(KeyboardInterrupt):
    """The training stops before its end; its saved state stays."""


class Watch:
    """The decision when to stop: on Ctrl-C or SIGTERM, after a time limit, or when the launching notebook is gone.

    All processes decide together, in `agree`.

    During a step (`with watch:`) a signal waits until `agree` is called; elsewhere, when there is nothing to save, it
    raises Interrupted at once. A second signal ends the process, unless it comes within five seconds: launchers often
    forward one that was already received. A batch that never arrives (`each`) does not prevent stopping.
    """

    def __init__(self):
        self.started, self.minutes, self.heard, self.in_step = time.monotonic(), 0.0, "", False
        self.launcher, self.group, self.since = int(os.environ.get(LAUNCHER) or 0), None, 0.0
        self.listens, self.waits = False, 0.0  # `waits`: when waiting for a batch began, or had last no reason to stop

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle signals inside the context."""
        usual = {number: signal.signal(number, self._hear) for number in (signal.SIGINT, signal.SIGTERM)}
        usual[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._tick)
        self.listens = True
        try:
            yield
        finally:
            self.listens = False
            for number, handler in usual.items():
                signal.signal(number, handler)

    def join(self, accelerator: Accelerator, minutes: float) -> None:
        """Decide together with these processes, and stop `minutes` (0: never) after this watch was created."""
        self.minutes = minutes
        # once for all runs, and on CPUs: a decision at every step must not make a GPU wait
        if accelerator.num_processes > 1 and not self.group:
            self.group = torch.distributed.new_group(backend="gloo", timeout=TOGETHER)

    def _hear(self, number: int, frame) -> None:
        if self.since and time.monotonic() - self.since < 5:
            return
        if self.since:
            os._exit(128 + number)
        self.since = time.monotonic()
        self.heard = {signal.SIGINT: "interrupted", signal.SIGTERM: "told to end"}[signal.Signals(number)]
        if not self.in_step:
            raise Interrupted(self.heard)

    def each(self, batches: Iterable) -> Iterator:
        """Yield `batches`. Raise Interrupted if one does not come within GRACE seconds of a reason to stop."""
        batches = iter(batches)
        while True:
            self.waits = time.monotonic()
            if self.listens:
                signal.setitimer(signal.ITIMER_REAL, TICK, TICK)
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self.waits = 0.0
                if self.listens:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            yield batch

    def _tick(self, number: int, frame) -> None:
        if not self.waits:
            return
        self._check_limits()
        if not self.heard:
            self.waits = time.monotonic()
        elif time.monotonic() - self.waits >= GRACE:
            raise Interrupted(self.heard)

    def _check_limits(self) -> None:
        """Note a reason to stop other than a signal."""
        if not self.heard and self.minutes and time.monotonic() - self.started > 60 * self.minutes:
            self.heard = f"stopped after {self.minutes:g} minutes, as max_minutes says"
        if not self.heard and self.launcher and not psutil.pid_exists(self.launcher):
            self.heard = "left alone by the notebook that started it"

    def __enter__(self) -> "Watch":
        self.in_step = True
        return self

    def __exit__(self, *_) -> None:
        self.in_step = False

    def agree(self, bad: bool = False) -> tuple[bool, bool]:
        """Return whether any process has to stop and whether any passes `bad`: the same answer on all of them."""
        self._check_limits()
        flags = torch.tensor([bool(self.heard), bad], dtype=torch.int32)
        if self.group:
            torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX, group=self.group)
        return bool(flags[0]), bool(flags[1])
