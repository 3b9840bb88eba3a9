"""The one training loop: `accelerate launch -m kit.train runs/<name>/config.json`, on any devices Accelerate knows.

N items · K classes
"""

import platform
import resource
import sys
import time
from functools import partial
from pathlib import Path

import accelerate
import numpy as np
import pandas as pd
import safetensors.torch
import timm
import torch
import transformers
from accelerate import Accelerator, DataLoaderConfiguration, DistributedDataParallelKwargs
from accelerate.utils import set_seed
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from kit.backbones import IMAGE, TEXT, load_image, load_text
from kit.config import KitError, TrainConfig
from kit.datasets import Products, fingerprint, loader, make_products, read_items
from kit.features import fit_inputs, precompute
from kit.metrics import bootstrap_macro_f1, macro_f1, softmax
from kit.models import Classifier, build_model
from kit.runs import Run, probabilities, write_atomically, write_json


def train(run: Run) -> None:
    """Trains the run's configuration and writes its results (see `kit.runs`). Raises KitError."""
    started, config = time.perf_counter(), run.config
    torch.set_float32_matmul_precision("high")
    torch.set_flush_denormal(True)  # a shut LSTM gate makes numbers that slow a CPU down
    accelerator = Accelerator(
        mixed_precision=_precision(config),
        gradient_accumulation_steps=config.accumulate,
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=_any_backbone(config))],
    )
    main, micro = accelerator.is_main_process, config.batch_size // config.accumulate
    if micro % accelerator.num_processes:
        raise KitError(
            f"batch_size / accumulate = {micro} items can't be shared by {accelerator.num_processes} processes: make "
            f"batch_size a multiple of {config.accumulate * accelerator.num_processes}."
        )
    if main:
        run.clear()
    set_seed(config.seed)
    codes, frames = read_items(config)
    model, parts = build(config, codes, frames, accelerator.device)
    batches = loader(parts["train"], micro, shuffle=True, seed=config.seed, workers=config.workers)
    sampler = batches.batch_sampler
    optimizer = torch.optim.AdamW(parameter_groups(model, config), fused=True)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, config.lr_decay)
    model, optimizer, batches = accelerator.prepare(model, optimizer, batches)
    validation = accelerator.prepare(loader(parts["oof"], micro, workers=config.workers))

    weights, best, history = run.folder / "model.safetensors", -1.0, []
    for epoch in range(config.epochs):
        clock, total = time.perf_counter(), torch.zeros(2, device=accelerator.device)  # summed loss, items
        sampler.set_epoch(epoch)
        model.train()
        for batch in tqdm(batches, desc=f"epoch {epoch + 1}/{config.epochs}", leave=False, disable=not main):
            with accelerator.accumulate(model):
                loss = cross_entropy(model(batch), batch["label"], label_smoothing=config.label_smoothing)
                accelerator.backward(loss)
                if config.clip_norm and accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), config.clip_norm)
                optimizer.step()
                optimizer.zero_grad()
            total += torch.stack([loss.detach().float() * len(batch["label"]), total.new_tensor(len(batch["label"]))])
        schedule.step()
        summed, items = accelerator.reduce(total).tolist()
        train_loss = summed / items
        seconds = time.perf_counter() - clock
        logits = predict(model, validation, len(parts["oof"]), len(codes), accelerator)
        if not (np.isfinite(train_loss) and np.isfinite(logits).all()):
            raise KitError(f"The loss is no longer finite in epoch {epoch + 1}: lower lr, or set clip_norm.")
        row = {"epoch": epoch + 1, "train_loss": train_loss, **scores(logits, parts["oof"].labels)}
        row |= {"seconds": seconds, "samples_per_second": len(parts["train"]) / seconds}
        history.append(row)
        improved = row["macro_f1"] > best
        best = max(best, row["macro_f1"])
        if main:
            print(progress(row, config.epochs) + ("  *" if improved else ""), flush=True)
            table = pd.DataFrame(history)
            write_atomically(run.folder / "metrics.csv", partial(table.to_csv, index=False))
            if improved:
                save(accelerator.unwrap_model(model), weights)
    accelerator.wait_for_everyone()
    load(accelerator.unwrap_model(model), weights)

    results = {}
    for name in ("oof", "test"):
        items = accelerator.prepare(loader(parts[name], micro, workers=config.workers)) if len(parts[name]) else []
        results[name] = predict(model, items, len(parts[name]), len(codes), accelerator)
    if main:
        for name, logits in results.items():
            known = [column for column in ("id", "split", "label", "fold") if column in frames[name]]
            frame = pd.concat([frames[name][known], probabilities(codes, softmax(logits))], axis=1)
            write_atomically(run.folder / f"{name}.parquet", frame.to_parquet)
        summary = summarise(config, history, results["oof"], parts, codes, accelerator)
        summary |= {"data": fingerprint(frames), "seconds": round(time.perf_counter() - started, 1)}
        write_json(run.folder / "summary.json", summary)
    accelerator.end_training()


