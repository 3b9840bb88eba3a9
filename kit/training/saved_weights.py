"""The weights that a training leaves: model-<fold>.safetensors, without those of frozen backbones."""

import functools
from pathlib import Path
from typing import Any

import safetensors.torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict

from kit.core.exceptions import KitError
from kit.core.files import write_atomically


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
        write_atomically(path, functools.partial(safetensors.torch.save_file, trained))


def load_weights(model: nn.Module, path: Path, frozen: tuple[str, ...]) -> None:
    """Read what `save_weights` wrote into `model`. Raise KitError if it belongs to another model."""
    options = StateDictOptions(full_state_dict=True, strict=False)
    state: dict[str, Any] = {**safetensors.torch.load_file(path)}
    keys = set_model_state_dict(model, state, options=options)
    if keys.unexpected_keys or any(not name.startswith(frozen) for name in keys.missing_keys):
        raise KitError(f"{path} holds the weights of another model: train the run again.")
