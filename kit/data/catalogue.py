"""Catalogues of one's own: any table, described by the names of its columns and read in place.

A folder with `catalogue.json` is a catalogue. The file says which columns mean what and where the tables and images
are; nothing is copied.
"""

import dataclasses
import difflib
import functools
import json
import os
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from kit.config import split_names
from kit.core.exceptions import KitError, shorten
from kit.core.files import write_atomically, write_json
from kit.core.paths import require_encoding, resolve
from kit.data.images import first_images, item_images
from kit.data.table import PARQUET, PLAIN_NUMBER, WHOLE_NUMBER, column_name, parquet_columns, read_delimited
from kit.data.text import INVISIBLE, compose

FILE = "catalogue.json"
UNKNOWN = {"", "nan", "none", "null", "<na>", "n/a", "#n/a"}  # what programs write for a label that is not known
SEVERAL = "|"  # between the images of one cell
URL = re.compile("https?://", re.IGNORECASE)
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # but for tab and new line, which CSV holds in quotation marks
Table: TypeAlias = str | Path | pd.DataFrame  # a path, or a frame in memory
DESCRIBE = "describe the catalogue again with kit catalogue"
SIDES = {"text": ("title", "text"), "image": ("image",)}  # fields of a description that name what a model reads


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

    def __post_init__(self):
        for field in ("label", "title", "text", "image", "id"):
            names = getattr(self, field)
            plain = column_name(names) if isinstance(names, str) else tuple(map(column_name, names))
            object.__setattr__(self, field, plain)

    @classmethod
    def of(cls, content: dict[str, Any]) -> "Description":
        """Return the description that JSON wrote, where tuples are lists. Raise TypeError if it is none."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        return cls(**values)

    @property
    def sides(self) -> tuple[str, ...]:
        """Return what the items have: text, image."""
        return tuple(side for side in SIDES if self.columns(side))

    def columns(self, *sides: str) -> list[str]:
        """Return the columns of what a model of `sides` reads, in order."""
        fields = (getattr(self, field) for side in sides for field in SIDES[side])
        return [name for field in fields for name in ([field] if isinstance(field, str) else field) if name]

    def record(self, part: str) -> str:
        """Return the fields that name the columns of one side, or of the ids, as JSON, for a run to keep."""
        return json.dumps({field: getattr(self, field) for field in SIDES.get(part, [part])}, ensure_ascii=False)

    def with_columns(self, records: Iterable[str]) -> "Description":
        """Return the description with the columns that `record` returned earlier. Raise TypeError if it did not."""
        fields = {key: value for one in records for key, value in json.loads(one).items()}
        return Description.of(dataclasses.asdict(self) | fields)

    @property
    def key(self) -> str:
        """Return the name under which predictions give an item's own id."""
        return self.id or ("row" if self.label != "row" else "row_number")

    def image_folder(self, table: str) -> Path:
        """Return the folder in which the paths of that table's images start."""
        return Path(self.images) if self.images else Path(table).parent

    @property
    def images_below(self) -> Path:
        """Return where the images' folder is below that of the catalogue's table; "." if it is not below it."""
        folder, images = Path(self.items).parent, Path(self.images)
        return images.relative_to(folder) if images.is_relative_to(folder) else Path()

    def new_image_folder(self, table: Path) -> Path:
        """Return the folder in which the image paths of a new table start: below its own folder as the catalogue's are
        below that of their table, if there is such a folder; otherwise its own."""
        folder = table.parent / self.images_below
        return folder if folder.is_dir() else table.parent


