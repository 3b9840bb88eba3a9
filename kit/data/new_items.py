"""Items to predict after a training, from any table: what is wrong with a row is noted beside it, and stops nothing."""

import dataclasses
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from kit.core.exceptions import KitError, shorten
from kit.data.catalogue import EMPTY, SIDES, URL, Description, Problem, Rows, Table, name_absent, read_rows
from kit.data.challenge import EDITIONS, find_images
from kit.data.images import inspect_items, item_images, keep_readable
from kit.data.table import PANDAS_INDEX, PARQUET, WHOLE_NUMBER, column_name, parquet_columns, read_headers

Items: TypeAlias = Table | Sequence[Mapping]  # a path, a frame, or dictionaries
MISSING = "missing image"  # a kind of Problem
PLAIN = ("title", "description", "image", "id")  # columns of items that no catalogue describes


class NewItems(NamedTuple):
    """The rows of a table in order, the name of the column of their own ids, the folder in which their images' paths
    start, and in words the columns of a catalogue that the table lacks: those that the run reads, and that of the ids.

    Columns of the rows: `key` (the own id), `title`, `description`, `image_paths`, `image_path`, `problems` (what is
    wrong, a list of Problem) and `able` (whether the row has anything that a model of the sides reads). An image that
    is missing or cannot be read has the path None.
    """

    frame: pd.DataFrame
    key: str
    folder: Path
    absent: str
    counted: str


def read_new_items(
    items: Items, description: Description | None, images: Path | None, sides: Sequence[str]
) -> NewItems:
    """Return the items of a table, for a model of `sides`.

    The columns of `items` are those of `description`, if a catalogue was learned from, otherwise those of the
    challenge's X files, of either edition; or else `title`, `description`, `image` and `id`, of which a file must have
    the title (or the image, if no text is read), and dictionaries any. Of a catalogue's columns one is enough: an
    absent one counts as empty.
    `images`: the folder in which the images' paths start, or in which the challenge's images are; by default the
    table's, or `Description.new_image_folder`, and for a frame or dictionaries the working directory. Raise KitError if
    there is no such table, or if it lacks those columns.
    """
    table = items if isinstance(items, (str, Path, pd.DataFrame)) else _frame(items)
    path = None if isinstance(table, pd.DataFrame) else Path(table)
    if isinstance(table, pd.DataFrame) and not len(table):
        raise KitError("There are no items to predict; give at least one.")
    headers = _headers(table)
    if images and not images.is_dir():
        raise KitError(f"{images} is not a folder: give --images the folder of the images.")
    absent, counted, folder = "", "", images or (Path.cwd() if path is None else path.parent)
    if edition := None if description else _find_edition(headers):
        frame, name = _read_challenge_rows(table, edition, folder, sides), edition["id"]
    else:
        columns, absent = _find_columns(headers, description, path, sides)
        if columns.image and path and not images:
            folder = columns.new_image_folder(path)
        frame, name = read_rows(table, columns, folder, collect=True), columns.key
        if description and description.id and not columns.id:
            header = max(headers, key=len)
            counted = name_absent([description.id], header, description.columns(*sides))
    _look_at_images(frame, sides)
    return NewItems(frame, name or "id", folder, absent, counted)


def _frame(items: Sequence[Mapping]) -> pd.DataFrame:
    """Return dictionaries as a frame, with their values as they are: a column of numbers would round a long id."""
    try:
        return pd.DataFrame([dict(item) for item in items], dtype=object)
    except (TypeError, ValueError):
        raise KitError(
            "The items are no list of dictionaries: pass one per item, such as [{'title': 'Lampe'}], a frame or a path."
        ) from None


def _headers(table: Table) -> list[list[str]]:
    """Return what may be the columns of a table. Raise KitError if it cannot be read."""
    if isinstance(table, pd.DataFrame):
        named = [name for name in table.index.names if name is not None]
        return [[column_name(str(column)) for column in (*named, *table.columns)]]
    path = Path(table)
    if path.suffix.lower() in PARQUET:
        return [[*map(column_name, parquet_columns(path))]]
    return read_headers(path)


def _find_edition(headers: list[list[str]]) -> dict[str, str] | None:
    """Return the table's names of an edition's columns, by ours; None if it has them of neither."""
    for edition in EDITIONS.values():
        for header in headers:
            lower = [" ".join(name.split()).lower() for name in header]
            if lower and PANDAS_INDEX.fullmatch(lower[0]):
                lower[0] = ""
            plain = dict(zip(reversed(lower), reversed(header), strict=True))
            if edition.columns.keys() <= plain.keys():
                return {ours: plain[name] for name, ours in edition.columns.items()}
    return None


