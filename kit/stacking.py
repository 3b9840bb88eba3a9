"""Stacked ensembles of finished runs (paper section 4.6), learned and scored on out-of-fold probabilities.

N items · M members · K classes
"""

import dataclasses
import functools
import hashlib
import json
import re
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from math import comb
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.ensemble import VotingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold
from sklearn.neural_network import MLPClassifier

from kit.config import EnsembleConfig, KitError, TrainConfig, few, short_names, shorten
from kit.console import Bar
from kit.metrics import bootstrap_macro_f1, macro_f1
from kit.runs import AGAIN, Run, open_run, prepare_run

SAME_DATA = "train both on the same data, cleaned alike (see config.json in both folders)"
SAME_SPLIT = "train both with the same limit, folds, split, val_share and split_seed (see config.json in both folders)"
TOO_GOOD = "in-sample: the ensemble is scored on the items that it learned from, so its scores are too good."


# --- members


@dataclass(frozen=True, eq=False)
class Members:
    """Finished runs side by side, their items in the order of the first run."""

    names: list[str]
    codes: list[int]
    items: pd.DataFrame  # id, label, fold, maybe group
    oof: np.ndarray  # [M, N, K] out-of-fold probabilities
    test_items: pd.DataFrame  # split, id, maybe FINGERPRINTS
    test: np.ndarray  # [M, N_test, K], the mean over a member's folds
    data: str | None  # fingerprint of the tables
    identity: str  # a hash of the members' predictions

    @property
    def labels(self) -> np.ndarray:
        """Positions `[N]` among `codes`."""
        return pd.Categorical(self.items["label"], categories=self.codes).codes.astype(int)

    @property
    def predicted(self) -> np.ndarray:
        """`[M, N]`, positions among `codes`."""
        return self.oof.argmax(2)


def read_members(names: Iterable[str]) -> Members:
    """The runs' predictions, aligned by id. Raises KitError, naming the run, where they do not belong together."""
    runs = [open_run(name) for name in _train_configs(names)]
    items, oof = zip(*(_read_oof(run) for run in runs), strict=True)
    test_items, test = zip(*(run.read_test() for run in runs), strict=True)
    known = test_items[0]
    for i in range(1, len(runs)):
        two = f"The run {runs[i].name!r} does not fit {runs[0].name!r}: "
        _same_set(two + "it has other classes", oof[i].columns, oof[0].columns, SAME_DATA)
        _same_set(two + "it was validated on other items", items[i].index, items[0].index, SAME_SPLIT)
        _same_values(two, items[i].loc[items[0].index], items[0])
        _same_set(two + "it predicts other test items", test[i].index, test[0].index, SAME_DATA)
        known = _same_products(two, test_items[i].loc[known.index], known)
        if runs[i].summary.get("data") != runs[0].summary.get("data"):
            folders = " and ".join(run.config.data for run in (runs[i], runs[0]))
            raise KitError(f"{two}it read other texts (data: {folders}): {SAME_DATA}.")
    return Members(
        [run.name for run in runs],
        oof[0].columns.tolist(),
        items[0].reset_index(),
        np.stack([values.loc[oof[0].index, oof[0].columns].to_numpy() for values in oof]),
        known.reset_index(),
        np.stack([values.loc[test[0].index, oof[0].columns].to_numpy() for values in test]),
        runs[0].summary.get("data"),
        identity(run.name for run in runs),
    )


def identity(names: Iterable[str]) -> str:
    """A hash of the predictions of the runs: an ensemble of others is out of date."""
    digest = hashlib.sha256()
    for name in names:
        for part in ("oof", "test"):
            path = open_run(name).folder / f"{part}.parquet"
            digest.update(_file_hash(path, path.stat().st_mtime_ns))
    return digest.hexdigest()[:16]


@functools.lru_cache(maxsize=256)
def _file_hash(path: Path, changed: int) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def is_current(run: Run) -> bool:
    """False of an ensemble whose members were trained again, or are gone."""
    names = run.config.members
    files = [open_run(name).folder / file for name in names for file in ("summary.json", "oof.parquet", "test.parquet")]
    there = all(file.is_file() for file in files)
    return there and run.summary.get("members_identity") == identity(names)


