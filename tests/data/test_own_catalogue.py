"""Tables of one's own: what is read, what is refused in a sentence, and what happens when a table changes later."""

import bz2
import gzip
import json
import lzma
import shutil
import unicodedata
import zipfile

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from kit.cli import main
from kit.config import train_config
from kit.core.exceptions import KitError
from kit.data.catalogue import describe, read_catalogue, read_description, read_labels, read_rows
from kit.data.challenge import read_challenge
from kit.data.duplicates import duplicate_groups
from kit.data.items import read_items
from kit.data.new_items import read_new_items

ITEMS = (
    "sku,name,brand,about,photo,category\n"
    'A-1,Tasse,Acme,"<b>Bleue</b> en grès, ronde",a.png,Mugs\n'
    "B-2,NaN,,,b.png,Mugs\n"
    'A-3,Lampe,Lux,"deux\nlignes",sub/c.png|a.png,"Lampes, lustres"\n'
    'C-4,"Lampe ""12""",,x,d.png,"Lampes, lustres"\n'
)
NEW = "category,photo,about,brand,name,sku\n?,a.png,,Acme,Bol,Z-9\n,b.png,y,,Lampe,Z-1\n"
COLUMNS = {"title": "name", "text": ["brand", "about"], "image": ["photo"], "label": "category", "id": "sku"}
TEXT = COLUMNS | {"image": []}


@pytest.fixture
def folder(root):
    place = root / "shop"
    (place / "sub").mkdir(parents=True)
    for number, name in enumerate(["a", "b", "sub/c", "d"]):
        pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{name}.png")
    (place / "items.csv").write_text(ITEMS, encoding="utf-8")
    (place / "new.csv").write_text(NEW, encoding="utf-8")
    return place


def put(folder, text, name="items.csv", encoding="utf-8"):
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


def refusal(call, *arguments, **options) -> str:
    with pytest.raises(KitError) as caught:
        call(*arguments, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".") and "unhashable" not in sentence, sentence
    return sentence


def refused(folder, table, words, **options):
    sentence = refusal(describe, put(folder, table), **{**TEXT, "out": folder / "out", **options})
    assert all(word in sentence for word in words), sentence
    assert not (folder / "out").exists()


def test_a_catalogue_is_read_in_place(folder, root):
    out = describe(folder / "items.csv", **COLUMNS, test=folder / "new.csv", out=root / "mine")
    assert [path.name for path in out.iterdir()] == ["catalogue.json"]
    assert json.loads((out / "catalogue.json").read_text())["items"] == str(folder / "items.csv")
    challenge = read_challenge(out)
    train, test = challenge.train, challenge.test["test"]
    assert challenge.names == {0: "Lampes, lustres", 1: "Mugs"} and challenge.classes == [0, 1]
    assert train["label"].tolist() == [1, 1, 0, 0] and train["class"][2] == "Lampes, lustres"
    assert train["id"].tolist() == [1, 2, 3, 4] and train["key"].tolist() == ["A-1", "B-2", "A-3", "C-4"]
    assert train["title"].tolist() == ["Tasse", "NaN", "Lampe", 'Lampe "12"']
    assert train["description"].tolist() == ["Acme Bleue en grès, ronde", None, "Lux deux lignes", "x"]
    assert train["image_path"].tolist() == [str(folder / name) for name in ("a.png", "b.png", "sub/c.png", "d.png")]
    assert train["image_paths"][2] == (str(folder / "sub/c.png"), str(folder / "a.png"))
    assert test["key"].tolist() == ["Z-9", "Z-1"] and "label" not in test
    raw = read_challenge(out, clean_titles=False, clean_descriptions=False, images="ignore")
    assert raw.train["description"][0] == "Acme <b>Bleue</b> en grès, ronde" and raw.train["image_path"].isna().all()


