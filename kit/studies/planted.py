"""Planted tasks: made-up features in which only one part of the model can find the class.

An ablation on a catalogue shows what a part is worth there; if that is nothing, the catalogue may not need the part, or
the part may not work. Here it is needed by construction: a head that has it can solve the task, one without it cannot.

B batch · T tokens · R regions · L layers · d width
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from kit.models.heads import CoAttentionHead, FusionHead
from kit.studies.study_runs import ABLATIONS

THINGS, TOKENS, LAYERS, WIDTH = 4, 4, 3, 32
# of every head
SIZES: dict[str, Any] = dict.fromkeys(("text_width", "image_width", "width", "classifier_width"), WIDTH)
NOISE = 0.5  # standard deviation of features that say nothing; that of words, things and colours is 1
# a word, and what it looks like, for each thing; and one vector for each colour: [THINGS, d] each
WORDS, LOOKS, COLOURS = torch.randn(3, THINGS, WIDTH, generator=torch.Generator().manual_seed(0))
Drawn = tuple[list[Tensor], Tensor, Tensor, Tensor]  # layers L × [B, T, d], mask [B, T], regions [B, R, d], labels [B]


@dataclass(frozen=True)
class Task:
    """`draw` returns that many fresh items. `ablations`, rows of table 2, remove a part without which no head can solve
    the task; `model` is the row that they start from, if another part could stand in for that one.
    """

    classes: int
    draw: Callable[[int], Drawn]
    ablations: tuple[str, ...]
    model: str = "full"


def region_of_the_word(count: int) -> Drawn:
    """One word names one of four things in the image, and the class is that thing's colour.

    Each image has each thing and each colour once, so that the mean of its regions is always the same.
    """
    things, colours, named, labels = _coloured_things(count)
    text = _insert(_noise(count, TOKENS), WORDS[named])
    return [text] * LAYERS, _mask(text), LOOKS[things] + COLOURS[colours], labels


def word_of_the_region(count: int) -> Drawn:
    """The image shows one of four things that the text names, each with a colour, and the class is that thing's."""
    things, colours, shown, labels = _coloured_things(count)
    text = WORDS[things] + COLOURS[colours]
    return [text] * LAYERS, _mask(text), _insert(_noise(count, THINGS), LOOKS[shown]), labels


def order_of_two_words(count: int) -> Drawn:
    """The text has the same two words in either order, and the class is the order."""
    labels, rows = torch.randint(2, (count,)), torch.arange(count)
    first, second = torch.rand(count, TOKENS).argsort(1)[:, :2].sort(1).values.unbind(1)  # [B] each
    text = _noise(count, TOKENS)
    text[rows, first], text[rows, second] = WORDS[labels], WORDS[1 - labels]
    return [text] * LAYERS, _mask(text), _noise(count, THINGS), labels


def word_in_a_lower_layer(count: int) -> Drawn:
    """The class is a word that only the lowest layer shows."""
    labels = torch.randint(THINGS, (count,))
    layers = [_noise(count, TOKENS) for _ in range(LAYERS)]
    _insert(layers[0], WORDS[labels])
    return layers, _mask(layers[0]), _noise(count, THINGS), labels


def text_alone(count: int) -> Drawn:
    """The class is which of two words the text is."""
    word, _, features = _one_word_one_look(count)
    return *features, word


def image_alone(count: int) -> Drawn:
    """The class is which of two things the image shows."""
    _, look, features = _one_word_one_look(count)
    return *features, look


def agreement(count: int) -> Drawn:
    """The class is whether the word names what the image shows; either alone says nothing about it."""
    word, look, features = _one_word_one_look(count)
    return *features, (word == look).long()


