"""The challenge folder, in either edition, read into checked frames; and the cleaning of its text."""

import filecmp
import html
import io
import os
import re
import warnings
from dataclasses import dataclass
from fnmatch import fnmatch
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


@dataclass(frozen=True, eq=False)
class Challenge:
    """One challenge folder: frames of `id, title, description, image_id, product_id, image_path`, in train `label` too.

    A missing description or image path is None, never "". `test` is keyed by split; it is empty without a test file.
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


def clean_text(text: str, light: bool = False) -> str:
    """Plain text: entities (escaped up to three times), tags, mojibake, control characters, white space.

    `light` mends entities and white space only: the form for titles, since cleaning titles costs about a point of
    macro-F1 on this data (Synerise, SIGIR eCom 2020). Mojibake is ftfy's work: `Ã©tÃ©` becomes `été`. It cannot restore
    `à¢me` (âme, lower-cased after the damage) nor a letter lost to a `?` in mid-word: both stay as they are.
    """
    for _ in range(3):
        if "&" not in text or (plain := html.unescape(text)) == text:
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
    return " ".join(text.split())


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


def _read_table(path: Path, sep: str, columns: dict[str, str]) -> pd.DataFrame:
    """These columns: numbers as int64, the rest text ("NaN" stays a word); quoting is pandas' default, in TSV too."""
    text, name = read_text(path), path.name
    check_separator(name, text.lstrip("\r\n").splitlines()[0], sep)
    try:
        frame = pd.read_csv(io.StringIO(text), sep=sep, dtype=object, na_filter=False)
    except pd.errors.ParserError as error:
        reason = str(error).rsplit("C error: ", 1)[-1].strip()
        raise KitError(f"{name} is not a whole table ({reason}); mend that line or download it again.") from None
    if not isinstance(frame.index, pd.RangeIndex):  # pandas took the surplus field for an index
        raise KitError(f"{name}, row 1 below the header: more fields than the header has; download it again.")
    found = ["" if column == "Unnamed: 0" else " ".join(column.split()) for column in frame.columns]
    frame.columns = lower = [column.lower() for column in found]
    if twice := [column for column in columns if lower.count(column) > 1]:
        raise KitError(f"{name} has the column {few(twice)} more than once, but for case and spaces; keep one of each.")
    if missing := [column for column in columns if column not in frame]:
        wanted, got = (few([column or "(unnamed index)" for column in some], 9) for some in (missing, found))
        raise KitError(f"{name} lacks the column {wanted}; it has {got}: rename the column or download it again.")
    if frame.empty:
        raise KitError(f"{name} is empty below its header; download it again.")
    frame = frame[list(columns)].rename(columns=columns)
    for column, ours in columns.items():
        if ours not in ("title", "description", "name"):
            frame[ours] = _integers(frame[ours], name, column or "the row index")
    key = frame.columns[0]
    if (again := frame[key].duplicated()).any():
        raise KitError(f"{name} has the same {key} in two rows ({few(frame[key][again].unique())}); keep one of each.")
    return frame


def _integers(values: pd.Series, name: str, column: str) -> pd.Series:
    plain = values.str.fullmatch("[0-9]{1,18}")
    if plain.all():
        return values.astype("int64")
    matches = [WHOLE.fullmatch(value) for value in values]
    if None in matches:
        row = matches.index(None)
        value = values.iloc[row]
        wrong = f"{column} is {value!r}, not a whole number" if value.strip() else f"{column} is missing"
        raise KitError(f"{name}, row {row + 1} below the header: {wrong}; mend that row or download the file again.")
    return pd.Series([int(match[1]) for match in matches], dtype="int64")


def _read_items(path: Path, edition: Edition, clean_titles: bool, clean_descriptions: bool) -> pd.DataFrame:
    frame = _read_table(path, edition.sep, edition.columns)
    titles, descriptions = list(frame["title"]), list(frame["description"])
    if clean_titles:
        titles = [clean_text(text, light=True) for text in titles]
    if clean_descriptions:
        descriptions = [clean_text(text) for text in descriptions]
    if empty := [i for i, text in zip(frame["id"], titles, strict=True) if not text.strip()]:
        raise KitError(f"{path.name} has an empty title in {len(empty)} rows (id {few(empty)}); fill them in.")
    frame["title"] = pd.Series(titles, dtype=object)  # object: None is what is missing under pandas 2 and 3 alike
    frame["description"] = pd.Series([text if text.strip() else None for text in descriptions], dtype=object)
    return frame[["id", "title", "description", "image_id", "product_id"]]


def _add_labels(frame: pd.DataFrame, x_name: str, path: Path, edition: Edition) -> None:
    labels = _read_table(path, edition.sep, edition.label_columns).set_index("id")
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
    frame = _read_table(path, ",", {"code": "code", "name": "name"})
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
    return Challenge(there[0], frames.pop("train"), frames, names, folder)
