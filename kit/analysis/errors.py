"""Error analysis of a finished run or ensemble (paper section 4.7).

N items · K classes
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest, ttest_ind
from scipy.stats import t as student

from kit.analysis.estimates import estimate
from kit.core.exceptions import KitError
from kit.data.challenge import Challenge
from kit.data.images import readable_images
from kit.data.items import challenge_of, require_same_items
from kit.metrics import confusion, f1_per_class
from kit.runs import Run

UNTESTED = dict.fromkeys(("difference_low", "difference_high", "t", "df", "p"), np.nan) | {"note": ""}
NO_VARIANCE = "The losses do not vary: the test needs some that differ."


@dataclass(frozen=True, eq=False)
class Errors:
    """The out-of-fold items of a run with its predictions.

    `items` `[N]`: id, title, description (None: missing), images (paths), label, predicted, probability (of the
    predicted class), probability_true, loss (cross-entropy, nats), described (has a description), wrong ·
    `codes` `[K]` · `names` by code; {} if unknown.
    """

    items: pd.DataFrame
    codes: list[int]
    names: dict[int, str]

    @property
    def wrong(self) -> pd.DataFrame:
        """Return the misclassified items."""
        return self.items[self.items["wrong"]]

    @property
    def counts(self) -> np.ndarray:
        """Return the confusion counts `[K, K]`, true class by predicted class."""
        true, predicted = (pd.Index(self.codes).get_indexer(self.items[name]) for name in ("label", "predicted"))
        return confusion(true, predicted, len(self.codes))

    def name(self, code: int) -> str:
        return self.names.get(code, str(code))


def read_errors(run: Run, challenge: Challenge | None = None) -> Errors:
    """Join a run's out-of-fold predictions with the items of its challenge folder; warn if images are missing.

    `challenge`: the folder, if it has been read already. Raise KitError if ids, labels or texts are no longer those
    that the run was trained on.
    """
    frame, codes, probabilities = run.predictions("oof")
    challenge = challenge or challenge_of(run)
    require_same_items(run, frame, challenge)
    items = challenge.train.set_index("id").loc[frame["id"]]
    rows, labels = np.arange(len(frame)), pd.Index(codes).get_indexer(frame["label"])
    predicted = probabilities.argmax(1)
    items = items[["title", "description"]].assign(
        images=readable_images(items),
        label=frame["label"].to_numpy(),
        predicted=np.array(codes)[predicted],
        probability=probabilities[rows, predicted],
        probability_true=probabilities[rows, labels],
        described=items["description"].notna(),
    )
    loss = -np.log(items["probability_true"].clip(lower=np.finfo(np.float32).tiny).astype(float))
    items = items.assign(loss=loss, wrong=items["predicted"] != items["label"]).reset_index()
    return Errors(items, codes, challenge.names)


def confusions(errors: Errors, top: int = 5) -> pd.DataFrame:
    """Return the most frequent mistakes (figure 4): predicted and actual class, count, share of all mistakes."""
    wrong = errors.wrong
    pairs = wrong.groupby(["predicted", "label"]).size().sort_values(ascending=False, kind="stable")
    pairs = pairs.head(_positive("top", top)).rename("count").reset_index().rename(columns={"label": "actual"})
    for side in ("predicted", "actual"):
        pairs[f"{side}_name"] = [errors.name(code) for code in pairs[side]]
    return pairs.assign(share=pairs["count"] / max(len(wrong), 1))


def welch(errors: Errors, value: str = "loss") -> pd.DataFrame:
    """Test whether a missing description goes with a larger loss (table 4) or, if `value` is "wrong", with more errors,
    which the columns then call losses; one row per comparison.

    `misclassified items` (the paper's group) and `all items`: Welch's t-test. `within class`: the same for items of one
    class, because classes differ both in how often they lack descriptions and in how hard they are. Columns: number of
    items, mean loss (nats) and error rate, each `_without` and `_with` a description; the difference of the mean
    losses, without − with, and its 95 % interval; its `t` (the paper prints with − without), `df`, and the one-sided
    `p` (H1: without is larger). If no test is possible, these are nan and `note` says why.
    """
    items = errors.items.assign(loss=errors.items[value].astype(float))
    rows = {
        "misclassified items": _welch(items[items["wrong"]]),
        "all items": _welch(items),
        "within class": _within(items),
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def _welch(items: pd.DataFrame) -> dict:
    without, given = items[~items["described"]], items[items["described"]]
    row: dict[str, Any] = {"items_without": len(without), "items_with": len(given)}
    row |= {"mean_loss_without": without["loss"].mean(), "mean_loss_with": given["loss"].mean()}
    row |= {"error_rate_without": without["wrong"].mean(), "error_rate_with": given["wrong"].mean()}
    row |= {"difference": row["mean_loss_without"] - row["mean_loss_with"]} | UNTESTED
    if min(len(without), len(given)) < 2:
        return row | {"note": "Too few items: the test needs two without and two with a description."}
    if max(without["loss"].std(), given["loss"].std()) < 1e-9:
        return row | {"note": NO_VARIANCE}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # scipy warns if all losses of one side are equal
        test = ttest_ind(without["loss"], given["loss"], equal_var=False)
    low, high = test.confidence_interval(0.95)
    row |= {"difference_low": low, "difference_high": high}
    return row | {"t": test.statistic, "df": test.df, "p": student.sf(test.statistic, test.df)}


def _within(items: pd.DataFrame) -> dict:
    """Return the within-class (fixed effects) estimate: the slope of the loss on "has no description", after
    subtracting the class mean from both, with the robust standard error HC3.

    Only classes with both kinds of items contribute, so only their items are counted. Means are nan: an estimate across
    classes has none.
    """
    share = items.groupby("label")["described"].transform("mean")
    items = items[(share > 0) & (share < 1)]
    missing = ~items["described"]
    row = {"items_without": missing.sum(), "items_with": (~missing).sum()}
    names = ("mean_loss_without", "mean_loss_with", "error_rate_without", "error_rate_with", "difference")
    row |= dict.fromkeys(names, np.nan) | UNTESTED
    if min(row["items_without"], row["items_with"]) < 2:
        note = "Too few items: the test needs two without and two with a description in classes that have both."
        return row | {"note": note}
    columns = pd.DataFrame({"d": missing.astype(float), "loss": items["loss"]})
    classes = columns.groupby(items["label"])
    d, loss = (columns - classes.transform("mean")).to_numpy().T
    spread = d @ d
    slope = d @ loss / spread
    rest = loss - slope * d
    if np.abs(rest).max() < 1e-9:
        return row | {"difference": slope, "note": NO_VARIANCE}
    leverage = 1 / classes["d"].transform("size").to_numpy() + d**2 / spread  # below 1 if there are two of each kind
    error = np.sqrt((d**2) @ (rest / (1 - leverage)) ** 2) / spread
    df = len(items) - classes.ngroups - 1
    t, half = slope / error, student.ppf(0.975, df) * error
    row |= {"difference": slope, "difference_low": slope - half, "difference_high": slope + half}
    return row | {"t": t, "df": df, "p": student.sf(t, df)}


def per_class(errors: Errors) -> pd.DataFrame:
    """Return one row per class: code, name, support, predicted (counts), precision, recall, f1 and F1's 95 % interval.

    Let h be the share of hits among the items that are of a class or are predicted as it. It is a binomial proportion,
    and F1 is 2h / (1 + h), so the interval is Wilson's interval of h. Values are nan if the divisor is 0.
    """
    counts = errors.counts
    support, predicted, hits = counts.sum(1), counts.sum(0), np.diag(counts)
    concerned = support + predicted - hits
    shares = np.full((len(counts), 2), np.nan)
    for row in np.flatnonzero(concerned):
        shares[row] = binomtest(hits[row], concerned[row]).proportion_ci(method="wilson")
    low, high = (2 * shares / (1 + shares)).T
    return pd.DataFrame(
        {
            "code": errors.codes,
            "name": [errors.name(code) for code in errors.codes],
            "support": support,
            "predicted": predicted,
            "precision": np.where(predicted > 0, hits / np.maximum(predicted, 1), np.nan),
            "recall": np.where(support > 0, hits / np.maximum(support, 1), np.nan),
            "f1": f1_per_class(counts),
            "f1_low": low,
            "f1_high": high,
        }
    )


def hardest(scores: pd.DataFrame, n: int = 8) -> pd.DataFrame:
    """Return the `n` classes of `per_class` with the lowest F1 as a table to show, in per cent."""
    rows, percent = scores.nsmallest(n, "f1"), scores.select_dtypes(float).columns
    shown = (100 * rows[percent]).map("{:.1f}".format).replace("nan", "–")
    f1 = shown["f1"] + " [" + shown["f1_low"] + ", " + shown["f1_high"] + "]"
    return rows[["code", "name", "support", "predicted"]].assign(
        **{"precision, %": shown["precision"], "recall, %": shown["recall"], "F1, % [95 % interval]": f1}
    )


def worst_mistakes(errors: Errors, n: int = 12) -> pd.DataFrame:
    """Return the misclassified items with the highest loss, highest first."""
    return errors.wrong.nlargest(_positive("worst", n), "loss")


def next_steps(errors: Errors) -> list[str]:
    """Return, in at most three sentences, what the weakest class and missing descriptions suggest."""
    scores, steps = per_class(errors).dropna(subset="f1"), []
    weakest = scores.loc[scores["f1"].idxmin()]
    taken_for = errors.wrong.loc[errors.wrong["label"] == weakest["code"], "predicted"].value_counts()
    if len(taken_for):
        f1 = estimate(weakest["f1"], (weakest["f1_low"], weakest["f1_high"]))
        steps.append(
            f"{weakest['name']} is the weakest class (F1 {f1}, {weakest['support']:,} items), most often taken for "
            f"{errors.name(taken_for.index[0])} ({taken_for.iloc[0]:,}): look at these first, or find more such items."
        )
    if weakest["recall"] < weakest["precision"] and weakest["support"] < scores["support"].mean():
        steps.append(
            f"It is small and found too rarely (recall {100 * weakest['recall']:.1f}, precision "
            f"{100 * weakest['precision']:.1f}): -p class_weights 0.5 in 03_train gives small classes more weight."
        )
    rate = welch(errors, "wrong").loc["all items"]
    if rate["difference_low"] > 0:
        more = estimate(rate["difference"], (rate["difference_low"], rate["difference_high"]))
        steps.append(
            f"{rate['items_without']:,} items lack a description and are misclassified more often, by {more} points: "
            "complete their texts, if they are yours."
        )
    return steps


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise KitError(f"{name}={value} is too small: it must be at least 1.")
    return value
