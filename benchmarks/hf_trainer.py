"""Training seconds against the Hugging Face Trainer that drives the very same model the plain way.

The plain way: texts tokenised beforehand, images decoded when an item is requested, a collator that pads to the
batch, batches in random order, two loader processes; everything else is the Trainer's default. Same items, synthetic
ones of the real catalogue's text lengths, same batches per step, same epochs, no evaluation; neither side has anything
cached when it starts, and the time of both includes all that they do.
"""

import logging
import tempfile
import time

import numpy as np
import torch
import transformers
from measure import Workbench, cold, in_turn, ratio_row, report, synthetic
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from kit.config import TrainConfig, train_config
from kit.data.images import read_pixels
from kit.data.items import read_items
from kit.data.text import product_texts
from kit.models.backbones import find_backbones
from kit.models.classifier import build_model
from kit.models.tokenizer import load_tokenizer

QUESTION = "training seconds ÷ those of the Hugging Face Trainer, same model"


class Items(Dataset):
    def __init__(self, frame, labels: np.ndarray, ids: list[list[int]], size: int):
        self.paths, self.labels, self.ids, self.size = list(frame["image_path"]), labels, ids, size

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> dict:
        return {"ids": self.ids[row], "pixels": read_pixels(self.paths[row], self.size), "label": self.labels[row]}


def collate(items: list[dict]) -> dict:
    ids = [torch.tensor(item["ids"]) for item in items]
    return {
        "ids": pad_sequence(ids, batch_first=True),
        "mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "pixels": torch.from_numpy(np.stack([item["pixels"] for item in items])),
        "labels": torch.tensor([int(item["label"]) for item in items]),
    }


class Wrapped(nn.Module):
    """Our classifier with the arguments and the loss that the Trainer wants."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, ids, mask, pixels, labels) -> dict:
        logits = self.model({"ids": ids, "mask": mask, "pixels": pixels})
        return {"loss": cross_entropy(logits, labels), "logits": logits}


def theirs(config: TrainConfig) -> float:
    """Seconds from the items to the end of the training."""
    codes, frames = read_items(config)
    frame = frames["train"][frames["train"]["fold"] != 0]
    model = build_model(config, len(codes), find_backbones(config), config.sides)
    clock = time.perf_counter()
    ids = load_tokenizer(config.text)(product_texts(frame), config.max_tokens)
    items = Items(frame, np.searchsorted(codes, frame["label"]), ids, config.image_size)
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder,
            per_device_train_batch_size=config.batch_size,
            num_train_epochs=config.epochs,
            dataloader_num_workers=config.workers,
            remove_unused_columns=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=config.seed,
        )
        transformers.Trainer(Wrapped(model), arguments, data_collator=collate, train_dataset=items).train()
    return time.perf_counter() - clock


def ours(config: TrainConfig) -> float:
    """Seconds from the items to the end of the training, on an empty cache."""
    with cold():
        clock = time.perf_counter()
        bench = Workbench(config)
        batches = bench.loader()
        for epoch in range(config.epochs):
            batches.batch_sampler.set_epoch(epoch)
            bench.train(batches)
        return time.perf_counter() - clock


def main() -> None:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    shared = {"data": str(synthetic(1000, 100)), "recipe": "demo", "text": "minilm", "image": "efficientnet_lite0"}
    shared |= {"limit": 135, "folds": 1, "split": "random", "max_tokens": 510, "epochs": 2, "linear_start": False}
    frozen = {"freeze_text": True, "freeze_image": True}
    tuned = {"freeze_text": False, "freeze_image": False, "lr": 1e-3, "epochs": 1, "limit": 90, "val_share": 0.3}
    rows = []
    for case, changes in {"demo: frozen backbones": frozen, "demo: fine-tuned": tuned}.items():
        config = train_config(**shared | changes)
        ours(train_config(**shared | changes | {"limit": 54, "val_share": 0.5, "epochs": 1}))  # libraries loaded
        seconds = in_turn(2 if config.frozen else 1, ours=lambda: ours(config), theirs=lambda: theirs(config))  # noqa: B023
        detail = f"{min(seconds['ours']):.3g} s against {min(seconds['theirs']):.3g} s"
        rows.append(ratio_row(case, seconds["ours"], seconds["theirs"], "<= 0.9", detail))
    report("hf_trainer", QUESTION, rows)


if __name__ == "__main__":
    main()
