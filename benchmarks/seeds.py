"""How far the demo's score moves with the seed: its recipe with three seeds, beside the linear references.

`python benchmarks/seeds.py` trains what is not trained yet, prints the table and writes it to benchmarks/results/.
The answers of the test part are read here to report, never to choose.
"""

import os
import platform
from pathlib import Path

import numpy as np
import pandas as pd

from kit.config import train_config
from kit.launch import launch
from kit.linear import references
from kit.metrics import bootstrap_macro_f1, macro_f1
from kit.runs import prepare_run, write_atomically

HERE = Path(__file__).resolve().parent
DEMO = {"data": "data/sample", "text": "e5_small", "image": "efficientnet_lite0", "recipe": "demo"}
SEEDS = (0, 1, 2)


def main() -> None:
    answers = pd.read_csv(HERE.parent / "data" / "sample_answers" / "Y_test.csv", index_col=0)["prdtypecode"]
    configs = [train_config(**DEMO, seed=seed, run=f"demo-seed{seed}") for seed in SEEDS]
    truths, systems = {}, {}
    for config in configs:
        run = prepare_run(config)
        if not run.finished:
            launch(run)
        systems[f"co-attention, seed {config.seed}"] = {}
        for part in ("oof", "test"):
            frame, codes, values = run.predictions(part)
            truths[part] = frame["label"].to_numpy() if part == "oof" else answers.loc[frame["id"]].to_numpy()
            systems[f"co-attention, seed {config.seed}"][part] = np.array(codes)[values.argmax(1)]
    ours = list(systems)
    systems |= references(configs[0])
    table = pd.DataFrame({"system": list(systems)})
    for part, title in (("oof", "validation"), ("test", "test")):
        scores = [100 * macro_f1(truths[part], predicted[part]) for predicted in systems.values()]
        bounds = [bootstrap_macro_f1(truths[part], predicted[part]) for predicted in systems.values()]
        table[title] = np.round(scores, 2)
        table[f"{title}, 95 %"] = [f"[{100 * low:.1f}, {100 * high:.1f}]" for low, high in bounds]
    mean = table.iloc[: len(ours)][["validation", "test"]].agg(["mean", "std"]).round(2)
    row = {"system": f"co-attention, mean of {len(ours)}"}
    for title in ("validation", "test"):
        row |= {title: mean.loc["mean", title], f"{title}, 95 %": f"± {mean.loc['std', title]} between seeds"}
    table = pd.concat([table.iloc[: len(ours)], pd.DataFrame([row]), table.iloc[len(ours) :]], ignore_index=True)
    gains = [f"{name}: {row['test'] - score:+.2f}" for name, score in table[["system", "test"]].iloc[-2:].to_numpy()]
    text = (
        "Macro-F1 in per cent on the sample catalogue; intervals are bootstraps over items.\n\n"
        f"{table.to_string(index=False)}\n\nmean of the seeds on the test part, against {'; against '.join(gains)}\n\n"
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n"
    )
    print(text)
    write_atomically(HERE / "results" / "seeds.txt", lambda path: path.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
