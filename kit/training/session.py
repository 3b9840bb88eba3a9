"""The state of one process that trains a run."""

from dataclasses import dataclass

from accelerate import Accelerator

from kit.config import TrainConfig
from kit.runs import Run
from kit.training.checkpoint import Checkpoints, Progress
from kit.training.interrupt import Watch


@dataclass
class Session:
    """What all parts of a training share in one process."""

    run: Run
    config: TrainConfig
    accelerator: Accelerator
    watch: Watch
    checkpoints: Checkpoints
    progress: Progress
    steps: int  # of the whole run, at most

    @property
    def title(self) -> str:
        """Return the words that name the fold in what is printed; none if there is only one."""
        folds = self.config.folds
        return f"fold {self.progress.fold + 1}/{folds} " if folds > 1 else ""
