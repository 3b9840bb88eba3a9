"""Attention is said in words and numbers, and shown on items, with what it means."""

import base64
import dataclasses
import html
import io
import re

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from fakes import VALUES, fake, measured_attention
from PIL import Image
from safetensors.numpy import save_file

from kit.analysis import plots
from kit.analysis.attention import (
    attending_run,
    attention_table,
    describe_attention,
    describe_blanking,
    describe_layers,
    layer_weights,
)
from kit.analysis.gallery import attention_gallery
from kit.analysis.show import table
from kit.config import EnsembleConfig, train_config
from kit.core.exceptions import KitError
from kit.core.files import write_json
from kit.models.layers import WeightedLayers
from kit.runs import open_run


def test_how_attention_moved_is_said_in_words_and_numbers(root):
    for name in ("even", "moved"):
        fake(train_config(**VALUES, run=name), 0.9)
    runs = [open_run(name) for name in ("even", "moved")]
    assert attention_table(runs).empty and "not measured" in describe_attention(runs[0])
    for run, values in zip(runs, ((0.004, 0.002), (0.2, 0.002)), strict=True):
        write_json(run.folder / "summary.json", run.summary | {"attention": measured_attention(*values)})
    table = attention_table(runs)
    assert list(table["attention on"]) == ["text", "image", "both"] * 2
    assert list(table["variation"]) == ["0.004", "0.002", "", "0.200", "0.002", ""]
    still, moving = (describe_attention(run) for run in runs)
    assert "says nothing about co-attention" in still and "the text stayed even" in still
    assert "says nothing" not in moving
    summary = runs[1].summary
    for share, words in (
        (0.0, "none of the 36 predictions change"),
        (0.0001, "fewer than 0.1 % of the 36 predictions"),
    ):
        for side in ("text", "image"):
            summary["attention"][side]["changed"] = share
        write_json(runs[1].folder / "summary.json", summary)
        said = describe_attention(runs[1])
        assert words in said and "0.0 %" not in said and "hardly depend on where attention is" in said
    assert "the text moved" in moving and "20.0 % of the 36 predictions change" in moving


def test_a_map_is_said_to_mean_little_unless_blanking_it_costs_more():
    random = np.random.default_rng(0)
    noise = random.normal(0, 0.05, 200)
    image = pd.DataFrame({"id": range(200), "side": "image", "attended": 0.1 + noise, "random": noise[::-1]})
    text = image.assign(side="text", attended=noise)
    said = describe_blanking(pd.concat([image, text]))
    for_image = said.partition(" items, so ")[0]
    assert "fifth of the regions lowers the true class's probability by 1" in for_image and "over 200" in for_image
    assert said.count("the most attended regions matter more than others, by 10.") == 1
    assert said.endswith("the map of tokens means little here.")
    assert "misleads" in describe_blanking(image.assign(attended=noise - 0.1))
    assert "a random fifth by 0.0:" in describe_blanking(image.assign(random=-1e-6))


def test_an_ensembles_best_member_with_attention_and_weights_speaks_for_it(root):
    members = [train_config(**VALUES, run=name) for name in ("good", "better", "gone")]
    members.append(train_config(**VALUES, run="concat", system="concat"))
    for config, right in zip(members, (0.5, 0.7, 0.9, 0.9), strict=True):
        fake(config, right)
        if config.run != "gone":
            (open_run(config.run).folder / "model-0.safetensors").touch()
    ensemble = EnsembleConfig("all", tuple(config.run for config in members), "data")
    write_json(root / "runs" / "all" / "config.json", dataclasses.asdict(ensemble))
    assert attending_run(open_run("all")).name == "better"
    assert attending_run(open_run("good")).name == "good"
    assert attending_run(open_run("concat")) is None and attending_run(open_run("gone")) is None


