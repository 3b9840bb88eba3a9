"""Run folders: what a training leaves behind, and what every later step reads.

runs/<name>/ has config.json, metrics.csv (a row an epoch and fold), summary.json (last: its presence says that the run
is finished), oof.parquet (each validation item as a model that did not see it predicts it: `id`, `label`, `fold`, with
a grouped split `group`, one `p_<code>` a class), test.parquet (each test item once a fold: `id`, `split`, `fold`, the
item's FINGERPRINTS, one `p_<code>` a class), model-<fold>.safetensors, blank.csv (items without a readable image),
train.log and the executed notebooks; until it is finished state.pt, from which an interrupted training goes on
(`kit.resume`). Files appear whole or not at all, and one process at a time writes them.

N items · K classes · F folds
"""

import dataclasses
import functools
import json
import os
import platform
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from kit.config import ROOT, SAME_RESULT, EnsembleConfig, KitError, TrainConfig, check_name, few
from kit.metrics import bootstrap_macro_f1, scores

PATIENCE = 10  # seconds that a process gets to let go of a run folder: one that was killed may have readers left
STOPPED, NO_MEMORY = "The training was ", "Memory ran out"  # how the sentences begin that launch acts upon
AGAIN = "train the run again, with -p again True"
PROBABILITY = re.compile(r"p_(-?[0-9]+)")  # the column of a class
# of a test item: of its texts and ids (`kit.challenge`), and of its image file's contents; "" where that was not read
FINGERPRINTS = ("fingerprint", "image_fingerprint")
BEGINS = "── "  # before the name of the run that a training of several comes to


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """`write(temporary path)` beside `path`, then a rename: a reader sees the old file or the whole new one.

    The file may be read by whom the user's umask says, whatever its writer would have chosen.
    """
    here = "@" + platform.node().replace(".", "_")
    temporary = path.with_name(f".{path.name}.{os.getpid()}{here}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{path.name}.*"):  # by a process that was killed
            process = left.suffix[1:].removesuffix(here)
            if process.isdecimal() and not psutil.pid_exists(int(process)):
                left.unlink(missing_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        if temporary.stat().st_mode != mode:
            with suppress(OSError):  # a file system without permissions
                temporary.chmod(mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())  # else a machine that stops may leave an empty file under the new name
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise KitError(f"{path} cannot be written ({error}): free space or fix permissions.") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def locked(lock: Path, what: Path, patience: float = -1, busy: str = "") -> Iterator[None]:
    """Holds the lock of `what`; others wait for it, a dead process keeps nobody waiting.

    Raises KitError where it can't be written, and after `patience` seconds (below 0: never) with the sentence `busy`.
    """
    held = FileLock(lock, timeout=patience)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held.acquire()
    except Timeout:
        raise KitError(busy) from None
    except OSError as error:
        raise KitError(f"{what} cannot be written ({error}): free space or fix permissions.") from error
    try:
        yield
    finally:
        held.release()


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, content: dict) -> None:
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
        return content
    except (OSError, ValueError) as error:
        raise KitError(f"{path} cannot be read ({error}): {AGAIN}.") from error


def probabilities(codes: list[int], values: np.ndarray) -> pd.DataFrame:
    """values `[N, K]` as columns `p_<code>`."""
    return pd.DataFrame(values.astype(np.float32), columns=[f"p_{code}" for code in codes])


def read_probabilities(path: Path, wanted: Iterable[str]) -> tuple[pd.DataFrame, list[int], np.ndarray]:
    """Of a file of predictions the items without their probabilities, the class codes, and the probabilities `[N, K]`.

    Raises KitError where it is damaged, lacks one of the columns `wanted` or all classes, or holds no probabilities.
    """
    try:
        frame = pd.read_parquet(path, page_checksum_verification=True)
        columns = [name for name in frame if PROBABILITY.fullmatch(str(name))]
        values = frame[columns].to_numpy(np.float32)
    except (OSError, ValueError, TypeError) as error:  # pyarrow's errors are ValueErrors
        raise KitError(f"{path} cannot be read ({error}): {AGAIN}.") from error
    if not columns or any(name not in frame for name in wanted):
        raise KitError(f"{path} lacks one of {', '.join(wanted)} and p_<code>: {AGAIN}.")
    wrong = ~(np.isfinite(values).all(1) & (values >= 0).all(1) & (np.abs(values.sum(1) - 1) < 1e-3))
    if wrong.any():
        what = f"{wrong.sum()} rows that are not finite probabilities with sum 1 (id {few(frame['id'][wrong])})"
        raise KitError(f"{path} has {what}: {AGAIN}.")
    items = frame.drop(columns=columns).reset_index(drop=True)  # a frame that was shuffled keeps its index in the file
    return items, [int(name[2:]) for name in columns], values


