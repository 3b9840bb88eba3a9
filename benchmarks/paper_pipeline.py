"""Training samples/s against the published recipe as its users run it, around the very same model.

The recipe's way: a Dataset that tokenises each item when it is requested, with a tokenizer in Python, and pads it to
510 tokens; Pillow decodes the whole image and resizes it, as float32; batches in random order; the backbones run at
every step, frozen or not; float32. Ours: kit.train on its caches. Both see synthetic items of the real catalogue's
text lengths, at the demo's image size, in batches of 32, with two processes that decode.

What ours pays once, for what it keeps, is spread over the recipe's 10 epochs, and for frozen backbones over about as
many items as the demo has. Of these the recipe trains on a part: its pace is that of any number.
"""

import json
import time

import numpy as np
import torch
from measure import Workbench, cold, in_turn, ratio_row, report, synthetic
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from kit.config import train_config
from kit.core.paths import cache_folder
from kit.data.items import read_items
from kit.data.text import product_texts
from kit.models.registry import TEXT

QUESTION = "training samples/s ÷ those of the published recipe as it is run, same model"
TOKENS, EPOCHS = 510, 10


class Published(Dataset):
    """Items as the recipe reads them."""

    def __init__(self, frame, labels: np.ndarray, size: int):
        vocabulary = json.loads(TEXT["minilm"].tokenizer.locate().read_text(encoding="utf-8"))["model"]["vocab"]
        file = cache_folder() / "minilm-vocabulary.txt"
        file.write_text("\n".join(sorted(vocabulary, key=vocabulary.get)), encoding="utf-8")
        self.tokenizer = BertTokenizerLegacy(str(file))
        self.texts, self.paths, self.labels, self.size = product_texts(frame), list(frame["image_path"]), labels, size

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, row: int) -> dict:
        encoded = self.tokenizer(
            self.texts[row], truncation=True, max_length=TOKENS, padding="max_length", return_tensors="pt"
        )
        with Image.open(self.paths[row]) as image:
            pixels = np.asarray(image.convert("RGB").resize((self.size, self.size)), np.float32)
        item = {"ids": encoded["input_ids"][0], "mask": encoded["attention_mask"][0], "row": row}
        return item | {"pixels": torch.from_numpy(pixels), "label": int(self.labels[row])}


def main() -> None:
    shared = {"data": str(synthetic(1000, 16)), "recipe": "demo", "text": "minilm", "image": "efficientnet_lite0"}
    shared |= {"folds": 1, "split": "random", "max_tokens": TOKENS}
    frozen = {"freeze_text": True, "freeze_image": True, "limit": 0, "val_share": 0.05}
    tuned = {
        "freeze_text": False,
        "freeze_image": False,
        "linear_start": False,
        "lr": 1e-3,
        "limit": 90,
        "val_share": 0.3,
    }
    rows = []
    for case, changes in {"demo: frozen backbones": frozen, "demo: fine-tuned": tuned}.items():
        config = train_config(**shared | changes)
        fewer = {"limit": config.limit or 135, "val_share": max(config.val_share, 0.2)}
        part = train_config(**shared | changes | fewer | {"features_gb": 0, "images_gb": 0})
        with cold():  # libraries and backbones are loaded for both alike
            Workbench(train_config(**shared | changes | {"limit": 54, "val_share": 0.5}))
        with cold():
            clock = time.perf_counter()
            ours = Workbench(config)
            once = time.perf_counter() - clock  # reading, tokenising, decoding, frozen features
        theirs = Workbench(part)
        frame = read_items(part)[1]["train"]
        frame = frame[frame["fold"] != 0].reset_index(drop=True)
        published = Published(frame, theirs.parts["train"].labels, config.image_size)
        batches = DataLoader(published, config.batch_size, shuffle=True, num_workers=config.workers)
        loaders = {"ours": ours.loader(), "theirs": theirs.accelerator.prepare(batches)}
        seconds = in_turn(
            2 if config.frozen else 1,  # an epoch of theirs takes minutes
            theirs=lambda: theirs.train(loaders["theirs"]),  # noqa: B023
            ours=lambda: ours.train(loaders["ours"]),  # noqa: B023
        )
        items = len(ours.parts["train"])
        paces = {  # seconds an item
            "theirs": [epoch / len(published) for epoch in seconds["theirs"]],
            "ours": [epoch / items for epoch in seconds["ours"]],
            "ours, spread": [(epoch + once / EPOCHS) / items for epoch in seconds["ours"]],
        }
        detail = " / ".join(f"{1 / min(found):.3g}" for found in paces.values())
        detail = f"items/s {' / '.join(paces)}: {detail}; {len(published)} and {items} items"
        rows.append(ratio_row(case, paces["theirs"], paces["ours, spread"], ">= 5", detail))
    report("paper_pipeline", QUESTION, rows)


if __name__ == "__main__":
    main()
