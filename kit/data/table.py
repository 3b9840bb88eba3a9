"""Read delimited files and name their faults: encoding, separator, columns, rows, whole numbers."""

import codecs
import csv
import io
import itertools
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow.parquet as pq

from kit.core.exceptions import KitError, shorten
from kit.data.text import INVISIBLE, compose

WHOLE_NUMBER = re.compile(r"\s*(-?[0-9]{1,18})(?:\.0*)?\s*")  # matched as text: a float would round a long id
PLAIN_NUMBER = "0|-?[1-9][0-9]{0,17}"  # the usual way to write a whole number
TEXT_COLUMNS = ("title", "description", "name")  # our columns that hold text; the others hold whole numbers
PANDAS_INDEX = re.compile(r"unnamed: 0(?:\.\d+)?")  # pandas' name for an unnamed first column that it saves again
JSON = (".json", ".jsonl", ".ndjson")
PARQUET = (".parquet", ".pq")
# how files begin that hold a table in a form that is not read, with what to do about it
CLOSED = {
    b"PK\x03\x04": "is a spreadsheet or a zip archive: save its table as CSV UTF-8, or unpack it",
    b"\xd0\xcf\x11\xe0": "is an Excel workbook: save it as CSV UTF-8",
    b"\x1f\x8b": "is compressed: unpack it with gunzip",
    b"BZh": "is compressed: unpack it with bunzip2",
    b"\xfd7zXZ": "is compressed: unpack it with unxz",
    b"(\xb5/\xfd": "is compressed: unpack it with unzstd",
    codecs.BOM_UTF16_LE: "is UTF-16: save it as UTF-8",
    codecs.BOM_UTF16_BE: "is UTF-16: save it as UTF-8",
}
EXCEL = re.compile(r'"?sep=.?"?(?=[\r\n])')  # a first line by which Excel is told the separator
SEPARATORS = {",": "a comma", "\t": "a tab", ";": "a semicolon", "|": "a bar"}
END = "\0end of the table"  # appended to a table: an unclosed quotation mark swallows it


def read_text(path: Path) -> str:
    """Return a file's text without its byte-order mark.

    Raise KitError if the file is unreadable, compressed, a workbook, empty or not UTF-8; in the last case it names the
    line.
    """
    try:
        if path.suffix.lower() in JSON:
            raise KitError(f"{path.name} is JSON: save it as CSV or Parquet, such as with pandas.")
        content = path.read_bytes()
        if advice := next((words for start, words in CLOSED.items() if content.startswith(start)), ""):
            raise KitError(f"{path.name} {advice}.")
        text = content.decode("utf-8").lstrip("\ufeff")  # joined files have several marks
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise KitError(f"{path.name}, line {line}: a byte is not UTF-8; save the file again as UTF-8.") from None
    except OSError as error:
        raise KitError(f"{path} cannot be read ({error.strerror}); check the path and its permissions.") from None
    if not text.strip():
        raise KitError(f"{path.name} is empty; download or write it again.")
    return text


def check_separator(name: str, header: str, sep: str) -> None:
    """Raise KitError if the header of the file `name` uses a separator other than `sep`."""
    other = next((mark for mark in SEPARATORS if mark in header), None)
    if sep not in header and other:
        raise KitError(f"{name} is separated by {SEPARATORS[other]}; save it again separated by {SEPARATORS[sep]}.")


def read_table(path: Path, sep: str, columns: dict[str, str]) -> pd.DataFrame:
    """Return these columns (lower-case name in the file → our name); the first is the key, and "" an unnamed first one.

    TEXT_COLUMNS stay text ("NaN" is a word); the others become int64. Quotation marks are read as pandas reads them, in
    TSV too. Raise KitError if the table is damaged, or if a stray quotation mark merges several rows into one.
    """
    text, name = read_text(path), path.name
    check_separator(name, text.lstrip("\r\n").splitlines()[0], sep)
    lines = list(io.StringIO(text, newline=""))  # CSV's line endings: \n, \r\n or \r
    records, opened = _read_records(lines, sep)
    never = f"{name}, line {opened}: a field begins with a quotation mark that is never closed; remove or close it."
    if not records:
        raise KitError(never if opened else f"{name} is empty; download or write it again.")
    header, *records = records
    places = _find_columns(name, header, records, columns)
    numbers, key = [place for place, ours in places.items() if ours not in TEXT_COLUMNS], next(iter(places))
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
        ids = shorten(frame[places[key]][again].unique())
        raise KitError(f"{name} has the same {places[key]} in two rows ({ids}); keep one of each.")
    return frame