@pytest.mark.parametrize("sep", [";", "\t", "|"])
def test_separators_and_encodings(folder, sep):
    table = pd.read_csv(folder / "items.csv", keep_default_na=False)
    put(folder, table.to_csv(index=False, sep=sep), encoding="utf-8-sig")
    out = describe(folder / "items.csv", **TEXT, out=folder / "out")
    assert read_challenge(out).train["description"].tolist() == [
        "Acme Bleue en grès, ronde",
        None,
        "Lux deux lignes",
        "x",
    ]


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"'])
def test_a_first_line_that_tells_excel_the_separator_is_no_header(folder, first):
    table = ITEMS.replace('"', "").replace(" en grès,", " en grès").replace("Lampes, lustres", "Lampes")
    table = table.replace("deux\nlignes", "deux").replace(",", ";")
    place = describe(put(folder, f"{first}\r\n{table}", encoding="utf-8-sig"), **TEXT, out=folder / "mine")
    assert read_challenge(place).kind == "a catalogue of your own"
    assert read_challenge(place).train["title"].tolist() == ["Tasse", "NaN", "Lampe", "Lampe 12"]
    refused(folder, f"{first}\n{table}A-1;Tasse;;;;Mugs\n", ["line 7", "sku is 'A-1' as in line 3"])


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: zipfile.ZipFile(path, "w").writestr("xl/workbook.xml", ITEMS), "save its table as CSV UTF-8"),
        (lambda path: path.write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"), "save it as CSV UTF-8"),
        (lambda path: path.write_bytes(gzip.compress(ITEMS.encode())), "unpack it with gunzip"),
        (lambda path: path.write_bytes(bz2.compress(ITEMS.encode())), "unpack it with bunzip2"),
        (lambda path: path.write_bytes(lzma.compress(ITEMS.encode())), "unpack it with unxz"),
        (lambda path: path.write_bytes(b"\x28\xb5\x2f\xfd\x04"), "unpack it with unzstd"),
        (lambda path: path.write_bytes(ITEMS.encode("utf-16")), "is UTF-16: save it as UTF-8"),
    ],
)
def test_workbooks_and_compressed_tables_are_refused_with_what_to_do(folder, write, words):
    write(path := folder / "table.bin")
    for sentence in (
        refusal(describe, path, **TEXT, out=folder / "out"),
        refusal(read_new_items, path, None, None, ("text",)),
    ):
        assert sentence.startswith("table.bin is ") and words in sentence


def test_empty_rows_above_the_header_are_no_items(folder):
    put(folder, ";;\r\n ;;\r\nsku;name;category\r\n1;a;x\r\n2;b;x\r\n3;c;y\r\n4;d;y\r\n")
    out = describe(folder / "items.csv", title="name", label="category", id="sku", out=folder / "out")
    assert read_challenge(out).train["key"].tolist() == ["1", "2", "3", "4"]
    assert read_rows(folder / "items.csv", read_description(out))["title"].tolist() == [*"abcd"]


def test_half_an_emoji_becomes_a_question_mark(folder):
    table = pd.DataFrame({"name": ["a \ud83d", "b", "c 💡", "d"], "kind": [*"xxyy"]}, dtype=object)
    out = describe(table, title="name", label="kind", out=folder / "out")
    assert read_challenge(out).train["title"].tolist() == ["a ?", "b", "c 💡", "d"]


