"""Dress rehearsal: the whole paper pipeline once at true size, on a few synthetic items, with random weights.

`python benchmarks/rehearsal.py` makes a synthetic challenge folder and runs `kit paper` with the recipe `paper` on 54
items of it (two per class, half of them validate): CamemBERT, FlauBERT and M-BERT × ResNet152 and ResNeXt101_32x8d,
500 px, 510 tokens, batches of 16. Scores mean nothing here; seconds and memory do. Needs about 16 GB of memory, and on
two cores most of an hour.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pandas as pd

from kit.core.files import write_text
from kit.core.paths import cache_folder, project, root, runs_folder
from kit.runs import open_run
from kit.studies.study_runs import member_runs, study_runs

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


def main() -> None:
    if not FOLDER.is_dir():
        command = [sys.executable, HERE / "synthetic.py", FOLDER, "--rows", "500", "--test-rows", "8"]
        subprocess.run(command, check=True)
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
    machine = f"{platform.machine()}, {os.cpu_count()} cores, no GPU, Python {platform.python_version()}"
    text = (
        "The paper's pipeline at true size with random weights: 27 training items in batches of 16 (micro-batches of "
        f"two), 27 validation and 8 test items, 500 px, at most 510 tokens.\n\n{table}\n\n"
        f"{finished} finished runs and ensembles, exit status {told.returncode}; {machine}\n\n"
        f"What it printed:\n\n{log.read_text(encoding='utf-8').replace(str(root()), '.')}"
    )
    print(text)
    write_text(HERE / "results" / "rehearsal.txt", text)


if __name__ == "__main__":
    main()
