"""How far the attention of finished runs moved from even, as a table and in words."""

from collections.abc import Sequence

import pandas as pd

from kit.runs import Run

# Total variation from even below which attention counts as even. It bounds the effect: the attended vector is then
# nearer to the mean than .01 of the largest distance between two words or regions.
MOVED = 0.01
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
        return "Attention was not measured: the run has none, or was made by an earlier version of the kit."
    sides = [side for side in ("text", "image") if side in measured]
    still = [side for side in sides if measured[side]["variation"] < MOVED]
    words = [
        f"Attention on the {side} {'stayed even' if side in still else 'moved'} (total variation "
        f"{measured[side]['variation']:.3f} from even): with even attention {100 * measured[side]['changed']:.1f} % of "
        f"the {measured['items']:,} predictions change."
        for side in sides
    ]
    if still == sides:
        words.append("So the score says nothing about co-attention: the model classifies means.")
    return " ".join(words)
