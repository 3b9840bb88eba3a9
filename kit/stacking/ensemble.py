"""Stacked ensembles of finished runs (paper section 4.6), trained and scored on out-of-fold probabilities.

N items · M members · K classes
"""

import dataclasses
import json
import re
import time
import warnings
from collections.abc import Iterable
from itertools import combinations, product
from math import comb

import numpy as np
import pandas as pd
from sklearn.model_selection import PredefinedSplit
from threadpoolctl import threadpool_limits

from kit.config import EnsembleConfig, bounded_name, short_hash, short_names
from kit.core.arrays import write_arrays
from kit.core.console import Bar
from kit.core.exceptions import KitError
from kit.data.folds import split_up_to
from kit.metrics import bootstrap_macro_f1, macro_f1
from kit.runs import STACKER, EnsembleRun, open_run, prepare_run
from kit.stacking.members import Members, is_current, open_members, read_members
from kit.stacking.stackers import METHODS, Best, Blend, Single, Tempered

TOO_GOOD = "in-sample: the ensemble is scored on the items that it learned from, so its scores are too good."
GROUPINGS = 60  # at most: every method stacks each of them, which takes minutes


def evaluation_folds(items: pd.DataFrame, folds: int, seed: int) -> np.ndarray:
    """Return the fold `[N]` in which each item is scored: the one that the members were validated in.

    Members trained on a single split have none; their items are split anew into `folds` stratified folds (fewer if no
    class has so many items, or if there are fewer groups), and a `group` is never in two of them.

    Raise KitError if there are too few items for two folds.
    """
    if items["fold"].nunique() > 1:
        return items["fold"].to_numpy()
    assigned = split_up_to(folds, items["label"], seed, items.get("group"))
    if len(np.unique(assigned)) < 2:
        raise KitError(f"{len(items)} validation items are too few for a nested evaluation: train with folds=5.")
    return assigned


def out_of_fold(members: Members, config: EnsembleConfig) -> np.ndarray:
    """Return the ensemble's probabilities `[N, K]`; the stacker that scores a fold is trained on the other folds only.

    One leak remains with k folds: the members that made the stacker's training inputs were themselves trained on the
    scored fold. With two members that memorise (three nearest neighbours) and labels of pure noise, 4 classes and 600
    items, it was worth .9 points of accuracy to `network` and `logistic`, and .2 to `blend` (88 repeats, standard
    error .3; measured before members had temperatures).
    """
    splits = list(PredefinedSplit(evaluation_folds(members.items, config.folds, config.seed)).split())
    result = np.empty(members.oof.shape[::2])
    # cross_val_predict would renumber the classes that occur in y, and so mistake X's columns if one has no item
    for rest, scored in Bar(splits, desc=config.run, leave=False, delay=5):
        result[scored] = _fit(members, config, rest).predict_proba(members.oof[scored])
    return result


def _fit(members: Members, config: EnsembleConfig, rows: np.ndarray) -> Tempered:
    """Return the ensemble's stacker, fitted to these rows of the out-of-fold items."""
    groups = members.groups if members.groups is None else members.groups[rows]
    return METHODS[config.method](config.seed).fit(members.oof[rows], members.labels[rows], groups)


@threadpool_limits.wrap(limits=1, user_api="blas")  # as in kit.training.probe
def stack(config: EnsembleConfig, again: bool = False) -> EnsembleRun:
    """Make the ensemble and return its run folder, laid out like a training's (see `kit.runs`).

    A finished ensemble of the same configuration and of unchanged members is left as it is. The evaluation `nested`
    scores out of fold; `in-sample`, as the paper seems to do, scores the items that the stacker was trained on, with a
    warning. Test items are predicted by a stacker trained on all out-of-fold items.

    Raise KitError if the configuration and the members do not fit together.
    """
    started = time.perf_counter()
    _check_config(config)
    if config.evaluation == "in-sample":
        warnings.warn(f"{config.run} is evaluated {TOO_GOOD}", stacklevel=2)
    run = open_run(config.run)
    if isinstance(run, EnsembleRun) and run.finished and not again:
        same = not run.changes(config)
        if same and is_current(run):
            return run
        # its members were trained again, or the study has other members now
        again = same or bool(config.study and config.members != run.config.members)
    members = read_members(config.members)
    if run.finished and not again:
        prepare_run(config)  # says why it is in the way

    stacker = _fit(members, config, np.arange(len(members.oof)))
    in_sample = stacker.predict_proba(members.oof)
    scored = in_sample if config.evaluation == "in-sample" else out_of_fold(members, config)
    test = stacker.predict_proba(members.test) if len(members.test) else members.test[:, 0]

    summary = _summarise(config, members, scored, in_sample)
    summary["temperatures"] = dict(zip(members.names, stacker.temperatures_.tolist(), strict=True))
    inner = stacker.stacker_
    if isinstance(inner, Best):
        summary["chosen"], inner = inner.chosen_, inner.stacker_
    if isinstance(inner, (Single, Blend)):
        summary["weights"] = dict(zip(members.names, inner.weights_.tolist(), strict=True))
    summary["seconds"] = round(time.perf_counter() - started, 1)
    run = prepare_run(config, again)
    with run.alone():
        write_arrays(run.folder / STACKER, stacker.state())
        run.write(members.codes, (members.items, scored), (members.test_items, test[None]), summary)
    return run