def mean_over_folds(path: Path, items: pd.DataFrame, codes: list[int], values: np.ndarray) -> pd.DataFrame:
    """Of what a file of test predictions at `path` holds, the mean over folds of each item's probabilities, indexed by
    `split` and `id`, with the codes as columns.

    `split` is None, and there is one fold, where the items do not say. Raises KitError.
    """
    items = {"split": None, "fold": 0} | dict(items.items())
    keys = pd.DataFrame(items, columns=["split", "id", "fold"])
    if (again := keys.duplicated()).any():
        raise KitError(f"{path} repeats id {few(keys['id'][again].unique())}: {AGAIN}.")
    folds = pd.DataFrame(values, columns=codes, dtype=float).groupby(
        [keys["split"], keys["id"]], sort=False, dropna=False
    )
    if folds.size().nunique() > 1:
        raise KitError(f"{path} has some items in more folds than others: {AGAIN}.")
    return folds.mean()


def predicted_items(items: pd.DataFrame, means: pd.DataFrame) -> pd.DataFrame:
    """Return `split` and `id` of test items, with those of FINGERPRINTS that are known, "" for one that is not.

    `items`, `means`: as `read_probabilities` and `mean_over_folds` return them.
    """
    found = means.index.to_frame(index=False)[["split", "id"]]
    first = items.drop_duplicates([name for name in ("split", "id") if name in items])  # in the order of `means`
    for name in (name for name in FINGERPRINTS if name in items):
        found[name] = first[name].fillna("").to_numpy()
    return found


@dataclass(frozen=True)
class Run:
    """One run's folder."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def finished(self) -> bool:
        return (self.folder / "summary.json").is_file()

    @property
    def config(self) -> TrainConfig | EnsembleConfig:
        """Raises KitError where config.json is missing or has a field that this kit does not know."""
        path = self.folder / "config.json"
        content = read_json(path)
        kind = EnsembleConfig if "members" in content else TrainConfig
        unknown = set(content) - {field.name for field in dataclasses.fields(kind)}
        if unknown:
            raise KitError(
                f"{path} has the unknown field {', '.join(sorted(unknown))}: another version of the kit wrote it."
            )
        try:
            return kind(**content)
        except TypeError as error:
            raise KitError(f"{path} is not whole ({error}): {AGAIN}.") from None

    @property
    def summary(self) -> dict:
        """Raises KitError where the run is not finished, or the file not whole."""
        self.require()
        content = read_json(path := self.folder / "summary.json")
        if lacking := {"run", "macro_f1", "macro_f1_low", "macro_f1_high"} - content.keys():
            raise KitError(f"{path} lacks {', '.join(sorted(lacking))}: {AGAIN}.")
        return content

    @property
    def metrics(self) -> pd.DataFrame:
        """A row an epoch and fold; no rows where nothing was trained step by step."""
        self.require()
        path = self.folder / "metrics.csv"
        try:
            return pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=["fold", "epoch"])
        except (OSError, ValueError) as error:  # pandas' errors are ValueErrors
            raise KitError(f"{path} cannot be read ({error}): {AGAIN}.") from error

    def predictions(self, part: str) -> tuple[pd.DataFrame, list[int], np.ndarray]:
        """The frame of `oof` or `test` without its probabilities, the class codes, and the probabilities `[N, K]`.

        Raises KitError.
        """
        self.require()
        wanted = ["id", "label", "fold"] if part == "oof" else ["id", "split", "fold"]
        return read_probabilities(self.folder / f"{part}.parquet", wanted)

    def mean_test(self) -> pd.DataFrame:
        """The mean over folds of each test item's probabilities, indexed by `split` and `id`, with the codes as
        columns. Raises KitError."""
        return self.read_test()[1]

    def read_test(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The test items with their fingerprints, as far as the run knows them, and `mean_test`; both indexed by
        `split` and `id`. Raises KitError."""
        items, codes, values = self.predictions("test")
        means = mean_over_folds(self.folder / "test.parquet", items, codes, values)
        return predicted_items(items, means).set_index(["split", "id"]), means

    def changes(self, config: TrainConfig | EnsembleConfig) -> list[str]:
        """The fields in which `config` is not what the run was made with, but for those that change no result."""
        old, new = dataclasses.asdict(self.config), dataclasses.asdict(config)
        return [f"{k} ({old.get(k)} → {new[k]})" for k in new if old.get(k) != new[k] and k not in SAME_RESULT]

    @property
    def begun(self) -> bool:
        """True where an interrupted training can go on."""
        return not self.finished and (self.folder / "state.pt").is_file()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Holds the folder for this process. Raises KitError where another one has it; a dead one keeps nothing."""
        busy = f"The run {self.name!r} is at work in another process: wait for it, stop it, or choose another name "
        with locked(self.folder / ".lock", self.folder, PATIENCE, f"{busy}with -p run."):
            yield

    def still_there(self) -> None:
        """Raises KitError where the folder was removed while it was at work: a new one would be nobody's."""
        if not (self.folder / "config.json").is_file():
            raise KitError(f"{self.folder} was removed or emptied meanwhile: start the run again.")

    def clear(self) -> None:
        """Removes what an earlier training left, its summary first: a run half replaced must not look finished."""
        (self.folder / "summary.json").unlink(missing_ok=True)
        for pattern in ("state.pt", "metrics.csv", "blank.csv", "*.parquet", "model*.safetensors"):
            for path in self.folder.glob(pattern):
                path.unlink()

    def write(
        self,
        codes: list[int],
        oof: tuple[pd.DataFrame, np.ndarray],
        test: tuple[pd.DataFrame, np.ndarray],
        summary: dict,
    ) -> None:
        """The results: of `oof` its items and their probabilities `[N, K]`, of `test` likewise `[F, N, K]`; and the
        summary, to which the scores are added, last. Raises KitError."""
        self.still_there()
        frame, values = oof
        known = [name for name in ("id", "label", "fold", "group") if name in frame]
        self._write("oof", frame[known].reset_index(drop=True), values, codes)
        test_frame, folds = test
        known = test_frame[[name for name in FINGERPRINTS if name in test_frame]]
        rows = [test_frame[["id", "split"]].assign(fold=fold, **known) for fold in range(len(folds))]
        self._write("test", pd.concat(rows, ignore_index=True), np.concatenate(folds), codes)
        labels = pd.Categorical(frame["label"], categories=codes).codes.astype(int)
        low, high = bootstrap_macro_f1(labels, values.argmax(1))
        found = {"run": self.name, **scores(values, labels), "macro_f1_low": low, "macro_f1_high": high}
        found |= {"classes": len(codes), "items": {"oof": len(frame), "test": len(test_frame)}, "finished": now()}
        write_json(self.folder / "summary.json", found | summary)

    def __str__(self) -> str:
        summary = self.summary
        score, low, high = (100 * summary[key] for key in ("macro_f1", "macro_f1_low", "macro_f1_high"))
        return f"{self.name}: macro-F1 {score:.2f} [{low:.2f}, {high:.2f}], {summary['seconds']:.0f} s"

    def _write(self, part: str, frame: pd.DataFrame, values: np.ndarray, codes: list[int]) -> None:
        table = pd.concat([frame, probabilities(codes, values)], axis=1)
        write = functools.partial(table.to_parquet, write_page_checksum=True)
        write_atomically(self.folder / f"{part}.parquet", write)

    def require(self) -> None:
        """Raises KitError where the run is missing or not finished."""
        if not self.folder.is_dir():
            known = ", ".join(run.name for run in list_runs()) or "none yet"
            raise KitError(f"There is no run {self.name!r} in {self.folder.parent}; finished runs: {known}.")
        if not self.finished:
            raise KitError(f"The run {self.name!r} is not finished: start 03_train again with the same parameters.")


