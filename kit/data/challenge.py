"""Read a folder with items into checked frames: the challenge's, of either edition, or a catalogue of one's own."""

import filecmp
import hashlib
import os
import re
import warnings
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from kit.core.cache import fingerprint
from kit.core.exceptions import KitError, shorten
from kit.core.paths import resolve
from kit.data.catalogue import Description, read_catalogue, read_description, read_rows, tell_missing_images
from kit.data.duplicates import tell_common_texts
from kit.data.table import read_table
from kit.data.text import clean_text, compose


class Edition(NamedTuple):
    """One edition's files (lower-case patterns) and columns (lower-case name in the file → ours)."""

    sep: str
    train: str
    labels: str
    tests: dict[str, str]
    columns: dict[str, str]
    label_columns: dict[str, str]


KEYS = {"integer_id": "id", "image_id": "image_id", "product_id": "product_id"}
EDITIONS = {
    "challengedata": Edition(  # challengedata.ens.fr
        ",",
        "x_train*.csv",
        "y_train*.csv",
        {"test": "x_test*.csv"},
        {
            "": "id",
            "designation": "title",
            "description": "description",
            "imageid": "image_id",
            "productid": "product_id",
        },
        {"": "id", "prdtypecode": "label"},
    ),
    "sigir": Edition(  # SIGIR eCom 2020
        "\t",
        "x_train.tsv",
        "y_train.tsv",
        {f"task1_phase{n}": f"x_test_task1_phase{n}.tsv" for n in (1, 2)},
        KEYS | {"title": "title", "description": "description"},
        KEYS | {"prdtypecode": "label"},
    ),
}
IMAGE_NAME = re.compile(r"image_(\d+)_product_(\d+)\.(?:jpg|jpeg|png)", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Challenge:
    """One folder with items: frames of `id, title, description, image_path, fingerprint`, plus `label` in train.

    A missing description or image path is None, never "". `test` is keyed by split, and empty if there is no test file.
    `fingerprint` is a hash of the item's uncleaned texts and of its other ids, which the frames have too:
    `image_id` and `product_id`, or in a catalogue `key`, the user's own id. A catalogue's frames also have
    `image_paths`, all images of an item (None for one that is missing; `image_path` is the first that is not), and
    `class_fingerprint`, a hash of all labels; its train has `class`, the
    label that the code `label` is of.
    """

    edition: str
    train: pd.DataFrame
    test: dict[str, pd.DataFrame]
    names: dict[int, str]
    folder: Path
    description: Description | None = None  # of a catalogue
    images_per_item: float = 1.0  # mean number of images that a training item names

    @property
    def kind(self) -> str:
        """Return in words what the folder holds."""
        return "a catalogue of your own" if self.description else f"{self.edition} edition"

    @property
    def classes(self) -> list[int]:
        """Return the codes that occur in training, in ascending order."""
        return sorted(int(code) for code in self.train["label"].unique())

    @property
    def sides(self) -> tuple[str, ...]:
        """Return what the items have: text, image."""
        return _sides(self.description)

    @property
    def add_test(self) -> str:
        """Return in words how its owner adds the items to predict, or predicts others."""
        add = "describe it again with kit catalogue … --test" if self.description else "add it to the folder"
        return f"{add} and train again, or predict a table of new items with kit predict"


class _Source(NamedTuple):
    """What a folder holds, before the texts are cleaned: `image_names` names an item's images, paths may be None."""

    edition: str
    frames: dict[str, pd.DataFrame]  # train and the test splits
    tables: dict[str, Path]  # the file of each
    names: dict[int, str]
    images: dict[str, str]  # where the images of each are looked for, in words


def clean_items(frame: pd.DataFrame, clean_titles: bool, clean_descriptions: bool) -> pd.DataFrame:
    """Return the items with their texts cleaned, an empty description as None, and `fingerprint` added."""
    ids = [name for name in ("image_id", "product_id", "key") if name in frame]
    raw = frame[["title", "description", *ids]].itertuples(index=False, name=None)
    fingerprints = [_fingerprint(*values) for values in raw]
    titles = [clean_text(text, light=True) if clean_titles else compose(text) for text in frame["title"]]
    descriptions = [clean_text(text) if clean_descriptions else compose(text) for text in frame["description"]]
    return frame.assign(
        title=pd.Series(titles, dtype=object),  # object: keeps None under pandas 2 and 3 alike
        description=pd.Series([text if text.strip() else None for text in descriptions], dtype=object),
        fingerprint=fingerprints,
    )


def _fingerprint(title: str, description: str, *ids: int | str) -> str:
    """Return a hash that identifies a product, whatever the cleaning options and the line endings of its file."""
    parts = [" ".join(compose(text).split()) for text in (title, description)]
    return hashlib.blake2b("\n".join([*parts, *map(str, ids)]).encode(), digest_size=8).hexdigest()


def _add_labels(frame: pd.DataFrame, x_name: str, path: Path, edition: Edition) -> None:
    labels = read_table(path, edition.sep, edition.label_columns).set_index("id")
    ids, known = set(frame["id"]), set(labels.index)
    if ids != known:
        sides = {x_name: sorted(ids - known), path.name: sorted(known - ids)}
        only = " and ".join(f"{len(extra)} only in {name} ({shorten(extra)})" for name, extra in sides.items() if extra)
        raise KitError(
            f"{x_name} has {len(ids)} rows and {path.name} {len(known)}, with ids that differ: {only}; "
            "take both files from the same download."
        )
    labels = labels.loc[frame["id"]]
    for key in labels.columns.intersection(["image_id", "product_id"]):
        differ = labels[key].to_numpy() != frame[key].to_numpy()
        if differ.any():
            raise KitError(
                f"{path.name} and {x_name} disagree on {key} in {differ.sum()} rows "
                f"(id {shorten(frame['id'][differ])}); take both files from the same download."
            )
    frame["label"] = labels["label"].to_numpy()


def _list_folder(folder) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise KitError(
            f"{folder} cannot be listed ({error.strerror}); give the folder of the challenge or of your catalogue."
        ) from None


def _list_files(folder: Path) -> list[str]:
    return [entry.name for entry in _list_folder(folder) if os.path.isfile(entry.path)]  # a link may loop


def _find_file(folder: Path, files: list[str], pattern: str) -> Path | None:
    matches = [name for name in files if fnmatch(name.lower(), pattern)]
    if len(matches) > 1:
        raise KitError(f"{folder} has {len(matches)} candidates for {pattern}: {' and '.join(matches)}; keep one.")
    return folder / matches[0] if matches else None


def find_images(folder: Path) -> tuple[dict[tuple[int, int], list[str]], list[str]]:
    """Return the paths by (image id, product id), and the links to folders outside the challenge folder.

    Links to folders are not followed: a target inside the challenge folder is found by its own name, and nothing can
    loop. Warn of folders below it that cannot be listed.
    """
    images: dict[tuple[int, int], list[str]] = {}
    links: list[str] = []
    unread: list[str] = []
    todo = _list_folder(folder)
    while todo:
        entry = todo.pop()
        if entry.is_dir(follow_symlinks=False):
            try:
                todo += _list_folder(entry.path)
            except KitError:
                unread.append(entry.path)
        elif entry.is_symlink() and os.path.isdir(entry.path):
            if not Path(entry.path).resolve().is_relative_to(folder):
                links.append(os.path.relpath(entry.path, folder))
        elif (match := IMAGE_NAME.fullmatch(entry.name)) and (
            entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path)  # a broken link is a missing image
        ):
            images.setdefault((int(match[1]), int(match[2])), []).append(entry.path)
    if unread:
        sentence = f"{shorten(unread)} cannot be listed, so no images are found there: check the permissions."
        warnings.warn(sentence, stacklevel=2)
    return images, sorted(links)