def _check_config(config: EnsembleConfig) -> None:
    if config.run in config.members:
        raise KitError(f"run={config.run!r} is the name of a member: choose another name for the ensemble.")
    for name, value in _member_fields(config.members).items():
        if getattr(config, name) != value:
            raise KitError(
                f"{name}={getattr(config, name)!r} is not what {config.members[0]!r} was trained with ({value!r}): "
                f"make the configuration with kit.stacking.ensemble.ensemble_config."
            )


def _member_fields(names: tuple[str, ...]) -> dict:
    """Return the fields of an ensemble's configuration that its members determine."""
    first = open_members(names)[0].config
    return {name: getattr(first, name) for name in ("data", "clean_titles", "clean_descriptions")}


def _summarise(config: EnsembleConfig, members: Members, scored: np.ndarray, in_sample: np.ndarray) -> dict:
    """Return the entries of summary.json besides the scores; gains are over the best member on the same items.

    `scored`: the evaluated probabilities `[N, K]` · `in_sample`: the stacker's probabilities `[N, K]` for the items
    that it was trained on.
    """
    y, predicted = members.labels, scored.argmax(1)
    singles = [macro_f1(y, single) for single in members.predicted]
    best = int(np.argmax(singles))
    low, high = bootstrap_macro_f1(y, predicted, members.predicted[best], groups=members.groups)
    summary = {
        "members": members.names,
        "members_identity": members.identity,
        "method": config.method,
        "evaluation": config.evaluation,
        "best_member": members.names[best],
        "best_member_macro_f1": singles[best],
        "gain": macro_f1(y, predicted) - singles[best],
        "gain_low": low,
        "gain_high": high,
        "in_sample_macro_f1": macro_f1(y, in_sample.argmax(1)),
        "data": members.data,
    }
    return summary | ({"warning": TOO_GOOD} if config.evaluation == "in-sample" else {})


def groupings(members: dict[str, tuple[str, str]]) -> dict[str, list[str]]:
    """Return run names by label: for each image backbone every set of two or more text backbones, then all members.

    `members`: run name → (text, image). The paper's table 3 shows six of the nine groupings that its six models allow.
    If there are more than GROUPINGS sets, keep only some sizes (all texts, two, three, … up to that limit) and say so.
    """
    short = [short_names(pair[side] for pair in members.values()) for side in (0, 1)]
    texts = {image: list(dict.fromkeys(t for t, i in members.values() if i == image)) for _, image in members.values()}
    runs = {}
    for image, sizes in _sizes(texts).items():
        for chosen in (chosen for size in sizes for chosen in combinations(texts[image], size)):
            names = [name for name, (text, other) in members.items() if other == image and text in chosen]
            if len(names) < len(members):
                runs[f"{short[1][image]} × {' + '.join(short[0][text] for text in chosen)}"] = names
    return runs | {f"all {len(members)}": list(members)}


def _sizes(texts: dict[str, list[str]]) -> dict[str, list[int]]:
    """Return by image backbone the sizes of the sets of text backbones to stack."""
    largest = max(map(len, texts.values()))
    taken: set[int] = set()
    sets = 0
    for size in dict.fromkeys([largest, *range(2, largest)]):
        new = sum(comb(len(names), size) for names in texts.values()) if size > 1 else 0
        if taken and sets + new > GROUPINGS:
            break
        taken, sets = taken | {size}, sets + new
    possible = sum(comb(len(names), size) for names in texts.values() for size in range(2, largest + 1))
    if sets < possible:
        sizes = ", ".join(map(str, sorted(taken)))
        print(f"Of {possible:,} sets of text backbones only those of {sizes} are stacked ({sets}), and all members.")
    return {image: [size for size in range(2, len(names) + 1) if size in taken] for image, names in texts.items()}


def ensemble_config(members: Iterable[str], label: str, study: str = "", **values) -> EnsembleConfig:
    """Return the configuration of an ensemble of these runs, on the data that they were trained on.

    `label` becomes part of the run's name · `values`: method, evaluation, folds, seed. A study has one ensemble per
    label and method; outside a study the name ends in a short hash of the configuration.

    Raise KitError if a member is not a finished training run.
    """
    members = (members,) if isinstance(members, str) else tuple(members)
    config = EnsembleConfig("unnamed", members, study=study, **_member_fields(members), **values)
    label = bounded_name(re.sub(r"[^A-Za-z0-9_.+]+", "_", label.replace(" × ", "+").replace(" + ", "+")), 120)
    parts = [study, "ensemble", label, config.method]
    parts.append(config.evaluation if config.evaluation != "nested" else "")
    if not study:
        parts.append(short_hash(json.dumps(dataclasses.asdict(config), sort_keys=True)))
    return dataclasses.replace(config, run=bounded_name("-".join(filter(None, parts))))


def compare(
    groups: dict[str, list[str]],
    methods: Iterable[str] = (),
    study: str = "",
    seed: int = 0,
    again: bool = False,
) -> pd.DataFrame:
    """Stack every grouping with each of `methods` (all but `best` if none is named), nested; return the runs, one row
    per grouping and one column per method.

    Finished ensembles are read, not made again. Raise KitError if members do not fit together.
    """
    methods = [*methods] or [method for method in METHODS if method != "best"]
    stacked = pd.DataFrame(index=pd.Index(groups, name="ensemble"), columns=methods, dtype=object)
    for label, method in Bar([*product(groups, methods)], desc="ensembles", leave=False):
        config = ensemble_config(groups[label], label, study, method=method, seed=seed)
        stacked.loc[label, method] = stack(config, again)
    return stacked
