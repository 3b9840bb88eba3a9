"""The parts of summary.json that describe a training and its items."""

import functools
import platform
import resource
import sys
from importlib.metadata import version

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator

from kit.config import TrainConfig
from kit.core.exceptions import KitError
from kit.core.files import write_atomically
from kit.data.items import tables_fingerprint
from kit.runs import TrainingRun
from kit.training.attention import average_folds
from kit.training.checkpoint import Progress


def report_blank_images(run: TrainingRun, frames: dict[str, pd.DataFrame]) -> None:
    """List the items without a readable image, and those of whose images some are not readable, in the run's blank.csv,
    and print how many there are. A run that reads no images has nothing to list.

    Raise KitError if no training item has a readable image.
    """
    tables = [frame.assign(part=part) for part, frame in frames.items() if "blank" in frame]
    if not tables or "image" not in run.config.sides:
        return
    if len(train := frames["train"]) and (train["blank"] != "").all():
        raise KitError(
            f"None of the {len(train)} training items of {run.config.data} has a readable image, so there is nothing "
            "to learn from images: check where they are, or train on the texts alone (-p system logistic_text)."
        )
    items = pd.concat(tables)
    blank, fewer = (items[column] != "" for column in ("blank", "left_out"))
    if not (blank | fewer).any():
        return
    path = run.folder / "blank.csv"
    table = items.assign(why=items["blank"] + items["left_out"], id=items.get("key", items["id"]))
    table = table[["part", "id", "why"]][blank | fewer]
    write_atomically(path, functools.partial(table.to_csv, index=False))
    if blank.any():
        print(f"{blank.sum()} items have no readable image and get a white one: see {path}", flush=True)
    if fewer.any():
        print(f"{fewer.sum()} items have unreadable images, which are left out, beside others: see {path}", flush=True)


def summarise_items(frames: dict[str, pd.DataFrame], outlined: dict[str, str]) -> dict:
    """Return what summary.json says about the items.

    `data`: a hash of ids, texts and labels · `outline`: fingerprints of all that the run reads · `blank`: the number of
    items without a readable image, per reason.
    """
    reasons = [text.partition(":")[0] for frame in frames.values() for text in frame.get("blank", ()) if text]
    return {
        "data": tables_fingerprint(outlined),
        "outline": outlined,
        "blank": {reason: reasons.count(reason) for reason in ("missing", "corrupt")},
    }


def summarise_training(config: TrainConfig, progress: Progress, accelerator: Accelerator) -> dict:
    """Return what summary.json says about the training itself: settings, speed, memory, versions; no scores."""
    history = progress.history
    timed = [row for row in history if row["epoch"]] or [{"step_seconds": 0.0, "samples_per_second": 0.0}]
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    cuda = accelerator.device.type == "cuda"
    packages = ("torch", "transformers", "timm", "accelerate", "numpy", "pandas")
    attention = {"attention": average_folds(progress.attention)} if progress.attention else {}
    return attention | {
        "text": config.text,
        "image": config.image,
        "recipe": config.recipe,
        "system": config.system,
        "kept_epochs": [row["epoch"] for row in history if row["kept"]],
        "epochs": config.epochs,
        "accumulate": config.accumulate,
        "skipped_steps": progress.skipped,
        "parameters": progress.parameters,
        "seconds": round(progress.seconds, 1),
        "step_seconds": float(np.median([row["step_seconds"] for row in timed])),
        "samples_per_second": float(np.median([row["samples_per_second"] for row in timed])),
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "processes": accelerator.num_processes,
        "precision": accelerator.mixed_precision,
        "peak_memory_gb": round(kilobytes / 2**20, 2),
        "peak_gpu_memory_gb": round(torch.cuda.max_memory_allocated() / 2**30, 2) if cuda else 0,
        "versions": {"python": platform.python_version()} | {package: version(package) for package in packages},
    }
