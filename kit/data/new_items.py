"""Items to predict after a training, from any table: what is wrong with a row is noted beside it, and stops nothing."""

import dataclasses
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from kit.core.exceptions import KitError, shorten
from kit.data.catalogue import Description, Rows, Table, read_rows
from kit.data.challenge import EDITIONS, find_images
from kit.data.images import inspect_items, item_images, keep_readable
from kit.data.table import PANDAS_INDEX, PARQUET, WHOLE_NUMBER, read_headers

Items: TypeAlias = Table | Sequence[Mapping]  # a path, a frame, or dictionaries
PLAIN = ("title", "description", "image", "id")  # columns of items that no catalogue describes


def read_new_items(
    items: Items, description: Description | None, images: Path | None, sides: Sequence[str]
) -> tuple[pd.DataFrame, str]:
    """Return the rows in order, and the name of the column of their own ids.

    Columns of the rows: `key` (the own id), `title`, `description`, `image_paths`, `image_path`, `problems` (what is
    wrong, a list of words) and `able` (whether the row has anything that a model of `sides` reads). An image that is
    missing or cannot be read has the path None.

    The columns of `items` are those of `description`, if a catalogue was learned from, otherwise those of the
    challenge's X files, of either edition; or else `title`, `description`, `image` and `id`, of which a file must have
    the title (or the image, if no text is read), and dictionaries any.
    `images`: the folder in which the images' paths start, or in which the challenge's images are; by default the
    table's. Raise KitError if there is no such table, or if it lacks those columns.
    """
    table = items if isinstance(items, (str, Path, pd.DataFrame)) else _frame(items)
    path = None if isinstance(table, pd.DataFrame) else Path(table)
    if isinstance(table, pd.DataFrame) and not len(table):
        raise KitError("There are no items to predict; give at least one.")
    headers = _headers(table)
    if images and not images.is_dir():
        raise KitError(f"{images} is not a folder: give --images the folder of the images.")
    if found := None if description else _find_edition(headers):
        folder = images or (Path.cwd() if path is None else path.parent)
        frame, name = _read_challenge_rows(table, found, folder), found["id"]
    else:
        columns = _find_columns(headers, description, path, sides)
        start = images or columns.image_folder(str(path or columns.items))
        frame, name = read_rows(table, columns, start, collect=True), columns.key
    _look_at_images(frame, sides)
    return frame, name or "id"


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
        return [[str(column) for column in table.columns]]
    path = Path(table)
    if path.suffix.lower() not in PARQUET:
        return read_headers(path)
    try:
        return [pq.read_schema(path).names]
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise KitError(f"{path} cannot be read as Parquet ({error}); write it again.") from None


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
) -> Description:
    """Return what the columns mean: as a catalogue describes them, or else by their PLAIN names.

    A table must have all columns of a catalogue, except the ids, or else `title`, or `image` for a model of images
    alone; of dictionaries and frames those that are there count. Raise KitError if there are none.
    """
    enough = {*PLAIN[:3]} if path is None else {"title" if "text" in sides else "image"}
    own = description and {*filter(None, (description.title, *description.text, *description.image))}
    if description and path:  # whose reader names the column that the table lacks
        fitting = [header for header in headers if own and own <= {*header}]
        has_id = not fitting or description.id in fitting[0]
        return description if has_id else dataclasses.replace(description, id="")
    for header in headers:
        present = own and own & {*header}
        if description and present and (present == own or not present <= {*PLAIN}):
            return _restrict(description, header)
        if enough & {*header}:
            return _restrict(Description("", "", PLAIN[0], PLAIN[1:2], PLAIN[2:3], PLAIN[3]), header)
    columns = shorten(max(headers, key=len), 20) or "(none)"
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


def _read_challenge_rows(table: Table, columns: dict[str, str], folder: Path) -> pd.DataFrame:
    """Return the rows of an X file, as `read_rows` does. `columns`: the table's names by ours."""
    title, text, image = columns["title"], columns["description"], "image"
    named = [columns[name] for name in ("id", "image_id", "product_id")]
    rows = Rows(table, Description("", "", title, (text,)), named)
    present, _ = find_images(folder)
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
    lacks: dict[str, list[list[str]]] = {"text": [[] if there else ["no text"] for there in has["text"]]}
    if "image" in sides:
        inspected = inspect_items(item_images(frame))
        has["image"] = (inspected["blank"] == "").to_numpy(bool)
        keep_readable(frame, inspected)
        lacks["image"] = [
            [f"image {name} {_in_words(why)}" for name, why in zip(names, whys, strict=True) if why]
            if whys
            else ["no image"]
            for names, whys in zip(frame["image_names"], inspected["reasons"], strict=True)
        ]
    frame["able"] = whole & np.any([has[side] for side in sides], axis=0)
    for side in sides:
        for problems, reasons in zip(frame["problems"][whole], itertools.compress(lacks[side], whole), strict=True):
            if not any(problem.startswith("no text and no image") for problem in problems):
                problems.extend(reasons)


def _in_words(why: str) -> str:
    return "is missing" if why == "missing" else why.replace("corrupt: ", "cannot be read: ", 1)
