"""One run from its items to its results, fold by fold.

N items · K classes · F folds
"""

import dataclasses
import functools
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator, DataLoaderConfiguration, DistributedDataParallelKwargs, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import ProjectConfiguration, set_seed
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from kit.config import HELD_OUT_PARTS, TrainConfig, held_in
from kit.core.cache import fingerprint
from kit.core.exceptions import KitError, OutOfMemory, first_line, shorten
from kit.core.files import write_json
from kit.core.paths import runs_folder
from kit.data.dataset import ProductDataset, cache_pixels
from kit.data.folds import split_up_to
from kit.data.items import data_fingerprints, read_items
from kit.data.sampler import MORE_SHARED
from kit.metrics import softmax
from kit.models.backbones import BackboneHandle, find_backbones
from kit.models.classifier import Classifier, build_model
from kit.models.registry import IMAGE, TEXT
from kit.runs import TrainingRun
from kit.training.checkpoint import Checkpoints, Progress
from kit.training.features import precompute
from kit.training.fold_trainer import FoldTrainer
from kit.training.inputs import make_datasets
from kit.training.interrupt import Watch
from kit.training.nonfinite import NotFinite
from kit.training.saved_weights import fingerprint_backbones, remove_epochs
from kit.training.session import Session
from kit.training.start import fit_start
from kit.training.summary import report_blank_images, summarise_items, summarise_training
from kit.training.teacher import TAUGHT, soft_targets, teacher_fingerprint
from kit.training.tracking import require_tracker, tracking


def train(run: TrainingRun, watch: Watch | None = None) -> None:
    """Train the run's configuration, one model per fold, and write its results (`kit.runs`); resume if it was begun.

    If memory runs out, a step is split into more, smaller batches. Raise KitError, and Interrupted if `watch` says so.
    """
    while True:
        config = run.config
        try:
            return _attempt(run, config, watch or Watch())
        except RuntimeError as error:
            if str(error).startswith("DataLoader"):  # a worker was killed, or its batch was lost
                reason = first_line(error).rstrip(".")
                raise KitError(f"The processes that read images failed ({reason}): {MORE_SHARED}.") from error
            if not should_reduce_batch_size(error):
                raise
        split_steps_further(run, config)
        clear_device_cache(garbage_collection=True)


def _attempt(run: TrainingRun, config: TrainConfig, watch: Watch) -> None:
    """Train with these settings. A function of its own: what it holds on a GPU is free once it has failed."""
    accelerator = make_accelerator(config)
    with tracking(run, config, accelerator):
        _train(run, config, watch, accelerator)


def split_steps_further(run: TrainingRun, config: TrainConfig) -> None:
    """Split the steps of a run that was trained as `config` into twice as many batches, or the next possible number.

    Raise KitError if a batch of one item is too large, or OutOfMemory if several processes have to start again.
    """
    processes = PartialState().num_processes
    parts = more_parts(config, processes)
    if not parts:
        raise KitError(
            "There is too little memory for a batch of one item a process: lower max_tokens, image_size or width, "
            "freeze a backbone, or pass -p checkpointing True."
        )
    write_json(run.folder / "config.json", dataclasses.asdict(config) | {"accumulate": parts})
    sentence = f"Memory ran out: a step's {config.batch_size} items are now cut into {parts} batches"
    if "image" in config.sides and "image" not in config.frozen:
        sentence += ", over each of which an image backbone's BatchNorm, if it has any, takes its statistics"
    if processes > 1:
        raise OutOfMemory(f"{sentence}. Start the run again with -p accumulate {parts}.")
    print(f"{sentence} (accumulate={parts}).", flush=True)


