"""The items of a run: which train, which validate in which fold, which are predicted."""

import functools

import numpy as np
import pandas as pd
import pyarrow as pa
import sklearn

from kit.cache import content_hashes, digest, recall
from kit.challenge import product_texts, read_challenge
from kit.config import KitError, TrainConfig, few
from kit.folds import assign, subset
from kit.pictures import look_at
from kit.runs import Run, write_atomically
from kit.twins import RADIUS, twin_groups


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
        items["fold"] = assign(items["label"], *how)
    return challenge.classes, {"train": items, "test": test}


def _split_grouped(items: pd.DataFrame, looks: pd.DataFrame, how: tuple[int, float, int]) -> np.ndarray:
    """Group and fold of each item, `[2, N]`; kept, for on the challenge's items they take half a minute."""

    def compute(_) -> list[np.ndarray]:
        groups = twin_groups(items, looks)
        return [np.concatenate([groups, assign(items["label"], *how, groups)])]

    seen = (product_texts(items), looks["bytes"].tolist(), looks["perceptual"].tolist(), items["label"].tolist())
    key = digest(repr((how, RADIUS, sklearn.__version__)), *(digest(*map(str, column)) for column in seen))
    return recall("folds", [key], pa.list_(pa.int32()), compute)[0].values.to_numpy().astype(int).reshape(2, -1)


def check_images(frames: list[pd.DataFrame], corrupt: str) -> list[pd.DataFrame]:
    """Adds the column `blank` to frames with an `image_path`, which is set to None where the file is no image; gives
    what `look_at` found of each.

    `corrupt`: "blank" allows that, "error" does not, "few" does for one in a hundred. Raises KitError.
    """
    ends = np.cumsum([len(frame) for frame in frames])[:-1]
    paths = [path for frame in frames for path in frame["image_path"]]
    looks = look_at(paths)
    bad = [
        f"{path} ({why.removeprefix('corrupt: ')})"
        for path, why in zip(paths, looks["blank"], strict=True)
        if path and why
    ]
    there = sum(path is not None for path in paths)
    parts = [looks.iloc[rows].reset_index(drop=True) for rows in np.split(np.arange(len(looks)), ends)]
    for frame, part in zip(frames, parts, strict=True):
        frame["blank"] = part["blank"]
        frame.loc[frame["blank"] != "", "image_path"] = None
    if len(bad) > {"error": 0, "few": there // 100, "blank": there}[corrupt]:
        raise KitError(
            f"{len(bad)} of the {there} images can't be read: {few(bad, 3)}; replace the files, or "
            f"train with white pictures in their place: -p corrupt blank."
        )
    return parts


def outline(frames: dict[str, pd.DataFrame]) -> dict[str, str]:
    """A hash of each thing that a training sees of its data, by name."""
    train, found = frames["train"], {}
    for name, columns in {"ids": ["id"], "texts": ["title", "description"], "labels": ["label"]}.items():
        parts = [frame[column] for frame in frames.values() for column in columns if column in frame]
        found[name] = digest(*(part.to_json() for part in parts))
    found["folds"] = digest(train["fold"].to_json())
    if "blank" in train:
        found["images"] = digest(*(found for f in frames.values() for found in content_hashes(list(f["image_path"]))))
    return found


def tell_blanks(run: Run, frames: dict[str, pd.DataFrame]) -> None:
    """Lists the items that have no readable image in the run's blank.csv, and prints how many there are."""
    tables = [frame.assign(part=part) for part, frame in frames.items() if "blank" in frame]
    if not tables or (found := pd.concat(tables).query("blank != ''")).empty:
        return
    path = run.folder / "blank.csv"
    table = found[["part", "id", "blank"]].rename(columns={"blank": "why"})
    write_atomically(path, functools.partial(table.to_csv, index=False))
    print(f"{len(table)} items have a white picture, for want of a readable one: {path} lists them", flush=True)


def describe_items(frames: dict[str, pd.DataFrame], outlined: dict[str, str]) -> dict:
    """What summary.json says of them: their outline; `data`, a hash of ids, texts and labels; and how many have no
    readable image, for each reason."""
    blank = [why.partition(":")[0] for frame in frames.values() for why in frame.get("blank", ()) if why]
    return {
        "data": digest(*(outlined[name] for name in ("ids", "texts", "labels"))),
        "outline": outlined,
        "blank": {why: blank.count(why) for why in ("missing", "corrupt")},
    }
