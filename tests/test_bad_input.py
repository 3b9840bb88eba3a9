"""What happens to bad input: for each kind, the right result, or one sentence before anything expensive begins."""

import io
import os
import shutil
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from kit.config import train_config
from kit.core.exceptions import KitError
from kit.data import images
from kit.data.challenge import read_challenge
from kit.data.folds import assign_folds
from kit.data.images import read_pixels
from kit.data.items import read_items
from kit.data.text import clean_text, product_texts
from kit.models.backbones import find_backbones
from kit.runs import prepare_run
from kit.stacking.stackers import METHODS
from kit.submission import check_submission, write_submission
from kit.train import main
from kit.training.inputs import tokenize

# ---------------------------------------------------------------- images


def jpeg(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    image.save(buffer := io.BytesIO(), kind, **options)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of 20,000 × 20,000 pixels in a hundred kilobytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + name + data + zlib.crc32(name + data).to_bytes(4)

    packer = zlib.compressobj()
    rows = b"".join(packer.compress(bytes(2501)) for _ in range(20_000)) + packer.flush()
    head = (20_000).to_bytes(4) * 2 + bytes([1, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


RED, WHITE, GREY = (255, 0, 0), (255, 255, 255), (128, 128, 128)
red = Image.new("RGB", (40, 30), RED)
noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8))
grey = Image.fromarray(np.full((30, 40), 0x8040, np.uint16))
clear = Image.new("RGBA", (40, 30), (255, 0, 0, 0))
palette = Image.new("P", (40, 30), 1)
palette.putpalette([0, 0, 0, 255, 0, 0])
IMAGES = {  # the file → the colour in its middle, or why it can't be read
    "a plain JPEG": (jpeg(red, quality=95), RED),
    "a truncated JPEG": (jpeg(noise)[:900], "corrupt: "),
    "a truncated PNG": (jpeg(noise, "PNG")[:900], "corrupt: "),
    "zero bytes": (b"", "corrupt: "),
    "a text": (b"<html>404 not found</html>", "corrupt: "),
    "a PNG named .jpg": (jpeg(red, "PNG"), RED),
    "CMYK": (jpeg(red.convert("CMYK"), quality=95), RED),
    "16 bits of grey": (jpeg(grey, "PNG"), GREY),
    "a palette": (jpeg(palette, "PNG"), RED),
    "a palette with a transparent colour": (jpeg(palette, "PNG", transparency=1), WHITE),
    "alpha": (jpeg(clear, "PNG"), WHITE),
    "grey and alpha": (jpeg(clear.convert("LA"), "PNG"), WHITE),
    "animated": (jpeg(red, "GIF", save_all=True, append_images=[Image.new("RGB", (40, 30))]), RED),
    "1 × 1": (jpeg(Image.new("RGB", (1, 1), RED), "PNG"), RED),
    "20,000 × 20,000": (bomb(), "corrupt: Image size (400000000 pixels) exceeds limit"),
    "a format that starts a program": (jpeg(red, "EPS"), "corrupt: "),
    "a folder": (None, "missing"),
    "nothing": ("", "missing"),
    "a link to a file elsewhere": (Path, RED),
    "a link to nowhere": (os.PathLike, "missing"),
    "a file that may not be read": (OSError, "corrupt: Permission denied"),
}


def put(path: Path, content, elsewhere: Path) -> None:
    path.unlink()
    if content is None:
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif content is Path:
        elsewhere.write_bytes(jpeg(red, quality=95))
        path.symlink_to(elsewhere)
    elif content is os.PathLike:
        path.symlink_to(elsewhere / "nowhere")
    elif content is OSError:
        path.write_bytes(jpeg(red))
        path.chmod(0)


@pytest.fixture
def as_nobody(tmp_path):
    """Permissions mean nothing to root."""
    if os.geteuid() == 0:
        for folder in (tmp_path, *tmp_path.parents):
            if folder.stat().st_uid == 0 and folder != Path(folder.anchor) and str(folder) != "/tmp":
                folder.chmod(0o755)
        os.seteuid(65534)
    yield
    os.seteuid(os.getuid())


@pytest.mark.parametrize("name", IMAGES)
def test_images(name, tmp_path, tiny_data, tiny_config, request, root):
    content, expected = IMAGES[name]
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    put(data / "images" / "image_train" / "image_502_product_902.jpg", content, tmp_path / "elsewhere")
    config = tiny_config | {"data": str(data)}
    if content is OSError:
        for folder in data.rglob("*/"):
            folder.chmod(0o755)
        data.chmod(0o755)
        request.getfixturevalue("as_nobody")
    if isinstance(expected, str):
        sentence = (
            r"1 of the 36 images of .* are missing .*image_502" if expected == "missing" else r"of the 43 images can't"
        )
        with pytest.raises(KitError, match=sentence):
            read_items(train_config(**config))
    frame = read_items(train_config(**config, missing="blank", corrupt="blank"))[1]["train"]
    others = frame[frame["id"] != 2]
    assert (others["blank"] == "").all() and others["image_path"].notna().all()
    item = frame[frame["id"] == 2].iloc[0]
    colour = expected
    if isinstance(expected, str):
        assert item["blank"].startswith(expected) and item["image_path"] is None
        colour = WHITE
    pixels = read_pixels(item["image_path"], 32)
    assert pixels.shape == (32, 32, 3)
    assert np.abs(pixels[16, 16].astype(int) - colour).max() < 8


def test_links_to_folders_elsewhere_are_not_followed(tmp_path, tiny_data):
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    shutil.move(data / "images", tmp_path / "images")
    (data / "images").symlink_to(tmp_path / "images")
    with pytest.raises(KitError, match="not followed: images, a link that leaves the folder"):
        read_challenge(data)


@pytest.mark.parametrize("system", ["coattention", "logistic"])
def test_a_run_lists_what_it_leaves_white(root, tmp_path, tiny_data, tiny_config, capsys, system):
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    put(data / "images" / "image_train" / "image_502_product_902.jpg", b"", tmp_path)
    (data / "images" / "image_test" / "image_540_product_940.jpg").unlink()
    config = tiny_config | {"data": str(data), "missing": "blank", "corrupt": "blank", "epochs": 1}
    run = prepare_run(train_config(**config, run="run", system=system))
    assert main([str(run.folder / "config.json")]) == 0
    assert "2 items have no readable image and get a white one" in capsys.readouterr().out
    listed = pd.read_csv(run.folder / "blank.csv")
    assert listed[["part", "id"]].to_numpy().tolist() == [["train", 2], ["test", 40]]
    assert listed["why"].str.partition(":")[0].tolist() == ["corrupt", "missing"]
    assert run.summary["blank"] == {"missing": 1, "corrupt": 1}
    assert np.isfinite(run.predictions("test")[2]).all() and len(run.predictions("test")[0]) == 7


def test_few_unreadable_images_are_left_white_and_many_are_not(tmp_path, tiny_data, tiny_config, root):
    """One in a hundred is a file gone bad, more are a download cut short."""
    looks = pd.DataFrame({"id": range(200), "image_path": ["bad"] * 2 + ["good"] * 198})
    with pytest.MonkeyPatch.context() as patch:
        bad = lambda paths: ["corrupt: x" if path == "bad" else "" for path in paths]  # noqa: E731
        patch.setattr(
            images, "inspect_images", lambda paths: pd.DataFrame({"blank": bad(paths), "bytes": "", "perceptual": ""})
        )
        images.check_images([frame := looks.copy()], "few")
        assert frame["blank"].tolist() == ["corrupt: x"] * 2 + [""] * 198
        looks.loc[2, "image_path"] = "bad"
        with pytest.raises(
            KitError, match=r"3 of the 200 images can't be read: bad \(x\), .*; replace the files, or train"
        ):
            images.check_images([looks.copy()], "few")


# ---------------------------------------------------------------- texts

TEXTS = {  # the field as it is in the file → the text that a model reads, or the sentence
    "empty": ("", "has an empty title in 1 rows (id 1)"),
    "white space": (" \t\u00a0\u2003 ", "has an empty title in 1 rows (id 1)"),
    "HTML alone": ("<p><br/></p>", "<p><br/></p>"),  # titles keep their tags: cleaning them costs score
    "entities alone": ("&nbsp;&#160;", "has an empty title in 1 rows (id 1)"),
    "control characters": ("a\x01b\x1bc\x7fd", "a\x01b\x1bc\x7fd"),
    "a half character": (b"a\xed\xa0\x80b", "line 3: a byte is not UTF-8"),
    "an escaped half character": ("a&#xD800;b", "a\ufffdb"),
    "right to left": ("ספר ישן", "ספר ישן"),
    "the word NaN": ("NaN", "NaN"),
    "the word None": ("None", "None"),
    "a formula": ("=HYPERLINK(1)", "=HYPERLINK(1)"),
    "an emoji of several": ("👩‍👩‍👧 famille", "👩‍👩‍👧 famille"),
    "a zero byte": ("a\x00b", "a\x00b"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_titles(name, root, tmp_path, tiny_config):
    content, expected = TEXTS[name]
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "X_train.csv").write_bytes(
        b',designation,description,productid,imageid\n0,x,,1,1\n1,"%b",,2,2\n' % content
    )
    (tmp_path / "Y_train.csv").write_text(",prdtypecode\n0,1\n1,2\n")
    if expected.startswith(("has an", "line")):
        with pytest.raises(KitError) as caught:
            read_challenge(tmp_path, images="ignore")
        assert expected in str(caught.value)
        return
    train = read_challenge(tmp_path, images="ignore").train
    assert train["title"].tolist() == ["x", expected]
    config = train_config(**tiny_config)
    ids = tokenize(config, find_backbones(config)["text"], product_texts(train))
    assert (np.diff(ids.offsets) > 1).all()


@pytest.mark.parametrize(
    "piece", ["mot ", "x", "<", "<a ", '<a "', "<!--", "<![", "&amp;", "é", "Ã©", "<script>", "\x00"]
)
def test_two_megabytes_of_anything_are_cleaned_and_read(piece, root, tiny_config):
    """Every pattern takes time in proportion: a quadratic one would take hours here."""
    text = clean_text(piece * (2_000_000 // len(piece)))
    config = train_config(**tiny_config)
    ids = tokenize(config, find_backbones(config)["text"], [text or "x"])
    assert len(ids.values) <= config.max_tokens


# ---------------------------------------------------------------- generated

CASES = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}
ANY = st.text(st.characters(codec=None), max_size=40) | st.sampled_from([text for text, _ in TEXTS.values()]).map(str)


def explained(error: KitError) -> None:
    assert str(error).endswith(".") and "\n" not in str(error)


@settings(max_examples=1000, **CASES)
@given(st.lists(ANY | st.sampled_from(["<b>", "<!--", "-->", "&lt;", "&amp;#x41;", "<script>", "Ã©"]), max_size=6))
def test_any_text_is_cleaned(pieces):
    text = "".join(pieces)
    for light in (True, False):
        cleaned = clean_text(text, light)
        assert cleaned == cleaned.strip() and "  " not in cleaned
        cleaned.encode()  # no half character is left


FIELD = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ["", '"', "1", "1.0", "NaN", "\n", ";", "\t", "\x00"]
)


@settings(max_examples=400, **CASES)
@given(st.lists(st.lists(FIELD, min_size=1, max_size=6), max_size=5), st.sampled_from([",", "\t", ";"]), st.booleans())
def test_any_table_is_read_or_refused_in_a_sentence(tmp_path_factory, rows, sep, header):
    folder = tmp_path_factory.mktemp("table")
    head = [["", "designation", "description", "productid", "imageid"]] if header else []
    text = "\n".join(sep.join(row) for row in head + rows)
    (folder / "X_train.csv").write_text(text, encoding="utf-8", newline="")
    (folder / "Y_train.csv").write_text(",prdtypecode\n0,1\n1,2\n")
    try:
        train = read_challenge(folder, images="ignore").train
    except KitError as error:
        explained(error)
    else:
        assert sorted(train["id"]) == [0, 1]
    shutil.rmtree(folder)


@settings(max_examples=300, **CASES)
@given(
    st.lists(st.sampled_from("abcde"), min_size=1, max_size=60),
    st.integers(1, 6),
    st.floats(0.01, 0.9),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_any_labels_are_split_or_refused(labels, folds, share, seed, grouped):
    groups = np.arange(len(labels)) // 2 if grouped else None
    try:
        fold = assign_folds(pd.Series(labels), folds, share, seed, groups)
    except KitError as error:
        explained(error)
        return
    assert len(fold) == len(labels)
    assert set(fold) <= set(range(-1, folds)) and (folds == 1 or -1 not in fold)
    assert all(
        set(labels) == {label for label, f in zip(labels, fold, strict=True) if f != out} for out in range(folds)
    )
    if grouped:
        assert (pd.Series(fold).groupby(groups).nunique() == 1).all()


@settings(max_examples=60, **CASES)
@given(
    st.sampled_from([*METHODS, "blend", "logistic"]),
    st.integers(1, 30),
    st.integers(1, 4),
    st.integers(2, 5),
    st.data(),
)
def test_any_members_are_stacked(method, items, members, classes, data):
    """Sure members, wrong ones, classes that no item has."""
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    values = random.dirichlet(np.full(classes, data.draw(st.sampled_from([0.01, 1.0, 100.0]))), (items, members))
    truth = random.integers(0, data.draw(st.integers(1, classes)), items)
    found = METHODS[method](0).fit(values, truth).predict_proba(values)
    assert found.shape == (items, classes) and np.isfinite(found).all()
    assert np.allclose(found.sum(1), 1, atol=1e-5)


@pytest.fixture(scope="module")
def boards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("board")
    head, rows = ",designation,description,productid,imageid\n", "".join(f"{i},t,,{i},{i}\n" for i in range(4))
    (folder / "X_train.csv").write_text(head + rows)
    (folder / "Y_train.csv").write_text(",prdtypecode\n0,10\n1,40\n2,2705\n3,10\n")
    (folder / "X_test.csv").write_text(head + "".join(f"{i},t,,{i},{i}\n" for i in (9, 7, 8)))
    return read_challenge(folder, images="ignore"), folder


@settings(max_examples=300, **CASES)
@given(st.permutations([7, 8, 9]), st.lists(st.sampled_from([10, 40, 2705]), min_size=3, max_size=3), st.data())
def test_a_written_submission_is_valid_and_comes_back(boards, ids, codes, data):
    challenge, folder = boards
    if data.draw(st.booleans()):
        ids, codes = ids[: data.draw(st.integers(0, 4))], codes
    frame = pd.DataFrame({"id": pd.Series(ids, dtype=object), "label": pd.Series(codes[: len(ids)], dtype=object)})
    if len(frame) and data.draw(st.booleans()):
        column = data.draw(st.sampled_from(["id", "label"]))
        frame.loc[0, column] = data.draw(
            st.none() | st.integers() | st.floats(allow_subnormal=False) | ANY | st.sampled_from(codes)
        )
    try:
        (path,) = write_submission(frame, challenge, folder / "out")
    except KitError as error:
        explained(error)
        return
    check_submission(path, challenge)
    back = pd.read_csv(path, index_col=0)["prdtypecode"]
    assert {int(i): int(code) for i, code in zip(frame["id"], frame["label"], strict=True)} == back.to_dict()
