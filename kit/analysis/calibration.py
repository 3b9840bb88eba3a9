"""How far the probabilities of a run's predictions are from the share that is right.

N items
"""

import numpy as np

from kit.metrics import calibration_error, calibration_error_by_chance
from kit.runs import Run


def certainty(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of each validation item's predicted class, and whether that class is right, `[N]` each."""
    items, codes, values = run.predictions("oof")
    return values.max(axis=1), np.array(codes)[values.argmax(axis=1)] == items["label"].to_numpy()


def describe_calibration(run: Run) -> str:
    """Return in words how far the probabilities of a run's predictions are from the share that is right."""
    sure, right = certainty(run)
    error, chance = 100 * calibration_error(sure, right), 100 * calibration_error_by_chance(sure)
    too = "too high" if sure.mean() > right.mean() else "too low"
    return (
        f"The predicted class has a probability of {100 * sure.mean():.1f} % in the mean, and {100 * right.mean():.1f} "
        f"% of the predictions are right. The expected calibration error is {error:.1f} %; by chance, exact "
        f"probabilities would have {chance:.1f} % on {len(sure):,} items"
        f"{f', so these are {too}' if error > 2 * chance else ''}."
    )
