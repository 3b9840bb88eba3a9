"""The paper's equations against plain loops, and what padding must not do."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from kit.models.heads import CoAttentionHead
from kit.models.layers import (
    BiLSTM,
    CoAttention,
    EvenAttention,
    Standardise,
    WeightedLayers,
    first_and_mean,
    spread,
)


def coattention_by_hand(layer, text, length, regions):
    """Equations 3 to 9 for one item, number by number, in double precision; with `scale`, sums over C are means."""
    w_b, w_v, w_s = (
        getattr(layer, name).weight.double().numpy() for name in ("affinity", "image_hidden", "text_hidden")
    )
    w_i, w_t = layer.image_score.weight.double().numpy()[0], layer.text_score.weight.double().numpy()[0]
    k, count = len(w_i), len(regions)
    c = [[math.tanh(sum((w_b @ text[t])[d] * regions[r][d] for d in range(len(w_b)))) for r in range(count)]
         for t in range(length)]  # fmt: skip
    v, s = [w_v @ region for region in regions], [w_s @ token for token in text[:length]]
    n, m = (length, count) if layer.scale else (1, 1)
    h_i = [[math.tanh(v[r][j] + sum(c[t][r] * s[t][j] for t in range(length)) / n) for j in range(k)]
           for r in range(count)]  # fmt: skip
    h_t = [[math.tanh(s[t][j] + sum(c[t][r] * v[r][j] for r in range(count)) / m) for j in range(k)]
           for t in range(length)]  # fmt: skip

    def softmax(scores):
        powers = [math.exp(score) for score in scores]
        return [power / sum(powers) for power in powers]

    a_i, a_t = softmax([w_i @ h for h in h_i]), softmax([w_t @ h for h in h_t])
    return sum(a * x for a, x in zip(a_t, text, strict=False)), sum(a * x for a, x in zip(a_i, regions, strict=True))


@pytest.mark.parametrize("scale", [False, True])
@torch.no_grad()
def test_coattention_is_the_papers_equations(scale):
    torch.manual_seed(0)
    layer = CoAttention(width=6, attention_width=4, scale=scale)
    text, regions, lengths = torch.randn(3, 5, 6), torch.randn(3, 7, 6), [5, 2, 1]
    mask = torch.tensor([[int(t < length) for t in range(5)] for length in lengths])
    found_text, found_image, a_text, a_image = layer(text, mask, regions)
    for b, length in enumerate(lengths):
        wanted = coattention_by_hand(layer, text[b].double().numpy(), length, regions[b].double().numpy())
        assert np.allclose(found_text[b], wanted[0], atol=1e-5)
        assert np.allclose(found_image[b], wanted[1], atol=1e-5)
    assert torch.allclose(a_text.sum(1), torch.ones(3)) and torch.allclose(a_image.sum(1), torch.ones(3))
    assert (a_text[mask == 0] == 0).all()


@torch.no_grad()
def test_even_attention_is_coattention_with_equal_scores():
    torch.manual_seed(0)
    layer, text, regions = CoAttention(width=6, attention_width=4), torch.randn(2, 5, 6), torch.randn(2, 7, 6)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    layer.start_uniform()
    for found, wanted in zip(EvenAttention()(text, mask, regions), layer(text, mask, regions), strict=True):
        assert torch.allclose(found, wanted, atol=1e-6)


@torch.no_grad()
def test_scaled_attention_does_not_saturate_and_brings_both_sides_to_one_length():
    """Regions like a ResNet's, half of the features zero, 256 of them."""
    torch.manual_seed(0)
    text, mask, regions = torch.randn(2, 9, 24), torch.ones(2, 9, dtype=torch.long), torch.randn(2, 256, 64).relu()
    saturated, lengths = {}, {}
    for scale in (False, True):
        head = CoAttentionHead(3, 1, text_width=24, image_width=64, width=64, attention_width=16, attention_scale=scale)
        hidden, joint = [], []
        head.coattention.text_score.register_forward_pre_hook(lambda _, given, kept=hidden: kept.append(given[0]))
        head.dropout.register_forward_pre_hook(lambda _, given, kept=joint: kept.append(given[0]))
        head([text], mask, regions)
        saturated[scale] = (hidden[0].abs() > 0.99).float().mean()
        lengths[scale] = joint[0].view(2, 2, 64).norm(dim=2)  # text and image of each item
    assert saturated[False] > 0.5 and saturated[True] < 0.05
    assert (lengths[False][:, 1] > 3 * lengths[False][:, 0]).all()
    assert torch.allclose(lengths[True], torch.full((2, 2), 8.0), atol=1e-2)


@torch.no_grad()
def test_weighted_layers_start_as_the_mean_and_follow_equation_2():
    layers = torch.randn(3, 2, 4, 5)
    mix = WeightedLayers(3)
    assert torch.allclose(mix(layers), layers.mean(0), atol=1e-6)
    mix.weights.copy_(torch.tensor([0.0, 1.0, -1.0]))
    mix.gamma.fill_(2.0)
    shares = np.exp([0, 1, -1]) / np.exp([0, 1, -1]).sum()
    wanted = 2 * sum(share * layers[i] for i, share in enumerate(shares))
    assert torch.allclose(mix(layers), wanted, atol=1e-5)


@torch.no_grad()
def test_bilstm_never_reads_padding():
    torch.manual_seed(0)
    lstm, text = BiLSTM(4, 6), torch.randn(2, 5, 4)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    whole, alone = lstm(text, mask), lstm(text[1:, :2], mask[1:, :2])
    assert torch.allclose(whole[1, :2], alone[0], atol=1e-6)
    assert (whole[1, 2:] == 0).all()


