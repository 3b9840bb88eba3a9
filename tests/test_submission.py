"""What the boards accept is written and checked; anything else is refused with its line."""

import dataclasses
import re
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError
from PIL import Image

from kit.analysis.errors import read_errors
from kit.cli import main
from kit.config import train_config
from kit.core.exceptions import KitError
from kit.data.catalogue import describe
from kit.data.challenge import read_challenge
from kit.data.items import challenge_of, data_fingerprints, read_items
from kit.runs import prepare_run
from kit.stacking.ensemble import ensemble_config, stack
from kit.stacking.members import read_members
from kit.submission import check_submission, check_test_items, read_predictions, write_submission
from kit.training.light import fit
from kit.training.summary import summarise_items

X = ",designation,description,productid,imageid\n"
CSV = {
    "X_train.csv": X + "0,A,,1,1\n1,B,,2,2\n",
    "Y_train.csv": ",prdtypecode\n0,2583\n1,10\n",
    "X_test.csv": X + "9,A,,1,1\n7,B,,2,2\n8,C,,3,3\n",
}
X = "Integer_id\tTitle\tDescription\tImage_id\tProduct_id\n"
TSV = {
    "X_train.tsv": X + "0\tA\t\t21\t11\n1\tB\t\t22\t12\n",
    "Y_train.tsv": "Integer_id\tImage_id\tProduct_id\tPrdtypecode\n0\t21\t11\t2583\n1\t22\t12\t40\n",
    "x_test_task1_phase1.tsv": X + "5\tA\t\t31\t41\n",
    "x_test_task1_phase2.tsv": X + "6\tB\t\t32\t42\n7\tC\tc\t33\t43\n",
}
GOOD = ",prdtypecode\n9,10\n7,2583\n8,10\n"
SIGIR_NAME = "y_test_task1_phase2_pred.tsv"
SIGIR_HEAD = "Integer_id\tImage_id\tProduct_id\tPrdtypecode\n"


def fill(folder, files):
    for name, text in files.items():
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


@pytest.fixture
def csv(tmp_path):
    (tmp_path / "data").mkdir()
    return read_challenge(fill(tmp_path / "data", CSV), images="ignore")


@pytest.fixture
def sigir(tmp_path):
    (tmp_path / "data").mkdir()
    return read_challenge(fill(tmp_path / "data", TSV), images="ignore")


def frame(ids, labels, **more):
    return pd.DataFrame({"id": ids, "label": labels, **more})


def test_challengedata_round_trip(csv, tmp_path):
    predictions = frame([7, 8, 9], [2583.0, 10.0, 10.0])  # any order, whole floats
    paths = write_submission(predictions, csv, tmp_path / "out" / "new")
    assert [path.name for path in paths] == ["y_test_pred.csv"]
    assert paths[0].read_bytes() == GOOD.encode()
    sentence = check_submission(paths[0].rename(tmp_path / "mine.csv"), csv)  # this board takes any name
    assert "valid" in sentence and "3 rows" in sentence


def test_sigir_round_trip(sigir, tmp_path):
    predictions = frame([7, 5, 6], [40, 40, 2583], split=["task1_phase2", "task1_phase1", "task1_phase2"])
    paths = write_submission(predictions, sigir, tmp_path)
    assert {path.name for path in paths} == {"y_test_task1_phase1_pred.tsv", SIGIR_NAME}
    assert (tmp_path / SIGIR_NAME).read_text() == SIGIR_HEAD + "6\t32\t42\t2583\n7\t33\t43\t40\n"
    assert all("valid" in check_submission(path, sigir) for path in paths)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    (only,) = write_submission(predictions.iloc[[1]], sigir, tmp_path / "one")
    assert only.name == "y_test_task1_phase1_pred.tsv"


