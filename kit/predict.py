"""Predictions of finished runs for new items: a network, a light baseline, or an ensemble of them.

N items · F folds · K classes
"""

import dataclasses
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
from accelerate import PartialState
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from kit.config import LIGHT, TrainConfig
from kit.core.arrays import read_arrays
from kit.core.console import Bar
from kit.core.exceptions import KitError
from kit.core.files import write_atomically
from kit.core.paths import private_cache
from kit.data.challenge import clean_items
from kit.data.new_items import MISSING, Items, NewItems, read_new_items
from kit.data.table import PARQUET
from kit.export import open_source
from kit.models.backbones import BackboneHandle, find_backbones
from kit.models.classifier import Classifier
from kit.runs import STACKER, EnsembleRun, TrainingRun
from kit.stacking.stackers import METHODS, Tempered
from kit.training import light
from kit.training.run_trainer import make_accelerator, more_parts, prepare_items
from kit.training.trained import Trained

DELIMITED = {".csv": ",", ".tsv": "\t"}  # separators of the files that can be written, by ending
TOP = 3  # classes that are named per item
ITEMS_PER_WORKER = 128  # a process that reads images takes as long to start


class Predictor:
    """A finished run, loaded once, to predict any items: `Predictor("best").predict([{"title": "Lampe"}])`.

    `run`: the name or the folder of a run, or a folder that `kit export` wrote · `keep`: keep models in memory for the
    next items; False: load one fold's at a time. Raise KitError if it cannot predict.
    """

    def __init__(self, run: str | Path, keep: bool = True):
        self.source = open_source(run)
        with self._cache(self.source.exported):
            handles: dict[BackboneHandle, BackboneHandle] = {}
            self.members = [
                _Member(run, self.source.config(run), self.source.codes, handles, len(self.source.members) > 1, keep)
                for run in self.source.members
            ]
        self.stacker: Tempered | None = None
        if isinstance(ensemble := self.source.run, EnsembleRun):
            config = ensemble.config
            self.stacker = METHODS[config.method](config.seed).restore(read_arrays(ensemble.folder / STACKER))
        reads = {side for member in self.members for side in member.config.sides or ("text",)}
        self.sides = tuple(side for side in ("text", "image") if side in reads)

    def predict(self, items: Items, images: str | Path | None = None) -> pd.DataFrame:
        """Return one row per item, in order: its own id; `label`, `name` and `probability` of the most likely class,
        and `label_2`, … of the next ones; `problem`: what is wrong with the item.

        `items`: the path of a table, a frame, or dictionaries, whose columns `kit.data.new_items` lists; `images`: the
        folder in which their images' paths start. A label of a catalogue is its name; other names are those of
        classes.csv, if there is one. An image that is missing or unreadable counts as blank, as in training. A row
        with nothing that the run reads has no label.

        Warn if a table or a frame lacks columns of the run's catalogue: they count as empty. Raise KitError if the
        table cannot be read, or if it has no column that the run reads.
        """
        table, rows = self._predict(items, images)
        for sentence in tell_absent(rows) if isinstance(items, (str, Path, pd.DataFrame)) else []:
            warnings.warn(sentence, stacklevel=2)
        return table

    def _predict(self, items: Items, images: str | Path | None) -> tuple[pd.DataFrame, NewItems]:
        """Return what `predict` returns, and the rows that were read."""
        with self._cache(self.source.exported or not isinstance(items, (str, Path))):
            folder = None if images is None else Path(images)
            rows = read_new_items(items, self.source.description, folder, self.sides)
            frame = rows.frame
            able = frame["able"].to_numpy(bool)
            values = np.full((len(frame), len(self.source.codes)), np.nan)
            if able.any():
                values[able] = self.probabilities(frame[able].reset_index(drop=True))
        return self._table(frame, rows.key, values), rows

    def probabilities(self, frame: pd.DataFrame) -> np.ndarray:
        """Return the probabilities `[N, K]` of rows of `read_new_items`."""
        members = Bar(self.members, desc="members", leave=False, disable=len(self.members) == 1)
        cleaned = {flags: clean_items(frame, *flags) for flags in {member.cleaning for member in self.members}}
        values = np.stack([member.probabilities(cleaned[member.cleaning]) for member in members], axis=1)  # [N, M, K]
        return values[:, 0] if self.stacker is None else self.stacker.predict_proba(values)

    def _cache(self, private: bool) -> AbstractContextManager:
        """Return what keeps single items, and the use of an exported folder, from leaving files in the project."""
        return private_cache() if private else nullcontext()

    def _table(self, frame: pd.DataFrame, key: str, values: np.ndarray) -> pd.DataFrame:
        source, able = self.source, ~np.isnan(values[:, 0])
        columns: dict[str, Iterable] = {}
        order = np.argsort(-values, axis=1, kind="stable")[:, :TOP]
        for rank, places in enumerate(order.T):
            end = f"_{rank + 1}" if rank else ""
            codes = [source.codes[place] for place in places]
            names = pd.Series([source.names.get(code, str(code)) for code in codes], dtype=object).where(able, None)
            if source.description:
                columns[f"label{end}"] = names
            else:
                columns[f"label{end}"] = pd.Series(codes, dtype="Int64").where(able)
                if source.names:
                    columns[f"name{end}"] = names
            columns[f"probability{end}"] = values[np.arange(len(values)), places]
        columns["problem"] = ["; ".join(problem.words for problem in problems) for problems in frame["problems"]]
        return pd.DataFrame({"id" if key in columns else key: frame["key"], **columns})


