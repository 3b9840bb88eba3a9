"""What attention does in finished runs: how far it moved from even, whether it matters, and the layers' weights.

L layers · F folds
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open

from kit.analysis.estimates import estimate
from kit.config import TOP_LAYER
from kit.core.exceptions import KitError
from kit.core.files import TRAIN_AGAIN
from kit.metrics import bootstrap_mean, softmax
from kit.runs import EnsembleRun, Run, TrainingRun, open_run

# Total variation from even below which attention counts as even. It bounds the effect: the attended vector is then
# nearer to the mean than .01 of the largest distance between two words or regions.
MOVED = 0.01
FEW = 0.001  # share of the predictions below which a change is no more than a few items
MIX = "head.mix.weights"  # the layers' weights before softmax, in a run's safetensors
EXPLAIN_ATTENTION = (
    "`variation` is the mean total variation between the attention and even attention on all words or regions: 0 if it "
    "is even, near 1 if one word or region has all the weight. `entropy` is a share of even attention's. The last two "
    "columns replace the learned attention by even attention in the trained model, which turns the attended vector "
    "into a mean, and say what that changes."
)


def attention_table(finished: Sequence[Run]) -> pd.DataFrame:
    """Return how far each run's attention is from even, and what even attention would change, on the items that
    validate; runs whose attention was not measured are left out."""
    rows = []
    for run in finished:
        for side, measured in run.summary.get("attention", {}).items():
            if side == "items":
                continue
            row = {"run": run.name, "attention on": side}
            row |= {name: f"{measured[name]:.3f}" if name in measured else "" for name in ("variation", "entropy")}
            row["predictions changed by even attention"] = f"{100 * measured['changed']:.1f} %"
            rows.append(row | {"macro-F1 with even attention": f"{100 * measured['macro_f1']:+.1f}"})
    return pd.DataFrame(rows)


def describe_attention(run: Run) -> str:
    """Return in words whether the run's attention moved from even."""
    measured = run.summary.get("attention")
    if not measured:
        return "Attention was not measured: the run has none."
    sides = [side for side in ("text", "image") if side in measured]
    still = [side for side in sides if measured[side]["variation"] < MOVED]
    words = [
        f"Attention on the {side} {'stayed even' if side in still else 'moved'} (total variation "
        f"{measured[side]['variation']:.3f} from even): with even attention {_share(measured[side]['changed'])} of the "
        f"{measured['items']:,} predictions change."
        for side in sides
    ]
    if still == sides:
        words.append("So the score says nothing about co-attention: the model classifies means.")
    elif all(measured[side]["changed"] < FEW for side in sides):
        words.append("So the predictions hardly depend on where attention is.")
    return " ".join(words)


def _share(changed: float) -> str:
    return f"{100 * changed:.1f} %" if changed >= FEW else "fewer than 0.1 %" if changed else "none"


def attending_run(run: Run) -> TrainingRun | None:
    """Return the run itself if it has co-attention, of an ensemble its best member that has; None if there is none, or
    if its weights are gone."""
    runs = [open_run(name) for name in run.config.members] if isinstance(run, EnsembleRun) else [run]
    whole = [one for one in runs if isinstance(one, TrainingRun) and one.finished and any(one.folder.glob("model-*"))]
    attending = [one for one in whole if one.config.attends]
    return max(attending, key=lambda one: one.summary["macro_f1"], default=None)


def describe_blanking(blanked: pd.DataFrame) -> str:
    """Return in words whether what a model attends to matters more than what it does not: the difference of the falls
    that `kit.training.explain:blanking` returns, with its paired 95 % bootstrap interval over items."""
    sentences = []
    for side, items in blanked.groupby("side"):
        difference = (items["attended"] - items["random"]).to_numpy()
        gap = estimate(difference.mean(), bootstrap_mean(difference), signed=True)
        places = {"image": "regions", "text": "tokens"}[str(side)]
        verdict = (
            f"the most attended {places} matter more than others, by {gap.value:.1f} points"
            if gap.low > 0
            else f"the most attended {places} matter less than others, by {-gap.value:.1f} points, and the map misleads"
            if gap.high < 0
            else f"the map of {places} means little here"
        )
        attended, random = (100 * items[name].mean() for name in ("attended", "random"))
        sentences.append(
            f"Blanking the most attended fifth of the {places} lowers the true class's probability by {attended:z.1f} "
            f"points, a random fifth by {random:z.1f}: a difference of {gap} over "
            f"{len(items):,} items, so {verdict}."
        )
    return " ".join(sentences)


def layer_weights(run: TrainingRun) -> pd.DataFrame:
    """Return the weight of each text layer (eq. 2), a column per layer, counted from the embeddings' output, 0: the row
    "start" before training, and a row per fold after it; no rows if the run has none.

    Raise KitError if the weights cannot be read.
    """
    scores: dict[Any, np.ndarray] = {}
    for fold in range(run.config.folds if run.config.system == "coattention" and run.config.layer_weights else 0):
        path = run.folder / f"model-{fold}.safetensors"
        try:
            with safe_open(path, framework="np") as file:
                names = [*file.keys()]
                scores[fold] = file.get_tensor(MIX) if MIX in names else np.zeros(1)  # without one: a single layer
        except (OSError, SafetensorError) as error:
            raise KitError(f"{path} cannot be read ({error}): {TRAIN_AGAIN}.") from error
    if scores:
        top = TOP_LAYER if run.config.linear_start else 0.0
        scores = {"start": np.append(np.zeros(len(scores[0]) - 1), top), **scores}
    first = 0 if run.config.embedding_layer else 1
    table = pd.DataFrame.from_dict({row: softmax(values[None])[0] for row, values in scores.items()}, "index")
    return table.rename(columns=lambda layer: layer + first).rename_axis("fold")


def describe_layers(weights: pd.DataFrame) -> str:
    """Return in words how far the `layer_weights` moved in training; "" if there are none."""
    if weights.empty:
        return ""
    moved = 100 * (weights.drop(index="start").mean() - weights.loc["start"])
    layer = moved.abs().idxmax()
    return f"Largest change from the start, in the mean of the folds: {moved[layer]:+.2g} points, of layer {layer}."