@pytest.mark.parametrize(
    ("predictions", "words"),
    [
        (frame([7, 8], [10, 10]), ["lack id 9", "2 rows for 3"]),
        (frame([7, 8, 9, 11], [10] * 4), ["unknown id 11"]),
        (frame([7, 8, 9, 9], [10] * 4), ["repeat id 9", "keep one"]),
        (frame([7, 8, 9], [10, None, 10]), ["id 8", "nan", "predict one of 10"]),
        (frame([7, 8, 9], [10, 10, 40]), ["id 9", "code 40", "training does not have"]),
        (frame([7, 8, 9], [10, 10.5, 10]), ["id 8", "10.5"]),
        (frame([7, 8, 9], [10] * 3).drop(columns="label"), ["lack the column label"]),
        (frame([7, 8, 9], [10] * 3, split="phase9"), ["'phase9'", "choose among test"]),
    ],
)
def test_nothing_is_written_when_refused(csv, tmp_path, predictions, words):
    (tmp_path / "y_test_pred.csv").write_text("old")
    with pytest.raises(KitError) as caught:
        write_submission(predictions, csv, tmp_path)
    assert all(word in str(caught.value) for word in words), caught.value
    assert (tmp_path / "y_test_pred.csv").read_text() == "old" and len(list(tmp_path.iterdir())) == 2


def test_splits_must_be_clear(sigir, tmp_path):
    with pytest.raises(KitError, match="add a column split with task1_phase1 or task1_phase2"):
        write_submission(frame([5], [40]), sigir, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(KitError, match="cannot be written"):
        write_submission(frame([5], [40], split="task1_phase1"), sigir, tmp_path / "file")


def test_a_folder_without_a_test_file(tmp_path):
    files = {name: text for name, text in CSV.items() if "test" not in name}
    challenge = read_challenge(fill(tmp_path, files), images="ignore")
    with pytest.raises(KitError, match="no test file"):
        write_submission(frame([1], [10]), challenge, tmp_path)
    with pytest.raises(KitError, match="no test file"):
        check_submission(tmp_path / "y.csv", challenge)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["is empty"]),
        (GOOD.replace(",", ";"), ["semicolon", "comma"]),
        (GOOD.replace(",prd", "id,prd"), ["line 1", "header", "',prdtypecode'"]),
        ("prdtypecode\n10\n2583\n10\n", ["line 1", "header"]),
        (GOOD.replace("9,10\n7,2583", "7,2583\n9,10"), ["line 2", "id 7 is in the place of 9", "order"]),
        (GOOD.replace("8,10", "7,10"), ["line 4", "id 7 occurs a second time"]),
        (GOOD.replace("8,10", "99,10"), ["line 4", "'99' is not in the test file"]),
        (GOOD.replace("7,", "7.0,"), ["line 3", "'7.0'"]),
        (GOOD + "9,10\n", ["line 5", "second time"]),
        (GOOD.replace("8,10\n", ""), ["2 rows, not 3", "before id 8"]),
        (",prdtypecode\n", ["0 rows, not 3"]),
        (GOOD.replace("7,2583", "7,"), ["line 3", "code is missing"]),
        (GOOD.replace("7,2583", "7,2583.0"), ["line 3", "'2583.0'", "whole number"]),
        (GOOD.replace("7,2583", "7,40"), ["line 3", "'40'", "training"]),
        (GOOD.replace("7,2583", "7,2583,x"), ["line 3", "3 fields, not 2"]),
        (GOOD.replace("7,2583", ""), ["line 3", "0 fields"]),
        (GOOD.encode().replace(b"7,2583", b"7,\xff"), ["line 3", "UTF-8"]),
        ("\ufeff" + GOOD, ["byte-order mark", "save it as UTF-8 without one"]),
        ("\ufeff" + GOOD.replace("\n", "\r\n"), ["byte-order mark"]),
    ],
)
def test_a_file_at_fault_is_refused(csv, tmp_path, text, words):
    fill(tmp_path, {"y.csv": text})
    with pytest.raises(KitError) as caught:
        check_submission(tmp_path / "y.csv", csv)
    assert all(word in str(caught.value) for word in ["y.csv", *words]), caught.value


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("mine.tsv", "", ["mine.tsv", "rename", SIGIR_NAME]),
        (SIGIR_NAME, SIGIR_HEAD.replace("\t", ","), ["a comma", "a tab"]),
        (SIGIR_NAME, SIGIR_HEAD.lower() + "6\t32\t42\t40\n", ["line 1", "header"]),
        (SIGIR_NAME, SIGIR_HEAD + "6\t32\t42\t40\n7\t33\t99\t40\n", ["line 3", "product_id is '99', not 43"]),
        (SIGIR_NAME, SIGIR_HEAD + "6\t32\t42\t10\n7\t33\t43\t40\n", ["line 2", "'10'"]),
    ],
)
def test_a_sigir_file_at_fault_is_refused(sigir, tmp_path, name, text, words):
    fill(tmp_path, {name: text})
    with pytest.raises(KitError) as caught:
        check_submission(tmp_path / name, sigir)
    assert all(word in str(caught.value) for word in words), caught.value


