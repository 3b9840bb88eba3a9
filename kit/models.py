"""The paper's classifier: two backbones, and a head over what they give.

B batch · T tokens · R regions · L layers · d backbone width · D joint width · K classes
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from kit.backbones import ImageBackbone, TextBackbone
from kit.config import TrainConfig
from kit.layers import BiLSTM, CoAttention, Standardise, WeightedLayers, linear

TEXT_LENGTH, IMAGE_LENGTH = 10.0, 5.0  # of the attended vectors after a linear start: the text knows more


class CoAttentionHead(nn.Module):
    """Weighted layers → BiLSTM → co-attention with the image's regions → classifier (paper section 3.2).

    `layers`: how many text layers come in; one needs no weights. `bilstm=False` puts a linear layer in the BiLSTM's
    place; `attention` "text" or "image" gives the classifier that attended vector alone. A linear layer brings the
    regions to `width` where the image backbone has another.

    `linear_start`, beyond the paper, for small data: inputs are standardised, and the head starts as a linear
    classifier on mean features of fixed length (the text's top layer, even attention, BiLSTM and projections nearly
    isometric, the classifier at zero), free to depart from it in training.
    """

    def __init__(
        self,
        classes: int,
        layers: int,
        text_width: int,
        image_width: int,
        width: int = 2048,
        attention_width: int = 512,
        classifier_width: int = 512,
        dropout: float = 0.1,
        bilstm: bool = True,
        attention: str = "both",
        linear_start: bool = False,
    ):
        super().__init__()
        self.attention, self.linear_start = attention, linear_start
        self.text_input = Standardise(layers, 1, text_width) if linear_start else nn.Identity()
        self.image_input = Standardise(image_width) if linear_start else nn.Identity()
        self.mix = WeightedLayers(layers) if layers > 1 else nn.Flatten(1, 2)  # [B, 1, T, d] → [B, T, d]
        self.text = BiLSTM(text_width, width) if bilstm else linear(text_width, width)
        self.image = linear(image_width, width) if image_width != width else nn.Identity()
        self.coattention = CoAttention(width, attention_width)
        if attention != "both":
            # the other side's scores reach no loss, and several processes would wait for their gradient
            side = "image" if attention == "text" else "text"
            getattr(self.coattention, f"{side}_score").requires_grad_(False)
        joint = 2 * width if attention == "both" else width
        self.dropout = nn.Dropout(dropout)
        if linear_start:
            self.classifier = linear(joint, classes)
            self._start_linear()
        else:
            hidden = linear(joint, classifier_width)
            self.classifier = nn.Sequential(hidden, nn.ReLU(), nn.Dropout(dropout), linear(classifier_width, classes))

    def _start_linear(self) -> None:
        nn.init.zeros_(self.classifier.weight)
        self.coattention.start_uniform()
        if isinstance(self.mix, WeightedLayers):
            self.mix.start_top()
        if isinstance(self.text, BiLSTM):
            self.text.start_linear()
        for layer in (self.text, self.image):
            if isinstance(layer, nn.Linear):
                nn.init.orthogonal_(layer.weight)

    def forward(self, layers: Tensor, mask: Tensor, regions: Tensor) -> Tensor:
        """layers `[B, L, T, d_text]`, mask `[B, T]`, regions `[B, R, d_image]` → logits `[B, K]`."""
        text = self.mix(self.text_input(layers))  # [B, T, d]
        text = self.text(text, mask) if isinstance(self.text, BiLSTM) else self.text(text)  # [B, T, D]
        regions = self.image(self.image_input(regions))  # [B, R, D]
        text, image, _, _ = self.coattention(text, mask, regions)  # [B, D] each
        if self.linear_start:
            text, image = TEXT_LENGTH * normalize(text, dim=1), IMAGE_LENGTH * normalize(image, dim=1)
        joint = {"both": (text, image), "text": (text,), "image": (image,)}[self.attention]
        return self.classifier(self.dropout(torch.cat(joint, dim=1)))


class Classifier(nn.Module):
    """Backbones and head.

    `layers`: which of the text backbone's hidden states the head reads · `frozen`: sides ("text", "image") whose
    backbone never trains; it is None where its features come with the batch.
    """

    def __init__(
        self,
        head: nn.Module,
        text: TextBackbone | None,
        image: ImageBackbone | None,
        layers: slice,
        frozen: list[str],
    ):
        super().__init__()
        self.head, self.text, self.image = head, text, image
        self.layers, self.frozen = layers, frozen
        for name in frozen:
            if getattr(self, name) is not None:
                getattr(self, name).requires_grad_(False)

    @property
    def frozen_prefixes(self) -> tuple[str, ...]:
        return tuple(f"{side}." for side in self.frozen)

    def train(self, mode: bool = True) -> "Classifier":
        super().train(mode)
        for name in self.frozen:  # no dropout, no running statistics
            if getattr(self, name) is not None:
                getattr(self, name).eval()
        return self

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """A batch of `kit.datasets` → logits `[B, K]`."""
        layers, regions = self.features(batch)
        return self.head(layers, batch["mask"], regions)

    def features(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What the head reads: text layers `[B, L, T, d]` and image regions `[B, R, d]`, from the batch or computed."""
        layers = batch["layers"].transpose(1, 2) if "layers" in batch else self.text_layers(batch)
        return layers, batch["regions"] if "regions" in batch else self.image(batch["pixels"])

    def text_layers(self, batch: dict[str, Tensor]) -> Tensor:
        return torch.stack(self.text(batch["ids"], batch["mask"])[self.layers], dim=1)  # [B, L, T, d]


def build_model(config: TrainConfig, classes: int, text: TextBackbone, image: ImageBackbone) -> Classifier:
    """The classifier that `config` describes, over these backbones."""
    first = 0 if config.embedding_layer else 1  # hidden state 0 is the embeddings' output
    head = CoAttentionHead(
        classes=classes,
        layers=text.depth + 1 - first if config.layer_weights else 1,
        text_width=text.width,
        image_width=image.width,
        width=config.width,
        attention_width=config.attention_width,
        classifier_width=config.classifier_width,
        dropout=config.dropout,
        bilstm=config.bilstm,
        attention=config.attention,
        linear_start=config.linear_start,
    )
    frozen = [side for side in ("text", "image") if getattr(config, f"freeze_{side}")]
    return Classifier(head, text, image, slice(first if config.layer_weights else -1, None), frozen)
