"""Files of predictions: one column `p_<code>` per class, checked when they are read.

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
# of a test item: of its texts and ids (`kit.data.challenge`), and of its image file's contents; "" if that was not
# read
FINGERPRINTS = ("fingerprint", "image_fingerprint")


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
        raise KitError(f"{path} cannot be read ({error}): {TRAIN_AGAIN}.") from error
    if not columns or any(name not in frame for name in wanted):
        raise KitError(f"{path} lacks one of {', '.join(wanted)} and p_<code>: {TRAIN_AGAIN}.")
    wrong = ~(np.isfinite(values).all(1) & (values >= 0).all(1) & (np.abs(values.sum(1) - 1) < 1e-3))
    if wrong.any():
        what = f"{wrong.sum()} rows that are not finite probabilities with sum 1 (id {shorten(frame['id'][wrong])})"
        raise KitError(f"{path} has {what}: {TRAIN_AGAIN}.")
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
        raise KitError(f"{path} repeats id {shorten(keys['id'][again].unique())}: {TRAIN_AGAIN}.")
    folds = pd.DataFrame(values, columns=codes, dtype=float).groupby(
        [keys["split"], keys["id"]], sort=False, dropna=False
    )
    if folds.size().nunique() > 1:
        raise KitError(f"{path} has some items in more folds than others: {TRAIN_AGAIN}.")
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