def _add_images(frame: pd.DataFrame, split: str, path: Path, images: dict) -> None:
    words = ["train"] if split == "train" else ["test", *split.split("_")]

    def fits(name):  # of several folders with the same file name, prefer the one whose path names this split
        folder = os.path.relpath(os.path.dirname(name), path.parent).lower()
        return -sum(word in folder for word in words), name

    def best(names):
        first, *others = sorted(names, key=fits)
        for other in others:
            if fits(first)[0] == fits(other)[0] and not filecmp.cmp(first, other, shallow=False):
                both = " and ".join(os.path.relpath(name, path.parent) for name in (first, other))
                raise KitError(f"{path.name} has an item with two different images, {both}; remove the wrong one.")
        return first

    keys = list(zip(frame["image_id"], frame["product_id"], strict=True))
    candidates = [images.get(key, [None]) for key in keys]
    paths = [paths[0] if len(paths) == 1 else best(paths) for paths in candidates]
    frame["image_path"] = pd.Series(paths, dtype=object)
    frame["image_names"] = [("image_{}_product_{}.jpg".format(*key),) for key in keys]


def _require_images(frame: pd.DataFrame, name: str, where: str, policy: str, own: bool) -> None:
    if policy in ("require", "warn") and (sentence := tell_missing_images(frame, name, where, own)):
        if policy == "require":
            raise KitError(sentence)
        warnings.warn(sentence, stacklevel=3)


