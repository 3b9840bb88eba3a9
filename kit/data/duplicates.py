"""Near-duplicates: items that share an image file, a similar image, a title or a text.

N items
"""

import re
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from kit.data.images import inspect_items, item_images
from kit.data.text import product_texts

# Of 256 bits. When the images of data/emoji are saved again at another size or quality, 95 % stay within 4 bits (a
# third or more within 0); only one pair of its different images comes that close, a face with another mouth. The usual
# 64-bit hash cannot tell apart flags with the same stripes in other colours. Copies of images without detail are found
# less often, because their fine bits are noise.
RADIUS = 4
# A title, a text or an image that so many items have, and more than this share of all, stands for one that is missing.
# The largest group of one title in data/shop has 23 of 626 items (3.7 %).
COMMON, COMMON_SHARE = 20, 0.05


def duplicate_kinds(frame: pd.DataFrame, inspected: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return group numbers `[N]` per kind of duplicate; the column `any` merges groups that share an item.

    `same file`: byte-identical images · `similar image`: perceptual hashes at most RADIUS bits apart · `same title` and
    `same text` (title and description): ignoring case, punctuation and white space. Groups are numbered by first
    appearance. Items with several images are linked if any is shared. An item without a readable image shares none,
    and no text is not a text. What at least COMMON items and more than COMMON_SHARE of all have links none: warn of it.
    `inspected`: the result of `inspect_items`, if it is known already.
    """
    inspected = inspect_items(item_images(frame)) if inspected is None else inspected
    files, looks = (_each(inspected[name]) for name in ("bytes", "perceptual"))
    keys = {"same file": files, "similar image": _cluster_hashes(looks)} | _text_keys(frame)
    for sentence in _tell_common(frame, keys):
        warnings.warn(sentence, stacklevel=2)
    kinds = {
        kind: _link(values[~values.isin(_common(values, len(frame)).index)], len(frame))
        for kind, values in keys.items()
    }
    return pd.DataFrame(kinds | {"any": _merge_groups(*kinds.values())}, index=frame.index)


def tell_common_texts(frame: pd.DataFrame) -> list[str]:
    """Return a sentence per title or text that too many items have to link them."""
    return _tell_common(frame, _text_keys(frame))


def _text_keys(frame: pd.DataFrame) -> dict[str, pd.Series]:
    """Return the normalized titles and texts `[N]`, None for an empty one."""
    columns = {"same title": frame["title"], "same text": product_texts(frame)}
    return {kind: pd.Series([_normalize(text) or None for text in texts]) for kind, texts in columns.items()}


def _common(keys: pd.Series, size: int) -> pd.Series:
    """Return the number of items per key that too many of all `size` items have. `keys`: as in `_link`."""
    counts = pd.DataFrame({"item": keys.index, "key": keys.to_numpy()}).drop_duplicates()["key"].value_counts()
    return counts[(counts >= COMMON) & (counts > COMMON_SHARE * size)]


def _tell_common(frame: pd.DataFrame, keys: dict[str, pd.Series]) -> list[str]:
    """Return a sentence per title, text or image that too many items have to link them."""
    sentences: dict[str, str] = {}
    for kind, values in keys.items():
        for key, count in _common(values, len(frame)).items():
            first = values.index[values == key][0]
            if kind in ("same title", "same text"):
                what = kind.removeprefix("same ")
                shown = frame["title"].iloc[first] if what == "title" else product_texts(frame.iloc[[first]])[0]
            else:
                path = item_images(frame)[first][values.loc[[first]].tolist().index(key)]
                what, shown = "image", Path(path or "").name
            shown = shown if len(shown) <= 60 else f"{shown[:60]}…"
            sentence = f"{count:,} of {len(frame):,} items have the {what} {shown!r}: it is no sign of duplicates."
            sentences.setdefault(shown, sentence)
    return list(sentences.values())


def duplicate_groups(frame: pd.DataFrame, inspected: pd.DataFrame | None = None) -> np.ndarray:
    """Return the group number `[N]` of each item: the same for duplicates of any kind, and for their duplicates."""
    return duplicate_kinds(frame, inspected)["any"].to_numpy()


def _normalize(text: str) -> str:
    """Return the text without case, punctuation and runs of white space, but with accents; if nothing is left, return
    it unchanged."""
    return re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", text).casefold()).strip() or text


def _renumber(keys) -> np.ndarray:
    """Return keys `[N]` as numbers by first appearance; each missing key gets a number of its own."""
    codes = pd.factorize(keys)[0]
    return pd.factorize(np.where(codes < 0, len(codes) + np.arange(len(codes)), codes))[0]


def _each(hashes: pd.Series) -> pd.Series:
    """Return the hashes of an item's images, one row per image, with the item's row as index; None without any."""
    return hashes.reset_index(drop=True).str.split(" ").explode().replace("", None)


def _link(keys: pd.Series, size: int) -> np.ndarray:
    """Return group numbers `[size]`: the same for items that share a key. `keys`: any number per item, by its row."""
    keys = keys.dropna()
    links = np.stack([keys.index.to_numpy(), size + pd.factorize(keys)[0]])
    return _renumber(_components(links, size + keys.nunique())[:size])


def _cluster_hashes(hashes: pd.Series) -> pd.Series:
    """Return a key per perceptual hash `[N]`: the same if a chain of hashes, each within RADIUS bits of the next, links
    them."""
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


def _merge_groups(*numbers: np.ndarray) -> np.ndarray:
    """Return group numbers `[N]` that link rows if any of the numberings `[N]` does, directly or through other rows."""
    size = len(numbers[0])
    links = [(np.arange(size), size * (i + 1) + number) for i, number in enumerate(numbers)]  # rows to their groups
    return _renumber(_components(np.hstack(links), size * (len(numbers) + 1))[:size])


def _components(links: np.ndarray, size: int) -> np.ndarray:
    """Return the component number `[size]` of each node of the graph with these links `[2, …]`."""
    graph = coo_matrix((np.ones(links.shape[1], bool), tuple(links)), shape=(size, size))
    return connected_components(graph, directed=False)[1]
