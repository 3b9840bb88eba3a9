"""What co-attention gains on both shipped catalogues, with three seeds: beside the probe of the same features, the same
model with even attention, `concat`, and a model whose top two text layers are trained as well.

`python benchmarks/coattention.py` trains what is not trained yet (about half an hour of CPU), prints the tables and
writes them to benchmarks/results/. The answers of the test part are read here to report, never to choose.
"""

import os
import platform
from pathlib import Path

import numpy as np
import pandas as pd

from kit.analysis.estimates import READING, gain
from kit.config import train_config
from kit.core.files import write_text
from kit.data.challenge import read_challenge
from kit.runs import TrainingRun, prepare_run
from kit.studies.report import read_answers
from kit.training.launch import launch

HERE = Path(__file__).resolve().parent
DEMO = {"recipe": "demo", "text": "e5_small", "image": "efficientnet_lite0", "study": "coattention", "curve": False}
SEEDS = (0, 1, 2)
SYSTEMS = {
    "co-attention": {},
    "co-attention, top 2 text layers": {"train_text_layers": 2},
    "even attention": {"coattention": False},
    "concat": {"system": "concat"},
    "probe": {"system": "logistic"},
    "tfidf": {"system": "tfidf"},
}

EXPLAIN = (
    "Out of fold: mean of the seeds, three grouped folds. Attention: mean total variation from even attention on words "
    "and on regions, 0 to 1, and the share of predictions that even attention in its place would change. Epochs: how "
    "many held-out items chose, per seed and fold; 0 is the probe of the head's own vectors."
)


def runs_of(catalogue: str, system: str) -> list[TrainingRun]:
    """Return the system's runs on a catalogue, one per seed; the linear systems have no seed."""
    seeds = SEEDS[:1] if system in ("probe", "tfidf") else SEEDS
    name = f"coattention-{catalogue}-{system.replace(' ', '-').replace(',', '')}"
    values = DEMO | SYSTEMS[system] | {"data": f"data/{catalogue}"}
    return [prepare_run(train_config(**values, seed=seed, run=f"{name}-s{seed}")) for seed in seeds]


def moved(runs: list[TrainingRun]) -> str:
    """Return how far attention is from even on words and regions, and what share of predictions that changes."""
    found = [run.summary["attention"] for run in runs if "attention" in run.summary]
    if not found:
        return ""
    text, image = (np.mean([one[side]["variation"] for one in found]) for side in ("text", "image"))
    return f"{text:.3f}, {image:.3f}; {100 * np.mean([one['both']['changed'] for one in found]):.1f} %"


def main() -> None:
    tables = []
    for catalogue in ("shop", "emoji"):
        runs = {system: runs_of(catalogue, system) for system in SYSTEMS}
        launch([run for several in runs.values() for run in several])
        challenge = read_challenge(f"data/{catalogue}", images="ignore")
        answers = read_answers(f"data/{catalogue}_answers/Y_test.csv", challenge)
        rows = []
        for system, several in runs.items():
            scores = [100 * run.summary["macro_f1"] for run in several]
            rows.append(
                {
                    "system": system,
                    "out of fold": f"{np.mean(scores):.1f}",
                    "seeds": " ".join(f"{value:.1f}" for value in scores),
                    "gain on probe": "" if system == "probe" else gain(several, runs["probe"]),
                    "test": f"{np.mean([answers.score(run).value for run in several]):.1f}",
                    "attention": moved(several),
                    "epochs": " ".join(str(epoch) for run in several for epoch in run.summary.get("kept_epochs", [])),
                    "seconds": round(np.mean([run.summary["seconds"] for run in several])),
                }
            )
        title = f"data/{catalogue}: {len(challenge.train)} items, {len(challenge.classes)} classes"
        tables.append(f"{title}\n\n{pd.DataFrame(rows).to_string(index=False)}\n")
    text = f"{READING}\n{EXPLAIN}\n\n{chr(10).join(tables)}\n"
    text += f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n"
    print(text)
    write_text(HERE / "results" / "coattention.txt", text)


if __name__ == "__main__":
    main()
