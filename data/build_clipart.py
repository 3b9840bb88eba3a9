"""Makes a catalogue of clip art in data/clipart, with its answers in data/clipart_answers; it is not shipped.

    cd data
    apt-get download openclipart-svg=1:0.18+dfsg-19 openclipart-png=1:0.18+dfsg-19   # Debian; 160 MB, installs nothing
    python build_clipart.py openclipart-svg_*.deb openclipart-png_*.deb [--out DIR] [--check]

Nothing of the kit was tuned on it: benchmarks/unseen.py trains on it what was chosen on the shipped catalogues. The
drawings are in the public domain.

- Title: that of the drawing, in English, Italian, French and other languages, without numbers. A drawing whose title
  another of its class has is left out, so that no set of numbered drawings is most of a class.
- Description: that of the drawing; four of five have none. Keywords are left out, for they name the class.
- Class: the folder of the second level; a folder with fewer than SMALLEST drawings joins its parent. Of a drawing in
  several folders the deepest counts. Abstract drawings are left out. No class has more than LARGEST.
"""

import re
from collections import defaultdict
from html import unescape
from pathlib import Path, PurePosixPath

from catalogue import Item, digest, jpeg, main, open_deb, write
from PIL import Image

Image.MAX_IMAGE_PIXELS = None  # some drawings are large; their hash is known
SOURCES = {
    "openclipart-svg 1:0.18+dfsg-19": "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
    "openclipart-png 1:0.18+dfsg-19": "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
}
ABSTRACT = (
    "buttons",
    "computer/buttons",
    "computer/icons",
    "logos",
    "shapes",
    "signs_and_symbols",
    "special",
    "unsorted",
)
SMALLEST, LARGEST = 20, 80
FIELDS = ("title", "description")


def drawings(deb, suffix):
    """The package's files by their path below its folder, without the suffix."""
    with open_deb(deb) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if path.suffix == suffix and not member.isdir():
                name = path.with_suffix("").as_posix().partition(f"/openclipart/{suffix[1:]}/")[2]
                if not f"{name}/".startswith(tuple(f"{folder}/" for folder in ABSTRACT)):
                    yield name, tar.extractfile(member).read()


def texts(drawing):
    """A drawing's title and description."""
    data = re.search(r"<metadata.*?</metadata>", drawing.decode("utf-8", "replace"), re.DOTALL)
    found = [re.search(rf"<dc:{tag}>(.*?)</dc:{tag}>", data[0] if data else "", re.DOTALL) for tag in FIELDS]
    title, description = (" ".join(unescape(unescape(match[1])).split()) if match else "" for match in found)
    title = " ".join(re.sub(r"^Clipart by .* - |[_\d]+", " ", title).split())
    return title, "" if "HASH(" in description else description


def build(files: list[bytes], out: Path) -> None:
    pictures = dict(drawings(files[1], ".png"))
    folders, known = defaultdict(dict), set()
    for name, drawing in sorted(drawings(files[0], ".svg"), key=lambda one: (-one[0].count("/"), one[0])):
        title, description = texts(drawing)
        if name in pictures and title and pictures[name] not in known:
            known.add(pictures[name])
            folder = "/".join(name.split("/")[:-1][:2])
            folders[folder].setdefault(title.lower(), (name, title, description))
    classes = defaultdict(dict)
    for folder, members in folders.items():
        small = len(members) < SMALLEST
        classes[folder.partition("/")[0] if small else folder] |= members
    names = sorted(label for label, members in classes.items() if len(members) >= SMALLEST)
    items = []
    for label in names:
        members = sorted(classes[label].values(), key=lambda one: digest("kept", one[0]))
        for name, title, description in members[:LARGEST]:
            items.append(Item(name, title, description, label, jpeg(pictures[name], 128)))
    write("clipart", items, {label: 5000 + 10 * place for place, label in enumerate(names)}, out)


if __name__ == "__main__":
    main(__doc__, "clipart", SOURCES, build)
