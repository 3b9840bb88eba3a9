"""The runs that answer the paper's questions on one challenge folder.

A study is a name that its runs share: the members of table 1, the baselines, the ablations of table 2, the ensembles of
table 3. Some functions return the configurations to train, the others the finished runs to read.
"""

import dataclasses
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kit.config import (
    LIGHT,
    NOT_TRAINED,
    OWN,
    TrainConfig,
    bounded_name,
    check_name,
    possible_names,
    short_names,
    split_names,
    train_config,
    unused,
)
from kit.core.exceptions import KitError
from kit.core.paths import resolve
from kit.data.challenge import read_sides
from kit.data.items import needed_sides
from kit.runs import Run, TrainingRun, list_runs, open_run
from kit.stacking.ensemble import groupings
from kit.stacking.members import member_backbones

BASELINES = ("concat", "bilinear", "dot", "text", "image", *(system for system in LIGHT if system != OWN))
# The paper compares a fine-tuned model with frozen fusions, which mixes two gains. These rows keep them apart.
MATCHED = ("concat, fine-tuned", "co-attention, frozen")
FROZEN_COATTENTION = "baseline-coattention-frozen"
ABLATIONS: dict[str, dict[str, Any]] = {  # table 2, as changes of the configuration; no-co-attention is ours
    "full": {},
    "no-bilstm": {"bilstm": False},
    "no-layer-weights": {"layer_weights": False},
    "no-co-attention": {"coattention": False},
    "text-attention-only": {"attention": "text"},
    "image-attention-only": {"attention": "image"},
}


def members(values: dict, texts: list[str], images: list[str]) -> list[TrainConfig]:
    """Return the configurations of the co-attention model for each image backbone × each text backbone (table 1).

    `values`, here and below: parameters of `kit.config.train_config`, `study` among them. Raise KitError if the
    items have only texts or only images.
    """
    _require_both_sides(values)
    study, texts, images = _study(values), _unique_backbones(texts), _unique_backbones(images)
    configs = [train_config(**values | {"text": text, "image": image}) for image in images for text in texts]
    return [dataclasses.replace(config, run=_member_name(study, config, texts, images)) for config in configs]


def one_run(values: dict) -> TrainConfig:
    """Return the configuration of one run to train. An unnamed full model of a study gets the name that it has there.

    Raise KitError if there is nothing to train.
    """
    config = train_config(**values)
    if config.system == OWN:
        raise KitError(NOT_TRAINED)
    if config.study and not values.get("run") and ablation(config) == "full":
        return members(values, [config.text], [config.image])[0]
    return config


def usable_systems(systems: Iterable[str], sides: Iterable[str]) -> list[str]:
    """Return those of `systems` that read nothing but `sides`: a catalogue may have only texts or only images."""
    return [system for system in systems if needed_sides(system) <= set(sides)]


def baselines(values: dict, matched: bool = True) -> list[TrainConfig]:
    """Return the configurations of the paper's three fusions of frozen features (section 3.1), of each side alone, and
    of five light references, as far as the items have what they read; with `matched`, also those of MATCHED, unless the
    co-attention model is frozen too.
    """
    frozen = {"freeze_text": True, "freeze_image": True, "train_text_layers": 0, "augment": False, "teacher": ""}
    systems = usable_systems(BASELINES, read_sides(train_config(**values).data))
    configs = [_named(values, f"baseline-{system}", system=system, **frozen | unused(system)) for system in systems]
    if matched and "concat" in systems and not is_frozen(train_config(**values)):
        configs.append(_named(values, "baseline-concat-finetuned", system="concat"))
        configs.append(_named(values, FROZEN_COATTENTION, **frozen))
    return configs


def ablations(values: dict, seeds: int) -> dict[str, list[TrainConfig]]:
    """Return `seeds` configurations per row of table 2; `full` with the first seed is the member itself.

    Raise KitError if the items have only texts or only images.
    """
    _require_both_sides(values)
    if seeds < 1:
        raise KitError(f"seeds={seeds} is too small: it must be at least 1.")
    base = train_config(**values)
    numbers = range(base.seed, base.seed + seeds)
    quick = {"curve": False}  # so many learning curves are of no use
    rows = {
        row: [_named(quick | values, f"{row}-s{n}", seed=n, **new) for n in numbers] for row, new in ABLATIONS.items()
    }
    rows["full"][0] = members(values, [base.text], [base.image])[0]
    return rows


def resolved_backbones(config: TrainConfig) -> tuple[Path, Path]:
    """Return the text and the image backbone as absolute paths, so that different spellings compare equal."""
    return resolve(config.text), resolve(config.image)


def backbone_names(runs: Iterable[Run]) -> dict[str, tuple[str, str]]:
    """Return run name → short names of its text and image backbone, just long enough to be distinct among `runs`."""
    configs = {run.name: run.config for run in runs if isinstance(run, TrainingRun)}
    sides = []
    for side in ("text", "image"):
        names = {name: getattr(config, side) for name, config in configs.items()}
        short = {resolve(name): value for name, value in short_names(_unique_backbones(names.values())).items()}
        sides.append({run: short[resolve(name)] for run, name in names.items()})
    return {run: (sides[0][run], sides[1][run]) for run in sides[0]}


def is_frozen(config: TrainConfig) -> bool:
    """Return whether no layer of a backbone is trained."""
    return config.frozen == config.sides and not config.train_text_layers


