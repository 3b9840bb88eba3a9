"""The classifier: every switch trains, padding changes nothing, and the paper's dimensions hold."""

import numpy as np
import pytest
import torch

from kit.config import train_config
from kit.data.dataset import ProductDataset, RaggedArray
from kit.models.backbones import find_backbones
from kit.models.classifier import build_model, fixed_layers
from kit.models.heads import LENGTHS, CoAttentionHead, FusionHead
from kit.models.text_backbones import load_text
from kit.training.optimization import parameter_groups

SWITCHES = {
    "full": {},
    "no-layer-weights": {"layer_weights": False},
    "no-bilstm": {"bilstm": False},
    "no-co-attention": {"coattention": False},
    "text-attention-only": {"attention": "text"},
    "image-attention-only": {"attention": "image"},
    "attention-scale": {"attention_scale": True},
    "embedding-layer": {"embedding_layer": True},
    "linear-start": {"linear_start": True},
    "linear-start-no-co-attention": {"linear_start": True, "coattention": False},
    "modality-dropout": {"modality_dropout": 0.5},
    "modality-dropout-linear-start": {"modality_dropout": 0.5, "linear_start": True},
    "modality-dropout-concat": {"modality_dropout": 0.5, "system": "concat"},
    "linear-start-no-bilstm": {"linear_start": True, "bilstm": False},
    **{system: {"system": system} for system in ("concat", "bilinear", "dot", "text", "image")},
}


@pytest.fixture
def build(tiny_config):
    def make(classes=3, **changes):
        torch.manual_seed(0)
        config = train_config(**tiny_config, **changes)
        return build_model(config, classes, find_backbones(config), config.sides)

    return make