def test_parquet_and_frames(folder):
    table = pd.DataFrame(
        {
            "code": [7, 3, 12, 9],
            "name": ["a", None, "c", "d"],
            "photo": [["a.png", "b.png"], ["b.png"], [], ["d.png"]],
            "kind": [10.0, 10.0, 9.0, 9.0],
        }
    )
    columns = {"title": "name", "image": ["photo"], "label": "kind", "id": "code", "images": folder}
    table.to_parquet(folder / "t.parquet")
    for items, out in ((folder / "t.parquet", "one"), (table.assign(other=[1, "x", {}, None]), "two")):
        where = describe(items, **columns, test=table.drop(columns="kind"), out=folder / out)
        challenge = read_challenge(where, images="leave")
        assert challenge.train["id"].tolist() == [7, 3, 12, 9] and "".join(challenge.train["key"]) == "73129"
        assert challenge.names == {0: "9", 1: "10"} and challenge.train["label"].tolist() == [1, 1, 0, 0]
        assert challenge.train["title"].tolist() == ["a", "", "c", "d"]
        assert challenge.train["image_paths"].str.len().tolist() == [2, 1, 0, 1]
        assert len(challenge.test["test"]) == 4
    assert (folder / "two" / "items.parquet").is_file() and not (folder / "one" / "items.parquet").exists()
    put(folder, "no parquet", "t.parquet")
    assert "t.parquet cannot be read as Parquet" in refusal(read_challenge, folder / "one")
    table["name"] = [{}, {}, {}, {}]
    assert "row 1: name holds a dict" in refusal(describe, table, **columns, out=folder / "three")
    assert "pass out=" in refusal(describe, table, label="kind", title="name")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"title": "Nam"}, ["no column 'Nam' (did you mean 'name'?)", "'about', 'photo', 'category'"]),
        ({"id": "zzz"}, ["no column 'zzz'; name one that it has: 'sku'"]),
        (
            {"title": "Nam", "text": "Brand , zzz", "id": "x"},
            ["no columns 'Nam' (did you mean 'name'?), 'Brand' (did you mean 'brand'?), 'zzz', 'x'; name columns that"],
        ),
        ({"text": ["name"]}, ["'name' is named twice"]),
        ({"text": ["category"]}, ["'category' is named twice", "must not read the label"]),
        ({"id": "category"}, ["'category' is named twice"]),
        ({"title": "", "text": []}, ["needs a text or an image"]),
        ({"label": ""}, ["--label"]),
        ({"title": ["name"]}, ["title=['name'] is no name of a column"]),
        ({"text": 1.5}, ["text=1.5 is no name of a column"]),
        ({"label": 7}, ["no column '7'"]),
        ({"label": None}, ["--label"]),
        ({"title": None, "text": None}, ["needs a text or an image"]),
        ({"test": [{"name": "Bol"}]}, ["test is a list: give the path of a table, or a pandas frame"]),
        ({"out": "donn\udce9es"}, ["donn\\udce9es' is not in this shell's encoding"]),
        ({"images": "/nowhere"}, ["/nowhere is not a folder", "--images"]),
    ],
)
def test_columns_at_fault(folder, options, words):
    refused(folder, ITEMS, words, **options)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("", ["items.csv is empty"]),
        (ITEMS.split("\n")[0], ["items.csv has no rows"]),
        (ITEMS.replace("brand", "name"), ["2 columns 'name'"]),
        (ITEMS.replace("A-3", "A-1"), ["line 4: sku is 'A-1' as in line 2", "id of its own"]),
        (ITEMS.replace("A-3", " "), ["line 4: sku is empty"]),
        (ITEMS.replace("b.png,Mugs", "b.png,NaN"), ["line 3: category is 'NaN'", "as --test"]),
        (ITEMS.replace(",Mugs", ", "), ["line 2: category is ' '", "and 1 more like it: line 3", "as --test"]),
        (ITEMS.replace("b.png,Mugs", "b.png,\u200b"), ["line 3: category is '\\u200b'", "as --test"]),
        (ITEMS.replace("b.png,Mugs", "b.png,None"), ["line 3: category is 'None'"]),
        (ITEMS.replace("b.png,Mugs", "b.png,#N/A"), ["line 3: category is '#N/A'"]),
        ("sku,name,category\n1,a,007\n2,b,7\n3,c,8\n4,d,8\n", ["labels '007' and '7'", "probably the same"]),
        (ITEMS.replace("b.png,Mugs", "b.png,Mugs "), ["'Mugs' and 'Mugs '", "probably the same", "1 and 1 rows"]),
        (ITEMS.replace("b.png,Mugs", "b.png,Mu\u00adgs"), ["'Mugs' and 'Mu\\xadgs'", "probably the same"]),
        (ITEMS.replace("b.png,Mugs", "b.png,\ufeffMugs\u200b"), ["'Mugs' and '\\ufeffMugs\\u200b'"]),
        (ITEMS.replace('"Lampes, lustres"', "Mugs"), ["All 4 rows", "'Mugs'", "nothing to classify"]),
        (ITEMS.replace("b.png,Mugs", "b.png,Bols"), ["3 different labels in 4 rows", "single item"]),
        ("sku,name,category\n1,a,1.5\n2,b,2.5\n3,c,3\n4,d,4\n", ["4 different labels", "looks like a quantity"]),
        (ITEMS.replace("B-2,NaN,,,", "B-2, ,, ,"), ["line 3: no text and no image (name, brand, about)"]),
        (ITEMS.replace("B-2,", "B-2,x,"), ["line 3: 7 fields, not 6"]),
        (ITEMS.replace("B-2,NaN,,,b.png,Mugs", "B-2,NaN"), ["line 3: 2 fields, not 6"]),
        (ITEMS.replace("B-2,NaN", 'B-2,"NaN'), ["line 3: 2 fields, not 6", "quotation marks"]),
        (ITEMS + 'E-5,Bol,"x,,,Mugs\n', ["line 7", "never closed"]),
        ('sku,name,category\n1,"a,x\n2,b,y\n3,c",x\n4,d,y\n5,e,x\n6,f,y\n', ["line 2", "hold further rows", "line 4"]),
        (ITEMS + ITEMS.replace("-", "+"), ["line 7: the header again"]),
        ("x\n1\n", ["no column"]),
        ('"' + ITEMS.replace('"', "") + "E-5,Bol,,,,Mugs\n" * 9_000, ["line 1: the header", "never closed"]),
        ('\n"' + ITEMS.replace('"', "") + 'E-5,Bol",,,,Mugs\n', ["stray quotation mark", "'sku,name,brand"]),
        ('sku,name,category,"x\n1,a,Mugs,y\n2,b,Bols,z"\n' + "3,c,Bols,y\n" * 9, ["line 1: a stray", "hold rows"]),
        ("sku;name,category\n1;a,x\n", ["a comma or a semicolon", "'sku;name,category'"]),
    ],
)
def test_tables_at_fault(folder, table, words):
    refused(folder, table, words, text=["brand", "about"] if "brand" in table else [])