def baseline(config: TrainConfig) -> str | None:
    """Return the row to which `config` belongs beside the model: one of BASELINES and MATCHED, OWN, or another system
    with ", fine-tuned"; None for the model itself and its ablations."""
    if config.teacher:  # no question of the paper's
        return None
    if config.system == "coattention":  # the model itself may be frozen too: the name tells them apart
        return MATCHED[1] if config.run == _run_name(config.study, FROZEN_COATTENTION) else None
    return config.system if is_frozen(config) else f"{config.system}, fine-tuned"


def ablation(config: TrainConfig) -> str | None:
    """Return the row of table 2 to which `config` belongs, or None."""
    if baseline(config) or config.teacher:
        return None
    switches = {"bilstm": True, "layer_weights": True, "coattention": True, "attention": "both"}
    changed = {name: getattr(config, name) for name, usual in switches.items() if getattr(config, name) != usual}
    rows = [row for row, changes in ABLATIONS.items() if changes == changed and config.system == "coattention"]
    return rows[0] if rows else None


def study_runs(study: str) -> list[Run]:
    """Return the study's finished runs, oldest first. Raise KitError if there is none."""
    runs: list[Run] = []
    studies: set[str] = set()
    for run in list_runs():
        try:
            own = run.config.study
        except KitError as error:  # perhaps another version's: it must not stop other studies
            warnings.warn(str(error), stacklevel=2)
            continue
        studies.add(own)
        if own == study:
            runs.append(run)
    if not runs:
        known = ", ".join(sorted(studies - {""})) or "none yet"
        raise KitError(f"The study {study!r} has no finished run; studies with runs: {known}.")
    return runs


def member_runs(study: str) -> dict[str, tuple[str, str]]:
    """Return run name → short names (text, image) of the study's members: the full models, for each pair of backbones
    the one with the lowest seed."""
    lowest: dict[tuple[Path, Path], tuple[int, str]] = {}
    runs = study_runs(study)
    for run in runs:
        if isinstance(run, TrainingRun) and ablation(config := run.config) == "full":
            pair = resolved_backbones(config)
            lowest[pair] = min(lowest.get(pair, (config.seed, run.name)), (config.seed, run.name))
    names = backbone_names(runs)
    return {name: names[name] for name in sorted((name for _, name in lowest.values()), key=lambda n: names[n][::-1])}


def baseline_runs(study: str) -> list[str]:
    """Return the names of the study's finished baselines."""
    return [run.name for run in study_runs(study) if isinstance(run, TrainingRun) and baseline(run.config)]


def stacking_groups(names: str, study: str) -> dict[str, list[str]]:
    """Return the groupings that 05_ensemble stacks, run names by label: of the runs in `names`, separated by commas; if
    it is empty, of the study's members and, last, of these and its baselines. Raise KitError if a run is not there,
    or alone."""
    named = split_names(names)
    models = member_backbones(named) if named else member_runs(study)
    groups = groupings(models) if models else {}
    if light := [] if named else baseline_runs(study):
        label = f"{len(light)} baselines"
        groups[f"all {len(models)} and {label}" if models else label] = [*models, *light]
    if groups := {label: runs for label, runs in groups.items() if len(runs) > 1}:
        return groups
    where, alone = f"members={names!r}" if named else f"the study {study!r}", ", ".join([*models, *light]) or "none"
    raise KitError(f"A stack needs two finished runs, and {where} has {alone}: train with 02_baselines or 03_train.")


def _named(values: dict, label: str, **changes) -> TrainConfig:
    if values.get("system"):
        raise KitError("system cannot be set for baselines and ablations, which vary it: train one run with 03_train.")
    return train_config(**values | changes | {"run": _run_name(_study(values), label)})


def _require_both_sides(values: dict) -> None:
    """Raise KitError if the items lack what co-attention reads."""
    data = train_config(**values).data
    if len(sides := read_sides(data)) == 1:
        raise KitError(
            f"{data} has only {sides[0]}s, and co-attention, with its ablations, reads texts and images: take "
            f"02_baselines, 03_train with -p system {sides[0]}, or kit best, which do without."
        )


def _run_name(study: str, label: str) -> str:
    return bounded_name(f"{study}-{label}")


def _member_name(study: str, config: TrainConfig, texts: list[str], images: list[str]) -> str:
    """Return the name that the member's run already has, or one that no run with other backbones has.

    `texts`, `images`: the backbones of all members that are named together.
    """
    labels = [f"{text}-{image}" for text in possible_names(config.text) for image in possible_names(config.image)]
    existing = {name: _existing_config(name) for name in (bounded_name(f"{study}-{label}") for label in labels)}
    others = [other for other in existing.values() if other]
    for name, other in existing.items():
        if other and resolved_backbones(other) == resolved_backbones(config):
            return name
    text = short_names([*texts, *_unique_backbones(other.text for other in others)])[config.text]
    image = short_names([*images, *_unique_backbones(other.image for other in others)])[config.image]
    wanted = bounded_name(f"{study}-{text}-{image}")
    return next((name for name in (wanted, *existing) if not _existing_config(name)), wanted)


def _existing_config(name: str) -> TrainConfig | None:
    """Return the configuration of the training in the folder of that name, or None."""
    try:
        return run.config if isinstance(run := open_run(name), TrainingRun) else None
    except KitError:  # no such folder, or perhaps another version's
        return None


def _unique_backbones(names: Iterable[str]) -> list[str]:
    """Return each backbone once, whichever way its directory is spelled."""
    unique: dict[Path, str] = {}
    for name in names:
        unique.setdefault(resolve(name), name)
    return [*unique.values()]


def _study(values: dict) -> str:
    study = values.get("study")
    if not study:
        raise KitError("study is empty: name the study that these runs belong to, for example -p study first.")
    check_name(study)
    return study
