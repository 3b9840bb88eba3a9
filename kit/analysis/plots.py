"""Frames → figures. Every function returns a matplotlib figure.

Names, titles and descriptions are untrusted input: each goes through `_text`, which returns what a figure can show.
"""

import functools
import math
import os
import re
import sys
import textwrap
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageOps
from scipy.stats import binomtest

from kit.core.exceptions import KitError
from kit.data.images import read_image, readable_images
from kit.metrics import calibration_bins

# An unknown backend in MPLBACKEND would break the import of matplotlib.
_imported, _asked = "matplotlib" in sys.modules, os.environ.pop("MPLBACKEND", None)
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib import font_manager  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.text import Text  # noqa: E402

BLUE, ORANGE, GREY = "#2a6f97", "#e07a3f", "#8d99ae"
USUAL = "usual"
NAME = 40  # widest class name beside a bar, in characters
LEAST_SHARE = 0.05  # that a confusion matrix prints
LEAST_LOSS = 1e-4  # on a logarithmic axis
UNWRITTEN = "(no installed font can write this)"
TALLEST = 400  # inches: matplotlib draws at most 65,536 pixels


def _choose_backend() -> None:
    """Show figures below a notebook's cells, whatever MPLBACKEND says; elsewhere use the backend that it names, if that
    works."""
    if _asked:
        os.environ["MPLBACKEND"] = _asked
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None and hasattr(shell, "kernel"):
        if not _imported or plt.get_backend() == _asked:  # otherwise a cell chose it
            shell.run_line_magic("matplotlib", "inline")
        pd.set_option("display.html.use_mathjax", False)  # names with two $ in tables
    elif _asked and not _imported:
        with suppress(ImportError, ValueError):
            plt.switch_backend(_asked)


_choose_backend()
_more_fonts: set[str] = set()  # further fonts that the figure being drawn needs


