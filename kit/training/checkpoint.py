"""The saved state from which an interrupted training resumes.

N items · K classes · F folds
"""

import dataclasses
import functools
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from kit.core.exceptions import KitError, first_line
from kit.core.files import write_atomically
from kit.runs import Run

STATE_FORMAT = 2  # raise it when a part of the state changes its meaning


@dataclass
class Progress:
    """A run's position, `step` optimizer steps into `epoch` of `fold` (both counted from 0), and its results so far.

    `epochs`: how many the fold's model gets, -1 while held-out items choose it · `held_out`: their loss after 0, 1, …
    epochs · `history`: one row per epoch, written to metrics.csv · `best`: macro-F1 of the fold's best epoch, and
    `kept` its logits `[n, K]` · `oof` `[N, K]`: logits, and `test` (F of `[M, K]`): probabilities of the finished folds
    · `attention`: measures of their attention, if there is any · `loss`, `items`: this process's sums over the epoch so
    far, and `epoch_seconds` its duration · `skipped`: steps left out because their loss was not finite ·
    `parameters`: of the model · `seconds`: total duration, earlier processes included.
    """

    oof: Tensor
    fold: int = 0
    epoch: int = 0
    step: int = 0
    epochs: int = -1
    held_out: list[float] = field(default_factory=list)
    history: list[dict] = field(default_factory=list)
    best: float = -1.0
    kept: Tensor | None = None
    test: list[Tensor] = field(default_factory=list)
    attention: list[dict] = field(default_factory=list)
    loss: float = 0.0
    items: int = 0
    epoch_seconds: float = 0.0
    skipped: int = 0
    parameters: int = 0
    seconds: float = 0.0

    def next_epoch(self) -> None:
        self.epoch, self.step, self.loss, self.items, self.epoch_seconds = self.epoch + 1, 0, 0.0, 0, 0.0

    def choose(self, epochs: int) -> None:
        """Begin the fold anew, to train its model for so many epochs."""
        self.epochs, self.epoch, self.held_out = epochs, 0, []

    def next_fold(self) -> None:
        self.fold, self.epoch, self.epochs, self.best, self.kept = self.fold + 1, 0, -1, -1.0, None


class Checkpoints:
    """The saved state of a run, in its folder's state.pt: plain tensors, numbers and text, never code.

    `data`: hashes by name of everything that the run reads; a state of other data is refused. If no state can be
    written, the training continues without, and says so.
    """

    def __init__(self, run: Run, accelerator: Accelerator, data: dict[str, str]):
        self.run, self.path, self.accelerator, self.data = run, run.folder / "state.pt", accelerator, data
        self.content: dict = {}
        self.clock, self.warned = time.perf_counter(), False

    def read(self, fresh: Progress) -> Progress:
        """Return the saved progress, or `fresh` if there is none. Raise KitError if it is damaged or of other data."""
        if not self.path.is_file():
            return fresh
        again = "pass -p again True to start over."
        try:
            # mapped: all processes of a machine share its gigabytes, and what one of them changes stays its own
            self.content = torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
            if self.content.get("format") != STATE_FORMAT:
                raise ValueError("another version of the kit wrote it")
            progress, local = Progress(**self.content["progress"]), self.content["local"]
        except Exception as error:  # a damaged archive can raise anything
            raise KitError(f"{self.path} cannot be read ({first_line(error)}): {again}") from error
        self.require(self.content["data"])
        mine, main = local[self.accelerator.process_index % len(local)], self.accelerator.is_main_process
        sums = {name: mine[name] for name in ("loss", "items")}
        if (now := self.accelerator.num_processes) != len(local):
            sums = {name: main * sum(part[name] for part in local) for name in sums}
            if main:
                print(f"Begun with {len(local)} processes, now {now}: results may differ slightly", flush=True)
        began, precision = self.content.get("precision"), self.accelerator.mixed_precision
        if main and began not in (None, precision):
            print(f"Begun in the precision {began}, now {precision}: results may differ slightly", flush=True)
        progress = dataclasses.replace(progress, **sums)
        if "model" not in self.content:  # between two folds: the next one starts from its own seed
            self.content = {}
        if main:
            fold = f"fold {progress.fold + 1}, " if progress.fold else ""
            print(f"Resuming at {fold}epoch {progress.epoch + 1}, step {progress.step}", flush=True)
        return progress

    def require(self, data: dict[str, str]) -> None:
        """Raise KitError if `data`, hashes by name, differs from the data that this run reads."""
        if changed := [name for name, digest in data.items() if self.data.get(name) != digest]:
            raise KitError(
                f"The data of the run {self.run.name!r} changed since it was begun ({', '.join(changed)}): put back "
                f"the old data, or pass -p again True to start over."
            )

    @property
    def pending(self) -> bool:
        """True if the state that was read is from the middle of a fold and not yet fully restored."""
        return bool(self.content)

    def restore(self, model: nn.Module, optimizer, schedule) -> None:
        """Load the state that was read into model, optimizer and schedule."""
        options = StateDictOptions(full_state_dict=True, ignore_frozen_params=True, strict=False)
        set_state_dict(
            model,
            optimizer.optimizer,
            model_state_dict=self.content["model"],
            optim_state_dict=self.content["optimizer"],
            options=options,
        )
        schedule.load_state_dict(self.content["schedule"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(self.content["scaler"])

    def batches(self, batches: Iterable) -> Iterator:
        """Yield the batches; restore the saved random state before the first.

        Creating their iterator consumes random numbers, so an earlier restore would not last.
        """
        for batch in batches:
            self.restore_random()
            yield batch

    def restore_random(self) -> None:
        """Restore the random state that was read, once."""
        if not self.pending:
            return
        local = self.content["local"][self.accelerator.process_index % len(self.content["local"])]
        torch.set_rng_state(local["random"])
        if local["gpu_random"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(local["gpu_random"])
        self.content = {}

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def write(self, progress: Progress, model: nn.Module | None = None, optimizer=None, schedule=None) -> None:
        """Replace the saved state atomically by the current one; every process must call this, and returns once it is
        written.

        Raise KitError if the run's folder was deleted.
        """
        progress.seconds, self.clock = progress.seconds + time.perf_counter() - self.clock, time.perf_counter()
        local = {"loss": progress.loss, "items": progress.items, "random": torch.get_rng_state()}
        local["gpu_random"] = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
        content = {"format": STATE_FORMAT, "data": self.data, "local": gather_object([local])}
        content["precision"] = self.accelerator.mixed_precision
        content["progress"] = {item.name: getattr(progress, item.name) for item in dataclasses.fields(progress)}
        if model is not None:
            options = StateDictOptions(full_state_dict=True, ignore_frozen_params=True, cpu_offload=True)
            content["model"], content["optimizer"] = get_state_dict(model, optimizer.optimizer, options=options)
            content["schedule"] = schedule.state_dict()
            content["scaler"] = self.accelerator.scaler.state_dict() if self.accelerator.scaler else None
        if self.accelerator.is_main_process:
            self.run.still_there()
            try:
                write_atomically(self.path, functools.partial(_save, content))
            except KitError as error:  # losing the chance to resume is better than losing the training
                if not self.warned:
                    print(f"The training continues, but without saved states: {error}", flush=True)
                self.warned = True
        self.accelerator.wait_for_everyone()  # if one ended first, the launcher would kill the one that writes


def _save(content: dict, path: Path) -> None:
    """Write a saved state. Raise OSError if the disk is full."""
    try:
        torch.save(content, path)
    except RuntimeError as error:  # raised by torch if the disk is full
        raise OSError(first_line(error)) from error
