"""A member from elsewhere: what any other model predicts on the kit's folds, as a run that stacks like the others.

N items · K classes · F folds
"""

import time
from typing import Any

import numpy as np
import pandas as pd

from kit.config import OWN, train_config
from kit.core.exceptions import KitError, shorten
from kit.data.items import data_fingerprints, read_items
from kit.runs import TrainingRun, finished_trainings, open_run, prepare_run
from kit.training.summary import summarise_items


class OwnMember:
    """The items and folds on which a model of your own predicts, and the run that keeps what it says.

    `codes` `[K]`: the classes, in the order of the columns of probabilities · `train`, `test`: the items, with `id`,
    `title`, `description`, `image_path`; `train` has `label` and `fold`, the one in which an item validates (-1: it
    always trains), `test` has `split`.

    `run`: its name · `fields`: of `kit.config.train_config`; `data` and what makes the folds (`recipe`, or `folds`,
    `split`, `val_share`, `split_seed`, `limit`) must be as in the runs that it is stacked with. Raise KitError if the
    data or a field is at fault.
    """

    def __init__(self, run: str, **fields):
        self.config = train_config(**fields | {"run": run, "system": OWN})
        self.codes, self.frames = read_items(self.config)
        self.train, self.test = self.frames["train"], self.frames["test"]
        self._require_the_studys_folds()
        self._started = time.perf_counter()

    def _require_the_studys_folds(self) -> None:
        """Raise KitError if the study has a run on other folds, which this member could not be stacked with."""
        folds = self.train.set_index("id")["fold"]
        folds = folds[folds >= 0]
        for run in finished_trainings(self.config.study):
            if run.name == self.config.run:
                continue
            config, theirs = run.config, run.predictions("oof")[0].set_index("id")["fold"]
            if len(theirs) != len(folds) or (theirs != folds.reindex(theirs.index)).any():
                names = ("data", "limit", "folds", "split", "val_share", "split_seed")
                values = {name: getattr(config, name) for name in names}
                differ = [f"{name}={value!r}" for name, value in values.items() if value != getattr(self.config, name)]
                why = ", ".join(differ) or "other items"
                raise KitError(f"{run.name!r} of the study {config.study!r} has other folds ({why}): take the same.")

    def write(self, oof: np.ndarray, test: np.ndarray | None = None, again: bool = False) -> TrainingRun:
        """Write the probabilities as a finished run, and return it.

        `oof` `[N, K]`: of each row of `train`, from a model that did not learn from its fold (rows of fold -1 are not
        read) · `test`: of each row of `test`, `[N, K]`, or `[F, N, K]` by each fold's model; None if there are no such
        items · `again`: replace a run of that name. A frame whose columns are named after the codes, or whose rows
        have the items' ids, may be in any order.

        Raise KitError if these are no probabilities of these items, or if there is a run of that name.
        """
        scored = (self.train["fold"] >= 0).to_numpy()
        oof = self._as_array("oof", oof, self.train)
        test = np.zeros((0, len(self.codes))) if test is None else self._as_array("test", test, self.test)
        self._require("oof", oof, 2, len(self.train), scored)
        self._require("test", test, 3 if test.ndim == 3 else 2, len(self.test))
        if test.ndim == 3 and len(test) not in (1, self.config.folds):
            raise KitError(
                f"test has {len(test)} models' predictions: give those of {self.config.folds}, or their mean."
            )
        if open_run(self.config.run).finished and not again:
            raise KitError(f"There is a run {self.config.run!r}: choose another name, or replace it by again=True.")
        seconds = round(time.perf_counter() - self._started, 1)
        summary = {"system": OWN, "recipe": self.config.recipe, "seconds": seconds}
        summary |= summarise_items(self.frames, data_fingerprints(self.frames))
        folds = test if test.ndim == 3 else test[None]  # [F, N, K]
        run = prepare_run(self.config, again)
        with run.alone():
            run.write(self.codes, (self.train[scored], oof[scored]), (self.test, folds), summary)
        return run

    def _as_array(self, part: str, values: Any, items: pd.DataFrame) -> np.ndarray:
        """Return what `write` was given as numbers, with the rows and columns of a frame in the order of `items` and
        the codes. Raise KitError if they are no numbers, or if a frame has other names."""
        if isinstance(values, (list, tuple)) and any(isinstance(one, pd.DataFrame) for one in values):
            values = [self._as_array(part, one, items) for one in values]
        if isinstance(values, pd.DataFrame):
            plain = [pd.RangeIndex(len(names)) for names in (items, self.codes)]
            for axis, (names, what) in enumerate([(pd.Index(items["id"]), "ids"), (pd.Index(self.codes), "codes")]):
                given = values.axes[axis]
                if given.equals(plain[axis]):  # nothing is named
                    continue
                if given.is_unique and names.is_unique and {*given} == {*names}:
                    values = values.reindex(names, axis=axis)
                else:
                    raise KitError(
                        f"{part} is a frame whose {'columns' if axis else 'rows'} are named {shorten(given)}: name "
                        f"them after the {what} ({shorten(names)}), or pass an array."
                    )
        try:
            return np.asarray(values, dtype=float)
        except (TypeError, ValueError, RuntimeError) as error:  # torch raises the last
            why = " ".join(str(error).split())
            raise KitError(f"{part} is no array of numbers ({why}): pass probabilities as a NumPy array.") from None

    def _require(self, part: str, values: np.ndarray, axes: int, items: int, rows: Any = slice(None)) -> None:
        """Raise KitError if the values are not of so many axes and items, or those in `rows` are no probabilities."""
        if values.ndim != axes or values.shape[-2:] != (items, len(self.codes)):
            raise KitError(
                f"{part} has the shape {list(values.shape)}: it must have {items} rows, one per item in the order of "
                f"the frame, and {len(self.codes)} columns, one per code."
            )
        read = values[..., rows, :]
        if not (np.isfinite(read).all() and (read >= 0).all() and np.allclose(read.sum(-1), 1, atol=1e-3)):
            raise KitError(f"{part} has rows that are no probabilities: each must be at least 0, and their sum 1.")
