"""The one training loop: `accelerate launch -m kit.train runs/<name>/config.json …`, on any devices Accelerate knows.

N items · K classes · F folds
"""

import functools
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterable
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
    PartialState,
)
from accelerate.utils import parse_flag_from_env, set_seed
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from kit import linear
from kit.backbones import IMAGE, TEXT, find_backbones
from kit.config import LINEAR, KitError, TrainConfig
from kit.datasets import Products, keep_pixels, loader, make_products
from kit.features import fit_inputs, precompute
from kit.items import fingerprint, read_items
from kit.metrics import scores, softmax
from kit.models import Classifier, build_model
from kit.runs import BEGINS, Run, write_atomically

PREDICT = 4 if torch.cuda.is_available() else 1  # times a training batch: without a gradient there is room


def train(run: Run) -> None:
    """Trains the run's configuration, one model a fold, and writes its results (see `kit.runs`). Raises KitError."""
    started, config = time.perf_counter(), run.config
    accelerator = make_accelerator(config)
    if accelerator.is_main_process:
        run.clear()
    codes, frames, products, build = prepare(config, accelerator)
    folds, history, test = frames["train"]["fold"].to_numpy(), [], []
    oof = np.full((len(folds), len(codes)), np.nan, np.float32)
    for fold in range(config.folds):
        set_seed(config.seed + 1000 * fold)
        parts = {
            "train": products["train"].part(np.flatnonzero(folds != fold)),
            "oof": products["train"].part(np.flatnonzero(folds == fold)),
            "test": products["test"],
        }
        model = build().to(accelerator.device)
        if config.linear_start:
            fit_inputs(model, loader(parts["train"], 32, shuffle=True, workers=config.workers), accelerator.device)
        oof[folds == fold], logits = fit(run, config, fold, model, parts, accelerator, history)
        test.append(softmax(logits))
        parameters = sum(parameter.numel() for parameter in model.parameters())
        del model
        accelerator.free_memory()
    if accelerator.is_main_process:
        scored = folds >= 0
        summary = describe(config, history, accelerator) | {"data": fingerprint(frames)}
        summary |= {"trained": {str(fold): int((folds != fold).sum()) for fold in range(config.folds)}}
        summary |= {"parameters": parameters, "seconds": round(time.perf_counter() - started, 1)}
        run.write(codes, (frames["train"][scored], softmax(oof[scored])), (frames["test"], np.stack(test)), summary)
        print(run, flush=True)
    accelerator.wait_for_everyone()


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Raises KitError where the processes can't share a batch."""
    torch.set_float32_matmul_precision("high")  # TF32
    torch.set_flush_denormal(True)  # a shut LSTM gate makes numbers that slow a CPU down
    accelerator = Accelerator(
        mixed_precision=_precision(config),
        gradient_accumulation_steps=config.accumulate,
        dataloader_config=DataLoaderConfiguration(split_batches=True, non_blocking=True),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=_any_backbone(config))],
    )
    micro = config.batch_size // config.accumulate
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
    codes, frames = read_items(config)
    backbones = find_backbones(config)
    with accelerator.main_process_first():  # the others find in the cache what it computes
        products = make_products(config, codes, frames, backbones)
        running = precompute(config, backbones, products, accelerator.device, accelerator.mixed_precision)
        keep_pixels(config, products)
    return codes, frames, products, functools.partial(build_model, config, len(codes), backbones, running)


