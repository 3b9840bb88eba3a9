"""Which runs answer the paper's questions on one challenge folder.

A study is a name that its runs share: the members of table 1, the baselines, the ablations of table 2, the ensembles of
table 3. Whoever reads results asks for the study's runs; whoever trains asks for their configurations.
"""

import re
from pathlib import Path

from kit.config import KitError, TrainConfig, check_name, train_config
from kit.runs import Run, list_runs

BASELINES = ("concat", "bilinear", "dot", "text", "image", "tfidf", "logistic")
ABLATIONS = {  # table 2, as changes of the configuration
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
    pairs = [(text, image) for image in images for text in texts]
    return [_named(values, f"{short(text)}-{short(image)}", text=text, image=image) for text, image in pairs]


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
    rows = {row: [_named(values, f"{row}-s{n}", seed=n, **new) for n in numbers] for row, new in ABLATIONS.items()}
    rows["full"][0] = members(values, [base.text], [base.image])[0]
    return rows


def ablation(config: TrainConfig) -> str | None:
    """The row of table 2 that `config` is, or None."""
    switches = {"bilstm": True, "layer_weights": True, "attention": "both"}
    changed = {name: getattr(config, name) for name, usual in switches.items() if getattr(config, name) != usual}
    rows = [row for row, changes in ABLATIONS.items() if changes == changed and config.system == "coattention"]
    return rows[0] if rows else None


def study_runs(study: str) -> list[Run]:
    """The study's finished runs, oldest first. Raises KitError where there is none."""
    runs = [run for run in list_runs() if run.config.study == study]
    if not runs:
        known = ", ".join(sorted({run.config.study for run in list_runs()} - {""})) or "none yet"
        raise KitError(f"The study {study!r} has no finished run; studies with runs: {known}.")
    return runs


def member_runs(study: str) -> dict[str, tuple[str, str]]:
    """Run name → (text, image) of the study's members: full models, of each pair the one with the lowest seed."""
    found = {}
    configs = [run.config for run in study_runs(study)]
    full = [config for config in configs if isinstance(config, TrainConfig) and ablation(config) == "full"]
    for config in sorted(full, key=lambda config: config.seed):
        found.setdefault((short(config.text), short(config.image)), config.run)
    return {run: pair for pair, run in found.items()}


def _named(values: dict, label: str, **changes) -> TrainConfig:
    study = values.get("study")
    if not study:
        raise KitError("study is empty: name the study that these runs belong to, such as -p study first.")
    check_name(study)
    return train_config(**values | changes | {"run": f"{study}-{label}"})


def short(name: str) -> str:
    """The last part of a hub name or path, as a folder name."""
    return re.sub(r"[^A-Za-z0-9_]+", "_", Path(name).name)
