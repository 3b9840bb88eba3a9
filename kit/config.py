"""The configurations of trainings and ensembles, and the recipes."""

import dataclasses
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from annotated_types import Ge, Le

from kit.core.exceptions import KitError, did_you_mean
from kit.core.paths import require_encoding, spelling

LAUNCHER = "KIT_LAUNCHER"  # environment variable: the process that asked for a training and watches its folder
SYSTEMS = {  # system → the backbones that it reads
    "coattention": ("text", "image"),
    "concat": ("text", "image"),
    "bilinear": ("text", "image"),
    "dot": ("text", "image"),
    "text": ("text",),
    "image": ("image",),
    "tfidf": (),
    "logistic": ("text", "image"),
    "logistic_text": ("text",),
    "logistic_image": ("image",),
    "neighbours": ("text", "image"),
    "own": (),
}
OWN = "own"  # a model from elsewhere, of which a run has only what it predicts (`kit.training.own`)
NOT_TRAINED = f"system={OWN!r} has nothing to train: kit.training.own:OwnMember writes what it predicts."
# Fields that affect speed, memory or error tolerance, but not what is learned (`accumulate`: but for BatchNorm).
SAME_RESULT = (
    "accumulate",
    "workers",
    "features_gb",
    "images_gb",
    "compile",
    "checkpointing",
    "curve",
    "missing",
    "corrupt",
    "nonfinite",
    "save_steps",
    "max_minutes",
    "track",
)
HELD_OUT_PARTS = 5  # one of them chooses the number of epochs if `keep` is held_out
# fitted in one call rather than by gradient steps
LIGHT = ("tfidf", "logistic", "logistic_text", "logistic_image", "neighbours", OWN)
# Fields that not every system has a use for: the value that leaves each out, and the backbones that it needs.
OPTIONAL: dict[str, tuple[Any, set[str]]] = {
    "train_text_layers": (0, {"text"}),
    "pair": (False, {"text"}),
    "augment": (False, {"image"}),
    "modality_dropout": (0.0, {"text", "image"}),
    "class_weights": (0.0, set()),
    "label_smoothing": (0.0, set()),
    "teacher": ("", set()),
}
NAMES = ("run", "study", "data", "text", "image", "members", "teacher")  # free-text parameters that no recipe sets
TOP_LAYER = 5.0  # a linear start: the top text layer's weight before the softmax; that of the others is 0
FROZEN: dict[str, Any] = {
    "width": 384,
    "attention_width": 128,
    "linear_start": True,
    "image_size": 224,
    "max_tokens": 64,
    "batch_size": 32,
    "epochs": 6,
    "lr": 1e-3,
    "backbone_lr_scale": 0.05,
    "lr_decay": 0.8,
    "clip_norm": 1.0,
    "train_embeddings": False,
    "freeze_text": True,
    "freeze_image": True,
    "folds": 3,
    "split": "grouped",
    "keep": "last",
}
# What fine-tuning on a GPU usually takes, not tuned on the challenge's data.
FINE_TUNED: dict[str, Any] = {
    "width": 1024,
    "max_tokens": 128,
    "lr": 1e-3,
    "backbone_lr_scale": 0.02,
    "schedule": "cosine",
    "warmup": 0.1,
    "clip_norm": 1.0,
    "augment": True,
    "pair": True,
    "compile": True,
    "split": "grouped",
    "keep": "last",
    "curve": False,
}
RECIPES: dict[str, dict[str, Any]] = {
    "paper": {},
    "demo": FROZEN,
    "laptop": FROZEN | {"train_text_layers": 2, "folds": 5},
    # one H200 and a night
    "night": FINE_TUNED | {"image_size": 384, "max_tokens": 256, "batch_size": 64, "epochs": 5, "folds": 5},
    # two T4 and nine hours: no bf16, 16 GB each, and time for one model per member
    "kaggle": FINE_TUNED | {"image_size": 224, "batch_size": 32, "epochs": 4, "precision": "fp16", "val_share": 0.1},
}
# The pairs of backbones, text and image, that `kit best` trains with a recipe if none are named.
PAIRS: dict[str, list[tuple[str, str]]] = {
    "paper": [("camembert", "resnet152"), ("flaubert", "resnext101_32x8d"), ("mbert", "resnet152")],
    "demo": [("e5_small", "efficientnet_lite0"), ("minilm", "efficientnet_lite2")],
    "laptop": [
        ("e5_small", "efficientnet_lite0"),
        ("minilm", "efficientnet_lite2"),
        ("camembertav2", "vit_base_patch16_siglip_224.v2_webli"),
    ],
    "night": [
        ("camembertav2", "convnext_large.fb_in22k_ft_in1k_384"),
        ("camembert_large", "vit_so400m_patch16_siglip_384.v2_webli"),
        ("xlmr_large", "vit_large_patch16_dinov3.lvd1689m"),
    ],
    "kaggle": [
        ("camembertav2", "vit_base_patch16_siglip_224.v2_webli"),
        ("camembert_large", "convnext_base.fb_in22k_ft_in1k"),
    ],
}
# The pairs that light members read instead, of backbones whose vectors were trained to be compared. Those of a masked
# language model were not, and three pairs take three times the processor's time.
LIGHT_PAIRS: dict[str, list[tuple[str, str]]] = {
    "night": [("e5_large", "vit_so400m_patch16_siglip_384.v2_webli")],
    "kaggle": [("e5_base", "vit_base_patch16_siglip_224.v2_webli")],
}
# Further changes for the baselines: a small head on fixed features needs its own learning rate.
BASELINE_RECIPES: dict[str, dict[str, Any]] = {
    "demo": {"epochs": 10, "lr_decay": 0.9},
    "laptop": {"epochs": 10, "lr_decay": 0.9},
}


