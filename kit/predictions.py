"""Prediction files: one column `p_<code>` per class, checked when read.

N items · K classes · F folds
"""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from kit.core.exceptions import KitError, shorten
from kit.core.files import TRAIN_AGAIN

PROBABILITY = re.compile(r"p_(-?[0-9]+)")  # the column of a class
# hashes of an item: of its texts and ids, and in a catalogue of all labels (`kit.data.challenge`), and of its image
# file's contents ("" if not read)
FINGERPRINTS = ("fingerprint", "class_fingerprint", "image_fingerprint")
SAME_DATA = "train both on the same data, cleaned alike (see config.json in both folders)"
SAME_SPLIT = "train both with the same limit, folds, split, val_share and split_seed (see config.json in both folders)"


def probabilities(codes: list[int], values: np.ndarray) -> pd.DataFrame:
    """Return values `[N, K]` as columns `p_<code>`."""
    return pd.DataFrame(values.astype(np.float32), columns=[f"p_{code}" for code in codes])


def read_probabilities(path: Path, wanted: Iterable[str]) -> tuple[pd.DataFrame, list[int], np.ndarray]:
    """Return the items of a prediction file without their probabilities, the class codes, and the probabilities
    `[N, K]`.

    Raise KitError if the file is damaged, lacks a column of `wanted`, has no classes, or has values that are not
    probabilities.
    """
    try:
        frame = pd.read_parquet(path, page_checksum_verification=True)
        columns = [name for name in frame if PROBABILITY.fullmatch(str(name))]
        values = frame[columns].to_numpy(np.float32)
    except (OSError, ValueError, TypeError) as error:  # pyarrow's errors are ValueErrors
        raise KitError(f"{path} cannot be read ({error}): {TRAIN_AGAIN}.") from error
    if not columns or any(name not in frame for name in wanted):
        raise KitError(f"{path} lacks one of {', '.join(wanted)} and p_<code>: {TRAIN_AGAIN}.")
    wrong = ~(np.isfinite(values).all(1) & (values >= 0).all(1) & (np.abs(values.sum(1) - 1) < 1e-3))
    if wrong.any():
        what = f"{wrong.sum()} rows that are not finite probabilities with sum 1 (id {shorten(frame['id'][wrong])})"
        raise KitError(f"{path} has {what}: {TRAIN_AGAIN}.")
    items = frame.drop(columns=columns).reset_index(drop=True)  # the file keeps the index of a shuffled frame
    return items, [int(name[2:]) for name in columns], values


def read_test(path: Path, wanted: Iterable[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the test items of a prediction file, and the mean over folds of each one's probabilities.

    The items have `split`, `id` and those FINGERPRINTS that the file has ("" if unknown); the means are indexed by
    `split` and `id`, with the codes as columns. Without a column `split` or `fold`, all rows count as one unnamed split
    and one fold. Raise KitError as `read_probabilities` does, or if an item is repeated or lacks a fold.
    """
    items, codes, values = read_probabilities(path, wanted)
    keys = pd.DataFrame({"split": None, "fold": 0} | dict(items.items()), columns=["split", "id", "fold"])
    if (again := keys.duplicated()).any():
        raise KitError(f"{path} repeats id {shorten(keys['id'][again].unique())}: {TRAIN_AGAIN}.")
    folds = pd.DataFrame(values, columns=codes, dtype=float).groupby(
        [keys["split"], keys["id"]], sort=False, dropna=False
    )
    if folds.size().nunique() > 1:
        raise KitError(f"{path} has some items in more folds than others: {TRAIN_AGAIN}.")
    means = folds.mean()
    predicted = means.index.to_frame(index=False)[["split", "id"]]
    first = items.drop_duplicates([name for name in ("split", "id") if name in items])  # in the order of `means`
    for name in (name for name in FINGERPRINTS if name in items):
        predicted[name] = first[name].fillna("").to_numpy()
    return predicted, means


def require_same_set(misfit: str, theirs: pd.Index, ours: pd.Index, advice: str) -> None:
    """Raise KitError, beginning with `misfit` and ending with `advice`, if two runs' ids or codes are not the same."""
    sides = {"more": theirs.difference(ours), "missing": ours.difference(theirs)}
    differences = [f"{len(values)} {side} ({shorten(values)})" for side, values in sides.items() if len(values)]
    if differences:
        raise KitError(f"{misfit}, {' and '.join(differences)}: {advice}.")


def require_same_values(misfit: str, theirs: pd.DataFrame, ours: pd.DataFrame) -> None:
    """Raise KitError, beginning with `misfit`, if items in the same order differ in label or fold."""
    for column, advice in {"label": SAME_DATA, "fold": SAME_SPLIT}.items():
        wrong = ours.index[theirs[column] != ours[column]]
        if len(wrong):
            values = f"{theirs[column][wrong[0]]} and {ours[column][wrong[0]]}"
            raise KitError(f"{misfit}the {column} of id {shorten(wrong)} differs ({values} for the first): {advice}.")
