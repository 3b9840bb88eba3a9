"""The comparisons that decided between two implementations of the same thing: ratios of paces, measured in turn.

Readers of 500-px JPEG files at 224 and at 500 px, one thread; bfloat16 against float32 on the processor; one LSTM
per direction over padded batches against a packed sequence; a few images at a time against a whole batch. Nothing here
has a goal: a machine with other answers deserves other choices.
"""

import time

import numpy as np
import torch
from measure import DEMO, Workbench, in_turn, ratio_row, report, synthetic
from PIL import Image
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms.v2.functional import resize

from kit.config import train_config
from kit.data.images import read_pixels
from kit.models.image_backbones import load_image
from kit.models.layers import BiLSTM

QUESTION = "pace of one way ÷ pace of another"
ROUNDS = 5


def seconds(work) -> float:
    clock = time.perf_counter()
    work()
    return time.perf_counter() - clock


def compare(case: str, first, second, rounds: int = ROUNDS) -> dict:
    """How many times as fast `first` is as `second`."""
    first(), second()
    found = in_turn(rounds, first=lambda: seconds(first), second=lambda: seconds(second))
    return ratio_row(case, found["second"], found["first"])


def readers() -> list[dict]:
    paths = sorted(map(str, (synthetic(1000, 100) / "images" / "image_train").iterdir()))[:200]
    rows = []
    for size in (224, 500):
        kept = np.stack([read_pixels(path, size) for path in paths])

        def whole(path: str, size: int = size) -> np.ndarray:
            with Image.open(path) as image:
                return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))

        def torchvision(path: str, size: int = size) -> torch.Tensor:
            return resize(decode_jpeg(read_file(path), ImageReadMode.RGB), [size, size], antialias=True)

        def ours(size: int = size) -> list:
            return [read_pixels(path, size) for path in paths]

        def others(read) -> list:
            return [read(path) for path in paths]

        rows += [
            compare(f"{size} px: Pillow with draft ÷ without", ours, lambda read=whole: others(read)),
            compare(f"{size} px: torchvision ÷ Pillow with draft", lambda read=torchvision: others(read), ours),
            compare(f"{size} px: kept pixels ÷ Pillow with draft", lambda kept=kept: kept[np.arange(200)], ours),
        ]
    return rows


def precision() -> dict:
    emoji = DEMO | {"data": "data/emoji"}
    half, full = (Workbench(train_config(**emoji | {"precision": kind, "limit": 200})) for kind in ("bf16", "no"))
    batches = list(full.loader())[:4]
    return compare(
        "demo's head: bfloat16 ÷ float32 on the processor", lambda: half.train(batches), lambda: full.train(batches)
    )


def lstm(items: int, tokens: int, inputs: int, width: int, rounds: int) -> dict:
    dense, packed = BiLSTM(inputs, width), nn.LSTM(inputs, width // 2, batch_first=True, bidirectional=True)
    lengths = torch.randint(tokens * 9 // 10, tokens + 1, (items,))
    lengths[0] = tokens
    text, mask = torch.randn(items, tokens, inputs), (torch.arange(tokens) < lengths[:, None]).long()

    def usual() -> None:
        sequence = pack_padded_sequence(text, lengths, batch_first=True, enforce_sorted=False)
        pad_packed_sequence(packed(sequence)[0], batch_first=True, total_length=tokens)[0].mean().backward()

    case = f"BiLSTM of {width}, {items} × {tokens} tokens, training: one LSTM per direction ÷ packed"
    return compare(case, lambda: dense(text, mask).mean().backward(), usual, rounds)


@torch.inference_mode()
def few_at_a_time() -> dict:
    backbone = load_image("efficientnet_lite0").eval()
    pixels = torch.randint(256, (32, 224, 224, 3), dtype=torch.uint8)
    case = "EfficientNet-Lite0, 224 px: a few images at a time ÷ 32 at once"
    return compare(case, lambda: backbone(pixels), lambda: backbone._regions(pixels))


def main() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = readers()
    torch.set_num_threads(threads)
    rows += [precision(), lstm(32, 30, 384, 384, ROUNDS), lstm(16, 80, 768, 2048, 2), few_at_a_time()]
    report("choices", QUESTION, rows)


if __name__ == "__main__":
    main()
