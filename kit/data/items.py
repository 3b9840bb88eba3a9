"""The items of a run: which train, which validate in which fold, which are predicted."""

import numpy as np
import pandas as pd
import pyarrow as pa
import sklearn

from kit.config import TrainConfig
from kit.core.cache import content_hashes, fingerprint, get_or_compute
from kit.data.challenge import Challenge, read_challenge
from kit.data.duplicates import RADIUS, duplicate_groups
from kit.data.folds import assign_folds, subset
from kit.data.images import check_images
from kit.data.text import product_texts
from kit.runs import Run


def read_items(config: TrainConfig) -> tuple[list[int], dict[str, pd.DataFrame]]:
    """The class codes in the order of the model's outputs, and the frames `train` and `test`.

    `train` has the column `fold`, in which each item validates (-1: it always trains), and with a grouped split
    `group`, alike for twins. `test` has the rows of every test file, told apart by `split`, with FINGERPRINTS. Where
    images are read, the column `blank` says why an item has none: "missing", "corrupt: …", or "" where it has. Raises
    KitError.
    """
    shown = "image" in config.sides or config.split == "grouped"
    images = "ignore" if not shown else "require" if config.missing == "error" else "leave"
    challenge = read_challenge(config.data, config.clean_titles, config.clean_descriptions, images)
    items = challenge.train.iloc[subset(challenge.train["label"], config.limit, config.split_seed)]
    items = items.reset_index(drop=True)
    tests = [frame.assign(split=split) for split, frame in challenge.test.items()]
    test = pd.concat(tests, ignore_index=True) if tests else items[:0].assign(split="")
    if shown:
        looks = check_images([items, test], config.corrupt)
        if "image" in config.sides:
            test["image_fingerprint"] = looks[1]["bytes"].fillna("")
    how = (config.folds, config.val_share, config.split_seed)
    if config.split == "grouped":
        items["group"], items["fold"] = _split_grouped(items, looks[0], how)
    else:
        items["fold"] = assign_folds(items["label"], *how)
    return challenge.classes, {"train": items, "test": test}


def _split_grouped(items: pd.DataFrame, looks: pd.DataFrame, how: tuple[int, float, int]) -> np.ndarray:
    """Group and fold of each item, `[2, N]`; kept, for on the challenge's items they take half a minute."""

    def compute(_) -> list[np.ndarray]:
        groups = duplicate_groups(items, looks)
        return [np.concatenate([groups, assign_folds(items["label"], *how, groups)])]

    seen = (product_texts(items), looks["bytes"].tolist(), looks["perceptual"].tolist(), items["label"].tolist())
    key = fingerprint(repr((how, RADIUS, sklearn.__version__)), *(fingerprint(*map(str, column)) for column in seen))
    return get_or_compute("folds", [key], pa.list_(pa.int32()), compute)[0].values.to_numpy().astype(int).reshape(2, -1)


def data_fingerprints(frames: dict[str, pd.DataFrame]) -> dict[str, str]:
    """A hash of each thing that a training sees of its data, by name."""
    train, found = frames["train"], {}
    for name, columns in {"ids": ["id"], "texts": ["title", "description"], "labels": ["label"]}.items():
        parts = [frame[column] for frame in frames.values() for column in columns if column in frame]
        found[name] = fingerprint(*(part.to_json() for part in parts))
    found["folds"] = fingerprint(train["fold"].to_json())
    if "blank" in train:
        found["images"] = fingerprint(
            *(found for f in frames.values() for found in content_hashes(list(f["image_path"])))
        )
    return found


def challenge_of(run: Run, data: str = "", images: str = "warn") -> Challenge:
    """The challenge folder that a run was trained on, cleaned as it was; `data`: where it is now, if it has moved.
    Raises KitError."""
    config = run.config
    return read_challenge(data or config.data, config.clean_titles, config.clean_descriptions, images)
