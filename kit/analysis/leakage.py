"""What a split that parts near-duplicates does to a score.

N items
"""

import numpy as np
import pandas as pd

from kit.core.console import Bar
from kit.core.exceptions import KitError
from kit.data.folds import holdout, subset
from kit.data.text import product_texts
from kit.metrics import bootstrap_macro_f1, macro_f1
from kit.training.tfidf import tfidf_model


def count_duplicates(kinds: pd.DataFrame, labels: pd.Series, validates: np.ndarray) -> pd.DataFrame:
    """By kind of twin: how many there are, and what the split `validates` `[N]` (True or False) leaks through them.

    `items` in groups of two or more, `groups`, `largest` group; the share of validation items that have a twin to train
    on (`leak`), and how often that twin's label (the most frequent of several) is the right one (`label right`).
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
    columns = ["kind of twin", "items", "groups", "largest", "leak", "label right"]
    return pd.DataFrame(rows, columns=columns).set_index("kind of twin")


def overstatement(
    train: pd.DataFrame, groups: np.ndarray, val_share: float = 0.2, seed: int = 0, limit: int = 20_000
) -> dict[str, float]:
    """How much a random split overstates the macro-F1 of a model on words (`word_model`), with a 95 % interval.

    The model learns twice and is scored on the same validation items, those of the paper's split: once without as many
    other items as they have twins, class by class, once without the twins; so only the twins differ. Whole groups `[N]`
    are drawn until there are about `limit` items (0: all). What copying from an image gives is not in it. Raises
    KitError where too little is left.
    """
    validates = holdout(train["label"], val_share, seed)
    first = np.unique(groups, return_index=True)[1]
    drawn = first[subset(train["label"].iloc[first], round(limit * len(first) / len(train)), seed)]
    drawn = np.isin(groups, groups[drawn])
    labels, texts = train["label"].to_numpy()[drawn], np.array(product_texts(train), object)[drawn]
    groups, validates = groups[drawn], validates[drawn]

    twins = ~validates & np.isin(groups, groups[validates])
    others = _as_many(labels, twins, ~validates & ~twins, seed)
    true, predicted = labels[validates], []
    for left_out in Bar((others, twins), desc="models on words", leave=False):
        chosen = ~validates & ~left_out
        if not len(true) or len(set(labels[chosen])) < 2:
            raise KitError("Without twins too few items are left to measure on: use more items or a larger limit.")
        predicted.append(tfidf_model().fit(texts[chosen], labels[chosen]).predict(texts[validates]))
    with_twins, without = (macro_f1(true, codes) for codes in predicted)
    low, high = bootstrap_macro_f1(true, *predicted)
    items = {"training": int(chosen.sum()), "validation": int(validates.sum()), "twins": int(twins.sum())}
    return items | {"with": with_twins, "without": without, "gain": with_twins - without, "low": low, "high": high}


def _as_many(labels: np.ndarray, wanted: np.ndarray, of: np.ndarray, seed: int) -> np.ndarray:
    """A mask `[N]` of as many items at random among `of` as there are `wanted` of each class, or all of them."""
    shuffled = pd.Series(labels)[of].sample(frac=1, random_state=seed)
    counts = shuffled.map(pd.Series(labels[wanted]).value_counts()).fillna(0)
    return np.isin(np.arange(len(labels)), shuffled.index[shuffled.groupby(shuffled).cumcount() < counts])
