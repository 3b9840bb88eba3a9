"""The parts of the paper's models.

B batch · T tokens · R regions · L layers · d backbone width · D joint width · k attention width
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from kit.config import TOP_LAYER


class WeightedLayers(nn.Module):
    """Scalar mix of the text backbone's layers, `O = γ · Σ_l softmax(w)_l · H_l` (paper eq. 2; Peters et al. 2018).

    It starts as their mean (`w` = 0, `γ` = 1), or after `start_top` as nearly the last layer alone.
    """

    def __init__(self, layers: int):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(layers))
        self.gamma = nn.Parameter(torch.ones(1))

    @torch.no_grad()
    def start_top(self) -> None:
        """Give the top layer e^TOP_LAYER times the weight of each other."""
        self.weights[-1] = TOP_LAYER

    def forward(self, layers: Sequence[Tensor], inputs: "Standardise | None" = None) -> Tensor:
        """Return the mix `[B, T, d]`, float32, of L layers `[B, T, d]`, standardised by `inputs` `[L, 1, d]` if given.

        Standardising is folded into the weights and applied layer by layer, so that no layer is copied.
        """
        scales = (self.gamma * self.weights.softmax(0)).view(-1, 1, 1)  # [L, 1, 1], eq. 2
        if inputs is not None:
            scales = scales / inputs.std  # [L, 1, d]
        mixed = scales[0] * layers[0]  # eq. 2
        for scale, layer in zip(scales[1:], layers[1:], strict=True):
            mixed = mixed + scale * layer  # eq. 2
        return mixed if inputs is None else mixed - (scales * inputs.mean).sum(0)


class BiLSTM(nn.Module):
    """One bidirectional LSTM layer, `width` / 2 per direction, over the real tokens only (paper section 3.2).

    Each direction is a plain LSTM, the backward one over the reversed item: padding comes last and influences no token.
    Batches of similar length waste little computation on padding; a packed sequence costs more.
    """

    GAIN = 0.1  # of a linear start: inputs so small that a cell's tanh is nearly linear

    def __init__(self, input_width: int, width: int):
        super().__init__()
        self.ahead = nn.LSTM(input_width, width // 2, batch_first=True)
        self.back = nn.LSTM(input_width, width // 2, batch_first=True)
        for name, parameter in self.named_parameters():
            if "weight" in name:
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)

    @torch.no_grad()
    def start_linear(self, map: Tensor) -> None:
        """Start as nearly the linear map `[D, d]` of each token: input and output gates open, forget gates shut.

        Each direction's cell input is half of the map, scaled by GAIN.
        """
        h = self.ahead.hidden_size
        for direction, cell in zip((self.ahead, self.back), (self.GAIN * map).chunk(2), strict=True):
            weights = dict(direction.named_parameters())
            weights["weight_ih_l0"].zero_()  # [4h, d]: input, forget, cell, output
            weights["weight_ih_l0"][2 * h : 3 * h] = cell
            weights["weight_hh_l0"].zero_()
            weights["bias_ih_l0"].copy_(torch.tensor([3.0, -3.0, 0.0, 3.0]).repeat_interleave(h))

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        """Return `[B, T, D]`, zero at padding, from text `[B, T, d]` and mask `[B, T]`."""
        position = torch.arange(text.shape[1], device=text.device)
        reverse = mask.sum(1, keepdim=True) - 1 - position  # [B, T]: real tokens in reverse,
        reverse = torch.where(reverse < 0, position, reverse).unsqueeze(2)  # padding stays in place
        with torch.autocast(text.device.type, enabled=False):  # cuDNN's LSTM would run in half precision, not bfloat16
            text = text.float()
            ahead, _ = self.ahead(text)
            back, _ = self.back(torch.take_along_dim(text, reverse, 1))
            both = torch.cat([ahead, torch.take_along_dim(back, reverse, 1)], dim=2)
            return both * mask.unsqueeze(2)


class Standardise(nn.Module):
    """Scale each feature to mean 0 and deviation 1 over the training items; change nothing before `fit`."""

    mean: Tensor
    std: Tensor

    def __init__(self, *shape: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))

    def fit(self, mean: Tensor, std: Tensor) -> None:
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 1e-6, std, 1.0))  # one that never varies in training is not blown up later

    def forward(self, features: Tensor) -> Tensor:
        return torch.addcmul(-self.mean / self.std, features.float(), 1 / self.std)  # one pass over memory


class CoAttention(nn.Module):
    """Parallel co-attention of text and image (paper eq. 3–9; Lu et al. 2016).

        C   = tanh(T W_b Iᵀ)                                      [B, T, R]
        H_i = tanh(W_v I + Cᵀ (W_s T))      a_i = softmax_R(w_iᵀ H_i)      i' = Σ_R a_i I
        H_t = tanh(W_s T + C (W_v I))       a_t = softmax_T(w_tᵀ H_t)      t' = Σ_T a_t T

    Padding is left out of C's sums over tokens and of softmax_T, and if items differ in their number of images, of the
    sums over regions and of softmax_R. With `scale`, beyond the paper, the sums over C become means over tokens and
    over regions, so that the number of either does not drive tanh to its limits.
    """

    def __init__(self, width: int, attention_width: int, scale: bool = False):
        super().__init__()
        self.scale = scale
        self.affinity = linear(width, width, bias=False)  # W_b
        self.image_hidden = linear(width, attention_width, bias=False)  # W_v
        self.text_hidden = linear(width, attention_width, bias=False)  # W_s
        self.image_score = linear(attention_width, 1, bias=False)  # w_i
        self.text_score = linear(attention_width, 1, bias=False)  # w_t

    @torch.no_grad()
    def start_uniform(self) -> None:
        """Start with equal attention on all tokens and on all regions, so that attended vectors are means."""
        self.image_score.weight.zero_()
        self.text_score.weight.zero_()

    def forward(
        self, text: Tensor, mask: Tensor, regions: Tensor, shown: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return t', i' `[B, D]`, a_t `[B, T]`, a_i `[B, R]` of text `[B, T, D]`, its mask, regions `[B, R, D]`, and
        the mask `[B, R]` of those that an image has, None if all are."""
        real = mask.bool()
        if shown is not None:
            regions = regions * shown.unsqueeze(2)  # so that C and W_v I are zero at padding
        c = torch.tanh(self.affinity(text) @ regions.transpose(1, 2))  # [B, T, R], eq. 3
        c = c * real.unsqueeze(2)
        v, s = self.image_hidden(regions), self.text_hidden(text)  # [B, R, k], [B, T, k], eq. 4, 5
        from_text, from_image = c.transpose(1, 2) @ s, c @ v  # [B, R, k], [B, T, k], eq. 4, 5
        if self.scale:
            count = regions.shape[1] if shown is None else shown.sum(1).view(-1, 1, 1)
            from_text, from_image = from_text / real.sum(1).view(-1, 1, 1), from_image / count
        h_image, h_text = torch.tanh(v + from_text), torch.tanh(s + from_image)  # eq. 4, 5
        image_scores = self.image_score(h_image).squeeze(2)
        if shown is not None:
            image_scores = image_scores.masked_fill(~shown, float("-inf"))
        a_image = image_scores.softmax(1)  # [B, R], eq. 6
        a_text = self.text_score(h_text).squeeze(2).masked_fill(~real, float("-inf")).softmax(1)  # [B, T], eq. 7
        return weighted_sum(a_text, text), weighted_sum(a_image, regions), a_text, a_image  # eq. 8, 9


