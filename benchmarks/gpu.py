"""Training at true size on one GPU, with random weights, on synthetic items with the real catalogue's text lengths.

`python benchmarks/gpu.py` needs a CUDA device, and takes some minutes in each of three parts, which can be named alone:

- `paper`: the paper's recipe, CamemBERT and ResNet152 at 500 px, by batch size, precision and compiler setting: items/s
  of the training loop, its share of the pace on batches in memory (what is missing is time spent waiting for data), the
  share of the measured peak of a bf16 matrix product that the step's floating-point operations reach, peak memory, and
  the same with images that are decoded at every step, by the number of processes that do it.
- `losses`: the losses of the first steps in bf16 beside those in fp32, with the spread between seeds.
- `recipes`: pace and memory of each model of the recipes `night` and `kaggle`.

`--tiny` rehearses every step of it on any machine with small sizes, and keeps nothing.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import torch
from measure import RESULTS, Workbench, machine, peak, ratio_row, row, synthetic, table
from torch.nn.functional import cross_entropy

from kit.config import PAIRS, TrainConfig, train_config
from kit.core.files import write_json

QUESTION = "training at true size on one GPU"
ITEMS = 84_916  # of the challenge's training file
TINY = {"text": "minilm", "image": "efficientnet_lite0", "image_size": 64, "max_tokens": 16}
ROUNDS = 3


def paper(values: dict, sizes: tuple[int, ...], steps: int) -> Iterator[dict]:
    """Rows about the paper's recipe."""
    counted, tiny = {}, "image_size" in values
    top = peak(256 if tiny else 8192, torch.device("cuda" if torch.cuda.is_available() else "cpu"), torch.bfloat16)
    cases = [(size, "bf16", False, {}) for size in sizes] + [(sizes[0], "no", False, {})]
    cases += [] if tiny else [(size, "bf16", True, {}) for size in sizes[1:]]
    cases += [(sizes[1], "bf16", False, {"images_gb": 0, "workers": workers}) for workers in (2, 8)]
    for size, precision, compiled, decoding in cases:
        options = {"batch_size": size, "precision": precision, "compile": compiled} | decoding
        config = train_config(**values | options | {"limit": enough(size, steps)})
        bench = fresh(config)
        clock = time.perf_counter()
        seconds, memory = bench.loop_and_memory(ROUNDS)
        first = time.perf_counter() - clock - sum(map(sum, seconds.values()))
        items = sum(len(batch["row"]) for batch in memory)
        case = f"batch {size}, {'fp32' if precision == 'no' else precision}{', compiled' if compiled else ''}"
        case += f", images decoded by {decoding['workers']} processes" if decoding else ""
        pace, step = items / min(seconds["loop"]), 1000 * min(seconds["loop"]) / len(memory)
        detail = f"{pace:.4g} items/s, {step:.0f} ms a step, {gigabytes():.1f} GB"
        detail += f", {first:.0f} s before the first step" if compiled else ""
        yield ratio_row(f"{case}: loop ÷ in memory", seconds["memory"], seconds["loop"], ">= 0.95", detail)
        if not decoding:
            if not compiled:  # a counter sees through no compiled graph, and the items of a size are the same
                counted[size] = bench.operations(memory) / items
            share = counted[size] * pace / top
            goal = {(False, "bf16"): ">= 0.22", (True, "bf16"): ">= 0.3"}.get((compiled, precision), "")
            detail = f"{counted[size] / 1e9:.0f} GFLOP an item, of {top / 1e12:.0f} bf16 TFLOP/s measured"
            yield row(f"{case}: share of the peak", share, goal, detail)
        del bench, memory


def losses(values: dict, sizes: tuple[int, ...], steps: int) -> Iterator[dict]:
    """A row about bf16 beside fp32."""
    curves = {}
    for precision in ("no", "bf16"):
        options = {"batch_size": sizes[0], "precision": precision, "limit": enough(sizes[0], steps)}
        configs = [train_config(**values | options | {"seed": seed}) for seed in range(3)]
        curves[precision] = np.stack([first_losses(config, 40) for config in configs])  # [S, steps]
    late = {precision: curve[:, -10:].mean(1) for precision, curve in curves.items()}
    gap = float(abs(late["bf16"].mean() - late["no"].mean()))
    noise = float(late["no"].std(ddof=1)) + 1e-9
    detail = f"last ten steps: fp32 {late['no'].mean():.3f} ± {noise:.3f} between seeds, bf16 {late['bf16'].mean():.3f}"
    yield row("bf16 loss against fp32, in deviations between seeds", gap / noise, "<= 2", detail)