def _train_configs(names: Iterable[str]) -> dict[str, TrainConfig]:
    """By run name, in order. Raises KitError where one is no finished run, or an ensemble itself."""
    found = {}
    for name in names:
        run = open_run(name)
        run.require()
        found[name] = run.config
        if isinstance(run.config, EnsembleConfig):
            raise KitError(
                f"{name!r} is an ensemble, which learned from labels of all folds: "
                f"name its members instead ({', '.join(run.config.members)})."
            )
    if not found:
        raise KitError("members is empty: name two finished runs or more.")
    return found


def _read_oof(run: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """label, fold, maybe group of the out-of-fold items, and their probabilities with the codes as columns; both
    indexed by id."""
    items, codes, values = run.predictions("oof")
    items = items.set_index("id")
    again = items.index[items.index.duplicated()]
    if len(again):
        raise KitError(f"{run.folder / 'oof.parquet'} repeats id {few(again)}: {AGAIN}.")
    return items, pd.DataFrame(values, items.index, codes, dtype=float)


def _same_products(what: str, theirs: pd.DataFrame, ours: pd.DataFrame) -> pd.DataFrame:
    """Return the fingerprints that either side knows. Raises KitError if they are of other products."""
    for name in theirs:
        known = ours[name] if name in ours else pd.Series("", theirs.index, dtype=object)
        differ = (known != theirs[name]) & (known != "") & (theirs[name] != "")
        if differ.any():
            ids = few(differ.index[differ].get_level_values("id"))
            raise KitError(
                f"{what}it answers other products, {differ.sum()} of {len(differ)} under the same ids ({ids}): train "
                f"the older one again, with -p again True."
            )
        ours = ours.assign(**{name: known.where(known != "", theirs[name])})
    return ours


def _same_set(what: str, theirs: pd.Index, ours: pd.Index, advice: str) -> None:
    sides = {"more": theirs.difference(ours), "missing": ours.difference(theirs)}
    found = [f"{len(values)} {side} ({few(values)})" for side, values in sides.items() if len(values)]
    if found:
        raise KitError(f"{what}, {' and '.join(found)}: {advice}.")


def _same_values(what: str, theirs: pd.DataFrame, ours: pd.DataFrame) -> None:
    for column, advice in {"label": SAME_DATA, "fold": SAME_SPLIT}.items():
        wrong = ours.index[theirs[column] != ours[column]]
        if len(wrong):
            values = f"{theirs[column][wrong[0]]} and {ours[column][wrong[0]]}"
            raise KitError(f"{what}the {column} of id {few(wrong)} differs ({values} for the first): {advice}.")


# --- stackers: fit(X [N, M, K], y [N] class positions), predict_proba(X) → [N, K]


class Blend:
    """A logarithmic opinion pool, p ∝ Π_m p_m^(sharpness · weights_m): log-loss is convex in the exponents.

    `weights` `[M]`: non-negative, with sum 1.
    """

    FLOOR = 1e-4  # of a probability: one member that excludes the truth must not decide alone

    def fit(self, X: np.ndarray, y: np.ndarray) -> "Blend":
        logs = np.log(np.maximum(X, self.FLOOR))
        truth = logs[np.arange(len(y)), :, y]  # [N, M]

        def loss(exponents):
            pooled = log_softmax(np.einsum("nmk,m->nk", logs, exponents), axis=1)
            slope = np.einsum("nk,nmk->m", np.exp(pooled), logs) - truth.sum(0)
            return -pooled[np.arange(len(y)), y].mean(), slope / len(y)

        members = X.shape[1]
        start = np.full(members, 1 / members)
        found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, 10)] * members).x
        self.sharpness = found.sum()
        self.weights = found / self.sharpness if self.sharpness > 0 else start
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        logs = np.log(np.maximum(X, self.FLOOR))
        return softmax(np.einsum("nmk,m->nk", logs, self.sharpness * self.weights), axis=1)


