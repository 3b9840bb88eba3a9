"""How long a run takes: at the pace of a run like it, or estimated from the operations that its backbones need."""

import functools
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from kit.config import LIGHT, TrainConfig
from kit.core.console import in_words, setting
from kit.core.exceptions import KitError
from kit.core.machine import available_gpus
from kit.core.paths import runs_folder
from kit.data.challenge import Challenge, clean_items
from kit.data.text import product_texts
from kit.models.classifier import fixed_layers
from kit.models.image_backbones import image_work
from kit.models.text_backbones import text_work
from kit.runs import TrainingRun, open_run, run_at
from kit.training.probe import SEARCHED
from kit.training.status import read_status

# What a run's time per step, or per item if it is light, depends on.
SAME_PACE = (
    *("system", "text", "image", "freeze_text", "freeze_image", "train_text_layers", "width", "folds"),
    *("image_size", "max_tokens", "batch_size", "accumulate", "precision", "compile", "checkpointing"),
)
SHARE = 0.3  # of the speed of a large matrix product that models reach; on an H100 0.2 to 0.4 if they are large
GPU_STEP = 0.1  # seconds that a step of training takes at least on an H100, where queueing its work takes longer
START = 6.0  # seconds until a training process has read its libraries
PROBES = ("logistic", "logistic_text", "logistic_image")
# seconds per item and fold on one core, measured on data/emoji (1,144 items, 27 classes); tfidf: on 84,916 synthetic
LIGHT_SECONDS = {"tfidf": 5e-3, "logistic": 5e-3, "logistic_text": 5e-4, "logistic_image": 1.5e-3, "neighbours": 1e-3}
FIT_SECONDS = 1e-3  # per item that a probe is only fitted to, beyond those that choose its settings; a rough bound
TOKEN = 3.0  # characters per token, measured on the shipped catalogues
NEIGHBOURS_SECONDS = 9e-8  # and on a CPU per pair of items that a fold learns from; half for one that it predicts


@dataclass(frozen=True, eq=False)
class Workload:
    """How much there is to read: training items, test items, images per item, and the characters `[N]` of each text."""

    learned: int
    predicted: int
    images: float
    characters: np.ndarray

    @classmethod
    def of(cls, train: pd.DataFrame, predicted: int, images: float) -> "Workload":
        return cls(len(train), predicted, images, np.array([len(text) for text in product_texts(train)]))

    def tokens(self, most: int) -> float:
        """Return how long a text is on average, of which `most` tokens are read: two are special."""
        return float(np.minimum(self.characters / TOKEN + 2, most).mean())


@dataclass(frozen=True)
class _Past:
    """A run that was trained here: on so many training items, of so many in all, and its seconds per step, or per
    training item if it is light."""

    config: TrainConfig
    learned: float
    items: float
    pace: float | None


