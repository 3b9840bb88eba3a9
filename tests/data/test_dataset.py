"""Batches hold what they should, and every shorter way to the logits leads to the same ones as the plain way."""

import dataclasses
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file, save_file

import kit.data.dataset
import kit.data.sampler
import kit.training.inputs
from kit.config import train_config
from kit.core.exceptions import KitError
from kit.data.augment import augment
from kit.data.dataset import Pixels, ProductDataset, RaggedArray
from kit.data.images import read_pixels
from kit.data.items import read_items
from kit.data.sampler import make_loader
from kit.data.text import product_texts
from kit.models.backbones import find_backbones
from kit.models.tokenizer import load_tokenizer
from kit.runs import prepare_run
from kit.training.features import precompute
from kit.training.inputs import make_datasets, tokenize
from kit.training.predict import predict
from kit.training.run_trainer import prepare, train


@torch.inference_mode()
def plain_logits(config, model, frame) -> np.ndarray:
    """Item by item, no cache, no padding, no batch: decoded and tokenised here."""
    encode, logits = load_tokenizer(config.text), []
    for text, path in zip(product_texts(frame), frame["image_path"], strict=True):
        ids = torch.tensor(encode([text], config.max_tokens))
        with Image.open(path) as image:
            size = (config.image_size, config.image_size)
            pixels = torch.from_numpy(np.array(image.convert("RGB").resize(size, Image.Resampling.BICUBIC)))
        logits.append(model({"ids": ids, "mask": torch.ones_like(ids), "pixels": pixels[None]}))
    return torch.cat(logits).numpy()


WAYS = {
    "decoded at every step": {"images_gb": 0, "features_gb": 0},
    "pixels kept": {"images_gb": 1, "features_gb": 0},
    "features kept": {"features_gb": 1},
    "text features kept": {"freeze_image": False, "features_gb": 1},
    "image features kept": {"freeze_text": False, "features_gb": 1},
    "checkpointing": {"features_gb": 0, "checkpointing": True},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("switches", [{}, {"bilstm": False}, {"layer_weights": False}, {"linear_start": True}])
def test_every_way_gives_the_plain_ways_logits(root, tiny_config, way, switches):
    usual = {"freeze_text": True, "freeze_image": True} | switches
    config = train_config(**tiny_config | usual | WAYS[way])
    accelerator = Accelerator(cpu=True)
    _, frames, products, build = prepare(config, accelerator)
    torch.manual_seed(0)
    head = build().head.state_dict()

    def model_of(config, build):
        model = build()
        model.head.load_state_dict(head)
        return model.eval()

    for batch_size in (1, 5, 36):
        batches = make_loader(products["train"], batch_size)
        logits = predict(model_of(config, build), batches, len(products["train"]), accelerator)
        *_, build_plain = prepare(dataclasses.replace(config, images_gb=0.0, features_gb=0.0), accelerator)
        plain = plain_logits(config, model_of(config, build_plain), frames["train"])
        assert np.allclose(logits, plain, atol=1e-5), batch_size


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_goes_bad_meanwhile_is_told_to_who_trains(root, tiny_config, workers):
    config = train_config(**tiny_config | {"images_gb": 0})
    *_, products, _ = prepare(config, Accelerator(cpu=True))
    products["test"].sides["image"].paths[3] = str(root / "gone.jpg")
    with pytest.raises(KitError, match=r"gone\.jpg"):
        list(Accelerator(cpu=True).prepare(make_loader(products["test"], 2, workers=workers)))


def undecoded(size: int, items: int = 40) -> ProductDataset:
    return ProductDataset(np.full(items, 8), {"image": Pixels([None] * items, size)})


@pytest.mark.parametrize(
    ("free", "size", "batch_size", "workers"),
    [  # 500 px: 11.4 MiB a batch of 16
        (8, 500, 16, 0),
        (64, 500, 16, 1),
        (100, 500, 16, 2),
        (2048, 500, 16, 2),
        (64, 224, 16, 2),
        (64, 500, 64, 0),  # as for prediction on a GPU
        (0, 32, 1, 0),
        (None, 500, 64, 2),  # no such folder: macOS
    ],
)
def test_workers_are_as_many_as_shared_memory_holds_batches_of(monkeypatch, capsys, free, size, batch_size, workers):
    def disk_usage(folder):
        assert folder == "/dev/shm"
        if free is None:
            raise FileNotFoundError(folder)
        return SimpleNamespace(free=free * 2**20)

    monkeypatch.setattr(kit.data.sampler.shutil, "disk_usage", disk_usage)
    kit.data.sampler._print_once.cache_clear()
    assert [make_loader(undecoded(size), batch_size, workers=2).num_workers for _ in range(2)] == [workers] * 2
    said = f"Only {workers} of 2 workers start: /dev/shm is too small for their batches, so start the container with"
    assert capsys.readouterr().out.count(said) == (workers < 2)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere processes cannot be forked safely")
def test_workers_share_what_is_cached():
    """Forked, they need no copy of it."""
    assert make_loader(undecoded(32), 4, workers=2).multiprocessing_context.get_start_method() == "fork"


def test_workers_whose_sockets_have_too_long_a_path_are_not_started(monkeypatch, tmp_path, capsys):
    (tmp_path / ("long" * 20)).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("long" * 20)))
    kit.data.sampler._print_once.cache_clear()
    assert make_loader(undecoded(32), 4, workers=2).num_workers == 0
    assert "No workers start: TMPDIR is too long" in capsys.readouterr().out


