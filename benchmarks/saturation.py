"""Whether co-attention can learn at the paper's sizes, with the paper's sums and with `attention_scale`.

`python benchmarks/saturation.py` trains the paper's head (width 2048, 256 regions) on the two planted tasks that need
attention, with regions like a ResNet's, prints the table and writes it to benchmarks/results/. Takes some eight minutes
on one core.

B batch · T tokens · R regions · k attention width · D joint width
"""

import pandas as pd
import torch
from measure import publish
from torch import Tensor
from torch.nn.functional import cross_entropy

from kit.models.heads import CoAttentionHead
from kit.studies import planted

TEXT_WIDTH, IMAGE_WIDTH, REGIONS = 768, 2048, 256
MEAN = 0.45  # of a ResNet's features, half of which are zero
TASKS = ("region that a word names", "word that a region shows")
SEEDS = (0, 1, 2)
BATCH, STEPS, LR, FRESH = 16, 80, 1e-3, 16  # fresh batches for the accuracy


def draw(task: str, maps: list[Tensor]) -> planted.Drawn:
    """Return a batch of the task at the paper's sizes, in which each of its four regions covers a quarter of the image.

    `maps` take the task's width to that of the text and of the image backbone.
    """
    layers, mask, regions, labels = planted.TASKS[task].draw(BATCH)
    regions = regions.repeat_interleave(REGIONS // regions.shape[1], dim=1)  # [B, R, d]
    regions = ((regions + planted.NOISE * torch.randn_like(regions)) @ maps[1]).relu()  # [B, R, D], half of it zero
    return [layers[0] @ maps[0]], mask, regions * (MEAN / regions.mean()), labels


def measure(task: str, scale: bool, seed: int) -> dict:
    """Return how a new head sees a batch, and its accuracy on fresh items after training."""
    torch.manual_seed(seed)
    maps = [torch.randn(planted.WIDTH, width) / planted.WIDTH**0.5 for width in (TEXT_WIDTH, IMAGE_WIDTH)]
    head = CoAttentionHead(planted.THINGS, 1, text_width=TEXT_WIDTH, image_width=IMAGE_WIDTH, attention_scale=scale)
    row = {"task": task, "attention_scale": scale, "seed": seed} | at_the_start(head, draw(task, maps))
    optimizer = torch.optim.Adam(head.parameters(), LR, fused=True)
    for _ in range(STEPS):
        *features, labels = draw(task, maps)
        optimizer.zero_grad()
        cross_entropy(head(*features), labels).backward()
        optimizer.step()
    right = 0
    with torch.inference_mode():
        head.eval()
        for _ in range(FRESH):
            *features, labels = draw(task, maps)
            right += (head(*features).argmax(1) == labels).sum().item()
    return row | {f"accuracy, {STEPS} steps": f"{right / (BATCH * FRESH):.2f}"}


@torch.inference_mode()
def at_the_start(head: CoAttentionHead, items: planted.Drawn) -> dict[str, str]:
    """Return the share of |H_t| and of |H_i| `[B, ·, k]` beyond .99, and the mean lengths of t' and i' `[B, D]`."""
    seen = []
    parts = (head.coattention.image_score, head.coattention.text_score, head.dropout)  # as they are called
    hooks = [part.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) for part in parts]
    head(*items[:-1])
    for hook in hooks:
        hook.remove()
    h_image, h_text, joint = seen
    text, image = joint.unflatten(1, (2, -1)).norm(dim=2).mean(0).tolist()
    shares = [f"{100 * (hidden.abs() > 0.99).float().mean():.0f} %" for hidden in (h_text, h_image)]
    return {"|H_t| > .99": shares[0], "|H_i| > .99": shares[1], "length t'": f"{text:.1f}", "length i'": f"{image:.1f}"}


def write(rows: list[dict]) -> None:
    """Print the table and write it to results/."""
    text = (
        f"The paper's head (width 2048, 256 regions) on planted tasks that need attention, with and without the field "
        f"attention_scale. Regions like a ResNet's (half zero, mean {MEAN}), four words. Saturation and lengths are "
        f"those of the untrained head; accuracy on {BATCH * FRESH} fresh items after {STEPS} steps of {BATCH} at rate "
        f"{LR}; chance is {1 / planted.THINGS}.\n\n{pd.DataFrame(rows).to_string(index=False)}\n\n"
    )
    publish("saturation", text)


if __name__ == "__main__":
    write([measure(task, scale, seed) for task in TASKS for scale in (False, True) for seed in SEEDS])
