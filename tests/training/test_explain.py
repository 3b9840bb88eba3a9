"""Attention maps point to what the class stands in, and blanking that place costs the true class its probability."""

from functools import partial

import numpy as np
import pytest
import torch

from kit.studies import planted
from kit.training import explain
from kit.training.explain import probability_falls


def draw(count: int, side: str) -> tuple[planted.Drawn, torch.Tensor]:
    """Items as in `planted.TASKS`, and the place of the class: the colour of the thing that the other side names.

    Colours are drawn for each thing by itself. If each occurs once, a head can as well learn to leave that thing out.
    """
    things = torch.rand(count, planted.THINGS).argsort(1)
    colours = torch.randint(planted.THINGS, (count, planted.THINGS))
    place = torch.randint(planted.THINGS, (count, 1))
    named, labels = things.gather(1, place)[:, 0], colours.gather(1, place)[:, 0]
    here, there = (planted.LOOKS, planted.WORDS) if side == "image" else (planted.WORDS, planted.LOOKS)
    vectors = here[things] + planted.COLOURS[colours]
    other = planted._insert(planted._noise(count, planted.THINGS), there[named])
    text, regions = (other, vectors) if side == "image" else (vectors, other)
    return ([text] * planted.LAYERS, planted._mask(text), regions, labels), place[:, 0]


@pytest.mark.parametrize(("side", "model"), [("image", "full"), ("text", "no-bilstm")])
def test_the_largest_attention_is_where_the_class_stands(side, model, one_thread):
    torch.manual_seed(0)
    task = planted.Task(planted.THINGS, lambda count: draw(count, side)[0], ())
    head = planted.learn(partial(planted.coattention_head, task, model), task)
    (layers, mask, regions, labels), places = draw(400, side)
    with torch.inference_mode():
        attention = head.attend(layers, mask, regions)
    weights = attention[side == "image"]
    assert (weights.argmax(1) == places).float().mean() > 0.95
    assert torch.allclose(weights.sum(1), torch.ones(400), atol=1e-5)
    means = torch.stack([layer.mean((0, 1)) for layer in layers]), regions.mean((0, 1))
    attended, random = probability_falls(head, (layers, mask, regions, None), attention, labels, means)[side].mean(0)
    assert attended > 0.5 and random < attended / 2


def test_even_attention_blanks_at_random_and_padding_is_never_blanked():
    torch.manual_seed(0)
    real = (torch.arange(10) < torch.tensor([10, 5, 1] * 200)[:, None]).long()  # [600, 10]
    chosen = explain._largest(real / real.sum(1, keepdim=True), real)
    assert not chosen[real == 0].any()
    assert chosen.sum(1).tolist() == [2, 1, 1] * 200
    often = chosen[::3].float().mean(0)
    assert (often > 0.1).all() and (often < 0.3).all()  # 0.2 each, and not the first places
    weights = torch.rand(600, 10) * real
    largest = explain._largest(weights, real)
    assert (largest.float() * weights).sum(1)[::3].numpy() == pytest.approx(weights[::3].topk(2).values.sum(1).numpy())


def test_attention_on_words_is_relative_to_even_attention():
    words = ["Chat", "bleu", "rouge"]
    owners, tokens = [-1, 0, 0, 1, -1], np.array([0.1, 0.3, 0.3, 0.2, 0.1])  # "rouge" did not fit
    found = explain._attention_on_words(words, owners, tokens, read=True)
    assert found["words"] == ["Chat", "bleu", "…"]
    assert found["attention"] == pytest.approx([1.5, 1.0, 0.0]) and found["unsplit"] == pytest.approx(0.2)
    for nothing in (
        explain._attention_on_words(words, owners, tokens, read=False),
        explain._attention_on_words([], [-1, -1], tokens[:2], read=True),
        explain._attention_on_words([], [-1, -1], tokens[:1], read=True),
    ):
        assert nothing["attention"] is None
