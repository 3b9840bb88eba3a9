"""The challenge folder, in either edition, read into checked frames; and the cleaning of its text."""

import csv
import filecmp
import hashlib
import io
import itertools
import os
import re
import sys
import unicodedata
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from html import unescape
from html.entities import html5
from pathlib import Path
from typing import NamedTuple

import ftfy
import pandas as pd

from kit.config import KitError, few, resolve


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
WHOLE = re.compile(r"\s*(-?[0-9]{1,18})(?:\.0*)?\s*")  # as text: a float would round a long id
PLAIN = "0|-?[1-9][0-9]{0,17}"  # the one way in which a whole number is usually written
TEXTS = ("title", "description", "name")  # our columns that hold text; the others hold whole numbers
PANDAS_INDEX = re.compile(r"unnamed: 0(?:\.\d+)?")  # how pandas names an unnamed first column that it saves again
END = "\0end of the table"  # a line after a table's last, which an open quotation mark swallows


@dataclass(frozen=True, eq=False)
class Challenge:
    """One challenge folder: frames of `id, title, description, image_id, product_id, image_path`, in train `label` too.

    A missing description or image path is None, never "". `test` is keyed by split; it is empty without a test file;
    its frames have the column `fingerprint` too: a hash of each item's texts, as they are before cleaning, and of its
    image and product id.
    """

    edition: str
    train: pd.DataFrame
    test: dict[str, pd.DataFrame]
    names: dict[int | str, str]
    folder: Path

    @property
    def classes(self) -> list[int]:
        """The codes seen in training, ascending."""
        return sorted(int(code) for code in self.train["label"].unique())


