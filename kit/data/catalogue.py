"""Catalogues of one's own: any table, described by the names of its columns and read in place.

A folder with `catalogue.json` is a catalogue. The file says which columns mean what and where the tables and images
are; nothing is copied.
"""

import dataclasses
import difflib
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from kit.core.exceptions import KitError, shorten
from kit.core.files import write_atomically, write_json
from kit.core.paths import resolve
from kit.data.images import first_images
from kit.data.table import PARQUET, PLAIN_NUMBER, WHOLE_NUMBER, read_delimited

FILE = "catalogue.json"
UNKNOWN = {"", "nan", "none", "null", "<na>", "n/a", "#n/a"}  # what programs write for a label that is not known
SEVERAL = "|"  # between the images of one cell
Table: TypeAlias = str | Path | pd.DataFrame  # a path, or a frame in memory
DESCRIBE = "describe the catalogue again with kit catalogue"


@dataclass(frozen=True)
class Description:
    """What catalogue.json holds: absolute paths, and the names of columns. "" or no names: there is none."""

    items: str  # table of the labelled items
    label: str
    title: str = ""
    text: tuple[str, ...] = ()  # joined in this order, without the empty ones
    image: tuple[str, ...] = ()
    id: str = ""
    test: str = ""  # table of the items to predict
    images: str = ""  # folder in which the images' paths start; "": that of the table

    @classmethod
    def of(cls, content: dict[str, Any]) -> "Description":
        """Return the description that JSON wrote, where tuples are lists. Raise TypeError if it is none."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        return cls(**values)

    @property
    def sides(self) -> tuple[str, ...]:
        """Return what the items have: text, image."""
        return ("text",) * bool(self.title or self.text) + ("image",) * bool(self.image)

    @property
    def key(self) -> str:
        """Return the name under which predictions give an item's own id."""
        return self.id or ("row" if self.label != "row" else "row_number")

    def image_folder(self, table: str) -> Path:
        """Return the folder in which the paths of that table's images start."""
        return Path(self.images) if self.images else Path(table).parent


def describe(
    items: Table,
    *,
    label: str,
    title: str = "",
    text: Sequence[str] = (),
    image: Sequence[str] = (),
    id: str = "",
    test: Table | None = None,
    images: str | Path | None = None,
    out: str | Path | None = None,
) -> Path:
    """Check a catalogue, write its description into the folder `out`, and return that folder.

    `items`, `test`: the path of a CSV, TSV or Parquet file, which stays where it is, or a pandas frame, which is
    written to the folder. `images`: the folder in which the images' paths start, by default that of the table. `out`:
    by default data/<name of the file>. Raise KitError if the tables do not have those columns, or other faults.
    """
    if out is None and isinstance(items, pd.DataFrame):
        raise KitError("A frame has no name: pass out= the folder for its description, such as data/mine.")
    folder = resolve(Path("data", Path(items).stem) if out is None else out)
    if others := [path.name for path in folder.glob("[XxYy]_*") if path.suffix in (".csv", ".tsv")]:
        raise KitError(f"{folder} holds files of the challenge ({shorten(others)}); choose another folder for --out.")
    tables = {"items": items} if test is None else {"items": items, "test": test}
    paths = {
        name: str(folder / f"{name}.parquet" if isinstance(table, pd.DataFrame) else resolve(table))
        for name, table in tables.items()
    }
    start = "" if images is None else str(resolve(images))
    description = Description(
        **paths, label=label, title=title, text=tuple(text), image=tuple(image), id=id, images=start
    )
    _check_columns(description)
    if start and not Path(start).is_dir():
        raise KitError(f"{start} is not a folder; give --images the folder in which the images' paths start.")
    frames = {name: table for name, table in tables.items() if isinstance(table, pd.DataFrame)}
    read_catalogue(description, frames)
    for name, frame in frames.items():
        texts = Rows(frame, description, [label] if name == "items" else []).texts
        write_atomically(Path(paths[name]), pd.DataFrame(texts).to_parquet)
    write_json(folder / FILE, dataclasses.asdict(description))
    return folder


def _check_columns(description: Description) -> None:
    """Raise KitError if nothing describes the items, or if a column has two meanings."""
    if not description.sides:
        raise KitError("A catalogue needs a text or an image per item: name columns with --title, --text or --image.")
    if not description.label:
        raise KitError("A catalogue needs the column of the classes to learn: name it with --label.")
    columns = [description.title, *description.text, *description.image, description.label]
    twice = [name for name, count in Counter(columns).items() if name and count > 1]
    if twice or description.id == description.label:
        raise KitError(
            f"The column {(twice or [description.id])[0]!r} is named twice; give each column one meaning, because a "
            f"model must not read the label."
        )


