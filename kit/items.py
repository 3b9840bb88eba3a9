"""The items of a run: which train, which validate in which fold, which are predicted."""

import hashlib

import pandas as pd

from kit.challenge import read_challenge
from kit.config import TrainConfig
from kit.folds import assign, subset
from kit.twins import twin_groups


def read_items(config: TrainConfig) -> tuple[list[int], dict[str, pd.DataFrame]]:
    """The class codes in the order of the model's outputs, and the frames `train` and `test`.

    `train` has the column `fold`, in which each item validates (-1: it always trains), and with a grouped split
    `group`, alike for twins. `test` has the rows of every test file, told apart by `split`. Raises KitError.
    """
    images = "require" if "image" in config.sides or config.split == "grouped" else "ignore"
    challenge = read_challenge(config.data, config.clean_titles, config.clean_descriptions, images)
    items = challenge.train.iloc[subset(challenge.train["label"], config.limit, config.split_seed)]
    items = items.reset_index(drop=True)
    if config.split == "grouped":
        items["group"] = twin_groups(items)
    groups = items.get("group")
    items["fold"] = assign(
        items["label"],
        config.folds,
        config.val_share,
        config.split_seed,
        None if groups is None else groups.to_numpy(),
    )
    tests = [frame.assign(split=split) for split, frame in challenge.test.items()]
    test = pd.concat(tests) if tests else items[:0].assign(split="")
    return challenge.classes, {"train": items, "test": test.reset_index(drop=True)}


def fingerprint(frames: dict[str, pd.DataFrame]) -> str:
    """A hash of what a run sees of the tables: ids, texts, labels and their order."""
    digest = hashlib.sha256()
    for frame in frames.values():
        columns = frame[[name for name in ("id", "title", "description", "label") if name in frame]]
        digest.update(pd.util.hash_pandas_object(columns.astype(str), index=False).to_numpy().tobytes())
    return digest.hexdigest()[:16]
