"""Which training items train and which validate."""

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from kit.config import KitError


def holdout(labels: pd.Series, share: float, seed: int) -> np.ndarray:
    """The paper's split: True `[N]` at the stratified random `share` of the items that validate.

    A class of few items may have none among them. Raises KitError where a class would have none to train on.
    """
    counts = labels.value_counts()
    if len(counts) < 2:
        raise KitError(f"All {len(labels)} training items are of one class: there is nothing to classify.")
    if counts.min() < 2:
        few = ", ".join(str(code) for code in counts.index[counts < 2])
        raise KitError(
            f"Class {few} has one training item, which can't be on both sides of a split: add items or drop it."
        )
    size = round(share * len(labels))
    if size < len(counts) or len(labels) - size < len(counts):
        raise KitError(
            f"{len(labels)} training items are too few for {len(counts)} classes with {size} of them on one side of a "
            f"split: use more items, or another limit or val_share."
        )
    _, chosen = train_test_split(np.arange(len(labels)), test_size=size, random_state=seed, stratify=labels)
    mask = np.zeros(len(labels), bool)
    mask[chosen] = True
    if lost := set(labels) - set(labels[~mask]):
        raise KitError(
            f"No item of class {min(lost)} is left to train on with val_share={share}: take a smaller share."
        )
    return mask


def subset(labels: pd.Series, limit: int, seed: int) -> np.ndarray:
    """Positions of a stratified random choice of `limit` items, in their order; all where limit is 0 or no less.

    Each class keeps its share, but at least two items. Raises KitError where `limit` is too small for that.
    """
    if not 0 < limit < len(labels):
        return np.arange(len(labels))
    if limit < 2 * labels.nunique():
        raise KitError(f"limit={limit} is too small for {labels.nunique()} classes: each needs two items or more.")
    shuffled = pd.Series(labels.to_numpy()).sample(frac=1, random_state=seed)
    groups = shuffled.groupby(shuffled)
    rank = groups.cumcount()  # within the class
    order = (rank / groups.transform("size")).where(rank >= 2, 0.0).sort_values(kind="stable")
    return np.sort(order.index[:limit].to_numpy())