def first_losses(config: TrainConfig, steps: int) -> np.ndarray:
    """Training loss of each of the first steps."""
    bench, found = fresh(config), []
    bench.model.train()
    for _, batch in zip(range(steps), bench.loader(), strict=False):
        loss = cross_entropy(bench.model(batch), batch["label"])
        bench.accelerator.backward(loss)
        bench.trainer.optimizer.step()
        bench.trainer.optimizer.zero_grad()
        found.append(loss.item())
    return np.array(found)


def recipes(values: dict, sizes: tuple[int, ...], steps: int) -> Iterator[dict]:
    """Rows about the models that `kit best` trains on GPUs."""
    tiny = "image_size" in values
    for recipe in ("night", "kaggle"):
        for text, image in PAIRS[recipe]:
            names = {} if tiny else {"text": text, "image": image}
            options = {"limit": enough(sizes[-1], steps), "folds": 1, "split": "random"}
            options |= {"compile": False} if tiny or recipe == "kaggle" else {}  # `night` shows what compiling is worth
            options |= {"precision": "bf16"} if tiny else {}
            for accumulate in (1, 2, 4, 8):
                config = train_config(**values | names | {"recipe": recipe, "accumulate": accumulate} | options)
                with suppress(torch.OutOfMemoryError):
                    first, best, items = epochs(config)
                    break
            full = train_config(recipe=recipe, text=text, image=image)
            learned = ITEMS * ((full.folds - 1) if full.folds > 1 else 1 - full.val_share)
            hours = full.epochs * learned / (items / best) / 3600
            detail = f"{config.micro_batch} at a time, {gigabytes():.1f} GB, {config.precision}"
            detail += f", compiled within {first - best:.0f} s" if config.compile else ""
            detail += f"; {hours:.1f} h for the challenge's {full.epochs} epochs × {full.folds} models at this pace"
            name = f"{recipe}: {text} × {image.partition('.')[0]}, batch {config.batch_size}, items/s"
            yield row(name, items / best, "", detail)


def epochs(config: TrainConfig) -> tuple[float, float, int]:
    """Seconds of the first epoch and of the fastest one after it, on batches in memory, and the items of each."""
    bench = fresh(config)
    batches = list(bench.loader())
    seconds = [bench.train(batches) for _ in range(1 + ROUNDS)]
    return seconds[0], min(seconds[1:]), sum(len(batch["row"]) for batch in batches)


PARTS = {"paper": paper, "losses": losses, "recipes": recipes}


def enough(size: int, steps: int) -> int:
    """Return of how many items 80 % make `steps` batches of `size`, and every class is there twice."""
    return max(135, round(size * steps / 0.8))


def fresh(config: TrainConfig) -> Workbench:
    """Return the run's model on a GPU that holds nothing else."""
    if torch.cuda.is_available():
        torch.compiler.reset()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return Workbench(config)


def gigabytes() -> float:
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all if none is named")
    parser.add_argument("--tiny", action="store_true", help="rehearse on any machine, keep nothing")
    parser.add_argument("--steps", type=int, default=12, help="steps an epoch")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        sys.exit(f"There is no part {', '.join(unknown)}: take {', '.join(PARTS)}.")
    if not options.tiny and not torch.cuda.is_available():
        sys.exit("There is no CUDA device here: --tiny rehearses the benchmark without one.")
    values = {"data": str(synthetic(1000 if options.tiny else 3000, 100)), "pretrained": False}
    values |= {"workers": 8, "val_share": 0.2, "images_gb": 8} | (TINY if options.tiny else {})
    sizes, steps = ((4, 8), 3) if options.tiny else ((16, 32, 64), options.steps)
    path, found = RESULTS / "gpu.json", {}
    if not options.tiny and path.is_file():  # parts measured before, which stay
        for one in json.loads(path.read_text(encoding="utf-8"))["rows"]:
            found.setdefault(one["part"], []).append(one)
    for part in options.parts or PARTS:
        found[part] = []
        for one in PARTS[part](values, sizes, steps):
            print(one["case"], one["value"], one["detail"], sep=" · ", flush=True)
            found[part].append({"part": part} | one)
            if not options.tiny:  # each row at once: such machines are rented by the minute
                rows = [one for name in PARTS for one in found.get(name, [])]
                write_json(
                    RESULTS / "gpu.json", {"name": "gpu", "question": QUESTION, "machine": machine(), "rows": rows}
                )
    if not options.tiny:
        print(table(["gpu"]))


if __name__ == "__main__":
    main()