def test_bytes_that_are_not_utf8(folder):
    put(folder, ITEMS, encoding="latin-1")
    assert "line 2: a byte is not UTF-8" in refusal(describe, folder / "items.csv", **TEXT, out=folder / "out")


def test_unlabelled_rows_beside_a_test_table(folder):
    refused(folder, ITEMS.replace("b.png,Mugs", "b.png,"), ["move it to the test table"], test=folder / "new.csv")


def test_prose_in_quotation_marks_is_no_row(folder):
    text = "Grande, belle\nronde, bleue, 12,5 cm\nà poser, ou à pendre, au choix"
    out = describe(put(folder, ITEMS.replace("deux\nlignes", text)), **TEXT, out=folder / "out")
    assert read_challenge(out, False, False).train["description"][2] == f"Lux {text}"


def test_images_that_are_missing(folder, root):
    put(folder, ITEMS.replace("b.png", "").replace("d.png", "gone.png"))
    with pytest.warns(UserWarning, match="are missing") as told:
        out = describe(folder / "items.csv", **COLUMNS, out=root / "mine")
    sentence = refusal(read_challenge, out)
    assert [str(one.message) for one in told] == [sentence]
    assert f"1 of the 4 images of items.csv are missing under {folder} (--images): gone.png; " in sentence
    assert "; 1 of the 4 items of items.csv name no image (line 3); " in sentence
    assert "if they are elsewhere, describe the table again with kit catalogue … --images FOLDER" in sentence
    assert read_challenge(out, images="leave").train["image_path"].isna().tolist() == [False, True, False, True]
    with pytest.warns(UserWarning, match="-p missing blank"):
        read_challenge(out, images="warn")


def test_images_that_are_urls_are_not_fetched(folder, root):
    put(folder, ITEMS.replace("b.png", "https://shop.example/b.png").replace("d.png", "HTTP://shop.example/d.png"))
    with pytest.warns(
        UserWarning, match=r"2 of the 5 images .*; URLs are not fetched \(2 here\): download those images"
    ):
        out = describe(folder / "items.csv", **COLUMNS, out=root / "mine")
    assert "--images FOLDER" not in refusal(read_challenge, out)  # the folder is not at fault


def test_the_test_table_needs_the_same_columns(folder):
    put(folder, "Name,photo,text\na,a.png,b\n", "new.csv")
    new = {"test": folder / "new.csv", "out": folder / "out"}
    sentence = refusal(describe, folder / "items.csv", **COLUMNS, **new)
    assert sentence == (
        "new.csv has no columns 'name' (did you mean 'Name'?), 'brand', 'about', 'sku'; both tables need the same "
        "names, so rename its columns: 'Name', 'photo', 'text'."
    )


def test_columns_named_in_one_text(folder):
    out = describe(folder / "items.csv", **COLUMNS | {"text": " brand, about", "image": "photo"}, out=folder / "out")
    description = read_description(out)
    assert (description.text, description.image) == (("brand", "about"), ("photo",))


def test_images_of_a_frame_start_in_the_working_directory(folder, root, monkeypatch):
    monkeypatch.chdir(folder)
    frame = pd.read_csv("items.csv", keep_default_na=False)
    out = describe(frame, **COLUMNS, out=root / "mine")
    monkeypatch.chdir(root)
    assert read_challenge(out).train["image_path"].tolist()[0] == str(folder / "a.png")


@pytest.mark.parametrize("end", [";;;;\r\n" * 3, ";;;;\r\n ; ;;;", "\r\n;;;;\r\n\r\n"])
def test_empty_rows_below_a_table_are_no_items(folder, end):
    table = "sku;name;about;photo;category\r\n1;a;;;x\r\n2;b;;;x\r\n3;c;;;y\r\n4;d;;;y\r\n"
    out = describe(put(folder, table + end), title="name", label="category", id="sku", out=folder / "out")
    assert read_challenge(out).train["key"].tolist() == ["1", "2", "3", "4"]
    rows = read_new_items(put(folder, table + end, "new.csv"), read_description(out), None, ("text",))
    assert rows.frame["key"].tolist() == ["1", "2", "3", "4"] and not any(rows.frame["problems"])
    assert "line 3: no text" in refusal(
        describe, put(folder, table.replace("2;b;;;x", ";;;;")), title="name", label="category", out=folder / "out"
    )