def read_description(folder: Path) -> Description | None:
    """Return the description of a catalogue's folder, None if it is no catalogue. Raise KitError if it is damaged."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        return Description.of(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise KitError(f"{path} cannot be read ({error}); {DESCRIBE}.") from error


def read_catalogue(description: Description, tables: dict | None = None) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Return the frames `train` and, if there is a test table, `test`, and the labels in the order of their codes.

    The frames are those of `read_rows`; `train` also has `label` (a code) and `class` (the label itself). `tables`: the
    frames `items` and `test`, if they have not been written yet. Raise KitError if a table is at fault.
    """
    given = {"items": description.items, "test": description.test} | (tables or {})
    rows = Rows(given["items"], description, [description.label])
    frames, texts = {"train": rows.frame()}, rows.texts[description.label]
    known = _check_labels(rows, texts, description)
    frames["train"]["label"] = [known[text] for text in texts]
    frames["train"]["class"] = pd.Series(texts, dtype=object)
    if description.test:
        frames["test"] = read_rows(given["test"], description)
    return frames, list(known)


def read_rows(
    table: Table, description: Description, images: Path | None = None, collect: bool = False
) -> pd.DataFrame:
    """Return a table's rows, read with the columns of a description: `id`, `key`, `title`, `description`,
    `image_paths`, `image_path`, `image_names`.

    `id` is a whole number: the item's own id if all of them are, otherwise the number of the row, from 1. `key` is its
    own id as text. Texts are as in the table, "" if there is none. `image_paths` has all images that the row names,
    None for one that does not exist; `image_path` is the first that exists, or None, and `image_names` has their names.

    `table`: a path or a pandas frame; a column of labels is not read. `images`: the folder in which the images' paths
    start, by default the description's. Raise KitError if the table cannot be read, or if a row is at fault: repeats or
    lacks its id, has another number of fields than the header, or has neither text nor image. With `collect`, faulty
    rows stay, the column `problems` lists the reasons per row, and `whole` says whether its fields fit the header.
    """
    return Rows(table, description, []).frame(images, collect)


class Rows:
    """The texts of a table's columns, and how to name its rows in a sentence."""

    def __init__(self, table: Table, description: Description, more: list[str]):
        self.description = description
        self.path = None if isinstance(table, pd.DataFrame) else Path(table)
        self.name = "the frame" if self.path is None else self.path.name
        columns = [description.id, description.title, *description.text, *description.image]
        columns = list(dict.fromkeys([*filter(None, columns), *more]))
        self.faults: dict[int, str] = {}  # rows whose fields do not fit the header
        if self.path is not None and not self.path.is_file():
            raise KitError(f"There is no table {self.path}; check the path, or if it has moved, {DESCRIBE}.")
        if self.path is None or self.path.suffix.lower() in PARQUET:
            frame: Any = table if self.path is None else _read_parquet(self.path, columns)
            frame = frame.rename(columns=str)
            require_columns(self.name, frame.columns, columns)
            self.texts = {name: _as_texts(frame[name], name, self) for name in columns}
            self.places = [f"row {number}" for number in range(1, len(frame) + 1)]
        else:
            self.texts, lines, self.faults = read_delimited(self.path, columns, require_columns)
            self.places = [f"line {number}" for number in lines]
        if not self.places:
            raise KitError(f"{self.name} has no rows; give a table with one item per row.")

    def refuse(self, rows: Iterable[int], reasons: dict[int, str], advice: str) -> None:
        """Raise KitError that names the first of `rows` with its reason, and the number of the others."""
        if rows := list(rows):
            more = (
                f" (and {len(rows) - 1} more like it: {shorten(self.places[i] for i in rows[1:])})" if rows[1:] else ""
            )
            raise KitError(f"{self.name}, {self.places[rows[0]]}: {reasons[rows[0]]}{more}; {advice}.")

    def frame(self, images: Path | None = None, collect: bool = False) -> pd.DataFrame:
        """Return the rows as `read_rows` does."""
        description, rows = self.description, range(len(self.places))
        own = self.texts[description.id] if description.id else [str(i + 1) for i in rows]
        first: dict[str, int] = {}
        ids = {}
        for i in rows:
            if not own[i].strip():
                ids[i] = f"{description.id} is empty"
            elif first.setdefault(own[i], i) != i:
                ids[i] = f"{description.id} is {own[i]!r} as in {self.places[first[own[i]]]}"
        titles = self.texts[description.title] if description.title else [""] * len(rows)
        parts = [self.texts[name] for name in description.text]
        texts = [" ".join(part[i].strip() for part in parts if part[i].strip()) for i in rows]
        named = [self._images(i) for i in rows]
        read = ", ".join(filter(None, (description.title, *description.text, *description.image)))
        empty = {i: f"no text and no image ({read})" for i in rows if not (titles[i].strip() or texts[i] or named[i])}
        kinds = [
            (self.faults, "mend that row or its quotation marks, or save the table as Parquet"),
            (ids, "give each item an id of its own"),
            (empty, "fill in that row or remove it"),
        ]
        if not collect:
            for reasons, advice in kinds:
                self.refuse(reasons, reasons, advice)
        folder = images or description.image_folder(str(self.path or description.items))
        full = [[os.path.join(folder, name) for name in names] for names in named]
        paths = [tuple(path if os.path.isfile(path) else None for path in several) for several in full]
        whole = all(re.fullmatch(PLAIN_NUMBER, key) for key in own)
        frame = pd.DataFrame({"id": [int(key) for key in own] if whole and not ids else [i + 1 for i in rows]})
        columns = {"key": own, "title": titles, "description": texts, "image_paths": paths}
        columns["image_path"] = first_images(paths)
        columns["image_names"] = [tuple(names) or (f"none in {self.places[i]}",) for i, names in enumerate(named)]
        if collect:
            columns["problems"] = [[reasons[i] for reasons, _ in kinds if i in reasons] for i in rows]
            columns["whole"] = [i not in self.faults for i in rows]
        return frame.assign(**{name: pd.Series(values, dtype=object) for name, values in columns.items()})

    def _images(self, row: int) -> list[str]:
        cells = [cell for name in self.description.image for cell in self.texts[name][row].split(SEVERAL)]
        return [cell.strip().replace("\\", "/") for cell in cells if cell.strip()]  # as Windows writes paths