def test_layer_weights_are_read_from_each_folds_model_and_drawn(root):
    changed = {"full": {"folds": 2, "linear_start": True}, "top": {"layer_weights": False}}
    for run, changes in (changed | {"concat": {"system": "concat"}}).items():
        fake(train_config(**VALUES, run=run, **changes), 0.9)
    folder = open_run("full").folder
    for fold, scores in enumerate(([0, 0, 0, np.log(7)], [0, 0, 0, 0])):
        weights = {"head.mix.weights": np.array(scores, np.float32), "head.mix.gamma": np.ones(1, np.float32)}
        save_file(weights, folder / f"model-{fold}.safetensors")
    found = layer_weights(open_run("full"))
    assert found.columns.tolist() == [1, 2, 3, 4]
    start = WeightedLayers(4)
    start.start_top()
    start = start.weights.detach().softmax(0).numpy()
    assert np.allclose(found, [start, [0.1, 0.1, 0.1, 0.7], [0.25] * 4])
    trained, moved = ([bar.get_height() for bar in axis.patches] for axis in plots.layer_weights(found).axes)
    assert trained == pytest.approx([17.5, 17.5, 17.5, 47.5])
    assert moved == pytest.approx(trained - 100 * start, rel=1e-5)
    assert describe_layers(found).endswith(f"{47.5 - 100 * start[3]:+.2g} points, of layer 4.")
    config = open_run("full").config
    write_json(folder / "config.json", dataclasses.asdict(config) | {"linear_start": False})
    assert np.allclose(layer_weights(open_run("full")).loc["start"], 0.25)
    for name in ("top", "concat"):
        empty = layer_weights(open_run(name))
        assert empty.empty and not describe_layers(empty)
        assert "no layer weights" in plots.layer_weights(empty).axes[0].texts[0].get_text()
    (folder / "model-1.safetensors").write_bytes(b"{")
    with pytest.raises(KitError, match=r"model-1.safetensors cannot be read"):
        layer_weights(open_run("full"))
    plt.close("all")


LONG = "Accessoires et périphériques pour consoles de jeux vidéo " * 2
NAMES = {10: LONG, 40: "<script>alert(1)</script>", 60: "\U0001f381 Jouets $5", 61: "\u0643\u062a\u0628"}


def explained(**changes) -> pd.DataFrame:
    """One item as `explain` returns it."""
    item = {"id": 7, "title": "t", "description": None, "images": [], "label": 61, "fold": 0}
    item |= {"probability_true": 0.01, "top": [(10, 0.6), (40, 0.3), (60, 0.05)], "regions": None}
    item |= {
        "words": ["\u0643\u062a\u0628", "<b>", "\U0001f381"],
        "attention": np.array([0.2, 1.0, 2.5]),
        "unsplit": 0.1,
    }
    return pd.DataFrame([item | changes])


def test_cards_of_attention_show_any_text_and_mark_the_true_class():
    page = attention_gallery(explained(), NAMES)
    text = html.unescape(re.sub(r"<[^>]+>", " ", page))
    assert page.isascii() and "<script>" not in page and "<b>alert" not in page
    for shown in (*NAMES.values(), "60.0 %", "wrong", "no image", "\u0643\u062a\u0628", "<b>", "0.20 to 2.50 × even"):
        assert " ".join(shown.split()) in " ".join(text.split())
    assert re.search("\u0643\u062a\u0628 *\\(true\\) *1.0 %", " ".join(text.split()))  # though not among the three
    assert 'dir="auto"' in page
    right = attention_gallery(explained(label=40), NAMES)
    assert right.count("(true)") == 1 and attention_gallery(explained(label=10), NAMES).count(">right<") == 1
    assert "item 7 · fold 1<" in html.unescape(page)
    assert "item SKU-7 · fold 1<" in html.unescape(attention_gallery(explained(key="SKU-7"), NAMES))
    assert "(no text)" in attention_gallery(explained(words=[], attention=None), NAMES)
    assert "No item" in attention_gallery(explained()[:0], NAMES)


def test_the_darkest_word_and_the_brightest_region_have_the_most_attention(tmp_path):
    Image.new("RGB", (300, 200), "white").save(tmp_path / "a.png")
    regions = np.full((4, 4), 0.1)
    regions[1, 2] = 14.5
    page = attention_gallery(explained(images=[str(tmp_path / "a.png")], regions=regions[None]), {})
    shades = [sum(map(int, rgb)) for rgb in re.findall(r"background:rgb\((\d+),(\d+),(\d+)\)", page)]
    assert shades == sorted(shades, reverse=True) and shades[0] > 700 and shades[2] < 400
    _, encoded = re.findall(r"data:image/jpeg;base64,([^\"]+)", page)
    brightness = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("L"), float)
    height, width = brightness.shape
    assert width / height == pytest.approx(1.5, abs=0.02)
    row, column = np.unravel_index(brightness.argmax(), brightness.shape)
    assert (row * 4 // height, column * 4 // width) == (1, 2)
    (tmp_path / "a.png").write_bytes(b"broken")
    unreadable = attention_gallery(explained(images=[str(tmp_path / "a.png")], regions=regions[None]), {})
    assert "image unreadable" in unreadable and "data:image" not in unreadable


def test_shown_tables_are_left_aligned_and_take_names_literally():
    shown = table(pd.DataFrame({"class": ["<b>$x$</b>"], "F1": ["79.5 [76.7, 81.6]"]})).to_html()
    assert "&lt;b&gt;$x$" in shown and "tex2jax_ignore" in shown and "text-align: left" in shown
    assert ">0</th>" not in shown and table(pd.DataFrame()).to_html()
