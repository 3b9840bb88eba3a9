"""The one training loop: `accelerate launch -m kit.train runs/<name>/config.json …`, on any devices Accelerate knows.

N items · K classes · F folds
"""

import dataclasses
import functools
import math
import os
import platform
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from accelerate import (
    Accelerator,
    DataLoaderConfiguration,
    DistributedDataParallelKwargs,
    DistributedType,
    PartialState,
)
from accelerate.utils import (
    broadcast_object_list,
    gather_object,
    get_int_from_env,
    parse_flag_from_env,
    set_seed,
)
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.nn.functional import cross_entropy

from kit import linear
from kit.backbones import IMAGE, TEXT, find_backbones
from kit.cache import digest
from kit.config import LAUNCHER, LINEAR, KitError, TrainConfig, few
from kit.console import Bar, accept_any_character
from kit.datasets import MORE_SHARED, Products, keep_pixels, loader, make_products
from kit.features import fit_inputs, not_finite, precompute
from kit.items import describe_items, outline, read_items, tell_blanks
from kit.metrics import scores, softmax
from kit.models import Classifier, build_model
from kit.resume import Interrupted, Progress, States, Unheard, Watch
from kit.runs import BEGINS, NO_MEMORY, STOPPED, Run, write_atomically, write_json

WORLDS = "PMI", "OMPI_COMM_WORLD", "MV2_COMM_WORLD", "WORLD"  # whose _SIZE says of how many processes this is one
PREDICT = 4 if torch.cuda.is_available() else 1  # times a training batch: without a gradient there is room


def train(run: Run, watch: Watch | None = None) -> None:
    """Trains the run's configuration, one model a fold, and writes its results (see `kit.runs`); where it was begun
    already, goes on. Memory that runs out makes the batches smaller and more of them make a step.

    Raises KitError, and Interrupted where `watch` says so.
    """
    while True:
        config = run.config
        try:
            return _train(run, config, watch or Watch())
        except RuntimeError as error:
            if str(error).startswith("DataLoader"):  # a worker was killed, or its batch was lost
                reason = str(error).partition("\n")[0].rstrip(".")
                raise KitError(f"The processes that read images failed ({reason}): {MORE_SHARED}.") from error
            if not should_reduce_batch_size(error):
                raise
        shrink(run, config)
        clear_device_cache(garbage_collection=True)