BY_SIDE = {
    "text alone": Task(2, text_alone, ("image-attention-only",)),
    "image alone": Task(2, image_alone, ("text-attention-only",)),
    "agreement of text and image": Task(2, agreement, ("text-attention-only", "image-attention-only")),
}
TASKS = {
    "region that a word names": Task(THINGS, region_of_the_word, ("no-co-attention",)),
    # a BiLSTM can bind each word to its colour, after which their mean is enough
    "word that a region shows": Task(THINGS, word_of_the_region, ("no-co-attention",), model="no-bilstm"),
    "order of two words": Task(2, order_of_two_words, ("no-bilstm",)),
    "lower text layer": Task(THINGS, word_in_a_lower_layer, ("no-layer-weights",)),
    **BY_SIDE,
}


def ablations() -> pd.DataFrame:
    """Return each task with the ablations that cannot solve it: chance, and the accuracy with and without the part."""
    rows = []
    for name, task in TASKS.items():
        full = accuracy(partial(coattention_head, task, task.model), task)
        for row in task.ablations:
            without = accuracy(partial(coattention_head, task, task.model, row), task)
            rows.append((name, task.model, row, 1 / task.classes, full, without))
    return pd.DataFrame(rows, columns=["what tells the class", "model", "ablation", "chance", "with", "without"])


def fusions() -> pd.DataFrame:
    """Return the accuracy of each side alone and of each fusion, if the class stands in one side or in both."""
    systems = ("text", "image", "concat", "bilinear", "dot")
    rows = [[name, *(accuracy(partial(fusion_head, task, s), task) for s in systems)] for name, task in BY_SIDE.items()]
    return pd.DataFrame(rows, columns=["what tells the class", *systems])


def coattention_head(task: Task, *rows: str, **settings: Any) -> CoAttentionHead:
    """Return the paper's head, small and untrained, with the changes of these rows of table 2."""
    changes = {name: value for row in rows for name, value in ABLATIONS[row].items()}
    layers = LAYERS if changes.pop("layer_weights", True) else 1
    return CoAttentionHead(task.classes, layers, attention_width=WIDTH, **SIZES | changes | settings)


def fusion_head(task: Task, system: str) -> FusionHead:
    """Return a baseline's head, small and untrained."""
    return FusionHead(task.classes, system, **SIZES)


def accuracy(make_head: Callable[[], nn.Module], task: Task, seed: int = 0, steps: int = 400) -> float:
    """Return the accuracy of a new head, once trained, on a thousand fresh items."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = learn(make_head, task, steps)
        *features, labels = task.draw(1000)
        with torch.inference_mode():
            return (head(*features).argmax(1) == labels).float().mean().item()


def learn(make_head: Callable[[], nn.Module], task: Task, steps: int = 400) -> nn.Module:
    """Return a new head, trained on fresh items at each step, at most `steps` and until it is certain of them."""
    head = make_head()
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    for _ in range(steps):
        *features, labels = task.draw(64)
        loss = cross_entropy(head(*features), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.01:
            break
    return head.eval()


def _coloured_things(count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return all things and all colours in random order `[B, THINGS]`, one of the things and its colour `[B]`."""
    things, colours = torch.rand(2, count, THINGS).argsort(2)
    place = torch.randint(THINGS, (count, 1))
    return things, colours, things.gather(1, place)[:, 0], colours.gather(1, place)[:, 0]


def _one_word_one_look(count: int) -> tuple[Tensor, Tensor, tuple[list[Tensor], Tensor, Tensor]]:
    """Return which of two words and which of two things `[B]`, and features of one token and one region."""
    word, look = torch.randint(2, (2, count))
    text, regions = (_noise(count, 1) + vectors.unsqueeze(1) for vectors in (WORDS[word], LOOKS[look]))
    return word, look, ([text] * LAYERS, _mask(text), regions)


def _noise(count: int, places: int) -> Tensor:
    return NOISE * torch.randn(count, places, WIDTH)


def _insert(noise: Tensor, vectors: Tensor) -> Tensor:
    """Put one vector per item `[B, d]` at a random place of `noise` `[B, places, d]`, and return it."""
    noise[torch.arange(len(noise)), torch.randint(noise.shape[1], (len(noise),))] = vectors
    return noise


def _mask(text: Tensor) -> Tensor:
    return torch.ones(text.shape[:2], dtype=torch.long)