def _figure(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Set the fonts that `_text` found necessary on all text of the figure that `draw` returns."""

    @functools.wraps(draw)
    def wrapped(*args, **options) -> Figure:
        _more_fonts.clear()
        figure = draw(*args, **options)
        for text in figure.findobj(Text) if _more_fonts else ():
            text.set(
                fontfamily=[*plt.rcParams["font.family"], *sorted(_more_fonts)], fontweight="normal"
            )  # few have bold
        return figure

    return wrapped


def _axes(width: float, height: float, **options):
    figure, axes = plt.subplots(figsize=(width, min(height, TALLEST)), layout="constrained", **options)
    for axis in np.atleast_1d(axes).ravel():
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend_above(axis: Axes) -> None:
    """Put the legend above the axis, so that it covers nothing."""
    columns = len(axis.get_legend_handles_labels()[0])
    axis.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), borderpad=0, ncols=max(columns, 1))


def _text(text: str, width: int, lines: int = 1) -> str:
    """Return `text` in at most `lines` lines of `width` columns, with $ escaped, because it starts mathematics.

    Characters that no installed font can write are left out, and words of them become "…"; the result may be "".
    """
    text = unicodedata.normalize("NFC", str(text)[: 9 * width * lines])  # in case of megabytes
    text = " ".join("".join(" " if c.isspace() else c for c in text).split())
    shown = "".join(c if _family(c) else "\0" if unicodedata.category(c)[0] in "LN" else "\1" for c in text)
    families = {_family(c) for c in text}
    _more_fonts.update(family for family in families if family not in (USUAL, None))
    if None in families:
        shown = re.sub("[\0\1\u200d\ufe0f]*\0[\0\1\u200d\ufe0f]*", "…", shown)
        shown = " ".join(re.sub("\1[\1\u200d\ufe0f]*", "", shown).split())
        if not any(unicodedata.category(c)[0] in "LN" or unicodedata.category(c) == "So" for c in shown):
            return ""
    pad = "\ue000"  # follows each character of two columns
    padded = "".join(c + pad * (unicodedata.east_asian_width(c) in "WF") for c in shown)
    rows = textwrap.wrap(padded, width)
    if len(rows) > lines:
        rows = textwrap.wrap(padded, width - 1)[:lines]
        rows[-1] = rows[-1].rstrip("…") + "…"
    return "\n".join(rows).replace(pad, "").replace("$", r"\$")


def _title(title: str, width: int, lines: int = 1) -> str:
    """Return an item's title as `_text` does, and words in place of one that is empty or cannot be written."""
    return _text(title, width, lines) or (UNWRITTEN if title.strip() else "(no title)")


def _family(character: str) -> str | None:
    """Return an installed font family with that character: USUAL if matplotlib's own has it, None if none has."""
    return _find_family(character, *plt.rcParams["font.family"])


@functools.cache
def _find_family(character: str, *usual: str) -> str | None:
    if ord(character) in _glyphs(*usual):
        return USUAL
    return next((name for name in _families() if ord(character) in _glyphs(name)), None)


@functools.cache
def _families() -> list[str]:
    """Return the installed upright families of normal weight, except those for mathematics and placeholder boxes."""
    fonts = [
        font for font in font_manager.fontManager.ttflist if font.style == "normal" and font.weight in (400, "normal")
    ]
    names = {font.name for font in fonts if not font.name.startswith(("cm", "STIX", "Last Resort"))}
    return sorted(names, key=lambda name: ("Sans" not in name and "Gothic" not in name, name))


@functools.cache
def _glyphs(*families: str) -> frozenset[int]:
    try:
        path = font_manager.findfont(font_manager.FontProperties(family=list(families)), fallback_to_default=False)
        return frozenset(font_manager.get_font(path).get_charmap())
    except (OSError, RuntimeError, ValueError):  # a font that FreeType can't read
        return frozenset()


def _class(code: int, name: str | None, width: int = NAME) -> str:
    """Return a class's code and as much of its name as fits and can be written; only the code if that is nothing."""
    name = "" if name is None or str(name) == str(code) else _text(name, width)
    return f"{code}  {name}" if name else str(code)


def _name(code: int, name: str, width: int) -> str:
    """Return a class's name, with its code if the name is shortened."""
    shown = _text(name, width)
    return shown if shown and "…" not in shown else _class(code, name, width)


def _inches(text: str) -> float:
    """Return an upper bound on the width of a line of 9 points."""
    wide = [c in "WMmw@%" or unicodedata.east_asian_width(c) in "WF" for c in text]
    return sum(0.125 if broad else 0.095 if c.isupper() else 0.08 for c, broad in zip(text, wide, strict=True))


@_figure
def sample_rows(frame: pd.DataFrame, names: dict, rows: int = 6, seed: int = 0) -> Figure:
    """Draw random items of a training frame: image, title, description, class (the paper's figure 2)."""
    chosen = frame.sample(min(rows, len(frame)), random_state=seed)
    figure, axes = plt.subplots(
        len(chosen), 2, figsize=(10, 1.5 * len(chosen)), width_ratios=[1, 6], layout="constrained", squeeze=False
    )
    for (image, text), item, paths in zip(axes, chosen.itertuples(), readable_images(chosen), strict=True):
        image.axis("off")
        text.axis("off")
        _show(image, paths)
        description = item.description if isinstance(item.description, str) else "(no description)"
        name = _class(item.label, names.get(item.label), 100)
        options = {"va": "center", "in_layout": False}  # a long line is cut off at the edge and squeezes nothing
        text.text(0, 0.85, _title(item.title, 72), fontsize=12, weight="bold", **options)
        text.text(0, 0.5, _text(description, 110, 2) or UNWRITTEN, fontsize=10, color="#333333", **options)
        text.text(0, 0.12, name, fontsize=10, color=BLUE, **options)
        text.set(xlim=(0, 1), ylim=(0, 1))
    return figure


def _show(axis: Axes, paths: list[str]) -> None:
    """Draw an item's images, several of them as tiles of a square."""
    images, side = [], math.ceil(len(paths) ** 0.5)
    for path in paths:
        with suppress(KitError):
            images.append(read_image(path, 400))
    if side > 1 and images:
        size = 400 // side
        square = Image.new("RGB", (size * side, size * side), "white")
        for place, image in enumerate(images):
            square.paste(ImageOps.pad(image, (size, size), color="white"), (place % side * size, place // side * size))
        images = [square]
    if images:
        axis.imshow(images[0])
    else:
        axis.text(0.5, 0.5, "image unreadable" if paths else "no image", ha="center", va="center")


@_figure
def text_length(frame: pd.DataFrame) -> Figure:
    """Draw a histogram of the number of words in title and description together (the paper's figure 3); the axis is
    logarithmic unless all texts are short."""
    words = (frame["title"] + (" " + frame["description"]).fillna("")).str.split().str.len()
    short = words.max() < 50
    spaced = np.arange(1, words.max() + 2) - 0.5 if short else np.geomspace(1, words.max() + 1, 40).round()
    edges = np.unique(spaced)
    figure, axis = _axes(8, 3.2)
    axis.hist(words, bins=edges, color=BLUE)
    axis.axvline(words.median(), color=ORANGE, label=f"median {words.median():.0f} words")
    axis.set(xlabel="words in title and description", ylabel="items")
    if not short:
        axis.set(xscale="log", xlabel="words in title and description (logarithmic)")
        ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000) if tick <= edges[-1]]
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
    axis.legend(frameon=False)
    return figure


@_figure
def class_bars(values: pd.Series, names: dict, label: str, mean: float | None = None) -> Figure:
    """Draw one horizontal bar per class; `values` is indexed by code, and a line marks `mean`."""
    values = values.sort_values()
    figure, axis = _axes(8, 0.24 * len(values) + 1)
    axis.barh([_class(code, names.get(code)) for code in values.index], values, color=BLUE, height=0.75)
    if mean is not None:
        axis.axvline(mean, color=ORANGE, label=f"all items: {mean:.3g}")
        axis.legend(frameon=False, loc="lower right")
    axis.set(xlabel=label)
    axis.margins(y=0.01)
    axis.tick_params(axis="y", labelsize=9, length=0)
    return figure


@_figure
def duplicate_rows(frame: pd.DataFrame, groups: np.ndarray, names: dict, seed: int = 0) -> Figure:
    """Draw four random groups `[N]` of duplicates, one per row, with image, title and class of up to four items each.

    Text is orange if the classes of a group differ.
    """
    sizes = pd.Series(groups).value_counts().sort_index()
    sizes = sizes[sizes > 1]
    sizes = sizes.sample(min(4, len(sizes)), random_state=seed)
    columns = min(sizes.max(), 4) if len(sizes) else 1
    height = 2.2 * len(sizes) or 0.6
    figure, axes = plt.subplots(
        max(len(sizes), 1), columns, figsize=(2.6 * columns, height), layout="constrained", squeeze=False
    )
    for axis in axes.ravel():
        axis.axis("off")
    if sizes.empty:
        figure.suptitle(f"no duplicates among {len(frame):,} items", fontsize=10)
    for row, group in zip(axes, sizes.index, strict=False):
        items = frame[groups == group]
        for axis, item, paths in zip(row, items.itertuples(), readable_images(items), strict=False):
            _show(axis, paths)
            title = _title(item.title, 34, 2)
            label = _class(item.label, names.get(item.label), 28)
            color = "black" if items["label"].nunique() == 1 else ORANGE
            axis.set_title(f"{title}\n{label}", fontsize=8, color=color)
        if len(items) > len(row):
            more = f"and {len(items) - len(row)} more"
            row[-1].text(1, 0, more, transform=row[-1].transAxes, ha="right", va="top", fontsize=8)
    return figure


@_figure
def intervals(frame: pd.DataFrame, label: str, mark: float | None = None) -> Figure:
    """Draw estimates with their intervals (objects with value, low and high; "": none), one row per line, a colour per
    column, and a line at `mark`. One that is much farther from `mark` than most is written at the edge."""
    columns = {name: {row: cell for row, cell in enumerate(cells) if cell} for name, cells in frame.items()}
    figure, axis = _axes(8, 0.4 * len(frame) + 1)
    far = _far([cell for cells in columns.values() for cell in cells.values()], mark)
    heights = np.arange(len(frame), dtype=float)  # of each row's next estimate
    for (name, cells), colour in zip(columns.items(), cycle((BLUE, ORANGE, GREY)), strict=False):
        near = [row for row, cell in cells.items() if not far(cell)]
        value, low, high = (np.array([getattr(cells[row], end) for row in near]) for end in ("value", "low", "high"))
        style = {"fmt": "o" if (low < high).any() else "D", "color": colour, "capsize": 3, "label": name}
        axis.errorbar(value, heights[near], xerr=[value - low, high - value], **style)
        for row in cells.keys() - set(near):
            cell, left = cells[row], cells[row].value < mark
            text = str(cell) if cell.low < cell.high else f"{cell.value:+.1f}"
            at = {"transform": axis.get_yaxis_transform(), "va": "center", "ha": "left" if left else "right"}
            axis.text(0.01 if left else 0.99, heights[row], f"← {text}" if left else f"{text} →", color=colour, **at)
        heights[[*cells]] += 0.25
    if mark is not None:
        axis.axvline(mark, color=GREY, linewidth=1, zorder=0)
    axis.set_yticks(range(len(frame)), [_text(name, 44, 2) or UNWRITTEN for name in frame.index])
    axis.set(xlabel=label, ylim=(len(frame) - 0.4, -0.6))
    axis.tick_params(axis="y", length=0)
    axis.margins(x=0.1)
    if len(frame.columns) > 1:
        _legend_above(axis)
    return figure


def ranked(scores: pd.Series, kinds: Sequence[str], label: str) -> Figure:
    """Draw estimates as `intervals` does, the highest on top, with a colour for each of up to three `kinds`."""
    order = np.argsort([-cell.value for cell in scores], kind="stable")
    columns = {kind: scores.where([one == kind for one in kinds], "").iloc[order] for kind in dict.fromkeys(kinds)}
    return intervals(pd.DataFrame(columns), label)


def _far(cells: list, mark: float | None) -> Callable[[Any], bool]:
    """Return what says whether an estimate would stretch a scale that begins at `mark`: its interval reaches five
    times as far as that of the median."""
    if mark is None or not cells:
        return lambda cell: False

    def reach(cell) -> float:
        return max(abs(cell.low - mark), abs(cell.high - mark))

    usual = 5 * float(np.median([reach(cell) for cell in cells]))
    return lambda cell: reach(cell) > usual > 0


@_figure
def learning_curves(metrics: pd.DataFrame) -> Figure:
    """Draw loss and macro-F1 per epoch, one line per fold; the kept epochs are marked."""
    figure, (left, right) = _axes(9, 3, ncols=2)
    if metrics.empty:
        left.text(0, 0.5, "nothing was trained in epochs")
        return figure
    for number, (_, rows) in enumerate(metrics.groupby("fold")):
        named = number == 0  # one legend entry for all folds
        for column, colour, name in (("train_loss", GREY, "training"), ("loss", BLUE, "validation")):
            if column in rows:  # a start that is kept was not trained
                left.plot(rows["epoch"], rows[column], "o-", color=colour, label=name if named else None)
        right.plot(rows["epoch"], 100 * rows["macro_f1"], "o-", color=BLUE)
        kept = rows[rows["kept"]]
        label = "kept epoch" if named else None
        right.plot(kept["epoch"], 100 * kept["macro_f1"], "o", color=ORANGE, markersize=10, label=label)
    left.set(xlabel="epoch", ylabel="cross-entropy")
    right.set(xlabel="epoch", ylabel="validation macro-F1, per cent")
    for axis in (left, right):
        axis.xaxis.get_major_locator().set_params(integer=True)
        _legend_above(axis)
    return figure


@_figure
def f1_bars(scores: pd.DataFrame) -> Figure:
    """Draw the F1 of each class in per cent, with its interval, lowest at the top; `scores`: the result of
    `errors.per_class`."""
    scores = scores.dropna(subset="f1").sort_values("f1", ascending=False)
    rows, f1 = np.arange(len(scores)), 100 * scores["f1"]
    figure, axis = _axes(8, 0.26 * len(scores) + 1.1)
    axis.barh(rows, f1, color=BLUE, height=0.7)
    axis.hlines(rows, 100 * scores["f1_low"], 100 * scores["f1_high"], color="black", linewidth=1.2)
    axis.axvline(f1.mean(), color=ORANGE, label=f"macro-F1 {f1.mean():.1f}")
    for row, support in zip(rows, scores["support"], strict=True):
        axis.text(102, row, f"{support:,}", va="center", ha="left", fontsize=8, color="#555555")
    axis.text(102, len(scores) - 0.3, "items", va="bottom", fontsize=8, color="#555555")
    axis.set_yticks(rows, [_class(*pair) for pair in zip(scores["code"], scores["name"], strict=True)])
    axis.set(xlabel="F1, per cent (black: 95 % interval)", xlim=(0, 100), ylim=(-0.6, len(scores) - 0.4))
    axis.tick_params(axis="y", labelsize=9, length=0)
    _legend_above(axis)
    return figure


@_figure
def confusion_matrix(counts: np.ndarray, codes: list[int], names: dict) -> Figure:
    """Draw the percentage of each true class (row) predicted as each class (column; with its name if there are at
    most 15); print shares from LEAST_SHARE up.

    `counts` `[K, K]`: true class by predicted class. The row of a class without items stays empty.
    """
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    labels = [_class(code, names.get(code)) for code in codes]
    cell = min(0.3, 60 / len(codes))  # inches; too small for text from 300 classes up
    side, size = cell * len(codes), 30 * cell
    beside = max(map(_inches, labels)) + 0.6  # otherwise the longest name would shrink the matrix
    columns = labels if len(codes) <= 15 else [str(code) for code in codes]
    above = max(map(_inches, columns)) if columns is labels else 0.4
    figure, axis = plt.subplots(figsize=(side + max(beside, 3.5), side + 0.8 + above), layout="constrained")
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.argwhere(shares >= LEAST_SHARE):
        shade = "white" if shares[row, column] > 0.5 else "black"
        axis.text(
            column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", fontsize=size - 1, color=shade
        )
    axis.set_yticks(range(len(codes)), labels, fontsize=size)
    axis.set_xticks(range(len(codes)), columns, fontsize=size, rotation=90)
    axis.set_xlabel("predicted class")
    figure.suptitle(f"per cent of each true class (row), from {100 * LEAST_SHARE:.0f} % on", fontsize=10)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return figure


@_figure
def confusion_bars(pairs: pd.DataFrame) -> Figure:
    """Draw the most frequent mistakes, "predicted → actual" (the paper's figure 4).

    `pairs`: the result of `errors.confusions`.
    """
    pairs = pairs[::-1]  # the most frequent on top
    figure, axis = _axes(8, 0.55 * len(pairs) + 1)
    predicted, actual = (
        [_name(*pair, 50) for pair in zip(pairs[side], pairs[f"{side}_name"], strict=True)]
        for side in ("predicted", "actual")
    )
    labels = [f"{a}\n→ {b}" for a, b in zip(predicted, actual, strict=True)]
    bars = axis.barh(range(len(pairs)), pairs["count"], color=ORANGE, height=0.65)
    ends = [f"{count:,} ({100 * share:.1f} %)" for count, share in zip(pairs["count"], pairs["share"], strict=True)]
    axis.bar_label(bars, ends, padding=4, fontsize=9)
    axis.set_yticks(range(len(pairs)), labels)
    label = "misclassified items, predicted → actual (share of all mistakes)" if ends else "no mistakes"
    figure.supxlabel(label, fontsize=10)  # too wide for an axis between long names
    axis.margins(x=0.18)
    axis.tick_params(axis="y", labelsize=9, length=0)
    axis.xaxis.get_major_locator().set_params(integer=True)
    if not ends:
        axis.set_xticks([])
    return figure


@_figure
def loss_boxes(items: pd.DataFrame) -> Figure:
    """Draw the loss without and with a description, of the misclassified items (the paper's figure 5) and of all items.

    `items`: the items of `errors.read_errors`. Losses below LEAST_LOSS are drawn at it, because the axis of all items
    is logarithmic.
    """
    figure, panels = _axes(9, 3.8, ncols=2)
    for axis, chosen in zip(panels, (items[items["wrong"]], items), strict=True):
        parts = [chosen.loc[chosen["described"] == described, "loss"] for described in (False, True)]
        axis.boxplot(
            [part.clip(lower=LEAST_LOSS) for part in parts],
            whis=(5, 95),
            showfliers=False,
            widths=0.5,
            medianprops={"color": BLUE, "linewidth": 2},
        )
        axis.plot([1, 2], np.maximum([part.mean() for part in parts], LEAST_LOSS), "D", color=ORANGE, label="mean")
        words = zip(("without", "with"), parts, strict=True)
        axis.set_xticks([1, 2], [f"{word} description\n{len(part):,} items" for word, part in words])
    panels[0].set(title="misclassified items", ylabel="cross-entropy (nats)", ylim=(0, None))
    panels[1].set(title="all items (logarithmic)", yscale="log")
    panels[1].yaxis.set_major_formatter("{x:g}")
    panels[0].legend(frameon=False)
    figure.supxlabel("box: quartiles and median · whiskers: 5 % and 95 %", fontsize=9, color="#555555")
    return figure


@_figure
def layer_weights(weights: pd.DataFrame) -> Figure:
    """Draw the weight of each text layer beside its start, and how far it moved: bars of the mean over folds, a dot per
    fold.

    `weights`: the result of `attention.layer_weights`.
    """
    if weights.empty:
        figure, axis = _axes(4, 2.6)
        axis.text(0, 0.5, "this run has no layer weights")
        axis.axis("off")
        return figure
    figure, (left, right) = _axes(9, 2.8, ncols=2)
    start, trained = 100 * weights.loc["start"], 100 * weights.drop(index="start")
    left.plot(weights.columns, start, "_", color="black", markersize=14, label="start", zorder=3)
    for axis, shown in ((left, trained), (right, trained - start)):
        axis.bar(weights.columns, shown.mean(), color=BLUE, width=0.7, label="mean of the folds")
        if len(shown) > 1:
            across = np.tile(weights.columns, len(shown))
            axis.plot(across, shown.to_numpy().ravel(), ".", color=ORANGE, label="each fold")
        axis.set_xticks(weights.columns)
        axis.set(xlabel="text layer (the last is the top)")
    left.set(ylabel="weight, per cent", ylim=(0, None))
    right.axhline(0, color="black", linewidth=0.8)
    right.set(ylabel="change from the start, points")
    _legend_above(left)
    return figure


@_figure
def calibration(sure: np.ndarray, right: np.ndarray) -> Figure:
    """Draw how often predictions are right by how probable the model holds them: a dot per bin of
    `kit.metrics:calibration_bins`, with its 95 % Wilson interval; on the line, probabilities are what they say."""
    figure, axis = _axes(5, 4.2)
    parts = calibration_bins(sure)
    shares = np.array([right[part].mean() for part in parts])
    bounds = [binomtest(int(right[part].sum()), len(part)).proportion_ci(method="wilson") for part in parts]
    low, high = np.array(bounds).T
    axis.plot([0, 100], [0, 100], color=GREY, linewidth=1, label="calibrated")
    means, reach = [sure[part].mean() for part in parts], np.clip([shares - low, high - shares], 0, None)
    label = f"bins of about {len(sure) / len(parts):.0f} items, 95 % interval"
    axis.errorbar(100 * np.array(means), 100 * shares, 100 * reach, fmt="o", color=BLUE, capsize=3, label=label)
    axis.set(xlabel="mean probability of the predicted class, per cent", ylabel="of these right, per cent")
    axis.set(xlim=(0, 102), ylim=(0, 102), aspect="equal")
    _legend_above(axis)
    return figure
