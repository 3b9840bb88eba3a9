"""Finished runs predict new items as they predicted their own test items, here or from an exported folder."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from fakes import catalogue
from PIL import Image
from safetensors.torch import load_file, save_file

import kit
from kit import cli
from kit.config import LIGHT, train_config
from kit.core.exceptions import KitError
from kit.data.catalogue import describe
from kit.export import export, save_image
from kit.models import image_backbones
from kit.models.image_backbones import load_image
from kit.predict import Predictor, predict_table
from kit.runs import open_run, prepare_run
from kit.stacking.ensemble import ensemble_config, stack
from kit.stacking.stackers import METHODS
from kit.training import light
from kit.training.run_trainer import predicting, train
from kit.training.trained import open_trained

SMALL = {
    "image_size": 64, "max_tokens": 24, "width": 16, "attention_width": 8, "classifier_width": 8, "batch_size": 8,
    "epochs": 1, "lr": 0.01, "workers": 0, "folds": 2, "freeze_text": True, "freeze_image": True,
}  # fmt: skip
SYSTEMS = {
    "first": "coattention",
    "tfidf": "tfidf",
    "probe": "logistic",
    "text_probe": "logistic_text",
    "neighbours": "neighbours",
}
TEST = "X_test_update.csv"


def make(name: str, data: Path, backbones: dict, **values) -> None:
    run = prepare_run(train_config(**SMALL | backbones | {"data": str(data), "run": name} | values))
    light.fit(run) if run.config.system in LIGHT else train(run)


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny_data) -> Path:
    return Path(shutil.copytree(tiny_data, tmp_path_factory.mktemp("challenge") / "data"))


@pytest.fixture(scope="module")
def backbones(tiny_texts, tiny_image) -> dict[str, str]:
    return {"text": tiny_texts["bert"], "image": tiny_image}


@pytest.fixture(scope="module", autouse=True)
def root(tmp_path_factory, data, backbones) -> Iterator[Path]:
    """A folder with one run of each kind, and the stacks of two of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIT_ROOT", str(folder := tmp_path_factory.mktemp("root")))
        for name, system in SYSTEMS.items():
            make(name, data, backbones, system=system)
        make("tuned", data, backbones, freeze_text=False, freeze_image=False, folds=1)
        for method in METHODS:
            stack(ensemble_config(["first", "tfidf"], "two", method=method, study=method))
        yield folder


def stacked(method: str) -> str:
    return f"{method}-ensemble-two-{method}"


def check_same(predicted: pd.DataFrame, run: str) -> None:
    """The rows are the run's own predictions of its test items, mean over folds."""
    means = open_run(run).read_test()[1].droplevel("split")
    assert predicted["problem"].eq("").all() and predicted.iloc[:, 0].astype(int).tolist() == means.index.tolist()
    for (_, row), (_, own) in zip(predicted.iterrows(), means.iterrows(), strict=True):
        assert row["label"] == own.idxmax()
        for end in ("", "_2", "_3"):
            assert row[f"probability{end}"] == pytest.approx(own[row[f"label{end}"]], abs=1e-6)


@pytest.mark.parametrize("run", [*SYSTEMS, "tuned", *map(stacked, METHODS)])
def test_test_items_get_the_predictions_of_the_run(run, data, tmp_path):
    sentence = predict_table(run, data / TEST, None, tmp_path / "out.csv")
    assert sentence == f"{tmp_path / 'out.csv'}: 7 items."
    check_same(pd.read_csv(tmp_path / "out.csv", keep_default_na=False), run)


def test_members_of_different_precision_predict_in_one_process(data, backbones, tmp_path):
    make("half", data, backbones, precision="bf16")
    stack(ensemble_config(["first", "half"], "mixed", method="blend", study="mixed"))
    predict_table("mixed-ensemble-mixed-blend", data / TEST, None, tmp_path / "out.csv")
    check_same(pd.read_csv(tmp_path / "out.csv", keep_default_na=False), "mixed-ensemble-mixed-blend")


def test_what_is_loaded_stays_and_single_items_leave_nothing(data, root, monkeypatch):
    predictor, table = kit.Predictor("runs/first"), pd.read_csv(data / TEST)
    items = [
        {"title": row.designation, "description": row.description, "image": str(path), "id": 77}
        for row in table.itertuples()
        for path in data.rglob(f"image_{row.imageid}_product_{row.productid}.jpg")
    ]
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    whole = predictor.predict(items)
    monkeypatch.setattr("kit.models.backbones.load_text", None)  # would fail
    monkeypatch.setattr("kit.training.trained.load_weights", None)
    one = predictor.predict(items[2:3])
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert one["probability"][0] == pytest.approx(whole["probability"][2], abs=1e-6) and one["id"][0] == "77"
    assert whole["problem"].tolist() == ["", *(["id is '77' as in row 1"] * 6)]
    check_same(whole.assign(id=table.iloc[:, 0], problem=""), "first")
    check_same(predictor.predict(table, images=data), "first")


