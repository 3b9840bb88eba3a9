"""Duplicates are found on real files, remembered as long as the files stay, and their effect on a score is measured."""

import hashlib
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kit.analysis import plots
from kit.analysis.leakage import count_duplicates, measure_leakage, random_split
from kit.core.exceptions import KitError
from kit.data import duplicates, images
from kit.data.duplicates import duplicate_groups, duplicate_kinds
from kit.data.folds import assign_folds, holdout
from kit.data.images import inspect_images


def draw_image(path: Path, seed: int, size: int = 300, quality: int = 95) -> str:
    """Random patches, as JPEG."""
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC).save(path, quality=quality)
    return str(path)


def items(titles: list, descriptions: list | None = None, paths: list | None = None, labels=None) -> pd.DataFrame:
    rows = len(titles)
    frame = {"title": titles, "description": descriptions or [None] * rows, "image_path": paths or [None] * rows}
    return pd.DataFrame(frame | {"label": [0] * rows if labels is None else labels}, dtype=object)


@pytest.fixture
def hashed(root, monkeypatch) -> list[str]:
    """The names of the files that are hashed, as it happens."""
    names, look = [], images._inspect_image
    monkeypatch.setattr(images, "_inspect_image", lambda path: names.append(Path(path).name) or look(path))
    return names


def test_copies_of_an_image_are_duplicates_and_other_images_are_not(root, tmp_path):
    first = draw_image(tmp_path / "a.jpg", 1)
    shutil.copy(first, tmp_path / "copy.jpg")
    paths = [first, str(tmp_path / "copy.jpg"), draw_image(tmp_path / "b.jpg", 2)]
    paths += [draw_image(tmp_path / "quality.jpg", 1, quality=60), draw_image(tmp_path / "size.jpg", 1, size=420)]
    kinds = duplicate_kinds(items([f"title {i}" for i in range(5)], paths=paths))
    assert kinds["same file"].tolist() == [0, 0, 1, 2, 3]
    assert kinds["similar image"].tolist() == [0, 0, 1, 0, 0]
    assert kinds["any"].tolist() == [0, 0, 1, 0, 0]


def test_transparent_drawings_differ_by_what_is_seen(root, tmp_path):
    """Both are black where the other is, but for what is transparent."""
    paths = []
    for i, box in enumerate([(5, 5, 60, 20), (40, 30, 90, 95)]):
        image = Image.new("RGBA", (100, 100), (0, 0, 0, 0))
        image.paste((0, 0, 0, 255), box)
        image.save(tmp_path / f"{i}.png")
        paths.append(str(tmp_path / f"{i}.png"))
    assert duplicate_groups(items(["a", "b"], paths=paths)).tolist() == [0, 1]


def test_the_same_text_but_for_case_and_punctuation_is_a_duplicate(root):
    titles = [
        "Table  basse, chêne",
        "TABLE BASSE (CHÊNE)",
        "Table basse chene",
        "Table basse",
        "★",
        "☆",
        "Che\u0302ne",
    ]
    descriptions = [None, None, None, "Chêne!", None, None, None]
    assert duplicate_groups(items(titles, descriptions)).tolist() == [0, 0, 1, 0, 2, 3, 4]
    assert duplicate_groups(items(["chêne", titles[-1]])).tolist() == [0, 0]


def test_the_same_title_is_a_duplicate_whatever_the_description_says_but_no_title_is_none(root):
    frame = items(["Fauteuil", "fauteuil !", "Fauteuil club", "", ""], ["Siège", "90 cm", "Siège", "Siège", "90 cm"])
    assert duplicate_groups(frame).tolist() == [0, 0, 1, 2, 3]


def test_images_are_alike_within_a_few_bits_and_in_chains(root, monkeypatch):
    base = int(hashlib.sha256(b"picture").hexdigest(), 16)
    flips = [0, 0b1111, 0b1111_1111, 0b11111 << 60, 0b1 << 250 | 0b111 << 100]
    hashes = [f"{base ^ flip:064x}" for flip in flips]
    frame = items(list("abcdef"), paths=[*"vwxyz", None])
    files = pd.DataFrame({"bytes": [*"vwxyz", None], "perceptual": [*hashes, None]})
    monkeypatch.setattr(duplicates, "inspect_items", lambda items: files)
    assert duplicate_groups(frame).tolist() == [0, 0, 0, 1, 0, 2]


