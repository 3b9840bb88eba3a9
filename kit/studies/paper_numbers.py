"""The numbers printed in the paper, for comparison with ours."""

# (image, text) → macro-F1 on the paper's validation split
PAPER_MODELS = {
    ("resnet152", "camembert"): 88.78,
    ("resnet152", "flaubert"): 88.52,
    ("resnet152", "mbert"): 87.06,
    ("resnext101_32x8d", "camembert"): 88.72,
    ("resnext101_32x8d", "flaubert"): 84.3,
    ("resnext101_32x8d", "mbert"): 87.20,
}
PAPER_BASELINE = 79.16  # the best fusion
PAPER_ABLATIONS = {
    "full": 88.78,
    "no-bilstm": 76.18,
    "no-layer-weights": 83.53,
    "text-attention-only": 80.16,
    "image-attention-only": 86.80,
}
PAPER_ENSEMBLES = {  # image → text backbones → macro-F1
    "resnet152": {"camembert flaubert": 90.40, "camembert mbert": 90.03, "camembert flaubert mbert": 90.95},
    "resnext101_32x8d": {"camembert flaubert": 90.38, "camembert flaubert mbert": 90.88},
}
PAPER_ALL = 91.36
PAPER_GAIN = 2.67  # gain of the ensemble of six over the best single model, as stated in the text
PAPER_WELCH = {"t": 6.809, "p": 1.4e-9}  # table 4, misclassified items; with our sign


def paper_change(row: str) -> float | None:
    """Return the paper's difference of an ablation from the full model; None if the paper does not have it."""
    return PAPER_ABLATIONS[row] - PAPER_ABLATIONS["full"] if row in PAPER_ABLATIONS else None
