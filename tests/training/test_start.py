"""A head starts as the probe of its own vectors, and items held out of training say how far it may leave it."""

import numpy as np
import pandas as pd
import pytest
import torch

from kit.config import train_config
from kit.core.exceptions import KitError
from kit.runs import prepare_run
from kit.training import probe as probe_module
from kit.training.probe import WEIGHTS, fit_probe, make_probe, scale_sides
from kit.training.run_trainer import hold_out, make_accelerator, prepare, train
from kit.training.start import fit_start

FROZEN = {"freeze_text": True, "freeze_image": True, "linear_start": True}


def sides(items: int, classes: int, text: float, image: float) -> tuple[np.ndarray, np.ndarray]:
    """Features of two sides, 64 numbers each, that tell the class as clearly as said; and the classes."""
    random, labels = np.random.default_rng(0), np.arange(items) % classes
    told = [clear * random.normal(size=(classes, 64))[labels] for clear in (text, image)]
    return np.hstack(told) + random.normal(size=(items, 128)), labels


@pytest.mark.parametrize("searched", [probe_module.SEARCHED, 150])  # all items choose, or a part of them
@pytest.mark.parametrize(("text", "image", "length"), [(0.6, 0.0, "least"), (0.0, 0.6, "most")])
def test_a_side_that_tells_nothing_weighs_little(text, image, length, searched, monkeypatch):
    monkeypatch.setattr(probe_module, "SEARCHED", searched)
    features, labels = sides(400, 4, text, image)
    probe = fit_probe(make_probe((64, 64)), features[:200], labels[:200], np.arange(200))
    lengths = [weights["image"] for weights in WEIGHTS]
    assert probe[0].transformer_weights["image"] == {"least": min(lengths), "most": max(lengths)}[length]
    assert (probe.predict(features[200:]) == labels[200:]).mean() > 0.8


@pytest.mark.parametrize("items", [4, 6, 9])
@pytest.mark.parametrize("groups", [1, 2, 5])
@pytest.mark.filterwarnings("error")
def test_a_few_items_have_a_probe(items, groups):
    features, labels = sides(items, 2, 3.0, 0.0)
    probe = fit_probe(make_probe((64, 64)), features, labels, np.arange(items) % groups)
    assert np.isfinite(probe.predict_proba(features)).all()


def test_the_head_starts_from_what_the_probe_reads(root, tiny_config):
    """Vectors whose products are nearly those of the items' standardised means, so a probe of either is the same.

    If single tokens and regions were standardised instead, the products would be 0.09 and 0.04 apart.
    """
    torch.manual_seed(0)
    config = train_config(**tiny_config | FROZEN)
    accelerator = make_accelerator(config)
    _, _, products, build = prepare(config, accelerator)
    items, model = products["train"], build().to(accelerator.device)
    fit_start(config, model, items, np.arange(len(items)), accelerator.device)
    batch = {key: value.to(accelerator.device) for key, value in items.__getitems__(list(range(len(items)))).items()}
    with torch.no_grad():
        layers, regions = model.features(batch)
        joint = model.head.joint(*model.complete(batch, layers, regions)).cpu().chunk(2, dim=1)
    real = batch["mask"].unsqueeze(2)
    means = (layers[-1] * real).sum(1) / real.sum(1), regions.mean(1)
    for vectors, plain, apart in zip(joint, means, (0.06, 0.025), strict=True):
        read = scale_sides([plain.shape[1], 0]).fit_transform(plain.cpu().numpy())
        vectors = torch.nn.functional.normalize(vectors, dim=1).numpy()
        assert np.abs(vectors @ vectors.T - read @ read.T).mean() < apart