def test_members_of_a_stack_share_what_their_backbones_return(data):
    members = ["first", "probe", "text_probe", "neighbours"]
    stack(ensemble_config(members, "shared", method="blend", study="shared"))
    predictor, passed = Predictor("shared-ensemble-shared-blend"), {"text": 0, "image": 0}
    handles = {id(one): one for member in predictor.members for one in member.backbones.values()}.values()
    assert sorted(one.side for one in handles) == ["image", "text"]  # loaded once
    for one in handles:

        def count(module, inputs, outputs, side=one.side) -> None:
            passed[side] += len(outputs if side == "image" else outputs[-1])  # of the text, one tensor per layer

        one.frozen.register_forward_hook(count)
    items = pd.read_csv(data / TEST).assign(designation=lambda frame: frame["designation"] + " neuf")
    assert predictor.predict(items, images=data)["problem"].eq("").all()
    assert passed == {"text": len(items), "image": len(items)}


def test_broken_rows_cost_nothing_but_themselves(data, tmp_path):
    table = pd.read_csv(data / TEST, keep_default_na=False)
    table.to_csv(tmp_path / "items.csv", index=False)
    folder = Path(shutil.copytree(data / "images" / "image_test", tmp_path / "pictures"))
    files = [folder / f"image_{row.imageid}_product_{row.productid}.jpg" for row in table.itertuples()]
    files[0].unlink()
    files[1].write_bytes(b"no image")
    files[2].unlink()
    lines = (tmp_path / "items.csv").read_text().splitlines()
    lines[3] = f"{table.iloc[2, 0]},,,{table['productid'][2]},{table['imageid'][2]}"  # no text, and no image
    lines[4] = "39,one,two,three"
    (tmp_path / "items.csv").write_text("\n".join(lines))
    out = tmp_path / "out.parquet"
    sentence = predict_table("first", tmp_path / "items.csv", folder, out)
    assert sentence.splitlines() == [
        f"{out}: 7 items, 4 with a problem (see the column problem), 2 of these without a label.",
        f"  2 × missing image (such as item {table.iloc[0, 0]}: image {files[0].name} is missing); looked for under "
        f"{folder}: give the folder of the images with --images",
        f"  1 × unreadable image (such as item {table.iloc[1, 0]}: image {files[1].name} cannot be read: no JPEG, PNG, "
        "GIF, WebP, BMP or TIFF)",
        f"  1 × no text (such as item {table.iloc[2, 0]}: no text)",
        "  1 × row that does not fit the header (such as item 39: 4 fields, not 5)",
    ]
    predict_table("first", tmp_path / "items.csv", folder, out.with_suffix(".tsv"))
    found = pd.read_parquet(out)
    assert list(pd.read_csv(out.with_suffix(".tsv"), sep="\t")) == list(found)
    assert found["problem"].tolist() == [
        f"image {files[0].name} is missing",
        f"image {files[1].name} cannot be read: no JPEG, PNG, GIF, WebP, BMP or TIFF",
        f"no text; image {files[2].name} is missing",
        "4 fields, not 5",
        *[""] * 3,
    ]
    assert found["label"].isna().tolist() == [False, False, True, True, False, False, False]
    assert found["probability"].isna().equals(found["label"].isna())
    means = open_run("first").read_test()[1].to_numpy()
    assert found["probability"][4:].to_numpy() == pytest.approx(means[4:].max(1), abs=1e-6)
    white = tmp_path / "white.png"
    Image.new("RGB", (64, 64), "white").save(white)
    row = {"title": table["designation"][0], "description": table["description"][0]}
    blank = Predictor("first").predict([row, row | {"image": white}])
    assert blank["problem"].tolist() == ["no image", ""]
    assert [*blank["probability"], found["probability"][0]] == pytest.approx([blank["probability"][0]] * 3, abs=1e-6)


def test_the_manual_works_as_written(data, tmp_path, monkeypatch):
    page = (Path(__file__).parents[1] / "docs" / "predict.md").read_text(encoding="utf-8")
    shutil.copy(data / TEST, tmp_path / "items.csv")
    shutil.copytree(data / "images" / "image_test", tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL):
        for command in block.splitlines():
            assert cli.main(shlex.split(command)[1:]) == 0
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, {})
    check_same(pd.read_csv("predicted.csv", keep_default_na=False), "first")
    check_same(pd.read_parquet("predicted.parquet"), "first")


