"""What makes a training stop before its end: signals, a time limit, a notebook that is gone."""

import io
import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import torch
from accelerate import Accelerator

from kit.config import LAUNCHER

GRACE = 60  # seconds for which a batch is still waited for once there is a reason to stop: its step would be saved
TICK = 5  # seconds between two looks for such a reason while a batch is waited for


class Interrupted(KeyboardInterrupt):
    """The training stops before its end; what was saved on the way stays."""


class Watch:
    """Says whether to stop: on Ctrl-C or SIGTERM, after so many minutes, or when whoever asked for the training is
    gone. All processes agree on it, in `agree`.

    At work on a step or a batch (`with watch:`) a signal waits until `agree` is asked; anywhere else, where there is
    nothing to save, it raises Interrupted at once. A later one ends the process; not what follows on its heels, which
    launchers pass on to those who heard it themselves. A batch that never comes (`each`) keeps nobody from stopping.
    """

    def __init__(self):
        self.began, self.minutes, self.heard, self.patient = time.monotonic(), 0.0, "", False
        self.launcher, self.group, self.since = int(os.environ.get(LAUNCHER) or 0), None, 0.0
        self.listens, self.waits = False, 0.0  # since when a batch is waited for against a reason to stop

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Signals are this watch's, inside."""
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
        """Agrees with these processes from now on, and stops `minutes` (0: never) after it was made."""
        self.minutes = minutes
        if accelerator.num_processes > 1:  # on processors: asking at every step must not make a GPU wait
            self.group = torch.distributed.new_group(backend="gloo")

    def _hear(self, number: int, frame) -> None:
        if self.since and time.monotonic() - self.since < 5:
            return
        if self.since:
            os._exit(128 + number)
        self.since = time.monotonic()
        self.heard = {signal.SIGINT: "interrupted", signal.SIGTERM: "told to end"}[signal.Signals(number)]
        if not self.patient:
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
        self._look()
        if not self.heard:
            self.waits = time.monotonic()
        elif time.monotonic() - self.waits >= GRACE:
            raise Interrupted(self.heard)

    def _look(self) -> None:
        """Note a reason to stop that is no signal."""
        if not self.heard and self.minutes and time.monotonic() - self.began > 60 * self.minutes:
            self.heard = f"stopped after {self.minutes:g} minutes, as max_minutes says"
        if not self.heard and self.launcher and not _lives(self.launcher):
            self.heard = "left alone by the notebook that started it"

    def __enter__(self) -> "Watch":
        self.patient = True
        return self

    def __exit__(self, *_) -> None:
        self.patient = False

    def agree(self, bad: bool = False) -> tuple[bool, bool]:
        """Whether any process has to stop, and whether any says `bad`; the same answer on all of them."""
        self._look()
        flags = torch.tensor([bool(self.heard), bad], dtype=torch.int32)
        if self.group:
            torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX, group=self.group)
        return bool(flags[0]), bool(flags[1])


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _save(content: dict, path: Path) -> None:
    try:
        torch.save(content, path)
    except RuntimeError as error:  # the writer's way to say that the disk is full
        raise OSError(str(error).partition("\n")[0]) from error


class IgnoreBrokenPipe(io.TextIOBase):
    """A stream whose reader may go away: the notebook that shows what a training says."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        with suppress(BrokenPipeError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(BrokenPipeError):
            self.stream.flush()