def shelf() -> pd.DataFrame:
    """60 items of 6 categories, 4 of which share their colours and brands, and the category under two other names."""
    kinds = [f"kind {i % 6}" for i in range(60)]
    return pd.DataFrame(
        {
            "name": [f"item {i}" for i in range(60)],
            "kind": kinds,
            "code": [{"kind 0": "A1"}.get(kind, f"B{kind[-1]}") for kind in kinds],
            "shop": [f"{kind.upper()}{' old' * (i > 50 and kind == 'kind 1')}" for i, kind in enumerate(kinds)],
            "colour": [["red", "blue", "green", "white"][i * i % 7 % 4] for i in range(60)],
            "brand": [f"brand {i % 18}" for i in range(60)],  # each of one kind, but three times as many
            "offer": ["offer" if kind == "kind 0" else "" for kind in kinds],
            "season": ["warm" if kind < "kind 3" else "cold" for kind in kinds],
        }
    )


def test_a_text_that_is_the_label_is_named(folder, recwarn):
    names = ["code", "shop", "colour", "brand", "offer"]
    describe(shelf(), title="name", text=names, label="kind", out=folder / "out")
    told = [str(warning.message) for warning in recwarn]
    assert [sentence.partition(" determines")[0] for sentence in told] == ["The column 'code'", "The column 'shop'"]
    assert "each of its 7 values occurs with one kind only, so a model would read the answer" in told[1]


def test_a_label_coarser_than_a_text_or_finer_is_no_alarm(folder, recwarn):
    describe(shelf(), title="name", text=["kind"], label="season", out=folder / "coarse")
    describe(shelf(), title="name", text=["season"], label="kind", out=folder / "fine")
    assert not list(recwarn)


def test_image_paths_from_windows(folder, root):
    put(folder, ITEMS.replace("sub/c.png|a.png", r".\sub\c.png|a.png"))
    out = describe(folder / "items.csv", **COLUMNS, out=root / "mine")
    assert read_challenge(out).train["image_path"].notna().all()


def test_rows_with_their_problems(folder, root):
    out = describe(folder / "items.csv", **COLUMNS, out=root / "mine")
    description = read_description(out)
    new = "photo,sku,about,brand,name\na.png,1,,,Bol\n,1,,,\n,,,,Vase,x\nnone.png,4,,,Pot\n"
    rows = read_rows(put(folder, new, "rows.csv"), description, collect=True)
    assert rows["problems"].str.len().tolist() == [0, 2, 2, 0]
    words = [[problem.words for problem in problems] for problems in rows["problems"]]
    assert words[1] == ["sku is '1' as in line 2", "no text and no image (name, brand, about, photo)"]
    assert words[2][0] == "6 fields, not 5"
    assert rows["image_path"].tolist() == [str(folder / "a.png"), None, None, None] and rows["image_names"][3] == (
        "none.png",
    )
    assert "line 4: 6 fields, not 5" in refusal(read_rows, folder / "rows.csv", description)
    shutil.copy(folder / "d.png", root / "none.png")
    rows = read_rows(
        pd.DataFrame({n: ["none.png"] for n in ("photo", "name", "brand", "about", "sku")}), description, root
    )
    assert rows["image_path"].tolist() == [str(root / "none.png")] and "problems" not in rows


def test_one_side_only(folder, root):
    texts = describe(folder / "items.csv", **TEXT, out=root / "texts")
    images = describe(folder / "items.csv", image=["photo"], label="category", out=root / "images")
    for data, system, instead in (
        (texts, "coattention", "logistic_text (or text, or tfidf)"),
        (images, "tfidf", "logistic_image (or image)"),
    ):
        sentence = refusal(read_items, train_config(data=str(data), system=system))
        assert f"system={system!r} reads: pass -p system {instead}" in sentence
    codes, frames = read_items(train_config(data=str(texts), system="text", split="grouped", folds=2))
    assert codes == [0, 1] and "blank" not in frames["train"]
    codes, frames = read_items(train_config(data=str(images), system="image", folds=2))
    assert frames["train"]["title"].tolist() == [""] * 4 and (frames["train"]["blank"] == "").all()
    assert duplicate_groups(frames["train"]).tolist() == [0, 1, 0, 2]  # a.png in common, but no text is not a text


