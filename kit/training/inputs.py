"""From items to model inputs: token ids and pixels, as each backbone needs them."""

from importlib.metadata import version

import numpy as np
import pandas as pd
import pyarrow as pa

from kit.config import TrainConfig
from kit.core.cache import fingerprint, get_or_compute
from kit.core.console import Bar
from kit.core.exceptions import KitError
from kit.data.dataset import ProductDataset, RaggedArray
from kit.data.images import item_images
from kit.data.text import product_pairs, product_texts
from kit.models import tokenizer
from kit.models.backbones import BackboneHandle
from kit.models.tokenizer import load_tokenizer

TEXTS_PER_CALL = 4096  # tokenised at once: a tokenizer's output takes a hundred times the memory of its ids


def make_datasets(
    config: TrainConfig, codes: list[int], frames: dict[str, pd.DataFrame], backbones: dict[str, BackboneHandle]
) -> dict[str, ProductDataset]:
    """Return a dataset of the tokens and pixels of each frame's items, as `backbones` need them."""
    parts = {}
    for name, frame in frames.items():
        labels = None if name == "test" else pd.Index(codes).get_indexer(frame["label"])
        parts[name] = ProductDataset(np.ones(len(frame), int), {}, labels)
        if "text" in backbones:
            texts = product_pairs(frame) if config.pair else product_texts(frame)
            ids = tokenize(config, backbones["text"], texts)
            parts[name].lengths = np.diff(ids.offsets)
            parts[name].sides["text"] = ids
        if "image" in backbones:
            parts[name].set_images(item_images(frame), config.image_size)
        if config.modality_dropout and len(backbones) == 2:
            empty = [not text.strip() for text in product_texts(frame)]
            parts[name].missing = np.stack([np.array(empty, bool), frame["image_path"].isna()], axis=1)
    return parts


def longest_text(config: TrainConfig, backbone: BackboneHandle) -> int:
    """Return how many tokens of a text are read at most, special ones included."""
    return min(config.max_tokens, backbone.outline.max_tokens)


def tokenize(config: TrainConfig, backbone: BackboneHandle, texts: list[str] | list[tuple[str, str]]) -> RaggedArray:
    """Return the token ids `[T]` of the texts, or of pairs their ids and types `[T, 2]`; each is tokenised once.

    Raise KitError if the tokenizer fails or does not fit the model.
    """
    max_tokens = longest_text(config, backbone)

    def compute(new: list[int]) -> list[np.ndarray]:
        encode, rows = load_tokenizer(config.text, config.pretrained, config.pair), []
        for start in Bar(range(0, len(new), TEXTS_PER_CALL), desc="tokens", leave=False):
            part = [texts[i] for i in new[start : start + TEXTS_PER_CALL]]
            rows += [np.array(ids, np.int32).ravel() for ids in encode(part, max_tokens)]
        return rows

    settings = (backbone.identity, str(max_tokens), str(tokenizer.TOKENS_FORMAT), version("tokenizers"))
    store = f"{'pairs' if config.pair else 'tokens'}-{fingerprint(*settings)}"
    keys = [fingerprint(*text) if isinstance(text, tuple) else fingerprint(text) for text in texts]
    ids = get_or_compute(store, keys, pa.list_(pa.int32()), compute)
    values, lengths = ids.flatten().to_numpy(), ids.value_lengths().to_numpy()
    if config.pair:
        values, lengths = values.reshape(-1, 2), lengths // 2
    if values.max(initial=0) >= backbone.outline.vocabulary:
        raise KitError(
            f"The tokenizer of {config.text!r} has more tokens than its model: copy both again from one repository."
        )
    return RaggedArray("ids", values, lengths)
