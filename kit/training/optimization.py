"""What the optimizer does: learning rates per group of weights, their schedule, and the weights of the classes.

K classes
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ChainedScheduler, CosineAnnealingLR, LinearLR, LRScheduler, MultiStepLR

from kit.config import TrainConfig
from kit.models.classifier import Classifier


def parameter_groups(model: Classifier, config: TrainConfig) -> list[dict]:
    """Return AdamW's groups: pretrained layers at `lr * backbone_lr_scale`, new ones at `lr` (paper section 4.3).

    In the head, what its `new` names counts as new.
    """
    new: list[nn.Parameter] = []
    pretrained: list[nn.Parameter] = []
    prefix = ("missing.", *(f"head.{name}" for name in model.head.new))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (new if name.startswith(prefix) else pretrained).append(parameter)
    groups = [{"params": pretrained, "lr": config.lr * config.backbone_lr_scale}, {"params": new, "lr": config.lr}]
    return [group | {"weight_decay": config.weight_decay} for group in groups if group["params"]]


def class_weights(labels: np.ndarray, classes: int, power: float) -> Tensor:
    """Return weights `[K]` proportional to the inverse class frequencies to the `power`, of mean 1 over the items."""
    counts = np.bincount(labels, minlength=classes)
    weights = np.maximum(counts, 1) ** -power  # a class without an item is in no loss
    return torch.from_numpy(weights * counts.sum() / (weights * counts).sum()).float()


def learning_rates(optimizer: torch.optim.Optimizer, config: TrainConfig, steps: int) -> LRScheduler:
    """Return the schedule of the learning rates, moved after every step, for epochs of `steps` steps.

    The warm-up multiplies whichever decay is chosen.
    """
    total = config.epochs * steps
    decay = (
        CosineAnnealingLR(optimizer, total)
        if config.schedule == "cosine"
        else MultiStepLR(optimizer, [*range(steps, total, steps)], config.lr_decay)
    )
    rising = round(config.warmup * total)
    warmup = [LinearLR(optimizer, 1 / (rising + 1), total_iters=rising)] if rising else []
    return ChainedScheduler([decay, *warmup], optimizer)