def describe(
    items: Table,
    *,
    label: str | int,
    title: str | int | None = "",
    text: str | int | Sequence[str | int] | None = (),
    image: str | int | Sequence[str | int] | None = (),
    id: str | int | None = "",
    test: Table | None = None,
    images: str | Path | None = None,
    out: str | Path | None = None,
) -> Path:
    """Check a catalogue, write its description into the folder `out`, and return that folder.

    `items`, `test`: the path of a CSV, TSV or Parquet file, which stays where it is, or a pandas frame, which is
    written to the folder. `text`, `image`: names of columns, or one text with commas between them. `images`: the folder
    in which the images' paths start, by default that of the table; for a frame of items, the working directory. `out`:
    by default data/<name of the file>. Warn of images that are missing, and of columns that determine the label. Raise
    KitError if the tables do not have those columns, or other faults.
    """
    if out is None and isinstance(items, pd.DataFrame):
        raise KitError("A frame has no name: pass out= the folder for its description, such as data/mine.")
    tables = {"items": items} if test is None else {"items": items, "test": test}
    for name, table in tables.items():
        if not isinstance(table, (str, Path, pd.DataFrame)):
            raise KitError(f"{name} is a {type(table).__name__}: give the path of a table, or a pandas frame.")
    folder = resolve(Path("data", Path(items).stem) if out is None else out)
    if others := [path.name for path in folder.glob("[XxYy]_*") if path.suffix in (".csv", ".tsv")]:
        raise KitError(f"{folder} holds files of the challenge ({shorten(others)}); choose another folder for --out.")
    paths = {
        name: str(folder / f"{name}.parquet" if isinstance(table, pd.DataFrame) else resolve(table))
        for name, table in tables.items()
    }
    photos = _split("image", image)
    if images is None and photos and isinstance(items, pd.DataFrame):
        images = Path.cwd()
    start = "" if images is None else str(resolve(images))
    for name, place in (paths | {"images": start, "out": str(folder)}).items():
        require_encoding(name, place)
    description = Description(
        **paths,
        label=_column("label", label),
        title=_column("title", title),
        text=_split("text", text),
        image=photos,
        id=_column("id", id),
        images=start,
    )
    _check_columns(description)
    if start and not Path(start).is_dir():
        raise KitError(f"{start} is not a folder; give --images the folder in which the images' paths start.")
    given = {name: table for name, table in tables.items() if isinstance(table, pd.DataFrame)}
    _refuse_to_replace(folder, [Path(paths[name]) for name in given])
    frames, _ = read_catalogue(description, given)
    for name, frame in given.items():
        texts = Rows(frame, description, [description.label] if name == "items" else []).texts
        write_atomically(Path(paths[name]), pd.DataFrame(texts).to_parquet)
    write_json(folder / FILE, dataclasses.asdict(description))
    sentences = [
        tell_missing_images(frame, Path(path).name, description.image_folder(path))
        for frame, path in zip(frames.values(), paths.values(), strict=True)
        if "image" in description.sides
    ]
    if "test" in frames:
        learned, new = (frame[["title", "description", "image_paths"]] for frame in frames.values())
        if learned.equals(new):
            sentences.append("The test table has the same items as the table to learn from: give new items as --test.")
    sentences += _tell_answers(Rows(paths["items"], description, [description.label]))
    for sentence in filter(None, sentences):
        warnings.warn(sentence, stacklevel=2)
    return folder


def _refuse_to_replace(folder: Path, tables: list[Path]) -> None:
    """Raise KitError if describing would replace a file that the kit did not write: a catalogue.json that describes no
    catalogue, or a table that the folder's description does not name, or that has more columns than it names."""
    try:
        old = read_description(folder)
    except KitError:
        raise KitError(f"{folder / FILE} is no description of a catalogue; choose another folder for --out.") from None
    for table in filter(Path.exists, tables):
        names = {*old.columns("text", "image"), old.label, old.id} if old else set()
        try:
            ours = old and str(table) in (old.items, old.test) and {*parquet_columns(table)} <= names
        except KitError:
            ours = False
        if not ours:
            raise KitError(f"{table} exists, and the kit did not write it; choose another folder for --out.")


def _column(option: str, name: Any) -> str:
    """Return the name of a column as text: frames may have numbers. Raise KitError if it is no name."""
    if isinstance(name, (str, int, np.integer, NoneType)):
        return "" if name is None else str(name)
    raise KitError(f"{option}={name!r} is no name of a column: give one as text.")


