"""Text backbones: transformers encoders.

B batch · T tokens · d the backbone's own width
"""

import copy
import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kit.core.exceptions import KitError, first_line
from kit.models.e5 import e5_model
from kit.models.pretrained import BROKEN, check_hub, local_directory, refuse_pointers, text_hub_name
from kit.models.registry import TEXT, TextSpec

PROBE_TOKENS = 4  # length of the texts that a new text backbone is probed with
LEAST_CONTEXT = 1e-5  # of the vectors' deviation: least change of the first token's vector by the rest of its text
MOST_LEAK = 1e-3  # of the same: most change of the text's vectors by padding, or by running top layers alone


def check_text(name: str) -> None:
    """Raise KitError if the text backbone `name` cannot be loaded here; a quick check that loads nothing."""
    if name in TEXT and (file := TEXT[name].file):
        file.locate()
        if tokenizer := TEXT[name].tokenizer:
            tokenizer.locate()
    elif directory := local_directory(name, "text"):
        refuse_pointers(directory)
        config = directory / "config.json"
        if not config.is_file() or '"model_type"' not in config.read_text(encoding="utf-8", errors="replace"):
            raise KitError(
                f"{directory} has no config.json with a model_type: it is not a text backbone of transformers."
            )
        if not any(list(directory.glob(pattern)) for pattern in ("tokenizer.json", "vocab.*", "*.model")):
            raise KitError(
                f"{directory} has no tokenizer: copy tokenizer.json and tokenizer_config.json there too, or if the "
                f"model's repository has no tokenizer.json, all files of its tokenizer."
            )
    else:
        check_hub(name, text_hub_name(name), "text", "config.json")