def test_texts_alone_are_enough_for_a_model_of_texts(data):
    found = Predictor("tfidf").predict([{"title": "livre rouge"}, {"title": "", "description": None}])
    assert found["problem"].str.startswith("no text").tolist() == [False, True]
    assert found["label"].isna().tolist() == [False, True] and found.columns[0] == "row"


@pytest.mark.parametrize("items", [{"title": "livre"}, ["livre rouge"], [("livre", "rouge")], None])
def test_what_is_no_list_of_dictionaries_is_refused(items):
    with pytest.raises(KitError, match="pass one per item"):
        Predictor("tfidf").predict(items)


def test_dictionaries_keep_long_ids_and_half_an_emoji_stops_nothing():
    found = Predictor("tfidf").predict([{"id": 2**53 + 1, "title": "livre \ud83d"}, {"title": "rouge"}])
    assert found["id"].tolist() == [str(2**53 + 1), ""] and found["label"].notna().all()


CODE = """
import sys
from kit import Predictor
items, images, *pairs = sys.argv[1:]
for run, out in zip(pairs[::2], pairs[1::2]):
    Predictor(run).predict(items, images).to_csv(out, index=False)
"""


def test_an_export_predicts_the_same_without_the_data(data, backbones, tmp_path, capsys):
    runs, elsewhere = ["tuned", stacked("best")], tmp_path / "elsewhere"
    elsewhere.mkdir()
    pairs = []
    for run in runs:
        assert cli.main(["export", run, str(tmp_path / "made")]) == 0
        assert " MB, of which " in capsys.readouterr().out
        moved = (tmp_path / "made").rename(tmp_path / run)
        content = json.loads((moved / "export.json").read_text())
        assert {*content["backbones"]} == {*backbones.values()}
        pairs += [str(moved), str(tmp_path / f"{run}.csv")]
    shutil.copy(data / TEST, elsewhere)
    shutil.copytree(data / "images" / "image_test", elsewhere / "pictures")
    hidden = [Path(place) for place in (data, *backbones.values())]
    for place in hidden:
        place.rename(place.with_name(f"{place.name}-hidden"))
    try:
        environment = os.environ | {"KIT_ROOT": str(elsewhere), "PYTHONPATH": str(Path(kit.__file__).parents[1])}
        command = [sys.executable, "-c", CODE, TEST, "pictures", *pairs]
        subprocess.run(command, check=True, env=environment, cwd=elsewhere)
    finally:
        for place in hidden:
            place.with_name(f"{place.name}-hidden").rename(place)
    for run in runs:
        check_same(pd.read_csv(tmp_path / f"{run}.csv", keep_default_na=False), run)
    assert {path.name for path in elsewhere.iterdir()} == {TEST, "pictures"}  # no cache


def test_a_damaged_export_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "made"
    cli.main(["export", "probe", str(folder)])
    weights = folder / "runs" / "probe" / "model-1.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(KitError, match=r"model-1.safetensors is damaged .* export the run again"):
        Predictor(folder)
    weights.unlink()
    with pytest.raises(KitError, match=r"model-1.safetensors is missing"):
        Predictor(folder)
    (folder / "export.json").rename(tmp_path / "hidden")
    with pytest.raises(KitError, match=r"export.json is missing"):
        Predictor(folder)
    (tmp_path / "hidden").rename(folder / "export.json")
    (folder / "SHA256SUMS").write_text("")
    with pytest.raises(KitError, match=r"SHA256SUMS is cut short"):
        Predictor(folder)
    with pytest.raises(KitError, match=r"made exists: choose a new folder"):
        export("probe", folder)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KitError, match="is the working directory, which cannot be replaced"):
        export("probe", Path())


