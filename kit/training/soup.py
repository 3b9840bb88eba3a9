"""A greedy soup of a fold's best epochs (Wortsman et al. 2022): their weights averaged into one model's.

N items · K classes
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from kit.training.history import write_metrics
from kit.training.saved_weights import mix_weights, save_weights, set_weights
from kit.training.session import Session

SOUP = 3  # the best epochs, of which a soup may be made


def keep_ingredient(session: Session, model: nn.Module) -> None:
    """Save the latest epoch's weights if it is among the best, and remove those of the epoch that it displaces."""
    best, latest = [_weights_of(session, row) for row in _best_epochs(session)], session.progress.history[-1]
    if _weights_of(session, latest) in best:
        save_weights(model, _weights_of(session, latest), session.accelerator)
    if session.accelerator.is_main_process:
        for path in {*session.run.folder.glob(f"epoch-{latest['fold']}-*.safetensors")} - {*best}:
            path.unlink()


def cook(session: Session, model: nn.Module, validate: Callable[[], tuple[dict, np.ndarray]]) -> None:
    """Set the model's weights to the soup of the fold's best epochs, and mark these in the history.

    From the best down, each epoch's weights are averaged in unless macro-F1 on the items that validate falls.
    `validate` returns the scores and logits `[N, K]` of these items.
    """
    progress, (best, *others) = session.progress, _best_epochs(session)
    soup, epochs = load_file(_weights_of(session, best)), [best["epoch"]]
    for row in others:
        mixed = mix_weights(soup, load_file(_weights_of(session, row)), 1 / (len(epochs) + 1))
        set_weights(model, mixed)
        validated, logits = validate()
        if validated["macro_f1"] >= progress.best:
            soup, progress.best, progress.kept = mixed, validated["macro_f1"], torch.from_numpy(logits)
            epochs.append(row["epoch"])
    set_weights(model, soup)
    for row in progress.history:
        if row["fold"] == progress.fold:
            row["kept"] = row["epoch"] in epochs
    write_metrics(session)
    if session.accelerator.is_main_process:
        names = ", ".join(map(str, sorted(epochs)))
        print(f"{session.title}soup of the epochs {names}: macro-F1 {100 * progress.best:5.2f}", flush=True)


def _best_epochs(session: Session) -> list[dict]:
    """Return the rows of the fold's best epochs so far, best first."""
    rows = [row for row in session.progress.history if row["fold"] == session.progress.fold]
    return sorted(rows, key=lambda row: -row["macro_f1"])[:SOUP]


def _weights_of(session: Session, row: dict) -> Path:
    return session.run.folder / f"epoch-{row['fold']}-{row['epoch']}.safetensors"
