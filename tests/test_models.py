"""The classifier: every switch trains, padding changes nothing, and the paper's dimensions hold."""

import dataclasses

import pytest
import torch

from kit.backbones import load_image, load_text
from kit.config import train_config
from kit.datasets import Products, Tokens, collate
from kit.models import build_model

SWITCHES = {
    "full": {},
    "no-layer-weights": {"layer_weights": False},
    "no-bilstm": {"bilstm": False},
    "text-attention-only": {"attention": "text"},
    "image-attention-only": {"attention": "image"},
    "embedding-layer": {"embedding_layer": True},
    "linear-start": {"linear_start": True},
    "linear-start-no-bilstm": {"linear_start": True, "bilstm": False},
}


@pytest.fixture
def build(tiny_config):
    def make(classes=3, **changes):
        torch.manual_seed(0)
        config = train_config(**tiny_config, **changes)
        return build_model(config, classes, load_text(config.text), load_image(config.image))

    return make


def batch(tokens=6, items=2, size=32):
    ids = torch.randint(5, 60, (items, tokens), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(items, tokens, dtype=torch.long)
    mask[1:, tokens // 2 :] = 0
    pixels = torch.randn(items, 3, size, size, generator=torch.Generator().manual_seed(1))
    return {"ids": ids * mask, "mask": mask, "pixels": pixels}


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
    for side in (model.head, model.text, model.image):
        assert any(p.grad.abs().sum() > 0 for p in side.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("kind", ["bert", "camembert", "flaubert"])
@torch.inference_mode()
def test_padding_changes_nothing(name, kind, build, tiny_texts):
    model = build(**SWITCHES[name]).eval()
    model.text = load_text(tiny_texts[kind]).eval()
    short = batch()
    padding = torch.zeros(2, 10, dtype=torch.long)
    longer = short | {key: torch.cat([short[key], padding], 1) for key in ("ids", "mask")}
    assert torch.allclose(model(short), model(longer), atol=1e-5)


@torch.inference_mode()
def test_feature_map_follows_the_image_size(build):
    model = build().eval()
    assert model.image(torch.randn(1, 3, 64, 64)).shape[1] == 4
    assert model.image(torch.randn(1, 3, 128, 128)).shape[1] == 16


@pytest.mark.parametrize("image", ["resnet152", "resnext101_32x8d"])
@torch.inference_mode()
def test_the_papers_dimensions(image):
    """CamemBERT-base and the paper's image backbones at 500 px, random weights: 16 × 16 regions of 2048."""
    config = dataclasses.replace(train_config(image=image, pretrained=False))
    model = build_model(config, 27, load_text("camembert", False), load_image(image, False)).eval()
    regions = model.image(torch.randn(1, 3, config.image_size, config.image_size))
    assert regions.shape == (1, 256, 2048)
    items = {"ids": torch.randint(5, 32000, (1, 40)), "mask": torch.ones(1, 40, dtype=torch.long), "regions": regions}
    assert model.text_layers(items).shape == (1, 12, 40, 768)
    assert model(items).shape == (1, 27)
    assert model.head.text.lstm.hidden_size == 1024
    assert isinstance(model.head.image, torch.nn.Identity)


def test_frozen_backbones_stay_as_they_are(build):
    model = build(freeze_text=True, freeze_image=True)
    before = {name: value.clone() for name, value in model.image.state_dict().items()}
    model.train()
    assert not model.text.training
    assert model.head.training
    model(batch()).sum().backward()
    assert all(parameter.grad is None for parameter in model.text.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.image.state_dict().items())


def test_collate_pads_to_the_longest():
    products = Products([3, 1], Tokens([[7, 8, 9], [5]]))
    got = collate([products[0], products[1]])
    assert got["ids"].tolist() == [[7, 8, 9], [5, 0, 0]]
    assert got["mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert got["row"].tolist() == [0, 1]