def open_run(name: str) -> Run:
    """Raises KitError where that is no name."""
    check_name(name)
    return Run(ROOT / "runs" / name)


def find_run(name: str = "") -> Run:
    """The finished run of that name, or the newest. Raises KitError."""
    if not name and not list_runs():
        raise KitError(f"There is no finished run in {ROOT / 'runs'} yet: train one with 03_train.")
    run = open_run(name) if name else list_runs()[-1]
    run.require()
    return run


def list_runs() -> list[Run]:
    """The finished runs, oldest first, by the time that their summaries tell."""
    return sorted((Run(path.parent) for path in (ROOT / "runs").glob("*/summary.json")), key=finished_at)


def now() -> str:
    """Return the time, in UTC, as files keep it: a file's own time is lost when it is copied."""
    return datetime.now(UTC).isoformat()


def read_time(text) -> datetime | None:
    """Return a time that `now` wrote; None if it is none."""
    try:
        time = datetime.fromisoformat(text)
        return time if time.tzinfo else time.replace(tzinfo=UTC)
    except (TypeError, ValueError):
        return None


def finished_at(run: Run) -> tuple[bool, datetime, str]:
    """What puts finished runs in order. Runs of earlier versions tell no time: they come first, by that of the file."""
    path = run.folder / "summary.json"
    try:
        told = read_time(read_json(path).get("finished"))
    except KitError:  # whoever reads the run says what is wrong
        told = None
    try:
        return bool(told), told or datetime.fromtimestamp(path.stat().st_mtime, UTC), run.name
    except OSError:  # removed meanwhile
        return False, datetime.min.replace(tzinfo=UTC), run.name


def prepare_run(config: TrainConfig | EnsembleConfig, again: bool = False) -> Run:
    """The folder for `config`, with its config.json. What a finished or an interrupted run of the same configuration
    has left stays as it is.

    Raises KitError where the folder holds a run of another configuration, naming the fields, or one that is at work;
    `again` starts over.
    """
    run = open_run(config.run)
    with run.alone():
        if (run.finished or run.begun) and not again:
            if changed := run.changes(config):
                raise KitError(
                    f"The run {run.name!r} {'exists' if run.finished else 'was begun'} with other settings: "
                    f"{', '.join(changed)}. Choose another name with -p run, or pass -p again True to replace it."
                )
            if run.finished:
                return run
        else:
            run.clear()
            (run.folder / "train.log").unlink(missing_ok=True)
        write_json(run.folder / "config.json", dataclasses.asdict(config))
    return run