def test_windows_line_ends_pass(csv, tmp_path):
    fill(tmp_path, {"y.csv": GOOD.replace("\n", "\r\n")})
    assert "3 rows" in check_submission(tmp_path / "y.csv", csv)


def test_predictions_of_a_run(sigir, tmp_path):
    values = {"p_40": [0.9, 0.2, 0.4, 0.7, 0.2, 0.6], "p_2583": [0.1, 0.8, 0.6, 0.3, 0.8, 0.4], "label": [40] * 6}
    splits = ["task1_phase1", "task1_phase2", "task1_phase2"]
    table = pd.DataFrame({"id": [5, 6, 7] * 2, "split": splits * 2, "fold": [0, 0, 0, 1, 1, 1], **values})
    table.to_parquet(tmp_path / "test.parquet")
    predictions = read_predictions(tmp_path)
    assert predictions.to_numpy().tolist() == [[5, splits[0], 40], [6, splits[1], 2583], [7, splits[1], 40]]
    assert len(write_submission(predictions, sigir, tmp_path)) == 2
    table.drop(columns=["split", "fold"])[1:2].rename(columns={"p_2583": "p_-2"}).to_parquet(tmp_path / "plain.parquet")
    plain = read_predictions(tmp_path / "plain.parquet")
    assert plain["split"].isna().all() and plain["label"].tolist() == [-2]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"id": [1], "label": [10]}, ["lacks one of id and p_<code>"]),
        ({"id": [1, 2], "p_10": [1.0, None]}, ["not finite", "id 2"]),
        ({"id": [1, 2], "p_10": [0.5, 0.0], "p_20": [0.5, 0.0]}, ["sum 1", "id 2"]),
        ({"id": [1, 2], "p_10": [-0.5, 1.0], "p_20": [1.5, 0.0]}, ["not finite probabilities", "id 1"]),
        ({"id": [1], "p_10": ["a"]}, ["cannot be read", "train the run again"]),
        ({"id": [1, 2, 2], "fold": [0, 0, 1], "p_10": [1.0, 1.0, 1.0]}, ["more folds than others"]),
        ({"id": [1, 2, 2], "fold": [0, 0, 0], "p_10": [1.0, 1.0, 1.0]}, ["repeats id 2"]),
        ({"id": [1, 2, 2], "p_10": [1.0, 1.0, 1.0]}, ["repeats id 2"]),
        (None, ["cannot be read", "train the run again"]),
    ],
)
def test_predictions_at_fault(tmp_path, table, words):
    path = tmp_path / "test.parquet"
    if table is None:
        path.write_text("not parquet")
    else:
        pd.DataFrame(table).to_parquet(path)
    with pytest.raises(KitError) as caught:
        read_predictions(path)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("rows", [slice(0, 2), slice(0, 0), [1, 0, 2]])
def test_the_test_files_own_ids_count_and_not_a_damaged_frame(csv, tmp_path, rows):
    short = dataclasses.replace(csv, test={"test": csv.test["test"].iloc[rows].reset_index(drop=True)})
    lines = "".join(f"{i},10\n" for i in short.test["test"]["id"])
    fill(tmp_path, {"y.csv": ",prdtypecode\n" + lines})
    with pytest.raises(KitError, match=rf"changed since it was read \(3 items now, {len(short.test['test'])} then\)"):
        check_submission(tmp_path / "y.csv", short)
    with pytest.raises(KitError, match="3 items now"):
        write_submission(frame(short.test["test"]["id"], 10), short, tmp_path)


def test_a_test_file_that_changed_since_it_was_read(csv, tmp_path):
    fill(tmp_path, {"y.csv": GOOD})
    (csv.folder / "X_test.csv").write_text(CSV["X_test.csv"] + "10,D,,4,4\n")
    with pytest.raises(KitError, match=r"changed since it was read \(4 items now, 3 then\)"):
        check_submission(tmp_path / "y.csv", csv)
    (csv.folder / "X_test.csv").unlink()
    with pytest.raises(KitError, match="put the test file back"):
        check_submission(tmp_path / "y.csv", csv)


# ---------------------------------------------------------------- which products were predicted


@pytest.fixture
def catalogue(tiny_data, tmp_path):
    return shutil.copytree(tiny_data, tmp_path / "data")