def read_names(folder) -> dict[int, str]:
    """Return the class names by code from the optional `classes.csv` (`code,name`); an empty dict without that file.

    Raise KitError if the file is damaged.
    """
    folder = resolve(folder)
    path = _find_file(folder, [entry.name for entry in _list_folder(folder)], "classes.csv")
    if path is None:
        return {}
    frame = read_table(path, ",", {"code": "code", "name": "name"})
    return {int(code): name.strip() or str(code) for code, name in zip(frame["code"], frame["name"], strict=True)}


def read_challenge(folder, clean_titles=True, clean_descriptions=True, images="require") -> Challenge:
    """Read and check a folder with items: of the challenge, whose file names, in upper or lower case, tell the edition,
    or a catalogue (`kit.data.catalogue`).

    Titles are cleaned lightly, descriptions fully (`clean_text`). `images` says what happens to a missing image: raise
    KitError ("require"), warn and leave None ("warn"), or leave None ("leave"); "ignore" looks for no images at all.
    Rows keep their order; labels are joined by id. Raise KitError if a file is missing or damaged.
    """
    if images not in (known := ("require", "warn", "leave", "ignore")):
        raise KitError(f"images is {images!r}; choose one of {', '.join(known)}.")
    folder = resolve(folder)
    description = None if not folder.is_dir() else read_description(folder)
    look = images != "ignore" and (description is None or "image" in description.sides)
    source = _read_edition(folder, look) if description is None else _read_own(description)
    several = source.frames["train"].get("image_paths")
    per_item = 1.0 if several is None else float(several.str.len().mean())
    frames = {}
    for split, raw in source.frames.items():
        if not look:
            blank = pd.Series([None] * len(raw), dtype=object)
            raw = raw.drop(columns="image_paths", errors="ignore").assign(image_path=blank)
        if look:
            _require_images(raw, source.tables[split].name, source.images[split], images, description is not None)
        frames[split] = clean_items(raw.drop(columns="image_names", errors="ignore"), clean_titles, clean_descriptions)
    return Challenge(source.edition, frames.pop("train"), frames, source.names, folder, description, per_item)


def _read_own(description: Description) -> _Source:
    frames, labels = read_catalogue(description)
    tables = {"train": Path(description.items), "test": Path(description.test)}
    for split, frame in frames.items():
        frames[split] = frame.assign(class_fingerprint=fingerprint(*labels))
    where = {split: str(description.image_folder(str(path))) for split, path in tables.items()}
    return _Source("catalogue", frames, tables, dict(enumerate(labels)), where)