def check_type(name: str, value, kind: type):
    """Return `value` if it has the parameter's type (a whole number counts as a float); otherwise raise KitError."""
    if type(value) is kind:
        return value
    if kind is float and type(value) is int:
        return float(value)
    if kind is str and (value is None or isinstance(value, (bool, int, float))):
        raise KitError(
            f"The parameter {name}={value!r} is not text: papermill changes what looks like a number, True, False or "
            f"None (007 becomes 7), so pass it with -r {name}, which keeps it, or in Jupyter in quotation marks."
        )
    words = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}[kind]
    raise KitError(f"The parameter {name}={value!r} must be {words}.")


def _check_fields(config) -> None:
    """Check each field against its annotation: the type, and the choices or bounds beside it.

    A whole number becomes a float and a list a tuple where the field is one, because JSON does not tell them apart.
    Raise KitError if a value is invalid.
    """
    for field in dataclasses.fields(config):
        object.__setattr__(config, field.name, _check_value(field.name, getattr(config, field.name), field.type))


def _check_value(name: str, value, hint):
    """Return `value` as its field's annotation `hint` has it."""
    kind, *limits = get_args(hint) if get_origin(hint) is Annotated else [hint]
    if get_origin(kind) is tuple:
        return tuple(check_type(name, one, str) for one in value)
    if get_origin(kind) is Literal:
        kind, limits = str, [get_args(kind)]
    value = check_type(name, value, kind)
    for limit in limits:
        match limit:
            case Ge(least) if not value >= least:  # also refuses nan
                raise KitError(f"{name}={value} is too small: it must be at least {least}.")
            case Le(most) if value > most:
                raise KitError(f"{name}={value} is too large: it must be at most {most}.")
            case tuple() | dict() if value not in limit:
                raise KitError(f"{name}={value!r} is not one of {', '.join(filter(None, limit))}.")
    return value