def test_a_batch_that_does_not_fit_into_shared_memory_is_not_lost(monkeypatch):
    def full(tensor):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    sentence = r"A batch does not fit into /dev/shm \(.*No space left.*\): start the container with --shm-size"
    with pytest.raises(KitError, match=sentence):
        list(Accelerator(cpu=True).prepare(make_loader(undecoded(32), 4, workers=1)))
    assert len(list(make_loader(undecoded(32), 4))) == 10  # nothing is shared without workers


def test_rows_are_padded_with_zeros():
    rows = RaggedArray("layers", np.arange(12, dtype=np.float32).reshape(6, 2), [1, 3, 2])
    batch = rows.batch(np.array([2, 0, 1]))
    assert batch.tolist() == [[[8, 9], [10, 11], [0, 0]], [[0, 1], [0, 0], [0, 0]], [[2, 3], [4, 5], [6, 7]]]


def test_pixels_kept_are_those_that_would_be_decoded(root, tiny_config, monkeypatch):
    config, decoded = train_config(**tiny_config), []
    monkeypatch.setattr(kit.data.dataset, "read_pixels", lambda *a: (decoded.append(a[0]), read_pixels(*a))[1])
    *_, products, _ = prepare(config, Accelerator(cpu=True))
    assert len(decoded) == 36 + 7
    kept, rows = products["train"].sides["image"], np.array([5, 0, 5])
    assert torch.equal(kept.batch(rows), Pixels(kept.paths, config.image_size).batch(rows))
    decoded.clear()
    prepare(config, Accelerator(cpu=True))
    assert not decoded
    prepare(dataclasses.replace(config, image_size=96), Accelerator(cpu=True))
    assert len(decoded) == 36 + 7


def test_a_changed_image_is_decoded_again(root, tiny_config, tiny_data):
    data = root / "data"
    shutil.copytree(tiny_data, data)
    config = train_config(**tiny_config | {"data": str(data)})
    (first,) = prepare(config, Accelerator(cpu=True))[2]["test"].sides["image"].batch(np.array([0]))
    path = prepare(config, Accelerator(cpu=True))[1]["test"]["image_path"][0]
    Image.new("RGB", (40, 40), (1, 2, 3)).save(path, "PNG")
    (second,) = prepare(config, Accelerator(cpu=True))[2]["test"].sides["image"].batch(np.array([0]))
    assert not torch.equal(first, second)
    assert (second == torch.tensor([1, 2, 3])).all()


def test_each_text_is_tokenised_once(root, tiny_config, monkeypatch):
    config, asked = train_config(**tiny_config), []
    source = find_backbones(config)["text"]

    def counting(*arguments):
        encode = load_tokenizer(*arguments)
        return lambda texts, most: (asked.extend(texts), encode(texts, most))[1]

    monkeypatch.setattr(kit.training.inputs, "load_tokenizer", counting)
    first = tokenize(config, source, ["le chat", "chien rouge", "le chat"])
    assert asked == ["le chat", "chien rouge"]
    wanted = load_tokenizer(config.text)(["le chat", "chien rouge", "le chat"], 24)
    assert [first.batch(np.array([i]))[0].tolist() for i in range(3)] == wanted
    tokenize(config, source, ["chien rouge", "une table"])
    assert asked == ["le chat", "chien rouge", "une table"]
    tokenize(dataclasses.replace(config, max_tokens=8), source, ["le chat"])  # another length
    assert asked[3:] == ["le chat"]


