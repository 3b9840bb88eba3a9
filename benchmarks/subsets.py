"""Whether co-attention holds against the probe if there are few items: subsets of the shipped catalogues.

`python benchmarks/subsets.py` trains both on 200 and 400 items of each catalogue, DRAWS times with other items and
folds (about 25 minutes of one core), prints a table and writes it to benchmarks/results/subsets.txt. With `--unseen`
it takes them from clip art (data/build_clipart.py), on which nothing was chosen.
"""

import argparse

import numpy as np
import pandas as pd
from measure import DEMO, UNSEEN, publish

from kit.analysis.estimates import gain
from kit.config import train_config
from kit.runs import prepare_run
from kit.training.launch import launch

SYSTEMS = {"probe": {"system": "logistic"}, "even attention": {"coattention": False}, "co-attention": {}}
CATALOGUES, SIZES, DRAWS = ("shop", "emoji"), (200, 400), 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unseen", action="store_true", help=f"on data/{UNSEEN}")
    unseen = parser.parse_args().unseen
    catalogues = (UNSEEN,) if unseen else CATALOGUES
    runs = {
        (catalogue, items, draw, system): prepare_run(
            train_config(
                **DEMO | changes | {"data": f"data/{catalogue}", "limit": items, "split_seed": draw, "seed": draw},
                curve=False,
                run=f"subsets-{catalogue}-{items}-{system.replace(' ', '-')}-{draw}",
            )
        )
        for catalogue in catalogues
        for items in SIZES
        for draw in range(DRAWS)
        for system, changes in SYSTEMS.items()
    }
    launch([*runs.values()])
    rows, differences = [], {system: [] for system in SYSTEMS}
    for catalogue in catalogues:
        for items in SIZES:
            for system in SYSTEMS:
                several = [runs[catalogue, items, draw, system] for draw in range(DRAWS)]
                probes = [runs[catalogue, items, draw, "probe"] for draw in range(DRAWS)]
                gains = [gain([ours], [probe]).value for ours, probe in zip(several, probes, strict=True)]
                scores = [100 * run.summary["macro_f1"] for run in several]
                row = {"catalogue": catalogue, "items": items, "system": system, "macro-F1": f"{np.mean(scores):.1f}"}
                if system != "probe":
                    differences[system] += gains
                    row |= {"gain on the probe": _mean(gains), "of each draw": " ".join(f"{one:+.1f}" for one in gains)}
                rows.append(row)
    text = f"{pd.DataFrame(rows).fillna('').to_string(index=False)}\n\n"
    text += "Macro-F1 out of fold in per cent, means of the draws, with the standard error of a mean gain over draws.\n"
    for system in ("even attention", "co-attention"):
        text += f"All {len(differences[system])} subsets, gain of {system} on the probe: {_mean(differences[system])}\n"
    publish(f"subsets{f'_{UNSEEN}' * unseen}", text)


def _mean(values: list[float]) -> str:
    return f"{np.mean(values):+.1f} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.1f}"


if __name__ == "__main__":
    main()
