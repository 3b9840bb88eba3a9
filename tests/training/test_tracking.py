"""Tracking: a tracker gets each epoch's losses and scores, and changes neither the run nor its name."""

import accelerate.tracking
import pytest
from accelerate.tracking import GeneralTracker
from accelerate.utils import LoggerType

from kit.config import train_config
from kit.core.exceptions import KitError
from kit.runs import prepare_run
from kit.training.run_trainer import train


class Recorder(GeneralTracker):
    """Stands in for trackio: remembers what it is told."""

    name, requires_logging_directory, main_process_only, tracker = "trackio", False, True, None
    told: list = []  # noqa: RUF012

    def __init__(self, project: str, name: str):
        super().__init__()
        self.told.append((project, name))

    def start(self) -> None:
        pass

    def store_init_configuration(self, values: dict) -> None:
        self.told.append(values)

    def log(self, values: dict, step: int) -> None:
        self.told.append((step, values))

    def finish(self) -> None:
        self.told.append("finished")


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "trackio", Recorder)
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [LoggerType.TRACKIO])
    monkeypatch.setattr(Recorder, "told", [])
    return Recorder


def test_a_tracker_gets_every_epoch_and_changes_nothing(root, tiny_config, recorder):
    values = {**tiny_config, "system": "text"}
    tracked, plain = (train_config(**values, run=name, track=to) for name, to in (("a", "trackio"), ("b", "")))
    for config in (tracked, plain):
        train(prepare_run(config))
    named, settings, *epochs, last = recorder.told
    assert named == ("rakuten", "a") and settings["lr"] == 0.01 and last == "finished"
    assert [step for step, _ in epochs] == [1, 2]
    run = prepare_run(tracked)
    shown = [scores["fold 0/macro_f1"] for _, scores in epochs]
    assert shown == pytest.approx(run.metrics["macro_f1"].tolist())
    assert run.finished and not run.changes(train_config(**values, run="a"))  # the same run, tracked or not
    assert train_config(**values, track="trackio").run == train_config(**values).run
    a, b = (root / "runs" / name / "oof.parquet" for name in ("a", "b"))
    assert a.read_bytes() == b.read_bytes()


def test_a_tracker_that_is_not_installed_or_fails_is_refused_before_training(root, tiny_config, recorder, monkeypatch):
    run = prepare_run(train_config(**tiny_config, run="a", track="mlflow"))
    with pytest.raises(KitError, match=r"track='mlflow' needs the package mlflow.*pip install mlflow, or leave track"):
        train(run)

    def fail(self) -> None:
        raise ConnectionError("nobody is logged in\nand more")

    monkeypatch.setattr(Recorder, "start", fail)
    run = prepare_run(train_config(**tiny_config, run="b", track="trackio"))
    with pytest.raises(KitError, match=r"track='trackio' does not start \(nobody is logged in\): set it up, or leave"):
        train(run)
    with pytest.raises(KitError, match="track='comet' is not one of tensorboard, trackio"):
        train_config(track="comet")
