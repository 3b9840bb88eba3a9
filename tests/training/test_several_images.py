"""Items with several images: every image counts, from the table to the predictions of new items."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from kit.analysis.gallery import attention_gallery
from kit.config import LIGHT, train_config
from kit.core.exceptions import KitError
from kit.data import dataset
from kit.data.catalogue import describe
from kit.data.duplicates import duplicate_kinds
from kit.data.images import read_pixels
from kit.data.items import read_items
from kit.export import export
from kit.models.backbones import find_backbones
from kit.models.classifier import build_model
from kit.predict import Predictor
from kit.runs import TrainingRun, prepare_run
from kit.submission import check_test_items
from kit.training import light
from kit.training.anatomy import anatomy
from kit.training.explain import blanking, explain
from kit.training.run_trainer import prepare, train
from kit.training.trained import open_trained

SMALL = {
    "image_size": 64, "max_tokens": 24, "width": 16, "attention_width": 8, "classifier_width": 8, "batch_size": 8,
    "epochs": 1, "lr": 0.01, "workers": 0, "folds": 2, "freeze_text": True, "freeze_image": True,
}  # fmt: skip
COLOURS = {"Bleu": (40, 60, 220), "Rouge": (220, 50, 40), "Vert": (40, 190, 70)}
ITEMS, NEW = 36, 7
SYSTEMS = {
    "attends": {"linear_start": True},
    "probe": {"system": "logistic"},
    "near": {"system": "neighbours"},
    "concat": {"system": "concat"},
    "tuned": {"freeze_text": False, "freeze_image": False, "augment": True, "modality_dropout": 0.3, "folds": 1},
    "fused": {"system": "concat", "freeze_image": False, "folds": 1},
}


def table(folder: Path) -> pd.DataFrame:
    """Items of noise, whose colour is their class in the second of their images alone; a fourth has a third image."""
    random, labels, rows = np.random.default_rng(0), list(COLOURS), []
    for i in range(ITEMS + NEW):
        for name in ("first", "second", "third"):
            pixels = random.integers(0, 255, (40, 40, 3))
            if name == "second":
                pixels = 0.9 * np.array(COLOURS[labels[i % 3]]) + 0.1 * pixels
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}{i}.png")
        more = f"|third{i}.png" if i % 4 == 0 else ""
        word = random.choice(["chat", "chien", "livre"])
        rows.append([f"p{i}", f"{word} {i}", f"first{i}.png", f"second{i}.png{more}", labels[i % 3]])
    return pd.DataFrame(rows, columns=["sku", "name", "front", "others", "kind"])


def catalogue(folder: Path, rows: pd.DataFrame, out: str, image=("front", "others")) -> Path:
    rows[:ITEMS].to_csv(folder / f"{out}.csv", index=False)
    rows[ITEMS:].to_csv(folder / f"{out}-new.csv", index=False)
    columns = {"title": "name", "image": list(image), "label": "kind", "id": "sku"}
    return describe(folder / f"{out}.csv", **columns, test=folder / f"{out}-new.csv", out=folder / out)


def make(data: Path, name: str, backbones: dict, **values) -> TrainingRun:
    run = prepare_run(train_config(**SMALL | backbones | {"data": str(data), "run": name} | values))
    light.fit(run) if run.config.system in LIGHT else train(run)
    return run


@pytest.fixture(scope="module")
def backbones(tiny_texts, tiny_image) -> dict[str, str]:
    return {"text": tiny_texts["bert"], "image": tiny_image}


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    catalogue(folder, table(folder), "several")
    return folder


@pytest.fixture(scope="module", autouse=True)
def runs(tmp_path_factory, shop, backbones) -> Iterator[dict[str, TrainingRun]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIT_ROOT", str(tmp_path_factory.mktemp("root")))
        yield {name: make(shop / "several", name, backbones, **values) for name, values in SYSTEMS.items()}


def test_the_class_is_found_in_the_second_image(runs, shop, backbones):
    first = catalogue(
        shop, pd.concat([pd.read_csv(shop / f"several{end}.csv") for end in ("", "-new")]), "one", ["front"]
    )
    for name in ("attends", "probe", "near"):
        assert runs[name].summary["macro_f1"] > 0.9
        assert make(first, f"{name}-first", backbones, **SYSTEMS[name]).summary["macro_f1"] < 0.7


@pytest.mark.parametrize("name", SYSTEMS)
def test_new_items_get_the_predictions_of_the_run(name, runs, shop):
    """From a table as from dictionaries, which name the same images in another way."""
    means = runs[name].read_test()[1]
    rows = pd.read_csv(shop / "several-new.csv")
    items = [
        {"title": row.name, "image": [row.front, *row.others.split("|"), None], "id": row.sku}
        for row in rows.itertuples(index=False)
    ]
    predictor = Predictor(name)
    for found in (predictor.predict(shop / "several-new.csv"), predictor.predict(items, images=shop)):
        assert found["problem"].eq("").all() and found.iloc[:, 0].tolist() == rows["sku"].tolist()
        assert np.allclose(found["probability"], means.max(axis=1), atol=1e-6)
        assert [list(COLOURS)[code] for code in means.idxmax(axis=1)] == found["label"].tolist()


def test_an_export_predicts_the_same(runs, shop, tmp_path):
    export("attends", tmp_path / "out")
    found = Predictor(tmp_path / "out").predict(shop / "several-new.csv")
    assert np.allclose(found["probability"], runs["attends"].read_test()[1].max(axis=1), atol=1e-6)


def test_an_image_twice_is_as_once_to_systems_of_one_vector_of_frozen_backbones(shop, backbones):
    rows = pd.concat([pd.read_csv(shop / f"several{end}.csv") for end in ("", "-new")])
    once = rows.assign(others=rows["others"].str.partition("|")[0])
    once = catalogue(shop, once, "once", ["others"])
    seconds = rows["others"].str.partition("|")[0]
    twice = catalogue(shop, rows.assign(others=seconds + "|" + seconds), "twice", ["others"])
    for name in ("probe", "concat"):
        values = [
            make(data, f"{name}-{data.name}", backbones, **SYSTEMS[name]).predictions("oof")[2]
            for data in (once, twice)
        ]
        assert np.allclose(*values, atol=1e-5), name


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"system": "concat"},
        {"coattention": False},
        {"attention_scale": True},
        {"modality_dropout": 0.5},
        {"augment": True},
    ],
)
@torch.inference_mode()
def test_neither_padding_nor_the_order_of_images_changes_logits(changes, tiny_config):
    torch.manual_seed(0)
    config = train_config(**tiny_config, **changes)
    model = build_model(config, 3, find_backbones(config), config.sides).eval()
    pixels = torch.randint(256, (6, 64, 64, 3)).byte()
    ids, mask = torch.randint(5, 30, (3, 7)), torch.ones(3, 7, dtype=torch.long)
    missing = torch.tensor([[False, False], [False, False], [False, True]])
    whole = {"ids": ids, "mask": mask, "pixels": pixels, "images": torch.tensor([1, 2, 3]), "missing": missing}
    logits, starts = model(whole), [0, 1, 3, 6]
    for i in range(3):
        alone = {key: whole[key][i : i + 1] for key in ("ids", "mask", "images", "missing")}
        alone["pixels"] = pixels[starts[i] : starts[i + 1]].flip(0)
        assert torch.allclose(model(alone)[0], logits[i], atol=1e-5)
    single = {key: whole[key][:1] for key in ("ids", "mask", "missing")} | {"pixels": pixels[:1]}
    assert torch.allclose(model(single)[0], logits[0], atol=1e-5)  # as if no item had several
    other = whole | {"pixels": torch.cat([pixels[:2], 255 - pixels[2:]])}
    assert not torch.allclose(model(other)[1], logits[1], atol=1e-5)  # the second image counts
    if "modality_dropout" in changes:  # however many images are missing
        fewer = whole | {"pixels": pixels[:4], "images": torch.tensor([1, 2, 1])}
        assert torch.allclose(model(fewer)[2], logits[2], atol=1e-5)


def test_a_shared_image_is_computed_once(shop, tmp_path, backbones, monkeypatch):
    monkeypatch.setenv("KIT_ROOT", str(tmp_path))
    rows = pd.concat([pd.read_csv(shop / f"several{end}.csv") for end in ("", "-new")]).assign(others="second0.png")
    data, seen = catalogue(shop, rows, "shared"), []
    monkeypatch.setattr(dataset, "read_pixels", lambda path, size: seen.append(path) or read_pixels(path, size))
    config = train_config(**SMALL | backbones, data=str(data))
    products = prepare(config, Accelerator(cpu=True))[2]
    assert len(seen) == len({*seen}) + 1 == ITEMS + NEW + 2  # of both tables
    batch = products["train"].__getitems__([5, 0])
    assert batch["images"].tolist() == [2, 2] and batch["regions"].shape[:2] == (4, 4)
    assert torch.equal(batch["regions"][1], batch["regions"][3])
    train = read_items(config)[1]["train"]
    assert duplicate_kinds(train[:10])["same file"].nunique() == 1
    with pytest.warns(UserWarning, match="36 of 36 items have the image 'second0.png'"):
        assert duplicate_kinds(train)["any"].nunique() == ITEMS


def test_images_that_cannot_be_read_are_left_out_by_name(shop, tmp_path, backbones, capsys):
    folder = tmp_path / "shop"
    shutil.copytree(shop, folder)
    rows = pd.concat([pd.read_csv(folder / f"several{end}.csv") for end in ("", "-new")])
    (folder / "second3.png").unlink()
    (folder / "third0.png").write_bytes(b"broken")
    (folder / "second41.png").write_bytes(b"broken")
    data = catalogue(folder, rows, "several")
    config = SMALL | backbones | {"data": str(data)}
    with pytest.raises(KitError, match=r"1 of the 81 images of several.csv are missing .*: second3.png; if they"):
        read_items(train_config(**config))
    with pytest.raises(KitError, match=r"2 of the 96 images can't be read: .*third0.png \(no JPEG.*second41.png"):
        read_items(train_config(**config, missing="blank"))
    run = make(data, "torn", backbones, system="logistic", missing="blank", corrupt="blank")
    assert "3 items have unreadable images, which are left out, beside others: see" in capsys.readouterr().out
    listed = pd.read_csv(run.folder / "blank.csv")
    assert listed["why"].str.partition(":")[0].tolist() == ["image 3 of 3", "image 2 of 2", "image 2 of 2"]
    assert run.summary["blank"] == {"missing": 0, "corrupt": 0}
    found = Predictor("torn").predict(folder / "several-new.csv")
    assert re.fullmatch("image second41.png cannot be read: .*", found["problem"][41 - ITEMS])
    assert found["problem"].ne("").sum() == 1 and found["label"].notna().all()
    assert np.allclose(found["probability"], run.read_test()[1].max(axis=1), atol=1e-6)
    gone = Predictor("torn").predict([{"image": ["first1.png", "no.png"]}], images=folder)
    assert gone["problem"].tolist() == ["no text; image no.png is missing"]


def test_a_changed_second_image_is_noticed(runs, shop, tmp_path):
    check_test_items(runs["attends"])
    open_trained(runs["attends"])
    for item, check, words in (
        (ITEMS, check_test_items, "1 of 7 differ under the same ids"),
        (1, open_trained, "images"),
    ):
        kept = (shop / f"second{item}.png").read_bytes()
        Image.new("RGB", (40, 40)).save(shop / f"second{item}.png")
        with pytest.raises(KitError, match=words):
            check(runs["attends"])
        (shop / f"second{item}.png").write_bytes(kept)
    check_test_items(runs["attends"])


@pytest.mark.parametrize("name", ["attends", "tuned"])
def test_attention_maps_show_all_images_with_their_shares(name, runs):
    trained = open_trained(runs[name])
    oof, codes, values = runs[name].predictions("oof")
    found = explain(trained, oof["id"].tolist())
    assert found["images"].str.len().tolist() == [3 if (i - 1) % 4 == 0 else 2 for i in oof["id"]]
    assert all(row.regions.shape == (len(row.images), 2, 2) for row in found.itertuples())
    assert np.allclose([maps.mean() for maps in found["regions"]], 1, atol=1e-5)
    wanted = values[np.arange(len(oof)), [codes.index(label) for label in oof["label"]]]
    assert np.allclose(found["probability_true"], wanted, atol=1e-5)
    page = attention_gallery(found[:1], {})
    assert page.count("<img ") == 2 * len(found["images"][0])
    shares = [int(share) for share in re.findall(r"image \d has (\d+)%", page)]
    assert len(shares) == len(found["images"][0]) and abs(sum(shares) - 100) <= 1
    assert anatomy(trained)["part"].str.contains("a row per image").sum() == 1
    assert np.isfinite(blanking(trained, items=5)[["attended", "random"]]).all(axis=None)