@pytest.mark.parametrize("attention", ["both", "text", "image"])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_head_starts_as_the_probe_of_its_vectors(root, tiny_config, attention, classes):
    config = train_config(**tiny_config | FROZEN | {"attention": attention})
    accelerator = make_accelerator(config)
    _, _, products, build = prepare(config, accelerator)
    rows = np.flatnonzero(products["train"].labels < classes)
    items, model = products["train"].part(rows), build()
    if classes == 2:
        model.head.classifier = torch.nn.Linear(model.head.classifier.in_features, 2)
    fit_start(config, model, items, np.arange(len(rows)), accelerator.device)
    batch = items.__getitems__(list(range(len(rows))))
    with torch.no_grad():
        vectors = model.head.joint(*model.features(batch)[:1], batch["mask"], model.features(batch)[1])
        logits = model(batch).softmax(1).numpy()
    widths = [config.width if attention in ("both", side) else 0 for side in ("text", "image")]
    vectors = vectors.numpy() / np.repeat(model.head.side_lengths.numpy(), widths)
    probe = fit_probe(make_probe(widths, standardise=False), vectors, items.labels, np.arange(len(rows)))
    assert np.allclose(logits, probe.predict_proba(vectors), atol=0.02)
    if attention != "image":
        assert (logits.argmax(1) == items.labels).mean() > 0.6  # the titles give the class away


def test_new_images_are_told_apart_as_the_probe_tells_them(root, tiny_config):
    """Also if the training items span fewer directions than the head keeps, of which new items have more."""
    config = train_config(**tiny_config | FROZEN | {"attention": "image"})
    accelerator = make_accelerator(config)
    _, _, products, build = prepare(config, accelerator)
    model, items, learn = build(), products["train"], np.arange(12)
    fit_start(config, model, items.part(learn), learn, accelerator.device)
    batch = items.__getitems__(list(range(len(items))))
    with torch.no_grad():
        layers, regions = model.features(batch)
        logits = model.head(layers, batch["mask"], regions).softmax(1).numpy()
    assert model.head.image.in_features > model.head.image.out_features > len(learn)
    means = regions.mean(1).numpy()
    probe = fit_probe(make_probe([0, means.shape[1]]), means[learn], items.labels[learn], learn)
    assert np.allclose(logits, probe.predict_proba(means), atol=1e-3)


def test_held_out_items_choose_the_epochs(root, tiny_config, capsys):
    run = prepare_run(train_config(**tiny_config | FROZEN | {"keep": "held_out", "epochs": 3}, run="chosen"))
    train(run)
    kept = run.metrics.query("kept")
    assert run.metrics["epoch"].tolist() == list(range(int(kept["epoch"].item()) + 1))
    assert run.summary["kept_epochs"] == kept["epoch"].tolist()
    printed = capsys.readouterr().out
    assert "start" in printed and printed.count(" a step: about ") == 1


def test_a_start_that_is_best_is_kept(root, tiny_config):
    """At this rate every epoch ruins the head."""
    config = tiny_config | FROZEN | {"keep": "held_out", "lr": 10.0, "backbone_lr_scale": 1.0}
    ruined, kept = (prepare_run(train_config(**config | {"keep": keep}, run=keep)) for keep in ("last", "held_out"))
    train(ruined)
    train(kept)
    assert kept.summary["kept_epochs"] == [0]
    assert kept.metrics["loss"].max() < 2 < ruined.metrics["loss"].max()


def test_what_is_held_out_leaves_every_class_to_learn_and_no_group_in_two():
    labels, groups = pd.Series([*[10] * 20, *[40] * 20, 60]), np.repeat(np.arange(21), 2)[:41]
    held_out = hold_out(labels, groups, seed=0)
    assert 0 < held_out.sum() < 16 and set(labels[~held_out]) == {10, 40, 60}
    assert not set(groups[held_out]) & set(groups[~held_out])
    with pytest.raises(KitError, match="too few training items to hold some out: pass -p keep last"):
        hold_out(labels, np.zeros(41), seed=0)


def test_no_held_out_item_trains(root, tiny_config, monkeypatch):
    """Neither as the epochs are chosen, nor as the probe of that time is fitted."""
    seen = []
    monkeypatch.setattr("kit.training.run_trainer.fit_start", lambda *a: seen.append(set(a[2].places)) or fit_start(*a))
    train(prepare_run(train_config(**tiny_config | FROZEN | {"keep": "held_out", "epochs": 1}, run="run")))
    choosing, all_of_it = seen
    assert choosing < all_of_it and len(all_of_it - choosing) >= len(all_of_it) // 8
