"""What near-duplicates in training are worth to a score, and which items have some.

N items
"""

import numpy as np
import pandas as pd

from kit.core.console import Bar
from kit.core.exceptions import KitError
from kit.data.duplicates import duplicate_groups
from kit.data.folds import holdout, named_labels, split_up_to, stratified_sample
from kit.data.text import product_texts
from kit.metrics import bootstrap_macro_f1, macro_f1
from kit.training.tfidf import tfidf_model

VALIDATED = 0.2  # of the items that the paper's split validates


def random_split(train: pd.DataFrame, seed: int = 0) -> np.ndarray:
    """Return the paper's split (`holdout`) as a mask `[N]`, True for the items that validate, also if classes are too
    small for it: then a class's only item trains, and the others are split as evenly as they can be."""
    labels, mask = named_labels(train), np.zeros(len(train), bool)
    several = labels.duplicated(keep=False).to_numpy()
    try:
        mask[several] = holdout(labels[several], VALIDATED, seed)
    except KitError:
        if labels.nunique() < 2:
            raise
        mask[several] = split_up_to(round(1 / VALIDATED), labels[several], seed) == 0
    return mask


def known_items(train: pd.DataFrame, test: pd.DataFrame) -> np.ndarray:
    """Return a mask `[N]` of the test items: True if the item has a duplicate among the training items."""
    groups = duplicate_groups(pd.concat([train, test], ignore_index=True))
    return np.isin(groups[len(train) :], groups[: len(train)])


def count_duplicates(kinds: pd.DataFrame, labels: pd.Series, validates: np.ndarray) -> pd.DataFrame:
    """Count the duplicates of each kind, and measure what the split `validates` `[N]` (a mask) leaks through them.

    `items` in groups of two or more, `groups`, `largest` group; the share of validation items that have a duplicate in
    training (`leak`), and how often that duplicate's label (the most frequent of several) is correct (`label right`).
    """
    labels, rows = labels.to_numpy(), []
    for kind, groups in kinds.items():
        sizes = groups.value_counts()
        sizes = sizes[sizes > 1]
        pairs = pd.DataFrame({"group": groups[~validates].to_numpy(), "label": labels[~validates]})
        often = pairs.value_counts().reset_index().sort_values(["count", "label"], ascending=[False, True])
        copied = groups[validates].map(often.drop_duplicates("group").set_index("group")["label"])
        leaks = copied.notna().to_numpy()
        right = (copied == labels[validates])[leaks].mean()
        rows.append([kind, sizes.sum(), len(sizes), sizes.max() if len(sizes) else 1, leaks.mean(), right])
    columns = ["kind of duplicate", "items", "groups", "largest", "leak", "label right"]
    return pd.DataFrame(rows, columns=columns).set_index("kind of duplicate")


def measure_leakage(train: pd.DataFrame, groups: np.ndarray, seed: int = 0, limit: int = 20_000) -> dict[str, float]:
    """Measure what a random split gains from duplicates: macro-F1 of a TF-IDF model (`tfidf_model`), with a 95 %
    interval.

    The model is trained twice and scored on the same validation items, those of `random_split`: once without their
    duplicates, and once without equally many other items of the same classes. So the runs differ in the duplicates
    alone. Whole groups `[N]` are drawn until there are about `limit` items (0: all). The gain from copying images is
    not measured. All values are 0 if no item has a text. Raise KitError if too few items are left.
    """
    if not any(product_texts(train)):
        return dict.fromkeys(("training", "validation", "duplicates", "with", "without", "gain", "low", "high"), 0)
    validates = random_split(train, seed)
    first = np.unique(groups, return_index=True)[1]
    drawn = first[stratified_sample(named_labels(train).iloc[first], round(limit * len(first) / len(train)), seed)]
    drawn = np.isin(groups, groups[drawn])
    labels, texts = train["label"].to_numpy()[drawn], np.array(product_texts(train), object)[drawn]
    groups, validates = groups[drawn], validates[drawn]

    duplicates = ~validates & np.isin(groups, groups[validates])
    others = _draw_as_many(labels, duplicates, ~validates & ~duplicates, seed)
    true, predicted = labels[validates], []
    for left_out in Bar((others, duplicates), desc="TF-IDF models", leave=False):
        chosen = ~validates & ~left_out
        if not len(true) or len(set(labels[chosen])) < 2:
            raise KitError("Too few items are left without the duplicates: use more items or a larger limit.")
        predicted.append(tfidf_model().fit(texts[chosen], labels[chosen]).predict(texts[validates]))
    with_duplicates, without = (macro_f1(true, codes) for codes in predicted)
    low, high = bootstrap_macro_f1(true, *predicted, groups=groups[validates])
    items = {"training": chosen, "validation": validates, "duplicates": duplicates}
    scores = {"with": with_duplicates, "without": without, "gain": with_duplicates - without, "low": low, "high": high}
    return {name: int(mask.sum()) for name, mask in items.items()} | scores


def _draw_as_many(labels: np.ndarray, wanted: np.ndarray, pool: np.ndarray, seed: int) -> np.ndarray:
    """Return a mask `[N]` of random items of `pool`: per class as many as are `wanted`, or all if there are fewer."""
    shuffled = pd.Series(labels)[pool].sample(frac=1, random_state=seed)
    counts = shuffled.map(pd.Series(labels[wanted]).value_counts()).fillna(0)
    return np.isin(np.arange(len(labels)), shuffled.index[shuffled.groupby(shuffled).cumcount() < counts])
