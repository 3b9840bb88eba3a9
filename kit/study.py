"""Which runs answer the paper's questions on one challenge folder.

A study is a name that its runs share: the members of table 1, the baselines, the ablations of table 2, the ensembles of
table 3. Whoever reads results asks for the study's runs; whoever trains asks for their configurations.
"""

import warnings

from kit.config import KitError, TrainConfig, check_name, short_name, train_config
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
    configs = [
        _named(values, f"{short_name(text)}-{short_name(image)}", text=text, image=image) for text, image in pairs
    ]
    if len({config.run for config in configs}) < len(configs):
        raise KitError(f"Two backbones of {', '.join([*texts, *images])} have the same name: rename a directory.")
    return configs


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


def backbone_pair(config: TrainConfig) -> tuple[str, str]:
    """Short names of the text and the image backbone."""
    return short_name(config.text), short_name(config.image)


def ablation(config: TrainConfig) -> str | None:
    """The row of table 2 that `config` is, or None."""
    switches = {"bilstm": True, "layer_weights": True, "attention": "both"}
    changed = {name: getattr(config, name) for name, usual in switches.items() if getattr(config, name) != usual}
    rows = [row for row, changes in ABLATIONS.items() if changes == changed and config.system == "coattention"]
    return rows[0] if rows else None


def study_runs(study: str) -> list[Run]:
    """The study's finished runs, oldest first. Raises KitError where there is none."""
    runs, known = [], set()
    for run in list_runs():
        try:
            known.add(run.config.study)
        except KitError as error:  # another version's, say: no reason to stop a study that it is no part of
            warnings.warn(str(error), stacklevel=2)
            continue
        if run.config.study == study:
            runs.append(run)
    if not runs:
        known = ", ".join(sorted(known - {""})) or "none yet"
        raise KitError(f"The study {study!r} has no finished run; studies with runs: {known}.")
    return runs


def member_runs(study: str) -> dict[str, tuple[str, str]]:
    """Run name → (text, image) of the study's members: full models, of each pair the one with the lowest seed."""
    found = {}
    for run in study_runs(study):
        config = run.config
        if isinstance(config, TrainConfig) and ablation(config) == "full":
            pair = backbone_pair(config)
            found[pair] = min(found.get(pair, (config.seed, run.name)), (config.seed, run.name))
    return {found[pair][1]: pair for pair in sorted(found, key=lambda pair: pair[::-1])}


def _named(values: dict, label: str, **changes) -> TrainConfig:
    study = values.get("study")
    if not study:
        raise KitError("study is empty: name the study that these runs belong to, such as -p study first.")
    check_name(study)
    return train_config(**values | changes | {"run": f"{study}-{label}"})
