"""What a training tells in its run's folder, for whoever watches it: a notebook, a study, a person.

train.log has the lines that it prints, status.json how far it is, error.json why it ended too soon. The process that
holds the run's lock writes them; a failure, whichever of several processes fails first. A disk that is full, or a
folder that is gone, costs these files and never the training.
"""

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from kit.config import LAUNCHER
from kit.core import console
from kit.core.files import now
from kit.runs import Run

AT_WORK = 75  # exit status of a training whose run another process holds (sysexits' "try again later")
PERIOD = 0.5  # seconds between two writings of status.json, but for a new phase
STATUS, ERROR = "status.json", "error.json"

_teller: "Teller | None" = None  # of the run that this process trains


def read_status(run: Run) -> dict:
    """Return how far the training is or was; nothing if it has not begun.

    `process`, `launcher` (the process that asked for it; 0: none), `started`, `phase` and `bar` (what its progress bar
    is called and shows); while it trains `fold`, `epoch`, `step` of the epoch, `done` of `total` steps and, once enough
    of them are measured, `seconds_per_step`.
    """
    return _read(run.folder / STATUS)


def read_error(run: Run) -> dict:
    """Return why the training ended too soon: `kind` (error, memory or stopped), `sentence` and `time`; or nothing."""
    return _read(run.folder / ERROR)


def report(**fields) -> None:
    """Note how far the training of this process is; nothing happens if nobody listens."""
    if _teller:
        _teller.note(**fields)


class Teller:
    """Keeps the files of the run that this process trains."""

    def __init__(self):
        self.folder, self.before, self.writing = None, [], threading.RLock()
        self.status, self.written = {}, -PERIOD

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, what is printed is heard. Lines that come before the first run is held wait for it."""
        usual = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = _Tee(sys.stdout, self), _Tee(sys.stderr, self)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = usual

    @contextmanager
    def telling(self, run: Run) -> Iterator[None]:
        """Inside, this process has the run's lock, and its files tell of the training."""
        global _teller
        self.folder = run.folder
        with suppress(OSError):
            (run.folder / ERROR).unlink(missing_ok=True)
        launcher = int(os.environ.get(LAUNCHER) or 0)
        self.status = {"process": os.getpid(), "launcher": launcher, "started": now(), "phase": "", "bar": ""}
        self.written = -PERIOD
        self.note()
        for line in self.before or ():
            self.line(line)
        self.before = None
        _teller, console.sink = self, lambda phase, bar: self.note(phase=phase, bar=bar)
        try:
            yield
        finally:
            _teller = console.sink = None
            self.written = -PERIOD
            self.note(phase="", bar="")
            self.folder = None

    def line(self, line: str) -> None:
        with self.writing:
            if not self.folder:
                if self.before is not None:
                    self.before.append(line)
                return
            with suppress(OSError), open(self.folder / "train.log", "a", encoding="utf-8") as file:
                file.write(line + "\n")

    def note(self, **fields) -> None:
        with self.writing:
            old, self.status = self.status, self.status | fields
            clock = time.monotonic()
            new_phase = any(old.get(name) != self.status.get(name) for name in ("phase", "fold", "epoch"))
            if new_phase or clock - self.written >= PERIOD:
                self.written = clock
                _write(self.folder / STATUS, self.status)


def fail(run: Run, kind: str, sentence: str) -> None:
    """Keep why the training ended too soon, unless another of its processes said so before."""
    if not (run.folder / ERROR).exists():
        _write(run.folder / ERROR, {"kind": kind, "sentence": sentence, "time": now()})


def crash(run: Run, error: BaseException, teller: Teller) -> None:
    """Keep an error that is none of ours, with its traceback in train.log."""
    if teller.folder:
        teller.line("".join(traceback.format_exception(error)).rstrip())
    first = str(error).partition("\n")[0][:200]
    fail(run, "error", f"Training stopped ({type(error).__name__}: {first}): {run.folder / 'train.log'} has the rest.")


class _Tee:
    """A stream whose whole lines a teller hears. States of progress bars begin with a carriage return: they are for a
    terminal alone. The stream's reader may go away."""

    def __init__(self, stream: TextIO, teller: Teller):
        self.stream, self.teller, self.pending = stream, teller, ""
        self.launched = bool(os.environ.get(LAUNCHER))  # nobody looks on

    def write(self, text: str) -> int:
        bar = text.startswith("\r")
        if not (bar and self.launched):
            with suppress(OSError):
                self.stream.write(text)
        *whole, self.pending = ("" if bar else self.pending + text).split("\n")
        for line in whole:
            if line := line.rpartition("\r")[2].rstrip():
                self.teller.line(line)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self.stream.flush()

    def __getattr__(self, name: str):
        return getattr(self.stream, name)


def _read(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(path: Path, content: dict) -> None:
    """Whole or not at all, but without waiting for the disk: nothing depends on it after a power failure."""
    temporary = path.with_name(f".{path.name}.new")
    with suppress(OSError):
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(temporary, path)
