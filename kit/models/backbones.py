"""Backbones by side, loaded only when something has to run through them."""

import functools
import json
from dataclasses import dataclass
from importlib.metadata import version

import pyarrow as pa
import torch
from torch import nn

from kit.config import TrainConfig
from kit.core.cache import fingerprint, get_or_compute
from kit.core.exceptions import KitError
from kit.models.image_backbones import ImageBackbone, check_image, load_image
from kit.models.pretrained import WEIGHTS_FORMAT, weights_fingerprint
from kit.models.text_backbones import TextBackbone, TopLayers, check_text, load_text

# shapes that a block is compiled for before it runs as it is: a map's size by stage, while training or not, and the
# last batch of either
RECOMPILED = 64
SHAPE_FORMAT = 1  # of a cached BackboneShape: raise it when the class gets another field


def check_backbones(config: TrainConfig, *sides: str) -> None:
    """Raise KitError, within seconds, if a backbone of `config` (on `sides`, or on all) cannot be loaded here."""
    for side in (sides or config.sides) if config.pretrained else ():
        {"text": check_text, "image": check_image}[side](getattr(config, side))


@dataclass(frozen=True)
class BackboneShape:
    """The sizes of a backbone: the width d of its vectors; for a text backbone its `depth` in layers, the most tokens
    that it reads and its vocabulary size; for an image backbone the number of regions per image."""

    width: int
    depth: int = 0
    max_tokens: int = 0
    vocabulary: int = 0
    regions: int = 0


@dataclass(frozen=True)
class BackboneHandle:
    """One side's backbone as a configuration names it; its weights are not read before they are needed."""

    side: str  # text or image
    name: str
    pretrained: bool
    seed: int  # of random weights
    image_size: int
    train_embeddings: bool

    def load(self) -> TextBackbone | ImageBackbone:
        """Return the backbone, a new one at each call. Raise KitError if it cannot be loaded."""
        gpu = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        # the caller may be in inference mode, but this backbone may train later
        with torch.random.fork_rng(devices=gpu), torch.inference_mode(False):
            torch.manual_seed(self.seed)
            backbone: TextBackbone | ImageBackbone = (
                load_text(self.name, self.pretrained)
                if self.side == "text"
                else load_image(self.name, self.pretrained, self.image_size)
            )
        if isinstance(backbone, TextBackbone) and not self.train_embeddings:
            backbone.freeze_embeddings()
        return backbone

    @functools.cached_property
    def frozen(self) -> TextBackbone | ImageBackbone:
        """The backbone in evaluation mode and without gradients, loaded once."""
        return self.load().eval().requires_grad_(False)

    def top_layers(self, count: int, live: bool = False) -> TopLayers:
        """Return a trainable copy of the text backbone's top layers. Raise KitError if there can be none."""
        backbone = self.frozen
        assert isinstance(backbone, TextBackbone)
        return TopLayers(backbone, count, live)

    @functools.cached_property
    def identity(self) -> str:
        """A string for cache keys, which changes with anything that changes the backbone's outputs."""
        library = "transformers" if self.side == "text" else "timm"
        return repr((*self.weights, WEIGHTS_FORMAT, version(library)))

    @functools.cached_property
    def weights(self) -> tuple[str, int | None]:
        """What tells these weights from others: their source or their files' contents, and the seed of random ones."""
        weights = weights_fingerprint(self.name, self.side, self.pretrained)
        if weights is None:
            self.load()  # downloads them from the hub
            weights = weights_fingerprint(self.name, self.side, self.pretrained, here=True)
        if weights is None:
            raise KitError(
                f"The cached outputs of {self.name!r} could not be told from another model's: download its repository "
                f"(hf download {self.name} --local-dir DIR) and pass -p {self.side} DIR."
            )
        return weights, None if self.pretrained else self.seed

    @functools.cached_property
    def outline(self) -> BackboneShape:
        """The backbone's shape, from the cache if possible, so that a run that needs no weights reads none."""
        key, size = self.identity, self.image_size if self.side == "image" else 0
        cached = get_or_compute(
            "outlines",
            [fingerprint(key, str(size), str(SHAPE_FORMAT))],
            pa.string(),
            lambda _: [json.dumps(self._outline())],
        )
        return BackboneShape(**json.loads(cached[0].as_py()))

    @torch.inference_mode()
    def _outline(self) -> dict[str, int]:
        backbone = self.load().eval()  # not `frozen`, which stays: one that is trained needs no second copy
        if isinstance(backbone, ImageBackbone):
            return {"width": backbone.width, "regions": backbone.count_regions(self.image_size)}
        return {name: getattr(backbone, name) for name in ("width", "depth", "max_tokens", "vocabulary")}


def find_backbones(config: TrainConfig) -> dict[str, BackboneHandle]:
    """Return the backbones that the system reads, by side; frozen ones are loaded once per process."""
    seed = 0 if config.pretrained else config.seed
    return {
        side: (_handle if side in config.frozen else BackboneHandle)(
            side, getattr(config, side), config.pretrained, seed, config.image_size, config.train_embeddings
        )
        for side in config.sides
    }


_handle = functools.lru_cache(maxsize=2)(BackboneHandle)


def compile_blocks(backbone: nn.Module, varying: bool) -> None:
    """Compile a backbone's repeated blocks, in place, so that one compilation serves all blocks of a kind and shape.

    It takes a fraction of the time that the whole backbone does (PyTorch calls it regional compilation). A backbone
    without such blocks is compiled as one. `varying`: from batch to batch the inputs have other lengths.
    """
    torch._dynamo.config.recompile_limit = RECOMPILED
    blocks = [block for part in backbone.modules() if _repeats(part) for block in part.children()]
    for block in blocks or [backbone]:
        block.compile(dynamic=None if varying else False)


def _repeats(part: nn.Module) -> bool:
    """Return whether a module is a list of blocks of one class, not of torch's own layers, none of which holds such a
    list."""
    if not isinstance(part, nn.ModuleList | nn.Sequential) or len({type(block) for block in part}) != 1:
        return False
    if len(part) == 1 or type(part[0]).__module__.startswith("torch."):
        return False
    return not any(_repeats(inner) for block in part for inner in block.modules())