class EvenAttention(nn.Module):
    """Equal attention on all tokens and on all regions in place of `CoAttention`: neither side sees the other."""

    def start_uniform(self) -> None:
        """Change nothing."""

    def forward(
        self, text: Tensor, mask: Tensor, regions: Tensor, shown: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what `CoAttention.forward` returns, the attended vectors as means over real tokens and regions."""
        a_text = even_attention(mask)  # [B, T]
        a_image = even_attention(regions.new_ones(regions.shape[:2]) if shown is None else shown)  # [B, R]
        return weighted_sum(a_text, text), weighted_sum(a_image, regions), a_text, a_image


def weighted_sum(weights: Tensor, vectors: Tensor) -> Tensor:
    return (weights.unsqueeze(1) @ vectors).squeeze(1)  # [B, n], [B, n, D] → [B, D]


def even_attention(mask: Tensor) -> Tensor:
    """Return equal weights `[B, n]` for the places that the mask `[B, n]` marks as real."""
    return mask / mask.sum(1, keepdim=True)


def mean_of_real(vectors: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean `[B, …]` of vectors `[B, n, …]`, of those that the mask `[B, n]` marks as real if it is given."""
    if mask is None:
        return vectors.mean(1)
    real = mask.view(*mask.shape, *[1] * (vectors.dim() - 2))
    return (vectors * real).sum(1) / real.sum(1)


def side_by_side(regions: Tensor, images: Tensor | None) -> Tensor:
    """Return the regions of each item's images side by side, `[B, R, d]`, padded with zeros, from those of each image,
    `[I, R / n, d]`, and how many of the images, at most n, each item has, `[B]`. None: each item has one."""
    if images is None:
        return regions
    return pad_sequence(regions.split(images.tolist()), batch_first=True).flatten(1, 2)


def real_regions(regions: Tensor | None, images: Tensor | None, missing: Tensor | None = None) -> Tensor | None:
    """Return the mask `[B, R]` of the real ones among regions that `side_by_side` returned; None: all are.

    If an item is `missing` `[B]`, one image stands in for all of its images.
    """
    if regions is None or images is None:
        return None
    of_each = regions.shape[1] // images.max()
    counts = images if missing is None else torch.where(missing, 1, images)
    return torch.arange(regions.shape[1], device=regions.device) < (counts * of_each).unsqueeze(1)


def spread(weights: Tensor, mask: Tensor) -> Tensor:
    """Return how far attention `[B, n]` is from even, `[B, 2]`: the total variation (0: even; near 1: all on one), and
    the entropy as a share of even attention's (1: even)."""
    variation = (weights - even_attention(mask)).abs().sum(1) / 2
    places = mask.sum(1)
    entropy = torch.special.entr(weights).sum(1) / places.clamp_min(2).log()
    return torch.stack([variation, torch.where(places > 1, entropy, 1.0)], dim=1)


def first_and_mean(text: Tensor, mask: Tensor) -> Tensor:
    """Return the first token and the mean of the real tokens, `[B, 2, …]`, of `[B, T, …]` and the mask `[B, T]`."""
    return torch.stack([text[:, 0], mean_of_real(text, mask)], dim=1)


def linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """Return a new layer, initialised as in the paper: Xavier (Glorot and Bengio 2010)."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