def shrink(run: Run, config: TrainConfig) -> None:
    """Has the steps of a run that was trained as `config` cut into twice as many batches, or the next number that
    divides them. Raises KitError where one item is too many, or several processes have to start anew."""
    processes = PartialState().num_processes
    cuts = range(2 * config.accumulate, config.batch_size // processes + 1)
    able = [n for n in cuts if config.batch_size % (n * processes) == 0]
    if not able:
        raise KitError(
            "There is too little memory for a batch of one item a process: lower max_tokens, image_size or width, "
            "freeze a backbone, or pass -p checkpointing True."
        )
    write_json(run.folder / "config.json", dataclasses.asdict(config) | {"accumulate": able[0]})
    sentence = f"{NO_MEMORY}: a step's {config.batch_size} items are now cut into {able[0]} batches"
    if processes > 1:
        raise KitError(f"{sentence}. Start the run again with -p accumulate {able[0]}.")
    print(f"{sentence} (accumulate={able[0]}).", flush=True)


def _train(run: Run, config: TrainConfig, watch: Watch) -> None:
    started = time.perf_counter()
    accelerator = make_accelerator(config)
    watch.join(accelerator, config.max_minutes)
    if accelerator.is_main_process and not run.begun:
        run.clear()
    codes, frames, products, build = prepare(config, accelerator)
    if accelerator.is_main_process:
        tell_blanks(run, frames)
    weights = {f"{side} backbone": digest(source.identity) for side, source in find_backbones(config).items()}
    states = States(run, accelerator, outline(frames) | weights)
    states.clock = started
    folds = frames["train"]["fold"].to_numpy()
    progress = states.read(Progress(torch.full((len(folds), len(codes)), torch.nan)))
    for fold in range(progress.fold, config.folds):
        set_seed(config.seed + 1000 * fold)
        parts = {
            "train": products["train"].part(np.flatnonzero(folds != fold)),
            "oof": products["train"].part(np.flatnonzero(folds == fold)),
            "test": products["test"],
        }
        model = build().to(accelerator.device)
        if accelerator.process_index:  # the same weights, but a dropout of its own
            set_seed(config.seed + 1000 * fold + accelerator.process_index)
        if config.linear_start and not states.training:
            fit_inputs(config, model, parts["train"], accelerator.device)
        try:
            oof, test = fit(run, config, model, parts, accelerator, watch, progress, states)
        except NotFinite as error:
            ids = frames["train"]["id"].to_numpy()[parts["train"].places[error.rows]]
            items = f" The items of the batch: id {few(ids, 16)}." if len(ids) else ""
            raise KitError(
                f"{error}{items} Start over with a lower lr or a clip_norm, or with those items mended; or go on from "
                f"the last saved state with -p nonfinite skip."
            ) from error
        progress.oof[torch.from_numpy(folds == fold)] = torch.from_numpy(oof)
        progress.test.append(torch.from_numpy(softmax(test)))
        progress.parameters = sum(parameter.numel() for parameter in model.parameters())
        progress.next_fold()
        states.write(progress)
        del model
        accelerator.free_memory()
    if accelerator.is_main_process:
        states.require(seen := outline(frames))  # pictures are read all the while
        scored = folds >= 0
        summary = describe(config, progress, accelerator) | describe_items(frames, seen)
        summary |= {"trained": {str(fold): int((folds != fold).sum()) for fold in range(config.folds)}}
        oof, test = softmax(progress.oof[torch.from_numpy(scored)].numpy()), torch.stack(progress.test).numpy()
        run.write(codes, (frames["train"][scored], oof), (frames["test"], test), summary)
        states.remove()
        print(run, flush=True)
    accelerator.wait_for_everyone()


class NotFinite(KitError):
    """A loss that is no number; `rows`: the items of its batch, as positions among those trained on."""

    def __init__(self, sentence: str, rows: list[int]):
        super().__init__(sentence)
        self.rows = rows


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Raises KitError where the processes can't share a batch."""
    torch.set_float32_matmul_precision("high")  # TF32
    torch.set_flush_denormal(True)  # a shut LSTM gate makes numbers that slow a CPU down
    try:
        accelerator = Accelerator(
            mixed_precision=_precision(config),
            gradient_accumulation_steps=config.accumulate,
            dataloader_config=DataLoaderConfiguration(split_batches=True, non_blocking=True),
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=_any_backbone(config))],
        )
    except ValueError as error:  # of what this device can't do, or of two runs of one command that differ in it
        raise KitError(f"precision={config.precision!r} can't be had here: {error}") from error
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
) -> tuple[list[int], dict[str, pd.DataFrame], dict[str, Products], Callable[[], Classifier]]:
    """The class codes, the frames `train` and `test`, their products, and what builds the model. Raises KitError."""
    with accelerator.main_process_first():  # the others find in the cache what it computes
        codes, frames = read_items(config)
        backbones = find_backbones(config)
        products = make_products(config, codes, frames, backbones)
        running = precompute(config, backbones, products, accelerator.device, accelerator.mixed_precision)
        keep_pixels(config, products)
    return codes, frames, products, functools.partial(build_model, config, len(codes), backbones, running)