def fit(
    run: Run,
    config: TrainConfig,
    fold: int,
    model: Classifier,
    parts: dict[str, Products],
    accelerator: Accelerator,
    history: list[dict],
) -> tuple[np.ndarray, np.ndarray]:
    """Trains `model` on `train`, keeps the epoch that `keep` says, and gives its logits `[N, K]` of `oof` and `test`.

    Adds a row an epoch to `history`, which becomes metrics.csv; the weights go to model-<fold>.safetensors.
    """
    main, micro = accelerator.is_main_process, config.batch_size // config.accumulate
    batches = loader(parts["train"], micro, shuffle=True, seed=config.seed, workers=config.workers)
    sampler = batches.batch_sampler
    optimizer = torch.optim.AdamW(parameter_groups(model, config), fused=True)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, config.lr_decay)
    model, optimizer, batches = accelerator.prepare(model, optimizer, batches)
    validation = accelerator.prepare(loader(parts["oof"], PREDICT * micro, workers=config.workers))

    weights, best, items = run.folder / f"model-{fold}.safetensors", -1.0, len(parts["train"])
    title = f"fold {fold + 1}/{config.folds} " if config.folds > 1 else ""
    for epoch in range(config.epochs):
        clock = time.perf_counter()
        sampler.set_epoch(epoch)
        bar = tqdm(batches, desc=f"{title}epoch {epoch + 1}/{config.epochs}", leave=False, disable=not main)
        loss = train_epoch(config, model, bar, optimizer, accelerator, config.steps(items) if not history else 0)
        schedule.step()
        seconds = time.perf_counter() - clock
        row, last = {"fold": fold, "epoch": epoch + 1, "train_loss": loss}, epoch + 1 == config.epochs
        if config.curve or config.keep == "best" or last:
            logits = predict(model, validation, len(parts["oof"]), accelerator)
            row |= scores(softmax(logits), parts["oof"].labels)
        if not np.isfinite(list(row.values())).all():
            raise KitError(f"The loss is no longer finite in epoch {epoch + 1}: lower lr, or set clip_norm.")
        row |= {"seconds": seconds, "samples_per_second": items / seconds}
        row |= {"step_seconds": seconds / -(-items // config.batch_size)}
        kept = row["macro_f1"] > best if config.keep == "best" else last
        history[:] = [past | {"kept": past["kept"] and not (kept and past["fold"] == fold)} for past in history]
        history.append(row | {"kept": kept})
        if main:
            print(title + progress(row, config.epochs) + ("  *" if kept else ""), flush=True)
            table = pd.DataFrame(history)
            write_atomically(run.folder / "metrics.csv", functools.partial(table.to_csv, index=False))
        if kept:
            best, oof = row["macro_f1"], logits
            if main:
                save(accelerator.unwrap_model(model), weights)
    accelerator.wait_for_everyone()
    load(accelerator.unwrap_model(model), weights)
    test = loader(parts["test"], PREDICT * micro, workers=config.workers)
    test = accelerator.prepare(test) if len(parts["test"]) else []
    return oof, predict(model, test, len(parts["test"]), accelerator)


def train_epoch(
    config: TrainConfig,
    model: nn.Module,
    batches: Iterable[dict[str, Tensor]],
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    whole: int = 0,
) -> float:
    """One pass over `batches`; gives the mean loss over the items of all processes.

    `whole`: how many steps the run has; where that is given, the pace of the first ten is told.
    """
    clock, steps, items, summed = time.perf_counter(), 0, 0, torch.zeros((), device=accelerator.device)
    told = min(10, -(-len(batches) // config.accumulate)) if whole and accelerator.is_main_process else 0
    model.train()
    for batch in batches:
        with accelerator.accumulate(model):
            loss = cross_entropy(model(batch), batch["label"], label_smoothing=config.label_smoothing)
            accelerator.backward(loss)
            if config.clip_norm and accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
        items += len(batch["label"])
        summed += loss.detach().float() * len(batch["label"])
        steps += accelerator.sync_gradients
        if accelerator.sync_gradients and steps == told:
            print(pace((time.perf_counter() - clock) / steps, steps, whole), flush=True)
    summed, items = accelerator.reduce(torch.stack([summed, summed.new_tensor(items)])).tolist()
    return summed / items


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


@torch.inference_mode()
def predict(model: nn.Module, batches: Iterable[dict[str, Tensor]], items: int, accelerator: Accelerator) -> np.ndarray:
    """Logits `[N, K]` of all `items`, in their order, on every process."""
    model.eval()
    found = [(torch.empty(0, accelerator.unwrap_model(model).classes), torch.empty(0, dtype=torch.long))]
    for batch in tqdm(batches, desc="predict", leave=False, disable=not accelerator.is_main_process):
        found.append(accelerator.gather_for_metrics((model(batch).float(), batch["row"])))
    values, rows = (torch.cat([part.cpu() for part in parts]).numpy() for parts in zip(*found, strict=True))
    logits = np.full((items, values.shape[1]), np.nan, np.float32)
    logits[rows] = values
    return logits


def progress(row: dict, epochs: int) -> str:
    """A row of metrics.csv as a line to read."""
    pace, validated = row["samples_per_second"], ""
    if "loss" in row:
        validated = f"validation loss {row['loss']:.4f}  macro-F1 {100 * row['macro_f1']:5.2f}  "
        validated += f"accuracy {100 * row['accuracy']:5.2f}  "
    return (
        f"epoch {row['epoch']:>2}/{epochs}  training loss {row['train_loss']:.4f}  {validated}"
        f"{row['seconds']:.0f} s, {pace:.{0 if pace >= 10 else 1}f} items/s"
    )


def save(model: Classifier, path: Path) -> None:
    """The weights, but for those of frozen backbones: their name in config.json stands for them."""
    state = model.state_dict()
    kept = {name: value.contiguous() for name, value in state.items() if not name.startswith(model.frozen_prefixes)}
    write_atomically(path, functools.partial(safetensors.torch.save_file, kept))


def load(model: Classifier, path: Path) -> None:
    """Weights that `save` wrote. Raises KitError where they are of another model."""
    missing, unexpected = model.load_state_dict(safetensors.torch.load_file(path), strict=False)
    if unexpected or any(not name.startswith(model.frozen_prefixes) for name in missing):
        raise KitError(f"{path} holds the weights of another model: train the run again.")


def describe(config: TrainConfig, history: list[dict], accelerator: Accelerator) -> dict:
    """What summary.json says of how the run went, but for its scores."""
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
    if not arguments:
        print("usage: accelerate launch -m kit.train runs/<name>/config.json …", file=sys.stderr)
        return 2
    failed = False
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU")
    state = PartialState(cpu, timeout=timedelta(hours=6))  # the others wait while the first computes frozen features
    for argument in arguments:
        run = Run(Path(argument).resolve().parent)
        if len(arguments) > 1 and state.is_main_process:
            print(f"{BEGINS}{run.name}", flush=True)
        try:
            if run.config.system in LINEAR:
                linear.fit(run)
            else:
                train(run)
        except KitError as error:
            # one raised in a process that reads images arrives with that process's traceback around it
            sentence = str(error).rsplit(f"{KitError.__name__}: ", 1)[-1].strip()
            print(f"\n{KitError.__name__}: {run.name}: {sentence}", file=sys.stderr, flush=True)
            failed = True
            if state.num_processes > 1:  # the other processes may be elsewhere: all start anew with the next run
                return 1
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
