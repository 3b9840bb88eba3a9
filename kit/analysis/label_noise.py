"""Items whose label is probably wrong, by confident learning on out-of-fold probabilities (Northcutt et al. 2021).

N items · K classes
"""

import numpy as np
import pandas as pd

from kit.analysis.errors import Errors
from kit.runs import Run


def suspect_labels(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the class index `[N]` that each item probably has, its own label if nothing speaks against that.

    `probabilities` `[N, K]` of models that did not learn from the item · `labels` `[N]`: class indices. A class is
    confident of an item if its probability is at least what it is on average for items that have this label; of several
    such classes the most probable counts, in a tie its own label. This is how cleanlab counts wrong labels.
    """
    classes = probabilities.shape[1]
    counts = np.bincount(labels, minlength=classes)
    sums = np.zeros(classes)
    np.add.at(sums, labels, probabilities[np.arange(len(labels)), labels])
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)  # a class without items is never confident
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    own = confident[np.arange(len(labels)), labels]  # -1 if its class is not confident
    return np.where(own == confident.max(1), labels, confident.argmax(1))


def label_issues(run: Run, errors: Errors) -> pd.DataFrame:
    """Return the rows of `errors.items` whose label is probably wrong, the surest first, with the column `probable`.

    They are ranked by the normalised margin, p(label) minus the highest other probability, as in cleanlab. `errors`:
    those of `run`.
    """
    _, codes, probabilities = run.predictions("oof")
    labels, rows = pd.Index(codes).get_indexer(errors.items["label"]), np.arange(len(probabilities))
    probable = suspect_labels(probabilities, labels)
    others = probabilities.copy()
    others[rows, labels] = -1
    margins = probabilities[rows, labels] - others.max(1)
    items = errors.items.assign(probable=np.array(codes)[probable], margin=margins)
    return items[probable != labels].sort_values("margin", kind="stable").reset_index(drop=True)