def test_a_model_of_pairs_is_told_which_token_is_of_the_description(root, tiny_config):
    config = train_config(**tiny_config, pair=True)
    source = find_backbones(config)["text"]
    ids = tokenize(config, source, [("le chat", "rouge"), ("le chat", "")])
    first, second = (ids.batch(np.array([i])) for i in (0, 1))
    assert first[0, :, 1].tolist() == [0, 0, 0, 0, 1, 1]
    assert second[0, :, 1].tolist() == [0, 0, 0, 0]
    plain = torch.stack([first[..., 0], torch.zeros(1, 6, dtype=torch.int32)], dim=2)
    mask = torch.ones(1, 6, dtype=torch.long)
    with torch.no_grad():
        typed, untyped, alone = (source.load().eval()(x, mask)[-1] for x in (first, plain, first[..., 0]))
    assert torch.equal(untyped, alone) and not torch.allclose(typed, alone, atol=1e-3)


def test_augmented_images_are_their_seeds_and_nothing_else():
    pixels = torch.zeros(2, 32, 40, 3, dtype=torch.uint8)
    pixels[:, :, 20:] = torch.tensor([200, 60, 20], dtype=torch.uint8)  # the right half is orange
    before = torch.get_rng_state()
    first, second = augment(pixels, [3, 4])
    assert torch.equal(torch.get_rng_state(), before)
    assert first.shape == (32, 40, 3) and first.dtype == torch.uint8 and not torch.equal(first, second)
    assert torch.equal(augment(pixels[1:], [4])[0], second)  # in whatever batch
    images = augment(pixels[:1].expand(64, -1, -1, -1), range(64)).float()
    flipped = images[:, 16, 2].sum(1) > images[:, 16, -3].sum(1)
    assert 16 < flipped.sum() < 48
    shares = (images.sum(3) > 60).float().mean((1, 2))
    assert 0.03 < shares.std() < 0.15 and abs(shares.mean() - 0.5) < 0.03  # cropped a little, in any direction
    orange = images.flatten(1, 2).max(1).values
    assert (orange[:, 0] > orange[:, 1]).all() and (orange[:, 1] > orange[:, 2]).all()  # the hue stays
    assert 10 < orange[:, 0].std() < 40


def test_another_tokenizer_reads_for_itself(root, tiny_config, tiny_texts):
    found = []
    for kind in ("bert", "camembert"):
        config = train_config(**tiny_config | {"text": tiny_texts[kind]})
        found.append(tokenize(config, find_backbones(config)["text"], ["le chat rouge"]).values.tolist())
    assert found[0] != found[1]


def test_a_run_on_a_warm_cache_loads_no_frozen_backbone(root, tiny_config, monkeypatch):
    import kit.models.backbones

    frozen = train_config(**tiny_config, freeze_text=True, freeze_image=True)
    prepare(frozen, Accelerator(cpu=True))
    kit.models.backbones._handle.cache_clear()
    for name in ("load_text", "load_image"):
        monkeypatch.setattr(kit.models.backbones, name, lambda *a: pytest.fail("was loaded"))
    monkeypatch.setattr(kit.training.inputs, "load_tokenizer", lambda *a: pytest.fail("was loaded"))
    *_, build = prepare(dataclasses.replace(frozen, bilstm=False, width=8), Accelerator(cpu=True))
    assert build().text is None


def test_features_of_another_precision_are_kept_apart(root, tiny_config):
    config = train_config(**tiny_config, freeze_text=True, freeze_image=True)
    for precision in ("no", "bf16", "fp16"):
        backbones, (_, frames) = find_backbones(config), read_items(config)
        products = make_datasets(config, [10, 40, 2705], frames, backbones)
        precompute(config, backbones, products, torch.device("cpu"), precision)
    for side in ("text", "image"):
        assert len(list((root / "cache").glob(f"{side}-*.npy"))) == 2 * 3  # training and test items


def scaled(folder: str, to: Path, factor: float, layer: int = 0) -> str:
    """A copy of a BERT directory, the outputs of one of its layers so many times as large."""
    shutil.copytree(folder, to)
    weights = load_file(to / "model.safetensors")
    for part in ("weight", "bias"):
        weights[f"encoder.layer.{layer}.output.LayerNorm.{part}"] *= factor
    save_file(weights, to / "model.safetensors", {"format": "pt"})
    return str(to)


