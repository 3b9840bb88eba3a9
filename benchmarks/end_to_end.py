"""How much of the pace on batches in memory the whole training loop keeps: reading, padding, moving, progress bar.

The same epochs of the same model twice, in turn: over the loader that training uses, on a warm cache, and over a list
of its batches. Beside it, the floor: how much of the pace of a large matrix product the loop's floating-point
operations reach.
"""

import torch
from measure import DEMO, Workbench, peak, ratio_row, report, row, synthetic

from kit.config import train_config

QUESTION = "training samples/s of the loop ÷ of the same model on batches in memory"
ROUNDS = 7


def main() -> None:
    emoji = DEMO | {"data": "data/emoji"}
    tuned = emoji | {"freeze_text": False, "freeze_image": False, "linear_start": False}
    large = {"data": str(synthetic(1000, 100)), "pretrained": False, "batch_size": 2, "images_gb": 0}
    cases = {
        "demo: frozen backbones": (emoji, ROUNDS, None),
        "demo: fine-tuned, images cached": (tuned, 4, 64),
        "demo: fine-tuned, images decoded each epoch": (tuned | {"images_gb": 0}, 4, 64),
        "CamemBERT × ResNet152, 500 px, images decoded each epoch": (large, 2, 8),
    }
    rows, top = [], peak(1024, torch.device("cpu"), torch.float32)
    for case, (values, rounds, items) in cases.items():
        bench = Workbench(train_config(**values), items)
        seconds, memory = bench.loop_and_memory(rounds)
        items = sum(len(batch["row"]) for batch in memory)
        detail = f"{items / min(seconds['loop']):.3g} against {items / min(seconds['memory']):.3g} items/s"
        rows.append(ratio_row(case, seconds["memory"], seconds["loop"], ">= 0.95", detail))
        if values != emoji:
            continue  # counting takes as long as an epoch
        share = bench.operations(memory) / min(seconds["loop"]) / top
        rows.append(row(f"{case}: share of the peak", share, "", f"of {top / 1e9:.0f} GFLOP/s, a matrix product's"))
    report("end_to_end", QUESTION, rows)


if __name__ == "__main__":
    main()
