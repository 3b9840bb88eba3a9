"""Remakes the catalogue in data/emoji and its answers in data/emoji_answers, byte for byte.

    cd data
    npm pack @lobehub/fluent-emoji-3d@1.1.0 emojibase-data@17.0.0     # brings two tarballs, which git ignores here
    python build_emoji.py lobehub-fluent-emoji-3d-1.1.0.tgz emojibase-data-17.0.0.tgz [--out DIR] [--check]

--check builds in a temporary folder, compares it with what is there, and exits with 1 on a difference.
JPEG bytes depend on the library that writes them: the shipped ones were made with Pillow 13.0.0.
"""

import io
import json
import re
import tarfile
import unicodedata
from pathlib import Path

from catalogue import Item, jpeg, main, markup, write

SOURCES = {
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


def fold(text):
    text = unicodedata.normalize("NFKD", text.casefold().replace("œ", "oe").replace("æ", "ae"))
    return "".join(char for char in text if not unicodedata.combining(char))


def describe(item):
    """The French keywords that tell more than the title, in HTML; empty where there are none."""
    title = fold(item["label"])
    tags = [t for t in item.get("tags", []) if any(word not in title for word in re.findall(r"\w+", fold(t)))]
    return markup(item["hexcode"], tags) if tags else ""


def unpack(tarball):
    with tarfile.open(fileobj=io.BytesIO(tarball)) as tar:
        wanted = [m for m in tar if re.search(r"\.webp$|/fr/\w+\.json$", m.name)]
        return {m.name: tar.extractfile(m).read() for m in wanted}


def load_items(emoji, data):
    """Every emoji with a group and a picture. Joined ones (200D) stay out: most repeat another as man or woman."""
    class_of = {key: name for name, keys in CLASSES.items() for key in keys.split()}
    subgroups = json.loads(data["package/fr/messages.json"])["subgroups"]
    class_of_order = {s["order"]: class_of[s["key"]] for s in subgroups if s["key"] in class_of}
    items = []
    for item in json.loads(data["package/fr/data.json"]):
        key, code = item["hexcode"], item["hexcode"].lower()
        names = [f"package/assets/{c}.webp" for c in (code, code.replace("-fe0f", ""))]
        picture = next((emoji[n] for n in names if n in emoji), None)
        if "group" in item and picture and "200D" not in key and key != LEFT_OUT:
            label = class_of_order[item["subgroup"]]
            items.append(Item(key, item["label"], describe(item), label, jpeg(picture, 256)))
    return items


def build(files: list[bytes], out: Path) -> None:
    write("emoji", load_items(*map(unpack, files)), CODES, out)


if __name__ == "__main__":
    main(__doc__, "emoji", SOURCES, build)