class TextBackbone(nn.Module):
    """A transformers encoder: `depth` layers of width `width` on at most `max_tokens` tokens.

    Raise KitError if the model turns out not to be one.
    """

    model: Any  # of transformers, whose attributes differ by family

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.width = getattr(model.config, "hidden_size", 0)
        self.depth = getattr(model.config, "num_hidden_layers", 0)
        self.vocabulary = getattr(model.config, "vocab_size", 0)
        self.max_tokens = self._probe()

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Return the embeddings' output and each layer's, depth+1 × `[B, T, d]`; mask `[B, T]`: 1 at real tokens.

        `ids`: `[B, T]`, or with each token's type `[B, T, 2]`, which a model without types does not read.
        """
        types = {}
        if ids.ndim == 3:
            ids, kinds = ids.unbind(2)
            types = {"token_type_ids": kinds} if getattr(self.model.config, "type_vocab_size", 0) > 1 else {}
        return self.model(input_ids=ids, attention_mask=mask, output_hidden_states=True, **types).hidden_states

    @torch.no_grad()
    def _probe(self) -> int:
        """Run a few tokens through the model to check that it is an encoder; return the most tokens that it can read.

        Raise KitError if it is something else.
        """
        kind, training = self.model.config.model_type, self.model.training
        refusal = f"A {kind} model is not a text encoder that the kit can use"
        advice = "pass the name or directory of one like BERT"
        padding = getattr(self.model.config, "pad_token_id", None)
        real = [i for i in range(self.vocabulary) if i != padding][-2 * PROBE_TOKENS :]
        if len(real) < 3:
            raise KitError(f"{refusal} (it has no vocabulary): {advice}.")
        ids = torch.tensor([real[i % len(real)] for i in range(2 * PROBE_TOKENS)]).view(PROBE_TOKENS, 2).T.clone()
        ids[1, 0] = ids[0, 0]  # two texts with the same first token
        mask = torch.ones_like(ids)
        self.model.eval()
        try:
            with _watch_positions(self.model) as limits:
                alone = self(ids, mask)
            padded = self(torch.cat([ids, ids.flip(1)], 1), torch.cat([mask, 0 * mask], 1))
        except Exception as error:  # a model for images, sound or something else
            raise KitError(f"{refusal} ({first_line(error)}): {advice}.") from error
        finally:
            self.model.train(training)
        if len(alone) != self.depth + 1 or any(layer.shape != (2, PROBE_TOKENS, self.width) for layer in alone):
            raise KitError(f"{refusal} (its layers do not return one vector per token): {advice}.")
        top, beside_padding = alone[-1].double(), padded[-1][:, :PROBE_TOKENS].double()
        scale = top.std()
        if not 0 < scale < torch.inf:
            raise KitError(f"The {kind} model returns no usable numbers (their deviation is {scale}): fetch it again.")
        if (top[0, 0] - top[1, 0]).abs().max() < LEAST_CONTEXT * scale:
            raise KitError(f"{refusal} (its first token does not see the following ones, as in a decoder): {advice}.")
        if not (top - beside_padding).abs().max() < MOST_LEAK * scale:
            raise KitError(f"{refusal} (padding changes its vectors: it ignores the mask): {advice}.")
        declared = getattr(self.model.config, "max_position_embeddings", None)
        return min(limits) if limits else declared if declared and declared > 0 else sys.maxsize

    def freeze_embeddings(self) -> None:
        self.model.get_input_embeddings().requires_grad_(False)

    def checkpoint(self) -> None:
        """Save memory: keep only each layer's input for the backward pass, and compute the rest again.

        Raise KitError if the model does not support it.
        """
        if not self.model.supports_gradient_checkpointing:
            raise KitError(f"A {self.model.config.model_type} model does not support checkpointing: leave it out.")
        self.model.gradient_checkpointing_enable({"use_reentrant": False})


class TopLayers(nn.Module):
    """A copy of the top `count` layers of a frozen text backbone, to be trained on the outputs of the layers below.

    If `live`, the backbone is a part of the module and computes them; otherwise they are the input.

    Raise KitError if the backbone has fewer layers, or of a kind that cannot run by themselves.
    """

    def __init__(self, backbone: TextBackbone, count: int, live: bool = False):
        super().__init__()
        self.below, self.count, kind = backbone if live else None, count, backbone.model.config.model_type
        if count > backbone.depth:
            raise KitError(
                f"train_text_layers={count} is too large: it must be at most {backbone.depth}, the layers of this "
                f"{kind} model."
            )
        refusal = (
            f"train_text_layers is not possible with a {kind} model, whose top layers cannot run by themselves: leave "
            f"it out, or use a text backbone like BERT or CamemBERT."
        )
        model, layers = backbone.model, getattr(getattr(backbone.model, "encoder", None), "layer", None)
        if not isinstance(layers, nn.ModuleList) or not hasattr(model, "embeddings"):
            raise KitError(refusal)
        # deepcopy puts these in the places of the originals
        instead = {id(model.embeddings): _HandThrough(), id(layers): copy.deepcopy(layers[-count:])}
        self.model: Any = copy.deepcopy(model, instead)
        if not self._agrees(backbone):
            raise KitError(refusal)
        self.model.encoder.layer.requires_grad_(True)

    checkpoint = TextBackbone.checkpoint

    def forward(self, source: Tensor | Sequence[Tensor], mask: Tensor) -> tuple[Tensor, ...]:
        """Return the hidden states below, and those of the trained layers, `[B, T, d]` each.

        `source`: token ids `[B, T]` if `live`, else the hidden states below, of which the last is the layers' input.
        """
        states = self.below(source, mask)[: -self.count] if self.below is not None else source
        top = self.model(inputs_embeds=states[-1], attention_mask=mask, output_hidden_states=True).hidden_states
        return (*states, *top[1:])

    def train(self, mode: bool = True) -> "TopLayers":
        super().train(mode)
        if self.below is not None:
            self.below.eval()
        return self

    @torch.no_grad()
    def _agrees(self, backbone: TextBackbone) -> bool:
        """Return whether a few tokens get the same hidden states as in the whole backbone."""
        ids = torch.arange(2 * PROBE_TOKENS, device=self.model.device).view(2, -1) % backbone.vocabulary
        mask = torch.ones_like(ids)
        mask[1, -1] = 0
        whole = backbone(ids, mask)
        try:
            top = self.model(inputs_embeds=whole[-1 - self.count], attention_mask=mask, output_hidden_states=True)
        except Exception:  # the layers want more than the hidden state
            return False
        pairs = zip(whole[-self.count :], top.hidden_states[1:], strict=True)
        return all(
            (expected - actual)[mask.bool()].abs().max() < MOST_LEAK * expected.std() for expected, actual in pairs
        )


class _HandThrough(nn.Module):
    """Stands for a model's embeddings and returns the vectors that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Identity()  # unused, but transformers puts a hook on it for checkpointing

    def forward(self, inputs_embeds: Tensor, **_: Any) -> Tensor:
        return inputs_embeds


