"""What the build scripts share: from items to a folder in the challenge's format, the same bytes every time."""

import argparse
import csv
import hashlib
import html
import io
import lzma
import shutil
import sys
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from html.entities import codepoint2name
from pathlib import Path

import PIL
from PIL import Image

HERE = Path(__file__).resolve().parent
PILLOW = "13.0.0"  # JPEG bytes depend on the library that writes them
# The markup is ours: the real catalogue's descriptions come as HTML in many forms, so these do too.
TEMPLATES = [
    lambda tags: ", ".join(tags),
    lambda tags: "<p>" + ", ".join(tags) + "</p>",
    lambda tags: "<br />".join(tags),
    lambda tags: "<ul>" + "".join(f"<li>{tag}</li>" for tag in tags) + "</ul>",
    lambda tags: f"<b>{tags[0]}</b>" + "".join(f"<br />-&nbsp;{tag}" for tag in tags[1:]),
    lambda tags: "<p>" + " &amp; ".join(tags) + "</p>",
]


def digest(use: str, key: str) -> int:
    """Return one number per use and item: a hash stands in for chance, so that no library's generator matters."""
    return int(hashlib.sha256(f"{use}:{key}".encode()).hexdigest(), 16)


@dataclass(frozen=True)
class Item:
    """A product as its source has it; its ids, row and part of the split are hashes of `key`."""

    key: str
    title: str
    description: str
    label: str  # name of the class
    image: bytes  # JPEG

    @property
    def productid(self) -> int:
        return 1 + digest("product", self.key) % (10**10 - 1)

    @property
    def imageid(self) -> int:
        return 1 + digest("image", self.key) % (10**10 - 1)


def markup(key: str, tags: list[str]) -> str:
    """Return the keywords as HTML, in one of six forms and with or without entities for accented letters."""
    tags = [html.escape(tag, quote=False) for tag in tags]
    if digest("entities", key) % 2:
        tags = [
            "".join(
                f"&{codepoint2name[ord(c)]};" if c > "\x7f" and ord(c) in codepoint2name else c
                for c in tag.replace("’", "'").replace("'", "&#39;")
            )
            for tag in tags
        ]
    return TEMPLATES[digest("template", key) % len(TEMPLATES)](tags)


def jpeg(data: bytes, side: int) -> bytes:
    """Return the picture on a white square of `side` pixels: larger ones are scaled down, none is stretched."""
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    image.thumbnail((side, side))
    canvas = Image.new("RGBA", (side, side), "white")
    canvas.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    out = io.BytesIO()
    canvas.convert("RGB").save(out, "JPEG", quality=85, subsampling="4:2:0", optimize=True)
    return out.getvalue()


def split(items: list[Item]) -> dict[str, list[Item]]:
    """Set a fifth of each class aside for testing. Twins (one picture, two names) stay together, so as not to leak."""
    twins: dict[bytes, str] = {}
    twin = {item.key: twins.setdefault(item.image, item.key) for item in items}
    classes = defaultdict(set)
    for item in items:
        classes[item.label].add(twin[item.key])
    test = set()
    for keys in classes.values():
        test.update(sorted(keys, key=lambda key: digest("split", key))[: round(len(keys) / 5)])
    rows = sorted(items, key=lambda item: digest("row", item.key))
    return {
        "train": [item for item in rows if twin[item.key] not in test],
        "test": [item for item in rows if twin[item.key] in test],
    }


def write_csv(path: Path, rows: list[list]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def write(name: str, items: list[Item], codes: dict[str, int], out: Path) -> None:
    """Write the catalogue into `out/name`, and the answers to its test items into `out/name_answers`."""
    folder, answers = out / name, out / f"{name}_answers"
    answers.mkdir()
    start = 0
    for part, members in split(items).items():
        images = folder / "images" / f"image_{part}"
        images.mkdir(parents=True)
        x: list[list] = [["", "designation", "description", "productid", "imageid"]]
        y: list[list] = [["", "prdtypecode"]]
        for index, item in enumerate(members, start):
            x.append([index, item.title, item.description, item.productid, item.imageid])
            y.append([index, codes[item.label]])
            file = images / f"image_{item.imageid}_product_{item.productid}.jpg"
            with open(file, "xb") as image:  # x: two alike would stop here
                image.write(item.image)
        write_csv(folder / f"X_{part}_update.csv", x)
        write_csv(folder / "Y_train_CVw08PX.csv" if part == "train" else answers / "Y_test.csv", y)
        start += len(members)
    write_csv(folder / "classes.csv", [["code", "name"], *([code, label] for label, code in codes.items())])
    for note in ("README.md", "LICENSES.md"):  # written by hand, and part of a folder that is shipped
        if (HERE / name / note).is_file():
            shutil.copyfile(HERE / name / note, folder / note)


def read(path: Path, package: str, sha256: str) -> bytes:
    if not path.is_file():
        sys.exit(f"There is no file {path}: get {package} as the top of this script says.")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        sys.exit(f"{path} is not the file of {package} that the catalogue is made from (its SHA-256 differs).")
    return data


def open_deb(deb: bytes) -> tarfile.TarFile:
    """Return the files of a .deb. It is an ar archive: 60 bytes before each part, the size in bytes 48 to 58."""
    start = 8
    while not deb[start:].startswith(b"data.tar.xz"):
        start += 60 + (int(deb[start + 48 : start + 58]) + 1) // 2 * 2  # parts begin at even bytes
    return tarfile.open(fileobj=io.BytesIO(lzma.decompress(deb[start + 60 :])))


def contents(folder: Path, parts: tuple[str, str]) -> dict[str, bytes]:
    files = (path for part in parts for path in (folder / part).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def main(doc: str, name: str, sources: dict[str, str], build: Callable[[list[bytes], Path], None]) -> None:
    """Run a build script: `build` gets the bytes of the sources (package -> SHA-256) and the folder to write into."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs=len(sources), help=", ".join(sources))
    parser.add_argument("--out", type=Path, default=HERE, help="where the catalogue and its answers go (default: data)")
    parser.add_argument("--check", action="store_true", help="compare only, change nothing")
    args = parser.parse_args()
    data = [read(path, *source) for path, source in zip(args.files, sources.items(), strict=True)]
    parts = (name, f"{name}_answers")
    if not args.check:
        args.out.mkdir(parents=True, exist_ok=True)
    # Built beside the goal and moved when whole, so that a stop half-way leaves the old catalogue as it was.
    with tempfile.TemporaryDirectory(dir=None if args.check else args.out) as folder:
        temp = Path(folder)
        (temp / "new").mkdir()
        build(data, temp / "new")
        new, old = contents(temp / "new", parts), contents(args.out, parts)
        differ = sorted(path for path in new.keys() | old.keys() if new.get(path) != old.get(path))
        if args.check and differ:
            hint = "" if PIL.__version__ == PILLOW else f" This is Pillow {PIL.__version__}, not {PILLOW}."
            sys.exit(f"{len(differ)} of {len(new)} files differ, the first being {differ[0]}.{hint}")
        for part in () if args.check else parts:
            if (args.out / part).exists():
                (args.out / part).rename(temp / part)
            (temp / "new" / part).rename(args.out / part)
    print(f"{len(new)} files, {sum(map(len, new.values())) / 1e6:.1f} MB: {'the same' if args.check else 'written'}.")
