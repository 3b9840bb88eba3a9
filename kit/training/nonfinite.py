"""A loss that became NaN or infinite: which part or which items are to blame."""

from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import gather_object
from torch import Tensor, nn

from kit.core.exceptions import KitError
from kit.training.features import not_finite
from kit.training.session import Session


class NotFinite(KitError):
    """The loss or its gradient became NaN or infinite; `rows` are the batch's indices into the run's training
    items."""

    def __init__(self, sentence: str, rows: list[int]):
        super().__init__(sentence)
        self.rows = rows


def blame(session: Session, model: nn.Module, batch: dict[str, Tensor], rows: list[int]) -> None:
    """Raise KitError if a backbone that was not trained yet returns numbers that are not finite, else NotFinite."""
    config, accelerator, progress = session.config, session.accelerator, session.progress
    rows = gather_object(rows)
    untrained = accelerator.unwrap_model(model).frozen if progress.epoch + progress.step else config.sides
    if sides := gather_object(_sides_not_finite(model, batch, accelerator, untrained)):
        raise KitError(not_finite(config, sides[0], accelerator.mixed_precision))
    place = f"epoch {progress.epoch + 1}, step {progress.step + 1}"
    raise NotFinite(f"The loss became NaN or infinite in {place}.", rows)


def _sides_not_finite(
    model: nn.Module, batch: dict[str, Tensor], accelerator: Accelerator, sides: tuple[str, ...]
) -> list[str]:
    """Return those of `sides` whose backbone itself returns NaN or infinite numbers for the batch."""
    if accelerator.distributed_type == DistributedType.FSDP:  # a part of it can't be run alone
        return []
    classifier: Any = accelerator.unwrap_model(model)
    with torch.no_grad(), accelerator.autocast():
        layers, regions = classifier.features(batch)
        values = dict(zip(("text", "image"), classifier.head.inputs(layers, batch["mask"], regions), strict=True))
    return [side for side in sides if not values[side].isfinite().all()]
