"""Seconds and memory of everything before the first step, at 1,000, 10,000 and 84,916 training rows.

Each size twice, in processes of their own: on an empty cache, and again on what that left. Synthetic folders of the
real catalogue's proportions, with as many test rows as the challenge has for each training row; they are made first,
and that is not counted. Images are kept at the demo's 224 px, texts at up to 510 tokens; duplicates share a fold.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

from measure import report, row, synthetic

from kit.config import train_config
from kit.core.paths import cache_folder
from kit.data.dataset import cache_pixels
from kit.data.items import read_items
from kit.data.sampler import make_loader
from kit.models.backbones import find_backbones
from kit.training.inputs import make_datasets

QUESTION = "seconds from the folder to the first batch"
SIZES = {1000: 163, 10_000: 1627, 84_916: 13_812}


def one(data: str, root: str) -> None:
    """Print the seconds of each stage and the peak memory, as JSON."""
    os.environ["KIT_ROOT"] = root
    stages, clock = {}, time.perf_counter()

    def done(stage: str) -> None:
        nonlocal clock
        stages[stage] = time.perf_counter() - clock
        clock = time.perf_counter()

    settings = {"folds": 5, "split": "grouped", "image_size": 224, "images_gb": 32}
    config = train_config(data=data, text="minilm", image="efficientnet_lite0", **settings)
    codes, frames = read_items(config)
    done("read, clean, look at images, fold by duplicates")
    products = make_datasets(config, codes, frames, find_backbones(config))
    done("tokenise")
    cache_pixels(config, products)
    done("open images")
    dict(next(iter(make_loader(products["train"], 32, shuffle=True))))  # waits until it is read
    done("first batch")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"stages": stages, "seconds": sum(stages.values()), "gb": peak}))


def measured(rows: int, root: Path) -> dict:
    command = [sys.executable, __file__, "--one", str(synthetic(rows, SIZES[rows])), str(root)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--one", nargs=2, metavar=("DATA", "ROOT"), help="one size, in this process")
    if options := parser.parse_args().one:
        one(*options)
        return
    found, rows = {}, []
    for size in SIZES:
        root = cache_folder() / "scale"
        shutil.rmtree(root, ignore_errors=True)
        for state in ("cold", "warm"):
            found[size, state] = measured(size, root)
            stages = ", ".join(f"{stage} {seconds:.2g}" for stage, seconds in found[size, state]["stages"].items())
            rows.append(row(f"{size:,} rows, {state}: seconds", found[size, state]["seconds"], "", f"{stages} s"))
        shutil.rmtree(root)
    small, middle, large = SIZES
    for state in ("cold", "warm"):
        for a, b in ((small, middle), (middle, large)):
            growth = (found[b, state]["seconds"] / found[a, state]["seconds"]) / (b / a) * 10
            rows.append(row(f"{a:,} to {b:,}, {state}: times the seconds for 10 × the rows", growth, "<= 10.5"))
    rows.append(row(f"{large:,} rows, warm: first batch after, s", found[large, "warm"]["seconds"], "<= 15"))
    peak = max(found[large, state]["gb"] for state in ("cold", "warm"))
    rows.append(row(f"{large:,} rows: peak memory, GB", peak, "<= 4"))
    report("scale", QUESTION, rows)


if __name__ == "__main__":
    main()
