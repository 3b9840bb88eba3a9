"""Nearest neighbours on the vectors of both sides, with probabilities.

N items · K classes · d width · k neighbours · W weights of the image
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin

from kit.core.arrays import Arrays, fitted, put_under, set_fitted
from kit.training.probe import scale_sides, scales, set_scales

CHUNK = 512  # items whose similarities to all others are in memory at once
# The first of each stands if no two items can tell.
WEIGHTS = (0.3, 0.0, 0.1, 0.2, 0.5, 0.7, 1.0)  # the image's share in a similarity
COUNTS = (15, 5, 50)  # k
TEMPERATURES = (0.05, 0.02, 0.03, 0.08, 0.12)  # of a softmax over similarities
PRIORS = (0.2, 0.0, 0.1, 0.3, 0.4, 0.6, 0.8)  # similarity of the neighbour that stands for all classes


@contextmanager
def exact_products() -> Iterator[None]:
    """Let a GPU multiply in single precision, not in TF32, whose errors a temperature of 0.02 makes 50 times larger."""
    usual = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(usual)


class Neighbours(ClassifierMixin, BaseEstimator):
    """k nearest neighbours by cosine similarity, weighed between text and image; the votes are a softmax over
    similarities.

    One more neighbour, of a fixed similarity, votes for each class by its frequency: so no class has zero, an item far
    from all others is left open, and an exact duplicate decides. The image's weight, k, temperature and that similarity
    are those with the least log-loss if each training item is predicted from the items outside its group.

    All are searched once, in chunks, for every value of these; scikit-learn's KNeighborsClassifier in a GridSearchCV
    would search anew for each. Time grows with N²: 6 s of one core for 8,000 items of 2,816 numbers (measured), so 10
    minutes with predictions, and 4 GB, for each of five folds of the challenge's 84,916 (estimated).
    """

    def __init__(self, widths: Sequence[int], device: torch.device | str = "cpu"):
        self.widths, self.device = widths, device

    def fit(self, features: np.ndarray, y: np.ndarray, groups: np.ndarray) -> "Neighbours":
        """Fit to features `[N, Σd]`, codes and groups `[N]`."""
        self.classes_, self.positions_, counts = np.unique(y, return_inverse=True, return_counts=True)
        self.scaler_ = scale_sides(self.widths).fit(features)
        self.items_, self.frequencies_ = self._sides(features), counts / len(y)
        same_group = torch.from_numpy(np.unique(groups, return_inverse=True)[1]).to(self.device)
        losses: dict[tuple[float, int, float, float], float] = {}
        for weight, (similarities, rows) in zip(WEIGHTS, self._nearest(self.items_, WEIGHTS, same_group), strict=True):
            agree = self.positions_[rows] == self.positions_[:, None]  # [N, k]
            for temperature, prior in product(TEMPERATURES, PRIORS):
                votes = np.exp((similarities - prior) / temperature)
                right = (votes * agree).cumsum(1) + self.frequencies_[self.positions_][:, None]
                logs = np.log(right / (votes.cumsum(1) + 1)).mean(0)  # [k]: with one neighbour, two, …
                losses |= {(weight, k, temperature, prior): -logs[min(k, len(logs)) - 1] for k in COUNTS}
        self.chosen_ = min(losses, key=lambda values: losses[values])
        return self

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        weight, k, temperature, prior = self.chosen_
        [(similarities, rows)] = self._nearest(self._sides(features), [weight])
        votes = np.exp((similarities[:, :k] - prior) / temperature)
        totals = np.tile(self.frequencies_, (len(features), 1))  # [N, K]
        np.add.at(totals, (np.arange(len(features))[:, None], self.positions_[rows[:, :k]]), votes)
        return totals / totals.sum(1, keepdims=True)

    def predict(self, features: np.ndarray) -> np.ndarray:
        return self.classes_[self.predict_proba(features).argmax(1)]

    def state(self) -> Arrays:
        """Return what `restore` needs to predict the same."""
        items = {side: values.cpu().numpy() for side, values in zip(("text", "image"), self.items_, strict=True)}
        arrays = fitted(self, "classes", "positions", "frequencies", "chosen")
        return arrays | scales(self.scaler_) | put_under("items", items)

    def restore(self, arrays: Arrays) -> "Neighbours":
        """Return this model as it was when `state` was asked."""
        set_fitted(self, arrays, "classes", "positions", "frequencies")
        weight, k, *others = arrays["chosen"].tolist()
        self.chosen_ = (weight, int(k), *others)
        self.scaler_ = set_scales(scale_sides(self.widths), arrays)
        text, image = (torch.from_numpy(arrays[f"items.{side}"]).to(self.device) for side in ("text", "image"))
        self.items_ = text, image
        return self

    def _sides(self, features: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the vectors of text and image, of length 1 each."""
        scaled = torch.from_numpy(self.scaler_.transform(features)).to(self.device)
        return scaled[:, : self.widths[0]], scaled[:, self.widths[0] :]

    @exact_products()
    def _nearest(
        self, queries: tuple[torch.Tensor, torch.Tensor], weights: Sequence[float], groups: torch.Tensor | None = None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return, per weight, the similarities `[n, k]` of the nearest training items, highest first, and their rows.

        With `groups` `[N]`, the queries are the training items, and those of the same group are infinitely far.
        """
        k = min(max(COUNTS), len(self.positions_))
        nearest: list[tuple[list[torch.Tensor], list[torch.Tensor]]] = [([], []) for _ in weights]
        for start in range(0, len(queries[0]), CHUNK):
            text, image = (q[start : start + CHUNK] @ items.T for q, items in zip(queries, self.items_, strict=True))
            for weight, (similarities, rows) in zip(weights, nearest, strict=True):
                both = torch.lerp(text, image, weight)
                if groups is not None:
                    both[groups[start : start + CHUNK, None] == groups] = -torch.inf
                best, row = both.topk(k)
                similarities.append(best.cpu())
                rows.append(row.cpu())
        return [(torch.cat(values).double().numpy(), torch.cat(rows).numpy()) for values, rows in nearest]
