"""Frames → figures. Every function returns a matplotlib figure."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kit.config import KitError
from kit.pictures import read_picture

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
        _show(picture, item.image_path)
        description = item.description if isinstance(item.description, str) else "(no description)"
        text.text(0, 0.85, _plain(textwrap.shorten(item.title, 90)), fontsize=12, weight="bold", va="center")
        body = textwrap.fill(textwrap.shorten(description, 220), 110)
        text.text(0, 0.5, _plain(body), fontsize=10, va="center", color="#333333")
        text.text(0, 0.12, f"{item.label}  {names.get(item.label, '')}", fontsize=10, va="center", color=BLUE)
        text.set(xlim=(0, 1), ylim=(0, 1))
    return figure


def _show(axis: Axes, path: str | None) -> None:
    try:
        if isinstance(path, str):
            axis.imshow(read_picture(path, 400))
    except KitError:
        path = "unreadable"
    if not axis.images:
        axis.text(0.5, 0.5, "picture unreadable" if path else "no picture", ha="center", va="center")


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


def twin_rows(frame: pd.DataFrame, groups: np.ndarray, names: dict, rows: int = 4, seed: int = 0) -> Figure:
    """Random groups `[N]` of twins, one a row, up to four of its items: image, title, class (orange: not all alike)."""
    sizes = pd.Series(groups).value_counts().sort_index()
    sizes = sizes[sizes > 1]
    sizes = sizes.sample(min(rows, len(sizes)), random_state=seed)
    columns = min(sizes.max(), 4) if len(sizes) else 1
    height = 2.2 * len(sizes) or 0.6
    figure, axes = plt.subplots(
        max(len(sizes), 1), columns, figsize=(2.6 * columns, height), layout="constrained", squeeze=False
    )
    for axis in axes.ravel():
        axis.axis("off")
    if sizes.empty:
        figure.suptitle(f"no twins among {len(frame):,} items", fontsize=10)
    for row, group in zip(axes, sizes.index, strict=False):
        items = frame[groups == group]
        for axis, item in zip(row, items.itertuples(), strict=False):
            _show(axis, item.image_path)
            title = textwrap.fill(textwrap.shorten(item.title, 64), 34)
            label = textwrap.fill(f"{item.label}  {names.get(item.label, '')}".strip(), 34)
            color = "black" if items["label"].nunique() == 1 else ORANGE
            axis.set_title(_plain(f"{title}\n{label}"), fontsize=8, color=color)
        if len(items) > len(row):
            more = f"and {len(items) - len(row)} more"
            row[-1].text(1, 0, more, transform=row[-1].transAxes, ha="right", va="top", fontsize=8)
    return figure


def intervals(frame: pd.DataFrame, label: str, mark: float | None = None) -> Figure:
    """Estimates with their intervals (objects with value, low and high), a row each; `mark` draws a line across."""
    figure, axis = _axes(8, 0.4 * len(frame) + 1)
    colours = dict(zip(frame.columns, (BLUE, ORANGE, GREY), strict=False))
    for place, (column, cells) in enumerate(frame.items()):
        shown = [(row - 0.18 * place, cell) for row, cell in enumerate(reversed(cells.tolist())) if cell]
        rows, values = [row for row, _ in shown], [cell.value for _, cell in shown]
        bars = [[cell.value - cell.low for _, cell in shown], [cell.high - cell.value for _, cell in shown]]
        axis.errorbar(values, rows, xerr=bars, fmt="o", color=colours[column], capsize=3, label=column)
    if mark is not None:
        axis.axvline(mark, color=GREY, linewidth=1, zorder=0)
    axis.set_yticks(range(len(frame)), [textwrap.fill(str(name), 44) for name in reversed(frame.index.tolist())])
    axis.set(xlabel=label)
    axis.tick_params(axis="y", length=0)
    axis.margins(y=0.1)
    if len(frame.columns) > 1:
        axis.legend(frameon=False, loc="best")
    return figure


def learning_curves(metrics: pd.DataFrame) -> Figure:
    """Loss and macro-F1 by epoch, a line a fold; the kept epochs are marked."""
    figure, (left, right) = _axes(9, 3, ncols=2)
    if metrics.empty:
        left.text(0, 0.5, "nothing was trained step by step")
        return figure
    for number, (_, rows) in enumerate(metrics.groupby("fold")):
        named = number == 0  # one entry of the legend stands for all folds
        for column, colour, name in (("train_loss", GREY, "training"), ("loss", BLUE, "validation")):
            left.plot(rows["epoch"], rows[column], "o-", color=colour, label=name if named else None)
        right.plot(rows["epoch"], rows["macro_f1"], "o-", color=BLUE)
        kept = rows[rows["kept"]]
        label = "kept epoch" if named else None
        right.plot(kept["epoch"], kept["macro_f1"], "o", color=ORANGE, markersize=10, label=label)
    left.set(xlabel="epoch", ylabel="cross-entropy")
    left.legend(frameon=False)
    right.set(xlabel="epoch", ylabel="validation macro-F1")
    right.legend(frameon=False, loc="lower right")
    for axis in (left, right):
        axis.xaxis.get_major_locator().set_params(integer=True)
    return figure


def _class(code: int, name: str | None) -> str:
    return _plain(f"{code}  {name}") if name and name != str(code) else str(code)


def f1_bars(scores: pd.DataFrame) -> Figure:
    """F1 of each class with its interval, lowest first; `scores` is from `errors.per_class`."""
    scores = scores.dropna(subset="f1").sort_values("f1", ascending=False)
    rows = np.arange(len(scores))
    figure, axis = _axes(8, 0.26 * len(scores) + 1.1)
    axis.barh(rows, scores["f1"], color=BLUE, height=0.7)
    axis.hlines(rows, scores["f1_low"], scores["f1_high"], color="black", linewidth=1.2)
    axis.axvline(scores["f1"].mean(), color=ORANGE, label=f"macro-F1 {scores['f1'].mean():.3f}")
    for row, support in zip(rows, scores["support"], strict=True):
        axis.text(1.02, row, f"{support:,}", va="center", ha="left", fontsize=8, color="#555555")
    axis.text(1.02, len(scores) - 0.3, "items", va="bottom", fontsize=8, color="#555555")
    axis.set_yticks(rows, [_class(*pair) for pair in zip(scores["code"], scores["name"], strict=True)])
    axis.set(xlabel="F1 (black: 95 % interval)", xlim=(0, 1), ylim=(-0.6, len(scores) - 0.4))
    axis.tick_params(axis="y", labelsize=9, length=0)
    axis.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), borderpad=0)
    return figure


def confusion_matrix(counts: np.ndarray, codes: list[int], names: dict, least: float = 0.05) -> Figure:
    """Of each true class (row), the per cent predicted as each class (column); printed from the share `least` on.

    counts `[K, K]`, true by predicted class. The row of a class that no item has stays empty.
    """
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 0.3 * len(codes)
    figure, axis = plt.subplots(figsize=(side + 3.5, side + 1.2), layout="constrained")
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.argwhere(shares >= least):
        shade = "white" if shares[row, column] > 0.5 else "black"
        axis.text(column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", fontsize=8, color=shade)
    axis.set_yticks(range(len(codes)), [_class(code, names.get(code)) for code in codes], fontsize=9)
    axis.set_xticks(range(len(codes)), [str(code) for code in codes], fontsize=9, rotation=90)
    axis.set_xlabel("predicted class")
    figure.suptitle(f"per cent of each true class (row), from {least:.0%} on", fontsize=10)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return figure


def confusion_bars(pairs: pd.DataFrame) -> Figure:
    """The most frequent mistakes, "predicted → actual" (the paper's figure 4); `pairs` is from `errors.confusions`."""
    pairs = pairs[::-1]  # the most frequent on top
    figure, axis = _axes(8, 0.55 * len(pairs) + 1)
    names = zip(pairs["predicted_name"], pairs["actual_name"], strict=True)
    labels = ["\n".join(_plain(textwrap.fill(name, 50)) for name in (a, f"→ {b}")) for a, b in names]
    bars = axis.barh(range(len(pairs)), pairs["count"], color=ORANGE, height=0.65)
    ends = [f"{count:,} ({share:.1%})" for count, share in zip(pairs["count"], pairs["share"], strict=True)]
    axis.bar_label(bars, ends, padding=4, fontsize=9)
    axis.set_yticks(range(len(pairs)), labels)
    axis.set_xlabel("misclassified items, predicted → actual (share of all mistakes)" if ends else "no mistakes")
    axis.margins(x=0.18)
    axis.tick_params(axis="y", labelsize=9, length=0)
    axis.xaxis.get_major_locator().set_params(integer=True)
    if not ends:
        axis.set_xticks([])
    return figure


def loss_boxes(items: pd.DataFrame, least: float = 1e-4) -> Figure:
    """Loss without and with a description, of the misclassified (the paper's figure 5) and of all items.

    `items` is from `errors.read_errors`. The axis of all items is logarithmic: losses below `least` are drawn there.
    """
    figure, panels = _axes(9, 3.8, ncols=2)
    for axis, chosen in zip(panels, (items[items["wrong"]], items), strict=True):
        parts = [chosen.loc[chosen["described"] == described, "loss"] for described in (False, True)]
        axis.boxplot(
            [part.clip(lower=least) for part in parts],
            whis=(5, 95),
            showfliers=False,
            widths=0.5,
            medianprops={"color": BLUE, "linewidth": 2},
        )
        axis.plot([1, 2], np.maximum([part.mean() for part in parts], least), "D", color=ORANGE, label="mean")
        words = zip(("without", "with"), parts, strict=True)
        axis.set_xticks([1, 2], [f"{word} description\n{len(part):,} items" for word, part in words])
    panels[0].set(title="misclassified items", ylabel="cross-entropy (nats)", ylim=(0, None))
    panels[1].set(title="all items (logarithmic)", yscale="log")
    panels[1].yaxis.set_major_formatter("{x:g}")
    panels[0].legend(frameon=False)
    figure.supxlabel("box: quartiles and median · whiskers: 5 % and 95 %", fontsize=9, color="#555555")
    return figure