def test_classes_are_called_by_their_names(folder, root):
    put(folder, ITEMS + "E-5,Vase,,,a.png,Vases\nF-6,Bol,,,b.png,Mugs\n")
    out = describe(folder / "items.csv", **TEXT, out=root / "mine")
    sentence = refusal(read_items, train_config(data=str(out), system="text"))
    assert "Class Vases has only one training item" in sentence or "6 training items are too few" in sentence
    sentence = refusal(read_items, train_config(data=str(out), system="text", folds=2))
    assert "Class Vases has only one training item" in sentence


def test_what_is_gone_or_in_the_way(folder, root):
    out = describe(folder / "items.csv", **TEXT, test=folder / "new.csv", out=root / "mine")
    (folder / "new.csv").unlink()
    assert f"There is no table {folder / 'new.csv'}; check the path" in refusal(read_challenge, out)
    (out / "catalogue.json").write_text("{")
    assert "catalogue.json cannot be read" in refusal(read_challenge, out)
    put(out, "", "X_train.csv")
    sentence = refusal(describe, folder / "items.csv", **TEXT, out=out)
    assert "holds files of the challenge (X_train.csv)" in sentence


def test_the_command(folder, root, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("KIT_PROJECT", str(root))
    columns = ["--title", "name", "--text", "brand,about", "--image", "photo", "--id", "sku", "--test", "new.csv"]
    assert main(["catalogue", "items.csv", "--label", "category", *columns]) == 0
    told = capsys.readouterr().out
    assert f"{root / 'data' / 'items'}: 4 items of 2 classes, 2 to predict." in told
    assert "2 of the 4 images" not in told
    assert "1 items have several images, at most 2: all of them count." in told
    assert f"Next: kit run 01_eda -p data {root / 'data' / 'items'}" in told
    assert "case" not in told
    assert read_challenge("data/items").test["test"]["key"].tolist() == ["Z-9", "Z-1"]
    put(folder, ITEMS.replace("d.png", "gone.png"))
    assert main(["catalogue", "items.csv", "--label", "category", *columns]) == 0
    assert "1 of the 5 images of items.csv are missing under" in capsys.readouterr().out
    assert main(["catalogue", "items.csv", "--label", "kind", *columns]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    put(folder, "name,category\na,Mug\nb,Mug\nc,mug\nd,mug\n")
    assert main(["catalogue", "items.csv", "--label", "category", "--title", "name", "--out", "cased"]) == 0
    assert "Labels that differ only in case are classes of their own: Mug, mug; write" in capsys.readouterr().out


def test_images_of_new_items_are_beside_the_new_table(folder, root, monkeypatch):
    (shop := root / "shops" / "new").mkdir(parents=True)
    shutil.copytree(folder, folder / "img")
    shutil.copy(folder / "d.png", shop / "a.png")
    put(shop, NEW, "new.csv")
    described = read_description(describe(folder / "items.csv", **COLUMNS, images=folder / "img", out=root / "mine"))

    def looked_in(table, images=None):
        rows = read_new_items(table, described, images, ("image",))
        assert rows.frame["image_path"][0] == str(rows.folder / "a.png")
        return rows.folder

    assert looked_in(shop / "new.csv") == shop
    assert looked_in(folder / "new.csv") == folder / "img"
    shutil.copytree(folder / "img", shop / "img")
    assert looked_in(shop / "new.csv") == shop / "img"
    assert looked_in(shop / "new.csv", folder) == folder
    monkeypatch.chdir(shop)
    assert looked_in(pd.read_csv("new.csv", keep_default_na=False)) == shop
    assert looked_in([{"photo": "a.png"}]) == shop


def test_a_placeholder_title_is_named_and_a_group_larger_than_a_fold(folder, root, capsys):
    table = pd.DataFrame({"name": "-", "about": [f"text {i}" for i in range(60)], "category": [*"ab"] * 30})
    table.to_csv(folder / "items.csv", index=False)
    names = ["--title", "name", "--text", "about", "--label", "category", "--out", str(root / "mine")]
    assert main(["catalogue", str(folder / "items.csv"), *names]) == 0
    assert "60 of 60 items have the title '-': it is no sign of duplicates." in capsys.readouterr().out
    grouped = {"data": str(root / "mine"), "system": "text", "split": "grouped", "folds": 3}
    with pytest.warns(UserWarning, match="60 of 60 items"):
        _, frames = read_items(train_config(**grouped))
    assert frames["train"]["fold"].value_counts().tolist() == [20, 20, 20]
    table.loc[:18, "about"] = "text 0"
    table.assign(name="").to_csv(folder / "items.csv", index=False)
    told = "19 of the 60 training items are linked as duplicates, more than the 15 of a fold: .* pass -p split random"
    with pytest.warns(UserWarning, match=told):
        read_items(train_config(**grouped | {"folds": 4}))


def test_describing_replaces_no_file_of_the_shop(folder, root):
    frame = pd.read_csv(folder / "items.csv", keep_default_na=False)
    for name in ("items", "test"):
        (out := root / name).mkdir()
        frame.assign(price=7).to_parquet(out / f"{name}.parquet")
        before = (out / f"{name}.parquet").read_bytes()
        sentence = f"{name}.parquet exists, and the kit did not write it; choose another folder for --out"
        assert sentence in refusal(describe, frame, **TEXT, test=frame, out=out)
        if name == "items":  # described where it is, it is still the shop's
            describe(out / "items.parquet", **TEXT, out=out)
            assert sentence in refusal(describe, frame, **TEXT, out=out)
        assert (out / f"{name}.parquet").read_bytes() == before
    put(folder, '{"products": 1}', "catalogue.json")
    assert "is no description of a catalogue" in refusal(describe, folder / "items.csv", **TEXT, out=folder)
    for _ in range(2):  # its own files are replaced
        describe(frame, **TEXT, test=frame, out=root / "mine")


def test_json_is_named(folder):
    sentence = refusal(describe, put(folder, "[]", "items.jsonl"), **TEXT, out=folder / "out")
    assert "items.jsonl is JSON: save it as CSV" in sentence


def test_ids_that_are_pandas_index_and_two_byte_order_marks_are_read(folder):
    table = pd.read_csv(folder / "items.csv", keep_default_na=False).set_index("sku")
    table.to_parquet(folder / "indexed.parquet")
    put(folder, "\ufeff" + ITEMS, "marks.csv", "utf-8-sig")
    for number, items in enumerate((folder / "indexed.parquet", table, folder / "marks.csv")):
        out = describe(items, **TEXT, out=folder / str(number))
        assert read_challenge(out).train["key"].tolist() == ["A-1", "B-2", "A-3", "C-4"]
        rows = read_new_items(items, read_description(out), None, ("text",))
        assert rows.frame["key"].tolist() == ["A-1", "B-2", "A-3", "C-4"] and not rows.counted
    rows = read_new_items(put(folder, ITEMS.replace("sku", "SKU")), read_description(out), None, ("text",))
    assert rows.counted == "column 'sku' (did you mean 'SKU'?)" and rows.frame["key"].tolist() == [*"1234"]


def test_an_image_is_found_whatever_the_form_of_its_accents(folder, root):
    forms = [unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD")]
    for disk, named in (forms, forms[::-1]):
        (folder / "a.png").rename(folder / disk)
        out = describe(put(folder, ITEMS.replace("a.png", named)), **COLUMNS, out=root / "mine")
        assert read_challenge(out).train["image_path"][0] == str(folder / disk)
        (folder / disk).rename(folder / "a.png")


def test_a_label_or_id_that_no_csv_holds_is_refused(folder):
    table = pd.DataFrame({"name": [*"abcd"], "kind": ["x\ry", "x\ry", "z", "z"]})
    sentence = refusal(describe, table, title="name", label="kind", out=folder / "out")
    assert "row 1: kind is 'x\\ry', with a control character" in sentence
    table = pd.DataFrame({"name": [*"abcd"], "kind": [*"xxzz"], "sku": ["1", "2\r", "3", "4"]})
    sentence = refusal(describe, table, title="name", label="kind", id="sku", out=folder / "out")
    assert "row 2: sku is '2\\r', with a control character" in sentence


def test_a_path_that_ends_with_the_label_and_a_test_table_that_is_the_training_are_named(folder, recwarn):
    table = shelf()[["name", "kind"]].assign(
        path=lambda frame: "Home > " + frame["kind"].str.upper() + " > " + frame["name"]
    )
    describe(table, title="name", text=["path"], label="kind", test=table, out=folder / "out")
    told = [str(warning.message) for warning in recwarn]
    assert told[0].startswith("The test table has the same items as the table to learn from") and len(told) == 2
    assert told[1].startswith("The column 'path' contains the label in 100% of the rows (another item's in ")


def test_labels_are_read_without_the_rest_of_the_table(folder):
    description = read_description(describe(folder / "items.csv", **COLUMNS, out=folder / "out"))
    put(folder, "category,sku\n" + "Mugs,1\nBols,1\n" * 2)
    assert read_labels(description) == ["Bols", "Mugs"]
    assert "no columns 'name'" in refusal(read_catalogue, description)
    put(folder, "category\nMugs\nMugs\n")
    assert "nothing to classify" in refusal(read_labels, description)


@pytest.mark.parametrize("write", [pd.DataFrame.to_csv, pd.DataFrame.to_parquet, None])
def test_columns_are_found_whatever_the_form_of_their_accents_and_unseen_characters(folder, write):
    table = pd.read_csv(folder / "items.csv", keep_default_na=False)
    names = [*table.columns]
    forms = []
    for form, mark in (("NFC", ""), ("NFD", "\u200b")):
        accented = [unicodedata.normalize(form, f"é{name}{mark}") for name in names]
        frame = table.set_axis(accented, axis=1)
        if write:
            write(frame, path := folder / f"{form}.{'csv' if write == pd.DataFrame.to_csv else 'parquet'}", index=False)
        forms.append((path if write else frame, accented))
    for (items, accented), (new, _) in (forms, forms[::-1]):
        sku, name, _, about, _, category = accented
        out = describe(items, title=name, text=[about], label=category, id=sku, test=new, out=folder / "out")
        assert read_challenge(out).test["test"]["key"].tolist() == ["A-1", "B-2", "A-3", "C-4"]
        rows = read_new_items(new, read_description(out), None, ("text",))
        assert rows.frame["title"].tolist() == table["name"].tolist() and not rows.absent and not rows.counted


def test_columns_that_are_numbers_and_ids_beside_an_empty_cell(folder):
    table = pd.DataFrame({0: [*"abcd"], 1: [2**53 + 2 * i + 1 for i in range(4)], 2: [*"xxyy"]})
    out = describe(table, title=0, id=1, label=np.int64(2), out=folder / "out")
    assert read_challenge(out).train["id"].tolist() == table[1].tolist()
    table[1] = table[1].astype(object)
    table.loc[3, 1] = None
    table.rename(columns=str).astype({"1": "Int64"}).to_parquet(folder / "t.parquet")
    pq.write_table(pq.read_table(folder / "t.parquet").replace_schema_metadata(None), folder / "t.parquet")
    rows = read_new_items(folder / "t.parquet", read_description(out), None, ("text",))
    assert rows.frame["key"].tolist() == [*map(str, table[1][:3]), ""]


def test_a_space_after_the_separator_hides_no_quotation_marks(folder):
    table = "name, about, category\n" + "".join(f'"Lit {i}", "a, ""b"" c", "Chambre {i % 2}"\n' for i in range(4))
    out = describe(put(folder, table), title="name", text="about", label="category", out=folder / "out")
    challenge = read_challenge(out)
    assert challenge.names == {0: "Chambre 0", 1: "Chambre 1"} and challenge.train["title"][3] == "Lit 3"
    assert challenge.train["description"][0] == 'a, "b" c'
    plain = "name,about,category\n" + "".join(f'"L, ""i"" t {i}", "b" c,{"xy"[i % 2]}\n' for i in range(4))
    train = read_challenge(describe(put(folder, plain), title="name", text="about", label="category", out=out)).train
    assert train["title"][0] == 'L, "i" t 0' and train["description"][0] == '"b" c'


def test_a_column_that_new_items_lack_is_named_though_the_others_have_plain_names(folder):
    frame = pd.DataFrame({"sku": [*"abcd"], "title": "Lit", "description": "bois", "image": "a.png", "brand": "x"})
    learned = frame.assign(kind=[*"ppqq"])
    columns = {"title": "title", "text": ["description", "brand"], "image": "image", "id": "sku", "label": "kind"}
    described = read_description(describe(learned, **columns, images=folder, out=folder / "out"))
    rows = read_new_items(frame.drop(columns="brand").to_dict("records"), described, folder, ("text",))
    assert rows.key == "sku" and rows.frame["key"].tolist() == [*"abcd"] and not rows.counted
    assert rows.absent == "column 'brand'" and rows.frame["description"].tolist() == ["bois"] * 4
    other = read_description(describe(learned, title="brand", id="sku", label="kind", out=folder / "2"))
    rows = read_new_items(frame[["sku", "title"]], other, None, ("text",))
    assert rows.key == "sku" and rows.frame["title"].tolist() == ["Lit"] * 4


def test_a_model_of_texts_looks_for_no_images(folder, monkeypatch):
    monkeypatch.setattr("kit.data.new_items.find_images", None)  # would fail
    table = pd.DataFrame({"": [7], "designation": "Lit", "description": "", "imageid": 1, "productid": 2})
    assert read_new_items(table, None, folder, ("text",)).frame["key"].tolist() == ["7"]