def _split(option: str, names: Any) -> tuple[str, ...]:
    """Return names of columns, of which a text has commas between them. Raise KitError if one is no name."""
    if isinstance(names, str):
        return tuple(split_names(names))
    several = names if isinstance(names, Iterable) else [names]
    return tuple(filter(None, (_column(option, name) for name in several)))


def tell_missing_images(frame: pd.DataFrame, name: str, folder: str | Path, own: bool = True) -> str:
    """Return a sentence about the images that a table's items name and that do not exist, and about items that name
    none; "" if there are neither.

    `name`: the table's · `folder`: where images were looked for · `own`: it is a catalogue's.
    """
    items = list(zip(frame["image_names"], item_images(frame), strict=True))
    named = [pair for names, paths in items if paths for pair in zip(names, paths, strict=True)]
    unnamed = [names[0] for names, paths in items if not paths]
    missing = [image for image, path in named if path is None]
    urls = [image for image in missing if URL.match(image)]
    parts, advice = [], []
    if missing:
        where = f"{folder} (--images)" if own else folder
        parts.append(
            f"{len(missing)} of the {len(named)} images of {name} are missing under {where}: {shorten(missing, 3)}"
        )
    if unnamed:
        parts.append(f"{len(unnamed)} of the {len(items)} items of {name} name no image ({shorten(unnamed, 3)})")
    if urls:
        advice.append(f"URLs are not fetched ({len(urls)} here): download those images and give their paths")
    if own and len(missing) > len(urls):
        advice.append("if they are elsewhere, describe the table again with kit catalogue … --images FOLDER")
    put = "otherwise put them there" if len(advice) else "put them there" if missing else "fill them in"
    return f"{'; '.join([*parts, *advice])}; {put}, or train without them: -p missing blank." if parts else ""


def _tell_answers(rows: "Rows") -> list[str]:
    """Return a sentence per column of text that determines the label, such as its code or its name in another language.

    Each value occurs with one label only, and there are at most half as many values more than labels: a brand or a
    colour occurs with several labels, or has more values. Few cells are empty: a label that only some items have is no
    answer.
    """
    labels, sentences = rows.texts[rows.description.label], []
    for name in rows.description.columns("text"):
        pairs = [(text.strip(), label) for text, label in zip(rows.texts[name], labels, strict=True) if text.strip()]
        values, classes = ({pair[side] for pair in pairs} for side in (0, 1))
        if (
            len(values) == len({*pairs})
            and len(classes) == len({*labels})
            and len(values) <= 1.5 * len(classes)
            and len(pairs) >= max(0.9 * len(labels), 2 * len(values))
        ):
            sentences.append(
                f"The column {name!r} determines the label: each of its {len(values)} values occurs with one "
                f"{rows.description.label} only, so a model would read the answer there; leave it out, unless new "
                f"items have it before their {rows.description.label} is known."
            )
        elif name in rows.description.text and (said := _tell_contained(name, rows.texts[name], labels)):
            sentences.append(said)  # a title is what new items have, too
    return sentences


def _tell_contained(name: str, texts: list[str], labels: list[str]) -> str:
    """Return a sentence if the label is part of almost every text of a column, as of a path of categories; "" if it is
    not, or if others' labels are as well."""
    folded = [text.casefold() for text in texts]
    pairs = [label.casefold() for label in labels]
    others = np.random.default_rng(0).permutation(len(pairs))
    own = np.mean([label in text for label, text in zip(pairs, folded, strict=True)])
    chance = np.mean([pairs[i] in text for i, text in zip(others, folded, strict=True)])
    if own < 0.95 or chance > 0.5:
        return ""
    return (
        f"The column {name!r} contains the label in {own:.0%} of the rows (another item's in {chance:.0%}), so a model "
        f"would read the answer there; leave it out, unless new items have it before their label is known."
    )


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
    known = _check_labels(rows)
    frames["train"]["label"] = [known[text] for text in texts]
    frames["train"]["class"] = pd.Series(texts, dtype=object)
    if description.test:
        frames["test"] = read_rows(given["test"], description)
    return frames, list(known)


