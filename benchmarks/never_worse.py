"""Whether `best` is ever worse than the member that validation picks: small tasks made of the shipped catalogues.

`python benchmarks/never_worse.py` computes features once, fits light members and their stack in every task (about 25
minutes of CPU), prints a table and writes it to benchmarks/results/never_worse.txt. Each of TASKS is drawn DRAWS times
anew from each catalogue. The draws were first made when the rule of `best` was fixed, so nothing was chosen on them.
With `--unseen` they are drawn UNSEEN_DRAWS times from clip art (data/build_clipart.py), on which nothing was chosen.

A task holds a third of a catalogue's items back, and never splits duplicates. On the rest, or a sample of it, members
are validated in three grouped folds. `best` chooses and learns from these out-of-fold probabilities, and both are
scored on the items held back. A side of noise has the texts, or the images, of other items, in both parts.

N items · K classes · M members
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState
from measure import DEMO, UNSEEN, publish

from kit.analysis.estimates import macro_f1_of
from kit.config import train_config
from kit.core.console import Bar
from kit.core.paths import resolve
from kit.data.duplicates import duplicate_groups
from kit.data.folds import split_evenly, stratified_sample
from kit.data.images import check_images
from kit.data.items import read_items
from kit.data.text import product_texts
from kit.metrics import macro_f1
from kit.models.backbones import find_backbones
from kit.stacking.stackers import METHODS, Single, Tempered
from kit.training.light import read_inputs
from kit.training.neighbours import Neighbours
from kit.training.probe import fit_probe, make_probe
from kit.training.tfidf import Calibrated, tfidf_model

MEMBERS = ("tfidf", "text probe", "image probe", "probe", "neighbours")
SIDE = {"image": ("tfidf", "text probe"), "text": ("image probe",)}  # members without the side of noise
FOLDS = 3
DRAWS, UNSEEN_DRAWS = 4, 2


@dataclass(frozen=True)
class Task:
    """What of a catalogue a task keeps, and which side of it is noise."""

    items: int = 0  # that members and stack learn from; 0: all
    classes: int = 0  # the first, in a random order; 0: all
    texts: str = "both"  # title, description
    noise: str = ""  # text, image

    def __str__(self) -> str:
        parts = [f"{self.items} items" * bool(self.items), f"{self.classes} classes" * bool(self.classes)]
        parts += [f"{self.texts}s only" * (self.texts != "both"), f"{self.noise} is noise" * bool(self.noise)]
        return ", ".join(filter(None, parts)) or "all items"


TASKS = [
    Task(),
    Task(items=400),
    Task(items=200),
    Task(classes=4),
    Task(classes=8),
    Task(texts="title"),
    Task(texts="description"),
    Task(noise="image"),
    Task(noise="text"),
    Task(items=200, noise="image"),
    Task(items=200, noise="text"),
    Task(texts="title", noise="image"),
    Task(texts="description", items=200),
]


class Catalogue:
    """All labelled items of a shipped catalogue, with the features of their sides.

    `frame`: the items · `texts`, `features`: by which of their texts they keep, `[N]` and `[N, Σd]` · `widths`: d of
    both sides.
    """

    def __init__(self, name: str):
        self.name = name
        config = train_config(**DEMO, data=f"data/{name}", system="logistic")
        codes, frames = read_items(config)
        backbones = find_backbones(config)
        self.widths = backbones["text"].outline.width, backbones["image"].outline.width
        labels = pd.read_csv(resolve(f"data/{name}_answers/Y_test.csv"), index_col=0).iloc[:, 0]
        test = frames["test"].assign(label=labels.loc[frames["test"]["id"]].to_numpy())
        self.frame = pd.concat([frames["train"], test], ignore_index=True)
        self.groups = duplicate_groups(self.frame, check_images([self.frame], config.corrupt)[0])
        self.texts, self.features = {}, {}
        for kept in ("both", "title", "description"):
            frame = self.frame.copy()
            if kept == "title":
                frame["description"] = None
            if kept == "description":
                frame["title"], frame["description"] = frame["description"].fillna(""), None
            part = {"train": frame, "test": frame[:0].assign(split="")}
            features = read_inputs(config, codes, part, backbones, torch.device("cpu"))
            self.texts[kept], self.features[kept] = np.array(product_texts(frame), object), features["train"]


def fit_members(features: np.ndarray, texts: np.ndarray, labels: np.ndarray, groups: np.ndarray, widths) -> list:
    """Return functions from texts `[N]` and features `[N, Σd]` to probabilities `[N, K]`, one per member."""
    cut = widths[0]
    columns = {"text probe": slice(0, cut), "image probe": slice(cut, None), "probe": slice(None)}
    sizes = {"text probe": (cut, 0), "image probe": (0, widths[1]), "probe": widths}
    tfidf = Calibrated(tfidf_model()).fit(texts, labels, groups)
    fitted = [lambda texts, features: tfidf.predict_proba(texts)]
    for name, side in columns.items():
        probe = fit_probe(make_probe(sizes[name]), features[:, side], labels, groups)
        fitted.append(lambda texts, features, probe=probe, side=side: probe.predict_proba(features[:, side]))
    neighbours = Neighbours(widths).fit(features, labels, groups)
    return [*fitted, lambda texts, features: neighbours.predict_proba(features)]


def run_task(catalogue: Catalogue, task: Task, seed: int) -> dict:
    """Return a task's row: what `best` gains on the picked member on items held back, and on the good side alone."""
    random = np.random.default_rng(seed)
    labels, rows = catalogue.frame["label"], np.arange(len(catalogue.frame))
    if task.classes:
        kept = random.permutation(labels.unique())[: task.classes]
        rows = np.flatnonzero(labels.isin(kept))
    y, groups = labels.to_numpy()[rows], catalogue.groups[rows]
    held_back = split_evenly(pd.Series(y), 3, seed, groups) == 0
    learn = np.flatnonzero(~held_back)
    learn = learn[stratified_sample(pd.Series(y[learn]), task.items, seed)]
    scored = np.flatnonzero(held_back & np.isin(y, y[learn]))
    texts, features = catalogue.texts[task.texts][rows], catalogue.features[task.texts][rows].copy()
    for part in (learn, scored):
        other, cut = part[random.permutation(len(part))], catalogue.widths[0]
        if task.noise == "text":
            texts = texts.copy()
            texts[part], features[part, :cut] = texts[other], features[other, :cut]
        if task.noise == "image":
            features[part, cut:] = features[other, cut:]
    codes = np.unique(y[learn])
    folds = split_evenly(pd.Series(y[learn]), FOLDS, seed, groups[learn])
    X, tests = np.zeros((len(learn), len(MEMBERS), len(codes))), np.zeros((len(scored), len(MEMBERS), len(codes)))
    for fold in range(FOLDS):
        rest, out = learn[folds != fold], learn[folds == fold]
        known = np.searchsorted(codes, np.unique(y[rest]))
        members = fit_members(features[rest], texts[rest], y[rest], groups[rest], catalogue.widths)
        for m, member in enumerate(members):
            X[np.ix_(folds == fold, [m], known)] = member(texts[out], features[out])[:, None]
            tests[np.ix_(range(len(scored)), [m], known)] += member(texts[scored], features[scored])[:, None] / FOLDS
    true, positions = np.searchsorted(codes, y[scored]), np.searchsorted(codes, y[learn])
    best = METHODS["best"](0).fit(X, positions, groups[learn])
    single = Tempered(Single()).fit(X, positions)
    ours, picked = best.predict(tests), single.predict(tests)
    row = {"catalogue": catalogue.name, "task": str(task), "learn": len(learn), "chosen": best.stacker_.chosen_}
    row |= {"macro-F1": 100 * macro_f1(true, ours), "gain": macro_f1_of(true, ours, picked, groups[scored])}
    if task.noise:
        good = [MEMBERS.index(name) for name in SIDE[task.noise]]
        method = METHODS["best"](0) if len(good) > 1 else Tempered(Single())
        alone = method.fit(X[:, good], positions, groups[learn]).predict(tests[:, good])
        row["on the good side alone"] = macro_f1_of(true, ours, alone, groups[scored])
    return row