def read_delimited(
    path: Path, columns: Sequence[str], require: Callable[[str, Sequence[str], Sequence[str]], None]
) -> tuple[dict[str, list[str]], list[int], dict[int, str]]:
    """Return the texts of these columns, the line in which each row begins, and what is wrong with a row's fields.

    The separator is the one of SEPARATORS that finds the columns in the header. `require(name, header, columns)` raises
    if the header lacks one. Raise KitError if the file cannot be read, or if its separator is not clear.
    """
    name, lines = path.name, _read_lines(path)
    headers = {sep: _header(name, lines, sep) for sep in SEPARATORS}
    fitting = [sep for sep, header in headers.items() if set(columns) <= set(header)]
    several = [sep for sep, header in headers.items() if len(header) > 1]
    if not fitting and len(several) > 1:
        marks = " or ".join(SEPARATORS[sep] for sep in several)
        raise KitError(
            f"{name} may be separated by {marks}, and with none of them its header has the columns {shorten(columns)}: "
            f"it is {lines[0].strip()[:200]!r}; save it with one separator, or name columns that it has."
        )
    sep = [*fitting, *several, ","][0]
    require(name, headers[sep], columns)
    records, opened = _read_records(lines, sep, _is_spaced(lines, sep))
    if opened:
        raise KitError(
            f"{name}, line {opened}: a field begins with a quotation mark that is never closed; remove or close it."
        )
    start = next(number for number, record in enumerate(records) if "".join(record.fields).strip())  # the header
    head, width, records = records[start], len(headers[sep]), records[start + 1 :]
    if any(_holds_rows(field, place, width, sep) for place, field in enumerate(head.fields)):
        raise KitError(f"{name}, line {head.first}: a stray quotation mark makes the header hold rows; remove it.")
    while records and not "".join(records[-1].fields).strip():  # as Excel writes below a table
        records.pop()
    places, faults = [headers[sep].index(column) for column in columns], {}
    for number, record in enumerate(records):
        if len(record.fields) != width:
            faults[number] = f"{len(record.fields)} fields, not {width}"
        elif width > 1 and [*map(column_name, record.fields)] == headers[sep]:
            faults[number] = "the header again, as in files put one after the other"
        elif any(_holds_rows(field, place, width, sep) for place, field in enumerate(record.fields)):
            faults[number] = f"a field in quotation marks goes on to line {record.last} and seems to hold further rows"
        record.fields.extend([""] * (width - len(record.fields)))
    texts = {column: [r.fields[place] for r in records] for column, place in zip(columns, places, strict=True)}
    return texts, [record.first for record in records], faults


def read_headers(path: Path) -> list[list[str]]:
    """Return the columns of a delimited file as each of SEPARATORS divides its header. Raise KitError as `read_text`
    does, or if a quotation mark in the header is never closed."""
    lines = _read_lines(path)
    return [_header(path.name, lines, sep) for sep in SEPARATORS]


def parquet_columns(path: Path) -> list[str]:
    """Return the columns of a Parquet file. Raise KitError if it cannot be read."""
    try:
        return pq.read_schema(path).names
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise KitError(f"{path} cannot be read as Parquet ({error}); write it again.") from None


def _read_lines(path: Path) -> list[str]:
    """Return the lines of a delimited file; one that tells Excel the separator is left blank, so that line numbers
    stay."""
    text = read_text(path)
    told = EXCEL.match(text)
    return list(io.StringIO(text[told.end() :] if told else text, newline=""))


def column_name(text: str) -> str:
    """Return the name of a column without what nobody sees in it: accents of their own, invisible characters."""
    return compose(INVISIBLE.sub("", text)).strip()


def _header(name: str, lines: list[str], sep: str) -> list[str]:
    last, reader = 0, _reader(lines, sep, _is_spaced(lines, sep))
    for row in reader:
        if row and row != [END] and row[-1].endswith(END):
            raise KitError(f"{name}, line {last + 1}: the header has a quotation mark that is never closed; remove it.")
        if "".join(row).strip():
            return [*map(column_name, row)]
        last = reader.line_num
    return []