def duration(configs: list[TrainConfig], workload: Workload) -> tuple[float, bool]:
    """Return the seconds that the runs take one after the other, and whether all are measured rather than estimated.

    A training has the pace per step of any run like it, a light run that of one like it on the same data. Of an
    interrupted one only the rest counts. The outputs of frozen backbones are counted once, and not if a run has left
    them in the cache; those too large for the cache, whenever they are read.
    """
    learned, predicted = workload.learned, workload.predicted
    seconds, measured, past = 0.0, True, _past(configs, learned, learned + predicted)
    computed: set[tuple] = set()
    for config in configs:
        light, steps = config.system in LIGHT, steps_left(config, learned)
        live = _live(config, learned + predicted, workload)
        same_data = [run for run in past if run.config.data == config.data and 0.5 <= run.learned / learned <= 2]
        alike = [run for run in (same_data if light else past) if _kind(run.config) == _kind(config)]
        paces = [run.pace for run in alike if run.pace is not None and _live(run.config, run.items, workload) == live]
        if not paces:
            seconds, measured = seconds + START * measured, False
        in_step = beside = 0.0  # operations of the backbones
        for side in config.sides:
            outputs = _outputs(config, side)
            operations, _, depth = _item_work(config, side, workload)
            if side == "text" and config.train_text_layers:
                in_step += 3 * config.batch_size * operations * config.train_text_layers / max(depth, 1)
            if side not in config.frozen or side in live:  # three passes to train, of which one is forward
                in_step += (1 if side in live else 3) * config.batch_size * operations
                beside += _only_forward(config, side, learned, predicted) * operations
            elif outputs not in computed and not any(_has_kept(run, outputs, workload) for run in same_data):
                beside, measured = beside + (learned + predicted) * operations, False
            computed.add(outputs)
        seconds += beside / _speed() if beside else 0
        if paces:
            seconds += paces[-1] * (learned if light else steps)
        elif light:
            searched = min(learned, SEARCHED) if config.system in PROBES else learned
            each = LIGHT_SECONDS[config.system] * searched + FIT_SECONDS * (learned - searched)
            seconds += config.folds * each
            if config.system == "neighbours" and not available_gpus():
                fold = items_per_fold(config, learned)
                pairs = fold * (fold + (learned - fold + predicted) / 2)
                seconds += NEIGHBOURS_SECONDS * config.folds * pairs
        else:
            step = in_step / _speed()
            step = max(step, GPU_STEP) if step and available_gpus() else step
            # the BiLSTM is most of the head
            tokens = workload.tokens(config.max_tokens) if config.system == "coattention" else 0
            head = 3 * config.batch_size * 8 * tokens * config.width**2
            seconds += steps * (step + head / _speed())
    return seconds, measured


def expected_time(config: TrainConfig, challenge: Challenge) -> str:
    """Return a line on how long a run may take on a challenge's items, and if that is long, what takes minutes."""
    count = min(len(challenge.train), 1000)
    some = challenge.train.sample(count, random_state=0, ignore_index=True).fillna({"description": ""})
    cleaned = clean_items(some, config.clean_titles, config.clean_descriptions)
    workload = Workload.of(cleaned, sum(map(len, challenge.test.values())), challenge.images_per_item)
    learned = min(len(challenge.train), config.limit or len(challenge.train))
    seconds, measured = duration([config], replace(workload, learned=learned))
    line = f"Expected time: about {in_words(seconds)} ({'at the pace of a run like it' if measured else 'estimated'})."
    if seconds < 2 * 3600 or available_gpus():
        return line
    quick = setting(text="e5_small", image="efficientnet_lite0", recipe="demo")
    return f"{line} There is no GPU here; what takes minutes: {quick}."


def steps_left(config: TrainConfig, learned: int) -> int:
    """Return the optimizer steps that a run on so many training items still has to do."""
    begun, steps = _begun(config), config.steps(items_per_fold(config, learned))
    return round(steps * (1 - begun["done"] / begun["total"])) if begun else steps


def items_per_fold(config: TrainConfig, items: int) -> int:
    """Return how many of the training items each of the run's models learns from."""
    return round(items * (1 - (1 / config.folds if config.folds > 1 else config.val_share)))


def _kind(config: TrainConfig) -> tuple:
    return tuple(getattr(config, name) for name in SAME_PACE)


def _backbone(config: TrainConfig, side: str) -> tuple[str, str, int]:
    """Return a side, its backbone, and the size of its inputs."""
    return side, getattr(config, side), config.max_tokens if side == "text" else config.image_size


def _item_work(config: TrainConfig, side: str, workload: Workload) -> tuple[float, float, int]:
    """Return `_work` for a mean item: all its images, or its text, which may be shorter than `max_tokens`."""
    operations, numbers, depth = _work(*_backbone(config, side))
    share = workload.images if side == "image" else workload.tokens(config.max_tokens) / config.max_tokens
    return share * operations, share * numbers, depth


def _outputs(config: TrainConfig, side: str) -> tuple:
    """Return what a frozen backbone's kept outputs depend on, beside the items: `_backbone`, its layers if some above
    them are trained, and if they are kept in half precision."""
    below = config.train_text_layers if side == "text" else 0
    return *_backbone(config, side), below, below > 0 and config.pooled, _half(config)


def _half(config: TrainConfig) -> bool:
    """Return whether a frozen backbone's outputs are kept in half precision."""
    half = config.precision in ("bf16", "fp16") or (config.precision == "auto" and bool(available_gpus()))
    return half and config.system not in LIGHT


