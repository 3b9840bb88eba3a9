"""How much of the pure forward pace prediction keeps, reading and ordering the results included.

In turn: `kit.training.predict.predict` over the loader that training uses, on a warm cache, and the model alone
over a list of its batches.
"""

from functools import partial

from measure import Workbench, in_turn, ratio_row, report

from kit.config import train_config
from kit.training.predict import PREDICTION_FACTOR

QUESTION = "prediction samples/s ÷ the pure forward rate"


def main() -> None:
    emoji = {"data": "data/emoji", "recipe": "demo", "text": "e5_small", "image": "efficientnet_lite0"}
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
    report("predict", QUESTION, rows)


if __name__ == "__main__":
    main()
