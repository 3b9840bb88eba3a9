"""How long a run takes: at the pace of a run like it, or estimated from the operations that its backbones need."""

import functools
import time

import torch

from kit.config import LIGHT, TrainConfig
from kit.core.console import in_words, setting
from kit.core.exceptions import KitError
from kit.core.machine import available_gpus
from kit.core.paths import runs_folder
from kit.models.image_backbones import image_operations
from kit.models.text_backbones import text_operations
from kit.runs import TrainingRun, open_run
from kit.training.status import read_status

# What a run's time per step, or per item if it is light, depends on.
SAME_PACE: tuple[str, ...] = (
    "system",
    "text",
    "image",
    "image_size",
    "max_tokens",
    "batch_size",
    "accumulate",
    "freeze_text",
)
SAME_PACE += ("freeze_image", "train_text_layers", "width", "folds", "precision", "compile", "checkpointing")
SHARE = 0.3  # of the speed of a large matrix product that models reach; on an H100 0.2 to 0.4 if they are large
GPU_STEP = 0.1  # seconds that a step of training takes at least on an H100, where queueing its work takes longer
START = 6.0  # seconds until a training process has read its libraries
# seconds per item and fold on one core, measured on data/emoji (1,144 items, 27 classes)
LIGHT_SECONDS = {"tfidf": 1e-3, "logistic": 5e-3, "logistic_text": 5e-4, "logistic_image": 1.5e-3, "neighbours": 1e-3}
NEIGHBOURS_SECONDS = 1e-7  # and per pair of items and fold (`kit.training.neighbours`)


def duration(configs: list[TrainConfig], learned: int, predicted: int, images: float = 1) -> tuple[float, bool]:
    """Return the seconds that the runs take one after the other, and whether all are measured rather than estimated.

    `learned`: training items · `predicted`: test items · `images`: images per item. What frozen backbones compute is
    counted once, and even if it is in the cache.
    """
    seconds, measured, paces = 0.0, True, _paces()
    computed: set[tuple] = set()
    for config in configs:
        light = config.system in LIGHT
        amount = learned if light else config.steps(items_per_fold(config, learned))
        if (known := paces.get(_kind(config))) is not None:
            seconds += known * amount
            continue
        seconds, measured, trained = seconds + (0 if computed else START), False, 0.0
        for side in config.sides:
            backbone = side, getattr(config, side), config.max_tokens if side == "text" else config.image_size
            inputs = images if side == "image" else 1  # per item
            if side not in config.frozen:  # three passes to train, of which one is forward
                passes = predicted * config.folds + 3 * config.batch_size * amount
                trained += passes * inputs * _operations(*backbone) / _speed()
            elif backbone not in computed:
                seconds += (learned + predicted) * inputs * _operations(*backbone) / _speed()
            computed.add(backbone)
        seconds += max(trained, GPU_STEP * amount) if trained and available_gpus() else trained
        if light:
            seconds += learned * config.folds * LIGHT_SECONDS[config.system]
            seconds += NEIGHBOURS_SECONDS * config.folds * learned**2 * (config.system == "neighbours")
        else:  # the BiLSTM is most of the head
            seconds += 3 * config.batch_size * amount * 8 * config.max_tokens * config.width**2 / _speed()
    return seconds, measured


def expected_time(config: TrainConfig, items: int, images: float = 1) -> str:
    """Return a line on how long a run may take on a catalogue of `items` training items with so many `images` per item,
    and if that is long, what takes minutes."""
    learned = min(items, config.limit) if config.limit else items
    seconds, measured = duration([config], learned, 0, images)
    line = f"Expected time: about {in_words(seconds)} ({'at the pace of a run like it' if measured else 'estimated'})."
    if seconds < 2 * 3600 or available_gpus():
        return line
    quick = setting(text="e5_small", image="efficientnet_lite0", recipe="demo")
    return f"{line} There is no GPU here; what takes minutes: {quick}."


def items_per_fold(config: TrainConfig, items: int) -> int:
    """Return how many of the training items each of the run's models learns from."""
    return round(items * (1 - (1 / config.folds if config.folds > 1 else config.val_share)))


def _kind(config: TrainConfig) -> tuple:
    return tuple(getattr(config, name) for name in SAME_PACE)


def _paces() -> dict[tuple, float]:
    """Return by kind of run the seconds per step, or per item of a light run, that run folders have measured."""
    paces = {}
    for path in runs_folder().glob("*/config.json"):
        run = open_run(path.parent.name)
        try:
            if not isinstance(run, TrainingRun):
                continue
            config, pace = run.config, read_status(run).get("seconds_per_step")
            if run.finished:
                summary = run.summary
                light = config.system in LIGHT
                pace = summary["seconds"] / summary["items"]["oof"] if light else summary.get("step_seconds", pace)
        except (KitError, KeyError):  # another version's
            continue
        if pace is not None:
            paces[_kind(config)] = pace
    return paces


@functools.cache
def _operations(side: str, name: str, size: int) -> int:
    return {"text": text_operations, "image": image_operations}[side](name, size)


@functools.cache
def _speed() -> float:
    """Return the operations per second that a model is expected to reach here, from a matrix product of 0.1 s."""
    gpus = available_gpus()
    size, kind = (8192, torch.float16) if gpus else (1024, torch.float32)
    matrix = torch.ones(size, size, dtype=kind, device="cuda" if gpus else "cpu")
    began = clock = time.perf_counter()
    products = -1  # the first one warms up
    while products < 1 or clock - began < 0.1:
        if not products:
            began = time.perf_counter()
        matrix @ matrix
        if gpus:
            torch.cuda.synchronize()
        products, clock = products + 1, time.perf_counter()
    return SHARE * 2 * size**3 * products / (clock - began) * max(gpus, 1)