def _begun(config: TrainConfig) -> dict:
    """Return how far an interrupted training of this configuration is (`read_status`), or {} if there is none."""
    run = open_run(config.run)
    try:
        status = read_status(run) if run.begun and not run.changes(config) else {}
    except KitError:  # another version's
        return {}
    return status if status.get("total") else {}


def _only_forward(config: TrainConfig, side: str, learned: int, predicted: int) -> int:
    """Return how many items a side's backbone still reads without learning from them, an item each time anew."""
    fold = items_per_fold(config, learned)
    validations = config.epochs if config.curve or config.keep in ("best", "soup") else 1
    start = fold if config.linear_start else 0
    passes = 2 if side == "image" and config.augment else 1  # over the mirror image too
    # attention is measured once more, even
    items = start + (passes * validations + config.attends) * (learned - fold) + passes * predicted
    return (config.folds - _begun(config).get("fold", 1) + 1) * items


def _live(config: TrainConfig, count: float, workload: Workload) -> list[str]:
    """Return the sides whose frozen backbone runs in every step, because its outputs for `count` such items exceed
    `features_gb` (`kit.training.features`)."""
    live = []
    for side in config.frozen:
        if config.pooled and not (side == "text" and config.train_text_layers):
            continue  # only its means are kept
        _, numbers, depth = _item_work(config, side, workload)
        numbers *= len(range(depth + 1)[fixed_layers(config, depth)]) if side == "text" else 1
        if count * numbers * (2 if _half(config) else 4) > config.features_gb * 2**30:
            live.append(side)
    return live


def _has_kept(run: _Past, outputs: tuple, workload: Workload) -> bool:
    """Return whether the run has left a frozen backbone's outputs in the cache."""
    side = outputs[0]
    frozen = side in run.config.frozen and _outputs(run.config, side) == outputs
    return frozen and side not in _live(run.config, run.items, workload)


def _past(configs: list[TrainConfig], learned: int, items: int) -> list[_Past]:
    """Return the finished trainings in run folders, and unfinished ones that have measured their pace.

    Of the latter, those with frozen backbones only if they read the items of `configs`: of others no one knows how many
    items they have, and so whether their steps run these backbones.
    """
    past, here = [], {(config.data, config.limit) for config in configs}
    for path in runs_folder().glob("*/config.json"):
        run = run_at(path.parent)
        try:
            if not isinstance(run, TrainingRun):
                continue
            config, pace = run.config, read_status(run).get("seconds_per_step")
            if run.finished:
                summary, counts = run.summary, run.summary["items"]
                train = counts["oof"] / (1 if config.folds > 1 else config.val_share)
                light = config.system in LIGHT
                pace = summary["seconds"] / train if light else summary.get("step_seconds", pace)
                past.append(_Past(config, train, train + counts["test"], pace))
            elif pace and ((known := (config.data, config.limit) in here) or not config.frozen):
                past.append(_Past(config, learned * known, items * known, pace))
        except (KitError, KeyError):  # another version's
            continue
    return past


@functools.cache
def _work(side: str, name: str, size: int) -> tuple[int, float, int]:
    """Return the operations of a pass over an item, how many numbers it or each layer returns, and a text's layers."""
    return text_work(name, size) if side == "text" else (*image_work(name, size), 0)


@functools.cache
def _speed() -> float:
    """Return the operations per second that a model is expected to reach here.

    GPUs are measured in a process of its own, which leaves nothing on them: some belong to one process at a time.
    """
    if not (gpus := available_gpus()):
        return measured_speed()
    code = "from kit.studies.pace import measured_speed; print(measured_speed())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or "no reason was given").splitlines()[-1].rstrip(".")
        raise KitError(f"The speed of the GPU could not be measured ({reason}): see that no other program keeps it.")
    return gpus * float(done.stdout.split()[-1])


def measured_speed() -> float:
    """Return `_speed` of one device, from a matrix product of 0.1 s."""
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
    return SHARE * 2 * size**3 * products / (clock - began)
