"""The parts of the paper's models. torch only.

B batch · T tokens · R regions · L layers · d backbone width · D joint width · k attention width
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class WeightedLayers(nn.Module):
    """Scalar mix of the text backbone's layers, `O = γ · Σ_l softmax(w)_l · H_l` (paper eq. 2; Peters et al. 2018).

    Starts as their mean (`w` = 0, `γ` = 1), or with `start_top` nearly as the last of them.
    """

    def __init__(self, layers: int):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(layers))
        self.gamma = nn.Parameter(torch.ones(1))

    @torch.no_grad()
    def start_top(self) -> None:
        """Starts as the top layer, nearly: it has e⁵ times the weight of each other."""
        self.weights[-1] = 5.0

    def forward(self, layers: Sequence[Tensor], inputs: "Standardise | None" = None) -> Tensor:
        """L layers `[B, T, d]`, which `inputs` `[L, 1, d]` brings to mean 0 and deviation 1 → `[B, T, d]`, float32.

        Layer by layer, standardising folded into the weights: the layers are never copied.
        """
        scales = (self.gamma * self.weights.softmax(0)).view(-1, 1, 1)  # [L, 1, 1]
        if inputs is not None:
            scales = scales / inputs.std  # [L, 1, d]
        mixed = scales[0] * layers[0]
        for scale, layer in zip(scales[1:], layers[1:], strict=True):
            mixed = mixed + scale * layer
        return mixed if inputs is None else mixed - (scales * inputs.mean).sum(0)


class BiLSTM(nn.Module):
    """One bidirectional LSTM layer, `width` / 2 a direction, over the real tokens only (paper section 3.2).

    Each direction is a plain LSTM from the item's first real token on, backwards over the item reversed: padding comes
    behind and reaches nothing. Batches of like length waste little of that, and a packed sequence costs more.
    """

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
    def start_linear(self, gain: float = 0.1) -> None:
        """Starts as nearly an isometry of each token by itself: input and output gates open, forget gates shut, and the
        cell's input, an orthogonal map of which each direction has half, small enough for its tanh to be linear."""
        h = self.ahead.hidden_size
        maps = nn.init.orthogonal_(torch.empty(2 * h, self.ahead.input_size), gain).chunk(2)
        for direction, cell in zip((self.ahead, self.back), maps, strict=True):
            direction.weight_ih_l0.zero_()  # [4h, d]: input, forget, cell, output
            direction.weight_ih_l0[2 * h : 3 * h] = cell
            direction.weight_hh_l0.zero_()
            direction.bias_ih_l0.copy_(torch.tensor([3.0, -3.0, 0.0, 3.0]).repeat_interleave(h))

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        """text `[B, T, d]`, mask `[B, T]` → `[B, T, D]`, zero at padding."""
        place = torch.arange(text.shape[1], device=text.device)
        turned = mask.sum(1, keepdim=True) - 1 - place  # [B, T]: real tokens in reverse,
        turned = torch.where(turned < 0, place, turned).unsqueeze(2)  # padding where it is
        with torch.autocast(text.device.type, enabled=False):  # cuDNN's LSTM would run in half precision, not bfloat16
            text = text.float()
            ahead, _ = self.ahead(text)
            back, _ = self.back(torch.take_along_dim(text, turned, 1))
            both = torch.cat([ahead, torch.take_along_dim(back, turned, 1)], dim=2)
            return both * mask.unsqueeze(2)


class Standardise(nn.Module):
    """Brings each feature to mean 0 and deviation 1 over the training items; does nothing until `fit`."""

    def __init__(self, *shape: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))

    def fit(self, mean: Tensor, std: Tensor) -> None:
        self.mean.copy_(mean)
        self.std.copy_(std.clamp_min(1e-6))

    def forward(self, features: Tensor) -> Tensor:
        return torch.addcmul(-self.mean / self.std, features.float(), 1 / self.std)  # in one pass


class CoAttention(nn.Module):
    """Parallel co-attention of text and image (paper eq. 3–9; Lu et al. 2016).

        C   = tanh(T W_b Iᵀ)                                      [B, T, R]
        H_i = tanh(W_v I + Cᵀ (W_s T))      a_i = softmax_R(w_iᵀ H_i)      i' = Σ_R a_i I
        H_t = tanh(W_s T + C (W_v I))       a_t = softmax_T(w_tᵀ H_t)      t' = Σ_T a_t T

    Padded tokens take no part: not in C's sums over tokens, not in softmax_T.
    """

    def __init__(self, width: int, attention_width: int):
        super().__init__()
        self.affinity = linear(width, width, bias=False)  # W_b
        self.image_hidden = linear(width, attention_width, bias=False)  # W_v
        self.text_hidden = linear(width, attention_width, bias=False)  # W_s
        self.image_score = linear(attention_width, 1, bias=False)  # w_i
        self.text_score = linear(attention_width, 1, bias=False)  # w_t

    @torch.no_grad()
    def start_uniform(self) -> None:
        """Starts with equal attention on all tokens and on all regions: attended vectors are means."""
        self.image_score.weight.zero_()
        self.text_score.weight.zero_()

    def forward(self, text: Tensor, mask: Tensor, regions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """text `[B, T, D]`, its mask, regions `[B, R, D]` → t', i' `[B, D]`, a_t `[B, T]`, a_i `[B, R]`."""
        real = mask.bool()
        c = torch.tanh(self.affinity(text) @ regions.transpose(1, 2))  # [B, T, R]
        c = c * real.unsqueeze(2)
        v, s = self.image_hidden(regions), self.text_hidden(text)  # [B, R, k], [B, T, k]
        h_image = torch.tanh(v + c.transpose(1, 2) @ s)  # [B, R, k]
        h_text = torch.tanh(s + c @ v)  # [B, T, k]
        a_image = self.image_score(h_image).squeeze(2).softmax(1)  # [B, R]
        a_text = self.text_score(h_text).squeeze(2).masked_fill(~real, float("-inf")).softmax(1)  # [B, T]
        return _weighted_sum(a_text, text), _weighted_sum(a_image, regions), a_text, a_image


def _weighted_sum(weights: Tensor, vectors: Tensor) -> Tensor:
    return (weights.unsqueeze(1) @ vectors).squeeze(1)  # [B, n], [B, n, D] → [B, D]


def linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """A new layer as the paper starts it: Xavier (Glorot and Bengio 2010)."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
