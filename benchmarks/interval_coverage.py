"""How often a 95 % interval of a score includes the score on all items that there could be.

`python benchmarks/interval_coverage.py` draws sets of items with the class shares of data/emoji, and predictions from a
made-up confusion of classes, prints the table and writes it to benchmarks/results/. Takes some four minutes.

K classes
"""

import argparse

import numpy as np
import pandas as pd
from measure import publish

from kit.analysis.errors import Errors, per_class
from kit.core.paths import project
from kit.metrics import bootstrap_macro_f1, confusion, f1_per_class, macro_f1

CASES = {  # items, and the distribution of the classes' recall
    "229, 20 % of the emoji": (229, (8, 2)),
    "283, the emoji's test items": (283, (8, 2)),
    "1,144, the emoji, out of fold": (1144, (8, 2)),
    "283, a poor model": (283, (4, 12)),
    "283, a very good model": (283, (40, 2)),
}
SAMPLES = 1000  # of each bootstrap


def population(shares: np.ndarray, recall: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Return how many of a million items are of each class and predicted as each class, `[K, K]`."""
    classes = len(shares)
    right, elsewhere = random.beta(*recall, classes), random.dirichlet(np.full(classes, 0.15), classes)
    np.fill_diagonal(elsewhere, 0)
    elsewhere /= elsewhere.sum(1, keepdims=True)
    return 1e6 * shares[:, None] * (np.diag(right) + (1 - right[:, None]) * elsewhere)


def draw(counts: np.ndarray, label: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return random predictions `[N]` for items of these classes `[N]`."""
    steps = (counts / counts.sum(1, keepdims=True)).cumsum(1)[label]
    return (random.random((len(label), 1)) > steps[:, :-1]).sum(1)


def percentiles(counts: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstraps: of macro-F1 `[2]`, and of the F1 `[2, …]` of each class that items have."""
    draws = random.multinomial(counts.sum(), counts.ravel() / counts.sum(), SAMPLES).reshape(-1, *counts.shape)
    scores, bounds = f1_per_class(draws), [2.5, 97.5]
    there = counts.sum(1) > 0
    return np.percentile(np.nanmean(scores, 1), bounds), np.nanpercentile(scores[:, there], bounds, axis=0)


def measure(case: str, repeats: int, shares: np.ndarray, random: np.random.Generator) -> list[dict]:
    """Return one row per kind of interval: how often the true value is in, above and below it, in per cent."""
    (items, recall), classes, found = CASES[case], len(shares), {}
    first, other = population(shares, recall, random), population(shares, recall, random)
    second = (first + other) / 2  # half of what the two systems predict is alike
    true_f1, true_macro = f1_per_class(first), np.nanmean(f1_per_class(first))
    true_gain = true_macro - np.nanmean(f1_per_class(second))

    def note(kind: str, low, high, truth) -> None:
        found.setdefault(kind, []).append(np.stack([truth > high, truth < low], -1).reshape(-1, 2).mean(0))

    for _ in range(repeats):
        label = random.choice(classes, items, p=shares)
        alike = random.random(items) < 0.5
        ours = draw(first, label, random)
        theirs = np.where(alike, ours, draw(other, label, random))
        (low, high), plain = percentiles(confusion(label, ours, classes), random)
        score, gain = macro_f1(label, ours), macro_f1(label, ours) - macro_f1(label, theirs)
        note("macro-F1: the kit's", *bootstrap_macro_f1(label, ours, samples=SAMPLES), true_macro)
        note("macro-F1: basic", 2 * score - high, 2 * score - low, true_macro)
        note("macro-F1: percentiles", low, high, true_macro)
        low, high = bootstrap_macro_f1(label, ours, theirs, samples=SAMPLES)
        note("paired gain: the kit's", low, high, true_gain)
        note("paired gain: basic", 2 * gain - high, 2 * gain - low, true_gain)
        table = per_class(Errors(pd.DataFrame({"label": label, "predicted": ours}), list(range(classes)), {}))
        there = (table["support"] > 0).to_numpy()
        note("F1 of a class: the kit's", table["f1_low"][there], table["f1_high"][there], true_f1[there])
        note("F1 of a class: percentiles", *plain, true_f1[there])
    rows = []
    for kind, missed in found.items():
        above, below = 100 * np.mean(missed, axis=0)
        row = {"items": f"{case}: {100 * true_macro:.0f}", "interval": kind, "covers": f"{100 - above - below:.1f}"}
        rows.append(row | {"truth above": f"{above:.1f}", "truth below": f"{below:.1f}"})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=300, help="sets of items of each size")
    repeats = parser.parse_args().repeats
    labels = pd.read_csv(project() / "data" / "emoji" / "Y_train_CVw08PX.csv")["prdtypecode"]
    shares, random = labels.value_counts(normalize=True).sort_index().to_numpy(), np.random.default_rng(0)
    table = pd.DataFrame([row for case in CASES for row in measure(case, repeats, shares, random)])
    text = (
        f"Of {repeats} sets of items, the per cent in which a 95 % interval includes the true value, and in which that "
        f"is above or below it. After the colon the true macro-F1 of the made-up population. {SAMPLES} resamples. The "
        "kit's: basic bootstrap of the logit of macro-F1, percentiles of a paired gain, Wilson's interval for a class. "
        f"F1 of a class: the mean over {len(shares)} classes.\n\n{table.to_string(index=False)}\n\n"
    )
    publish("coverage", text)


if __name__ == "__main__":
    main()