def fake(name: str, data: Path, system: str = "coattention", **values):
    """A finished run that predicts the test items that it reads."""
    config = train_config(**{"run": name, "data": str(data), "system": system, "folds": 2, **values})
    codes, frames = read_items(config)
    run, train, test = prepare_run(config), frames["train"], frames["test"]
    even = [np.full((len(part), len(codes)), 1 / len(codes)) for part in (train, test)]
    run.write(
        codes, (train, even[0]), (test, np.stack([even[1]] * 2)), summarise_items(frames, data_fingerprints(frames))
    )
    return run


def change(data: Path, *, rows=(), text=None, image=None, by=str):
    """Give test items in `rows` of the file another title or image, or change the whole file `by`."""
    path = data / "X_test_update.csv"
    lines = path.read_text().splitlines()
    for row in rows:
        cells = lines[row].split(",")
        if text:
            lines[row] = ",".join([cells[0], text, *cells[2:]])
        if image:
            name = f"image_{cells[4]}_product_{cells[3]}.jpg"
            Image.new("RGB", (40, 40), image).save(data / "images" / "image_test" / name)
    path.write_text(by("\n".join(lines) + "\n"))


OTHERS = {  # what changes → how many of the 7 test items differ
    "one title": ({"rows": [3], "text": "Tout autre chose"}, 1),
    "every title": ({"rows": range(1, 8), "text": "Tout autre chose"}, 7),
    "an image": ({"rows": [2, 4], "image": "red"}, 2),
    "a title and an image": ({"rows": [5], "text": "Autre", "image": "red"}, 1),
    "product ids": ({"by": lambda text: text.replace(",93", ",83")}, 4),
}


@pytest.mark.parametrize("name", OTHERS)
def test_predictions_of_other_products_are_refused(root, catalogue, name):
    changes, count = OTHERS[name]
    runs = [fake("one", catalogue, "text"), fake("two", catalogue)]
    ensemble = stack(ensemble_config(["one", "two"], "all 2", method="blend"))
    change(catalogue, **changes)
    challenge = read_challenge(catalogue, images="leave")
    for run in [*runs, ensemble]:
        if name == "an image" and run.name == "one":  # which read none
            assert write_submission(read_predictions(run.folder), challenge, root / "out")
            continue
        with pytest.raises(KitError, match=rf"are for other products .* {count} of 7 differ under the same ids"):
            write_submission(read_predictions(run.folder), challenge, root / "other")
        with pytest.raises(KitError, match=rf"run '{run.name}' .* {count} of 7 differ"):
            check_test_items(run)
    assert not (root / "other").exists()
    with pytest.raises(KitError, match=rf"'three' does not fit 'two': it predicts other products, {count} of 7"):
        read_members(["two", fake("three", catalogue, missing="blank").name])


def test_training_items_that_changed_are_noticed(root, catalogue):
    run = fake("run", catalogue, missing="blank")
    check_test_items(run)
    labels, photo = catalogue / "Y_train_CVw08PX.csv", next((catalogue / "images" / "image_train").iterdir())
    kept = labels.read_text(), photo.read_bytes()
    rows = kept[0].splitlines()
    labels.write_text("\n".join([rows[0], rows[1].split(",")[0] + "," + rows[2].split(",")[1], *rows[2:]]))
    for check in (check_test_items, read_errors):
        with pytest.raises(KitError, match=r"1 of .* items are gone or have another text, label"):
            check(run)
    labels.write_text(kept[0])
    Image.new("RGB", (40, 40), "red").save(photo)
    for check in (check_test_items, read_errors):
        with pytest.raises(KitError, match=r"1 of the .*items of .* have other images"):
            check(run)
    read_errors(fake("text", catalogue, "text"))  # which read none
    photo.write_bytes(kept[1])
    check_test_items(run)


