"""Backbones and a head as one classifier, built from a configuration.

B batch · I images of the batch's items · T tokens · R regions · L layers · d backbone width · K classes
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kit.config import TrainConfig
from kit.models.backbones import BackboneHandle, compile_blocks
from kit.models.heads import CoAttentionHead, FusionHead
from kit.models.layers import first_and_mean, real_regions, side_by_side


class StandIns(nn.Module):
    """Learned vectors for what an item lacks: a missing text is one token of them, missing images are one image whose
    regions are all the same."""

    def __init__(self, layers: int, text_width: int, image_width: int):
        super().__init__()
        self.text = nn.Parameter(torch.randn(layers, text_width))
        self.image = nn.Parameter(torch.randn(image_width))

    def forward(
        self, layers: Sequence[Tensor], mask: Tensor, regions: Tensor, missing: Tensor
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return layers, mask and regions with those replaced that are `missing` `[B, 2]`: text, image."""
        no_text, no_image = missing[:, :, None, None].unbind(1)  # [B, 1, 1] each
        first = torch.arange(mask.shape[1], device=mask.device) == 0
        layers = [torch.where(no_text, vector, layer) for vector, layer in zip(self.text, layers, strict=True)]
        mask = torch.where(no_text[:, 0], first.to(mask.dtype), mask)
        return layers, mask, torch.where(no_image, self.image, regions)


