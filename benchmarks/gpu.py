"""The paper's recipe on one GPU: ResNet152 and CamemBERT at 500 px, random weights, the real catalogue's text lengths.

`python benchmarks/gpu.py` needs a CUDA device; `--tiny` rehearses every step of it on any machine with small sizes, and
keeps nothing. For each batch size, precision and compiler setting: items/s of the training loop, its share of the pace
on batches in memory (what is missing is time spent waiting for data), the share of the measured peak of a bf16 matrix
product that the step's floating-point operations reach, and peak memory. Then the losses of the first steps in bf16
beside those in fp32, with the spread between seeds.
"""

import argparse
import dataclasses
import sys

import numpy as np
import torch
from measure import Workbench, peak, ratio_row, report, row, synthetic
from torch.nn.functional import cross_entropy

from kit.config import TrainConfig, train_config

QUESTION = "paper recipe on one GPU"


def losses(config: TrainConfig, steps: int) -> np.ndarray:
    """Training loss of each of the first steps."""
    bench, found = Workbench(config), []
    bench.model.train()
    for _, batch in zip(range(steps), bench.loader(), strict=False):
        loss = cross_entropy(bench.model(batch), batch["label"])
        bench.accelerator.backward(loss)
        bench.optimizer.step()
        bench.optimizer.zero_grad()
        found.append(loss.item())
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="rehearse on any machine, keep nothing")
    parser.add_argument("--steps", type=int, default=24, help="steps an epoch")
    options = parser.parse_args()
    if not options.tiny and not torch.cuda.is_available():
        sys.exit("There is no CUDA device here: --tiny rehearses the benchmark without one.")
    values = {"data": str(synthetic(1000, 100) if options.tiny else synthetic(4000, 100)), "pretrained": False}
    values |= {"workers": 8, "val_share": 0.2, "images_gb": 8}
    if options.tiny:
        values |= {"text": "minilm", "image": "efficientnet_lite0", "image_size": 64, "max_tokens": 16, "limit": 135}
    sizes = (4, 8) if options.tiny else (16, 32, 64)
    cases = [(size, "bf16", False) for size in sizes] + [(sizes[0], "no", False), (sizes[0], "bf16", True)]
    rows, top = [], None
    for size, precision, compiled in cases if not options.tiny else cases[:-1]:
        limit = 135 if options.tiny else max(135, round(size * options.steps / 0.8))
        config = train_config(
            **values | {"batch_size": size, "precision": precision, "compile": compiled, "limit": limit}
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        bench = Workbench(config)
        top = top or peak(256 if options.tiny else 8192, bench.accelerator.device, torch.bfloat16)
        seconds, memory = bench.loop_and_memory(3)
        items = sum(len(batch["row"]) for batch in memory)
        case = f"batch {size}, {'fp32' if precision == 'no' else precision}{', compiled' if compiled else ''}"
        pace, gigabytes = items / min(seconds["loop"]), 0.0
        if torch.cuda.is_available():
            gigabytes = torch.cuda.max_memory_allocated() / 2**30
        detail = f"{pace:.4g} items/s, {gigabytes:.1f} GB"
        rows.append(ratio_row(f"{case}: loop ÷ in memory", seconds["memory"], seconds["loop"], ">= 0.95", detail))
        if not compiled:  # a counter sees through no compiled graph
            share = bench.operations(memory) / min(seconds["loop"]) / top
            goal = ">= 0.4" if precision == "bf16" else ""
            rows.append(row(f"{case}: share of the peak", share, goal, f"of {top / 1e12:.0f} bf16 TFLOP/s measured"))
        del bench, memory
    curves = {}
    for precision in ("no", "bf16"):
        configs = [
            train_config(**values | {"batch_size": sizes[0], "precision": precision, "seed": seed}) for seed in range(3)
        ]
        curves[precision] = np.stack([losses(dataclasses.replace(c, limit=limit), 40) for c in configs])  # [S, steps]
    late = {precision: curve[:, -10:].mean(1) for precision, curve in curves.items()}
    gap = abs(late["bf16"].mean() - late["no"].mean())
    noise = late["no"].std(ddof=1) + 1e-9
    detail = f"last ten steps: fp32 {late['no'].mean():.3f} ± {noise:.3f} between seeds, bf16 {late['bf16'].mean():.3f}"
    rows.append(row("bf16 loss against fp32, in deviations between seeds", gap / noise, "<= 2", detail))
    if options.tiny:
        print(rows)
    else:
        report("gpu", QUESTION, rows)


if __name__ == "__main__":
    main()
