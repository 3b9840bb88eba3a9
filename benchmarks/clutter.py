"""Whether attention finds the product in a cluttered image: pages of 1, 4 and 9 shop pictures, of which one is named.

`python benchmarks/clutter.py` makes the pages of data/shop, trains what is not trained yet (about half an hour of CPU),
prints a table and writes it, a figure of it and example pages to benchmarks/results/.

- The class to predict is that of the named item. No other picture on its page has its title, but the title itself may
  occur in several classes.
- Descriptions are left out: their keywords often say the class, and the picture would hardly matter.
- A page is a white square of 3 × 3 cells, each filled by one 128-pixel picture or empty. The named picture stands in a
  random cell, the same on all three pages of an item, and the page of 9 repeats the page of 4, which repeats that of 1.
  So scale, place and number of regions stay the same, and only the other pictures differ.
- The other pictures are drawn from the items that validate in the same fold, or from the test part: no picture of a
  validation page was seen in training.

S seeds · N items
"""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from accuracy import gain, out_of_fold, test_part
from measure import DEMO, RESULTS, publish
from PIL import Image

from kit.analysis.estimates import macro_f1_of
from kit.analysis.plots import plt
from kit.config import TrainConfig, train_config
from kit.core.exceptions import KitError
from kit.core.paths import cache_folder
from kit.data.challenge import read_challenge
from kit.data.images import read_image
from kit.data.items import read_items
from kit.runs import TrainingRun, prepare_run
from kit.studies.report import read_answers
from kit.training.launch import launch

PICTURES, CELL, SIDE = (1, 4, 9), 128, 3 * 128
SEEDS = (0, 1, 2)
FULL = "co-attention"
SYSTEMS = {
    FULL: {"system": "coattention"},
    "even attention": {"coattention": False},
    "concat": {"system": "concat"},
    "probe": {"system": "logistic"},
    "image alone": {"system": "image"},
    "title alone": {"system": "text"},
}
READING = (
    "Macro-F1 in per cent with 95 % bootstrap intervals over items, and out of fold over groups, mean over the "
    "seeds. Differences are paired on the same items and decide between two systems. Out of fold: training items, "
    "scored by models that did not learn from them or from a duplicate. Test: the test part, whose titles may "
    "occur in training, mean over the folds' models. Variation: mean total variation of the attention on regions from "
    "even attention, 0 to 1; near 0, attention was not tested."
)