def read_labels(description: Description) -> list[str]:
    """Return the labels in the order of their codes, without reading the other columns. Raise KitError as
    `read_catalogue` does."""
    only = dataclasses.replace(description, title="", text=(), image=(), id="")
    return list(_check_labels(Rows(description.items, only, [description.label])))


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
    rows stay, the column `problems` has a list of Problem per row, and `whole` says whether its fields fit the header.
    """
    return Rows(table, description, []).frame(images, collect)


class Problem(NamedTuple):
    """What is wrong with a row: of which kind, and in words."""

    kind: str
    words: str


EMPTY = "no text and no image"


class Rows:
    """The texts of a table's columns, and how to name its rows in a sentence."""

    def __init__(self, table: Table, description: Description, more: list[str]):
        self.description = description
        self.path = None if isinstance(table, pd.DataFrame) else Path(table)
        self.name = "the frame" if self.path is None else self.path.name
        columns = [*description.columns("text", "image"), *more, *filter(None, [description.id])]
        columns = list(dict.fromkeys(columns))
        require = functools.partial(require_columns, labelled=bool(more))
        self.faults: dict[int, str] = {}  # rows whose fields do not fit the header
        if self.path is not None and not self.path.is_file():
            raise KitError(f"There is no table {self.path}; check the path, or if it has moved, {DESCRIBE}.")
        if self.path is None or self.path.suffix.lower() in PARQUET:
            frame: Any = table if self.path is None else _read_parquet(self.path, columns, require)
            frame = frame.set_axis([column_name(str(name)) for name in frame.columns], axis=1)
            frame = frame.rename_axis(index=lambda name: name if name is None else column_name(str(name)))
            frame = frame.reset_index([name for name in frame.index.names if name in columns and name not in frame])
            require(self.name, frame.columns, columns)
            self.texts = {name: _as_texts(frame[name], name, self) for name in columns}
            self.places = [f"row {number}" for number in range(1, len(frame) + 1)]
        else:
            self.texts, lines, self.faults = read_delimited(self.path, columns, require)
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
            elif CONTROL.search(own[i]):
                ids[i] = f"{description.id} is {own[i]!r}, with a control character"
            elif first.setdefault(own[i], i) != i:
                ids[i] = f"{description.id} is {own[i]!r} as in {self.places[first[own[i]]]}"
        titles = self.texts[description.title] if description.title else [""] * len(rows)
        parts = [self.texts[name] for name in description.text]
        texts = [" ".join(part[i].strip() for part in parts if part[i].strip()) for i in rows]
        named = [self._images(i) for i in rows]
        read = ", ".join(description.columns("text", "image"))
        empty = {i: f"{EMPTY} ({read})" for i in rows if not (titles[i].strip() or texts[i] or named[i])}
        kinds = {
            "row that does not fit the header": (
                self.faults,
                "mend that row or its quotation marks, or save the table as Parquet",
            ),
            "unusable id": (ids, "give each item an id of its own"),
            EMPTY: (empty, "fill in that row or remove it"),
        }
        if not collect:
            for reasons, advice in kinds.values():
                self.refuse(reasons, reasons, advice)
        folder = images or description.image_folder(str(self.path or description.items))
        full = [[os.path.join(folder, name) for name in names] for names in named]
        paths = [tuple(map(_find_file, several)) for several in full]
        whole = all(re.fullmatch(PLAIN_NUMBER, key) for key in own)
        frame = pd.DataFrame({"id": [int(key) for key in own] if whole and not ids else [i + 1 for i in rows]})
        columns = {"key": own, "title": titles, "description": texts, "image_paths": paths}
        columns["image_path"] = first_images(paths)
        columns["image_names"] = [tuple(names) or (self.places[i],) for i, names in enumerate(named)]
        if collect:
            columns["problems"] = [
                [Problem(kind, reasons[i]) for kind, (reasons, _) in kinds.items() if i in reasons] for i in rows
            ]
            columns["whole"] = [i not in self.faults for i in rows]
        return frame.assign(**{name: pd.Series(values, dtype=object) for name, values in columns.items()})

    def _images(self, row: int) -> list[str]:
        cells = [cell for name in self.description.image for cell in self.texts[name][row].split(SEVERAL)]
        return [cell.strip().replace("\\", "/") for cell in cells if cell.strip()]  # as Windows writes paths


