"""A model part by part: what each returns for one batch, and its parameters."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from kit.models.backbones import find_backbones
from kit.models.layers import EvenAttention
from kit.training.inputs import longest_text
from kit.training.predict import prediction_batches
from kit.training.trained import Trained

PARTS = {  # module → what the paper calls it
    "text": "text backbone",
    "image": "image backbone",
    "missing": "vectors for missing texts and images",
    "head.mix": "weighted layers (eq. 2)",
    "head.text": "tokens through {}",
    "head.image": "regions through {}",
    "head.coattention": "co-attention (eq. 3 to 9): t', i', a_t, a_i",
    "head.classifier": "classifier",
}
INPUTS = {
    "ids": "input: token ids",
    "layers": "input: layers of the frozen text backbone, computed once",
    "pixels": "input: pixels",
    "regions": "input: regions of the frozen image backbone, computed once",
}


def anatomy(trained: Trained) -> pd.DataFrame:
    """Return the parts of the first fold's model in order, with the shape of what each returns for one batch of its
    validation items, and its number of parameters, trained or frozen."""
    model = trained.model(0)
    scored = (trained.frames["train"]["fold"] == 0).to_numpy().nonzero()[0][: trained.config.micro_batch]
    batch = next(iter(prediction_batches(trained.products["train"].part(scored), trained.config, trained.accelerator)))
    modules = {name: module for name, module in model.named_modules() if name in PARTS}
    rows = [{"part": name, "shape": _shape(batch[key])} for key, name in INPUTS.items() if key in batch]
    if "images" in batch:
        rows[-1]["part"] += " (a row per image)"
    names, shapes = {module: name for name, module in modules.items()}, dict[str, str]()

    def record(module: nn.Module, inputs: Any, outputs: Any) -> None:
        shapes[names[module]] = _shape(outputs)

    hooks = [module.register_forward_hook(record) for module in modules.values()]
    try:
        with torch.inference_mode():
            model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    for name, module in modules.items():
        if not isinstance(module, nn.Identity):
            fixed = name in trained.accelerator.unwrap_model(model).frozen
            count = f"{sum(one.numel() for one in module.parameters()):,}{' (frozen)' if fixed else ''}"
            even = isinstance(module, EvenAttention)
            label = "even attention" if even else PARTS[name].format(type(module).__name__)
            rows.append({"part": label, "shape": shapes.get(name, ""), "parameters": count})
    return pd.DataFrame(rows).fillna("")


def describe_lengths(trained: Trained) -> str:
    """Return in words what share of the items' texts reaches `max_tokens`; "" if the run reads no texts."""
    if "text" not in trained.config.sides:
        return ""
    longest = longest_text(trained.config, find_backbones(trained.config)["text"])
    lengths = np.concatenate([items.lengths for items in trained.products.values()])
    share = 100 * (lengths >= longest).mean()
    return f"{share:.1f} % of the {len(lengths):,} texts have {longest} tokens or more: what exceeds {longest} is cut."


def _shape(value: Any) -> str:
    """Return the shape of a tensor, or of each of several."""
    if isinstance(value, Tensor):
        return str([*value.shape])
    shapes = [_shape(one) for one in value]
    return f"{len(shapes)} × {shapes[0]}" if len({*shapes}) == 1 < len(shapes) else ", ".join(shapes)