@dataclass(frozen=True)
class TrainConfig:
    """The configuration of one training. From `model` on, the defaults are the paper's recipe; other recipes change
    them.

    Raise KitError if a value is invalid.
    """

    data: str = "data/shop"  # challenge folder of either edition, or a catalogue of your own
    text: str = "camembert"  # text backbone: a name of kit.models.registry.TEXT, a hub name or a directory
    image: str = "resnet152"  # image backbone: a name of kit.models.registry.IMAGE, a timm name or a directory
    recipe: Annotated[str, RECIPES] = "paper"  # sets every parameter that is not given
    run: str = ""  # name of the run's folder under runs/; empty: derived from the other parameters
    study: str = ""  # name of the study that the run belongs to
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0  # random seed for the initial weights and the batches
    limit: Annotated[int, Ge(0)] = 0  # use only this many training items (stratified sample); 0: all
    pretrained: bool = True  # False: random weights of the same size, to rehearse a run
    folds: Annotated[int, Ge(1)] = 1  # 1: one split, by val_share; k: k models, and each item validates once
    # The paper sets 20 % aside and says no more; both splits here keep the shares of the classes (stratified).
    split: Literal["random", "grouped"] = "random"  # random: the paper's; grouped: duplicates stay on one side
    val_share: Annotated[float, Ge(0.01), Le(0.9)] = 0.2  # share of the training items for validation if folds is 1
    split_seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0  # random seed for the split into folds

    # --- model
    system: Annotated[str, SYSTEMS] = "coattention"  # the paper's, or a baseline: any other of SYSTEMS but own
    # The paper's "hidden dimension size of 2048" is taken as the BiLSTM's output: 1024 per direction. It does not give
    # attention_width, classifier_width, dropout or the rank of the bilinear map (width here).
    width: Annotated[int, Ge(1)] = 2048  # D, the joint width
    attention_width: Annotated[int, Ge(1)] = 512  # k, the hidden width of the co-attention
    classifier_width: Annotated[int, Ge(1)] = 512  # hidden width of the classifier
    # Co-attention: before the classifier and after its hidden layer; baselines: after the hidden layer only. Fine-tuned
    # text backbones also have their own dropout.
    dropout: Annotated[float, Ge(0), Le(0.95)] = 0.1  # dropout in the classifier
    layer_weights: bool = True  # learn a weight per text layer; False: use the top layer only
    # Eq. 2 with L = 12: the transformer layers, not the embeddings. (The authors' code drops the last layer.)
    embedding_layer: bool = False  # count the embeddings' output as a layer
    bilstm: bool = True  # BiLSTM over the tokens; False: a linear layer to D instead
    coattention: bool = True  # weigh tokens and regions by each other (eq. 3 to 9); False: all equally
    attention: Literal["both", "text", "image"] = "both"  # attended vectors that the classifier sees
    # With 256 regions, eq. 5's sum drives tanh to its limits, and the attended text is far shorter than the image. So:
    # means in place of eq. 4's and 5's sums; both attended vectors at one length, unless linear_start has set theirs
    attention_scale: bool = False

    # --- recipe: the paper's. Comments say how its words were read; docs/paper-to-code.md has the whole list
    image_size: Annotated[int, Ge(32)] = 500  # pixels per side; 500 results in 16×16 regions at stride 32
    # Tokens, as the paper says. (The authors' code cuts after 510 characters.)
    max_tokens: Annotated[int, Ge(8)] = 510  # longest text in tokens, special ones included; the rest is cut off
    batch_size: Annotated[int, Ge(1)] = 16  # items per step, over all processes
    accumulate: Annotated[int, Ge(1)] = 1  # micro-batches per step
    epochs: Annotated[int, Ge(1)] = 10  # passes over the training items
    # "best" and "soup" select on the items that are scored, which flatters the score. (The authors' code selects by
    # accuracy.) Beyond the paper, soup: the three best epochs' mean weights, of those that do not lower macro-F1
    # (Wortsman et al. 2022); held_out: a fifth of the fold's training items chooses the number of epochs, 0 included,
    # and the model is trained anew on all of them for that long, which takes nearly twice as long.
    # epoch whose model is used; best: by validation macro-F1
    keep: Literal["best", "last", "soup", "held_out"] = "best"
    curve: bool = True  # validate after every epoch; False (if keep is last or held_out): after the last one only
    # The paper gives new layers ".01 times the learning rate of the base network to avoid over-fitting of the learned
    # features". Here it is the other way round, as that reason demands and as in the authors' code (0.1 there): new
    # layers learn at lr, pretrained ones at 0.01 times lr.
    lr: Annotated[float, Ge(0), Le(10)] = 3e-4  # Adam's learning rate for new layers
    backbone_lr_scale: Annotated[float, Ge(0), Le(100)] = 0.01  # learning rate of pretrained layers as a multiple of lr
    # "A weight decay of 0.9" in Adam would erase the weights. The authors' code multiplies the learning rate by 0.9
    # after each epoch, so it means that here. The optimizer is AdamW, which is Adam if weight_decay is 0.
    lr_decay: Annotated[float, Ge(0), Le(1.0)] = 0.9  # factor on both learning rates after each epoch, if exponential
    schedule: Literal["exponential", "cosine"] = "exponential"  # exponential: lr_decay; cosine: to 0 over the epochs
    warmup: Annotated[float, Ge(0), Le(0.9)] = 0.0  # share of a model's steps in which both learning rates rise from 0
    weight_decay: Annotated[float, Ge(0), Le(10)] = 0.0  # weight decay of AdamW
    label_smoothing: Annotated[float, Ge(0), Le(0.95)] = 0.0  # share of the target that is spread over all classes
    class_weights: Annotated[float, Ge(0), Le(1)] = 0.0  # power of the inverse class frequency in the loss; 1: balanced
    # Distillation (Hinton et al. 2015), with out-of-fold probabilities (cross-fitting: Dao et al. 2021). Half and half
    # is usual (Touvron et al. 2021), not tuned here; docs/best.md says what it was worth.
    teacher: str = ""  # finished run, such as a stack, whose out-of-fold probabilities are part of the target
    teacher_share: Annotated[float, Ge(0), Le(1)] = 0.5  # share of the target that is the teacher's, not the label's
    clip_norm: Annotated[float, Ge(0)] = 0.0  # upper bound on the gradient's norm; 0: none
    linear_start: bool = False  # start the head as a linear classifier on standardised mean features
    # A learned vector replaces it, and then also what an item lacks in the first place, in training and prediction.
    modality_dropout: Annotated[float, Ge(0), Le(0.9)] = 0.0  # share of training items whose text or image is left out
    augment: bool = False  # flip, crop and recolour training images; predict from each image and its mirror image
    train_embeddings: bool = True  # train the text backbone's token embeddings; False: keep them fixed
    freeze_text: bool = False  # keep the text backbone fixed
    # with freeze_text: train this many top layers of the text backbone, from the cached output of the layer below them
    train_text_layers: Annotated[int, Ge(0)] = 0
    freeze_image: bool = False  # keep the image backbone fixed
    features_gb: Annotated[float, Ge(0)] = 4.0  # disk space for the cached outputs of frozen backbones, GiB
    images_gb: Annotated[float, Ge(0)] = 4.0  # disk space for cached images at the training size, GiB
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"  # auto: bf16 if the GPU supports it
    compile: bool = False  # torch.compile: about a minute before the first step, then faster steps in large batches
    checkpointing: bool = False  # recompute the backbones' activations for the gradient: less memory, slower
    # The paper strips tags and odd symbols. Here tags, entities and mojibake are removed; case, accents, punctuation
    # and numbers stay.
    clean_titles: bool = True  # clean entities and white space in titles
    clean_descriptions: bool = True  # clean tags, entities, mojibake and white space in descriptions
    pair: bool = False  # the tokenizer's pair of title and description, which is cut first; False: one joined text
    workers: Annotated[int, Ge(0)] = 2  # processes that read images
    track: Literal["", "tensorboard", "trackio", "wandb", "mlflow"] = ""  # tracker that also gets each epoch's scores

    # --- when something goes wrong
    missing: Literal["error", "blank"] = "error"  # missing images; blank: train on white ones, listed in blank.csv
    corrupt: Literal["error", "few", "blank"] = "few"  # unreadable images; few: blank up to one in a hundred
    nonfinite: Literal["error", "skip"] = "error"  # a NaN or infinite loss or gradient; skip: omit the step, count it
    save_steps: Annotated[int, Ge(0)] = 1000  # steps between saved states, to resume from; 0: only after epochs
    max_minutes: Annotated[float, Ge(0)] = 0.0  # a command that trains stops after them, to be resumed; 0: never

    def __post_init__(self):
        _check_fields(self)
        for name in ("data", "text", "image"):
            if not getattr(self, name).strip():
                raise KitError(f"{name} is empty: it must be a name or a folder.")
            require_encoding(name, getattr(self, name))
        if self.system == "coattention" and self.bilstm and self.width % 2:
            raise KitError(f"width={self.width} must be even: each direction of the BiLSTM provides one half.")
        if self.system == "coattention" and not self.coattention and self.attention != "both":
            other = "image" if self.attention == "text" else "text"
            raise KitError(
                f"attention={self.attention!r} with coattention=False never reads the {other}: take "
                f"system={self.attention!r} instead."
            )
        if self.augment and "image" in self.frozen:
            raise KitError(
                "augment=True changes the images at every step, and a frozen image backbone reads each only once: pass "
                "-p augment False."
            )
        if self.batch_size % self.accumulate:
            raise KitError(f"batch_size={self.batch_size} must be a multiple of accumulate={self.accumulate}.")
        for name, value in unused(self.system).items():
            if getattr(self, name) != value:
                raise KitError(f"system={self.system!r} has no use for {name}={getattr(self, name)!r}: leave it out.")
        if self.train_text_layers and not self.freeze_text:
            raise KitError(
                f"train_text_layers={self.train_text_layers} needs freeze_text, which fixes the layers below: pass -p "
                f"freeze_text True, or leave train_text_layers out to train all layers."
            )
        if self.teacher and self.folds == 1:
            raise KitError(
                f"folds=1 leaves no training item with an out-of-fold prediction of teacher={self.teacher!r}: train "
                f"its members and this run in folds, with -p folds 5."
            )
        if not self.run:
            object.__setattr__(self, "run", self._name())
        check_name(self.run)
        if self.teacher == self.run:
            raise KitError(f"run={self.run!r} is the name of its teacher: choose another name with -p run.")

    @property
    def sides(self) -> tuple[str, ...]:
        """Return the backbones that the system reads: text, image."""
        return SYSTEMS[self.system]

    @property
    def frozen(self) -> tuple[str, ...]:
        """Return the sides whose backbone is not trained, or at most its top layers (`train_text_layers`)."""
        return tuple(side for side in self.sides if getattr(self, f"freeze_{side}") or self.system in LIGHT)

    @property
    def unread(self) -> set[str]:
        """Return the fields that name a backbone which the system does not read."""
        return {"text", "image"} - {*self.sides}

    @property
    def pooled(self) -> bool:
        """Return whether the system reads one vector per side rather than tokens and regions."""
        return self.system != "coattention"

    @property
    def attends(self) -> bool:
        """Return whether the model weighs tokens and regions by co-attention."""
        return self.system == "coattention" and self.coattention

    @property
    def micro_batch(self) -> int:
        """Return the items per batch, over all processes; `accumulate` batches make a step."""
        return self.batch_size // self.accumulate

    def steps(self, items: int) -> int:
        """Return the optimizer steps of the whole run if each of its models trains on `items` items."""
        passes = [items, held_in(items)] if self.keep == "held_out" else [items]
        steps = sum(-(-part // self.batch_size) for part in passes)
        return 0 if self.system in LIGHT else self.folds * self.epochs * steps

    def _name(self) -> str:
        """Return a name made from the values that distinguish runs; changes of the recipe enter as a short hash."""
        short = [self.study[:60] or short_name(self.data), *([] if self.system == "coattention" else [self.system])]
        short += [short_name(getattr(self, side)) for side in self.sides]
        plain = {"run", "study", "data", "text", "image", "recipe", "seed", *SAME_RESULT}
        values = {k: v for k, v in dataclasses.asdict(self).items() if k not in plain}
        usual = {field.name: field.default for field in dataclasses.fields(self)} | RECIPES[self.recipe]
        paths = [spelling(path) for path in (self.data, self.text, self.image)]
        changed = {k: v for k, v in values.items() if v != usual[k]} | {"paths": paths}
        return "-".join([*short, self.recipe, f"s{self.seed}", short_hash(json.dumps(changed, sort_keys=True))])


def held_in(items: int) -> int:
    """Return how many of a fold's training items are left, about, if `keep` is held_out."""
    return items - items // HELD_OUT_PARTS


def split_names(names: str) -> list[str]:
    """Return names that stand in one text with commas between them."""
    return [name.strip() for name in names.split(",") if name.strip()]


def short_name(name: str, parts: int = 1) -> str:
    """Return the last `parts` of a hub name or path, as a folder name of at most 60 characters."""
    return re.sub(r"[^A-Za-z0-9_]+", "_", "_".join(Path(name).parts[-parts:]))[:60] or "root"


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return a short name for each hub name or path: as many of its last parts as distinguish it from the others, and a
    hash if no number of parts does. Case does not distinguish names, because some file systems ignore it."""
    parts = dict.fromkeys(names, 1)
    while True:
        short = {name: short_name(name, count) for name, count in parts.items()}
        times = Counter(value.lower() for value in short.values())
        ambiguous = {name for name, value in short.items() if times[value.lower()] > 1}
        longer = [name for name in ambiguous if parts[name] < len(Path(name).parts)]
        if not longer:
            return {name: possible_names(name)[-1] if name in ambiguous else value for name, value in short.items()}
        parts |= {name: parts[name] + 1 for name in longer}


def possible_names(name: str) -> list[str]:
    """Return every short name that a hub name or path may have, shortest first."""
    names = [short_name(name, parts) for parts in range(1, len(Path(name).parts) + 1)] or [short_name(name)]
    return [*names, f"{names[-1][:53]}_{short_hash(name)}"]


def bounded_name(name: str, length: int = 250) -> str:
    """Return a compound name cut to `length`; a hash replaces the part that is cut off."""
    return name if len(name) <= length else f"{name[: length - 7]}-{short_hash(name)}"


def short_hash(text: str) -> str:
    """Return six hexadecimal digits that distinguish texts."""
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def check_name(run: str) -> None:
    """Raise KitError if `run` is not a plain folder name."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{,249}", run):
        raise KitError(f"run={run!r} must be a folder name of up to 250 letters, digits, '_', '-', '+' and '.'.")


@dataclass(frozen=True)
class EnsembleConfig:
    """The configuration of a stacked ensemble of finished runs (paper section 4.6). Raise KitError if a value is
    invalid.
    """

    run: str  # name of the ensemble's folder under runs/
    members: tuple[str, ...]  # names of finished runs
    data: str  # their challenge folder
    method: Literal["network", "logistic", "blend", "greedy", "best"] = "best"  # network: feed-forward, the paper's
    evaluation: Literal["nested", "in-sample"] = "nested"  # in-sample: scored on the items it learned from
    folds: Annotated[int, Ge(2)] = 5  # folds of the evaluation if the members were trained on one split
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0  # random seed for the network and these folds
    study: str = ""  # name of the study that it belongs to
    clean_titles: bool = True  # as in the members
    clean_descriptions: bool = True  # as in the members

    def __post_init__(self):
        _check_fields(self)
        if len(set(self.members)) != len(self.members) or not self.members:
            raise KitError(f"members={', '.join(self.members)!r} must name different runs.")
        check_name(self.run)


def train_config(**values) -> TrainConfig:
    """Return the configuration for notebook parameters; the recipe supplies values that are None. Raise KitError if
    there is no such field, or a value is invalid."""
    name, given = values.get("recipe", "paper"), {key: value for key, value in values.items() if value is not None}
    fields = [field.name for field in dataclasses.fields(TrainConfig)]
    for unknown in (key for key in given if key not in fields):
        raise KitError(f"There is no field {unknown!r}.{did_you_mean(unknown, fields)}")
    system = given.get("system", "coattention")
    changes = BASELINE_RECIPES.get(name, {}) if system != "coattention" else {}
    changes = changes | unused(system)
    return TrainConfig(**RECIPES.get(name, {}) | changes | given)


def unused(system: str) -> dict[str, Any]:
    """Return the fields that the system has no use for, with the values that leave them out."""
    sides = set(SYSTEMS.get(system, ("text", "image")))
    light = OPTIONAL.keys() - {"pair"} if system in LIGHT else set()
    return {name: value for name, (value, needs) in OPTIONAL.items() if name in light or not needs <= sides}


def recipe_changes(config: TrainConfig) -> dict[str, tuple]:
    """Return the fields in which a configuration differs from its recipe, with the recipe's value and its own."""
    recipe = dataclasses.asdict(train_config(recipe=config.recipe, system=config.system))
    own = dataclasses.asdict(config)
    return {name: (recipe[name], value) for name, value in own.items() if value != recipe[name] and name != "run"}