def build(config: TrainConfig, codes: list[int], frames: dict[str, pd.DataFrame], device: torch.device):
    """The model on `device` and the items of each frame; frozen backbones have run already where memory allows."""
    text, image = load_text(config.text, config.pretrained), load_image(config.image, config.pretrained)
    image.check_size(config.image_size)
    if not config.train_embeddings:
        text.freeze_embeddings()
    parts = make_products(config, codes, frames, text, image)
    model = build_model(config, len(codes), text, image).to(device)
    precompute(model, list(parts.values()), config.features_gb, device, config.workers)
    if config.linear_start:
        fit_inputs(model, loader(parts["train"], 32, shuffle=True, workers=config.workers), device)
    return model, parts


def parameter_groups(model: Classifier, config: TrainConfig) -> list[dict]:
    """Pretrained layers at `lr * backbone_lr_scale`, new ones at `lr` (paper section 4.3).

    After a linear start only the classifier counts as new: the rest of the head begins with a meaning to keep.
    """
    new, pretrained = [], []
    prefix = "head.classifier." if config.linear_start else "head."
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (new if name.startswith(prefix) else pretrained).append(parameter)
    groups = [{"params": pretrained, "lr": config.lr * config.backbone_lr_scale}, {"params": new, "lr": config.lr}]
    return [group | {"weight_decay": config.weight_decay} for group in groups if group["params"]]


@torch.inference_mode()
def predict(model: nn.Module, batches: DataLoader, items: int, classes: int, accelerator: Accelerator) -> np.ndarray:
    """Logits `[N, K]` of all `items`, in their order, on every process."""
    model.eval()
    logits = np.full((items, classes), np.nan, np.float32)
    for batch in tqdm(batches, desc="predict", leave=False, disable=not accelerator.is_main_process):
        output, rows = accelerator.gather_for_metrics((model(batch).float(), batch["row"]))
        logits[rows.cpu().numpy()] = output.cpu().numpy()
    return logits


def scores(logits: np.ndarray, labels: np.ndarray) -> dict:
    """Validation loss, macro-F1 and accuracy."""
    predicted = logits.argmax(1)
    loss = cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)).item()
    return {"loss": loss, "macro_f1": macro_f1(labels, predicted), "accuracy": float((predicted == labels).mean())}


def progress(row: dict, epochs: int) -> str:
    """A row of metrics.csv as a line to read."""
    return (
        f"epoch {row['epoch']:>2}/{epochs}  training loss {row['train_loss']:.4f}  validation loss {row['loss']:.4f}  "
        f"macro-F1 {100 * row['macro_f1']:5.2f}  accuracy {100 * row['accuracy']:5.2f}  "
        f"{row['seconds']:.0f} s, {row['samples_per_second']:.0f} items/s"
    )


def save(model: Classifier, path: Path) -> None:
    """The weights, but for those of frozen backbones: their name in config.json stands for them."""
    state = model.state_dict()
    kept = {name: value.contiguous() for name, value in state.items() if not name.startswith(model.frozen_prefixes)}
    write_atomically(path, partial(safetensors.torch.save_file, kept))


def load(model: Classifier, path: Path) -> None:
    """Weights that `save` wrote. Raises KitError where they are of another model."""
    missing, unexpected = model.load_state_dict(safetensors.torch.load_file(path), strict=False)
    if unexpected or any(not name.startswith(model.frozen_prefixes) for name in missing):
        raise KitError(f"{path} holds the weights of another model: train the run again.")


def summarise(
    config: TrainConfig,
    history: list[dict],
    logits: np.ndarray,
    parts: dict[str, Products],
    codes: list[int],
    accelerator: Accelerator,
) -> dict:
    """What summary.json says, but for the data's fingerprint and the seconds."""
    labels = parts["oof"].labels
    low, high = bootstrap_macro_f1(labels, logits.argmax(1))
    best = max(history, key=lambda row: row["macro_f1"])
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    cuda = accelerator.device.type == "cuda"
    versions = {module.__name__: module.__version__ for module in (torch, transformers, timm, accelerate, np, pd)}
    return {
        "run": config.run,
        "text": config.text,
        "image": config.image,
        "recipe": config.recipe,
        **scores(logits, labels),
        "macro_f1_low": low,
        "macro_f1_high": high,
        "epoch": best["epoch"],
        "epochs": len(history),
        "classes": len(codes),
        "items": {name: len(part) for name, part in parts.items()},
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "processes": accelerator.num_processes,
        "precision": accelerator.mixed_precision,
        "peak_memory_gb": round(kilobytes / 2**20, 2),
        "peak_gpu_memory_gb": round(torch.cuda.max_memory_allocated() / 2**30, 2) if cuda else 0,
        "samples_per_second": float(np.median([row["samples_per_second"] for row in history])),
        "versions": {"python": platform.python_version(), **versions},
    }


def _any_backbone(config: TrainConfig) -> bool:
    """A backbone from outside may have weights that its features never pass, which several processes must know."""
    return config.text not in TEXT or config.image not in IMAGE


def _precision(config: TrainConfig) -> str:
    if config.precision != "auto":
        return config.precision
    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False) else "no"


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: accelerate launch -m kit.train runs/<name>/config.json", file=sys.stderr)
        return 2
    try:
        train(Run(Path(arguments[0]).resolve().parent))
    except KitError as error:
        # one raised in a process that reads images arrives with that process's traceback around it
        sentence = str(error).rsplit(f"{KitError.__name__}: ", 1)[-1].strip()
        print(f"\n{KitError.__name__}: {sentence}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