class _Member:
    """One training, with the models of its folds.

    `handles`: backbones that other members read as well · `shares`: other members need the GPU, too, so its models
    leave it after use · `keep`: models stay in memory.
    """

    def __init__(
        self,
        run: TrainingRun,
        config: TrainConfig,
        codes: list[int],
        handles: dict[BackboneHandle, BackboneHandle],
        shares: bool,
        keep: bool,
    ):
        self.run, self.config, self.codes, self.shares, self.keep = run, config, codes, shares, keep
        self.together = keep  # the models of all folds predict at once, which reads the items once
        self.cleaning = config.clean_titles, config.clean_descriptions
        self.backbones = {side: handles.setdefault(one, one) for side, one in find_backbones(config).items()}
        self.light = self._load_light() if keep and config.system in LIGHT else None
        self.networks: dict[tuple, Classifier] = {}

    def probabilities(self, items: pd.DataFrame) -> np.ndarray:
        """Return the mean over folds of the probabilities `[N, K]`, rounded as in a file of predictions.

        `items`: with texts that are cleaned as in training.
        """
        folds = self._light(items) if self.config.system in LIGHT else self._networks(items)  # F × [N, K]
        return np.mean([values.astype(np.float32) for values in folds], axis=0, dtype=float)

    def _load_light(self) -> list:
        return light.load(self.run, self.backbones, PartialState().device)

    def _light(self, items: pd.DataFrame) -> list[np.ndarray]:
        device = PartialState().device
        inputs = light.read_inputs(self.config, self.codes, {"test": items}, self.backbones, device)["test"]
        return [model.predict_proba(inputs) for model in self.light or self._load_light()]

    def _networks(self, items: pd.DataFrame) -> list[np.ndarray]:
        workers = min(self.config.workers, len(items) // ITEMS_PER_WORKER)
        config = dataclasses.replace(self.config, workers=workers)
        while True:
            try:
                return self._predict(config, items)
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
                if self.together and config.folds > 1:
                    self.together = False
                elif parts := more_parts(config):
                    config = dataclasses.replace(config, accumulate=parts)  # smaller batches
                else:
                    raise KitError(f"There is too little memory to predict one item with {self.run.name!r}.") from error
            finally:
                if self.shares or not self.together:
                    for network in self.networks.values():
                        network.cpu()
                    clear_device_cache()

    def _predict(self, config: TrainConfig, items: pd.DataFrame) -> list[np.ndarray]:
        frames = {"test": items}
        accelerator = make_accelerator(config)
        products, build = prepare_items(config, self.codes, frames, accelerator, self.backbones)
        trained = Trained(self.run, config, self.codes, frames, products, accelerator, build)
        running = tuple(side.key for side in products["test"].sides.values())  # what a model computes, or is given

        def load(fold: int) -> Classifier:
            network = self.networks.get((fold, running)) or trained.model(fold)
            if self.keep:
                self.networks[fold, running] = network
            return network.to(accelerator.device)

        folds = range(config.folds)
        if self.together:
            return trained.probabilities([load(fold) for fold in folds], products["test"])
        probabilities = []
        for fold in folds:
            network = load(fold)
            probabilities += trained.probabilities([network], products["test"])
            network.cpu()
        return probabilities


def predict_table(run: str | Path, items: Path, images: Path | None, out: Path | None) -> str:
    """Predict a table and write the rows of `Predictor.predict` to `out`, in the format that its ending names (CSV, TSV
    or Parquet); return sentences about them. Without `out`, the file is <items>-predicted.csv in the working
    directory.

    Raise KitError as `Predictor` does, or if the file cannot be written, or is of another format.
    """
    out = out or Path.cwd() / f"{items.stem}-predicted.csv"
    if (ending := out.suffix.lower()) not in (*PARQUET, *DELIMITED):
        raise KitError(f"{out} must end in .csv, .tsv or .parquet, the formats that can be written: change -o.")
    if out.is_dir():
        raise KitError(f"{out} is a folder: choose a file with -o.")
    if out.resolve() == items.resolve():
        raise KitError(f"{out} is the table of the items: choose another file with -o.")
    try:  # before the models run, which may take hours
        out.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out.parent).close()
    except OSError as error:
        raise KitError(f"{out} cannot be written ({error}): choose another file with -o.") from error
    table, rows = Predictor(run, keep=False)._predict(items, images)

    def write(path: Path) -> None:
        if ending in PARQUET:
            table.to_parquet(path, index=False)
        else:
            table.to_csv(path, sep=DELIMITED[ending], index=False, float_format="%.8f")

    replaced = " (replaced)" * out.exists()
    write_atomically(out, write)
    without, noted = table["label"].isna().sum(), (table["problem"] != "").sum()
    counts = f", {noted:,} with a problem (see the column problem), {without:,} of these without a label" * bool(noted)
    told = tell_absent(rows)
    if not images and rows.folder != items.parent:
        told.append(f"Image paths start in {rows.folder}, as the catalogue's do; --images names another folder.")
    return "\n".join([f"{out}{replaced}: {len(table):,} items{counts}.", *told, *_tell_problems(rows)])


def tell_absent(rows: NewItems) -> list[str]:
    """Return sentences about columns of the catalogue that a table lacks."""
    sentences = []
    if rows.absent:
        sentences.append(
            f"The run also reads the {rows.absent}, absent from the table and taken as empty: rename the table's "
            f"columns if they have other names."
        )
    if rows.counted:
        sentences.append(f"The table has no {rows.counted} for the ids: its rows are counted from 1.")
    return sentences


def _tell_problems(rows: NewItems) -> list[str]:
    """Return a line per kind of problem, the most frequent first, with the first example."""
    examples: dict[str, str] = {}
    counts = Counter[str]()
    for key, problems in zip(rows.frame["key"], rows.frame["problems"], strict=True):
        counts.update({problem.kind for problem in problems})
        for problem in problems:
            examples.setdefault(problem.kind, f"such as item {key}: {problem.words}")
    where = {MISSING: f"; looked for under {rows.folder}: give the folder of the images with --images"}
    return [f"  {count:,} × {kind} ({examples[kind]}){where.get(kind, '')}" for kind, count in counts.most_common()]