def _is_spaced(lines: list[str], sep: str) -> bool:
    """Return whether separators are followed by a space, which hides a field's quotation marks from a reader of CSV."""
    field = re.compile(rf'{re.escape(sep)} +"[^"]+"\s*(?:{re.escape(sep)}|$)')
    return any(' "' in line and field.search(line) for line in lines)


def _reader(lines: list[str], sep: str, spaced: bool):
    csv.field_size_limit(sys.maxsize)
    return csv.reader(itertools.chain(lines, [END]), delimiter=sep, skipinitialspace=spaced)


def _holds_rows(field: str, place: int, width: int, sep: str) -> bool:
    """Return whether a field may hold rows of its own table, because a stray quotation mark opens it.

    Then it begins with the end of a row and ends with the beginning of one: with as many separators as such parts have,
    and, unlike in prose, none of them before a space.
    """
    first, *inner = re.split("\r\n|\r|\n", field.strip())
    return bool(
        inner
        and width > 1
        and f"{sep} " not in field
        and first.count(sep) == width - 1 - place
        and inner[-1].count(sep) == place
        and all(line.count(sep) == width - 1 for line in inner[:-1])
    )


class _Record(NamedTuple):
    """One row of a table, with its first and last line."""

    first: int
    last: int
    fields: list[str]


def _read_records(lines: list[str], sep: str, spaced: bool = False) -> tuple[list[_Record], int]:
    """Return the rows that are not blank, and the line of a field that is never closed (0: there is none)."""
    reader, records, last = _reader(lines, sep, spaced), [], 0
    for fields in reader:
        records.append(_Record(last + 1, reader.line_num, fields))
        last = reader.line_num
    end = records.pop()
    opened = 0 if end.fields == [END] else end.first + sum(map(_breaks, end.fields[:-1]))
    return [record for record in records if len(record.fields) > 1 or "".join(record.fields).strip()], opened


def _breaks(field: str) -> int:
    return field.count("\n") + field.count("\r") - field.count("\r\n")


def _find_columns(name: str, header: _Record, records: list[_Record], columns: dict[str, str]) -> dict[int, str]:
    """Return the header positions of `columns` (position → our name), in their order.

    Raise KitError if a column is missing or ambiguous.
    """
    headings = [" ".join(column_name(column).split()) for column in header.fields]
    lower = [column.lower() for column in headings]
    names: list[str | None] = [*lower]
    if twice := [column for column in columns if column and lower.count(column) > 1]:
        raise KitError(
            f"{name} has the column {shorten(twice)} more than once, ignoring case and spaces; keep one of each."
        )
    if "" in columns:
        unnamed = [place for place, column in enumerate(lower) if not column or PANDAS_INDEX.fullmatch(column)]
        unnamed = [p for p in unnamed if not p or any("".join(r.fields[p : p + 1]).strip() for r in records)]
        if len(unnamed) > 1:
            which = shorten(
                [repr(headings[place]) if headings[place] else f"unnamed column {place + 1}" for place in unnamed]
            )
            raise KitError(
                f"{name} has {len(unnamed)} columns that may be the row index ({which}); keep the one that holds the "
                f"ids, as the first column."
            )
        names = ["" if unnamed == [0] and not place else column or None for place, column in enumerate(lower)]
    if missing := [column for column in columns if column not in names]:
        if header.last > header.first:
            raise KitError(
                f"{name}, lines {header.first} to {header.last}: the header holds rows of the table; remove the stray "
                f"quotation mark in line {header.first}, or download the file again."
            )
        wanted, got = (shorten([column or "(unnamed index)" for column in some], 9) for some in (missing, headings))
        raise KitError(f"{name} lacks the column {wanted}; it has {got}: rename the column or download it again.")
    return {names.index(column): ours for column, ours in columns.items()}