class Classifier(nn.Module):
    """Backbones and a head.

    `layers`: the text backbone's hidden states that the head reads · `frozen`: the sides ("text", "image") whose
    backbone never trains. A backbone is None if its features come with the batch, or if the head does not read them. Of
    the text backbone there may be its TopLayers alone, whose input comes with the batch · `mirror`: predict the mean
    logits of each image and its mirror image · `missing`: replaces what the batch says an item lacks; None: nothing is
    replaced.
    """

    def __init__(
        self,
        head: CoAttentionHead | FusionHead,
        text: nn.Module | None,
        image: nn.Module | None,
        *,
        layers: slice,
        frozen: tuple[str, ...],
        classes: int,
        mirror: bool = False,
        missing: StandIns | None = None,
    ):
        super().__init__()
        self.mirror, self.missing = mirror, missing
        self.head, self.text, self.image = head, text, image
        self.layers, self.frozen, self.classes = layers, frozen, classes
        for side in frozen:
            if getattr(self, side) is not None:
                getattr(self, side).requires_grad_(False)

    @property
    def frozen_prefixes(self) -> tuple[str, ...]:
        return (*(f"{side}." for side in self.frozen), "text.below.")

    def train(self, mode: bool = True) -> "Classifier":
        super().train(mode)
        for side in self.frozen:  # no dropout, no running statistics
            if getattr(self, side) is not None:
                getattr(self, side).eval()
        return self

    def forward(self, batch: dict[str, Tensor], inspect: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Return the logits `[B, K]` of a batch of `kit.data.dataset`; with `inspect`, what `CoAttentionHead.inspect`
        returns, without mirror images."""
        layers, regions = self.features(batch)
        if inspect:
            return self.head.inspect(*self.complete(batch, layers, regions))  # type: ignore[union-attr, operator]
        return self.classify(batch, layers, regions)

    def classify(self, batch: dict[str, Tensor], layers: Any, regions: Any) -> Tensor:
        """Return the logits `[B, K]` of a batch whose features, layers and regions, have been computed."""
        outputs = self.head(*self.complete(batch, layers, regions))
        if self.mirror and self.image is not None and not self.training:
            mirrored = self.image(batch["pixels"].flip(2))  # [I, H, W, 3], left to right
            mirrored = side_by_side(mirrored, batch.get("images"))
            outputs = (outputs + self.head(*self.complete(batch, layers, mirrored))) / 2
        return outputs

    def complete(self, batch: dict[str, Tensor], layers: Any, regions: Any) -> tuple[Any, Tensor, Any, Tensor | None]:
        """Return layers, mask and regions, with stand-ins for what the batch says that its items lack, and the mask of
        real regions, None if all are."""
        if self.missing is None:
            return layers, batch["mask"], regions, real_regions(regions, batch.get("images"))
        missing = batch["missing"]
        shown = real_regions(regions, batch.get("images"), missing[:, 1])
        return *self.missing(layers, batch["mask"], regions, missing), shown

    def features(self, batch: dict[str, Tensor]) -> tuple[Sequence[Tensor] | None, Tensor | None]:
        """Return the head's inputs, from the batch or computed: L text layers `[B, T, d]` and regions `[B, R, d]`,
        those of an item's images side by side.

        A baseline's text layers are `[B, 2, d]`: the first token and the mean token.
        """
        layers = batch["layers"].float().unbind(2) if "layers" in batch else None  # [B, T, L, d] → L × [B, T, d]
        regions = batch["regions"].float() if "regions" in batch else None
        if self.text is not None:
            layers = self.text(batch.get("ids", layers), batch["mask"])[self.layers]
            if isinstance(self.head, FusionHead):
                layers = tuple(first_and_mean(layer, batch["mask"]) for layer in layers)
        if self.image is not None:
            regions = self.image(batch["pixels"])
        return layers, None if regions is None else side_by_side(regions, batch.get("images"))


def text_layers(config: TrainConfig) -> slice:
    """Return the range of the text backbone's hidden states (0: the embeddings' output) that the head reads."""
    return slice(-1 if not config.layer_weights else 0 if config.embedding_layer else 1, None)


def fixed_layers(config: TrainConfig, depth: int) -> slice:
    """Return the range of the frozen text backbone's hidden states, `depth` + 1, that the model reads.

    It is the head's; with `train_text_layers`, it ends with the state that those layers start from, which is all that a
    fusion needs. Frozen, a fusion has the layers of co-attention, whose cached outputs it shares.
    """
    layers = text_layers(config)
    if not config.train_text_layers:
        return layers
    base = depth - config.train_text_layers
    return slice(base if config.pooled else min(layers.indices(depth + 1)[0], base), base + 1)


def build_model(
    config: TrainConfig, classes: int, backbones: dict[str, BackboneHandle], running: Sequence[str]
) -> Classifier:
    """Return the classifier that `config` describes, over `backbones`.

    Backbones of the sides in `running` are loaded as parts of it, and so are text layers that train; features of the
    others come with the batches. Raise KitError if a backbone cannot be loaded.
    """
    text, image = (backbones[side].outline if side in backbones else None for side in ("text", "image"))
    shared: dict[str, Any] = {
        "classes": classes,
        "text_width": text.width if text else 0,
        "image_width": image.width if image else 0,
        "width": config.width,
        "classifier_width": config.classifier_width,
        "dropout": config.dropout,
    }
    layers = slice(-1, None) if config.pooled else text_layers(config)
    count = len(range((text.depth if text else 0) + 1)[layers])
    frozen, live = config.frozen, dict[str, Any]()
    for side in running:
        live[side] = backbones[side].frozen if side in frozen else backbones[side].load()
    if config.train_text_layers:
        frozen = tuple(side for side in frozen if side != "text")
        live["text"] = backbones["text"].top_layers(config.train_text_layers, live="text" in running)
    for side, backbone in live.items():
        if config.checkpointing and side not in frozen:
            backbone.checkpoint()
        if config.compile:
            compile_blocks(backbone, varying=side == "text")
    if config.pooled:
        head: CoAttentionHead | FusionHead = FusionHead(system=config.system, standardise=config.linear_start, **shared)
    else:
        head = CoAttentionHead(
            layers=count,
            attention_width=config.attention_width,
            bilstm=config.bilstm,
            coattention=config.coattention,
            attention=config.attention,
            attention_scale=config.attention_scale,
            linear_start=config.linear_start,
            **shared,
        )
    missing = None
    if config.modality_dropout and text and image:
        missing = StandIns(count, text.width, image.width)
    return Classifier(
        head,
        live.get("text"),
        live.get("image"),
        layers=slice(-count, None),
        frozen=frozen,
        classes=classes,
        mirror=config.augment,
        missing=missing,
    )
