"""Remakes the catalogue in data/shop and its answers in data/shop_answers, byte for byte.

    cd data
    apt-get download sweethome3d-furniture=1.8-1     # Debian; brings 120 MB, which git ignores here, installs nothing
    python build_shop.py sweethome3d-furniture_1.8-1_all.deb [--out DIR] [--check]

--check builds in a temporary folder, compares it with what is there, and exits with 1 on a difference.
JPEG bytes depend on the library that writes them: the shipped ones were made with Pillow 13.0.0.
"""

import io
import re
import zipfile
from pathlib import Path

from catalogue import Item, jpeg, main, markup, open_deb, write, write_csv

SOURCES = {"sweethome3d-furniture 1.8-1": "3ccb90c63f9525e887a767b9cd5c8b6933b8b6b2973a615a5359ee68a2118668"}
# Each library's licence by its LICENSE.TXT. Reallusion's has people only.
LICENCES = {
    "BlendSwap-CC-0": "CC0-1.0",
    "BlendSwap-CC-BY": "CC-BY-3.0",
    "KatorLegaz": "CC-BY-3.0-US",
    "Scopia": "CC-BY-3.0",
}
# All categories but people and stairs (two items). The codes are ours; the challenge has none so high.
CLASSES = [
    "Salon",
    "Divers",
    "Cuisine",
    "Extérieur",
    "Chambre",
    "Salle de bain",
    "Bureau",
    "Portes et fenêtres",
    "Lumières",
    "Véhicules",
]
CODES = {name: 4000 + 20 * i for i, name in enumerate(CLASSES)}
# Keywords that say where a model comes from, not what it is.
ORIGINS = {"Blend Swap", "SCPTS"}


def libraries(deb):
    """The package's zips by name."""
    with open_deb(deb) as tar:
        zips = {Path(m.name).stem: m for m in tar if m.name.endswith(".sh3f")}
        return {name: zipfile.ZipFile(io.BytesIO(tar.extractfile(zips[name]).read())) for name in LICENCES}


def properties(library, language):
    """The catalogue in a language, as number -> field -> value."""
    models = {}
    for line in library.read(f"PluginFurnitureCatalog{language}.properties").decode("latin-1").splitlines():
        if match := re.fullmatch(r"(\w+)#(\d+)=(.*)", line):
            field, number, value = match.groups()
            models.setdefault(number, {})[field] = value.strip()
    return models


def describe(key, keywords, sizes):
    """The French keywords, then width, depth and height, in HTML; empty without keywords."""
    keywords = [word for word in keywords.split(", ") if word and word not in ORIGINS]
    if not keywords:
        return ""
    sizes = [f"{float(size):.2f}".rstrip("0").rstrip(".").replace(".", ",") for size in sizes]
    return markup(key, keywords) + f"<br />Dimensions&nbsp;: {' x '.join(sizes)}&nbsp;cm"


def origin(library, model, licence):
    """The model's licence and page: a licence file in its folder, if there is one, overrules the library's."""
    folder = model.lstrip("/").rpartition("/")[0] + "/"
    for name in library.namelist():
        if name.startswith(folder) and name.endswith((".txt", ".html")):
            text = library.read(name).decode("utf-8", "replace")
            page = re.search(r"https?://\S*blendswap\.com/blends/view/\d+", text)
            return "CC0-1.0" if "Creative Commons Zero" in text else "CC-BY-3.0", page[0] if page else ""
    return licence, ""


def build(files: list[bytes], out: Path) -> None:
    items, credits = [], [["productid", "name", "creator", "licence", "source", "model", "page"]]
    for source, library in libraries(*files).items():
        french = properties(library, "_fr")
        for number, model in properties(library, "").items():
            words, key = french[number], model["id"]
            if words["category"] in CODES:
                description = describe(key, words["tags"], (model["width"], model["depth"], model["height"]))
                image = jpeg(library.read(model["icon"].lstrip("/")), 128)
                items.append(Item(key, words["name"], description, words["category"], image))
                licence, page = origin(library, model["model"], LICENCES[source])
                credits.append(
                    [items[-1].productid, words["name"], model["creator"], licence, f"{source}.sh3f", key, page]
                )
    write("shop", items, CODES, out)
    write_csv(out / "shop" / "attribution.csv", credits)


if __name__ == "__main__":
    main(__doc__, "shop", SOURCES, build)