@contextmanager
def _watch_positions(model: nn.Module) -> Iterator[list[int]]:
    """Yield a list that receives the number of tokens that each table of positions has room for.

    A table of positions is recognised by look-ups of consecutive rows, whichever row the model begins with.
    """
    limits = []

    def note_limit(module: Any, arguments: tuple) -> None:
        rows = arguments[0] if arguments else None
        if isinstance(rows, Tensor) and not rows.is_floating_point() and rows.ndim and rows.shape[-1] >= PROBE_TOKENS:
            rows = rows.reshape(-1, rows.shape[-1])[0, :PROBE_TOKENS]  # some models lengthen the text
            if (rows.diff() == 1).all():
                limits.append(len(module.weight) - int(rows[0]))

    tables = [module for module in model.modules() if getattr(getattr(module, "weight", None), "ndim", 0) == 2]
    hooks = [module.register_forward_pre_hook(note_limit) for module in tables]
    try:
        yield limits
    finally:
        for hook in hooks:
            hook.remove()


def load_text(name: str, pretrained: bool = True) -> TextBackbone:
    """Return the text backbone `name`; with `pretrained=False` one of the same size with random weights.

    Raise KitError if it cannot be loaded.
    """
    from transformers import AutoModel, logging

    logging.set_verbosity_error()  # hides the report of unused weights; missing ones are refused below
    logging.disable_progress_bar()
    spec = TEXT.get(name)
    if pretrained:
        check_text(name)
    source = local_directory(name, "text") or text_hub_name(name)
    pinned = spec.file if spec else None
    if spec and pinned and pretrained:
        if pinned.path.endswith(".bin"):
            return TextBackbone(e5_model(pinned.locate(), spec.config))
        source = pinned.locate().parent
    try:
        # a pip folder's config.json is not pinned: the spec's is read instead
        config = _text_config(source, spec if pinned or not pretrained else None)
        options = _text_options(config) | {"trust_remote_code": False}
        if not pretrained:
            return TextBackbone(AutoModel.from_config(config, **options))
        model, report = AutoModel.from_pretrained(
            source, config=config, dtype=torch.float32, output_loading_info=True, **options
        )
    except BROKEN as error:
        raise KitError(f"The text backbone {name!r} could not be loaded from {source}: {first_line(error)}") from error
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise KitError(f"The weights of the text backbone {name!r} lack {missing}: {source} holds another model.")
    return TextBackbone(model)


def text_work(name: str, tokens: int) -> tuple[int, int, int]:
    """Return the floating-point operations of a forward pass over `tokens` tokens, how many numbers each layer returns,
    and the number of layers.

    Attention itself is not counted: its operations are few in short texts. No weights are needed.
    """
    from transformers import AutoModel

    spec = TEXT.get(name)
    config = _text_config(local_directory(name, "text") or name, spec)
    with torch.device("meta"):
        model: Any = AutoModel.from_config(config)
    operations = 2 * tokens * (model.num_parameters() - model.get_input_embeddings().weight.numel())
    width, depth = (getattr(config, name, 0) for name in ("hidden_size", "num_hidden_layers"))
    return operations, tokens * width, depth


def _text_config(source: str | Path, spec: TextSpec | None):
    """Return transformers' configuration, from `spec` or else from `source`.

    Raise KitError if `source` needs code of its own.
    """
    from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoConfig, PreTrainedConfig

    if spec:
        return AutoConfig.for_model(spec.model_type, **spec.config)
    content, _ = PreTrainedConfig.get_config_dict(source)
    if code := content.get("auto_map"):
        kind: Any = content.get("model_type")
        config = CONFIG_MAPPING[kind] if kind in CONFIG_MAPPING else None  # noqa: SIM401 (its get() ignores the models)
        known: set[Any] = {config, MODEL_MAPPING.get(config, None)} - {None} if config else set()
        # a class that transformers has meanwhile adopted replaces the repository's of the same name
        names = {str(code[name]).rpartition(".")[2] for name in ("AutoConfig", "AutoModel") if name in code}
        if not known or names - {one.__name__ for one in known}:
            raise KitError(
                f"{source} brings its own code (auto_map in its config.json), which the kit never runs: use a model "
                f"that transformers supports itself."
            )
    return AutoConfig.from_pretrained(source, trust_remote_code=False)


def _text_options(config) -> dict:
    """Return options for transformers' model class: no pooler, whose weights the loss would not reach.

    Raise KitError if the model is not an encoder.
    """
    from transformers import MODEL_MAPPING

    if config.is_encoder_decoder or type(config) not in MODEL_MAPPING:
        raise KitError(
            f"A {config.model_type} model is not a text encoder: pass the name or directory of one like BERT."
        )
    if hasattr(config, "layerdrop"):
        config.layerdrop = 0.0  # FlauBERT would leave dropped layers out of its hidden states
    model: Any = MODEL_MAPPING[type(config)]
    accepted = inspect.signature(model.__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in accepted else {}
