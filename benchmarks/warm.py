"""The cost of a second run on frozen backbones, if its head reads the cached outputs of the first run's backbones.

Whole processes, start and imports included: the first on an empty cache, the second after it. With the paper's
backbones at 500 px on random weights; at the demo's size a process's start is most of either.
"""

import os
import subprocess
import sys
import tempfile
import time

from measure import report, row, synthetic

QUESTION = "seconds of a second frozen-backbone run ÷ the first"
FROZEN = {"freeze_text": True, "freeze_image": True}


def process(root: str, values: dict) -> float:
    """Seconds of one training process with everything it writes under `root`."""
    environment = os.environ | {"KIT_ROOT": root, "ACCELERATE_USE_CPU": "true"}
    run = "from kit.config import train_config; from kit.runs import prepare_run; "
    run += f"print(prepare_run(train_config(**{values!r})).folder / 'config.json')"
    made = subprocess.run([sys.executable, "-c", run], env=environment, check=True, capture_output=True, text=True)
    clock = time.perf_counter()
    command = [sys.executable, "-m", "kit.train", made.stdout.strip()]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return time.perf_counter() - clock


def main() -> None:
    large = {"data": str(synthetic(1000, 16)), "pretrained": False, "limit": 135} | FROZEN
    with tempfile.TemporaryDirectory() as root:
        cold = process(root, large | {"system": "concat", "run": "first"})
        warm = process(root, large | {"system": "dot", "run": "second"})
    case, detail = "paper's backbones, 500 px: concat, then dot", f"{warm:.3g} s against {cold:.3g} s"
    report("warm", QUESTION, [row(case, warm / cold, "<= 0.1", detail)])


if __name__ == "__main__":
    main()