def _find_file(path: str) -> str | None:
    """Return the path of a file, whose accents may be composed or not in its name, as macOS and others write them."""
    forms = [path] if path.isascii() else [path, *(unicodedata.normalize(form, path) for form in ("NFC", "NFD"))]
    return next((form for form in forms if os.path.isfile(form)), None)


def require_columns(name: str, columns: Sequence[str], wanted: Sequence[str], labelled: bool = True) -> None:
    """Raise KitError, naming all of them, if a table's header lacks wanted columns, or if it has one twice.

    `labelled`: it is the table that a description is made for, and not one that must be like it.
    """
    columns = [column_name(str(column)) for column in columns]
    if twice := [column for column in wanted if columns.count(column) > 1]:
        raise KitError(f"{name} has {columns.count(twice[0])} columns {twice[0]!r}; rename one of them.")
    if absent := [column for column in wanted if column not in columns]:
        has = shorten(map(repr, columns), 20)
        if any(re.search(r"[\r\n]", column) for column in columns):
            has += " (look for a stray quotation mark: its header goes over several lines)"
        one = f"name {'one' if len(absent) == 1 else 'columns'} that it has: {has}"
        same = f"both tables need the same names, so rename its columns: {has}"
        raise KitError(f"{name} has no {name_absent(absent, columns, wanted)}; {one if labelled else same}.")


def name_absent(absent: Sequence[str], columns: Sequence[str], wanted: Sequence[str]) -> str:
    """Return in words the columns that a table lacks, each with the one that may be meant, none of them `wanted`."""
    lower = {other.casefold(): other for other in columns if other not in wanted}
    close = [difflib.get_close_matches(column.casefold(), lower, 1) for column in absent]
    meant = [f" (did you mean {lower[near[0]]!r}?)" if near else "" for near in close]
    named = ", ".join(f"{column!r}{question}" for column, question in zip(absent, meant, strict=True))
    return f"column{'s' * (len(absent) > 1)} {named}"


def _read_parquet(path: Path, columns: list[str], require: Callable) -> pd.DataFrame:
    require(path.name, names := parquet_columns(path), columns)
    try:
        wanted = [name for name in names if column_name(name) in columns]
        return pq.read_table(path, columns=wanted, use_pandas_metadata=True).to_pandas(
            integer_object_nulls=True  # as floats, long numbers would be rounded
        )
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise KitError(f"{path} cannot be read as Parquet ({error}); write it again.") from None


def _as_texts(values: pd.Series, column: str, rows: Rows) -> list[str]:
    """Return the values of a column as text: "" for a missing one, 7 for 7.0. Raise KitError if one is no text."""
    texts = []
    for number, value in enumerate(values.astype(object) if values.dtype != np.float32 else [*values.to_numpy()]):
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


def _check_labels(rows: Rows) -> dict[str, int]:
    """Return the code of each label: its place among all, sorted. Raise KitError if these cannot be classes."""
    description, label = rows.description, rows.description.label
    texts = rows.texts[label]
    unknown = {i: f"{label} is {text!r}" if text else f"{label} is empty" for i, text in enumerate(texts)}
    elsewhere = (
        "move it to the test table" if description.test else "move it to a table of its own and give that as --test"
    )
    rows.refuse(
        (i for i in unknown if INVISIBLE.sub("", texts[i]).strip().casefold() in UNKNOWN),
        unknown,
        f"write its label, or {elsewhere}",
    )
    marked = [i for i, text in enumerate(texts) if CONTROL.search(text)]
    control = {i: f"{label} is {texts[i]!r}, with a control character" for i in marked}
    rows.refuse(control, control, "write the label without it")
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
    return str(int(number[1])) if number else " ".join(compose(INVISIBLE.sub("", text)).split())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