def summarise(task: tuple[str, str], draws: pd.DataFrame) -> dict:
    """Return the table's row of a task's draws."""
    row = {"catalogue": task[0], "task": task[1], "learn": round(draws["learn"].mean())}
    row |= {"chosen": ", ".join(f"{count} {name}" for name, count in draws["chosen"].value_counts().items())}
    row |= {"macro-F1": f"{draws['macro-F1'].mean():.1f}"}
    for name, short in {"gain": "gain", "on the good side alone": "on the good side"}.items():
        if len(found := draws[name].dropna()):
            row |= {short: f"{np.mean([one.value for one in found]):+.1f}"}
            row |= {f"smallest {short}": min(found, key=lambda one: one.value)}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unseen", action="store_true", help=f"on data/{UNSEEN}")
    unseen = parser.parse_args().unseen
    PartialState()
    started = time.process_time()
    catalogues = [Catalogue(name) for name in ((UNSEEN,) if unseen else ("shop", "emoji"))]
    draws = range(100, 100 * ((UNSEEN_DRAWS if unseen else DRAWS) + 1), 100)
    todo = [(one, task, draw + place) for one in catalogues for place, task in enumerate(TASKS) for draw in draws]
    rows = pd.DataFrame([run_task(*one) for one in Bar(todo, desc="tasks")])
    table = pd.DataFrame([summarise(*one) for one in rows.groupby(["catalogue", "task"], sort=False)])
    gains = np.array([one.value for one in rows["gain"]])
    noisy = rows["on the good side alone"].dropna()
    error = gains.std(ddof=1) / np.sqrt(len(gains))
    text = (
        f"{table.fillna('').to_string(index=False)}\n\n"
        f"Points of macro-F1 on items held back, paired, means of {len(draws)} draws; `smallest`: of the draws, with a "
        "95 % interval over items. `gain`: on the member that is best out of fold; `chosen`: what `best` took.\n"
        f"{len(gains)} tasks: mean gain {gains.mean():+.2f} (standard error over tasks {error:.2f}; they share items), "
        f"smallest {gains.min():+.1f}, {(gains > 0).sum()} above 0, {(gains < 0).sum()} below.\n"
        f"Tasks whose interval lies below -1: {sum(one.high < -1 for one in rows['gain'])}. Tasks with noise, of "
        f"{len(noisy)}, whose interval lies below the good side alone: {sum(one.high < 0 for one in noisy)}.\n"
        f"{time.process_time() - started:.0f} CPU seconds; "
    )
    publish(f"never_worse{f'_{UNSEEN}' * unseen}", text)


if __name__ == "__main__":
    main()