def test_runs_that_cannot_predict_say_so(data, root, backbones, tmp_path, monkeypatch):
    weights = root / "runs" / "tfidf" / "model-0.safetensors"
    weights.rename(tmp_path / "hidden")
    for refused in (lambda: Predictor("tfidf"), lambda: export("tfidf", tmp_path / "made")):
        with pytest.raises(KitError, match=r"model-0.safetensors is missing: .* train the run again"):
            refused()
    (tmp_path / "hidden").rename(weights)
    with pytest.raises(KitError, match=r"There is no run 'none'"):
        Predictor("none")
    for path in (tmp_path / "elsewhere" / "tfidf", ""):  # not the run of that name, and not the newest one
        with pytest.raises(KitError, match=r"is neither the folder of a run nor"):
            Predictor(path)
    with pytest.raises(KitError, match=r"and need title or description or image, or those of the challenge"):
        Predictor("tfidf").predict([{"name": "livre"}])
    pd.DataFrame({"name": ["livre"], "description": ["rouge"]}).to_csv(tmp_path / "named.csv", index=False)
    with pytest.raises(KitError, match=r"columns name, description, and need title, or those of the challenge"):
        Predictor("tfidf").predict(tmp_path / "named.csv")
    with pytest.raises(KitError, match="There are no items to predict"):
        Predictor("tfidf").predict([])
    monkeypatch.setattr("kit.predict.Predictor", None)  # nothing is computed
    for name in ("out.xlsx", "out", "out.csv.gz"):
        with pytest.raises(KitError, match=rf"{name} must end in .csv, .tsv or .parquet"):
            predict_table("tfidf", data / TEST, None, tmp_path / name)
    with pytest.raises(KitError, match="is the table of the items"):
        predict_table("tfidf", data / TEST, None, data / TEST)
    (tmp_path / "file").touch()
    with pytest.raises(KitError, match=r"out.csv cannot be written .* choose another file with -o"):
        predict_table("tfidf", data / TEST, None, tmp_path / "file" / "out.csv")


def test_a_backbone_that_changed_since_training_is_refused(data, root, backbones, tmp_path):
    changing = {side: shutil.copytree(folder, tmp_path / side) for side, folder in backbones.items()}
    named = {side: str(folder) for side, folder in changing.items()}
    for name, system in (("frozen", "coattention"), ("near", "neighbours"), ("linear", "logistic_image")):
        make(name, data, named, system=system)
    (changing["image"] / ".DS_Store").write_bytes(b"what a file manager leaves")
    kit.models.backbones._handle.cache_clear()  # as in another process
    predict_table("frozen", data / TEST, None, tmp_path / "out.csv")
    weights = load_file(changing["image"] / "model.safetensors")
    save_file({key: value + 1 for key, value in weights.items()}, changing["image"] / "model.safetensors")
    kit.models.backbones._handle.cache_clear()
    for name in ("frozen", "near", "linear"):
        sentence = rf"The image backbone '.*' has other files now than when the run '{name}' was trained: put the old"
        for refused in (lambda name=name: Predictor(name), lambda name=name: export(name, tmp_path / "made")):
            with pytest.raises(KitError, match=sentence):
                refused()
    with pytest.raises(KitError, match="has other files now"):
        open_trained(open_run("frozen"))


def test_a_catalogue_of_ones_own(tmp_path, backbones, data):
    random = np.random.default_rng(0)
    for i in range(16):
        Image.fromarray(random.integers(0, 255, (40, 40, 3), np.uint8)).save(tmp_path / f"{i}.png")
    kinds = ["pour lire", "pour jouer"]
    items = pd.DataFrame({"sku": [f"A{i}" for i in range(16)], "name": ["livre rouge", "jeu bleu"] * 8})
    items = items.assign(about="grand", photo=[f"{i}.png" for i in range(16)], kind=kinds * 8)
    items[:12].to_csv(tmp_path / "items.csv", index=False)
    items[12:].to_csv(tmp_path / "new.csv", index=False)
    columns = {"label": "kind", "title": "name", "text": ["about"], "image": ["photo"], "id": "sku"}
    with pytest.warns(UserWarning, match="'name' determines the label"):
        catalogue = describe(tmp_path / "items.csv", **columns, test=tmp_path / "new.csv", out=tmp_path / "mine")
    make("mine", catalogue, backbones, system="logistic")
    found = Predictor("mine").predict(tmp_path / "new.csv")
    assert found["sku"].tolist() == items["sku"][12:].tolist() and set(found["label"]) <= {*kinds}
    assert list(found) == ["sku", "label", "probability", "label_2", "probability_2", "problem"]
    means = open_run("mine").read_test()[1]
    assert found["label"].tolist() == [sorted(kinds)[code] for code in means.idxmax(axis=1)]
    assert found["probability"].to_numpy() == pytest.approx(means.max(axis=1).to_numpy(), abs=1e-6)
    cli.main(["export", "mine", str(tmp_path / "made")])
    assert str(tmp_path / "items.csv") not in (tmp_path / "made" / "export.json").read_text()
    pd.testing.assert_frame_equal(Predictor(tmp_path / "made").predict(tmp_path / "new.csv"), found)
    rows = items[12:].drop(columns="kind").to_dict("records")
    pd.testing.assert_frame_equal(Predictor(tmp_path / "made").predict(rows, tmp_path), found)
    items.drop(columns="photo").to_csv(tmp_path / "short.csv", index=False)
    plain = [{"title": row.name, "description": row.about} for row in items[12:].itertuples(index=False)]
    own = items[12:][["name", "about"]]
    absent = "The run also reads the column 'photo', absent from the table and taken as empty: rename"
    with pytest.warns(UserWarning, match=absent):
        pd.testing.assert_frame_equal(Predictor("mine").predict(plain), Predictor("mine").predict(own))
    told = predict_table("mine", tmp_path / "short.csv", None, tmp_path / "short-out.csv").splitlines()
    assert told[1].startswith(absent) and told[2] == "  16 × no image (such as item A0: no image)" and len(told) == 3
    assert pd.read_csv(tmp_path / "short-out.csv")["label"].notna().all()
    items.rename(columns={"name": "Nom", "about": "abou", "photo": "x", "sku": "y"}).to_csv(tmp_path / "others.csv")
    sentence = (
        r"others.csv has no columns 'name', 'about' \(did you mean 'abou'\?\), 'photo', and nothing else that the run "
        r"reads; rename the table's columns to those that the run learned from; it has: "
    )
    with pytest.raises(KitError, match=sentence):
        Predictor("mine").predict(tmp_path / "others.csv")
    with pytest.warns(UserWarning, match="determines the label"):  # the columns of today are not those of the training
        describe(tmp_path / "items.csv", **columns | {"text": (), "image": (), "id": ""}, out=catalogue)
    export("mine", tmp_path / "later")
    for run in ("mine", tmp_path / "later"):
        pd.testing.assert_frame_equal(Predictor(run).predict(tmp_path / "new.csv"), found)
    items.assign(kind=items["kind"] + "!")[:12].to_csv(tmp_path / "items.csv", index=False)
    with pytest.raises(KitError, match="has other labels now than 'mine' learned"):
        Predictor("mine")


