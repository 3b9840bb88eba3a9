"""Frames → figures. Every function returns a matplotlib figure."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

BLUE, ORANGE, GREY = "#2a6f97", "#e07a3f", "#8d99ae"


def _axes(width: float, height: float, **options):
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained", **options)
    for axis in np.atleast_1d(axes).ravel():
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def sample_rows(frame: pd.DataFrame, names: dict, rows: int = 6, seed: int = 0) -> Figure:
    """Random items of a training frame: image, title, description, class (the paper's figure 2)."""
    chosen = frame.sample(min(rows, len(frame)), random_state=seed)
    figure, axes = plt.subplots(
        len(chosen), 2, figsize=(10, 1.5 * len(chosen)), width_ratios=[1, 6], layout="constrained", squeeze=False
    )
    for (picture, text), item in zip(axes, chosen.itertuples(), strict=True):
        picture.axis("off")
        text.axis("off")
        with Image.open(item.image_path) as image:
            picture.imshow(image.convert("RGB"))
        description = item.description if isinstance(item.description, str) else "(no description)"
        text.text(0, 0.85, _plain(textwrap.shorten(item.title, 90)), fontsize=12, weight="bold", va="center")
        body = textwrap.fill(textwrap.shorten(description, 220), 110)
        text.text(0, 0.5, _plain(body), fontsize=10, va="center", color="#333333")
        text.text(0, 0.12, f"{item.label}  {names.get(item.label, '')}", fontsize=10, va="center", color=BLUE)
        text.set(xlim=(0, 1), ylim=(0, 1))
    return figure


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # else matplotlib takes it for mathematics


def text_length(frame: pd.DataFrame) -> Figure:
    """How many words title and description have together (the paper's figure 3)."""
    words = (frame["title"] + (" " + frame["description"]).fillna("")).str.split().str.len()
    edges = np.unique(np.geomspace(1, max(words.max(), 2) + 1, 40).round())
    figure, axis = _axes(8, 3.2)
    axis.hist(words, bins=edges, color=BLUE)
    axis.axvline(words.median(), color=ORANGE, label=f"median {words.median():.0f} words")
    axis.set(xscale="log", xlabel="words in title and description (logarithmic)", ylabel="items")
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000) if tick <= edges[-1]]
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()
    axis.legend(frameon=False)
    return figure


def class_bars(values: pd.Series, names: dict, label: str, mean: float | None = None) -> Figure:
    """One horizontal bar a class; `values` is indexed by code, `mean` draws a line across."""
    values = values.sort_values()
    figure, axis = _axes(8, 0.24 * len(values) + 1)
    axis.barh([f"{code}  {names.get(code, '')}".strip() for code in values.index], values, color=BLUE, height=0.75)
    if mean is not None:
        axis.axvline(mean, color=ORANGE, label=f"all items: {mean:.3g}")
        axis.legend(frameon=False, loc="lower right")
    axis.set(xlabel=label)
    axis.margins(y=0.01)
    axis.tick_params(axis="y", labelsize=9, length=0)
    return figure


def learning_curves(metrics: pd.DataFrame) -> Figure:
    """Loss and macro-F1 by epoch; the kept epoch is marked."""
    figure, (left, right) = _axes(9, 3, ncols=2)
    left.plot(metrics["epoch"], metrics["train_loss"], "o-", color=GREY, label="training")
    left.plot(metrics["epoch"], metrics["loss"], "o-", color=BLUE, label="validation")
    left.set(xlabel="epoch", ylabel="cross-entropy")
    left.legend(frameon=False)
    best = metrics.loc[metrics["macro_f1"].idxmax()]
    right.plot(metrics["epoch"], metrics["macro_f1"], "o-", color=BLUE)
    right.plot(best["epoch"], best["macro_f1"], "o", color=ORANGE, markersize=10, label="kept epoch")
    right.set(xlabel="epoch", ylabel="validation macro-F1")
    right.legend(frameon=False, loc="lower right")
    for axis in (left, right):
        axis.xaxis.get_major_locator().set_params(integer=True)
    return figure
