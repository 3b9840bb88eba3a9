"""The heads: co-attention and the baselines' fusions.

B batch · T tokens · R regions · L layers · d backbone width · D joint width · K classes
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, rms_norm

from kit.models.layers import (
    BiLSTM,
    CoAttention,
    EvenAttention,
    Standardise,
    WeightedLayers,
    even_attention,
    linear,
    mean_of_real,
    spread,
    weighted_sum,
)

LENGTHS = 10.0, 5.0  # of the text and the image vector after a linear start: the text tells more
# a baseline's fusion → the width of what is fused, from those of text, image and head; the sides that a linear layer
# brings to that width; and what fuses text `[B, d_text]` and image `[B, d_image]`, None if a side is not read
FUSIONS: dict[str, tuple[Callable[..., int], tuple[str, ...], Callable[..., Tensor]]] = {
    "concat": (lambda text, image, width: text + image, (), lambda text, image: torch.cat([text, image], dim=1)),
    "bilinear": (lambda text, image, width: width, ("text", "image"), torch.mul),
    "dot": (lambda text, image, width: image, ("text",), torch.mul),
    "text": (lambda text, image, width: text, (), lambda text, image: text),
    "image": (lambda text, image, width: image, (), lambda text, image: image),
}


class CoAttentionHead(nn.Module):
    """Weighted layers → BiLSTM → co-attention with the image's regions → classifier (paper section 3.2).

    `layers`: the number of text layers in the input; a single one needs no weights. `bilstm=False` replaces the BiLSTM
    by a linear layer, `coattention=False` the attention by equal weights; with `attention` "text" or "image" the
    classifier sees that attended vector alone. If the image backbone's width is not `width`, a linear layer maps the
    regions to it.

    `attention_scale`, beyond the paper, for many regions: the co-attention's sums become means (`CoAttention`), and the
    two attended vectors reach the classifier at one length, that of unit variance.

    `linear_start`, beyond the paper, for small data: inputs are standardised, and the head starts as a linear
    classifier on mean features of fixed length (the text's top layer, even attention, BiLSTM and projections nearly
    isometric), free to depart from it in training. The classifier is at zero until `start_classifier` sets it.
    """

    side_lengths: Tensor

    def __init__(
        self,
        classes: int,
        layers: int,
        *,
        text_width: int,
        image_width: int,
        width: int = 2048,
        attention_width: int = 512,
        classifier_width: int = 512,
        dropout: float = 0.1,
        bilstm: bool = True,
        coattention: bool = True,
        attention: str = "both",
        attention_scale: bool = False,
        linear_start: bool = False,
    ):
        super().__init__()
        self.attention, self.attention_scale, self.linear_start = attention, attention_scale, linear_start
        self.width = width
        self.new = ("coattention",) if linear_start else ("",)  # the other layers start from values worth keeping
        self.text_input = Standardise(layers, 1, text_width) if linear_start else None
        self.image_input = Standardise(image_width) if linear_start else nn.Identity()
        self.mix = WeightedLayers(layers) if layers > 1 else None
        self.text = BiLSTM(text_width, width) if bilstm else linear(text_width, width)
        self.image = linear(image_width, width) if image_width != width else nn.Identity()
        self.coattention = CoAttention(width, attention_width, attention_scale) if coattention else EvenAttention()
        if coattention and attention != "both":
            # the other side's scores do not reach the loss, and several processes would wait for their gradient
            side = "image" if attention == "text" else "text"
            getattr(self.coattention, f"{side}_score").requires_grad_(False)
        joint = 2 * width if attention == "both" else width
        self.dropout = nn.Dropout(dropout)
        if linear_start:
            last = linear(joint, classes)
            nn.init.zeros_(last.weight)
            self.classifier: nn.Module = last
            self.register_buffer("side_lengths", torch.tensor(LENGTHS))
            self._start_linear(text_width, image_width)
        else:
            hidden = linear(joint, classifier_width)
            self.classifier = nn.Sequential(hidden, nn.ReLU(), nn.Dropout(dropout), linear(classifier_width, classes))

    def _start_linear(self, text_width: int, image_width: int) -> None:
        self.coattention.start_uniform()
        if self.mix is not None:
            self.mix.start_top()
        for side, width in (("text", text_width), ("image", image_width)):
            self._start_map(side, nn.init.orthogonal_(torch.empty(self.width, width)))

    @torch.no_grad()
    def start_projections(self, tokens: Tensor, regions: Tensor) -> None:
        """Project each side that is wider than D onto the D directions in which the items' means vary most.

        `tokens` `[N, L, d_text]`, `regions` `[N, d_image]`: as from `inputs`. Up to N directions that keeps all that a
        linear classifier could read from the means.
        """
        means = {"text": self._mix(tokens.unsqueeze(2).unbind(1)).squeeze(1), "image": self.image_input(regions)}
        for side, values in means.items():
            if values.shape[1] > self.width:
                self._start_map(side, torch.linalg.svd(values, full_matrices=True).Vh[: self.width])

    @torch.no_grad()
    def _start_map(self, side: str, map: Tensor) -> None:
        """Let a side's projection start as the linear map `[D, d]`."""
        layer = getattr(self, side)
        if isinstance(layer, BiLSTM):
            layer.start_linear(map)
        elif isinstance(layer, nn.Linear):
            layer.weight.copy_(map)

    @torch.no_grad()
    def start_classifier(self, weight: Tensor, bias: Tensor, lengths: Tensor) -> None:
        """Set the classifier, weight `[K, D]` or `[K, 2 D]` and bias `[K]`, and the lengths `[2]` of its inputs."""
        assert isinstance(self.classifier, nn.Linear)
        self.classifier.weight.copy_(weight)
        self.classifier.bias.copy_(bias)
        self.side_lengths.copy_(lengths)

    def forward(self, layers: Sequence[Tensor], mask: Tensor, regions: Tensor, shown: Tensor | None = None) -> Tensor:
        """Return logits `[B, K]` from L layers `[B, T, d_text]`, mask `[B, T]` and regions `[B, R, d_image]`.

        `shown`: the mask `[B, R]` of real regions, if items differ in their number of images.
        """
        return self.classifier(self.dropout(self.joint(layers, mask, regions, shown)))

    def joint(self, layers: Sequence[Tensor], mask: Tensor, regions: Tensor, shown: Tensor | None = None) -> Tensor:
        """Return what the classifier sees: the attended vectors of both sides `[B, 2 D]`, or of one `[B, D]`."""
        text, regions, inputs = self._encode(layers, mask, regions)
        text, image, _, a_image = self.coattention(text, mask, regions, shown)  # [B, D] each, and [B, R]
        return self._join(text, image, a_image, inputs)

    def attend(
        self, layers: Sequence[Tensor], mask: Tensor, regions: Tensor, shown: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the attention on tokens, a_t `[B, T]`, and on regions, a_i `[B, R]` (eq. 6 and 7)."""
        text, regions, _ = self._encode(layers, mask, regions)
        _, _, a_text, a_image = self.coattention(text, mask, regions, shown)
        return a_text, a_image

    def inspect(
        self, layers: Sequence[Tensor], mask: Tensor, regions: Tensor, shown: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return logits `[B, 4, K]` with the learned attention, and with even attention on text, image and both; and
        how far the learned attention on text and image is from even, `[B, 2, 2]` (`kit.models.layers:spread`).
        """
        text, regions, inputs = self._encode(layers, mask, regions)
        learned_text, learned_image, a_text, a_image = self.coattention(text, mask, regions, shown)
        real = torch.ones_like(a_image) if shown is None else shown
        even = even_attention(real)
        texts = learned_text, weighted_sum(even_attention(mask), text)
        images = (learned_image, a_image), (weighted_sum(even, regions), even)
        joints = [self._join(text, image, weights, inputs) for image, weights in images for text in texts]
        logits = [self.classifier(self.dropout(joint)) for joint in joints]
        spreads = [spread(a_text, mask), spread(a_image, real)]
        return torch.stack(logits, dim=1), torch.stack(spreads, dim=1)

    def _encode(self, layers: Sequence[Tensor], mask: Tensor, regions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what attends to each other, text `[B, T, D]` and regions `[B, R, D]`, and the regions before their
        projection, `[B, R, d_image]`."""
        text = self._mix(layers)
        text = self.text(text, mask) if isinstance(self.text, BiLSTM) else self.text(text)  # [B, T, D]
        inputs = self.image_input(regions)
        return text, self.image(inputs), inputs

    def _mix(self, layers: Sequence[Tensor]) -> Tensor:
        """Return the weighted layers, `[B, T, d_text]`."""
        if self.mix is not None:
            return self.mix(layers, self.text_input)
        return layers[-1].float() if self.text_input is None else self.text_input(layers[-1])

    def _join(self, text: Tensor, image: Tensor, a_image: Tensor, inputs: Tensor) -> Tensor:
        """Return the classifier's input of the attended vectors `[B, D]`; `a_image` `[B, R]`: the attention on regions,
        `inputs` `[B, R, d_image]`: these before their projection.

        A linear start divides the image by its length before the projection. That was fitted to the training items: if
        they are few, it keeps their whole length, but only a part of a new image's, which would count too much if it
        were divided by the length that is left.
        """
        if self.linear_start:
            length = weighted_sum(a_image, inputs).norm(dim=1, keepdim=True).clamp_min(1e-12)
            text, image = self.side_lengths[0] * normalize(text, dim=1), self.side_lengths[1] * image / length
        elif self.attention_scale:
            text, image = rms_norm(text, text.shape[1:]), rms_norm(image, image.shape[1:])
        return torch.cat({"both": (text, image), "text": (text,), "image": (image,)}[self.attention], dim=1)

    def inputs(
        self, layers: Sequence[Tensor], mask: Tensor, regions: Tensor, shown: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the vectors to standardise: each item's mean token in each layer, `[B, L, d_text]`, and mean region,
        `[B, d_image]`. Single tokens and regions vary more, but what a linear start reads are the means."""
        tokens = torch.stack([mean_of_real(layer, mask) for layer in layers], dim=1)
        return tokens, mean_of_real(regions.float(), shown)


class FusionHead(nn.Module):
    """A baseline (paper section 3.1): one text and one image vector, a fusion, two fully connected layers.

    `system`: one of FUSIONS. The text vector is the top layer's first token, the image vector the mean of the regions.

    `standardise`, beyond the paper: the vectors are those from which co-attention has its linear start, that is the
    text's mean token in place of the first, both standardised and of fixed length.

    A full bilinear map from 768 × 2048 to `width` outputs would have width × 1.6 million parameters. Here each output's
    matrix has the low rank r = `width` (Kim et al. 2017, Hadamard product for low-rank bilinear pooling): both vectors
    are projected to r and multiplied, and the first fully connected layer mixes the products. At the paper's sizes this
    takes less than 10 million parameters.
    """

    new = ("",)

    def __init__(
        self,
        classes: int,
        system: str,
        *,
        text_width: int,
        image_width: int,
        width: int = 2048,
        classifier_width: int = 512,
        dropout: float = 0.1,
        standardise: bool = False,
    ):
        super().__init__()
        self.standardise = standardise
        self.text_input = Standardise(text_width) if standardise else nn.Identity()
        self.image_input = Standardise(image_width) if standardise else nn.Identity()
        fused_width, projected, self.fuse = FUSIONS[system]
        joint = fused_width(text_width, image_width, width)
        self.text = linear(text_width, joint) if "text" in projected else nn.Identity()
        self.image = linear(image_width, joint) if "image" in projected else nn.Identity()
        hidden = linear(joint, classifier_width)
        self.classifier = nn.Sequential(hidden, nn.ReLU(), nn.Dropout(dropout), linear(classifier_width, classes))

    def inputs(
        self, layers: Sequence[Tensor] | None, mask: Tensor, regions: Tensor | None, shown: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the text vectors `[B, d_text]` and image vectors `[B, d_image]`, None for a side that is not read."""
        token = 1 if self.standardise else 0
        text = None if layers is None else layers[-1][:, token].float()
        return text, None if regions is None else mean_of_real(regions, shown)

    def forward(
        self, layers: Sequence[Tensor] | None, mask: Tensor, regions: Tensor | None, shown: Tensor | None = None
    ) -> Tensor:
        """Return logits `[B, K]` from the first and the mean token in L layers, `[B, 2, d_text]`, and regions `[B, R,
        d_image]`, of which the mask `shown` `[B, R]` marks the real ones if items differ in their number of images."""
        text, image = self.inputs(layers, mask, regions, shown)
        text = None if text is None else self.text(self._scaled(self.text_input(text), LENGTHS[0]))
        image = None if image is None else self.image(self._scaled(self.image_input(image), LENGTHS[1]))
        return self.classifier(self.fuse(text, image))

    def _scaled(self, vectors: Tensor, length: float) -> Tensor:
        return length * normalize(vectors, dim=1) if self.standardise else vectors
