"""The items of a run: which train, which validate in which fold, which are predicted."""

import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import sklearn

from kit.config import OWN, SYSTEMS, TrainConfig
from kit.core.cache import fingerprint, get_or_compute
from kit.core.exceptions import KitError, shorten
from kit.data.challenge import Challenge, read_challenge
from kit.data.duplicates import COMMON, COMMON_SHARE, RADIUS, duplicate_groups
from kit.data.folds import assign_folds, named_labels, stratified_sample
from kit.data.images import check_images, image_hashes, inspect_items, item_images
from kit.data.text import product_texts
from kit.runs import Run

COLUMNS = ("id_columns", "text_columns", "image_columns")  # of `train`: what a catalogue's columns were called


def read_items(config: TrainConfig) -> tuple[list[int], dict[str, pd.DataFrame]]:
    """Return the class codes in the order of the model's outputs, and the frames `train` and `test`.

    `train` has the column `fold`, in which each item validates (-1: it always trains), and with a grouped split
    `group`, the same for duplicates; of a catalogue also COLUMNS, the names of the columns that the run reads
    (`Description.record`). `test` has the rows of every test file, distinguished by `split`. Both have FINGERPRINTS. If
    images are read, the column `blank` says why an item has none: "missing", "corrupt: …", or "" if it has one
    (`kit.data.images:check_images`). Raise KitError if the data is damaged, or too small for the split.
    """
    reads_images = "image" in config.sides or config.split == "grouped" or config.system == OWN
    images = "ignore" if not reads_images else "require" if config.missing == "error" else "leave"
    challenge = read_challenge(config.data, config.clean_titles, config.clean_descriptions, images)
    _require_sides(config, challenge)
    reads_images = reads_images and "image" in challenge.sides
    items = challenge.train.iloc[stratified_sample(named_labels(challenge.train), config.limit, config.split_seed)]
    items = items.reset_index(drop=True)
    tests = [frame.assign(split=split) for split, frame in challenge.test.items()]
    test = pd.concat(tests, ignore_index=True) if tests else items[:0].assign(split="")
    if own := challenge.description:
        items = items.assign(**{f"{part}_columns": own.record(part) for part in ["id", *needed_sides(config.system)]})
    if reads_images:
        inspected = check_images([items, test], config.corrupt)
        if "image" in config.sides:
            for frame, looked_at in zip((items, test), inspected, strict=True):
                frame["image_fingerprint"] = looked_at["bytes"].fillna("")
    settings = (config.folds, config.val_share, config.split_seed)
    if config.split == "grouped":
        looked_at = inspected[0] if reads_images else inspect_items(item_images(items))
        items["group"], items["fold"] = _split_grouped(items, looked_at, settings)
    else:
        items["fold"] = assign_folds(named_labels(items), *settings)
    return challenge.classes, {"train": items, "test": test}


def check_data(config: TrainConfig) -> Challenge:
    """Return a run's challenge, uncleaned and without images. Raise KitError if its tables are damaged, or do not have
    what its system reads."""
    challenge = read_challenge(config.data, clean_titles=False, clean_descriptions=False, images="ignore")
    _require_sides(config, challenge)
    return challenge


def needed_sides(system: str) -> set[str]:
    """Return what items must have for a system: text, image. TF-IDF reads the text, though without a backbone."""
    return set() if system == OWN else set(SYSTEMS[system] or ("text",))


def _require_sides(config: TrainConfig, challenge: Challenge) -> None:
    """Raise KitError if the system reads texts or images that a catalogue does not have."""
    for side in needed_sides(config.system) - set(challenge.sides):
        (other,) = challenge.sides
        instead = f"logistic_{other} (or {other}{', or tfidf' * (other == 'text')})"
        raise KitError(
            f"{challenge.folder} was described without {side}s, which system={config.system!r} reads: pass -p system "
            f"{instead}, or describe it again with the columns of its {side}s."
        )


