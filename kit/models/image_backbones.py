"""Image backbones: timm models that return the regions of their last feature map, or a grid of patches.

B batch · R regions · d the backbone's own width
"""

import copy
import json
import math
import textwrap
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from kit.core.exceptions import KitError, first_line
from kit.models.pretrained import BROKEN, WEIGHTS, check_hub, local_directory, refuse_pointers, timm_hub_name
from kit.models.registry import IMAGE

# of the images in one pass on a CPU: 1.9 times as fast as a pass with 32 images of 224 px
NUMBERS_PER_PASS = 4 * 224 * 224 * 3


def check_image(name: str) -> None:
    """Raise KitError if the image backbone `name` cannot be loaded here; a quick check that loads nothing."""
    if name in IMAGE and (file := IMAGE[name].file):
        file.locate()
    elif directory := local_directory(name, "image"):
        refuse_pointers(directory)
        read_timm_directory(directory)
    else:
        hub = timm_hub_name(name)
        if not hub:
            raise KitError(
                f"image={name!r} is not a name that the kit knows ({', '.join(IMAGE)}), not a directory and not a "
                f"timm model: check the spelling (timm.list_models() lists them)."
            )
        check_hub(name, hub, "image", "model.safetensors")


class ImageBackbone(nn.Module):
    """A timm model without its classifier. `mean`, `std`: of its normalised pixels, 3 numbers each."""

    model: Any  # of timm, whose attributes differ by family
    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: tuple, std: tuple):
        super().__init__()
        self.model = model
        self.width: int = self.model.num_features
        if not all(0 <= value <= 1 for value in (*mean, *std)) or 0 in std:
            raise ValueError(f"its mean {mean} and std {std} are not those of pixels from 0 to 1")
        for name, values in (("mean", mean), ("std", std)):  # of pixels from 0 to 255
            self.register_buffer(name, 255 * torch.tensor(values).view(3, 1, 1), persistent=False)

    @property
    def name(self) -> str:
        return self.model.pretrained_cfg["architecture"]

    @torch.inference_mode()
    def count_regions(self, size: int) -> int:
        """Return the number of regions of an image of `size` pixels a side.

        Raise KitError if this model does not accept such images, or if its features are not a map of regions.
        """
        config, patches = self.model.pretrained_cfg, getattr(self.model, "patch_embed", None)
        native = (getattr(patches, "img_size", None) or config["input_size"])[-1]
        reason = f"accepts only {native} pixels a side" if config.get("fixed_input_size") and size != native else ""
        if not reason:
            try:
                regions = self(torch.zeros(1, size, size, 3, dtype=torch.uint8))
            except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
                reason = f"fails on it ({first_line(error).rstrip('.')})"
        if reason:
            advice = "use another" if size == native else f"pass -p image_size {native}, or use another"
            raise KitError(f"image_size={size} does not fit the image backbone {self.name}, which {reason}: {advice}.")
        count, width = regions.shape[1:]
        if count == 1 or math.isqrt(count) ** 2 != count or width != self.width:  # a class token makes k² + 1
            raise KitError(
                f"The image backbone {self.name} returns {count} vectors of width {width} for an image of {size} "
                f"pixels a side, no map of regions: use another backbone, or a larger image_size if that is small."
            )
        return count

    def checkpoint(self) -> None:
        """Save memory: keep only each block's input for the backward pass, and compute the rest again.

        What is learned stays the same: BatchNorm layers that are computed again see a batch twice, so each time their
        statistics move towards it by less. Raise KitError if the model does not support it.
        """
        try:
            self.model.set_grad_checkpointing()
        except (AssertionError, AttributeError) as error:
            raise KitError(
                f"timm's {self.name} does not support checkpointing: leave it out, or use another."
            ) from error
        for layer in self._computed_again():
            assert layer.momentum is not None  # as in all of timm's models
            layer.momentum = 1 - math.sqrt(1 - layer.momentum)  # (1 - new)² = 1 - old

    def _computed_again(self) -> list[_BatchNorm]:
        """Return the BatchNorm layers that run again during the backward pass, tried without computing anything."""
        layers = [layer for layer in self.modules() if isinstance(layer, _BatchNorm)]
        if not layers:
            return []
        again: set[int] = set()
        hollow = copy.deepcopy(self).to("meta").train()
        size = self.model.pretrained_cfg["input_size"][-1]
        regions = hollow(torch.zeros(2, size, size, 3, dtype=torch.uint8, device="meta"))
        for place, layer in enumerate(layer for layer in hollow.modules() if isinstance(layer, _BatchNorm)):
            layer.register_forward_pre_hook(lambda *_, place=place: again.add(place))
        regions.sum().backward()
        return [layers[place] for place in again]

    def forward(self, pixels: Tensor) -> Tensor:
        """Return regions `[B, R, d]` of pixels `[B, H, W, 3]`, 0 to 255; at stride 32 there are H/32 · W/32."""
        if self.training or pixels.device.type != "cpu":
            return self._regions(pixels)
        # without batch statistics images are independent: run as many at a time as the processor's cache holds
        return torch.cat([self._regions(some) for some in pixels.split(max(1, NUMBERS_PER_PASS // pixels[0].numel()))])

    def _regions(self, pixels: Tensor) -> Tensor:
        pixels = (pixels.permute(0, 3, 1, 2) - self.mean) / self.std  # [B, 3, H, W], its channels last in memory
        features = self.model.forward_features(pixels)
        if not isinstance(features, Tensor) or features.ndim not in (3, 4):
            shape = f"of shape {list(features.shape)}" if isinstance(features, Tensor) else "in several parts"
            raise KitError(f"The image backbone {self.name} returns features {shape}, no map of regions: use another.")
        if features.ndim == 3:  # vision transformers: patches after class and register tokens
            return features[:, getattr(self.model, "num_prefix_tokens", 0) :]
        if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            return features.flatten(1, 2)
        return features.flatten(2).transpose(1, 2)  # [B, d, h, w] → [B, R, d]


def load_image(name: str, pretrained: bool = True, size: int = 0) -> ImageBackbone:
    """Return the image backbone `name`; with `pretrained=False` the same architecture with random weights.

    `size`: pixels a side of its images, to which a vision transformer's positions are interpolated; 0: its own. Raise
    KitError if it cannot be loaded.
    """
    import timm

    spec, directory = IMAGE.get(name), local_directory(name, "image")
    if pretrained:
        check_image(name)
    pinned = spec.file.locate() if spec and spec.file and pretrained else None
    try:
        if spec and spec.file:
            overlay = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
            model: Any = timm.create_model(spec.timm, num_classes=0, global_pool="", pretrained_cfg_overlay=overlay)
            if pinned:
                _load_in_order(model, pinned)
        else:  # built as timm builds it, so that every saved weight is used; the classifier is removed afterwards
            source = f"local-dir:{directory}" if directory else spec.timm if spec else name
            options = _saved_weights(*read_timm_directory(directory)) if directory and pretrained else {}
            model = timm.create_model(source, pretrained=pretrained, **options)
            model.pretrained_cfg.pop("state_dict", None)  # timm would keep them twice
            _drop_classifier(model)
        _fit_positions(model, size)
        model = model.to(memory_format=torch.channels_last)  # convolutions run faster
        return ImageBackbone(model, model.pretrained_cfg["mean"], model.pretrained_cfg["std"])
    except (*BROKEN, AssertionError, AttributeError, KeyError, TypeError) as error:  # of model_args, too
        reason = textwrap.shorten(str(error) or type(error).__name__, 200, placeholder=" …")
        raise KitError(f"The image backbone {name!r} could not be loaded: {reason}") from error


def image_work(name: str, size: int) -> tuple[int, int]:
    """Return the floating-point operations of one forward pass over an image, and how many numbers it returns; no
    weights are needed."""
    import timm

    source = IMAGE[name].timm if name in IMAGE else name
    if directory := local_directory(name, "image"):
        source = read_timm_directory(directory)[0]["architecture"]
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model: Any = timm.create_model(source, pretrained=False)
        _fit_positions(model, size)
        features = model.eval().forward_features(torch.zeros(1, 3, size, size))
    return counter.get_total_flops(), features.numel() if isinstance(features, Tensor) else 0


def read_timm_directory(directory: Path) -> tuple[dict, Path]:
    """Return config.json and the weights' file of a local directory in timm's hub format.

    Raise KitError if the directory lacks them, or if config.json has entries that timm would refuse or ignore.
    """
    import timm

    config = directory / "config.json"
    patterns = (*WEIGHTS, "*.safetensors", "*.pth", "*.pth.tar", "*.bin")
    weights = [path for pattern in patterns for path in sorted(directory.glob(pattern)) if path.is_file()]
    if not config.is_file() or not weights:
        raise KitError(
            f"{directory} is not an image backbone: it needs timm's config.json (with 'architecture') and "
            f"model.safetensors or pytorch_model.bin, as a timm repository on the hub has them."
        )
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise KitError(f"{config} is not JSON ({error}): copy it again from the model's repository.") from error
    if not isinstance(content, dict) or not isinstance(content.get("architecture"), str):
        raise KitError(f"{config} has no 'architecture': it is not the config.json of a timm model.")
    if not timm.is_model(content["architecture"]):
        raise KitError(
            f"{config} names the architecture {content['architecture']!r}, which timm {version('timm')} lacks."
        )
    if wrong := [name for name in ("pretrained_cfg", "model_args") if not isinstance(content.get(name, {}), dict)]:
        raise KitError(
            f"{config} has no names and values under {wrong[0]!r}: copy it again from the model's repository."
        )
    known = {field.name for field in fields(timm.models.PretrainedCfg)}
    if (nested := content.get("pretrained_cfg")) is not None:
        unread = {*nested} - known | {name for name in ("mean", "std") if name in content and name not in nested}
    else:  # an older config.json, flat
        unread = {*content} - known - {"num_features", "labels"}
    if unread:
        raise KitError(
            f"{config} has {', '.join(sorted(unread))} in a place that timm does not read: pixels' settings belong "
            f"under 'pretrained_cfg', and arguments of the model under 'model_args' beside it."
        )
    return content, weights[0]


def _saved_weights(content: dict, weights: Path) -> dict:
    """Return timm's options for the weights of a local directory, with a classifier of the size that the weights have.

    config.json may not give that size. With it all weights fit, so that timm refuses a file that lacks some or has
    others, instead of leaving weights random.
    """
    import timm

    state = timm.models.load_state_dict(str(weights), weights_only=True)
    config = content.get("pretrained_cfg", content)
    usual = timm.get_pretrained_cfg(content["architecture"])
    classifier = config.get("classifier") or (usual and usual.classifier) or ""
    rows = state.get(f"{classifier if isinstance(classifier, str) else classifier[0]}.weight")
    stated = content.get("num_classes", config.get("num_classes")) or 0
    classes = stated if rows is None else len(rows) - config.get("label_offset", 0)
    overlay = {"num_classes": classes, "state_dict": state, "source": ""}
    return {"num_classes": classes, "pretrained_cfg_overlay": overlay}


def _fit_positions(model: Any, size: int) -> None:
    """Interpolate a vision transformer's positions to images of `size` pixels a side, if whole patches fill them."""
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if size and patch and hasattr(model, "set_input_size") and not any(size % side for side in patch):
        model.set_input_size(img_size=(size, size))


def _drop_classifier(model: Any) -> None:
    try:
        model.reset_classifier(0, "")  # and without pooling, which may have weights
    except (AssertionError, TypeError):  # some models do not have this option
        model.reset_classifier(0)


def _load_in_order(model: nn.Module, file: Path) -> None:
    """Load the weights of `file`, which have other names but are in the modules' order, without the classifier's."""
    weights = torch.load(file, map_location="cpu", weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=False)))
