"""What a training reports in its run's folder to a notebook, a study or a person.

train.log holds the lines that it prints, status.json its progress, error.json why it ended early. The process that
holds the run's lock writes them, except error.json, which the first process to fail writes. A full disk or a
missing folder costs these files, but never the training.
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
from kit.core.exceptions import KitError, first_line
from kit.core.files import now, read_json
from kit.runs import Run

AT_WORK = 75  # exit status of a training if another process holds its run (sysexits' "try again later")
PERIOD = 0.5  # seconds between two writes of status.json, except for a new phase
STATUS, ERROR = "status.json", "error.json"
FAR = ("fold", "epoch", "step", "done", "total")  # how far a training is: so far, until it resumes


def read_status(run: Run) -> dict:
    """Return the progress of the training, or {} if it has not begun.

    `process`, `launcher` (the process that asked for it; 0: none), `started`, `phase` and `bar` (the progress bar's
    name and text); while it trains `fold`, `epoch`, `step` of the epoch, `done` of `total` steps and, once enough of
    them have been measured, `seconds_per_step`.
    """
    return _read(run.folder / STATUS)


def read_error(run: Run) -> dict:
    """Return why the training ended early: `kind` (error, memory or stopped), `sentence` and `time`; or {}."""
    return _read(run.folder / ERROR)


def report(**fields) -> None:
    """Note the progress of the training of this process, if there is one."""
    if console.sink:
        console.sink(**fields)


class Teller:
    """Writes the status files of the run that this process trains."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.writing = threading.RLock()
        self.before: list[str] = []
        self.status: dict = {}
        self.written = -PERIOD

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, printed lines also go to train.log; those printed before a run is locked wait for it."""
        usual = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = _Tee(sys.stdout, self), _Tee(sys.stderr, self)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = usual

    @contextmanager
    def telling(self, run: Run) -> Iterator[None]:
        """Inside, this process holds the run's lock and reports the training in its files."""
        self.folder = run.folder
        with suppress(OSError):
            (run.folder / ERROR).unlink(missing_ok=True)
        launcher = int(os.environ.get(LAUNCHER) or 0)
        far = {name: value for name, value in read_status(run).items() if name in FAR} if run.begun else {}
        self.status = {"process": os.getpid(), "launcher": launcher, "started": now(), "phase": "", "bar": ""} | far
        self.written = -PERIOD
        self.note()
        for line in self.before:
            self.line(line)
        console.sink = self.note
        try:
            yield
        finally:
            console.sink = None
            self.written = -PERIOD
            self.note(phase="", bar="")
            self.folder = None

    def begin(self) -> None:
        """Discard the lines that were kept for the previous run."""
        self.before = []

    def line(self, line: str) -> None:
        with self.writing:
            if not self.folder:
                self.before.append(line)
                return
            with suppress(OSError), open(self.folder / "train.log", "a", encoding="utf-8") as file:
                file.write(line + "\n")

    def note(self, **fields) -> None:
        with self.writing:
            old, self.status = self.status, self.status | fields
            clock = time.monotonic()
            new_phase = any(old.get(name) != self.status.get(name) for name in ("phase", "fold", "epoch"))
            if self.folder and (new_phase or clock - self.written >= PERIOD):
                self.written = clock
                _write(self.folder / STATUS, self.status)


def fail(run: Run, kind: str, sentence: str) -> None:
    """Record why the training ended early, unless another of its processes already has."""
    if not (run.folder / ERROR).exists():
        _write(run.folder / ERROR, {"kind": kind, "sentence": sentence, "time": now()})


def crash(run: Run, error: BaseException, teller: Teller) -> None:
    """Record an unexpected error, with its traceback in train.log."""
    if teller.folder:
        teller.line("".join(traceback.format_exception(error)).rstrip())
    first = first_line(error)[:200]
    fail(run, "error", f"Training stopped ({type(error).__name__}: {first}): {run.folder / 'train.log'} has the rest.")


class _Tee:
    """A stream whose complete lines also go to a teller. States of progress bars, which begin with a carriage return,
    are for a terminal only. The stream's reader may go away."""

    def __init__(self, stream: TextIO, teller: Teller):
        self.stream, self.teller, self.pending = stream, teller, ""
        self.launched = bool(os.environ.get(LAUNCHER))  # nobody watches the stream

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
        return read_json(path)
    except KitError:
        return {}


def _write(path: Path, content: dict) -> None:
    """Write the file whole or not at all, but without waiting for the disk: it need not survive a power failure."""
    temporary = path.with_name(f".{path.name}.new")
    with suppress(OSError):
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(temporary, path)
