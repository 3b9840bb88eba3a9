"""The shipped catalogues: whole, with their answers apart, attributed, and remade byte for byte by their scripts."""

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import PIL
import pytest
from PIL import Image

from kit.core.paths import project
from kit.data.challenge import Challenge, read_challenge

DATA = project() / "data"
SOURCES = {
    "shop": [DATA / "sweethome3d-furniture_1.8-1_all.deb"],
    "emoji": [DATA / "lobehub-fluent-emoji-3d-1.1.0.tgz", DATA / "emojibase-data-17.0.0.tgz"],
}


class Shipped(NamedTuple):
    train: int
    test: int
    classes: int
    empty: int  # items without a description
    side: int  # of an image, in pixels


SHIPPED = {"shop": Shipped(626, 155, 10, 143, 128), "emoji": Shipped(1144, 283, 27, 91, 256)}


@pytest.fixture(scope="module", params=SHIPPED)
def catalogue(request) -> tuple[str, Challenge]:
    return request.param, read_challenge(DATA / request.param)


def items_of(challenge: Challenge) -> pd.DataFrame:
    return pd.concat([challenge.train, *challenge.test.values()])


def read_answers(name: str) -> pd.DataFrame:
    return pd.read_csv(DATA / f"{name}_answers" / "Y_test.csv", index_col=0)


def test_a_catalogue_is_whole(catalogue):
    name, challenge = catalogue
    expected, items = SHIPPED[name], items_of(challenge)
    (test,) = challenge.test.values()
    assert (len(challenge.train), len(test)) == (expected.train, expected.test)
    assert items["id"].tolist() == list(range(len(items)))
    assert items["product_id"].is_unique and items["image_id"].is_unique
    assert set(challenge.train["label"]) == set(challenge.names) and len(challenge.names) == expected.classes
    assert items["title"].str.len().min() > 0 and items["description"].isna().sum() == expected.empty
    for path in items["image_path"]:
        with Image.open(path) as image:
            image.load()
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (expected.side, expected.side))


def test_the_answers_lie_apart_and_are_a_fifth_of_each_class(catalogue):
    name, challenge = catalogue
    (test,) = challenge.test.values()
    answers = read_answers(name)
    assert answers.index.tolist() == test["id"].tolist()
    train, test_labels = challenge.train["label"].value_counts(), answers["prdtypecode"].value_counts()
    assert ((test_labels - (train + test_labels) / 5).abs() <= 1).all()
    ids = pd.read_csv(DATA / name / "Y_train_CVw08PX.csv", index_col=0).index
    assert set(ids) == set(challenge.train["id"]) and not set(ids) & set(answers.index)
    for part in ("train", "test"):
        header = (DATA / name / f"X_{part}_update.csv").read_text(encoding="utf-8").partition("\n")[0]
        assert header == ",designation,description,productid,imageid"


def test_no_image_is_in_both_parts(catalogue):
    _, challenge = catalogue
    (test,) = challenge.test.values()
    seen = {Path(path).read_bytes() for path in challenge.train["image_path"]}
    assert not [path for path in test["image_path"] if Path(path).read_bytes() in seen]


def test_each_item_of_the_shop_is_attributed_and_its_class_is_not_given_away():
    items = items_of(read_challenge(DATA / "shop", clean_titles=False))
    credits = pd.read_csv(DATA / "shop" / "attribution.csv", keep_default_na=False)
    assert credits["productid"].is_unique
    named = credits.set_index("productid").loc[items["product_id"]]
    assert len(credits) == len(items) and named["name"].tolist() == items["title"].tolist()
    assert (named[["creator", "source", "model"]] != "").all(axis=None)
    assert set(named["licence"]) == {"CC0-1.0", "CC-BY-3.0", "CC-BY-3.0-US"}
    assert not {"category", "label", "prdtypecode"} & set(credits)
    assert not items["description"].str.contains("Blend Swap|SCPTS").any()
    described = items["description"].dropna()
    assert described.str.fullmatch(r"\S.* Dimensions : (\d+(,\d+)? x ){2}\d+(,\d+)? cm").all()


def test_the_shop_is_small():
    assert sum(path.stat().st_size for path in (DATA / "shop").rglob("*") if path.is_file()) <= 8e6


@pytest.mark.parametrize("name", SOURCES)
def test_a_build_refuses_other_sources(tmp_path, name):
    files = [tmp_path / "other" for _ in SOURCES[name]]
    for content, reason in {None: "There is no file", b"other": "its SHA-256 differs"}.items():
        if content:
            files[0].write_bytes(content)
        command = [sys.executable, DATA / f"build_{name}.py", *files, "--out", tmp_path / "out"]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 1 and reason in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(PIL.__version__ != "13.0.0", reason="the shipped images were written by Pillow 13.0.0")
@pytest.mark.parametrize("name", SOURCES)
def test_a_catalogue_is_remade_byte_for_byte(name):
    if missing := [path.name for path in SOURCES[name] if not path.is_file()]:
        pytest.skip(f"data/ lacks {', '.join(missing)}: data/build_{name}.py says how to get it")
    command = [sys.executable, DATA / f"build_{name}.py", *SOURCES[name], "--check"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0 and result.stdout.endswith("the same.\n"), result.stderr