def more_parts(config: TrainConfig, processes: int = 1) -> int:
    """Return the next number of batches, at least twice as many, into which a step can be cut; 0 if there is none."""
    cuts = range(2 * config.accumulate, config.batch_size // processes + 1)
    return next((n for n in cuts if config.batch_size % (n * processes) == 0), 0)


def _train(run: TrainingRun, config: TrainConfig, watch: Watch, accelerator: Accelerator) -> None:
    started = time.perf_counter()
    watch.join(accelerator, config.max_minutes)
    if accelerator.is_main_process and not run.begun:
        run.clear()
    codes, frames, products, build = prepare(config, accelerator)
    if accelerator.is_main_process:
        report_blank_images(run, frames)
    backbones = find_backbones(config)
    weights = {f"{side} backbone": fingerprint(backbone.identity) for side, backbone in backbones.items()}
    teacher = {"teacher": teacher_fingerprint(config.teacher)} if config.teacher else {}
    states = Checkpoints(run, accelerator, data_fingerprints(frames) | teacher | weights)
    states.clock = started
    folds = frames["train"]["fold"].to_numpy()
    progress = states.read(Progress(torch.full((len(folds), len(codes)), torch.nan)))
    groups = frames["train"].get("group", frames["train"]["id"]).to_numpy()

    def trainer(learn: np.ndarray, validate: np.ndarray, epochs: int, before: int) -> FoldTrainer:
        """Return a trainer of a new model on the training items at `learn`."""
        seed = config.seed + 1000 * progress.fold
        set_seed(seed % 2**32)
        parts = {"train": products["train"].part(learn), "oof": products["train"].part(validate)}
        model = build().to(accelerator.device)
        if accelerator.process_index:  # the same weights, but a dropout of its own
            set_seed((seed + accelerator.process_index) % 2**32)
        if config.linear_start and not states.pending:
            fit_start(config, model, parts["train"], groups[learn], accelerator.device)
        return FoldTrainer(session, model, parts | {"test": products["test"]}, epochs, before)

    sizes = [int((folds != fold).sum()) for fold in range(config.folds)]
    total = [config.steps(size) // config.folds for size in sizes]
    session = Session(run, config, accelerator, watch, states, progress, sum(total))
    for fold in range(progress.fold, config.folds):
        learn, before = np.flatnonzero(folds != fold), sum(total[:fold])
        try:
            if config.keep == "held_out":
                if progress.epochs < 0:
                    held_out = hold_out(frames["train"]["label"].iloc[learn], groups[learn], config.split_seed)
                    progress.choose(trainer(learn[~held_out], learn[held_out], config.epochs, before).choose())
                    states.write(progress)
                    accelerator.free_memory()
                before += config.epochs * -(-held_in(len(learn)) // config.batch_size)
            epochs = config.epochs if config.keep != "held_out" else progress.epochs
            oof, test = (fitted := trainer(learn, np.flatnonzero(folds == fold), epochs, before)).fit()
        except NotFinite as error:
            ids = frames["train"]["id"].to_numpy()[error.rows]
            items = f" The items of the batch: id {shorten(ids, 16)}." if len(ids) else ""
            raise KitError(
                f"{error}{items} Start over with a lower lr or a clip_norm, or with those items mended; or go on from "
                f"the last saved state with -p nonfinite skip."
            ) from error
        progress.oof[torch.from_numpy(folds == fold)] = torch.from_numpy(oof)
        progress.test.append(torch.from_numpy(softmax(test)))
        progress.parameters = sum(parameter.numel() for parameter in fitted.model.parameters())
        progress.next_fold()
        states.write(progress)
        if accelerator.is_main_process:
            remove_epochs(run.folder)
        del fitted
        accelerator.free_memory()
    if accelerator.is_main_process:
        states.require(seen := data_fingerprints(frames))  # image files may change during training
        scored = folds >= 0
        summary = summarise_training(config, progress, accelerator) | summarise_items(frames, seen)
        summary |= {"backbones": fingerprint_backbones(backbones)}
        summary |= {"teacher_identity": teacher["teacher"], "warning": TAUGHT} if teacher else {}
        summary |= {"trained": {str(fold): int((folds != fold).sum()) for fold in range(config.folds)}}
        oof, test = softmax(progress.oof[torch.from_numpy(scored)].numpy()), torch.stack(progress.test).numpy()
        run.write(codes, (frames["train"][scored], oof), (frames["test"], test), summary)
        states.remove()
        remove_epochs(run.folder)  # if it was interrupted between the two
        print(run, flush=True)
    accelerator.wait_for_everyone()


def hold_out(labels: pd.Series, groups: np.ndarray, seed: int) -> np.ndarray:
    """Return the mask `[N]` of the training items that choose the number of epochs: a random one of HELD_OUT_PARTS.

    A group stays together; one with all items of a class stays in training. Raise KitError if nothing is
    left to hold out.
    """
    held_out = split_up_to(HELD_OUT_PARTS, labels, seed, groups) == 0
    held_out &= ~np.isin(groups, groups[held_out & ~labels.isin(labels[~held_out])])
    if not held_out.any():
        raise KitError("There are too few training items to hold some out: pass -p keep last.")
    return held_out


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Return the accelerator of a run. Raise KitError if the processes cannot share a batch, or no tracker is there."""
    require_tracker(config)
    torch.set_float32_matmul_precision("high")  # TF32
    torch.set_flush_denormal(True)  # a shut LSTM gate makes numbers that slow a CPU down
    try:
        precision = _precision(config)
        if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
            AcceleratorState._reset_state()  # one process may use runs of several precisions, such as a stack's members
        accelerator = Accelerator(
            mixed_precision=precision,
            gradient_accumulation_steps=config.accumulate,
            dataloader_config=DataLoaderConfiguration(split_batches=True, non_blocking=True),
            log_with=config.track or None,
            project_config=ProjectConfiguration(logging_dir=str(runs_folder())) if config.track else None,
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=_any_backbone(config))],
        )
    except ValueError as error:  # of what this device can't do
        raise KitError(f"precision={config.precision!r} is not supported on this device: {error}") from error
    micro = config.micro_batch
    if micro % accelerator.num_processes:
        raise KitError(
            f"batch_size / accumulate = {micro} items can't be shared by {accelerator.num_processes} processes: make "
            f"batch_size a multiple of {config.accumulate * accelerator.num_processes}."
        )
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    return accelerator


def prepare(
    config: TrainConfig, accelerator: Accelerator
) -> tuple[list[int], dict[str, pd.DataFrame], dict[str, ProductDataset], Callable[[], Classifier]]:
    """Return the class codes, the frames `train` and `test`, their datasets, and a function that builds the model."""
    with accelerator.main_process_first():  # the others find in the cache what it computes
        codes, frames = read_items(config)
        if config.train_text_layers:  # refused now rather than after the features are computed
            find_backbones(config)["text"].top_layers(config.train_text_layers)
        targets = soft_targets(config, codes, frames) if config.teacher else None
        products, build = prepare_items(config, codes, frames, accelerator)
        products["train"].targets = targets
        return codes, frames, products, build


def prepare_items(
    config: TrainConfig,
    codes: list[int],
    frames: dict[str, pd.DataFrame],
    accelerator: Accelerator,
    backbones: dict[str, BackboneHandle] | None = None,
) -> tuple[dict[str, ProductDataset], Callable[[], Classifier]]:
    """Return the datasets of items of any origin, by part, and a function that builds the model for them.

    `backbones`: those of `config`, if they have been found before.
    """
    backbones = backbones or find_backbones(config)
    products = make_datasets(config, codes, frames, backbones)
    running = precompute(config, backbones, products, accelerator.device, accelerator.mixed_precision)
    cache_pixels(config, products)
    return products, functools.partial(build_model, config, len(codes), backbones, running)


def _any_backbone(config: TrainConfig) -> bool:
    """Return whether a backbone is not one of ours: it may have weights without a gradient, which DDP must expect."""
    return config.text not in TEXT or config.image not in IMAGE


def predicting(config: TrainConfig) -> TrainConfig:
    """Return a finished run's configuration for predicting on this machine, which may be another than trained it: in
    single precision in place of fp16 if there is no GPU."""
    precision = "no" if config.precision == "fp16" and not torch.accelerator.is_available() else config.precision
    return dataclasses.replace(config, track="", compile=False, checkpointing=False, precision=precision)


def _precision(config: TrainConfig) -> str:
    if config.precision == "fp16" and not torch.accelerator.is_available():  # no gradient scaling on a processor
        raise ValueError("half precision needs a GPU; a processor can do bf16 or no")
    if config.precision != "auto":
        return config.precision
    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False) else "no"
