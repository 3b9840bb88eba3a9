"""The members of an ensemble: finished runs with their predictions aligned by id.

N items · M members · K classes
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kit.core.cache import fingerprint
from kit.core.exceptions import KitError, shorten
from kit.predictions import SAME_DATA, SAME_SPLIT, require_same_set, require_same_values
from kit.runs import EnsembleRun, TrainingRun, open_run, open_training, prediction_hashes


@dataclass(frozen=True, eq=False)
class Members:
    """Predictions of finished runs, with items in the order of the first run."""

    names: list[str]
    codes: list[int]
    items: pd.DataFrame  # id, label, fold, maybe group
    oof: np.ndarray  # [N, M, K] out-of-fold probabilities
    test_items: pd.DataFrame  # split, id, maybe FINGERPRINTS
    test: np.ndarray  # [N_test, M, K], the mean over a member's folds
    data: str | None  # fingerprint of the tables
    identity: str  # a hash of the members' predictions

    @property
    def labels(self) -> np.ndarray:
        """The true classes `[N]`, as positions in `codes`."""
        return pd.Index(self.codes).get_indexer(self.items["label"])

    @property
    def groups(self) -> np.ndarray | None:
        """The groups `[N]` that no split divides; None if the members were split at random."""
        return self.items["group"].to_numpy() if "group" in self.items else None

    @property
    def predicted(self) -> np.ndarray:
        """The members' most likely classes `[M, N]`, as positions in `codes`."""
        return self.oof.argmax(2).T


def read_members(names: Iterable[str]) -> Members:
    """Return the runs' predictions, aligned by id. Raise KitError, naming the run, if they do not fit together."""
    runs = open_members(names)
    items, oof = zip(*(run.read_oof() for run in runs), strict=True)
    test_items, test = zip(*(run.read_test() for run in runs), strict=True)
    known = test_items[0]
    for i in range(1, len(runs)):
        misfit = f"The run {runs[i].name!r} does not fit {runs[0].name!r}: "
        require_same_set(misfit + "it has other classes", oof[i].columns, oof[0].columns, SAME_DATA)
        require_same_set(misfit + "it was validated on other items", items[i].index, items[0].index, SAME_SPLIT)
        require_same_values(misfit, items[i].loc[items[0].index], items[0])
        require_same_set(misfit + "it predicts other test items", test[i].index, test[0].index, SAME_DATA)
        known = _merge_fingerprints(misfit, test_items[i].loc[known.index], known)
        if runs[i].summary.get("data") != runs[0].summary.get("data"):
            folders = " and ".join(run.config.data for run in (runs[i], runs[0]))
            raise KitError(f"{misfit}it read other texts (data: {folders}): {SAME_DATA}.")
    return Members(
        [run.name for run in runs],
        oof[0].columns.tolist(),
        items[0].reset_index(),
        np.stack([values.loc[oof[0].index, oof[0].columns].to_numpy() for values in oof], 1),
        known.reset_index(),
        np.stack([values.loc[test[0].index, oof[0].columns].to_numpy() for values in test], 1),
        runs[0].summary.get("data"),
        members_fingerprint(run.name for run in runs),
    )


def members_fingerprint(names: Iterable[str]) -> str:
    """Return a hash of the runs' predictions, which tells whether an ensemble of them is out of date."""
    return fingerprint(*prediction_hashes(names, "oof", "test"))


def is_current(run: EnsembleRun) -> bool:
    """Return whether the members of an ensemble exist and have not been trained again since."""
    names = run.config.members
    files = [open_run(name).folder / file for name in names for file in ("summary.json", "oof.parquet", "test.parquet")]
    return all(file.is_file() for file in files) and run.summary.get("members_identity") == members_fingerprint(names)


def open_members(names: Iterable[str]) -> list[TrainingRun]:
    """Return the runs, in order. Raise KitError if one is not a finished training, or has a teacher, or if there is
    none."""
    runs = [open_training(name) for name in dict.fromkeys(names)]
    for run in runs:
        if run.config.teacher:
            raise KitError(
                f"{run.name!r} was taught by {run.config.teacher!r}, which learned from labels of all folds: leave it "
                f"out of the members."
            )
    if not runs:
        raise KitError("members is empty: name two or more finished runs.")
    return runs


def _merge_fingerprints(misfit: str, theirs: pd.DataFrame, ours: pd.DataFrame) -> pd.DataFrame:
    """Return the fingerprints that either side knows. Raise KitError if they are of different products."""
    for name in theirs:
        known = ours[name] if name in ours else pd.Series("", theirs.index, dtype=object)
        differ = (known != theirs[name]) & (known != "") & (theirs[name] != "")
        if differ.any():
            ids = shorten(differ.index[differ].get_level_values("id"))
            raise KitError(
                f"{misfit}it predicts other products, {differ.sum()} of {len(differ)} under the same ids ({ids}): "
                f"train the older one again, with -p again True."
            )
        ours = ours.assign(**{name: known.where(known != "", theirs[name])})
    return ours


def member_backbones(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return text and image backbone by run name. Raise KitError if one is not a finished training run."""
    return {run.name: (run.config.text, run.config.image) for run in open_members(names)}


def both_wrong(members: Members) -> pd.DataFrame:
    """Return in per cent how many items two members both get wrong, `[M, M]`; the diagonal has their error rates."""
    wrong = (members.predicted != members.labels).astype(float)
    return pd.DataFrame(100 * wrong @ wrong.T / wrong.shape[1], members.names, members.names)
