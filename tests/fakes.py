"""Finished runs that were never trained: folders with predictions that are right as often as a test needs. Small
catalogues."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from kit.core.files import write_json
from kit.data.catalogue import describe
from kit.runs import open_run
from kit.studies.study_runs import ablations, baselines, members

VALUES = {"study": "s", "text": "camembert", "image": "resnet152", "recipe": "paper"}


def fake(config, right: float, seed: int = 0, data="f", items: int = 36, first=0, codes=(10, 40, 2705), **summary):
    """A finished run that predicts the share `right` of the tiny catalogue's training items, whose ids start at
    `first`.
    """
    random, codes = np.random.default_rng(seed), list(codes)
    frame = pd.DataFrame({"id": range(first, first + items), "label": [codes[i % 3] for i in range(items)], "fold": 0})
    shown = np.where(random.random(items) < right, np.arange(items) % 3, (np.arange(items) + 1) % 3)
    values = np.full((items, 3), 0.1)
    values[np.arange(items), shown] = 0.8
    test = pd.DataFrame({"id": range(36, 43), "split": "test"})
    run = open_run(config.run)
    write_json(run.folder / "config.json", dataclasses.asdict(config))
    run.write(codes, (frame, values), (test, np.full((1, 7, 3), 1 / 3)), {"data": data, "seconds": 1.0} | summary)


def fake_study(data) -> str:
    """Return the name of a study in which the BiLSTM is worth much, the layer weights nothing, and co-attention more
    than a fusion.
    """
    values = VALUES | {"data": str(data)}
    for row, configs in ablations(values, 2).items():
        right = {"full": 0.95, "no-bilstm": 0.3, "no-layer-weights": 0.95}.get(row, 0.8)
        for config in configs:
            fake(config, right, seed=config.seed)
    for config in baselines(values)[:4]:
        fake(config, {"concat": 0.5, "bilinear": 0.4}.get(config.system, 0.3), seed=7)
    for config in members(values, ["camembert", "flaubert"], ["resnet152"])[1:]:
        fake(config, 0.7, seed=5)
    return "s"


def measured_attention(text: float, image: float) -> dict:
    """Measures for summary.json, with these total variations from even."""
    sides = {"text": text, "image": image}
    measured = {side: {"variation": v, "entropy": 1 - v, "changed": v, "macro_f1": -v} for side, v in sides.items()}
    return measured | {"both": {"changed": 0.1, "macro_f1": -0.1}, "items": 36}


def catalogue(folder: Path, *sides: str, test: bool = True, alone: bool = False) -> str:
    """Return the folder of a catalogue of 36 items of three classes that have these sides, text and image; `test`: with
    seven items to predict; `alone`: with one more class, of a single item."""
    random, kinds = np.random.default_rng(0), ["livre", "jeu", "piscine"]
    words = [" ".join(random.choice(["rouge", "bleu", "grand", "petit", "lampe"], 4)) for _ in range(44)]
    kind = [kinds[i % 3] for i in range(44)]
    table = pd.DataFrame({"name": [f"{kind[i]} {words[i]}" for i in range(44)], "photo": "", "kind": kind})
    for i in table.index if "image" in sides else ():
        table.loc[i, "photo"] = f"{i}.png"
        Image.fromarray(random.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    table.loc[36, "kind"] = "alone"
    table[: 36 + alone].to_csv(folder / "items.csv", index=False)
    table[37:].drop(columns="kind").to_csv(folder / "new.csv", index=False)
    columns: dict = ({"title": "name"} if "text" in sides else {}) | ({"image": ["photo"]} if "image" in sides else {})
    new = folder / "new.csv" if test else None
    return str(describe(folder / "items.csv", **columns, label="kind", test=new, out=folder / "described"))
