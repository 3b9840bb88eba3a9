"""Twins: items that share a file, a picture or a text, and what a split that parts them does to a score.

N items
"""

import re
import unicodedata

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from kit.challenge import product_texts
from kit.config import KitError
from kit.console import Bar
from kit.folds import holdout, subset
from kit.metrics import bootstrap_macro_f1, macro_f1
from kit.pictures import look_at
from kit.words import word_model

# Of 256 bits. Of the sample's pictures, saved again at another size or quality, 95 % stay within 4 bits (a third or
# more within none); of its different pictures one pair comes that close, a face with another mouth. The usual hash of
# 64 bits takes flags of the same stripes in other colours for one picture. Copies of pictures without detail, whose
# fine bits are noise, are found less often.
RADIUS = 4


def twin_kinds(frame: pd.DataFrame, looks: pd.DataFrame | None = None) -> pd.DataFrame:
    """Group numbers `[N]` by kind of twin; the column `any` joins items that are linked by several kinds in turn.

    `same file`: byte-identical images · `same picture`: perceptual hashes at most RADIUS bits apart · `same text`:
    title and description but for case, punctuation and white space. Groups are numbered by first appearance; an item
    without an image, or with an unreadable one, shares none. `looks`: what `look_at` gave, where it was asked already.
    """
    looks = look_at(frame["image_path"].tolist()) if looks is None else looks
    texts = pd.Series(map(_plain, product_texts(frame)))
    keys = {"same file": looks["bytes"], "same picture": _pictures(looks["perceptual"])}
    kinds = {kind: _number(values) for kind, values in (keys | {"same text": texts}).items()}
    return pd.DataFrame(kinds | {"any": _join(*kinds.values())}, index=frame.index)


def twin_groups(frame: pd.DataFrame, looks: pd.DataFrame | None = None) -> np.ndarray:
    """Group number `[N]` of each item: alike for twins of any kind, and for twins of twins (`twin_kinds`)."""
    return twin_kinds(frame, looks)["any"].to_numpy()


def _plain(text: str) -> str:
    """Without case, punctuation and runs of white space, but with its accents; a text of nothing else stays."""
    return re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", text).casefold()).strip() or text


def _number(keys) -> np.ndarray:
    """Keys `[N]` as numbers by first appearance; a missing key is shared with nobody."""
    codes = pd.factorize(keys)[0]
    return pd.factorize(np.where(codes < 0, len(codes) + np.arange(len(codes)), codes))[0]


def _pictures(hashes: pd.Series) -> pd.Series:
    """Perceptual hashes `[N]` as keys, alike where a chain of hashes at most RADIUS bits apart joins them."""
    if hashes.isna().all():
        return hashes
    different = pd.Series(hashes.dropna().unique())
    values = np.array([list(bytes.fromhex(value)) for value in different], np.uint8)
    links, width = [], -(-len(different[0]) // (RADIUS + 1))
    for i in range(RADIUS + 1):  # hashes at most RADIUS bits apart are equal in one of RADIUS + 1 pieces
        piece = pd.DataFrame({"row": range(len(different)), "piece": different.str[i * width : (i + 1) * width]})
        pairs = piece.merge(piece, on="piece").query("row_x < row_y")[["row_x", "row_y"]].to_numpy().T
        links.append(pairs[:, np.bitwise_count(values[pairs[0]] ^ values[pairs[1]]).sum(1) <= RADIUS])
    return hashes.map(dict(zip(different, _components(np.hstack(links), len(different)), strict=True)))


def _join(*numbers: np.ndarray) -> np.ndarray:
    """Group numbers `[N]` of the rows that any of the numberings `[N]` links, in turn too."""
    size = len(numbers[0])
    links = [(np.arange(size), size * (i + 1) + number) for i, number in enumerate(numbers)]  # rows to their groups
    return _number(_components(np.hstack(links), size * (len(numbers) + 1))[:size])


def _components(links: np.ndarray, size: int) -> np.ndarray:
    """Component number `[size]` of each node of the graph with these links `[2, …]`."""
    graph = coo_matrix((np.ones(links.shape[1], bool), tuple(links)), shape=(size, size))
    return connected_components(graph, directed=False)[1]


def count_twins(kinds: pd.DataFrame, labels: pd.Series, validates: np.ndarray) -> pd.DataFrame:
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
        predicted.append(word_model().fit(texts[chosen], labels[chosen]).predict(texts[validates]))
    with_twins, without = (macro_f1(true, codes) for codes in predicted)
    low, high = bootstrap_macro_f1(true, *predicted)
    items = {"training": int(chosen.sum()), "validation": int(validates.sum()), "twins": int(twins.sum())}
    return items | {"with": with_twins, "without": without, "gain": with_twins - without, "low": low, "high": high}


def _as_many(labels: np.ndarray, wanted: np.ndarray, of: np.ndarray, seed: int) -> np.ndarray:
    """A mask `[N]` of as many items at random among `of` as there are `wanted` of each class, or all of them."""
    shuffled = pd.Series(labels)[of].sample(frac=1, random_state=seed)
    counts = shuffled.map(pd.Series(labels[wanted]).value_counts()).fillna(0)
    return np.isin(np.arange(len(labels)), shuffled.index[shuffled.groupby(shuffled).cumcount() < counts])
