"""What finished co-attention models attended to, and whether that matters for what they predict.

B batch · N items · I images of an item · T tokens · R regions · h, w rows and columns of an image's regions · L layers
d backbone width · K classes
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kit.core.console import Bar
from kit.core.exceptions import KitError
from kit.data.dataset import ProductDataset
from kit.data.images import readable_images
from kit.data.text import product_pairs, product_texts
from kit.models.backbones import find_backbones
from kit.models.classifier import Classifier
from kit.models.heads import CoAttentionHead
from kit.models.tokenizer import token_words
from kit.training.inputs import longest_text
from kit.training.predict import prediction_batches
from kit.training.trained import Trained

TOP = 3  # classes that are shown of an item
SHARE = 0.2  # of an item's places that are blanked
DRAWS = 4  # random choices of as many places, whose mean the attended ones are compared with
MEAN_ITEMS = 128  # training items of a fold, at most, whose mean vectors stand in for what is blanked
# layers L × [B, T, d], mask [B, T], regions [B, R, d], and the mask [B, R] of real ones or None: all are
Features = tuple[Sequence[Tensor], Tensor, Tensor, Tensor | None]


def explain(trained: Trained, ids: Sequence) -> pd.DataFrame:
    """Return what the model that did not learn from each of these out-of-fold items attended to, one row per item.

    id, `key` (a catalogue's own id), title, description, label, fold · `images`: paths of the item's readable images ·
    `probability_true` · `top`: the TOP most likely classes as (code, probability) · `regions` `[I, h, w]`: attention on
    the regions of the images, over the mean of all: 1 is even attention · `words`, and `attention` on each: the mean
    over its pieces, over the mean of all tokens · `unsplit`: the share of the attention on tokens that are no piece of
    a word. `regions` is None if the classifier sees no image or the regions form no square, `attention` if it sees no
    text.

    Raise KitError if the run has no co-attention or did not predict one of the items.
    """
    _require_attention(trained)
    config, codes, train = trained.config, trained.codes, trained.frames["train"]
    places = trained.places(list(ids))
    rows: dict[int, dict] = {}
    for fold in sorted(set(train["fold"].iloc[places])):
        chosen = places[train["fold"].iloc[places] == fold]
        items = trained.products["train"].part(chosen)
        for batch, logits, _, (a_text, a_image) in _look(trained, trained.model(fold), items, "attention"):
            probabilities = logits.cpu().double().softmax(1).numpy()
            for i, row in enumerate(batch["row"].tolist()):
                rows[chosen[row]] = {
                    "probability_true": probabilities[i, codes.index(train["label"].iloc[chosen[row]])],
                    "top": [(codes[k], probabilities[i, k]) for k in (-probabilities[i]).argsort()[:TOP]],
                    "regions": None if config.attention == "text" else _squares(a_image[i], batch, i),
                    "tokens": a_text[i, : items.lengths[row]].cpu().double().numpy(),
                }
    shown = ["id", "key", "title", "description", "label", "fold"]
    frame = train.iloc[places][[name for name in shown if name in train]].reset_index(drop=True)
    frame["images"] = readable_images(train.iloc[places])
    texts: list[tuple[str, ...]] = [*product_pairs(frame)] if config.pair else [(t,) for t in product_texts(frame)]
    longest = longest_text(config, find_backbones(config)["text"])
    seen = []
    for place, text in zip(places, texts, strict=True):
        words, owners = token_words(config.text, text, longest, config.pretrained)
        on_words = _attention_on_words(words, owners, rows[place]["tokens"], config.attention != "image")
        seen.append(rows[place] | on_words)
    return pd.concat([frame, pd.DataFrame(seen).drop(columns="tokens")], axis=1)


def blanking(trained: Trained, items: int = 300) -> pd.DataFrame:
    """Return by how much the true class's probability falls if a fifth of an item's regions, or tokens, is blanked.

    One row per item and side ("image", "text") of at most `items` random out-of-fold items: `attended`: the most
    attended fifth is blanked · `random`: the mean over DRAWS random fifths. A blanked region is the mean region of
    items that the fold's model trained on, a blanked token their mean token, in each layer. Special tokens count as
    others do.

    Raise KitError if the run has no co-attention.
    """
    _require_attention(trained)
    products, ids = trained.products["train"], trained.frames["train"]["id"].to_numpy()
    folds, generator = trained.frames["train"]["fold"].to_numpy(), np.random.default_rng(0)
    scored = np.flatnonzero(folds >= 0)
    chosen = np.sort(generator.choice(scored, min(items, len(scored)), replace=False))
    rows = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for fold in sorted(set(folds[chosen])):
            model: Any = trained.model(fold)
            learn = generator.permutation(np.flatnonzero(folds != fold))[:MEAN_ITEMS]
            means, here = _mean_vectors(trained, model, products.part(learn)), chosen[folds[chosen] == fold]
            for batch, _, features, attention in _look(trained, model, products.part(here), "blanking"):
                falls = probability_falls(model.head, features, attention, batch["label"], means)
                of_batch = ids[here[batch["row"].cpu()]]
                for side in (side for side in falls if trained.config.attention in (side, "both")):
                    attended, random = falls[side].cpu().numpy().T
                    rows.append(pd.DataFrame({"id": of_batch, "side": side, "attended": attended, "random": random}))
    return pd.concat(rows).sort_values(["side", "id"], ignore_index=True)


@torch.inference_mode()
def probability_falls(
    head: CoAttentionHead, features: Features, attention: tuple[Tensor, Tensor], labels: Tensor, means: tuple
) -> dict[str, Tensor]:
    """Return per side by how much the probability of `labels` `[B]` falls, `[B, 2]`, if SHARE of the places is blanked:
    those with the most `attention` (`[B, T]`, `[B, R]`), and random ones (the mean over DRAWS).

    `means`: the vectors `[L, d]` of a blank token and `[d]` of a blank region.
    """
    layers, mask, regions, shown = features
    blank_token, blank_region = means

    def probability(chosen: Tensor, side: str) -> Tensor:
        where = chosen.unsqueeze(2)
        if side == "text":
            blanked = [torch.where(where, blank, layer) for blank, layer in zip(blank_token, layers, strict=True)]
            logits = head(blanked, mask, regions, shown)
        else:
            logits = head(layers, mask, torch.where(where, blank_region, regions), shown)
        return logits.cpu().double().softmax(1).gather(1, labels.cpu().unsqueeze(1)).squeeze(1)

    falls = {}
    all_regions = torch.ones_like(attention[1]) if shown is None else shown
    for side, weights, real in (("text", attention[0], mask), ("image", attention[1], all_regions)):
        whole = probability(torch.zeros_like(real, dtype=torch.bool), side)
        attended = probability(_largest(weights, real), side)
        drawn = [probability(_largest(torch.zeros_like(weights), real), side) for _ in range(DRAWS)]
        falls[side] = torch.stack([whole - attended, whole - torch.stack(drawn).mean(0)], dim=1)
    return falls


def _largest(weights: Tensor, real: Tensor) -> Tensor:
    """Return the mask `[B, n]` of the SHARE of the `real` places with the largest weights, ties at random."""
    shuffled = torch.rand(weights.shape).to(weights.device).argsort(1)
    ranked = weights.masked_fill(real == 0, -1).gather(1, shuffled).argsort(dim=1, descending=True, stable=True)
    count = (SHARE * real.sum(1, keepdim=True)).ceil()
    first = torch.arange(weights.shape[1], device=weights.device) < count
    return torch.zeros_like(real, dtype=torch.bool).scatter(1, shuffled.gather(1, ranked), first)


def _look(
    trained: Trained, model: Classifier, items: ProductDataset, title: str
) -> Iterator[tuple[dict[str, Tensor], Tensor, Features, tuple[Tensor, Tensor]]]:
    """Yield, batch by batch: the batch, its logits `[B, K]`, the head's features, and the attention on tokens and on
    regions."""
    head: Any = model.head
    batches = prediction_batches(items, trained.config, trained.accelerator)
    for batch in Bar(batches, desc=title, leave=False):
        with torch.inference_mode(), trained.accelerator.autocast():
            layers, regions = model.features(batch)
            features = model.complete(batch, layers, regions)
            logits, attention = model.classify(batch, layers, regions), head.attend(*features)
        yield batch, logits, features, attention


def _mean_vectors(trained: Trained, model: Classifier, items: ProductDataset) -> tuple[Tensor, Tensor]:
    """Return the mean token of `items` in each layer, `[L, d]`, and their mean region, `[d]`."""
    head: Any = model.head
    sums: list[Any] = [0.0, 0.0]
    counts = [0, 0]
    for _, _, features, _ in _look(trained, model, items, "means"):
        for side, vectors in enumerate(head.inputs(*features)):
            sums[side] += vectors.cpu().double().sum(0)  # Apple's GPUs have no double precision
            counts[side] += len(vectors)
    token, region = (total / count for total, count in zip(sums, counts, strict=True))
    device = trained.accelerator.device
    return token.float().to(device), region.float().to(device)


def _attention_on_words(words: list[str], owners: list[int], tokens: np.ndarray, read: bool) -> dict:
    """Return the columns about words of `explain`. `owners`: the place of each token's word, -1 without one · `tokens`
    `[T]`: the attention on each · `read`: whether the classifier reads the attended text."""
    owner, reached = np.array(owners), max(owners, default=-1) + 1
    if not read or not reached or len(owner) != len(tokens):  # the latter: a learned vector in place of an empty text
        return {"words": words, "attention": None, "unsplit": 1.0}
    inside = owner >= 0
    pieces, sums = np.bincount(owner[inside]), np.bincount(owner[inside], tokens[inside])
    cut = len(words) > reached  # the rest did not fit into `max_tokens`
    relative = np.append(sums / np.maximum(pieces, 1) * len(tokens), np.zeros(int(cut)))
    return {"words": words[:reached] + ["…"] * cut, "attention": relative, "unsplit": float(tokens[~inside].sum())}


def _squares(weights: Tensor, batch: dict[str, Tensor], item: int) -> np.ndarray | None:
    """Return an item's attention on regions `[R]`, with padding last, as maps `[I, h, w]`, over their mean.

    A missing image has the map of what stands in for it.
    """
    images = batch.get("images")
    of_each = len(weights) // (1 if images is None else int(images.max()))
    count = 1 if images is None else int(images[item])
    if "missing" in batch and batch["missing"][item, 1]:
        count = 1
    side, weights = math.isqrt(of_each), weights[: count * of_each]
    return (weights * len(weights)).cpu().double().numpy().reshape(count, side, side) if side**2 == of_each else None


def _require_attention(trained: Trained) -> None:
    if not trained.config.attends:
        raise KitError(f"The run {trained.run.name!r} has no co-attention: take a run of system coattention.")