def _split_grouped(
    items: pd.DataFrame, inspected: pd.DataFrame, settings: tuple[int, float, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the group and the fold of each item, `[N]` each; cached, because the challenge's items take half a minute.

    `settings`: folds, val_share and split_seed.
    """

    def compute(_) -> list[np.ndarray]:
        groups = duplicate_groups(items, inspected)
        return [np.concatenate([groups, assign_folds(named_labels(items), *settings, groups)])]

    hashes = (inspected["bytes"].tolist(), inspected["perceptual"].tolist())
    seen = (items["title"], product_texts(items), *hashes, items["label"].tolist())
    key = fingerprint(
        repr((settings, RADIUS, COMMON, COMMON_SHARE, sklearn.__version__)),
        *(fingerprint(*map(str, column)) for column in seen),
    )
    split = get_or_compute("folds", [key], pa.list_(pa.int32()), compute)[0].values.to_numpy().astype(int)
    groups, fold = split.reshape(2, -1)
    folds, val_share, _ = settings
    size = round(len(items) * (val_share if folds == 1 else 1 / folds))
    if (largest := np.bincount(groups).max()) > size:
        warnings.warn(
            f"{largest:,} of the {len(items):,} training items are linked as duplicates, more than the {size:,} of a "
            f"fold: the folds differ in size; look at them in 01_eda, or pass -p split random.",
            stacklevel=3,
        )
    return groups, fold


def data_fingerprints(frames: dict[str, pd.DataFrame]) -> dict[str, str]:
    """Return a hash of each part of the data that a training uses, by name, and a catalogue's columns as they are."""
    train, fingerprints = frames["train"], {}
    for name, columns in {
        "ids": ["id", "key"],
        "texts": ["title", "description"],
        "labels": ["label", "class"],
    }.items():
        parts = [frame[column] for frame in frames.values() for column in columns if column in frame]
        fingerprints[name] = fingerprint(*(part.to_json() for part in parts))
    fingerprints["folds"] = fingerprint(train["fold"].to_json())
    fingerprints |= {name: train[name].iloc[0] for name in COLUMNS if name in train}  # in words: predicting reads them
    if "blank" in train:
        hashes = [value for frame in frames.values() for value in image_hashes(frame)]
        fingerprints["images"] = fingerprint(*hashes)
    return fingerprints


def tables_fingerprint(fingerprints: dict[str, str]) -> str:
    """Return one hash of ids, texts and labels, from `data_fingerprints`; runs that share it fit together."""
    return fingerprint(*(fingerprints[name] for name in ("ids", "texts", "labels")))


def changed_items(predicted: pd.DataFrame, train: pd.DataFrame) -> np.ndarray:
    """Return which `[N]` of the items that a run predicted out of fold are gone now or have another text, label or
    set of labels. Texts and the set are compared if the run recorded their fingerprints.
    """
    now = train.set_index("id").reindex(predicted["id"])
    names = ["label", *(name for name in ("fingerprint", "class_fingerprint") if name in predicted and name in now)]
    return np.any([now[name].to_numpy() != predicted[name].to_numpy() for name in names], axis=0)


def require_same_data(run: Run, fingerprints: dict[str, str], advice: str) -> None:
    """Raise KitError, ending with `advice`, if a finished run learned from other data than `data_fingerprints` saw."""
    seen = run.summary.get("outline", {})
    if changed := [name for name in seen if fingerprints.get(name) != seen[name]]:
        raise KitError(f"The data changed since the run {run.name!r} was trained ({', '.join(changed)}): {advice}.")


def require_same_items(run: Run, predicted: pd.DataFrame, challenge: Challenge) -> None:
    """Raise KitError if training items that a run `predicted` out of fold have changed (`changed_items`) or have other
    images now."""
    if (changed := changed_items(predicted, challenge.train)).any():
        raise KitError(
            f"{challenge.folder} has changed since the run {run.name!r} was trained on it: {changed.sum()} of the "
            f"run's items are gone or have another text, label or set of labels (id "
            f"{shorten(predicted['id'][changed])}); train again with -p again True, or restore the table."
        )
    if (changed := changed_images(predicted, challenge.train.set_index("id").loc[predicted["id"]])).any():
        raise KitError(
            f"{changed.sum()} of the training items of {challenge.folder} have other images than when the run "
            f"{run.name!r} was trained on them (id {shorten(predicted['id'][changed])}); train again with -p again "
            f"True, or put back the images."
        )


def changed_images(predicted: pd.DataFrame, items: pd.DataFrame) -> np.ndarray:
    """Return which `[N]` of a run's items have other images now; `items`: the same, in the same order, as they are.

    An image that was blank, or is missing now, is not compared, nor are those of a run that read none.
    """
    if "image_fingerprint" not in predicted or not items["image_path"].notna().any():
        return np.zeros(len(items), bool)
    pairs = zip(predicted["image_fingerprint"].fillna(""), image_hashes(items), strict=True)
    return np.array([_differ(old.split(" "), new.split(" ")) for old, new in pairs], bool)


def _differ(old: list[str], new: list[str]) -> bool:
    """Return whether the hashes of an item's images are of others, "" for one that is missing."""
    if not (any(old) and any(new)):
        return False
    return len(old) != len(new) or any(a != b for a, b in zip(old, new, strict=True) if a and b)


def challenge_of(run: Run, data: str = "", images: str = "") -> Challenge:
    """Return the challenge folder that a run was trained on, cleaned in the same way.

    `data`: its path, if it has moved · `images`: as in `read_challenge`; empty: warn of missing ones, unless the run
    took white ones instead. Raise KitError as `read_challenge` does.
    """
    config = run.config
    images = images or ("leave" if getattr(config, "missing", "") == "blank" else "warn")
    return read_challenge(data or config.data, config.clean_titles, config.clean_descriptions, images)
