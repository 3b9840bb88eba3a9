"""A model's outputs for all items, in their order, on every process.

N items · K classes
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from accelerate import Accelerator, DistributedType
from torch import Tensor, nn

from kit.config import TrainConfig
from kit.core.console import Bar
from kit.data.dataset import ProductDataset
from kit.data.sampler import make_loader
from kit.training.interrupt import Interrupted, Watch

PREDICTION_FACTOR = 4 if torch.cuda.is_available() else 1  # times a training batch: without a gradient there is room


def prediction_batches(
    items: ProductDataset, config: TrainConfig, accelerator: Accelerator
) -> Iterable[dict[str, Tensor]]:
    """Return the batches of `items` for prediction, this process's shares of them."""
    if not len(items):
        return []
    loader = make_loader(items, PREDICTION_FACTOR * config.micro_batch, workers=config.workers)
    return accelerator.prepare(loader)


def predict(
    model: nn.Module,
    batches: Iterable[dict[str, Tensor]],
    items: int,
    accelerator: Accelerator,
    watch: Watch | None = None,
) -> np.ndarray:
    """Return the logits `[N, K]` of all `items`, in order, on every process. Raise Interrupted if `watch` says so."""
    if not items:
        return np.zeros((0, accelerator.unwrap_model(model).classes), np.float32)
    (logits,) = run_batches(lambda batch: (model(batch),), batches, items, model, accelerator, watch)
    return logits


def run_batches(
    forward: Callable[[dict[str, Tensor]], tuple[Tensor, ...]],
    batches: Iterable[dict[str, Tensor]],
    items: int,
    model: nn.Module,
    accelerator: Accelerator,
    watch: Watch | None = None,
) -> list[np.ndarray]:
    """Return what `forward`, a use of `model`, returns for all `items`, in order, on every process; NaN for items that
    are in no batch. Raise Interrupted if `watch` says so.
    """
    model.eval()
    outputs = []
    sharded = accelerator.distributed_type == DistributedType.FSDP
    for buffer in model.buffers() if sharded else ():  # BatchNorm's statistics; otherwise torch sees to that
        torch.distributed.broadcast(buffer, 0)
    with torch.no_grad() if sharded else torch.inference_mode():  # training continues with the weights gathered here
        for batch in Bar(batches, desc="predict", leave=False, disable=not accelerator.is_main_process):
            one = tuple(value.float() for value in forward(batch))
            outputs.append(accelerator.gather_for_metrics((*one, batch["row"])))
            if watch and watch.agree()[0]:
                raise Interrupted(watch.heard)
    *values, rows = (torch.cat([part.cpu() for part in parts]).numpy() for parts in zip(*outputs, strict=True))
    ordered = [np.full((items, *value.shape[1:]), np.nan, np.float32) for value in values]
    for whole, value in zip(ordered, values, strict=True):
        whole[rows] = value
    return ordered
