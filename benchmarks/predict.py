"""How much of the pure forward pace prediction keeps, reading and ordering the results included.

In turn: `kit.training.predict.predict` over the loader that training uses, on a warm cache, and the model alone
over a list of its batches. The last row is `kit.Predictor` on a table of `--items` items, with the models of all folds,
against the same models alone over batches of some of them.
"""

import argparse
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from unittest import mock

import pandas as pd
import torch
from measure import DEMO, Workbench, in_turn, ratio_row, report

from kit import Predictor
from kit.config import train_config
from kit.core.paths import resolve
from kit.runs import prepare_run
from kit.training.predict import PREDICTION_FACTOR, prediction_batches
from kit.training.run_trainer import train
from kit.training.trained import open_trained

QUESTION = "prediction samples/s ÷ the pure forward rate"


SHOP = DEMO | {"data": "data/shop", "epochs": 1}
IN_MEMORY = 512  # items whose features fit into memory


def whole_table(items: int) -> dict:
    """Return the row of `Predictor` on `items` items: the shop's, repeated, each with an id of its own."""
    with tempfile.TemporaryDirectory() as root, mock.patch.dict(os.environ, KIT_ROOT=root):
        train(run := prepare_run(train_config(**SHOP, run="shop")))
        files = [pd.read_csv(path, index_col=0) for path in sorted(resolve("data/shop").glob("X_*.csv"))]
        table = pd.concat(files, ignore_index=True)
        table.loc[[number % len(table) for number in range(items)]].reset_index(drop=True).to_csv(
            file := Path(root) / "items.csv"
        )
        trained, predictor = open_trained(run), Predictor(run.folder)
        models = [trained.model(fold) for fold in range(run.config.folds)]
        some = trained.products["train"]
        some = some.part(range(min(len(some), IN_MEMORY, items)))
        memory = list(prediction_batches(some, trained.config, trained.accelerator))

        def whole() -> float:
            clock = time.perf_counter()
            predictor.predict(file, resolve("data/shop"))
            return (time.perf_counter() - clock) / items

        @torch.inference_mode()
        def forward() -> float:
            clock = time.perf_counter()
            for model in models:
                for batch in memory:
                    model(batch)
            return (time.perf_counter() - clock) / len(some)

        whole()  # fills the cache
        seconds = in_turn(3, whole=whole, forward=forward)
    detail = f"{1 / min(seconds['whole']):.3g} against {1 / min(seconds['forward']):.3g} items/s"
    case = f"Predictor: {items:,} items, {len(models)} folds, images cached"
    return ratio_row(case, seconds["forward"], seconds["whole"], ">= 0.9", detail)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--items", type=int, default=10_000, help="of the table that Predictor predicts")
    options = parser.parse_args()
    emoji = DEMO | {"data": "data/emoji"}
    running = {"freeze_text": False, "freeze_image": False, "linear_start": False}
    cases = {
        "demo: frozen backbones": emoji,
        "demo: backbones run, images cached": emoji | running,
        "demo: backbones run, images decoded": emoji | running | {"images_gb": 0},
    }
    rows = []
    for case, values in cases.items():
        bench = Workbench(train_config(**values), None if values == emoji else 96)
        batches = bench.loader("test", PREDICTION_FACTOR)
        memory = list(batches)
        bench.forward(memory[:2])
        sides = {"whole": partial(bench.predict, batches), "forward": partial(bench.forward, memory)}
        seconds = in_turn(15 if values == emoji else 5, **sides)
        items = len(bench.parts["test"])
        detail = f"{items / min(seconds['whole']):.3g} against {items / min(seconds['forward']):.3g} items/s"
        rows.append(ratio_row(case, seconds["forward"], seconds["whole"], ">= 0.9", detail))
    rows.append(whole_table(options.items))
    report("predict", QUESTION, rows)


if __name__ == "__main__":
    main()