def test_new_photos_are_not_those_of_the_training(root, backbones, tmp_path):
    (tmp_path / "shop").mkdir()
    data = catalogue(tmp_path / "shop", "image")
    (tmp_path / "shop" / "img").mkdir()
    for path in (tmp_path / "shop").glob("*.png"):
        path.rename(path.parent / "img" / path.name)
    describe(tmp_path / "shop/items.csv", image="photo", label="kind", images=tmp_path / "shop/img", out=data)
    make("photos", Path(data), backbones, system="logistic_image")
    (tmp_path / "new").mkdir()
    shutil.copy(tmp_path / "shop/img/1.png", tmp_path / "new/0.png")
    pd.DataFrame({"photo": ["0.png"]}).to_csv(tmp_path / "new/more.csv", index=False)
    pd.DataFrame({"photo": ["1.png"]}).to_csv(tmp_path / "shop/more.csv", index=False)
    export("photos", tmp_path / "made")
    for run in ("photos", tmp_path / "made"):
        for folder in ("new", "shop"):
            told = predict_table(run, tmp_path / folder / "more.csv", None, tmp_path / folder / "out.csv").splitlines()
            below = (
                f"Image paths start in {tmp_path / 'shop/img'}, as the catalogue's do; --images names another folder."
            )
            assert (" (replaced): 1 items." in told[0]) == (run != "photos")
            assert told[1:] == ([below] if folder == "shop" else [])
        assert (tmp_path / "new/out.csv").read_text() == (tmp_path / "shop/out.csv").read_text()
        assert "missing" not in (tmp_path / "new/out.csv").read_text()


@pytest.mark.parametrize("name", ["test_resnet", "test_vit3"])  # the second pools by attention, as SigLIP does
def test_an_image_backbone_that_timm_knows_by_name_is_saved_whole(name, tmp_path, monkeypatch):
    torch.manual_seed(0)
    known = timm.create_model(name, pretrained=False)
    with monkeypatch.context() as hub:
        hub.setattr(timm, "create_model", lambda *_, **__: known)
        save_image(name, tmp_path)
    pixels = torch.randint(0, 255, (2, 160, 160, 3), dtype=torch.uint8)
    loaded, config = load_image(str(tmp_path)).eval(), known.pretrained_cfg
    with torch.inference_mode():
        whole = image_backbones.ImageBackbone(known, config["mean"], config["std"]).eval()
        assert torch.equal(loaded(pixels), whole(pixels))


def test_a_run_in_half_precision_predicts_without_a_gpu():
    assert predicting(train_config(precision="fp16", compile=True)).precision == "no"
    assert predicting(train_config(precision="bf16")).precision == "bf16"