@pytest.mark.parametrize(("common", "linked"), [(23, True), (63, False)])
def test_what_many_items_share_links_none(root, tmp_path, common, linked):
    """A shop's largest group of one title is 3.7 % of its items; a title that every tenth item has is none."""
    titles, photo = [f"title {i}" for i in range(626)], draw_image(tmp_path / "no-photo.jpg", 1)
    placeholder = items(["-"] * common + titles[common:], ["", *[f"text {i}" for i in range(625)]])
    photos = items(titles, paths=[photo] * common + [None] * (626 - common))
    for frame, shown in ((placeholder, "title '-'"), (photos, "image 'no-photo.jpg'")):
        if linked:
            assert len(set(duplicate_groups(frame)[:common])) == 1
        else:
            with pytest.warns(UserWarning, match=f"63 of 626 items have the {shown}: it is no sign of duplicates"):
                kinds = duplicate_kinds(frame)
            assert (kinds.nunique() == 626).all()
    copies = items(["-"] * 63 + titles[63:], ["text 1", "text 1", *[f"text {i}" for i in range(624)]])
    with pytest.warns(UserWarning, match="63 of 626 items have the title '-'"):
        assert duplicate_groups(copies)[:3].tolist() == [0, 0, 1]


KEYS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(KEYS, st.sampled_from([1, 2, 3]), st.integers(0, 99))
def test_groups_are_what_is_linked_and_duplicates_never_straddle_folds(keys, folds, seed):
    """Random links against a search along them; 60 more items without duplicates make every fold possible."""
    keys += [(100 + i,) * 3 for i in range(60)]
    frame = items([f"title {text}" for *_, text in keys], paths=[""] * len(keys))
    looks = [hashlib.sha256(str(look).encode()).hexdigest() for _, look, _ in keys]
    files = pd.DataFrame({"bytes": [str(file) for file, *_ in keys], "perceptual": looks})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "inspect_items", lambda items: files)
        patch.setattr(duplicates, "COMMON", 999)
        groups = duplicate_groups(frame)
    expected = np.full(len(keys), -1)
    for start in range(len(keys)):
        reached = [start] if expected[start] < 0 else []
        while reached:
            row = reached.pop()
            expected[row] = start
            linked = (i for i, key in enumerate(keys) if any(a == b for a, b in zip(key, keys[row], strict=True)))
            reached += [i for i in linked if expected[i] < 0]
    assert groups.tolist() == pd.factorize(expected)[0].tolist()
    labels = pd.Series([i % 2 for i in range(len(keys))])
    fold = (
        assign_folds(labels, folds=folds, seed=seed, groups=groups)
        if folds > 1
        else assign_folds(labels, groups=groups)
    )
    assert (pd.Series(fold).groupby(expected).nunique() == 1).all()


def test_hashes_are_kept_until_a_file_changes(hashed, tmp_path):
    paths = [draw_image(tmp_path / f"{name}.jpg", i) for i, name in enumerate("abc")]
    first = inspect_images([*paths, paths[0]])
    assert sorted(hashed) == ["a.jpg", "b.jpg", "c.jpg"]
    assert first.iloc[3].equals(first.iloc[0].rename(3))
    hashed.clear()
    assert inspect_images(paths[::-1]).equals(first[:3][::-1].reset_index(drop=True))
    assert not hashed

    draw_image(tmp_path / "b.jpg", 9)
    again = inspect_images(paths)
    assert hashed == ["b.jpg"]
    assert (again.iloc[1] != first.iloc[1])[["bytes", "perceptual"]].all()
    assert again.iloc[[0, 2]].equals(first.iloc[[0, 2]])
    shutil.copytree(tmp_path, tmp_path / "moved", ignore=shutil.ignore_patterns("cache"))
    assert inspect_images([str(tmp_path / "moved" / Path(path).name) for path in paths]).equals(again)
    assert hashed == ["b.jpg"]


@pytest.mark.parametrize("damage", ["text", "columns", "cut", "folder", "unwritable"])
def test_a_damaged_cache_is_ignored(hashed, root, tmp_path, damage):
    paths = [draw_image(tmp_path / "a.jpg", 1)]
    expected = inspect_images(paths)
    (cache,) = (root / "cache").glob("images_*")
    if damage == "text":
        cache.write_text("not a table")
    elif damage == "columns":
        pd.DataFrame({"path": paths}).to_parquet(cache)
    elif damage == "cut":
        cache.write_bytes(cache.read_bytes()[:-20])
    else:
        cache.unlink()
        if damage == "folder":
            cache.mkdir()
        else:
            shutil.rmtree(cache.parent)
            cache.parent.write_text("a file where the folder should be")
    assert inspect_images(paths).equals(expected)
    assert hashed == ["a.jpg", "a.jpg"]
    inspect_images(paths)
    assert len(hashed) == (2 if damage in ("text", "columns", "cut") else 3)  # mended where it can be


