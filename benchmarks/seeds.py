"""How far the demo's score moves with the seed: one of its members with three seeds, beside the linear references.

`python benchmarks/seeds.py` trains what is not trained yet, prints the table and writes it to benchmarks/results/.
The answers of the test part are read here to report, never to choose.
"""

import os
import platform
from pathlib import Path

import pandas as pd

from kit.config import LINEAR
from kit.core.files import write_text
from kit.data.challenge import read_challenge
from kit.runs import prepare_run
from kit.studies.estimates import READING, from_summary, gain
from kit.studies.report import read_answers
from kit.studies.study_runs import baselines, members
from kit.training.launch import launch

HERE = Path(__file__).resolve().parent
DEMO = {"data": "data/emoji", "text": "e5_small", "image": "efficientnet_lite0", "recipe": "demo"}
SEEDS = (0, 1, 2)


def main() -> None:
    answers = read_answers("data/emoji_answers/Y_test.csv", read_challenge(DEMO["data"], images="ignore"))
    values = DEMO | {"study": "seeds"}
    configs = [
        config
        for seed in SEEDS
        for config in members(values | {"study": f"seeds-s{seed}", "seed": seed}, [DEMO["text"]], [DEMO["image"]])
    ]
    references = [config for config in baselines(values) if config.system in LINEAR]
    runs = [prepare_run(config) for config in [*configs, *references]]
    launch(runs)
    ours, rows = runs[: len(SEEDS)], []
    for run in runs:
        row = {"run": run.name, "validation": from_summary(run, "macro_f1"), "test": answers.score(run)}
        rows.append(row | {"mean of the seeds gains, validation": "" if run in ours else gain(ours, [run])})
    table = pd.DataFrame(rows)
    spread = pd.DataFrame([{part: row[part].value for part in ("validation", "test")} for row in rows[: len(SEEDS)]])
    text = (
        f"{READING}\n\n{table.to_string(index=False)}\n\n"
        f"mean of {len(SEEDS)} seeds ± deviation between them: validation {spread['validation'].mean():.2f} ± "
        f"{spread['validation'].std():.2f}, test {spread['test'].mean():.2f} ± {spread['test'].std():.2f}\n\n"
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n"
    )
    print(text)
    write_text(HERE / "results" / "seeds.txt", text)


if __name__ == "__main__":
    main()