# Only names that HTML knows (and Word's `o:p`) make a tag: `a <b et c`, `x<y>z`, `taille <M>` are text.
NAME = (
    r"(?:a|abbr|area|article|b|base|big|blockquote|body|br|button|caption|center|cite|code|col|colgroup|dd|del|div"
    r"|dl|dt|em|embed|figcaption|figure|font|footer|form|h[1-6]|head|header|hr|html|i|iframe|img|input|ins|label|li"
    r"|link|main|map|mark|meta|nav|noscript|object|ol|option|p|param|pre|q|s|script|section|select|small|source|span"
    r"|strike|strong|style|sub|sup|svg|table|tbody|td|textarea|tfoot|th|thead|title|tr|tt|u|ul|video|wbr|xml"
    r"|[a-z]\w*:\w+)"
)
TAG = re.compile(
    # with their bodies; what is never closed goes on to the end, as in a browser
    r"<(script|style)\b[^<>]*>.*?(?:</\1\s*>|\Z)|<!--.*?(?:-->|\Z)|<!(?:doctype|\[)[^<>]*>|<\?xml[^<>]*>"
    rf"""|</?{NAME}(?:[\s/](?:"[^"<]*"|'[^'<]*'|[^<>"'])*)?>"""  # a quoted attribute may hold `>` ...
    rf"|</?{NAME}[\s/][^<>]*>",
    re.IGNORECASE | re.DOTALL,
)  # ... or lack its closing quote
# Worth ftfy's time (it is slow): UTF-8 lead and trail bytes shown as CP1252 (`Ã©`, `â€`), or a control character.
TRAIL = "".join(bytes([b]).decode("cp1252", "ignore") for b in range(0x80, 0xC0))
SUSPECT = re.compile(rf"[Â-ô][{TRAIL}\x80-\x9f]|Ã |[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
SURROGATE = re.compile("[\ud800-\udfff]")  # half a character: no tokenizer takes it
FTFY = ftfy.TextFixerConfig(unescape_html=False, uncurl_quotes=False, fix_character_width=False, explain=False)


# With its semicolon only. Browsers also read 106 names without, even in mid-word, which makes `Fourµ-ondes` of
# `Four&micro-ondes` and `©=3` of `&copy=3`. The end of a word decides nothing either: `Guitare&amp Fender`, `lot&#12`.
ENTITY = re.compile("&(?:#[0-9]{1,9}|#[xX][0-9a-fA-F]{1,8}|([A-Za-z][A-Za-z0-9]{1,31}));")


def clean_text(text: str, light: bool = False) -> str:
    """Plain text: entities (escaped up to three times), tags, mojibake, control characters, white space.

    `light` mends entities and white space only: the form for titles, since cleaning titles costs about a point of
    macro-F1 on this data (Synerise, SIGIR eCom 2020). Mojibake is ftfy's work: `Ã©tÃ©` becomes `été`. It cannot restore
    `à¢me` (âme, lower-cased after the damage) nor a letter lost to a `?` in mid-word: both stay as they are. Accents
    are composed, as in all text (`compose`).
    """
    for _ in range(3):
        if "&" not in text or (plain := ENTITY.sub(_decode_entity, text)) == text:
            break
        text = plain
    if not light:
        if "<" in text:
            text = TAG.sub(" ", text)
        if SUSPECT.search(text):
            text = ftfy.fix_text(text.replace("\x0b", " "), FTFY)  # a vertical tab parts words
        if not text.isascii():
            text = INVISIBLE.sub("", text)
    if not text.isascii():
        text = SURROGATE.sub("\ufffd", text)
    return " ".join(compose(text).split())


def _decode_entity(match: re.Match) -> str:
    return html5.get(f"{match[1]};", match[0]) if match[1] else unescape(match[0])


def compose(text: str) -> str:
    """The text in Unicode's composed form (NFC): `é` as one character, not as `e` and an accent, which look alike to a
    reader and are different words to a model."""
    return unicodedata.normalize("NFC", text)


def product_texts(frame: pd.DataFrame) -> list[str]:
    """Title and description as one text (paper section 4.2); the title alone where there is no description."""
    return (frame["title"] + (" " + frame["description"]).fillna("")).tolist()


def read_text(path: Path) -> str:
    """A file's text without its byte-order mark. Raises KitError: unreadable, empty, or not UTF-8 (names the line)."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise KitError(f"{path.name}, line {line}: a byte is not UTF-8; save the file again as UTF-8.") from None
    except OSError as error:
        raise KitError(f"{path} cannot be read ({error.strerror}); check the path and its permissions.") from None
    if not text.strip():
        raise KitError(f"{path.name} is empty; download or write it again.")
    return text


def check_separator(name: str, header: str, sep: str) -> None:
    """Raise KitError when another separator than `sep` cuts the header of file `name`."""
    shown = {",": "a comma", "\t": "a tab", ";": "a semicolon", "|": "a bar"}
    other = next((mark for mark in shown if mark in header), None)
    if sep not in header and other:
        raise KitError(f"{name} is separated by {shown[other]}; save it again separated by {shown[sep]}.")


def read_table(path: Path, sep: str, columns: dict[str, str]) -> pd.DataFrame:
    """Return these columns (lower-case name in the file → ours), the first of which is the key: whole numbers as int64,
    the rest as text ("NaN" stays a word). "" is a first column without a name.

    Quotation marks mean what they mean to pandas, in TSV too. Raise KitError if the table is damaged, and if a stray
    quotation mark makes several rows one.
    """
    text, name = read_text(path), path.name
    check_separator(name, text.lstrip("\r\n").splitlines()[0], sep)
    lines = list(io.StringIO(text, newline=""))  # as CSV ends them: \n, \r\n or \r
    records, opened = _read_records(lines, sep)
    never = f"{name}, line {opened}: a field begins with a quotation mark and never ends; remove that mark or close it."
    if not records:
        raise KitError(never if opened else f"{name} is empty; download or write it again.")
    header, *records = records
    places = _find_columns(name, header, records, columns)
    numbers, key = [place for place, ours in places.items() if ours not in TEXTS], next(iter(places))
    _refuse_rows_in_fields(name, lines, records, _Layout(sep, len(header.fields), key, numbers))
    if opened:
        raise KitError(never)
    if not records:
        raise KitError(f"{name} is empty below its header; download it again.")
    for record in records:
        if (count := len(record.fields)) > len(header.fields):
            wrong = f"{count} fields, not {len(header.fields)}"
            raise KitError(f"{name}, line {record.first}: {wrong}; mend that line or download the file again.")
        record.fields.extend([""] * (len(header.fields) - count))
    frame = pd.DataFrame({ours: [r.fields[place] for r in records] for place, ours in places.items()}, dtype=object)
    for place in numbers:
        ours, column = places[place], " ".join(header.fields[place].split()) or "the row index"
        frame[ours] = _integers(frame[ours], [record.first for record in records], name, column)
    if (again := frame[places[key]].duplicated()).any():
        ids = few(frame[places[key]][again].unique())
        raise KitError(f"{name} has the same {places[key]} in two rows ({ids}); keep one of each.")
    return frame


class _Record(NamedTuple):
    """One row of a table, and the first and last line on which it stands."""

    first: int
    last: int
    fields: list[str]


def _read_records(lines: list[str], sep: str) -> tuple[list[_Record], int]:
    """Return the rows that are not blank, and the line on which a field opens that never ends (0: none does)."""
    csv.field_size_limit(sys.maxsize)
    reader, records, last = csv.reader(itertools.chain(lines, [END]), delimiter=sep), [], 0
    for fields in reader:
        records.append(_Record(last + 1, reader.line_num, fields))
        last = reader.line_num
    end = records.pop()
    opened = 0 if end.fields == [END] else end.first + sum(map(_breaks, end.fields[:-1]))
    return [record for record in records if len(record.fields) > 1 or "".join(record.fields).strip()], opened


def _breaks(field: str) -> int:
    return field.count("\n") + field.count("\r") - field.count("\r\n")


def _find_columns(name: str, header: _Record, records: list[_Record], columns: dict[str, str]) -> dict[int, str]:
    """Return where each of `columns` stands (place in the header → our name), in their order. Raises KitError."""
    found = [" ".join(column.split()) for column in header.fields]
    lower = [column.lower() for column in found]
    if twice := [column for column in columns if column and lower.count(column) > 1]:
        raise KitError(f"{name} has the column {few(twice)} more than once, but for case and spaces; keep one of each.")
    if "" in columns:
        unnamed = [place for place, column in enumerate(lower) if not column or PANDAS_INDEX.fullmatch(column)]
        unnamed = [p for p in unnamed if not p or any("".join(r.fields[p : p + 1]).strip() for r in records)]
        if len(unnamed) > 1:
            which = few([repr(found[place]) if found[place] else f"unnamed column {place + 1}" for place in unnamed])
            raise KitError(
                f"{name} has {len(unnamed)} columns that may be the row index ({which}); keep the one that holds the "
                f"ids, as the first column."
            )
        lower = ["" if unnamed == [0] and not place else column or None for place, column in enumerate(lower)]
    if missing := [column for column in columns if column not in lower]:
        if header.last > header.first:
            raise KitError(
                f"{name}, lines {header.first} to {header.last}: the header holds rows of the table; remove the stray "
                f"quotation mark in line {header.first}, or download the file again."
            )
        wanted, got = (few([column or "(unnamed index)" for column in some], 9) for some in (missing, found))
        raise KitError(f"{name} lacks the column {wanted}; it has {got}: rename the column or download it again.")
    return {lower.index(column): ours for column, ours in columns.items()}


class _Layout:
    """What a row of a table looks like on its line, whatever quotation marks stand in it."""

    def __init__(self, sep: str, width: int, key: int, numbers: list[int]):
        self.sep, self.width, self.key = sep, width, key
        self.texts = [place for place in range(width) if place not in numbers]
        ends = self.texts or [width]
        self.before = range(ends[0])  # the columns of numbers before the first text
        self.after = range(ends[-1] + 1 - width, 0)  # and those after the last, counted from the end

    def ends_row(self, line: str) -> bool:
        cells = self._cells(line)
        return len(cells) >= len(self.after) and all(WHOLE.fullmatch(cells[place]) for place in self.after)

    def read_key(self, lines: Iterator[str]) -> int | None:
        """Return the key of the row that begins with the first of `lines`, or None if none does.

        The row is on that line alone, whatever marks are in it, with texts that may hold the separator; or it is read
        as quoted, and may go on over the next lines.
        """
        cells = self._cells(line := next(lines))
        key = self.key if self.key in self.before else self.key - self.width
        firm = len(self.before) < self.width and (key in self.before or key in self.after)
        if len(cells) < self.width or (len(cells) > self.width and not firm) or not self._holds(cells, key):
            if '"' not in line or not all(WHOLE.fullmatch(cell) for cell in cells[: len(self.before)]):
                return None
            cells = next(csv.reader(itertools.chain([line], lines, [END]), delimiter=self.sep))
            if len(cells) != self.width or cells[-1].endswith(END) or not self._holds(cells, key):
                return None
        return int(WHOLE.fullmatch(cells[key])[1])

    def _holds(self, cells: list[str], key: int) -> bool:
        return all(WHOLE.fullmatch(cells[place]) for place in (key, *self.before, *self.after))

    def _cells(self, line: str) -> list[str]:
        return [cell.strip().strip('"') for cell in line.strip("\r\n").split(self.sep)]


def _refuse_rows_in_fields(name: str, lines: list[str], records: list[_Record], layout: _Layout) -> None:
    """Raise KitError if a quoted field holds rows of its own table: a stray quotation mark opens a field that ends at
    the next mark, which may be many rows on.

    Descriptions of several lines are legal, and may hold lists of numbers. So a line in a field counts as a row only if
    it has numbers where a row has them, as the line before has at its end, and a key that no other row has; and if the
    key fits between those of this row and the next, or the line has letters.
    """
    if all(record.first == record.last for record in records):
        return
    matches = [WHOLE.fullmatch("".join(record.fields[layout.key : layout.key + 1])) for record in records]
    keys = [int(match[1]) if match else None for match in matches]
    known = set(keys)

    def is_row(number: int, last: int, own: int | None, following: int | None) -> bool:
        key = layout.read_key(lines[place] for place in range(number - 1, last))
        if key is None or key in known:
            return False
        fits = own is not None and own < key and (following is None or key < following)
        before = next(lines[place] for place in range(number - 2, -1, -1) if lines[place].strip())
        return (fits or any(character.isalpha() for character in lines[number - 1])) and layout.ends_row(before)

    for record, own, following in zip(records, keys, [*keys[1:], None], strict=True):
        first = record.first
        for place, field in enumerate(record.fields if record.first < record.last else ()):
            last = first + _breaks(field)
            broken = place not in layout.texts and _breaks(field.strip()) > 0
            if broken or any(is_row(n, record.last, own, following) for n in range(first + 1, last + 1)):
                raise KitError(
                    f"{name}, lines {first} to {last}: one field in quotation marks holds rows of the table; remove "
                    f"the stray mark that opens it, or download the file again."
                )
            first = last


def _integers(values: pd.Series, lines: list[int], name: str, column: str) -> pd.Series:
    """Return text as int64. Raises KitError where it is no whole number, or could be taken for another: `007` and `7`
    are two ids, and two codes, to whoever wrote them."""
    if values.str.fullmatch(PLAIN).all():
        return values.astype("int64")
    numbers, written = [], {}
    for line, value in zip(lines, values, strict=True):
        where, text = f"{name}, line {line}: {column} is", value.strip()
        if not (match := WHOLE.fullmatch(value)):
            wrong = f"{where} {value[:60]!r}, not a whole number" if text else f"{where} missing"
            raise KitError(f"{wrong}; mend that line or download the file again.")
        number = int(match[1])
        if re.match("-?0[0-9]", text):
            raise KitError(f"{where} {text!r}, which would be read as {number}; write it without leading zeros.")
        if (other := written.setdefault(number, text)) != text:
            raise KitError(f"{where} {text!r}, and {other!r} in another line; write the same number alike.")
        numbers.append(number)
    return pd.Series(numbers, dtype="int64")


def _read_items(path: Path, edition: Edition, clean_titles: bool, clean_descriptions: bool) -> pd.DataFrame:
    frame = read_table(path, edition.sep, edition.columns)
    raw = frame[["title", "description", "image_id", "product_id"]].itertuples(index=False, name=None)
    frame["fingerprint"] = [_fingerprint(*values) for values in raw]
    titles = [clean_text(text, light=True) if clean_titles else compose(text) for text in frame["title"]]
    descriptions = [clean_text(text) if clean_descriptions else compose(text) for text in frame["description"]]
    if empty := [i for i, text in zip(frame["id"], titles, strict=True) if not text.strip()]:
        raise KitError(f"{path.name} has an empty title in {len(empty)} rows (id {few(empty)}); fill them in.")
    frame["title"] = pd.Series(titles, dtype=object)  # object: None is what is missing under pandas 2 and 3 alike
    frame["description"] = pd.Series([text if text.strip() else None for text in descriptions], dtype=object)
    return frame[["id", "title", "description", "image_id", "product_id", "fingerprint"]]


def _fingerprint(title: str, description: str, *ids: int) -> str:
    """A hash of what a product is, alike however its text is cleaned and its file's lines end."""
    parts = [" ".join(compose(text).split()) for text in (title, description)]
    return hashlib.blake2b("\n".join([*parts, *map(str, ids)]).encode(), digest_size=8).hexdigest()


def _add_labels(frame: pd.DataFrame, x_name: str, path: Path, edition: Edition) -> None:
    labels = read_table(path, edition.sep, edition.label_columns).set_index("id")
    ids, known = set(frame["id"]), set(labels.index)
    if ids != known:
        sides = {x_name: sorted(ids - known), path.name: sorted(known - ids)}
        only = " and ".join(f"{len(extra)} only in {name} ({few(extra)})" for name, extra in sides.items() if extra)
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
                f"(id {few(frame['id'][differ])}); take both files from the same download."
            )
    frame["label"] = labels["label"].to_numpy()