def _find_columns(
    headers: list[list[str]], description: Description | None, path: Path | None, sides: Sequence[str]
) -> tuple[Description, str]:
    """Return what the columns mean, as a catalogue describes them, or else by their PLAIN names; and in words those of
    the catalogue that a model of `sides` reads and the table lacks.

    A table must have a column of the catalogue, or if there is none `title`, or `image` for a model of images alone;
    dictionaries and frames have one of either. Raise KitError if there are none.
    """
    enough = {*PLAIN[:3]} if path is None else {"title" if "text" in sides else "image"}
    own = description.columns(*sides) if description else []
    header = max(headers, key=lambda header: (len({*own} & {*header}), len(header)))
    absent = [name for name in own if name not in header]
    missing = name_absent(absent, header, own) if absent else ""
    present = {*own} - {*absent}
    plain = Description("", "", PLAIN[0], PLAIN[1:2], PLAIN[2:3], PLAIN[3])
    others = {*plain.columns(*sides)} & {*header} - {*(description or plain).columns(*SIDES)}
    if description and present and (path or not absent or not others or not present <= {*PLAIN}):
        return _restrict(description, header), missing
    columns = shorten((" ".join(name.split()) for name in header), 20) or "(none)"
    if description and path:
        raise KitError(
            f"{path.name} has no {missing}, and nothing else that the run reads; rename the table's columns to those "
            f"that the run learned from; it has: {columns}."
        )
    for header in headers:
        if enough & {*header}:
            own_ids = description.id if description and description.id in header else plain.id
            return _restrict(dataclasses.replace(plain, id=own_ids), header), ""
    instead = f"the catalogue's ({', '.join(sorted(own))})" if own else "those of the challenge's X files"
    raise KitError(
        f"The items have the columns {columns}, and need {' or '.join(sorted(enough, key=PLAIN.index))}, or {instead}: "
        "rename them."
    )


def _restrict(description: Description, header: list[str]) -> Description:
    """Return the description without the columns that `header` lacks."""
    title, identity = (name if name in header else "" for name in (description.title, description.id))
    text, image = (tuple(name for name in names if name in header) for names in (description.text, description.image))
    return dataclasses.replace(description, title=title, text=text, image=image, id=identity)


def _read_challenge_rows(table: Table, columns: dict[str, str], folder: Path, sides: Sequence[str]) -> pd.DataFrame:
    """Return the rows of an X file, as `read_rows` does. `columns`: the table's names by ours."""
    title, text, image = columns["title"], columns["description"], "image"
    named = [columns[name] for name in ("id", "image_id", "product_id")]
    rows = Rows(table, Description("", "", title, (text,)), named)
    present = find_images(folder)[0] if "image" in sides else {}
    paths = []
    for pair in zip(*(rows.texts[name] for name in named[1:]), strict=True):
        numbers = [WHOLE_NUMBER.fullmatch(value) for value in pair]
        key = tuple(int(number[1]) for number in numbers if number)
        name = "image_{}_product_{}.jpg".format(*pair) if len(key) == 2 else ""
        paths.append(os.path.relpath(min(present[key]), folder) if key in present else name)
    rows.texts[image], rows.description = paths, dataclasses.replace(rows.description, image=(image,))
    return rows.frame(folder, collect=True).assign(key=rows.texts[named[0]], description=rows.texts[text])


def _look_at_images(frame: pd.DataFrame, sides: Sequence[str]) -> None:
    """Note what the rows lack of what a model of `sides` reads; an unreadable image counts as none."""
    whole = frame["whole"].to_numpy(bool)
    has = {"text": ((frame["title"] + frame["description"]).str.strip() != "").to_numpy(bool)}
    lacks = {"text": [[] if has_text else [Problem("no text", "no text")] for has_text in has["text"]]}
    if "image" in sides:
        inspected = inspect_items(item_images(frame))
        has["image"] = (inspected["blank"] == "").to_numpy(bool)
        keep_readable(frame, inspected)
        lacks["image"] = [
            [_image_problem(name, why) for name, why in zip(names, whys, strict=True) if why]
            if whys
            else [Problem("no image", "no image")]
            for names, whys in zip(frame["image_names"], inspected["reasons"], strict=True)
        ]
    frame["able"] = whole & np.any([has[side] for side in sides], axis=0)
    for side in sides:
        for problems, reasons in zip(frame["problems"][whole], itertools.compress(lacks[side], whole), strict=True):
            if not any(problem.kind == EMPTY for problem in problems):
                problems.extend(reasons)


def _image_problem(name: str, why: str) -> Problem:
    if why != "missing":
        return Problem("unreadable image", f"image {name} {why.replace('corrupt: ', 'cannot be read: ', 1)}")
    if URL.match(name):
        return Problem("URL instead of an image", f"image {name} is a URL, which is not fetched: download it")
    return Problem(MISSING, f"image {name} is missing")
