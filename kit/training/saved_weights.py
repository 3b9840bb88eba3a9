"""The weights that a training leaves: model-<fold>.safetensors, without those of frozen backbones.

Until a fold ends, epoch-<fold>-<epoch>.safetensors hold those that its soup may be made of.
"""

import functools
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict

from kit.core.cache import fingerprint
from kit.core.exceptions import KitError
from kit.core.files import write_atomically
from kit.models.backbones import BackboneHandle, check_backbones, find_backbones
from kit.runs import TrainingRun


def save_weights(model: nn.Module, path: Path, accelerator: Accelerator) -> None:
    """Write the weights, except those of frozen backbones, whose names in config.json stand for them.

    Every process must call it: each may hold a part of them.
    """
    frozen = accelerator.unwrap_model(model).frozen_prefixes
    state: dict[str, Any] = get_model_state_dict(
        model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    if accelerator.is_main_process:
        trained = {name: value.contiguous() for name, value in state.items() if not name.startswith(frozen)}
        write_atomically(path, functools.partial(save_file, trained))


def fingerprint_backbones(backbones: dict[str, BackboneHandle]) -> dict[str, str]:
    """Return a hash of each side's pretrained weights, for summary.json."""
    return {side: fingerprint(repr(backbone.weights)) for side, backbone in backbones.items()}


def require_backbones(run: TrainingRun) -> None:
    """Raise KitError if a backbone that a finished run names is not here, or is another than in training."""
    check_backbones(run.config)
    known = run.summary.get("backbones", {})
    for side, here in fingerprint_backbones(find_backbones(run.config)).items():
        if known.get(side) != here:
            raise KitError(
                f"The {side} backbone {getattr(run.config, side)!r} has other files now than when the run {run.name!r} "
                f"was trained: put the old ones back, or train the run again."
            )


def load_weights(model: nn.Module, path: Path, frozen: tuple[str, ...]) -> None:
    """Read what `save_weights` wrote into `model`. Raise KitError if it belongs to another model."""
    unexpected, missing = set_weights(model, load_file(path))
    if unexpected or any(not name.startswith(frozen) for name in missing):
        raise KitError(f"{path} holds the weights of another model: train the run again.")


def set_weights(model: nn.Module, weights: dict[str, Tensor]) -> tuple[list[str], list[str]]:
    """Put `weights` into `model`, on every process; return the names that it does not have, and those that it misses.

    `weights` stay as they are.
    """
    options = StateDictOptions(full_state_dict=True, strict=False)
    state: dict[str, Any] = {**weights}
    keys = set_model_state_dict(model, state, options=options)
    return keys.unexpected_keys, keys.missing_keys


def mix_weights(weights: dict[str, Tensor], other: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return `other` with the `share` and `weights` with the rest; counts are those of `weights`."""
    return {
        name: value.lerp(other[name], share) if value.is_floating_point() else value for name, value in weights.items()
    }


def remove_epochs(folder: Path) -> None:
    """Remove the weights of single epochs from a run's folder."""
    for path in folder.glob("epoch-*.safetensors"):
        path.unlink()
