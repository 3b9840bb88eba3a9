"""The training loop: fit one fold's model, epoch by epoch, and predict with it.

N items · K classes
"""

import functools
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.nn.functional import cross_entropy

from kit.config import TrainConfig
from kit.core.console import Bar
from kit.core.exceptions import KitError
from kit.core.files import write_atomically
from kit.data.dataset import ProductDataset
from kit.data.sampler import make_loader
from kit.metrics import scores, softmax
from kit.models.classifier import Classifier
from kit.runs import Run
from kit.training.checkpoint import Checkpoints, Progress
from kit.training.features import not_finite
from kit.training.interrupt import Interrupted, Watch
from kit.training.status import report

PREDICTION_FACTOR = 4 if torch.cuda.is_available() else 1  # times a training batch: without a gradient there is room


class NotFinite(KitError):
    """A loss that is no number; `rows`: the items of its batch, as positions among those trained on."""

    def __init__(self, sentence: str, rows: list[int]):
        super().__init__(sentence)
        self.rows = rows


def fit(
    run: Run,
    config: TrainConfig,
    model: Classifier,
    parts: dict[str, ProductDataset],
    accelerator: Accelerator,
    watch: Watch,
    progress: Progress,
    states: Checkpoints,
) -> tuple[np.ndarray, np.ndarray]:
    """Trains `model` on `train`, keeps the epoch that `keep` says, and gives its logits `[N, K]` of `oof` and `test`.

    Goes on where `progress` is. Adds a row an epoch to its history, which becomes metrics.csv; the weights go to
    model-<fold>.safetensors.
    """
    main, micro, fold = accelerator.is_main_process, config.micro_batch, progress.fold
    if accelerator.distributed_type == DistributedType.FSDP:  # it shards no weights in channels_last
        model.to(memory_format=torch.contiguous_format)
    batches = make_loader(parts["train"], micro, True, config.seed, config.workers, config.accumulate)
    sampler, optimizer = batches.batch_sampler, torch.optim.AdamW(parameter_groups(model, config), fused=True)
    sampler.full = accelerator.num_processes > 1
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, config.lr_decay)
    model, optimizer, batches = accelerator.prepare(model, optimizer, batches)
    validation = accelerator.prepare(make_loader(parts["oof"], PREDICTION_FACTOR * micro, workers=config.workers))
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
    load_weights(model, weights, accelerator.unwrap_model(model).frozen_prefixes)
    test = make_loader(parts["test"], PREDICTION_FACTOR * micro, workers=config.workers)
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
    measured = first + min(10, -(-len(batches) // config.accumulate))
    told = measured if whole and accelerator.is_main_process else 0
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
                done = (progress.fold * config.epochs + progress.epoch) * -(-items // config.batch_size) + progress.step
                pace = {"seconds_per_step": progress.epoch_seconds / progress.step} if progress.step >= measured else {}
                place = {"fold": progress.fold + 1, "epoch": progress.epoch + 1, "step": progress.step}
                report(**place, done=done, total=config.steps(items), **pace)
                if progress.step == told:
                    print(describe_pace(progress.epoch_seconds / told, told, whole), flush=True)
                if stop or (config.save_steps and progress.step % config.save_steps == 0 and seen < items):
                    save()
                if stop:
                    raise Interrupted(watch.heard)


def describe_pace(seconds: float, steps: int, whole: int) -> str:
    """What the first `steps` say of the `whole` run."""
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
    describe_pace, validated = row["samples_per_second"], ""
    if "loss" in row:
        validated = f"validation loss {row['loss']:.4f}  macro-F1 {100 * row['macro_f1']:5.2f}  "
        validated += f"accuracy {100 * row['accuracy']:5.2f}  "
    return (
        f"epoch {row['epoch']:>2}/{epochs}  training loss {row['train_loss']:.4f}  {validated}"
        f"{row['seconds']:.0f} s, {describe_pace:.{0 if describe_pace >= 10 else 1}f} items/s"
    )


def save_weights(model: nn.Module, path: Path, accelerator: Accelerator) -> None:
    """The weights, but for those of frozen backbones: their name in config.json stands for them. Every process must
    call it: each may have a part of them."""
    frozen = accelerator.unwrap_model(model).frozen_prefixes
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if accelerator.is_main_process:
        kept = {name: value.contiguous() for name, value in state.items() if not name.startswith(frozen)}
        write_atomically(path, functools.partial(safetensors.torch.save_file, kept))


def load_weights(model: nn.Module, path: Path, frozen: tuple[str, ...]) -> None:
    """Weights that `save_weights` wrote. Raises KitError where they are of another model."""
    options = StateDictOptions(full_state_dict=True, strict=False)
    found = set_model_state_dict(model, safetensors.torch.load_file(path), options=options)
    if found.unexpected_keys or any(not name.startswith(frozen) for name in found.missing_keys):
        raise KitError(f"{path} holds the weights of another model: train the run again.")


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