class _Layout:
    """How to recognise a row of a table in its line, whatever quotation marks are in it."""

    def __init__(self, sep: str, width: int, key: int, numbers: list[int]):
        self.sep, self.width, self.key = sep, width, key
        self.texts = [place for place in range(width) if place not in numbers]
        ends = self.texts or [width]
        self.before = range(ends[0])  # the columns of numbers before the first text
        self.after = range(ends[-1] + 1 - width, 0)  # and those after the last, counted from the end

    def ends_row(self, line: str) -> bool:
        cells = self._cells(line)
        return len(cells) >= len(self.after) and all(WHOLE_NUMBER.fullmatch(cells[place]) for place in self.after)

    def read_key(self, lines: Iterator[str]) -> int | None:
        """Return the key of the row that begins with the first of `lines`, or None if none does.

        The row may be on that line alone, with any quotation marks, and with separators in its texts; or it may be
        properly quoted, and continue over the next lines.
        """
        cells = self._cells(line := next(lines))
        key = self.key if self.key in self.before else self.key - self.width
        firm = len(self.before) < self.width and (key in self.before or key in self.after)
        if len(cells) < self.width or (len(cells) > self.width and not firm) or not self._holds(cells, key):
            if '"' not in line or not all(WHOLE_NUMBER.fullmatch(cell) for cell in cells[: len(self.before)]):
                return None
            cells = next(csv.reader(itertools.chain([line], lines, [END]), delimiter=self.sep))
            if len(cells) != self.width or cells[-1].endswith(END) or not self._holds(cells, key):
                return None
        number = WHOLE_NUMBER.fullmatch(cells[key])
        return int(number[1]) if number else None

    def _holds(self, cells: list[str], key: int) -> bool:
        return all(WHOLE_NUMBER.fullmatch(cells[place]) for place in (key, *self.before, *self.after))

    def _cells(self, line: str) -> list[str]:
        return [cell.strip().strip('"') for cell in line.strip("\r\n").split(self.sep)]


def _refuse_rows_in_fields(name: str, lines: list[str], records: list[_Record], layout: _Layout) -> None:
    """Raise KitError if a quoted field contains rows of its own table.

    A stray quotation mark opens a field that ends at the next mark, possibly many rows later.

    Descriptions may have several lines and contain lists of numbers. So a line in a field counts as a row only if it
    has numbers in the number columns, ends like a row, follows a line that ends like a row, and has a key that no other
    row has; and if that key lies between those of this row and the next, or the line has letters.
    """
    if all(record.first == record.last for record in records):
        return
    matches = [WHOLE_NUMBER.fullmatch("".join(record.fields[layout.key : layout.key + 1])) for record in records]
    keys = [int(match[1]) if match else None for match in matches]
    known = set(keys)

    def is_row(number: int, last: int, current: int | None, following: int | None) -> bool:
        key = layout.read_key(lines[place] for place in range(number - 1, last))
        if key is None or key in known:
            return False
        fits = current is not None and current < key and (following is None or key < following)
        before = next(lines[place] for place in range(number - 2, -1, -1) if lines[place].strip())
        return (fits or any(character.isalpha() for character in lines[number - 1])) and layout.ends_row(before)

    for record, current, following in zip(records, keys, [*keys[1:], None], strict=True):
        first = record.first
        for place, field in enumerate(record.fields if record.first < record.last else ()):
            last = first + _breaks(field)
            broken = place not in layout.texts and _breaks(field.strip()) > 0
            if broken or any(is_row(n, record.last, current, following) for n in range(first + 1, last + 1)):
                raise KitError(
                    f"{name}, lines {first} to {last}: one field in quotation marks holds rows of the table; remove "
                    f"the stray mark that opens it, or download the file again."
                )
            first = last


def _integers(values: pd.Series, lines: list[int], name: str, column: str) -> pd.Series:
    """Return text as int64. Raise KitError if a value is not a whole number, or could be confused with another: `007`
    and `7` may be two ids, or two codes, to whoever wrote them."""
    if values.str.fullmatch(PLAIN_NUMBER).all():
        return values.astype("int64")
    numbers: list[int] = []
    written: dict[int, str] = {}
    for line, value in zip(lines, values, strict=True):
        subject, text = f"{name}, line {line}: {column} is", value.strip()
        if not (match := WHOLE_NUMBER.fullmatch(value)):
            wrong = f"{subject} {value[:60]!r}, not a whole number" if text else f"{subject} missing"
            raise KitError(f"{wrong}; mend that line or download the file again.")
        number = int(match[1])
        if re.match("-?0[0-9]", text):
            raise KitError(f"{subject} {text!r}, which would be read as {number}; write it without leading zeros.")
        if (other := written.setdefault(number, text)) != text:
            raise KitError(f"{subject} {text!r}, and {other!r} in another line; write the same number the same way.")
        numbers.append(number)
    return pd.Series(numbers, dtype="int64")