SAME = {
    "as they were": str,
    "the ends of lines": lambda text: text.replace("\n", "\r\n"),
    "accents in two forms": lambda text: unicodedata.normalize("NFD", text),
    "another order": lambda text: "\n".join([text.split("\n")[0], *text.split("\n")[:0:-1]]),
    "a column more": lambda text: text.replace("\n", ",x\n"),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_products_in_another_file_or_cleaned_otherwise_pass(root, catalogue, name):
    change(catalogue, rows=[1, 2], text="Été &amp; <b>hiver</b>  à")
    run = fake("run", catalogue)
    change(catalogue, by=SAME[name])
    check_test_items(run)
    for cleaned in (True, False):
        challenge = read_challenge(catalogue, cleaned, cleaned, images="leave")
        assert write_submission(read_predictions(run.folder), challenge, root / "out")


def test_images_that_are_gone_or_were_never_there_are_not_held_against_a_run(root, catalogue):
    paths = sorted((catalogue / "images" / "image_test").iterdir())
    kept = paths[0].read_bytes()
    paths[0].write_bytes(b"no image")
    run = fake("run", catalogue, corrupt="blank")
    paths[0].write_bytes(kept)
    paths[1].unlink()
    check_test_items(run)
    shutil.rmtree(catalogue / "images")
    check_test_items(run)


def test_predictions_that_do_not_know_their_products(root, catalogue):
    """A file of one's own passes as it is."""
    run = fake("old", catalogue)
    table = pd.read_parquet(run.folder / "test.parquet").drop(columns=["fingerprint", "image_fingerprint"])
    change(catalogue, rows=[1], text="Autre")
    challenge = read_challenge(catalogue, images="ignore")
    table.to_parquet(root / "mine.parquet")
    assert write_submission(read_predictions(root / "mine.parquet"), challenge, root / "out")


def test_a_test_file_of_other_ids_or_none(root, catalogue):
    run = fake("run", catalogue)
    change(catalogue, by=lambda text: text.replace("\n40,", "\n400,"))
    with pytest.raises(KitError, match="lack id 400"):
        check_test_items(run)
    (catalogue / "X_test_update.csv").unlink()
    check_test_items(run)  # nothing to submit


@pytest.mark.parametrize("notebook", ["03_train", "07_submission"])
def test_the_notebooks_refuse_old_answers_to_new_products(root, catalogue, notebook):
    fake("run", catalogue, "tfidf")
    change(catalogue, rows=[1, 2, 3], text="Autre")
    path = Path(__file__).parents[1] / "notebooks" / f"{notebook}.ipynb"
    values = {"run": "run", "data": str(catalogue)} | ({"system": "tfidf", "folds": 2} if "03" in notebook else {})
    with pytest.raises(PapermillExecutionError) as caught:
        papermill.execute_notebook(path, root / "out.ipynb", values, progress_bar=False)
    assert "3 of 7 differ under the same ids (36, 37, 38)" in caught.value.evalue


# ---------------------------------------------------------------- catalogues of one's own


@pytest.fixture
def shop(root):
    """60 labelled and 20 other items of the shipped shop, with labels and ids that are text; a tfidf run on them."""
    challenge = read_challenge("data/shop", False, False, images="ignore")
    named = challenge.train["label"].map(challenge.names)
    kept = named.isin(["Salon", "Salle de bain", "Cuisine"])
    table = challenge.train[kept].assign(category=named[kept]).groupby("category").head(20)
    for frame, name in ((table, "items"), (challenge.test["test"][:20].assign(category="?"), "new")):
        frame = frame.assign(sku=[f"S {i:04d}, é" for i in frame["id"]]).rename(columns={"title": "name"})
        frame[["sku", "name", "description", "category"]].sample(frac=1, random_state=0).to_csv(
            root / f"{name}.csv", sep=";", index=False
        )
    columns = {"title": "name", "text": ["description"], "label": "category", "id": "sku"}
    describe(root / "items.csv", **columns, test=root / "new.csv", out=root / "mine")
    run = prepare_run(train_config(run="own", data=str(root / "mine"), system="tfidf", split="grouped", folds=2))
    fit(run)
    return run


def test_a_run_on_a_catalogue_ends_in_its_own_ids_and_labels(root, shop, capsys):
    challenge = challenge_of(shop, images="leave")
    (path,) = write_submission(read_predictions(shop.folder), challenge, root / "submissions" / "own")
    written, new = pd.read_csv(path), pd.read_csv(root / "new.csv", sep=";")
    assert path.name == "predictions.csv" and list(written) == ["sku", "category"]
    assert written["sku"].tolist() == new["sku"].tolist()
    _, codes, values = shop.predictions("test")
    best = values.reshape(2, 20, 3).mean(0).argmax(1)
    assert written["category"].tolist() == [sorted({"Salon", "Salle de bain", "Cuisine"})[codes[i]] for i in best]
    assert check(path) == 0
    assert "predictions.csv is a valid file of predictions of 20 rows for test." in capsys.readouterr().out
    lines = path.read_text().splitlines()
    for wrong, words in {
        "\n".join([lines[0], lines[2], lines[1], *lines[3:]]): "line 2: id 'S",
        path.read_text().replace(
            "Salon", "Bureau"
        ): "the label is 'Bureau', which training does not have; write one of",
        path.read_text().replace("sku,category", "id,category"): "write that header",
    }.items():
        path.write_text(wrong)
        assert check(path) == 1
        assert words.replace("id 'S", "id S") in capsys.readouterr().err
    assert read_errors(shop, challenge).names == {0: "Cuisine", 1: "Salle de bain", 2: "Salon"}


LATER = {  # what happens to the tables after the run → what is said, None if nothing is
    "new.csv: other order": "are for other products than the test file has now: 20 of 20",  # rows are its ids
    "new.csv: one item more": "lack id X",
    "new.csv: another text": "are for other products than the test file has now: 1 of 20",
    "items.csv: other order": "set of labels",
    "items.csv: another text": "1 of the run's items are gone or have another text",
    "items.csv: a label renamed": "set of labels",
    "items.csv: one item more": None,
    "items.csv: one class more": "set of labels",
}


@pytest.mark.parametrize("name", LATER)
def test_a_table_that_changes_later_never_changes_what_was_predicted(root, shop, name):
    before = write_submission(read_predictions(shop.folder), challenge_of(shop), root / "before")[0].read_text()
    file, what = name.split(": ")
    table = pd.read_csv(root / file, sep=";")
    more = table[:2].assign(sku=["X", "Y"])
    change = {
        "other order": lambda: table[::-1],
        "one item more": lambda: pd.concat([table, more[:1]]),
        "another text": lambda: table.assign(name=["Autre", *table["name"][1:]]),
        "a label renamed": lambda: table.replace({"category": {"Cuisine": "Zen"}}),
        "one class more": lambda: pd.concat([table, more.assign(category="Bureau")]),
    }
    changed = change[what]()
    changed.to_csv(root / file, sep=";", index=False)
    if LATER[name] is None:
        check_test_items(shop)
        after = write_submission(read_predictions(shop.folder), challenge_of(shop), root / "after")[0].read_text()
        assert sorted(after.splitlines()) == sorted(before.splitlines())
        return
    with pytest.raises(KitError, match=LATER[name]):
        check_test_items(shop)
    if "class" in what or "label" in what:
        with pytest.raises(KitError, match="are for other classes than the catalogue has now"):
            write_submission(read_predictions(shop.folder), challenge_of(shop), root / "after")
    if file == "items.csv":
        with pytest.raises(KitError, match="set of labels"):
            read_errors(shop)


def check(*arguments) -> int:
    return main(["check", *map(str, arguments)])


def test_the_command_finds_the_folder_of_a_run(root, catalogue, capsys):
    run = fake("run", catalogue)
    (path,) = write_submission(read_predictions(run.folder), read_challenge(catalogue), root / "submissions" / "run")
    assert check(path) == 0
    assert "valid" in capsys.readouterr().out
    elsewhere = shutil.copy(path, root / "mine.csv")
    assert check(elsewhere) == 1
    assert re.search(r"mine.csv is not in the submissions/ folder .*--data DIR", capsys.readouterr().err)
    assert check(elsewhere, "--data", catalogue) == 0
    change(catalogue, rows=[1], text="Autre")
    for more in ([], ["--data", catalogue]):
        assert check(path, *more) == 1
        assert "1 of 7 differ under the same ids" in capsys.readouterr().err
    assert check(elsewhere, "--data", catalogue) == 0  # of which nothing is known


def test_command(csv, tmp_path, monkeypatch, capsys):
    fill(tmp_path, {"good.csv": GOOD, "bad.csv": GOOD.replace("8,10", "8,x")})
    monkeypatch.chdir(tmp_path)
    assert check("good.csv", "--data", "data") == 0
    assert "valid" in capsys.readouterr().out
    for wrong in (["bad.csv", "--data", "data"], ["gone.csv", "--data", "data"], ["good.csv", "--data", "nowhere"]):
        assert check(*wrong) == 1
        assert capsys.readouterr().err.count("\n") == 1  # one sentence
    assert check("gone.csv") == 1
    assert f"There is no file {tmp_path / 'gone.csv'}" in capsys.readouterr().err
