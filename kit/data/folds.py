"""Which training items train and which validate."""

import warnings

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold, train_test_split

from kit.core.exceptions import KitError


def holdout(labels: pd.Series, share: float, seed: int) -> np.ndarray:
    """Return the paper's split as a mask `[N]`: True for the stratified random `share` of the items that validate.

    A small class may have no validation item. Raise KitError if a class would have no training item.
    """
    counts = _count(labels)
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


def assign_folds(
    labels: pd.Series, folds: int = 1, val_share: float = 0.2, seed: int = 0, groups: np.ndarray | None = None
) -> np.ndarray:
    """Return the fold `[N]` in which each item validates; -1: it always trains. Every fold keeps the class shares.

    One fold is `holdout`; more are scikit-learn's stratified k folds. With `groups` `[N]`, the members of a group
    validate together, and a single fold has about `val_share` of the items. Raise KitError if a fold would have no
    items, or a class no training item.
    """
    if folds == 1 and groups is None:
        return holdout(labels, val_share, seed).astype(int) - 1
    largest, units = int(_count(labels).max()), labels.size if groups is None else len(np.unique(groups))
    most = min(largest, units)
    parts = validating = folds
    if folds == 1:  # the fewest equal parts of which some add up to val_share within 3 %
        fits = (n for n in range(2, most + 1) if abs(round(val_share * n) / n - val_share) <= 0.03 * val_share)
        parts = next(fits, most + 1)
        validating = round(val_share * parts)
    if parts > most:
        setting = f"folds={folds}" if folds > 1 else f"val_share={val_share}"
        few = "items of the largest class" if most == largest else "groups of duplicates"
        other = "" if most == largest else "-p split random, or "
        other += "fewer folds" if folds > 1 else "another share"
        raise KitError(f"{setting} needs more than the {most} {few}: take {other}, or use more items.")
    fold = split_evenly(labels, parts, seed, groups)
    fold = np.where(fold < validating, 0 if folds == 1 else fold, -1)
    _check(labels, fold, folds)
    return fold


def split_evenly(labels: pd.Series, parts: int, seed: int, groups: np.ndarray | pd.Series | None = None) -> np.ndarray:
    """Return the part `[N]`, 0 … parts-1, of each item of a random split by scikit-learn.

    Classes keep their shares in every part, if any class has several items, and a group is never in two parts.
    """
    splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    if labels.value_counts().max() == 1:
        splitter = KFold if groups is None else GroupKFold
    part = np.empty(len(labels), int)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")  # callers check what matters of it
        splits = splitter(parts, shuffle=True, random_state=seed).split(labels, labels, groups)
        for number, (_, rows) in enumerate(splits):
            part[rows] = number
    return part


def split_up_to(parts: int, labels: pd.Series, seed: int, groups: np.ndarray | pd.Series | None = None) -> np.ndarray:
    """Return `split_evenly` into `parts` parts, or into fewer if no class has so many items, or there are fewer groups;
    one part, all 0, if not even two are possible."""
    largest = labels.value_counts().max()
    units = len(labels) if groups is None else len(np.unique(groups))
    parts = int(min(parts, units, largest if largest > 1 else parts))
    return split_evenly(labels, parts, seed, groups) if parts > 1 else np.zeros(len(labels), int)


def named_labels(items: pd.DataFrame) -> pd.Series:
    """Return the items' classes as their owner calls them, so that the errors here do."""
    return items["class"] if "class" in items else items["label"]


def _check(labels: pd.Series, fold: np.ndarray, folds: int) -> None:
    """Raise KitError if a fold has no items, or a class no training item. Only groups can cause this."""
    remedy = "take fewer folds, -p split random, or" if folds > 2 else "take -p split random, or"
    for i in range(folds):
        if not (fold == i).any():
            raise KitError(f"Fold {i} has no item to validate: {remedy} use more items.")
        if lost := set(labels) - set(labels[fold != i]):
            raise KitError(
                f"All items of class {min(lost)} validate in fold {i}, and none is left to train on: {remedy} drop it."
            )


def _count(labels: pd.Series) -> pd.Series:
    """Return the number of items per class. Raise KitError if no split is possible."""
    counts = labels.value_counts()
    if len(counts) < 2:
        raise KitError(f"All {len(labels)} training items are of one class: there is nothing to classify.")
    if counts.min() < 2:
        few = ", ".join(str(code) for code in counts.index[counts < 2])
        raise KitError(
            f"Class {few} has only one training item, which can't be on both sides of a split: add items or drop it."
        )
    return counts


def stratified_sample(labels: pd.Series, limit: int, seed: int) -> np.ndarray:
    """Return the positions of a stratified random sample of `limit` items, in their order; all if `limit` is 0 or is
    not smaller than their number.

    Each class keeps its share, and at least two items. Raise KitError if `limit` is too small for that.
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
