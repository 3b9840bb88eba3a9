"""The targets of a run that learns from another, its teacher: distillation (Hinton et al. 2015).

A training item's target mixes its label with the probabilities that the teacher predicted for it out of fold, so that a
teacher that memorised its items teaches no false confidence (Dao et al. 2021, Knowledge distillation as semiparametric
inference).

A student has no honest score out of fold: what the teacher predicts for the training items of a fold comes from models
that learned from the items on which the student is scored in that fold, and so tells it their labels. In pure noise of
4 classes, a student half of whose targets are a teacher's (three nearest neighbours) is right on 36 % of the items out
of fold, and one that learns from the teacher alone on 47 % (benchmarks/distillation.py). So are items held out told,
which choose the number of epochs. Test items are clean.

N items · K classes
"""

import numpy as np
import pandas as pd

from kit.config import EnsembleConfig, TrainConfig
from kit.core.exceptions import KitError
from kit.data.items import data_fingerprints, tables_fingerprint
from kit.predictions import SAME_DATA, SAME_SPLIT, require_same_set, require_same_values
from kit.runs import open_run, prediction_hashes

TAUGHT = (
    "Its teacher learned from the items on which it is scored and tells it their labels, so its scores out of fold are "
    "too good, often by far: only test items show what it is worth."
)


def soft_targets(config: TrainConfig, codes: list[int], frames: dict[str, pd.DataFrame]) -> np.ndarray:
    """Return what the model learns for each training item, `[N, K]`: the label, mixed with the teacher's probabilities.

    Raise KitError if the teacher is not finished, was validated on other items or folds, has other classes or other
    data, or was scored on items that it learned from, as a student is.
    """
    teacher = open_run(config.teacher)
    items, values = teacher.read_oof()
    misfit, train = f"The teacher {teacher.name!r} does not fit the run {config.run!r}: ", frames["train"]
    if isinstance(made := teacher.config, EnsembleConfig) and made.evaluation == "in-sample":
        raise KitError(f"{misfit}it was evaluated in-sample, so it has no out-of-fold predictions: stack it nested.")
    if isinstance(made, TrainConfig) and made.teacher:
        raise KitError(f"{misfit}it is a student itself, and knows labels of all folds: name {made.teacher!r}.")
    ours = train.set_index("id")
    require_same_set(f"{misfit}it has other classes", values.columns, pd.Index(codes), SAME_DATA)
    require_same_set(f"{misfit}it was validated on other items", items.index, ours.index, SAME_SPLIT)
    require_same_values(misfit, items.loc[ours.index], ours)
    if teacher.summary.get("data") != tables_fingerprint(data_fingerprints(frames)):
        raise KitError(f"{misfit}it read other texts (data: {made.data} and {config.data}): {SAME_DATA}.")
    labels = pd.Index(codes).get_indexer(train["label"])
    soft = values.loc[ours.index, codes].to_numpy()
    return ((1 - config.teacher_share) * np.eye(len(codes))[labels] + config.teacher_share * soft).astype(np.float32)


def teacher_fingerprint(name: str) -> str:
    """Return a hash of what the teacher predicts out of fold, which tells whether a student of it is out of date."""
    return prediction_hashes([name], "oof")[0]