def test_an_unreadable_image_is_named(root, tmp_path):
    good, bad = draw_image(tmp_path / "good.jpg", 1), tmp_path / "bad.jpg"
    bad.write_bytes(Path(good).read_bytes()[:200])
    found = inspect_images([good, str(bad), str(tmp_path / "gone.jpg"), str(tmp_path)])
    assert [reason[:13] for reason in found["blank"]] == ["", "corrupt: Trun", "corrupt: No s", "corrupt: not "]
    assert found["perceptual"].isna().tolist() == found["bytes"].isna().tolist() == [False, True, True, True]
    groups = duplicate_kinds(items(list("abcd"), paths=[str(bad), str(bad), good, str(tmp_path / "gone.jpg")]))
    assert groups["any"].tolist() == [0, 1, 2, 3]  # what can't be read is nobody's duplicate


def test_counts_say_what_a_split_leaks():
    kinds = pd.DataFrame({"kind": [0, 0, 0, 1, 1, 2, 3, 3], "none": range(8)})
    labels = pd.Series([5, 5, 6, 7, 8, 9, 4, 4])
    validates = np.array([0, 0, 1, 1, 0, 1, 1, 1], bool)  # of the five, the first two have a duplicate that trains
    table = count_duplicates(kinds, labels, validates)
    assert table.loc["kind", ["items", "groups", "largest", "leak", "label right"]].tolist() == [7, 3, 3, 0.4, 0]
    assert table.loc["none", ["items", "groups", "largest", "leak"]].tolist() == [0, 0, 1, 0]
    right = count_duplicates(kinds, labels.replace({7: 8}), validates)
    assert right.loc["kind", "label right"] == 0.5


def guesses(copies: int) -> pd.DataFrame:
    """60 random texts that say nothing about their class, each `copies` times."""
    random = np.random.default_rng(0)
    texts = ["".join(random.choice(list("abcdefgh"), 12)) for _ in range(60)]
    return items(texts * copies, labels=[i % 3 for i in range(60)] * copies).astype({"label": int})


def test_a_model_that_only_remembers_gains_from_duplicates(root):
    frame = guesses(copies=4)
    found = measure_leakage(frame, duplicate_groups(frame), limit=0)
    assert found["validation"] == 48
    assert 48 < found["duplicates"] <= 144
    assert found["with"] == 1
    assert found["gain"] == found["with"] - found["without"]
    assert 0.3 < found["low"] < found["gain"] < found["high"]
    drawn = measure_leakage(frame, duplicate_groups(frame), limit=80)
    assert drawn["training"] + drawn["validation"] + drawn["duplicates"] <= 88
    assert drawn["duplicates"] > 0


def test_without_duplicates_nothing_is_gained(root):
    frame = guesses(copies=1)
    found = measure_leakage(frame, duplicate_groups(frame))
    assert (found["duplicates"], found["gain"], found["low"], found["high"]) == (0, 0, 0, 0)
    with pytest.raises(KitError, match="Too few items are left without the duplicates"):
        measure_leakage(frame, np.zeros(60, int))


def test_the_figure_shows_duplicates_or_that_there_are_none(tmp_path):
    paths = [draw_image(tmp_path / f"{i}.jpg", i) for i in range(8)]
    frame = items([f"title $ {i}" for i in range(8)], paths=paths, labels=[1, 2, 1, 1, 1, 1, 3, 4])
    figure = plots.duplicate_rows(frame, np.array([0, 1, 0, 0, 0, 0, 2, 2]), {1: "one"})
    shown = [axis for axis in figure.axes if axis.images]
    assert len(shown) == 4 + 2
    assert "and 1 more" in [text.get_text() for axis in shown for text in axis.texts]
    figure.canvas.draw()
    none = plots.duplicate_rows(frame, np.arange(8), {})
    assert none.get_suptitle() == "no duplicates among 8 items"
    plt.close("all")


@pytest.mark.parametrize(
    ("sizes", "validating"),
    [
        ([30, 20, 1], 10),  # a class of one item
        ([4, 3, 2, 2], 3),  # too few items for the paper's split, which wants one of each class on either side
        ([10, 1], 2),
    ],
)
def test_classes_that_are_too_small_for_a_split_do_not_stop_the_measurement(sizes, validating):
    labels = np.repeat(range(len(sizes)), sizes)
    frame = pd.DataFrame({"label": labels})
    validates = random_split(frame)
    assert validates.sum() == validating
    assert set(labels[~validates]) == set(labels)  # each class trains
    whole = pd.DataFrame({"label": np.repeat([1, 2], [30, 20])})
    assert (random_split(whole, seed=3) == holdout(whole["label"], 0.2, 3)).all()
    with pytest.raises(KitError, match="of one class"):
        random_split(frame[labels == 0])
