"""Which runs answer the paper's questions on one challenge folder.

A study is a name that its runs share: the members of table 1, the baselines, the ablations of table 2, the ensembles of
table 3. Whoever reads results asks for the study's runs; whoever trains asks for their configurations.
"""

import dataclasses
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kit.config import TrainConfig, bounded_name, check_name, possible_names, short_names, train_config
from kit.core.exceptions import KitError
from kit.core.paths import resolve
from kit.runs import Run, TrainingRun, list_runs, open_run

BASELINES = ("concat", "bilinear", "dot", "text", "image", "tfidf", "logistic")
ABLATIONS: dict[str, dict[str, Any]] = {  # table 2, as changes of the configuration
    "full": {},
    "no-bilstm": {"bilstm": False},
    "no-layer-weights": {"layer_weights": False},
    "text-attention-only": {"attention": "text"},
    "image-attention-only": {"attention": "image"},
}


def members(values: dict, texts: list[str], images: list[str]) -> list[TrainConfig]:
    """The co-attention model on each image backbone × each text backbone (table 1).

    `values`, here and below: parameters of `kit.config.train_config`, `study` among them.
    """
    study, texts, images = _study(values), _differing(texts), _differing(images)
    configs = [train_config(**values | {"text": text, "image": image}) for image in images for text in texts]
    return [dataclasses.replace(config, run=_member_name(study, config, texts, images)) for config in configs]


def one_run(values: dict) -> TrainConfig:
    """The run of `values`; the full model of a study that has no name of its own gets the one that it has there."""
    config = train_config(**values)
    if config.study and not values.get("run") and ablation(config) == "full":
        return members(values, [config.text], [config.image])[0]
    return config


def baselines(values: dict) -> list[TrainConfig]:
    """The paper's three fusions of what frozen backbones give (section 3.1), each side alone, and two references."""
    frozen = {"freeze_text": True, "freeze_image": True}
    return [_named(values, f"baseline-{system}", system=system, **frozen) for system in BASELINES]


def ablations(values: dict, seeds: int) -> dict[str, list[TrainConfig]]:
    """The rows of table 2, each with `seeds` seeds; `full` with the first seed is the member itself."""
    if seeds < 1:
        raise KitError(f"seeds={seeds} is too small: it must be at least 1.")
    base = train_config(**values)
    numbers = range(base.seed, base.seed + seeds)
    quick = {"curve": False}  # nobody looks at the learning curves of so many
    rows = {
        row: [_named(quick | values, f"{row}-s{n}", seed=n, **new) for n in numbers] for row, new in ABLATIONS.items()
    }
    rows["full"][0] = members(values, [base.text], [base.image])[0]
    return rows


def resolved_backbones(config: TrainConfig) -> tuple[Path, Path]:
    """The text and the image backbone, to be compared: by the whole name, however it is written."""
    return resolve(config.text), resolve(config.image)


def backbone_names(runs: Iterable[Run]) -> dict[str, tuple[str, str]]:
    """Run name → short names of its text and image backbone, as long as they must be to differ among `runs`."""
    configs = {run.name: run.config for run in runs if isinstance(run, TrainingRun)}
    sides = []
    for side in ("text", "image"):
        names = {name: getattr(config, side) for name, config in configs.items()}
        short = {resolve(name): value for name, value in short_names(_differing(names.values())).items()}
        sides.append({run: short[resolve(name)] for run, name in names.items()})
    return {run: (sides[0][run], sides[1][run]) for run in sides[0]}


def ablation(config: TrainConfig) -> str | None:
    """The row of table 2 that `config` is, or None."""
    switches = {"bilstm": True, "layer_weights": True, "attention": "both"}
    changed = {name: getattr(config, name) for name, usual in switches.items() if getattr(config, name) != usual}
    rows = [row for row, changes in ABLATIONS.items() if changes == changed and config.system == "coattention"]
    return rows[0] if rows else None


def study_runs(study: str) -> list[Run]:
    """The study's finished runs, oldest first. Raises KitError where there is none."""
    runs: list[Run] = []
    studies: set[str] = set()
    for run in list_runs():
        try:
            studies.add(run.config.study)
        except KitError as error:  # another version's, say: no reason to stop a study that it is no part of
            warnings.warn(str(error), stacklevel=2)
            continue
        if run.config.study == study:
            runs.append(run)
    if not runs:
        known = ", ".join(sorted(studies - {""})) or "none yet"
        raise KitError(f"The study {study!r} has no finished run; studies with runs: {known}.")
    return runs


def member_runs(study: str) -> dict[str, tuple[str, str]]:
    """Run name → (text, image), short, of the study's members: full models, of each pair the one with the lowest
    seed."""
    found: dict[tuple[Path, Path], tuple[int, str]] = {}
    runs = study_runs(study)
    for run in runs:
        if isinstance(run, TrainingRun) and ablation(config := run.config) == "full":
            pair = resolved_backbones(config)
            found[pair] = min(found.get(pair, (config.seed, run.name)), (config.seed, run.name))
    names = backbone_names(runs)
    return {name: names[name] for name in sorted((name for _, name in found.values()), key=lambda n: names[n][::-1])}


def _named(values: dict, label: str, **changes) -> TrainConfig:
    return train_config(**values | changes | {"run": bounded_name(f"{_study(values)}-{label}")})


def _member_name(study: str, config: TrainConfig, texts: list[str], images: list[str]) -> str:
    """The name that the member's run has already, or one that no run of other backbones has.

    `texts`, `images`: of the members that are named with it.
    """
    labels = [f"{text}-{image}" for text in possible_names(config.text) for image in possible_names(config.image)]
    owners = {name: _owner(name) for name in (bounded_name(f"{study}-{label}") for label in labels)}
    others = [owner for owner in owners.values() if owner]
    for name, owner in owners.items():
        if owner and resolved_backbones(owner) == resolved_backbones(config):
            return name
    text = short_names([*texts, *_differing(owner.text for owner in others)])[config.text]
    image = short_names([*images, *_differing(owner.image for owner in others)])[config.image]
    wanted = bounded_name(f"{study}-{text}-{image}")
    return next((name for name in (wanted, *owners) if not _owner(name)), wanted)


def _owner(name: str) -> TrainConfig | None:
    """The configuration of the training that has the folder of that name."""
    try:
        return run.config if isinstance(run := open_run(name), TrainingRun) else None
    except KitError:  # another version's, say
        return None


def _differing(names: Iterable[str]) -> list[str]:
    """The backbones, each once, however its directory is written."""
    found: dict[Path, str] = {}
    for name in names:
        found.setdefault(resolve(name), name)
    return [*found.values()]


def _study(values: dict) -> str:
    study = values.get("study")
    if not study:
        raise KitError("study is empty: name the study that these runs belong to, such as -p study first.")
    check_name(study)
    return study