def draw_pages(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return for each item the rows of `frame` on its page of 9, its own first, and the cell of each, both `[N, 9]`.

    The first n are the page of n. The others are of the same fold, if `frame` has folds, and have other titles.
    """
    titles = frame["title"].str.casefold().to_numpy()
    folds = frame["fold"].to_numpy() if "fold" in frame else np.zeros(len(frame))
    rows, cells = np.empty((2, len(frame), 9), int)
    for row, item in enumerate(frame["id"]):
        random = np.random.default_rng(item)
        others = np.flatnonzero((folds == folds[row]) & (titles != titles[row]))
        rows[row] = row, *random.choice(others, 8, replace=False)
        cells[row] = random.permutation(9)
    return rows, cells


def paste(pictures: list[str], cells: np.ndarray) -> Image.Image:
    """Return a page with the picture files `[n]` in the cells `[n]`, numbered row by row."""
    page = Image.new("RGB", (SIDE, SIDE), "white")
    for path, cell in zip(pictures, cells, strict=True):
        page.paste(read_image(path).resize((CELL, CELL)), (cell % 3 * CELL, cell // 3 * CELL))
    return page


def write_pages(frames: dict[str, pd.DataFrame], pictures: int, folder: Path) -> None:
    """Write pages of so many `pictures` as a challenge folder with the ids, titles and labels of `frames` (train, test:
    `kit.data.items:read_items`); the same input produces the same bytes."""
    for part, frame in frames.items():
        images = folder / "images" / f"image_{part}"
        images.mkdir(parents=True, exist_ok=True)
        files = frame["image_path"].to_numpy()
        for item, rows, cells in zip(frame.itertuples(), *draw_pages(frame), strict=True):
            page = paste(files[rows[:pictures]], cells[:pictures])
            page.save(images / f"image_{item.image_id}_product_{item.product_id}.jpg", quality=92)
        columns = {"title": "designation", "product_id": "productid", "image_id": "imageid"}
        texts = frame.set_index("id")[[*columns]].rename(columns=columns).rename_axis(None)
        texts.assign(description="").to_csv(folder / f"X_{part}_update.csv")
    labels = frames["train"].set_index("id")[["label"]].rename_axis(None)
    labels.rename(columns={"label": "prdtypecode"}).to_csv(folder / "Y_train_CVw08PX.csv")


def configuration(folder: Path, pictures: int, system: str, seed: int) -> TrainConfig:
    name = f"clutter-{pictures}-{system.replace(' ', '-')}-s{seed}"
    return train_config(**DEMO, image_size=SIDE, **SYSTEMS[system], data=str(folder), run=name, seed=seed)


def check_folds(run: TrainingRun, frame: pd.DataFrame) -> None:
    """Raise KitError if the run's folds are not those within which the pages were drawn."""
    folds = run.predictions("oof")[0].set_index("id")["fold"]
    if not folds.loc[frame["id"]].to_numpy().tolist() == frame["fold"].tolist():
        raise KitError(f"{run.name} has other folds than data/shop, so pages share pictures across them: remove it.")


def draw_scores(table: pd.DataFrame, path: Path) -> None:
    """Draw the out-of-fold scores against the number of pictures, one line per system."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for place, (system, rows) in enumerate(table.groupby("system", sort=False)):
        value, low, high = np.array([(one.value, one.low, one.high) for one in rows["out of fold"]]).T
        x = np.arange(len(PICTURES)) + 0.04 * (place - (len(SYSTEMS) - 1) / 2)
        bars = [value - low, high - value]
        axes.errorbar(x, value, bars, marker="o", capsize=3, label=system, linewidth=2.5 if system == FULL else 1.2)
    axes.set_xticks(range(len(PICTURES)), [str(number) for number in PICTURES])
    axes.set(xlabel="pictures on the page, of which the title names one", ylabel="macro-F1 out of fold, %")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_examples(frame: pd.DataFrame, names: dict[int, str], path: Path) -> None:
    """Draw the pages of the first training item whose title occurs in several classes."""
    several = frame.groupby(frame["title"].str.casefold())["label"].transform("nunique") > 1
    row = int(several.to_numpy().argmax())
    rows, cells = (drawn[row] for drawn in draw_pages(frame))
    figure, axes = plt.subplots(1, len(PICTURES), figsize=(9, 3.6), layout="constrained")
    for axis, number in zip(axes, PICTURES, strict=True):
        axis.imshow(paste(frame["image_path"].to_numpy()[rows[:number]], cells[:number]))
        axis.set(xticks=[], yticks=[], title=f"{number} picture{'s' * (number > 1)}")
    figure.suptitle(f"Title: {frame['title'][row]} · class: {names[frame['label'][row]]}")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    frames = read_items(train_config(**DEMO, data="data/shop"))[1]
    shop = read_challenge("data/shop", images="ignore")
    answers = read_answers("data/shop_answers/Y_test.csv", shop)
    runs: dict[tuple[int, str], list[TrainingRun]] = {}
    for pictures in PICTURES:
        write_pages(frames, pictures, folder := cache_folder() / f"clutter-{pictures}")
        for system in SYSTEMS:
            seeds = SEEDS[:1] if system == "probe" else SEEDS  # no randomness in it
            runs[pictures, system] = [prepare_run(configuration(folder, pictures, system, seed)) for seed in seeds]
    launch([run for several in runs.values() for run in several])
    table = []
    for (pictures, system), several in runs.items():
        check_folds(several[0], frames["train"])
        row = {"pictures": pictures, "system": system}
        for label, predict in {"out of fold": out_of_fold, "test": partial(test_part, answers=answers)}.items():
            known = true, ours, *groups = predict(several)
            row[label] = macro_f1_of(true, ours, None, *groups)
            row[f"{FULL} gains, {label}"] = "" if system == FULL else gain(predict(runs[pictures, FULL]), known)
        moved = [run.summary["attention"]["image"]["variation"] for run in several if "attention" in run.summary]
        table.append(row | {"variation": f"{np.mean(moved):.3f}" if moved else ""})
    frame = pd.DataFrame(table)
    text = (
        f"{READING}\n\n{frame.to_string(index=False)}\n\n{len(SEEDS)} seeds (the probe has none), "
        f"{sum(run.summary['seconds'] for several in runs.values() for run in several) / 60:.0f} minutes of training\n"
    )
    publish("clutter", text)
    draw_scores(frame, RESULTS / "clutter.png")
    draw_examples(frames["train"], shop.names, RESULTS / "clutter_pages.png")


if __name__ == "__main__":
    main()
