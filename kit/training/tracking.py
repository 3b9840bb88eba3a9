"""Each epoch's losses and scores, to a tracker of the user's choice as well: Accelerate's own."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from kit.config import TrainConfig
from kit.core.exceptions import KitError, first_line
from kit.runs import Run

PROJECT = "rakuten"  # under which hosted trackers list the runs; TensorBoard reads the run's folder


def require_tracker(config: TrainConfig) -> None:
    """Raise KitError if the configuration names a tracker that is not installed: Accelerate would track nothing."""
    if config.track and config.track not in map(str, get_available_trackers()):
        raise KitError(
            f"track={config.track!r} needs the package {config.track}, which is not installed here: pip install "
            f"{config.track}, or leave track out."
        )


@contextmanager
def tracking(run: Run, config: TrainConfig, accelerator: Accelerator) -> Iterator[None]:
    """Inside, `accelerator.log` reaches the configuration's tracker, if it names one.

    A resumed training is a further run of the same name there. Raise KitError if the tracker does not start.
    """
    project = run.name if config.track == "tensorboard" else PROJECT
    named = {"wandb": {"name": run.name}, "trackio": {"name": run.name}, "mlflow": {"run_name": run.name}}
    try:
        accelerator.init_trackers(project, dataclasses.asdict(config), named)
    except Exception as error:  # trackers raise many kinds, for a missing login or network
        raise KitError(
            f"track={config.track!r} does not start ({first_line(error)}): set it up, or leave track out."
        ) from error
    try:
        yield
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()
