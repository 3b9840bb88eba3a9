"""Pinned numbers: a silent change of an equation, a recipe or a stacker fails here, however well it agrees with itself.

Heads have weights filled by a formula, so that no random generator takes part in what they return; stackers learn from
fixed probabilities, and the two runs train from seeds. After an intended change, `PINS=print pytest -s` on this file
prints the new numbers: pin them, and say in the commit message what moved and why.
"""

import json
import os

import numpy as np
import pytest
import torch

from kit.config import train_config
from kit.models.heads import CoAttentionHead, FusionHead
from kit.runs import prepare_run
from kit.stacking.stackers import METHODS
from kit.training.run_trainer import train

# fmt: off
PINNED = {
    "coattention full": [1.61639, -0.90254, 1.70551, 1.58617, -0.87204, 1.67825],
    "coattention no-layer-weights": [1.46728, -0.7799, 1.50839, 1.42785, -0.73925, 1.47431],
    "coattention no-bilstm": [1.00716, 0.03893, 0.3568, 1.00437, 0.03883, 0.35975],
    "coattention text-attention-only": [0.96647, -0.25582, 1.13672, 0.96653, -0.25005, 1.12579],
    "coattention image-attention-only": [1.17723, -0.38974, 1.17834, 1.17921, -0.39181, 1.18024],
    "coattention linear-start": [-7.57993, 20.90962, -20.61871, -7.27301, 20.55647, -20.4259],
    "fusion concat": [1.06648, 0.20261, -0.29021, 1.04501, 0.25905, -0.31052],
    "fusion bilinear": [1.14245, 0.02799, -0.0539, 1.14339, 0.02717, -0.05394],
    "fusion dot": [1.04369, 0.13646, -0.14627, 1.0453, 0.12746, -0.13958],
    "fusion text": [1.0439, 0.30213, -0.3413, 1.02149, 0.32394, -0.33504],
    "fusion image": [1.03196, 0.24126, -0.28429, 1.02634, 0.25627, -0.28979],
    "standardised concat": [1.12347, 0.49183, -0.56133, 1.64844, 0.58801, -1.1575],
    "standardised bilinear": [1.23641, -0.01087, -0.10531, 1.20937, 0.10902, -0.20951],
    "standardised dot": [2.23346, -0.8374, -0.438, 2.61015, -0.55892, -1.07148],
    "stacker network": [0.92879, 0.03657, 0.03463, 0.01997, 0.972, 0.00803, 0.03087, 0.01714, 0.95199],
    "stacker logistic": [0.94535, 0.02898, 0.02566, 0.01245, 0.98133, 0.00622, 0.02118, 0.01443, 0.96439],
    "stacker blend": [0.9985, 5e-05, 0.00146, 8e-05, 0.99903, 0.00089, 3e-05, 0.00042, 0.99955],
    "stacker greedy": [0.99814, 7e-05, 0.00179, 7e-05, 0.99213, 0.0078, 0.00016, 0.00031, 0.99954],
    "stacker best": [0.9985, 5e-05, 0.00146, 8e-05, 0.99903, 0.00089, 3e-05, 0.00042, 0.99955],
    "run fine-tuned": [1.09206, 1.06674, 1.11485, 1.11006, 0.4435, 0.33367, 0.22282],
    "run frozen": [0.50846, 0.37741, 0.45262, 0.37059, 0.38685, 0.3417, 1.21841, 1.26762, 1.09652, 1.0987, 1.32009,
                   1.32527, 0.17273, 0.615, 0.21228],
}
# fmt: on


def check(name: str, values, tolerance: float) -> None:
    """Compare `values` with the numbers pinned under `name`, each within `tolerance`."""
    values = np.asarray(values, float).ravel()
    if os.environ.get("PINS") == "print":
        print(f'\n    "{name}": {json.dumps([round(value, 5) for value in values.tolist()])},')
        return
    np.testing.assert_allclose(values, PINNED[name], rtol=0, atol=tolerance)


@torch.no_grad()
def fill(module: torch.nn.Module) -> torch.nn.Module:
    """Give every parameter values between -0.5 and 0.5, in a pattern of its own."""
    for n, parameter in enumerate(module.parameters()):
        steps = torch.arange(parameter.numel(), dtype=torch.float64)
        parameter.copy_(((steps + 1) * (0.37 + 0.01 * n)).sin().reshape(parameter.shape) / 2)
    return module.eval()


def wave(*shape: int, pace: float) -> torch.Tensor:
    steps = torch.arange(np.prod(shape), dtype=torch.float64)
    return (steps * pace).cos().reshape(shape).float()


@pytest.fixture
def features():
    """Three text layers `[2, 5, 6]`, a mask that ends the second text after three tokens, regions `[2, 4, 7]`."""
    mask = torch.ones(2, 5, dtype=torch.long)
    mask[1, 3:] = 0
    return [wave(2, 5, 6, pace=0.7 + n) for n in range(3)], mask, wave(2, 4, 7, pace=1.3)


SIZES = {"classes": 3, "text_width": 6, "image_width": 7, "width": 8, "classifier_width": 5}
HEADS = {
    "full": {},
    "no-layer-weights": {"layers": 1},
    "no-bilstm": {"bilstm": False},
    "text-attention-only": {"attention": "text"},
    "image-attention-only": {"attention": "image"},
    "linear-start": {"linear_start": True},
}


@pytest.mark.parametrize("name", HEADS)
def test_a_coattention_head_of_these_weights_returns_these_logits(name, features):
    layers, mask, regions = features
    settings = {"layers": 3, "attention_width": 4} | HEADS[name]
    head = fill(CoAttentionHead(**SIZES, **settings))
    check(f"coattention {name}", head(layers[-settings["layers"] :], mask, regions).detach(), 2e-5)


@pytest.mark.parametrize("system", ["concat", "bilinear", "dot", "text", "image"])
def test_a_fusion_of_these_weights_returns_these_logits(system, features):
    head = fill(FusionHead(system=system, **SIZES))
    check(f"fusion {system}", head(*features).detach(), 2e-5)


@pytest.mark.parametrize("system", ["concat", "bilinear", "dot"])
def test_a_standardised_fusion_of_these_weights_returns_these_logits(system, features):
    head = fill(FusionHead(system=system, standardise=True, **SIZES))
    check(f"standardised {system}", head(*features).detach(), 2e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_stacker_of_these_members_returns_these_probabilities(method):
    random = np.random.default_rng(0)
    labels = np.arange(60) % 3
    logits = random.normal(size=(60, 2, 3)) + 2 * np.eye(3)[labels][:, None] * np.array([[0.5], [1.0]])
    members = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
    stacker = METHODS[method](0)
    stacker.fit(members, labels)
    check(f"stacker {method}", stacker.predict_proba(members[:3]), 2e-3)


RUNS = {
    "fine-tuned": {"lr": 1e-3, "epochs": 2},
    "frozen": {"freeze_text": True, "freeze_image": True, "linear_start": True, "folds": 3, "keep": "last"},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_two_epochs_ends_with_these_losses(name, tiny_config, root, one_thread):
    run = prepare_run(train_config(**tiny_config | RUNS[name], run="pinned"))
    train(run)
    metrics, (_, _, oof) = run.metrics, run.predictions("oof")
    check(f"run {name}", [*metrics["train_loss"], *metrics["loss"], *oof[0]], 2e-3)