def _list(folder) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise KitError(f"{folder} cannot be listed ({error.strerror}); give the folder of the challenge.") from None


def _match(folder: Path, files: list[str], pattern: str) -> Path | None:
    found = [name for name in files if fnmatch(name.lower(), pattern)]
    if len(found) > 1:
        raise KitError(f"{folder} has {len(found)} candidates for {pattern}: {' and '.join(found)}; keep one.")
    return folder / found[0] if found else None


def _find_images(folder: Path) -> tuple[dict[tuple[int, int], list[str]], list[str]]:
    """Paths by (image id, product id), and the folder links that leave the folder.

    Folder links are not followed: a target inside the folder is found under its own name, and nothing can loop.
    """
    found, links, todo = {}, [], [folder]
    while todo:
        for entry in _list(todo.pop()):
            if entry.is_dir(follow_symlinks=False):
                todo.append(entry.path)
            elif entry.is_dir():
                if not Path(entry.path).resolve().is_relative_to(folder):
                    links.append(os.path.relpath(entry.path, folder))
            elif (match := IMAGE_NAME.fullmatch(entry.name)) and entry.is_file():  # a broken link is a missing image
                found.setdefault((int(match[1]), int(match[2])), []).append(entry.path)
    return found, links


def _add_images(frame: pd.DataFrame, split: str, path: Path, images: str, found: dict, links: list[str]) -> None:
    words = ["train"] if split == "train" else ["test", *split.split("_")]

    def fits(name):  # the same name in several folders: the one whose path says this split
        where = os.path.relpath(os.path.dirname(name), path.parent).lower()
        return -sum(word in where for word in words), name

    def best(names):
        first, second = sorted(names, key=fits)[:2]
        if fits(first)[0] == fits(second)[0] and not filecmp.cmp(first, second, shallow=False):
            both = " and ".join(os.path.relpath(name, path.parent) for name in (first, second))
            raise KitError(f"{path.name} has an item with two pictures that differ, {both}; remove the wrong one.")
        return first

    keys = list(zip(frame["image_id"], frame["product_id"], strict=True))
    here = [found.get(key, [None]) for key in keys]
    paths = [paths[0] if len(paths) == 1 else best(paths) for paths in here]
    frame["image_path"] = pd.Series(paths, dtype=object)
    missing = ["image_{}_product_{}.jpg".format(*key) for key in keys if key not in found]
    if missing and images in ("require", "warn"):
        hint = f" (not followed: {few(links)}, a link that leaves the folder)" if links else ""
        sentence = (
            f"{len(missing)} of the {len(keys)} images of {path.name} are missing under {path.parent}{hint}: "
            f"{few(missing, 3)}; put them anywhere in it, or do without them: -p missing blank."
        )
        if images == "require":
            raise KitError(sentence)
        warnings.warn(sentence, stacklevel=3)