def fit(
    run: Run,
    config: TrainConfig,
    model: Classifier,
    parts: dict[str, Products],
    accelerator: Accelerator,
    watch: Watch,
    progress: Progress,
    states: States,
) -> tuple[np.ndarray, np.ndarray]:
    """Trains `model` on `train`, keeps the epoch that `keep` says, and gives its logits `[N, K]` of `oof` and `test`.

    Goes on where `progress` is. Adds a row an epoch to its history, which becomes metrics.csv; the weights go to
    model-<fold>.safetensors.
    """
    main, micro, fold = accelerator.is_main_process, config.micro_batch, progress.fold
    if accelerator.distributed_type == DistributedType.FSDP:  # it shards no weights in channels_last
        model.to(memory_format=torch.contiguous_format)
    batches = loader(parts["train"], micro, True, config.seed, config.workers, config.accumulate)
    sampler, optimizer = batches.batch_sampler, torch.optim.AdamW(parameter_groups(model, config), fused=True)
    sampler.full = accelerator.num_processes > 1
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, config.lr_decay)
    model, optimizer, batches = accelerator.prepare(model, optimizer, batches)
    validation = accelerator.prepare(loader(parts["oof"], PREDICT * micro, workers=config.workers))
    if states.training:
        states.restore(model, optimizer, schedule)

    def save() -> None:
        kept = [*(value for value in model.parameters() if value.requires_grad), *model.buffers()]
        if watch.agree(not all(value.isfinite().all() for value in kept))[1]:
            raise NotFinite(f"The weights are no numbers any more in epoch {progress.epoch + 1}.", [])
        states.write(progress, model, optimizer, schedule)

    weights, items = run.folder / f"model-{fold}.safetensors", len(parts["train"])
    title = f"fold {fold + 1}/{config.folds} " if config.folds > 1 else ""
    steps, history = -(-items // config.batch_size), progress.history
    for epoch in range(progress.epoch, config.epochs):
        batches.set_epoch(epoch)
        sampler.epoch, sampler.start = epoch, progress.step
        if progress.step < steps:
            bar = Bar(states.batches(batches), f"{title}epoch {epoch + 1}/{config.epochs}", len(batches), False)
            bar.disable |= not main
            whole = 0 if history else config.steps(items)
            train_epoch(config, model, bar, optimizer, accelerator, items, progress, watch, save, whole)
            with watch:
                save()  # an interruption from here on costs a validation
        states.restore_random()
        schedule.step()
        sums = torch.tensor([progress.loss, progress.items], device=accelerator.device)
        summed, seen = accelerator.reduce(sums).tolist()
        row = {"fold": fold, "epoch": epoch + 1, "train_loss": summed / seen if seen else math.nan}
        last = epoch + 1 == config.epochs
        if config.curve or config.keep == "best" or last:
            logits = predict(model, validation, len(parts["oof"]), accelerator, watch)
            row |= scores(softmax(logits), parts["oof"].labels)
        if not np.isfinite(list(row.values())).all():
            raise KitError(f"The loss is no number in epoch {epoch + 1}: start over with a lower lr or a clip_norm.")
        seconds = progress.epoch_seconds
        row |= {"seconds": seconds, "samples_per_second": items / seconds, "step_seconds": seconds / steps}
        kept = row["macro_f1"] > progress.best if config.keep == "best" else last
        history[:] = [past | {"kept": past["kept"] and not (kept and past["fold"] == fold)} for past in history]
        history.append(row | {"kept": kept})
        if main:
            print(title + describe_epoch(row, config.epochs) + ("  *" if kept else ""), flush=True)
            table = pd.DataFrame(history)
            write_atomically(run.folder / "metrics.csv", functools.partial(table.to_csv, index=False))
        if kept:
            progress.best, progress.kept = row["macro_f1"], torch.from_numpy(logits)
            save_weights(model, weights, accelerator)
        progress.next_epoch()
    accelerator.wait_for_everyone()
    load(model, weights, accelerator.unwrap_model(model).frozen_prefixes)
    test = loader(parts["test"], PREDICT * micro, workers=config.workers)
    test = accelerator.prepare(test) if len(parts["test"]) else []
    return progress.kept.numpy(), predict(model, test, len(parts["test"]), accelerator, watch)


def train_epoch(
    config: TrainConfig,
    model: nn.Module,
    batches: Iterable[dict[str, Tensor]],
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    items: int,
    progress: Progress,
    watch: Watch,
    save: Callable[[], None],
    whole: int = 0,
) -> None:
    """The rest of an epoch of `items` items: `batches`, this process's shares, from `progress.step` on.

    A step's loss is the mean over its items, however many processes and batches share them. `save` is called every
    `save_steps`, and before Interrupted is raised. `whole`: how many steps the run has; where that is given, the pace
    of the first ten is told. Raises NotFinite.
    """
    processes, rank = accelerator.num_processes, accelerator.process_index
    micro = config.micro_batch
    clock, first, spoilt = time.perf_counter(), progress.step, False
    told = first + min(10, -(-len(batches) // config.accumulate)) if whole and accelerator.is_main_process else 0
    seen = first * config.batch_size  # by all processes
    model.train()
    with watch:
        for batch in watch.each(batches):
            in_step = min(config.batch_size, items - progress.step * config.batch_size)
            whole_batch = min(micro, items - seen)
            own = min(max(whole_batch - rank * len(batch["label"]), 0), len(batch["label"]))  # what follows fills it up
            with accelerator.accumulate(model):
                logits, smoothing = model(batch), config.label_smoothing
                loss = cross_entropy(logits[:own], batch["label"][:own], label_smoothing=smoothing, reduction="sum")
                accelerator.backward(loss * (processes * config.accumulate / in_step))
                summed = loss.item()  # a GPU has the whole step before it, and does not run dry
                stop, bad = watch.agree(not math.isfinite(summed))
                if bad and config.nonfinite == "error":
                    rows = gather_object([] if math.isfinite(summed) else batch["row"][:own].tolist())
                    untrained = config.sides if not progress.epoch + progress.step else config.frozen
                    if sides := gather_object(_not_finite(model, batch, accelerator, untrained)):
                        raise KitError(not_finite(config, sides[0], accelerator.mixed_precision))
                    where = f"epoch {progress.epoch + 1}, step {progress.step + 1}"
                    raise NotFinite(f"The loss is no number in {where}.", rows)
                spoilt |= bad
                if not bad:
                    progress.loss, progress.items = progress.loss + summed, progress.items + own
                if accelerator.sync_gradients and not spoilt:
                    if config.clip_norm:
                        accelerator.clip_grad_norm_(model.parameters(), config.clip_norm)
                    optimizer.step()
                if accelerator.sync_gradients:
                    optimizer.zero_grad()
            seen += whole_batch
            if accelerator.sync_gradients:
                progress.step, progress.skipped, spoilt = progress.step + 1, progress.skipped + spoilt, False
                progress.epoch_seconds += time.perf_counter() - clock
                clock = time.perf_counter()
                if progress.step == told:
                    print(pace(progress.epoch_seconds / told, told, whole), flush=True)
                if stop or (config.save_steps and progress.step % config.save_steps == 0 and seen < items):
                    save()
                if stop:
                    raise Interrupted(watch.heard)


def _not_finite(
    model: nn.Module, batch: dict[str, Tensor], accelerator: Accelerator, untrained: tuple[str, ...]
) -> list[str]:
    """Those of the sides `untrained` whose backbone itself gives NaN or infinite numbers for the batch."""
    if accelerator.distributed_type == DistributedType.FSDP:  # a part of it can't be run alone
        return []
    with torch.no_grad(), accelerator.autocast():
        layers, regions = accelerator.unwrap_model(model).features(batch)
    real = batch["mask"].bool()
    found = {"text": [layer[real] for layer in layers or ()], "image": [] if regions is None else [regions]}
    return [side for side in untrained if not all(values.isfinite().all() for values in found[side])]


def pace(seconds: float, steps: int, whole: int) -> str:
    """What the first `steps` say of the `whole` run; the story's plan reads this line too."""
    return f"{seconds:.3g} s a step over the first {steps}: about {seconds * whole / 60:.1f} min for {whole} steps"


def parameter_groups(model: Classifier, config: TrainConfig) -> list[dict]:
    """Pretrained layers at `lr * backbone_lr_scale`, new ones at `lr` (paper section 4.3).

    Of the head, what its `new` names counts as new.
    """
    new, pretrained = [], []
    prefix = tuple(f"head.{name}" for name in model.head.new)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (new if name.startswith(prefix) else pretrained).append(parameter)
    groups = [{"params": pretrained, "lr": config.lr * config.backbone_lr_scale}, {"params": new, "lr": config.lr}]
    return [group | {"weight_decay": config.weight_decay} for group in groups if group["params"]]


def predict(
    model: nn.Module,
    batches: Iterable[dict[str, Tensor]],
    items: int,
    accelerator: Accelerator,
    watch: Watch | None = None,
) -> np.ndarray:
    """Logits `[N, K]` of all `items`, in their order, on every process. Raises Interrupted where `watch` says so."""
    model.eval()
    found = [(torch.empty(0, accelerator.unwrap_model(model).classes), torch.empty(0, dtype=torch.long))]
    sharded = accelerator.distributed_type == DistributedType.FSDP
    for buffer in model.buffers() if sharded else ():  # BatchNorm's statistics; otherwise torch sees to that
        torch.distributed.broadcast(buffer, 0)
    with torch.no_grad() if sharded else torch.inference_mode():  # training goes on with the weights gathered here
        for batch in Bar(batches, desc="predict", leave=False, disable=not accelerator.is_main_process):
            found.append(accelerator.gather_for_metrics((model(batch).float(), batch["row"])))
            if watch and watch.agree()[0]:
                raise Interrupted(watch.heard)
    values, rows = (torch.cat([part.cpu() for part in parts]).numpy() for parts in zip(*found, strict=True))
    logits = np.full((items, values.shape[1]), np.nan, np.float32)
    logits[rows] = values
    return logits


def describe_epoch(row: dict, epochs: int) -> str:
    """A row of metrics.csv as a line to read."""
    pace, validated = row["samples_per_second"], ""
    if "loss" in row:
        validated = f"validation loss {row['loss']:.4f}  macro-F1 {100 * row['macro_f1']:5.2f}  "
        validated += f"accuracy {100 * row['accuracy']:5.2f}  "
    return (
        f"epoch {row['epoch']:>2}/{epochs}  training loss {row['train_loss']:.4f}  {validated}"
        f"{row['seconds']:.0f} s, {pace:.{0 if pace >= 10 else 1}f} items/s"
    )


def save_weights(model: nn.Module, path: Path, accelerator: Accelerator) -> None:
    """The weights, but for those of frozen backbones: their name in config.json stands for them. Every process must
    call it: each may have a part of them."""
    frozen = accelerator.unwrap_model(model).frozen_prefixes
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if accelerator.is_main_process:
        kept = {name: value.contiguous() for name, value in state.items() if not name.startswith(frozen)}
        write_atomically(path, functools.partial(safetensors.torch.save_file, kept))


def load(model: nn.Module, path: Path, frozen: tuple[str, ...]) -> None:
    """Weights that `save_weights` wrote. Raises KitError where they are of another model."""
    options = StateDictOptions(full_state_dict=True, strict=False)
    found = set_model_state_dict(model, safetensors.torch.load_file(path), options=options)
    if found.unexpected_keys or any(not name.startswith(frozen) for name in found.missing_keys):
        raise KitError(f"{path} holds the weights of another model: train the run again.")


def describe(config: TrainConfig, progress: Progress, accelerator: Accelerator) -> dict:
    """What summary.json says of how the run went, but for its scores."""
    history = progress.history
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    cuda = accelerator.device.type == "cuda"
    packages = ("torch", "transformers", "timm", "accelerate", "numpy", "pandas")
    return {
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
        "step_seconds": float(np.median([row["step_seconds"] for row in history])),
        "samples_per_second": float(np.median([row["samples_per_second"] for row in history])),
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "processes": accelerator.num_processes,
        "precision": accelerator.mixed_precision,
        "peak_memory_gb": round(kilobytes / 2**20, 2),
        "peak_gpu_memory_gb": round(torch.cuda.max_memory_allocated() / 2**30, 2) if cuda else 0,
        "versions": {"python": platform.python_version()} | {package: version(package) for package in packages},
    }


def _any_backbone(config: TrainConfig) -> bool:
    """A backbone from outside may have weights that its features never pass, which several processes must know."""
    return config.text not in TEXT or config.image not in IMAGE


def _precision(config: TrainConfig) -> str:
    if config.precision != "auto":
        return config.precision
    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False) else "no"


def main(arguments: list[str]) -> int:
    accept_any_character()
    if not arguments:
        print("usage: accelerate launch -m kit.train runs/<name>/config.json …", file=sys.stderr)
        return 2
    if os.environ.get(LAUNCHER):
        sys.stdout, sys.stderr = Unheard(sys.stdout), Unheard(sys.stderr)
    try:
        state = meet()
    except KitError as error:
        print(f"{KitError.__name__}: {error}", file=sys.stderr, flush=True)
        return 1
    watch = Watch()
    with watch.listening():
        failed = _train_all(arguments, state, watch)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return failed


def meet() -> PartialState:
    """Return the state once all processes that the environment names are there; say so if it names several.

    Raises KitError where its variables are not whole.
    """
    several = "LOCAL_RANK" in os.environ or any(f"{name}_SIZE" in os.environ for name in WORLDS)
    usual = signal.getsignal(signal.SIGINT)
    try:
        count = get_int_from_env([f"{name}_SIZE" for name in WORLDS], 1)
        rank = get_int_from_env(["RANK", *(f"{name}_RANK" for name in WORLDS)], -1)
        if count > 1 and not 0 <= rank < count:
            raise ValueError(f"of {count} processes, this one has RANK={os.environ.get('RANK', '')}")
        if count > 1 and not os.environ.get(LAUNCHER) and (address := os.environ.get("MASTER_ADDR")):
            port = os.environ.get("MASTER_PORT", 29500)
            print(f"Process {rank} is waiting for {count} processes at {address}:{port}", flush=True)
        if count > 1:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python would hear it when all are there, and no sooner
        # so long the others wait while the first computes frozen features
        state = PartialState(parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=timedelta(hours=6))
        if state.num_processes < count:
            raise ValueError(f"of {count} processes, this one has LOCAL_RANK={os.environ.get('LOCAL_RANK', '')}")
    except (ValueError, RuntimeError, ImportError) as error:
        if not several:
            raise
        reason = str(error).partition("\n")[0].rstrip(".")
        raise KitError(
            f"The environment says that several processes train together, but not how they meet ({reason}): start "
            f"them with accelerate launch, or unset RANK, LOCAL_RANK, WORLD_SIZE and MASTER_ADDR to train alone."
        ) from error
    finally:
        signal.signal(signal.SIGINT, usual)
    return state


def _finished(run: Run) -> bool:
    """The same answer on all processes."""
    return broadcast_object_list([run.finished])[0]


def _train_all(arguments: list[str], state: PartialState, watch: Watch) -> int:
    """The exit status: 1 where a run failed, 130 after an interruption."""
    failed, main = 0, state.is_main_process
    for argument in arguments:
        path = Path(argument).resolve()
        run = Run(path if path.is_dir() else path.parent)
        try:
            if not isinstance(run.config, TrainConfig):  # before the lock, which would make a folder that is not there
                raise KitError(f"{run.folder} is an ensemble's: 05_ensemble makes it, from runs that are trained here.")
            finished = _finished(run)
            with run.alone() if main and not finished else nullcontext():
                if finished or _finished(run):  # by now: another process may have held it meanwhile
                    if main:
                        print(f"{run.name} is finished already", flush=True)
                    continue
                if main:
                    print(f"{BEGINS}{run.name}", flush=True)
                if run.config.system in LINEAR:
                    linear.fit(run)
                else:
                    train(run, watch)
        except Interrupted as reason:
            if state.is_main_process:
                saved = "goes on from its saved state" if run.begun else "begins anew: nothing was saved yet"
                why = str(reason) or "stopped in another process"
                sentence = f"{STOPPED}{why}; the same command {saved} (-p again True would start over)."
                print(f"\n{KitError.__name__}: {run.name}: {sentence}", file=sys.stderr, flush=True)
            return 130
        except KitError as error:
            # one raised in a process that reads images arrives with that process's traceback around it
            sentence = str(error).rsplit(f"{KitError.__name__}: ", 1)[-1].strip()
            print(f"\n{KitError.__name__}: {run.name}: {sentence}", file=sys.stderr, flush=True)
            failed = 1
            if state.num_processes > 1:  # the other processes may be elsewhere: all start anew with the next run
                return 1
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
