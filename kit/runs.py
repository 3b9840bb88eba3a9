"""Run folders: the output of a training, and the input of every later step.

runs/<name>/ contains

config.json                the configuration
metrics.csv                one row per epoch and fold
oof.parquet                each validation item, predicted by a model that did not learn from it: `id`, `label`, `fold`,
                           `group` (grouped split only), FINGERPRINTS, one `p_<code>` per class
test.parquet               each test item once per fold: `id`, `split`, `fold`, FINGERPRINTS, one `p_<code>` per class
model-<fold>.safetensors   the trained weights, or the arrays of a light baseline
stacker.safetensors        the arrays of an ensemble's stacker
epoch-*.safetensors        until a fold ends: the weights of its best epochs (`kit.training.saved_weights`)
blank.csv                  items without a readable image, and images left out beside others
train.log                  what the training printed
*.ipynb                    the executed notebooks that were about this run
status.json, error.json    how far the training is, and why it ended too soon (`kit.training.status`)
accelerate.json            how several processes of this machine were launched (`kit.training.launch`)
state.pt                   until the run is finished: resumes an interrupted training (`kit.training.checkpoint`)
summary.json               written last: its presence means that the run is finished

Files are complete or absent, and one process at a time writes them.

A run is a training or an ensemble: two classes over this one format, told apart by what config.json holds.

N items · K classes · F folds
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import overload

import numpy as np
import pandas as pd

from kit.config import SAME_RESULT, EnsembleConfig, TrainConfig, check_name
from kit.core.cache import content_hashes
from kit.core.exceptions import KitError, did_you_mean, shorten
from kit.core.files import TRAIN_AGAIN, locked, now, read_json, read_time, write_atomically, write_json
from kit.core.paths import resolve, runs_folder
from kit.metrics import bootstrap_macro_f1, scores, weighted_f1
from kit.predictions import FINGERPRINTS, probabilities, read_probabilities, read_test

STACKER = "stacker.safetensors"
PATIENCE = 10  # seconds to wait for a locked run folder: a killed process may leave workers behind for a while


@dataclass(frozen=True)
class Run:
    """One run's folder: a TrainingRun, an EnsembleRun, or neither as long as there is no config.json to tell."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def finished(self) -> bool:
        return (self.folder / "summary.json").is_file()

    @property
    def config(self) -> TrainConfig | EnsembleConfig:
        """Return the configuration.

        Raise KitError if config.json is missing, damaged, of another version of the kit or of the other kind.
        """
        content = read_json(path := self.folder / "config.json")
        kind = _config_class(content)
        if unknown := set(content) - {field.name for field in dataclasses.fields(kind)}:
            raise KitError(
                f"{path} has the unknown field {', '.join(sorted(unknown))}: another version of the kit wrote it."
            )
        try:
            return kind(**content)
        except TypeError as error:
            raise KitError(f"{path} is not whole ({error}): {TRAIN_AGAIN}.") from None

    @property
    def summary(self) -> dict:
        """Return the summary. Raise KitError if the run is not finished or the file is incomplete."""
        self.require()
        content = read_json(path := self.folder / "summary.json")
        if lacking := {"run", "macro_f1", "macro_f1_low", "macro_f1_high"} - content.keys():
            raise KitError(f"{path} lacks {', '.join(sorted(lacking))}: {TRAIN_AGAIN}.")
        return content

    @property
    def metrics(self) -> pd.DataFrame:
        """Return one row per epoch and fold; no rows if nothing was trained in epochs."""
        self.require()
        path = self.folder / "metrics.csv"
        try:
            return pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=["fold", "epoch"])
        except (OSError, ValueError) as error:  # pandas' errors are ValueErrors
            raise KitError(f"{path} cannot be read ({error}): {TRAIN_AGAIN}.") from error

    def predictions(self, part: str) -> tuple[pd.DataFrame, list[int], np.ndarray]:
        """Return the items of `oof` or `test` without their probabilities, the class codes, and the probabilities `[N,
        K]`.

        Raise KitError if the run is not finished or the file is damaged.
        """
        self.require()
        wanted = ["id", "label", "fold"] if part == "oof" else ["id", "split", "fold"]
        return read_probabilities(self.folder / f"{part}.parquet", wanted)

    def read_oof(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the validation items (label, fold, maybe group and fingerprints) and their probabilities, with the
        codes as columns, both indexed by `id`. Raise KitError as `predictions` does, or if an item is repeated.
        """
        items, codes, values = self.predictions("oof")
        items = items.set_index("id")
        again = items.index[items.index.duplicated()]
        if len(again):
            raise KitError(f"{self.folder / 'oof.parquet'} repeats id {shorten(again)}: {TRAIN_AGAIN}.")
        return items, pd.DataFrame(values, items.index, codes, dtype=float)

    def read_test(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the test items with the fingerprints that the run has recorded, and the mean over folds of each item's
        probabilities, with the codes as columns; both are indexed by `split` and `id`.

        Raise KitError as `predictions` does.
        """
        self.require()
        predicted, means = read_test(self.folder / "test.parquet", ["id", "split", "fold"])
        return predicted.set_index(["split", "id"]), means

    def changes(self, config: TrainConfig | EnsembleConfig) -> list[str]:
        """Return the fields in which `config` differs from the run's, except those that do not affect the result."""
        if type(config) is not type(self.config):
            return [f"kind ({'training → ensemble' if isinstance(config, EnsembleConfig) else 'ensemble → training'})"]
        old, new = dataclasses.asdict(self.config), dataclasses.asdict(config)
        same_result = {*SAME_RESULT, *(config.unread if isinstance(config, TrainConfig) else ())}
        changed = [name for name in new if old.get(name) != new[name] and name not in same_result]
        paths = [name for name in changed if name in ("data", "text", "image")]
        same = [name for name in paths if resolve(old[name]) == resolve(new[name])]
        return [f"{name} ({old.get(name)} → {new[name]})" for name in changed if name not in same]

    @property
    def begun(self) -> bool:
        """Return whether an interrupted training can be resumed."""
        return not self.finished and (self.folder / "state.pt").is_file()

    @contextmanager
    def alone(self, patience: float | None = None) -> Iterator[None]:
        """Lock the folder for this process.

        Raise Busy if another living process holds it after `patience` seconds (None: PATIENCE).
        """
        busy = f"The run {self.name!r} is at work in another process: wait for it, stop it, or choose another name "
        patience = PATIENCE if patience is None else patience
        with locked(self.folder / ".lock", self.folder, patience, f"{busy}with -p run."):
            yield

    def still_there(self) -> None:
        """Raise KitError if the folder was deleted during the run; recreating it would leave an orphan."""
        if not (self.folder / "config.json").is_file():
            raise KitError(f"{self.folder} was removed or emptied during the run: start the run again.")

    def clear(self) -> None:
        """Remove the files of an earlier training, the summary first: a half-replaced run must not look finished."""
        (self.folder / "summary.json").unlink(missing_ok=True)
        for pattern in (
            "state.pt",
            "metrics.csv",
            "blank.csv",
            "*.parquet",
            "model*.safetensors",
            STACKER,
            "epoch*.safetensors",
        ):
            for path in self.folder.glob(pattern):
                path.unlink()

    def write(
        self,
        codes: list[int],
        oof: tuple[pd.DataFrame, np.ndarray],
        test: tuple[pd.DataFrame, np.ndarray],
        summary: dict,
    ) -> None:
        """Write the results, and last the summary with the scores.

        `oof`: items and their probabilities `[N, K]` · `test`: items and their probabilities `[F, N, K]`. Raise
        KitError if a file cannot be written.
        """
        self.still_there()
        frame, values = oof
        known = [name for name in ("id", "label", "fold", "group", *FINGERPRINTS) if name in frame]
        self._write("oof", frame[known].reset_index(drop=True), values, codes)
        test_frame, folds = test
        known = test_frame[[name for name in FINGERPRINTS if name in test_frame]]
        rows = [test_frame[["id", "split"]].assign(fold=fold, **known) for fold in range(len(folds))]
        self._write("test", pd.concat(rows, ignore_index=True), np.concatenate(folds), codes)
        labels = pd.Index(codes).get_indexer(frame["label"])
        low, high = bootstrap_macro_f1(labels, values.argmax(1), groups=frame.get("group"))
        content = {"run": self.name, **scores(values, labels), "macro_f1_low": low, "macro_f1_high": high}
        content |= {"weighted_f1": weighted_f1(labels, values.argmax(1))}
        content |= {"classes": len(codes), "items": {"oof": len(frame), "test": len(test_frame)}, "finished": now()}
        write_json(self.folder / "summary.json", content | summary)

    def __str__(self) -> str:
        summary = self.summary
        score, low, high = (100 * summary[key] for key in ("macro_f1", "macro_f1_low", "macro_f1_high"))
        return f"{self.name}: macro-F1 {score:.2f} [{low:.2f}, {high:.2f}], {summary['seconds']:.0f} s"

    def _write(self, part: str, frame: pd.DataFrame, values: np.ndarray, codes: list[int]) -> None:
        table = pd.concat([frame, probabilities(codes, values)], axis=1)
        write = functools.partial(table.to_parquet, write_page_checksum=True)
        write_atomically(self.folder / f"{part}.parquet", write)

    def require(self) -> None:
        """Raise KitError if the run is missing or not finished."""
        if not self.folder.is_dir():
            known = [run.name for run in list_runs()][::-1]
            finished = f"Finished runs, the newest first: {shorten(known, 10)}" if known else "No run is finished yet"
            raise KitError(
                f"There is no run {self.name!r} in {self.folder.parent}.{did_you_mean(self.name, known)} {finished}."
            )
        if not self.finished:
            raise KitError(f"The run {self.name!r} is not finished: start 03_train again with the same parameters.")


class TrainingRun(Run):
    """The folder of a training: of a network, or of a light baseline; or a member from elsewhere."""

    @property
    def config(self) -> TrainConfig:
        if isinstance(config := super().config, EnsembleConfig):
            raise KitError(f"{self.folder} is an ensemble's: 05_ensemble makes it, from runs that are trained here.")
        return config


class EnsembleRun(Run):
    """The folder of an ensemble of trainings."""

    @property
    def config(self) -> EnsembleConfig:
        if isinstance(config := super().config, TrainConfig):
            raise KitError(f"{self.folder} is a training's, and no ensemble: 05_ensemble makes one of several.")
        return config


def _config_class(content: dict) -> type[TrainConfig] | type[EnsembleConfig]:
    """Return the class of configuration that a config.json holds."""
    return EnsembleConfig if "members" in content else TrainConfig


def run_at(folder: Path) -> Run:
    """Return the run of that folder, finished or not, or not begun."""
    try:
        content = read_json(folder / "config.json")
    except KitError:  # no such run yet; or whoever asks for its configuration says what is wrong
        return Run(folder)
    return EnsembleRun(folder) if _config_class(content) is EnsembleConfig else TrainingRun(folder)


def open_run(name: str) -> Run:
    """Return the run of that name, finished or not, or not begun. Raise KitError if it is not a folder name."""
    check_name(name)
    return run_at(runs_folder() / name)


def open_training(name: str) -> TrainingRun:
    """Return the finished training of that name. Raise KitError also if it is an ensemble."""
    run = open_run(name)
    run.require()
    if isinstance(run, EnsembleRun):
        raise KitError(
            f"{name!r} is an ensemble, which learned from labels of all folds: "
            f"name its members instead ({', '.join(run.config.members)})."
        )
    return TrainingRun(run.folder)


def find_run(name: str = "") -> Run:
    """Return the finished run of that name, or without a name the newest. Raise KitError if there is none."""
    if not name and not list_runs():
        raise KitError(f"There is no finished run in {runs_folder()} yet: train one with 03_train.")
    run = open_run(name) if name else list_runs()[-1]
    run.require()
    return run


def list_runs() -> list[Run]:
    """Return the finished runs, oldest first, by the time in their summaries."""
    return sorted((run_at(path.parent) for path in runs_folder().glob("*/summary.json")), key=finished_at)


def prediction_hashes(names: Iterable[str], *parts: str) -> list[str]:
    """Return a hash of each `<part>.parquet` of these runs. Raise KitError if one cannot be read."""
    return content_hashes([str(open_run(name).folder / f"{part}.parquet") for name in names for part in parts])


def finished_trainings(study: str) -> list[TrainingRun]:
    """Return a study's finished trainings, oldest first, without those of another version of the kit; none for ""."""
    finished = []
    for run in list_runs() if study else ():
        with contextlib.suppress(KitError):
            if isinstance(run, TrainingRun) and run.config.study == study:
                finished.append(run)
    return finished


def finished_at(run: Run) -> tuple[datetime, str]:
    """Return the sort key of finished runs. One whose summary is damaged, which reading it will report, comes first."""
    recorded = None
    with contextlib.suppress(KitError):
        recorded = read_time(read_json(run.folder / "summary.json").get("finished"))
    return recorded or datetime.min.replace(tzinfo=UTC), run.name


@overload
def prepare_run(config: TrainConfig, again: bool = False) -> TrainingRun: ...
@overload
def prepare_run(config: EnsembleConfig, again: bool = False) -> EnsembleRun: ...
def prepare_run(config: TrainConfig | EnsembleConfig, again: bool = False) -> Run:
    """Create the folder for `config`, with its config.json, and return the run.

    A finished or interrupted run of the same configuration is left unchanged, unless `again` starts it over. Raise
    KitError if the folder has a run of another configuration, naming the fields, or one that is in use.
    """
    check_name(config.run)
    kind = EnsembleRun if isinstance(config, EnsembleConfig) else TrainingRun
    run = Run(runs_folder() / config.run)
    with run.alone():
        if (run.finished or run.begun) and not again:
            if changed := run.changes(config):
                raise KitError(
                    f"The run {run.name!r} {'exists' if run.finished else 'was begun'} with other settings: "
                    f"{', '.join(changed)}. Choose another name with -p run, or pass -p again True to replace it."
                )
            if run.finished:
                return kind(run.folder)
        else:
            run.clear()
            for name in ("train.log", "status.json", "error.json"):
                (run.folder / name).unlink(missing_ok=True)
        write_json(run.folder / "config.json", dataclasses.asdict(config))
    return kind(run.folder)
