"""Dress rehearsal: the whole paper pipeline once at true size, on a few synthetic items, with random weights.

`python benchmarks/rehearsal.py` makes a synthetic challenge folder and runs `kit paper` with the recipe `paper` on 54
items of it (two per class, half of them validate): CamemBERT, FlauBERT and M-BERT × ResNet152 and ResNeXt101_32x8d,
500 px, 510 tokens, batches of 16. Scores mean nothing here; seconds and memory do. Needs about 16 GB of memory, and on
two cores most of an hour.

`python benchmarks/rehearsal.py fields` instead trains one model at true size with every field that is meant for
fine-tuning on a GPU: CamemBERT × ViT-B at 224 px, three steps in each of two epochs, and their soup. Minutes.

`python benchmarks/rehearsal.py best` trains the first model of the recipes `night` and `kaggle` at true size for a few
steps of one item each, without what needs a GPU (half precision, compile). Six minutes, and 8 GB of memory.
"""

import os
import platform
import resource
import subprocess
import sys
import threading
import time
from contextlib import suppress
from itertools import product
from pathlib import Path

import pandas as pd

from kit.config import PAIRS, train_config
from kit.core.exceptions import KitError
from kit.core.files import write_text
from kit.core.paths import cache_folder, project, root, runs_folder
from kit.runs import open_run, prepare_run
from kit.studies.study_runs import member_runs, study_runs
from kit.training.launch import launch
from kit.training.status import read_status

HERE = Path(__file__).resolve().parent
FOLDER = cache_folder() / "rehearsal"
STUDY = "rehearsal"
OPTIONS = {
    "pretrained": False,
    "limit": 54,
    "val_share": 0.5,
    "epochs": 1,
    "accumulate": 8,  # micro-batches of two: activations at 500 px take 1.7 GB an item
    "features_gb": 1,
}
FIELDS = {
    "image": "vit_base_patch16_224",
    "image_size": 224,
    "max_tokens": 64,
    "batch_size": 9,
    "accumulate": 3,
    "epochs": 2,
    "schedule": "cosine",
    "warmup": 0.2,
    "class_weights": 0.5,
    "pair": True,
    "augment": True,
    "modality_dropout": 0.2,
    "keep": "soup",
}
BEST = {"pretrained": False, "limit": 54, "folds": 1, "val_share": 0.5, "batch_size": 1, "accumulate": 1}
BEST |= {"compile": False, "precision": "no", "max_minutes": 2.5, "save_steps": 0, "split": "random"}


def main() -> None:
    if not FOLDER.is_dir():
        command = [sys.executable, HERE / "synthetic.py", FOLDER, "--rows", "500", "--test-rows", "8"]
        subprocess.run(command, check=True)
    {"fields": rehearse_fields, "best": rehearse_best}.get("".join(sys.argv[1:]), rehearse_paper)()


def rehearse_fields() -> None:
    options = OPTIONS | FIELDS
    run = prepare_run(train_config(data=str(FOLDER), run=f"{STUDY}-fields", **options))
    launch([run])
    printed = (run.folder / "train.log").read_text(encoding="utf-8").replace(str(root()), ".")
    summary = run.summary
    text = (
        "One model at true size with random weights and every field for fine-tuning on a GPU: 27 training items in "
        f"batches of 9 (micro-batches of three), 27 validation and 8 test items.\n\n"
        f"{', '.join(f'{name} {value}' for name, value in options.items())}\n\n"
        f"{round(summary['parameters'] / 1e6)} million parameters, {summary['step_seconds']:.1f} s a step of 9, peak "
        f"{summary['peak_memory_gb']} GB, {summary['seconds']:.0f} s in all; {machine()}, "
        f"OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'not set')}\n\n"
        f"What it printed:\n\n{printed}"
    )
    print(text)
    write_text(HERE / "results" / "rehearsal_fields.txt", text)


def rehearse_best() -> None:
    rows = []
    # the smaller first: peaks are those of all processes so far
    for recipe, system in product(("kaggle", "night"), ("text", "coattention")):
        (text, image), name = PAIRS[recipe][0], f"{STUDY}-{recipe}-{system}"
        values = {"data": str(FOLDER), "recipe": recipe, "system": system, "text": text, "image": image} | BEST
        run = prepare_run(train_config(**values, run=name), True)
        steps: dict[int, float] = {}  # when each was seen first: so few are no pace that the run reports itself
        ended = threading.Event()

        def follow(run=run, steps=steps, ended=ended) -> None:
            while not ended.wait(0.2):
                steps.setdefault(read_status(run).get("step", 0), time.monotonic())

        thread = threading.Thread(target=follow)
        thread.start()
        with suppress(KitError):  # it is stopped after max_minutes
            launch([run])
        ended.set()
        thread.join()
        (_, first), *_, (last, end) = [(step, seen) for step, seen in sorted(steps.items()) if step]
        config = run.config
        row = {"recipe": recipe, "system": system} | {side: values[side] for side in config.sides}
        row |= {"pixels": config.image_size, "tokens": config.max_tokens}
        row |= {"steps": last, "s a step of 1": round((end - first) / (last - 1), 1)}
        rows.append(row | {"peak GB": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, 1)})
        print((run.folder / "train.log").read_text(encoding="utf-8").replace(str(root()), "."))
    text = (
        f"The first models of the recipes kaggle and night at true size with random weights, stopped after "
        f"{BEST['max_minutes']} minutes each: {', '.join(f'{name} {value}' for name, value in BEST.items())}\n\n"
        f"{pd.DataFrame(rows).to_string(index=False)}\n\n"
        f"{machine()}, OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'not set')}; peak GB: the largest process "
        f"until then\n"
    )
    print(text)
    write_text(HERE / "results" / "rehearsal_best.txt", text)


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, no GPU, Python {platform.python_version()}"


def rehearse_paper() -> None:
    command = [
        sys.executable,
        "-m",
        "kit",
        "paper",
        "--study",
        STUDY,
        "--data",
        str(FOLDER),
        "--recipe",
        "paper",
    ]
    command += [part for name, value in OPTIONS.items() for part in ("-p", name, str(value))]
    log = runs_folder() / STUDY / "story.log"  # of every start: a second one resumes the first
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as file:
        told = subprocess.run(command, cwd=project(), stdout=file, check=False)
    rows = []
    for name, (text, image) in member_runs(STUDY).items():
        summary = open_run(name).summary
        row = {"text": text, "image": image, "million parameters": round(summary["parameters"] / 1e6)}
        row |= {"s a step of 16": round(summary["step_seconds"], 1), "peak GB": summary["peak_memory_gb"]}
        rows.append(row | {"s in all": round(summary["seconds"])})
    finished = len(study_runs(STUDY))
    table = pd.DataFrame(rows).to_string(index=False)
    text = (
        "The paper's pipeline at true size with random weights: 27 training items in batches of 16 (micro-batches of "
        f"two), 27 validation and 8 test items, 500 px, at most 510 tokens.\n\n{table}\n\n"
        f"{finished} finished runs and ensembles, exit status {told.returncode}; {machine()}\n\n"
        f"What it printed:\n\n{log.read_text(encoding='utf-8').replace(str(root()), '.')}"
    )
    print(text)
    write_text(HERE / "results" / "rehearsal.txt", text)


if __name__ == "__main__":
    main()