def _read_edition(folder: Path, look: bool) -> _Source:
    """Return what a challenge folder holds. `look`: find the images. Raise KitError if a file is missing or damaged."""
    files = _list_files(folder)
    patterns = {name: [e.train, e.labels, *e.tests.values()] for name, e in EDITIONS.items()}
    present = [name for name in EDITIONS if any(fnmatch(file.lower(), p) for file in files for p in patterns[name])]
    if len(present) != 1:
        wrong = "files of both editions" if present else f"no challenge files (only {shorten(files) or 'folders'})"
        raise KitError(
            f"{folder} has {wrong}; give a folder with either X_train*.csv and Y_train*.csv "
            "(challengedata) or X_train.tsv and Y_train.tsv (sigir), or describe your own table with kit catalogue."
        )
    edition = EDITIONS[present[0]]
    matches = {pattern: path for pattern in patterns[present[0]] if (path := _find_file(folder, files, pattern))}
    if absent := [p.capitalize() for p in (edition.train, edition.labels) if p not in matches]:
        raise KitError(f"{folder} lacks {' and '.join(absent)} ({present[0]} edition); download it into that folder.")
    paths = {"train": matches[edition.train]}
    paths |= {split: matches[p] for split, p in edition.tests.items() if p in matches}
    frames = {split: _read_items(path, edition) for split, path in paths.items()}
    _add_labels(frames["train"], paths["train"].name, matches[edition.labels], edition)
    names, where = read_names(folder), str(folder)
    if look:
        images, links = find_images(folder)
        where += f" (not followed: {shorten(links)}, a link that leaves the folder)" if links else ""
        for split, frame in frames.items():
            _add_images(frame, split, paths[split], images)
    return _Source(present[0], frames, paths, names, dict.fromkeys(paths, where))


def _read_items(path: Path, edition: Edition) -> pd.DataFrame:
    frame = read_table(path, edition.sep, edition.columns)
    if empty := [i for i, text in zip(frame["id"], frame["title"], strict=True) if not clean_text(text, light=True)]:
        raise KitError(f"{path.name} has an empty title in {len(empty)} rows (id {shorten(empty)}); fill them in.")
    return frame[["id", "title", "description", "image_id", "product_id"]]


def read_test_keys(challenge: Challenge, split: str) -> list:
    """Return what a test file has now in the column that identifies its items. Raise KitError if the file is gone or
    damaged."""
    if (description := challenge.description) is not None:
        return read_rows(description.test, description)["key"].tolist()
    edition = EDITIONS[challenge.edition]
    files = _list_files(challenge.folder)
    if (path := _find_file(challenge.folder, files, edition.tests[split])) is None:
        raise KitError(f"{challenge.folder} no longer has {edition.tests[split]}; put the test file back.")
    return read_table(path, edition.sep, edition.columns)["id"].tolist()


def read_sides(folder) -> tuple[str, ...]:
    """Return what the items of a folder have, text, image or both, without reading its tables. Raise KitError if the
    description of a catalogue is damaged."""
    return _sides(read_description(resolve(folder)))


def _sides(description: Description | None) -> tuple[str, ...]:
    return ("text", "image") if description is None else description.sides


def summarise(folder: Path) -> str:
    """Return what a catalogue holds, in sentences for its owner, who knows by `describe` which images are missing.

    Raise KitError as `read_challenge` does.
    """
    challenge = read_challenge(folder, images="leave")
    train, test = challenge.train, sum(len(frame) for frame in challenge.test.values())
    parts = [f"{challenge.folder}: {len(train):,} items of {len(challenge.classes)} classes, {test:,} to predict."]
    counts = train["class"].value_counts()
    if len(few := counts.index[counts < 2]):
        parts.append(f"Training needs two items per class: {shorten(few)} has one; add items or remove those rows.")
    spellings = Counter(label.casefold() for label in counts.index)
    if cased := sorted(label for label in counts.index if spellings[label.casefold()] > 1):
        parts.append(f"Labels that differ only in case are classes of their own: {shorten(cased)}; write each one way.")
    if "image_paths" in train and (several := (counts := train["image_paths"].str.len()) > 1).any():
        parts.append(f"{several.sum():,} items have several images, at most {counts.max()}: all of them count.")
    return "\n".join([*parts, *tell_common_texts(train)])