class Stacked:
    """A scikit-learn classifier on the square roots of the members' probabilities and of their blend's, side by side.

    The blend, a weight a member, saves it from learning per class that a member is weak, which few items don't teach.
    Every class is seen SURE times more, as an item of which all members are sure: a class of no item keeps its column.
    """

    SURE = 5

    def __init__(self, model):
        self.model = model

    def fit(self, X: np.ndarray, y: np.ndarray) -> "Stacked":
        self.blend = Blend().fit(X, y)
        members, classes = X.shape[1:]
        sure = np.eye(classes).repeat(self.SURE, axis=0)  # [SURE·K, K]
        inputs = self._inputs(np.concatenate([X, sure[:, None].repeat(members, axis=1)]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # few steps on purpose: they regularise too
            self.model.fit(inputs, np.concatenate([y, sure.argmax(1)]))
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return self.model.predict_proba(self._inputs(X))

    def _inputs(self, X: np.ndarray) -> np.ndarray:
        blended = self.blend.predict_proba(X)[:, None]
        return np.sqrt(np.concatenate([X, blended], axis=1, dtype=np.float32)).reshape(len(X), -1)  # [N, (M + 1)·K]


def network(seed: int) -> Stacked:
    """The paper's feed-forward network on class probabilities: one hidden layer, mean of three initialisations.

    The regularisation, and that of the logistic regression, was chosen on models of the sample, 229 to 1,144 items.
    """
    settings = {"activation": "tanh", "solver": "lbfgs", "alpha": 2.0, "max_iter": 50}
    starts = np.random.SeedSequence(seed).generate_state(3).tolist()
    networks = [(str(start), MLPClassifier((64,), random_state=start, **settings)) for start in starts]
    return Stacked(VotingClassifier(networks, voting="soft"))


METHODS = {
    "network": network,
    "logistic": lambda seed: Stacked(LogisticRegression(C=2.0, max_iter=300)),
    "blend": lambda seed: Blend(),
}


# --- ensembles


def evaluation_folds(items: pd.DataFrame, folds: int, seed: int) -> np.ndarray:
    """In which fold `[N]` each item is scored: the members' own folds.

    Members that were trained on one split have none: then stratified folds, a `group` never in two of them, at most as
    many as the largest class has items, or as there are groups; plain ones where every class has one item. Raises
    KitError where there are too few items.
    """
    assigned = items["fold"].to_numpy().copy()
    if len(np.unique(assigned)) > 1:
        return assigned
    groups = items.get("group")
    largest = items["label"].value_counts().max()
    folds = min(folds, len(items) if groups is None else groups.nunique(), largest if largest > 1 else folds)
    if folds > 1:
        splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
        if largest == 1:
            splitter = KFold if groups is None else GroupKFold
        parts = splitter(int(folds), shuffle=True, random_state=seed).split(items, items["label"], groups)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The least populated class")
            for fold, (_, scored) in enumerate(parts):
                assigned[scored] = fold
    if len(np.unique(assigned)) < 2:
        raise KitError(f"{len(items)} validation items are too few for a nested evaluation: train with folds=5.")
    return assigned


def out_of_fold(members: Members, config: EnsembleConfig) -> np.ndarray:
    """The ensemble's probabilities `[N, K]`; the stacker that scores a fold learned from the other folds only.

    Members are not trained anew: those that made its inputs there have seen the scored fold, where there are k folds.
    With two members that memorise (three nearest neighbours) and labels of pure noise, 4 classes and 600 items, this
    was worth .9 points of accuracy to `network` and `logistic`, and .2 to `blend` (88 repeats, standard error .3).
    """
    X, y = members.oof.transpose(1, 0, 2), members.labels
    folds = evaluation_folds(members.items, config.folds, config.seed)
    result = np.empty(X.shape[::2])
    for fold in Bar(np.unique(folds), desc=config.run, leave=False, delay=5):
        scored = folds == fold
        stacker = METHODS[config.method](config.seed).fit(X[~scored], y[~scored])
        result[scored] = stacker.predict_proba(X[scored])
    return result


def stack(config: EnsembleConfig, again: bool = False) -> Run:
    """The ensemble's run folder, like a training's (see `kit.runs`).

    A finished ensemble of the same configuration and of members that have not changed is left as it is. `nested`
    scores out of fold; `in-sample` as the paper seems to: on the items that the stacker learned from, with a warning.
    Test items get the stacker that learned from all out-of-fold items. Raises KitError.
    """
    started = time.perf_counter()
    _check_config(config)
    if config.evaluation == "in-sample":
        warnings.warn(f"{config.run} is evaluated {TOO_GOOD}", stacklevel=2)
    run = open_run(config.run)
    if run.finished and not again and not run.changes(config) and is_current(run):
        return run
    members = read_members(config.members)
    if run.finished and config.study and config.members != run.config.members:
        again = True  # the study has other members now
    run = prepare_run(config, again)
    if run.finished:  # of the same configuration, but its members changed
        run = prepare_run(config, again=True)

    X = members.oof.transpose(1, 0, 2)  # [N, M, K]
    stacker = METHODS[config.method](config.seed).fit(X, members.labels)
    learned = stacker.predict_proba(X)
    scored = learned if config.evaluation == "in-sample" else out_of_fold(members, config)
    test = stacker.predict_proba(members.test.transpose(1, 0, 2)) if len(members.test_items) else members.test[0]

    summary = _summarise(config, members, scored, learned)
    if isinstance(stacker, Blend):
        summary["weights"] = dict(zip(members.names, stacker.weights.tolist(), strict=True))
        summary["sharpness"] = float(stacker.sharpness)
    summary["seconds"] = round(time.perf_counter() - started, 1)
    run.write(members.codes, (members.items, scored), (members.test_items, test[None]), summary)
    return run


def _check_config(config: EnsembleConfig) -> None:
    if config.run in config.members:
        raise KitError(f"run={config.run!r} is the name of a member: give the ensemble another.")
    for name, value in _of_members(config.members).items():
        if getattr(config, name) != value:
            raise KitError(
                f"{name}={getattr(config, name)!r} is not what {config.members[0]!r} was trained with ({value!r}): "
                f"make the configuration with kit.stacking.ensemble_config."
            )


def _of_members(names: tuple[str, ...]) -> dict:
    """The fields of an ensemble's configuration that its members decide."""
    first = next(iter(_train_configs(names).values()))
    return {name: getattr(first, name) for name in ("data", "clean_titles", "clean_descriptions")}


def _summarise(config: EnsembleConfig, members: Members, scored: np.ndarray, learned: np.ndarray) -> dict:
    """What summary.json says besides the scores: gains are over the member that is best on these same items.

    `scored` `[N, K]` counts; `learned` `[N, K]` is what the stacker says of the items that it learned from.
    """
    y, predicted = members.labels, scored.argmax(1)
    singles = [macro_f1(y, single) for single in members.predicted]
    best = int(np.argmax(singles))
    low, high = bootstrap_macro_f1(y, predicted, members.predicted[best])
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
        "in_sample_macro_f1": macro_f1(y, learned.argmax(1)),
        "data": members.data,
    }
    return summary | ({"warning": TOO_GOOD} if config.evaluation == "in-sample" else {})


# --- many ensembles side by side


def backbones(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Text and image backbone by run name. Raises KitError where a name is of no finished training run."""
    return {name: (config.text, config.image) for name, config in _train_configs(names).items()}


def groupings(members: dict[str, tuple[str, str]]) -> dict[str, list[str]]:
    """Run names by label: for each image backbone every set of two text backbones or more, then all members.

    `members`: run name → (text, image). The paper's table 3 has six of the nine that its six models allow. Of more sets
    than GROUPINGS only those of some sizes are taken: all texts, two, three, …, as long as they are no more; says so.
    """
    short = [short_names(pair[side] for pair in members.values()) for side in (0, 1)]
    texts = {image: list(dict.fromkeys(t for t, i in members.values() if i == image)) for _, image in members.values()}
    found = {}
    for image, sizes in _sizes(texts).items():
        for chosen in (chosen for size in sizes for chosen in combinations(texts[image], size)):
            names = [name for name, (text, other) in members.items() if other == image and text in chosen]
            if len(names) < len(members):
                found[" + ".join([short[1][image], *(short[0][text] for text in chosen)])] = names
    return found | {f"all {len(members)}": list(members)}


GROUPINGS = 60  # each is stacked by every method: minutes at the least


def _sizes(texts: dict[str, list[str]]) -> dict[str, list[int]]:
    """By image backbone, how many of its text backbones the sets have that are stacked."""
    most = max(map(len, texts.values()))
    taken, sets = set(), 0
    for size in dict.fromkeys([most, *range(2, most)]):
        new = sum(comb(len(names), size) for names in texts.values()) if size > 1 else 0
        if taken and sets + new > GROUPINGS:
            break
        taken, sets = taken | {size}, sets + new
    every = sum(comb(len(names), size) for names in texts.values() for size in range(2, most + 1))
    if sets < every:
        shown = ", ".join(map(str, sorted(taken)))
        print(f"Of the {every:,} sets of text backbones those of {shown} are stacked, {sets} in all, and all members.")
    return {image: [size for size in range(2, len(names) + 1) if size in taken] for image, names in texts.items()}


def ensemble_config(members: Iterable[str], label: str, study: str = "", **values) -> EnsembleConfig:
    """The configuration of an ensemble of these runs, with the data that they were trained on; `label` names its run.

    `values`: method, evaluation, folds, seed. A study has one ensemble of a label and method; outside of one the run's
    name ends in a short hash of the configuration. Raises KitError.
    """
    members = (members,) if isinstance(members, str) else tuple(members)
    config = EnsembleConfig("unnamed", members, study=study, **_of_members(members), **values)
    label = shorten(re.sub(r"[^A-Za-z0-9_.+]+", "_", label.replace(" + ", "+")), 120)
    words = [study, "ensemble", label, config.method]
    words.append(config.evaluation if config.evaluation != "nested" else "")
    if not study:
        settings = json.dumps(dataclasses.asdict(config), sort_keys=True)
        words.append(hashlib.sha256(settings.encode()).hexdigest()[:6])
    return dataclasses.replace(config, run=shorten("-".join(filter(None, words))))


def compare(
    groups: dict[str, list[str]],
    methods: Iterable[str] = tuple(METHODS),
    study: str = "",
    seed: int = 0,
    again: bool = False,
) -> pd.DataFrame:
    """Stacks every grouping with every method, nested; a row each, scores in per cent.

    `gain` is over the grouping's best member, with the bounds of its paired 95 % interval; `in-sample` is what the
    paper's way of scoring would say. Finished ensembles are read, not made again. Raises KitError.
    """
    pairs = [(label, method) for label in groups for method in methods]
    rows = []
    for label, method in Bar(pairs, desc="ensembles", leave=False):
        summary = stack(ensemble_config(groups[label], label, study, method=method, seed=seed), again).summary
        row = {"ensemble": label, "method": method, **_percent(summary)}
        row |= {name: 100 * summary[name.replace(" ", "_")] for name in ("gain", "gain low", "gain high")}
        row["in-sample"] = 100 * summary["in_sample_macro_f1"]
        rows.append(row | {"seconds": summary["seconds"], "run": summary["run"]})
    return pd.DataFrame(rows)


def member_table(names: Iterable[str]) -> pd.DataFrame:
    """A row a run: its system and backbones, and macro-F1 in per cent with the bounds of its 95 % interval."""
    rows = []
    for name, config in _train_configs(names).items():
        row = {"run": name, "system": config.system, "text": config.text, "image": config.image}
        rows.append(row | _percent(open_run(name).summary))
    return pd.DataFrame(rows)


def _percent(summary: dict) -> dict[str, float]:
    names = {"macro-F1": "macro_f1", "low": "macro_f1_low", "high": "macro_f1_high"}
    return {name: 100 * summary[key] for name, key in names.items()}


def both_wrong(members: Members) -> pd.DataFrame:
    """Per cent `[M, M]` of the items that both of two members get wrong; on the diagonal those that one gets wrong."""
    wrong = (members.predicted != members.labels).astype(float)
    return pd.DataFrame(100 * wrong @ wrong.T / wrong.shape[1], members.names, members.names)