@torch.no_grad()
def test_bilstm_is_torchs_own_over_a_packed_sequence():
    torch.manual_seed(0)
    ours, theirs = BiLSTM(4, 6), nn.LSTM(4, 3, batch_first=True, bidirectional=True)
    for name, value in ours.ahead.named_parameters():
        getattr(theirs, name).copy_(value)
    for name, value in ours.back.named_parameters():
        getattr(theirs, f"{name}_reverse").copy_(value)
    text, lengths = torch.randn(4, 5, 4), torch.tensor([3, 5, 1, 2])
    packed = pack_padded_sequence(text, lengths, batch_first=True, enforce_sorted=False)
    wanted, _ = pad_packed_sequence(theirs(packed)[0], batch_first=True)
    assert torch.allclose(ours(text, (torch.arange(5) < lengths[:, None]).long()), wanted, atol=1e-6)


@torch.no_grad()
def test_standardising_inside_the_mix_is_standardising_before_it():
    torch.manual_seed(0)
    mix, inputs, layers = WeightedLayers(3), Standardise(3, 1, 5), torch.randn(3, 2, 4, 5)
    mix.weights.copy_(torch.tensor([0.0, 1.0, -1.0]))
    inputs.fit(torch.randn(3, 1, 5), torch.rand(3, 1, 5) + 0.5)
    assert torch.allclose(mix(layers, inputs), mix([inputs(layers.transpose(0, 1))[:, i] for i in range(3)]), atol=1e-5)


@torch.no_grad()
def test_linear_start_is_nearly_an_isometry_of_each_token():
    torch.manual_seed(0)
    lstm, text = BiLSTM(16, 64), torch.randn(3, 7, 16)
    lstm.start_linear(torch.nn.init.orthogonal_(torch.empty(64, 16)))
    out = lstm(text, torch.ones(3, 7, dtype=torch.long)).flatten(0, 1)
    text = text.flatten(0, 1)
    cosine = torch.nn.functional.cosine_similarity
    wanted, found = cosine(text[:-1], text[1:]), cosine(out[:-1], out[1:])
    assert (wanted - found).abs().max() < 0.1
    layer = CoAttention(6, 4)
    layer.start_uniform()
    found_text, found_image, *_ = layer(
        torch.ones(1, 3, 6), torch.tensor([[1, 1, 0]]), torch.arange(12.0).view(1, 2, 6)
    )
    assert torch.allclose(found_image, torch.arange(12.0).view(2, 6).mean(0, keepdim=True))
    assert torch.allclose(found_text, torch.ones(1, 6))


@pytest.mark.parametrize("bilstm", [True, False])
@torch.no_grad()
def test_a_text_wider_than_the_head_keeps_what_tells_its_items_apart(bilstm):
    torch.manual_seed(0)
    head = CoAttentionHead(
        3, 1, text_width=64, image_width=8, width=8, attention_width=4, bilstm=bilstm, linear_start=True
    ).eval()
    tokens, regions = torch.randn(20, 6) @ torch.randn(6, 64) / 8, torch.randn(20, 8)  # six directions of 64
    head.start_projections(tokens.unsqueeze(1), regions)
    text, _ = head.joint([tokens.unsqueeze(1)], torch.ones(20, 1, dtype=torch.long), regions.unsqueeze(1)).chunk(2, 1)
    cosine = torch.nn.functional.cosine_similarity
    assert (cosine(text[:-1], text[1:]) - cosine(tokens[:-1], tokens[1:])).abs().max() < 0.05


@torch.no_grad()
def test_standardise_survives_a_constant_feature():
    layer, values = Standardise(2), torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    assert torch.equal(layer(values), values)
    layer.fit(values.mean(0), values.std(0, unbiased=False))
    assert torch.allclose(layer(values), torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))


@pytest.mark.parametrize("tokens", [1, 3])
def test_every_weight_of_coattention_learns(tokens):
    torch.manual_seed(0)
    layer = CoAttention(6, 4)
    text, image, *_ = layer(torch.randn(2, tokens, 6), torch.ones(2, tokens, dtype=torch.long), torch.randn(2, 7, 6))
    (text.sum() + image.sum()).backward()
    for name, parameter in layer.named_parameters():
        assert torch.isfinite(parameter.grad).all()
        if tokens > 1 or name != "text_score.weight":  # one token has all the attention, whatever its score
            assert parameter.grad.abs().sum() > 0, name


def test_spread_says_how_far_attention_is_from_even():
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    weights = torch.tensor([[0.25] * 4, [0.5, 0.5, 0, 0], [1.0, 0, 0, 0], [1.0, 0, 0, 0]])
    # even over four and over the two real ones; all on one of four; all on the only one, which is even
    assert torch.allclose(spread(weights, mask), torch.tensor([[0, 1], [0, 1], [0.75, 0], [0, 1]]), atol=1e-6)
    wanted = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1)) / math.log(2)
    assert torch.allclose(spread(torch.tensor([[0.9, 0.1]]), torch.ones(1, 2)), torch.tensor([[0.4, wanted]]))


def test_the_mean_token_reads_no_padding():
    text = torch.randn(2, 4, 3, 5)
    found = first_and_mean(text, torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]))
    assert torch.equal(found[:, 0], text[:, 0])
    assert torch.allclose(found[0, 1], text[0, :2].mean(0)) and torch.allclose(found[1, 1], text[1].mean(0))
