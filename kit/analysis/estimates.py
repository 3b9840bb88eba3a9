"""Scores of runs and their differences, with 95 % intervals.

N items
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from kit.core.exceptions import KitError
from kit.metrics import bootstrap_macro_f1, bootstrap_mean, macro_f1
from kit.runs import EnsembleRun, Run, open_run

READING = (
    "Scores are macro-F1 in per cent on items that the model did not learn from. Intervals are 95 % bootstraps over "
    "items, and out of fold over groups of them if the split keeps duplicates together: they cover the choice of the "
    "items, but neither the seed nor the split; only the ablations average over seeds. A score need not be in the "
    "middle of its interval: with small classes scores are lower than with more items, and the interval corrects for "
    "that. Differences are paired on the same items. To compare two systems, read the difference, not whether their "
    "intervals overlap."
)


@dataclass(frozen=True)
class Estimate:
    """A score, or with `signed` a difference of scores, in per cent with its 95 % interval."""

    value: float
    low: float
    high: float
    signed: bool = False

    def __str__(self) -> str:
        sign = "+" if self.signed else ""
        return f"{self.value:{sign}z.1f} [{self.low:{sign}z.1f}, {self.high:{sign}z.1f}]"


def estimate(share: float, bounds: tuple[float, float], signed: bool = False) -> Estimate:
    """Return the Estimate, in per cent, of values between 0 and 1."""
    return Estimate(100 * share, 100 * bounds[0], 100 * bounds[1], signed)


def macro_f1_of(
    true: np.ndarray, ours: np.ndarray, theirs: np.ndarray | None = None, groups: np.ndarray | None = None
) -> Estimate:
    """Return the macro-F1 of predictions `[N]`, or the mean of those of several seeds `[S, N]`; with `theirs`, how much
    it gains on theirs, paired on the same items, of which `groups` `[N]` are drawn together."""
    means = [
        np.mean([macro_f1(true, row) for row in np.atleast_2d(side)]) for side in (ours, theirs) if side is not None
    ]
    bounds = bootstrap_macro_f1(true, ours, theirs, groups=groups)
    return estimate(float(means[0] - sum(means[1:])), bounds, theirs is not None)


def from_summary(run: Run, key: str, signed: bool = False) -> Estimate:
    """Return the Estimate from `key`, `key`_low and `key`_high in summary.json."""
    summary = run.summary
    return estimate(summary[key], (summary[f"{key}_low"], summary[f"{key}_high"]), signed)


def accuracy_of(hits: np.ndarray) -> Estimate:
    """Return the share of `hits` `[N]`, True for an item that is predicted right."""
    return estimate(float(hits.mean()), bootstrap_mean(hits))


def weighted_f1_of(run: Run) -> float:
    """Return weighted F1 on the validation items, in per cent."""
    return 100 * run.summary.get("weighted_f1", np.nan)


@dataclass
class Answers:
    """The true codes of the test items by id, if available: for scoring, never for choosing."""

    codes: pd.Series = field(default_factory=lambda: pd.Series(dtype=int))
    fingerprints: pd.Series | None = None  # by id: identify the products that the answers are for

    def score(self, run: Run, other: Run | None = None) -> Estimate | None:
        """Return macro-F1, or how much it gains on `other`; None if there are no answers for the items that the runs
        predict."""
        ours, theirs = self.predicted(run), self.predicted(other) if other else None
        if ours is None or (other and theirs is None):
            return None
        codes = [side.loc[ours.index, "predicted"].to_numpy() for side in (ours, theirs) if side is not None]
        return macro_f1_of(ours["true"].to_numpy(), *codes)

    def predicted(self, run: Run) -> pd.DataFrame | None:
        """Return the test items' codes by id, `true` and `predicted`; None as in `score`."""
        if self.codes.empty:
            return None
        items, means = run.read_test()
        ids = means.index.get_level_values("id")
        if not len(ids) or not set(ids) <= set(self.codes.index):
            return None  # the run is for another test file
        known = self.fingerprints if "fingerprint" in items else None
        if known is not None and (items["fingerprint"].to_numpy() != known.loc[ids].to_numpy()).any():
            return None  # the same ids stand for other products
        return pd.DataFrame({"true": self.codes.loc[ids], "predicted": means.idxmax(axis=1).to_numpy()})


def gain(ours: Sequence[Run], others: Sequence[Run]) -> Estimate:
    """Return how much macro-F1 `ours` gain on `others` in the mean, run by run, paired on the same validation items.

    Raise KitError if the runs were not scored on the same items.
    """
    frame = ours[0].predictions("oof")[0]
    true = frame["label"].to_numpy()
    for run in (*ours, *others):
        if run.summary.get("data") != ours[0].summary.get("data"):
            changed = _changed_settings(
                ours[0], run, ("data", "limit", "split_seed", "clean_titles", "clean_descriptions")
            )
            two = f"{ours[0].name!r} and {run.name!r}"
            if changed:
                raise KitError(f"{two} read different items ({'; '.join(changed)}): train one again like the other.")
            raise KitError(f"The data changed between {two}: train the older one again.")
    sides = [np.stack([predicted_codes(run, frame["id"], ours[0].name) for run in runs]) for runs in (ours, others)]
    return macro_f1_of(true, sides[0], sides[1], frame.get("group"))


def gains(runs: Mapping[str, Run], pairs: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """Return how much the first system of each pair gains on the second, for those pairs of which `runs` has both."""
    both = [pair for pair in pairs if runs.keys() >= {*pair}]
    cells = [(*pair, gain(*([runs[system]] for system in pair))) for pair in both]
    return pd.DataFrame(cells, columns=["system", "against", "gain"])


def predicted_codes(run: Run, ids: pd.Series, first: str) -> np.ndarray:
    """Return the codes `[N]` that the run predicts for `ids`, the validation items of the run `first`.

    Raise KitError if it was validated on other items.
    """
    predicted = run.read_oof()[1].idxmax(axis=1)
    if set(ids) != set(predicted.index):
        changed = _changed_settings(open_run(first), run, ("folds", "split", "val_share", "split_seed", "limit"))
        difference = f" ({'; '.join(changed)})" if changed else ""
        two = f"The runs {first!r} and {run.name!r}"
        raise KitError(f"{two} validate different items{difference}: train them with the same split.")
    return predicted.loc[ids].to_numpy()


def _changed_settings(one: Run, other: Run, settings: tuple[str, ...]) -> list[str]:
    """Return the settings in which two runs differ, with both values; a stack has those of its members."""
    pair = [open_run(run.config.members[0]) if isinstance(run, EnsembleRun) else run for run in (one, other)]
    values = {name: [getattr(run.config, name, None) for run in pair] for name in settings}
    return [f"{name}: {first} and {second}" for name, (first, second) in values.items() if first != second]