def read_names(folder) -> dict[int | str, str]:
    """Class names by code from the optional `classes.csv` (`code,name`); empty without the file. Raises KitError."""
    folder = resolve(folder)
    path = _match(folder, [entry.name for entry in _list(folder)], "classes.csv")
    if path is None:
        return {}
    frame = read_table(path, ",", {"code": "code", "name": "name"})
    return {int(code): name.strip() or str(code) for code, name in zip(frame["code"], frame["name"], strict=True)}


def read_challenge(folder, clean_titles=True, clean_descriptions=True, images="require") -> Challenge:
    """Read and check a challenge folder; its edition shows in its file names, whatever their case. Raises KitError.

    Titles are cleaned lightly, descriptions fully (`clean_text`). A missing image raises (`images="require"`), warns
    and leaves None ("warn"), leaves None ("leave"), or none is looked for ("ignore"). Rows keep the order of X; labels
    are joined by id.
    """
    if images not in (known := ("require", "warn", "leave", "ignore")):
        raise KitError(f"images is {images!r}; choose one of {', '.join(known)}.")
    folder = resolve(folder)
    files = [entry.name for entry in _list(folder) if entry.is_file()]
    patterns = {name: [e.train, e.labels, *e.tests.values()] for name, e in EDITIONS.items()}
    there = [name for name in EDITIONS if any(fnmatch(file.lower(), p) for file in files for p in patterns[name])]
    if len(there) != 1:
        wrong = "files of both editions" if there else f"no challenge files (only {few(files) or 'folders'})"
        raise KitError(
            f"{folder} has {wrong}; give a folder with either X_train*.csv and Y_train*.csv "
            "(challengedata) or X_train.tsv and Y_train.tsv (sigir)."
        )
    edition = EDITIONS[there[0]]
    found = {pattern: _match(folder, files, pattern) for pattern in patterns[there[0]]}
    if absent := [p.capitalize() for p in (edition.train, edition.labels) if found[p] is None]:
        raise KitError(f"{folder} lacks {' and '.join(absent)} ({there[0]} edition); download it into that folder.")
    paths = {"train": found[edition.train]} | {split: found[p] for split, p in edition.tests.items() if found[p]}
    frames = {split: _read_items(path, edition, clean_titles, clean_descriptions) for split, path in paths.items()}
    _add_labels(frames["train"], paths["train"].name, found[edition.labels], edition)
    names = read_names(folder)
    located = ({}, []) if images == "ignore" else _find_images(folder)
    for split, frame in frames.items():
        _add_images(frame, split, paths[split], images, *located)
    train = frames.pop("train").drop(columns="fingerprint")
    return Challenge(there[0], train, frames, names, folder)


def read_test_ids(challenge: Challenge, split: str) -> list[int]:
    """Return the ids of a test file as they stand in it now. Raises KitError."""
    edition, files = EDITIONS[challenge.edition], [entry.name for entry in _list(challenge.folder) if entry.is_file()]
    if (path := _match(challenge.folder, files, edition.tests[split])) is None:
        raise KitError(f"{challenge.folder} has no {edition.tests[split]} any more; put the test file back.")
    return read_table(path, edition.sep, edition.columns)["id"].tolist()