def batch(tokens=6, items=2, size=32):
    ids = torch.randint(5, 60, (items, tokens), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(items, tokens, dtype=torch.long)
    mask[1:, tokens // 2 :] = 0
    pixels = torch.randint(256, (items, size, size, 3), generator=torch.Generator().manual_seed(1)).byte()
    return {"ids": ids * mask, "mask": mask, "pixels": pixels, "missing": torch.zeros(items, 2, dtype=torch.bool)}


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_gives_logits_and_learns(name, build):
    model = build(**SWITCHES[name])
    logits = model(batch(size=64))
    assert logits.shape == (2, 3)
    assert logits.isfinite().all()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):  # after a linear start, the first step reaches the classifier alone
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(batch(size=64)), torch.tensor([0, 2]))
        loss.backward()
        optimizer.step()
    silent = [
        n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.isfinite().all())
    ]
    assert not silent  # several processes would wait for them forever
    for side in (model.head, model.text, model.image):  # a backbone that the system does not read is not loaded
        assert side is None or any(p.grad.abs().sum() > 0 for p in side.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("kind", ["bert", "camembert", "flaubert"])
@torch.inference_mode()
def test_padding_changes_nothing(name, kind, build, tiny_texts):
    model = build(**SWITCHES[name]).eval()
    if model.text is not None:
        model.text = load_text(tiny_texts[kind]).eval()
    short = batch()
    padding = torch.zeros(2, 10, dtype=torch.long)
    longer = short | {key: torch.cat([short[key], padding], 1) for key in ("ids", "mask")}
    assert torch.allclose(model(short), model(longer), atol=1e-5)


@torch.inference_mode()
def test_feature_map_follows_the_image_size(build):
    model = build().eval()
    assert model.image(torch.zeros(1, 64, 64, 3)).shape[1] == 4
    assert model.image(torch.zeros(1, 128, 128, 3)).shape[1] == 16


@pytest.mark.parametrize("image", ["resnet152", "resnext101_32x8d"])
@torch.inference_mode()
def test_the_papers_dimensions(image):
    """CamemBERT-base and the paper's image backbones at 500 px, random weights: 16 × 16 regions of 2048."""
    config = train_config(image=image, pretrained=False)
    model = build_model(config, 27, find_backbones(config), ["text", "image"]).eval()
    regions = model.image(torch.zeros(1, config.image_size, config.image_size, 3))
    assert regions.shape == (1, 256, 2048)
    items = {"ids": torch.randint(5, 32000, (1, 40)), "mask": torch.ones(1, 40, dtype=torch.long), "regions": regions}
    model.image = None  # its regions come with the batch
    assert [layer.shape for layer in model.features(items)[0]] == 12 * [(1, 40, 768)]
    assert model(items).shape == (1, 27)
    assert model.head.text.ahead.hidden_size == 1024
    assert isinstance(model.head.image, torch.nn.Identity)


@pytest.mark.parametrize("system", ["concat", "bilinear", "dot"])
def test_fusions_at_the_papers_sizes_stay_small(system):
    head = FusionHead(27, system, text_width=768, image_width=2048)
    assert sum(parameter.numel() for parameter in head.parameters()) < 10e6
    logits = head([torch.randn(2, 5, 768)], None, torch.randn(2, 256, 2048))
    assert logits.shape == (2, 27)


def test_fusions_compute_what_their_names_say():
    text, image = torch.randn(3, 4, 6), torch.randn(3, 5, 8)
    first, mean = text[:, 0], image.mean(1)
    fused = {}
    for system in ("concat", "bilinear", "dot", "text", "image"):
        head = FusionHead(2, system, text_width=6, image_width=8, width=7)
        head.classifier = torch.nn.Identity()
        fused[system] = head([text], None, image), head
    assert torch.equal(fused["concat"][0], torch.cat([first, mean], 1))
    assert torch.equal(fused["dot"][0], fused["dot"][1].text(first) * mean)
    assert torch.equal(fused["text"][0], first)
    assert torch.equal(fused["image"][0], mean)
    # every output is a bilinear form: linear in each vector with the other fixed (biases start at zero)
    bilinear, head = fused["bilinear"]
    assert torch.allclose(head([2 * text], None, 3 * image), 6 * bilinear, atol=1e-5)


@pytest.mark.parametrize("system", ["coattention", "concat"])
@torch.inference_mode()
def test_what_is_missing_is_one_and_the_same_thing_to_the_head(system, build):
    """Whatever stands in the image's and the text's place, and however long that is."""
    model = build(system=system, modality_dropout=0.5).eval()
    items = batch(size=64)
    gone = [items | {"missing": torch.tensor([pair, [False, False]])} for pair in ([True, False], [False, True])]
    other = {"pixels": items["pixels"].flip(0), "ids": items["ids"].flip(1).clamp(5), "mask": items["mask"].flip(0)}
    changed = [gone[0] | {key: other[key] for key in ("ids", "mask")}, gone[1] | {"pixels": other["pixels"]}]
    for without, elsewhere in zip(gone, changed, strict=True):
        assert torch.allclose(model(without)[0], model(elsewhere)[0], atol=1e-5)
        assert not torch.allclose(model(without)[0], model(items)[0], atol=1e-4)
        assert not torch.allclose(model(without)[1], model(elsewhere)[1], atol=1e-4)
    plain = build(system=system).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    assert torch.equal(plain(items), model(items))


@torch.inference_mode()
def test_a_model_that_saw_mirror_images_reads_both_ways(build):
    plain, both = build().eval(), build(augment=True).eval()
    items = batch(size=64)
    mirrored = items | {"pixels": items["pixels"].flip(2)}
    assert not torch.allclose(plain(items), plain(mirrored), atol=1e-4)
    assert torch.allclose(both(items), (plain(items) + plain(mirrored)) / 2, atol=1e-5)
    assert torch.allclose(both(items), both(mirrored), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("system", ["concat", "bilinear", "dot", "text", "image"])
def test_standardised_fusions_read_the_mean_token_and_forget_lengths(system):
    """So that they see what co-attention's linear start sees, whose vectors have fixed lengths."""
    text, regions = torch.randn(3, 2, 6), torch.randn(3, 5, 8)
    head = FusionHead(2, system, text_width=6, image_width=8, width=7, standardise=True).eval()
    logits = head([text], None, regions)
    longer = torch.stack([torch.randn(3, 6), 4 * text[:, 1]], 1)  # another first token, a longer mean token
    assert torch.allclose(head([longer], None, 0.1 * regions), logits, atol=1e-5)
    if system == "concat":
        head.classifier = torch.nn.Identity()
        first, second = head([text], None, regions).split([6, 8], 1)
        assert torch.allclose(first.norm(dim=1), torch.tensor(LENGTHS[0]))
        assert torch.allclose(second.norm(dim=1), torch.tensor(LENGTHS[1]))


@torch.no_grad()
@pytest.mark.parametrize("linear_start", [False, True])
def test_inspecting_a_head_tries_even_attention_on_each_side(linear_start):
    torch.manual_seed(0)
    head = CoAttentionHead(
        3, 2, text_width=6, image_width=8, width=4, attention_width=4, linear_start=linear_start
    ).eval()
    for parameter in head.parameters():  # away from any start
        parameter.copy_(torch.randn_like(parameter))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    inputs = list(torch.randn(2, 2, 5, 6)), mask, torch.randn(2, 7, 8)
    logits, spreads = head.inspect(*inputs)
    assert torch.allclose(logits[:, 0], head(*inputs), atol=1e-5)
    variation, entropy = spreads.mean(0).T  # of text and image
    assert (variation > 0.01).all() and (variation < 1).all() and (entropy < 1).all()
    scores = {side: getattr(head.coattention, f"{side}_score").weight for side in ("text", "image")}
    learned = {side: weight.clone() for side, weight in scores.items()}
    for row, sides in enumerate((["text"], ["image"], ["text", "image"]), 1):
        for side in scores:
            scores[side].copy_(0 * learned[side] if side in sides else learned[side])
        assert torch.allclose(logits[:, row], head(*inputs), atol=1e-5)
        assert not torch.allclose(logits[:, row], logits[:, 0], atol=1e-3)


def test_frozen_backbones_stay_as_they_are(build):
    model = build(freeze_text=True, freeze_image=True)
    before = {name: value.clone() for name, value in model.image.state_dict().items()}
    model.train()
    assert not model.text.training
    assert model.head.training
    model(batch()).sum().backward()
    assert all(parameter.grad is None for parameter in model.text.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.image.state_dict().items())


def test_of_a_text_alone_the_one_state_is_kept_from_which_its_trained_layers_start():
    usual = {"recipe": "demo", "train_text_layers": 2}
    assert fixed_layers(train_config(**usual, system="text"), 12) == slice(10, 11)
    assert fixed_layers(train_config(**usual), 12) == slice(1, 11)  # co-attention weighs them all


@pytest.mark.parametrize("live", [True, False])
def test_of_a_partly_trained_backbone_only_the_top_learns(live, tiny_config):
    changes = {"freeze_text": True, "train_text_layers": 1, "layer_weights": False}
    config = train_config(**tiny_config, **changes, linear_start=True, checkpointing=True)
    backbones = find_backbones(config)
    before = {name: value.clone() for name, value in backbones["text"].frozen.state_dict().items()}
    model = build_model(config, 3, backbones, ["text", "image"] if live else ["image"]).train()
    torch.nn.init.normal_(model.head.classifier.weight)
    items = batch(size=64)
    if not live:
        ids = items.pop("ids")
        items["layers"] = backbones["text"].frozen(ids, items["mask"])[1].unsqueeze(2)  # [B, T, 1, d]
    with torch.no_grad():
        first, again = model.features(items)[0][-1], model.features(items)[0][-1]
    assert not torch.equal(first, again)  # dropout in the layers that train
    assert model.text.below is None or not model.text.below.training
    groups = parameter_groups(model, config)
    trained = {name for name, value in model.named_parameters() if name.startswith("text.") and value.requires_grad}
    assert trained and all(name.startswith("text.model.encoder.layer.0.") for name in trained)
    pretrained = {id(value) for value in groups[0]["params"]}
    assert all(id(value) in pretrained for name, value in model.named_parameters() if name in trained)
    top = {name: value.clone() for name, value in model.state_dict().items() if name in trained}
    model(items).square().sum().backward()
    torch.optim.SGD(groups).step()
    assert all(
        not torch.equal(model.state_dict()[name], value) for name, value in top.items() if "key.bias" not in name
    )
    assert all(torch.equal(value, before[name]) for name, value in backbones["text"].frozen.state_dict().items())


def test_batches_are_padded_to_their_longest():
    products = ProductDataset([3, 1], {"text": RaggedArray("ids", np.array([7, 8, 9, 5]), [3, 1])})
    got = products.__getitems__([0, 1])
    assert got["ids"].tolist() == [[7, 8, 9], [5, 0, 0]]
    assert got["mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert got["row"].tolist() == [0, 1]
