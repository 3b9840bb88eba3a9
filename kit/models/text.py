"""Text backbones: transformers encoders.

B batch · T tokens · d the backbone's own width
"""

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from kit.core.exceptions import KitError
from kit.models.e5 import e5_model
from kit.models.registry import TEXT, PipFile, TextSpec
from kit.models.weights import UNREADABLE, check_hub, first_line, local_directory, refuse_pointers

TRIED = 4  # tokens of a text that a new text backbone is tried with
CAUSAL = 1e-5  # of the vectors' deviation: what the rest of a text changes in its first token, at the least
LEAK = 1e-3  # and what padding changes, at the most


def check_text(name: str) -> None:
    """Raises KitError where the text backbone `name` cannot be loaded here; quick, and loads nothing."""
    if name in TEXT and isinstance(TEXT[name].source, PipFile):
        TEXT[name].source.locate()
        TEXT[name].tokenizer.locate()
    elif directory := (None if name in TEXT else local_directory(name)):
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
        check_hub(name, repo, "text", "config.json")


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
            raise KitError(f"{refusal} ({first_line(error)}): {advice}.") from error
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
    source = spec.source if spec else (local_directory(name) or name)
    pinned = isinstance(source, PipFile)
    if pinned and pretrained:
        if source.path.endswith(".bin"):
            return TextBackbone(e5_model(spec))
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
        raise KitError(f"The text backbone {name!r} could not be loaded from {source}: {first_line(error)}") from error
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
