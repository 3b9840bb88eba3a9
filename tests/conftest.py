"""What several tests share: a tiny challenge folder, and tiny backbones saved by their own libraries."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach for the network
# the same everywhere; CUDA_VISIBLE_DEVICES=0 make test tries a GPU, where pinned losses differ
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import kit.models.backbones

WORDS = [
    "chat",
    "chien",
    "rouge",
    "bleu",
    "grand",
    "petit",
    "livre",
    "jeu",
    "piscine",
    "lampe",
    "table",
    "sans",
    "le",
    "la",
]
CODES = (10, 40, 2705)


def _images(folder: Path, frame: pd.DataFrame, seed: int) -> None:
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for item in frame.itertuples():
        pixels = random.integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"image_{item.imageid}_product_{item.productid}.jpg")


LONG = ("test_notebooks.py", "test_resume.py", "test_train.py")


def pytest_collection_modifyitems(items) -> None:
    """Begin with the long tests, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """36 training and 7 test items of 3 classes, challengedata edition; the title gives the class away."""
    folder, random = tmp_path_factory.mktemp("tiny_data"), np.random.default_rng(0)
    rows = []
    for i in range(43):
        words = " ".join(random.choice(WORDS, random.integers(1, 9)))
        rows.append([f"{('livre', 'jeu', 'piscine')[i % 3]} {words}", words if i % 2 else "", 900 + i, 500 + i])
    frame = pd.DataFrame(rows, columns=["designation", "description", "productid", "imageid"])
    train, test = frame[:36], frame[36:]
    train.to_csv(folder / "X_train_update.csv")
    test.to_csv(folder / "X_test_update.csv")
    pd.DataFrame({"prdtypecode": [CODES[i % 3] for i in range(36)]}).to_csv(folder / "Y_train_CVw08PX.csv")
    _images(folder / "images" / "image_train", train, 1)
    _images(folder / "images" / "image_test", test, 2)
    return folder


def _tokenizer(kind: str, folder: Path) -> None:
    """A small tokenizer of the family's own class, over WORDS and single letters."""
    pieces = [*WORDS, *"abcdefghijklmnopqrstuvwxyz"]
    if kind == "bert":
        vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces, *(f"##{c}" for c in pieces[-26:])]
        (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
        transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    elif kind == "flaubert":
        special = ["<s>", "</s>", "<pad>", "<unk>", *(f"<special{i}>" for i in range(10))]
        vocabulary = [*special, *(f"{piece}</w>" for piece in pieces), *pieces[-26:]]
        (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(vocabulary)}))
        (folder / "merges.txt").write_text("#version: 0.2\na b 1\n", encoding="utf-8")
        transformers.FlaubertTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    else:
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        inner = Tokenizer(models.WordLevel({p: i for i, p in enumerate([*special, *pieces])}, unk_token="<unk>"))
        inner.pre_tokenizer = pre_tokenizers.Whitespace()
        inner.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
        names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
        transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **names).save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_texts(tmp_path_factory) -> dict[str, str]:
    """A local directory of each of the paper's three text families, 2 layers of width 16, as transformers saves it."""
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    configs = {
        "camembert": transformers.CamembertConfig(vocab_size=60, max_position_embeddings=66, pad_token_id=1, **small),
        "flaubert": transformers.FlaubertConfig(
            vocab_size=100, emb_dim=16, n_layers=2, n_heads=2, max_position_embeddings=64
        ),
        "bert": transformers.BertConfig(vocab_size=90, max_position_embeddings=64, **small),
    }
    folders = {}
    for kind, config in configs.items():
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp(f"tiny_{kind}")
        transformers.AutoModel.from_config(config).save_pretrained(folder)
        _tokenizer(kind, folder)
        folders[kind] = str(folder)
    return folders


@pytest.fixture(scope="session")
def tiny_image(tmp_path_factory) -> str:
    """A local directory with a small timm model, as a timm repository on the hub looks."""
    folder = tmp_path_factory.mktemp("tiny_image")
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", pretrained=False)
    save_file(model.state_dict(), folder / "model.safetensors")
    config = {"architecture": "test_resnet", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """Runs and submissions go to a temporary project root, in this process and in those it starts."""
    monkeypatch.setenv("KIT_ROOT", str(tmp_path))
    kit.models.backbones._handle.cache_clear()  # what other tests loaded is kept under their roots, not under this one
    return tmp_path


@pytest.fixture
def tiny_config(tiny_data, tiny_texts, tiny_image) -> dict:
    """Parameters of a run of seconds."""
    return {
        "data": str(tiny_data), "text": tiny_texts["bert"], "image": tiny_image, "image_size": 64, "max_tokens": 24,
        "width": 16, "attention_width": 8, "classifier_width": 8, "batch_size": 8, "epochs": 2, "lr": 0.01,
        "backbone_lr_scale": 0.1, "workers": 0,
    }  # fmt: skip


@pytest.fixture
def one_thread():
    """Another number of threads draws other dropout and rounds otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
