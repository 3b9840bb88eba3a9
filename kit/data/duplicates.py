"""Near-duplicates: items that share a file, a picture or a text.

N items
"""

import re
import unicodedata

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from kit.data.images import inspect_images
from kit.data.text import product_texts

# Of 256 bits. Of the sample's pictures, saved again at another size or quality, 95 % stay within 4 bits (a third or
# more within none); of its different pictures one pair comes that close, a face with another mouth. The usual hash of
# 64 bits takes flags of the same stripes in other colours for one picture. Copies of pictures without detail, whose
# fine bits are noise, are found less often.
RADIUS = 4


def duplicate_kinds(frame: pd.DataFrame, looks: pd.DataFrame | None = None) -> pd.DataFrame:
    """Group numbers `[N]` by kind of twin; the column `any` joins items that are linked by several kinds in turn.

    `same file`: byte-identical images · `same picture`: perceptual hashes at most RADIUS bits apart · `same text`:
    title and description but for case, punctuation and white space. Groups are numbered by first appearance; an item
    without an image, or with an unreadable one, shares none. `looks`: what `look_at` gave, where it was asked already.
    """
    looks = inspect_images(frame["image_path"].tolist()) if looks is None else looks
    texts = pd.Series(map(_plain, product_texts(frame)))
    keys = {"same file": looks["bytes"], "same picture": _pictures(looks["perceptual"])}
    kinds = {kind: _number(values) for kind, values in (keys | {"same text": texts}).items()}
    return pd.DataFrame(kinds | {"any": _join(*kinds.values())}, index=frame.index)


def duplicate_groups(frame: pd.DataFrame, looks: pd.DataFrame | None = None) -> np.ndarray:
    """Group number `[N]` of each item: alike for twins of any kind, and for twins of twins (`twin_kinds`)."""
    return duplicate_kinds(frame, looks)["any"].to_numpy()


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
