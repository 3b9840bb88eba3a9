"""Finished runs that were never trained: folders with predictions that are right as often as a test needs."""

import dataclasses

import numpy as np
import pandas as pd

from kit.core.files import write_json
from kit.runs import open_run

VALUES = {"study": "s", "text": "camembert", "image": "resnet152", "recipe": "paper"}


def fake(config, right: float, seed: int = 0, data="f", items: int = 36, **summary) -> None:
    """A finished run that predicts the share `right` of the tiny catalogue's training items."""
    random = np.random.default_rng(seed)
    codes = [10, 40, 2705]
    frame = pd.DataFrame({"id": range(items), "label": [codes[i % 3] for i in range(items)], "fold": 0})
    shown = np.where(random.random(items) < right, np.arange(items) % 3, (np.arange(items) + 1) % 3)
    values = np.full((items, 3), 0.1)
    values[np.arange(items), shown] = 0.8
    test = pd.DataFrame({"id": range(36, 43), "split": "test"})
    run = open_run(config.run)
    write_json(run.folder / "config.json", dataclasses.asdict(config))
    run.write(codes, (frame, values), (test, np.full((1, 7, 3), 1 / 3)), {"data": data, "seconds": 1.0} | summary)
