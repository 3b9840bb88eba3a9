"""The catalogues that benchmarks make are challenge folders: a synthetic one, and pages of shop pictures."""

from pathlib import Path

import clutter
import numpy as np
import pandas as pd
import pytest
import synthetic

from kit.config import train_config
from kit.core.exceptions import KitError
from kit.data.challenge import read_challenge
from kit.data.images import read_pixels
from kit.data.items import read_items


def _same_bytes(a, b):
    files = [sorted(path for path in folder.rglob("*") if path.is_file()) for folder in (a, b)]
    assert [path.relative_to(a) for path in files[0]] == [path.relative_to(b) for path in files[1]]
    return all(one.read_bytes() == other.read_bytes() for one, other in zip(*files, strict=True))


def test_sixty_rows_read_back_with_every_class_and_duplicates(tmp_path):
    synthetic.write_synthetic(tmp_path / "a", rows=60, test_rows=12, seed=1)
    challenge = read_challenge(tmp_path / "a")
    train, test = challenge.train, challenge.test["test"]
    assert (len(train), len(test)) == (60, 12)
    assert challenge.classes == sorted(synthetic.COUNTS)
    assert train["label"].value_counts().min() == 2
    assert 0.15 < train["description"].isna().mean() < 0.55
    items = pd.concat([train, test])
    assert items.duplicated(["title", "description"]).any()
    assert items["image_path"].map(lambda path: Path(path).read_bytes()).duplicated().any()

    synthetic.write_synthetic(tmp_path / "b", rows=60, test_rows=12, seed=1)
    assert _same_bytes(tmp_path / "a", tmp_path / "b")


def test_few_rows_have_fewer_classes_and_what_cannot_be_is_refused(tmp_path):
    synthetic.write_synthetic(tmp_path / "few", rows=9, test_rows=1)
    assert len(read_challenge(tmp_path / "few").classes) == 4
    with pytest.raises(KitError, match="exists already"):
        synthetic.write_synthetic(tmp_path / "few", rows=60, test_rows=12)
    with pytest.raises(KitError, match="too few"):
        synthetic.write_synthetic(tmp_path / "none", rows=3, test_rows=1)
    assert [path.name for path in tmp_path.iterdir()] == ["few"]


@pytest.fixture
def shop(root):
    frames = read_items(train_config(**clutter.DEMO, data="data/shop", limit=60))[1]
    return {"train": frames["train"], "test": frames["test"][:20]}


def test_pages_are_a_challenge_folder_with_the_items_of_the_shop_and_its_folds(tmp_path, shop):
    for name in "ab":
        clutter.write_pages(shop, 4, tmp_path / name)
    assert _same_bytes(tmp_path / "a", tmp_path / "b")
    pages = read_items(train_config(**clutter.DEMO, data=str(tmp_path / "a")))[1]
    same = ["id", "title", "image_id", "product_id"]
    pd.testing.assert_frame_equal(pages["train"][[*same, "label", "fold"]], shop["train"][[*same, "label", "fold"]])
    pd.testing.assert_frame_equal(pages["test"][same], shop["test"][same])
    assert all(frame["description"].isna().all() and (frame["blank"] == "").all() for frame in pages.values())


def test_a_page_shows_the_named_picture_beside_others_of_its_fold_with_other_titles(tmp_path, shop):
    for pictures in (1, 9):
        clutter.write_pages(shop, pictures, tmp_path / str(pictures))
    one, nine = (read_challenge(tmp_path / str(pictures)).train["image_path"] for pictures in (1, 9))
    frame, cell = shop["train"], clutter.CELL
    folds, titles, files = (frame[name].to_numpy() for name in ("fold", "title", "image_path"))
    rows, cells = clutter.draw_pages(frame)
    assert all(sorted(places) == list(range(9)) for places in cells)
    assert len(np.unique(cells[:, 0])) == 9  # the named picture may be anywhere
    for row in range(len(frame)):
        assert rows[row, 0] == row
        assert len(set(rows[row])) == 9
        assert (folds[rows[row]] == folds[row]).all()
        assert titles[row] not in titles[rows[row, 1:]]
    for row in range(3):
        alone, page = (read_pixels(paths[row], clutter.SIDE).astype(int) for paths in (one, nine))
        for place in range(9):
            y, x = (cell * at for at in divmod(int(cells[row, place]), 3))
            shown = page[y : y + cell, x : x + cell]
            assert np.abs(shown - read_pixels(files[rows[row, place]], cell)).mean() < 3
            expected = shown if place == 0 else 255
            assert np.abs(alone[y : y + cell, x : x + cell] - expected).mean() < 2