@pytest.mark.parametrize(
    ("factor", "system", "precision"),
    [
        (1, "coattention", "bf16"),
        (1, "text", "fp16"),
        (6e4, "coattention", "bf16"),
        (6e4, "text", "bf16"),
        (6e4, "logistic", "bf16"),
        (1e30, "coattention", "bf16"),
        (1e-7, "coattention", "bf16"),
        (1e-7, "text", "fp16"),
    ],
)
def test_kept_features_are_those_that_are_not_kept(factor, system, precision, root, tmp_path, tiny_config, tiny_texts):
    """Whatever their size: what half precision does not hold is kept in float32."""
    # the layers between have a norm, and so the last one's size alone changes where others' would be lost
    text = scaled(tiny_texts["bert"], tmp_path / "text", factor, layer=1)
    config = train_config(**tiny_config | {"text": text, "system": system}, freeze_text=True, freeze_image=True)
    backbones, (_, frames) = find_backbones(config), read_items(config)
    products = make_datasets(config, [10, 40, 2705], frames, backbones)
    ids = products["train"].sides["text"]
    assert precompute(config, backbones, products, torch.device("cpu"), precision) == []
    rows = np.arange(4)
    kept, tokens_ = products["train"].sides["text"].batch(rows), ids.batch(rows)
    mask = torch.arange(tokens_.shape[1]) < torch.from_numpy(products["train"].lengths[rows])[:, None]
    kind = torch.bfloat16 if precision == "bf16" else torch.float16
    with torch.no_grad(), torch.autocast("cpu", kind):
        top = backbones["text"].frozen(tokens_, mask.long())[-1].float()
    top[~mask] = 0
    wanted = top[:, 0] if config.pooled else top
    found = (kept[:, 0, 0] if config.pooled else kept[:, :, -1]).float()
    assert (found - wanted).abs().max() < 0.01 * wanted.abs().max()
    assert kept.dtype == (torch.float16 if factor == 1 else torch.float32)
    for backbone in backbones.values():
        backbone.__dict__.pop("frozen")
    again = make_datasets(config, [10, 40, 2705], frames, backbones)
    precompute(config, backbones, again, torch.device("cpu"), precision)
    assert "frozen" not in backbones["text"].__dict__  # found in the cache, in either precision


def test_features_too_large_for_half_precision_and_the_disk_are_not_kept(root, tmp_path, tiny_config, tiny_texts):
    text = scaled(tiny_texts["bert"], tmp_path / "text", 6e4)
    config = train_config(**tiny_config | {"text": text}, freeze_text=True)
    backbones, (_, frames) = find_backbones(config), read_items(config)
    products = make_datasets(config, [10, 40, 2705], frames, backbones)
    numbers = sum(part.lengths.sum() for part in products.values()) * 2 * 16
    config = dataclasses.replace(config, features_gb=3 * int(numbers) / 2**30)
    running = precompute(config, backbones, products, torch.device("cpu"), "bf16")
    assert "text" in running and not list((root / "cache").glob("text-*.npy"))


@pytest.mark.parametrize("how", [{"freeze_image": True}, {"freeze_image": True, "features_gb": 0.0}, {}])
@pytest.mark.parametrize("linear_start", [True, False])
def test_a_backbone_that_gives_no_numbers_is_blamed(how, linear_start, root, tmp_path, tiny_config, tiny_image):
    folder = tmp_path / "image"
    shutil.copytree(tiny_image, folder)
    weights = load_file(folder / "model.safetensors")
    weights[next(name for name in weights if name.endswith(".weight"))][0] = torch.nan
    save_file(weights, folder / "model.safetensors")
    config = tiny_config | {"image": str(folder), "linear_start": linear_start} | how
    with pytest.raises(
        KitError, match=r"image backbone '.*' itself returns numbers that are not finite .* fetch its weights"
    ):
        train(prepare_run(train_config(**config, run="run")))


def test_a_broken_image_is_named_before_training(root, tiny_config, tiny_data):
    data = root / "data"
    shutil.copytree(tiny_data, data)
    config = train_config(**tiny_config | {"data": str(data)})
    path = read_items(config)[1]["test"]["image_path"][3]
    with open(path, "r+b") as file:
        file.truncate(100)
    with pytest.raises(KitError, match=rf"1 of the 43 images can't be read: {path} \(Truncated"):
        prepare(config, Accelerator(cpu=True))
