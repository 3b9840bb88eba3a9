"""What attention does in a trained model, measured on the items that validate.

N items · K classes
"""

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor, nn

from kit.config import TrainConfig
from kit.data.dataset import ProductDataset
from kit.metrics import macro_f1
from kit.training.predict import run_batches
from kit.training.session import Session

EVEN = ("learned", "text", "image", "both")  # the sides whose attention is replaced by even attention


def inspect_attention(
    session: Session, model: nn.Module, batches: Iterable[dict[str, Tensor]], items: ProductDataset
) -> dict:
    """Return what attention does on `items`, which come in `batches`: see `measure_attention`."""
    assert items.labels is not None
    inspect = functools.partial(model, inspect=True)
    logits, spreads = run_batches(inspect, batches, len(items), model, session.accelerator, session.watch)
    return measure_attention(session.config, logits, spreads, items.labels)


def measure_attention(config: TrainConfig, logits: np.ndarray, spread: np.ndarray, labels: np.ndarray) -> dict:
    """Return one fold's measures from what `CoAttentionHead.inspect` returns, `[N, 4, K]` and `[N, 2, 2]`.

    Per side that the classifier sees: `variation`, the mean total variation from even attention · `entropy`, the mean
    entropy as a share of even attention's · `changed`, the share of predictions that even attention changes, and
    `macro_f1`, by how much it raises macro-F1. `both` has the last two, for even attention on both sides.
    """
    predicted = dict(zip(EVEN, logits.argmax(2).T, strict=True))  # [N] each
    learned = predicted["learned"]
    measures: dict[str, Any] = {"items": len(labels)}
    for row, side in enumerate(("text", "image", "both")):
        if config.attention not in (side, "both"):
            continue
        measures[side] = (
            {} if side == "both" else dict(zip(("variation", "entropy"), spread[:, row].mean(0).tolist(), strict=True))
        )
        measures[side]["changed"] = float((predicted[side] != learned).mean())
        measures[side]["macro_f1"] = macro_f1(labels, predicted[side]) - macro_f1(labels, learned)
    return measures


def average_folds(folds: list[dict]) -> dict:
    """Return the mean over folds of what `measure_attention` returns, and the number of items of all."""
    sides = [side for side in folds[0] if side != "items"]
    return {"items": sum(fold["items"] for fold in folds)} | {
        side: {name: float(np.mean([fold[side][name] for fold in folds])) for name in folds[0][side]} for side in sides
    }