def require_columns(name: str, columns: Sequence[str], wanted: Sequence[str]) -> None:
    """Raise KitError if a table's header lacks a wanted column, or has it twice."""
    columns = [str(column) for column in columns]
    for column in wanted:
        if (count := columns.count(column)) == 1:
            continue
        if count:
            raise KitError(f"{name} has {count} columns {column!r}; rename one of them.")
        lower = {other.casefold(): other for other in columns}
        close = difflib.get_close_matches(column.casefold(), lower, 1)
        meant = f" (did you mean {lower[close[0]]!r}?)" if close else ""
        raise KitError(
            f"{name} has no column {column!r}{meant}; name one that it has: {shorten(map(repr, columns), 20)}."
        )


def _read_parquet(path: Path, columns: list[str]) -> pd.DataFrame:
    try:
        require_columns(path.name, pq.read_schema(path).names, columns)
        return pd.read_parquet(path, columns=columns)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise KitError(f"{path} cannot be read as Parquet ({error}); write it again.") from None


def _as_texts(values: pd.Series, column: str, rows: Rows) -> list[str]:
    """Return the values of a column as text: "" for a missing one, 7 for 7.0. Raise KitError if one is no text."""
    texts = []
    for number, value in enumerate(values.astype(object)):
        if isinstance(value, (list, tuple, np.ndarray)) and column in rows.description.image:
            value = SEVERAL.join(str(one) for one in value if not pd.isna(one))
        if isinstance(value, (list, tuple, set, dict, bytes, np.ndarray)):
            raise KitError(
                f"{rows.name}, row {number + 1}: {column} holds a {type(value).__name__}; give a column of text or "
                f"numbers."
            )
        if isinstance(value, (float, np.floating)) and float(value).is_integer():
            value = int(value)
        text = "" if pd.isna(value) else str(value)
        texts.append(text.encode(errors="replace").decode())  # half of an emoji, cut off in JSON, becomes "?"
    return texts


def _check_labels(rows: Rows, texts: list[str], description: Description) -> dict[str, int]:
    """Return the code of each label: its place among all, sorted. Raise KitError if these cannot be classes."""
    label = description.label
    unknown = {i: f"{label} is {text!r}" if text else f"{label} is empty" for i, text in enumerate(texts)}
    elsewhere = (
        "move it to the test table" if description.test else "move it to a table of its own and give that as --test"
    )
    rows.refuse(
        (i for i in unknown if texts[i].strip().casefold() in UNKNOWN), unknown, f"write its label, or {elsewhere}"
    )
    counts = Counter(texts)
    alike: dict[str, str] = {}
    for text in sorted(counts):
        if (other := alike.setdefault(_plain(text), text)) != text:
            raise KitError(
                f"{rows.name} has the labels {other!r} and {text!r} in {label}, which are probably the same "
                f"({counts[other]} and {counts[text]} rows); write it one way."
            )
    if len(counts) < 2:
        raise KitError(
            f"All {len(texts)} rows of {rows.name} have the label {texts[0]!r}: there is nothing to classify."
        )
    if len(counts) > len(texts) / 2:
        number = all(map(_is_number, counts))
        why = "it looks like a quantity, and the kit predicts classes" if number else "most classes have a single item"
        raise KitError(
            f"{rows.name} has {len(counts)} different labels in {len(texts)} rows of {label}: {why}; name another "
            f"column with --label."
        )
    whole = all(re.fullmatch(PLAIN_NUMBER, text) for text in counts)
    return {text: code for code, text in enumerate(sorted(counts, key=int if whole else str))}


def _plain(text: str) -> str:
    """Return what two spellings of one label have in common."""
    number = WHOLE_NUMBER.fullmatch(text)
    return number[1] if number else " ".join(unicodedata.normalize("NFC", text).split())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
