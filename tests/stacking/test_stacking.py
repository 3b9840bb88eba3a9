"""Ensembles gain where members complement each other, never by having seen the answer, and refuse what does not fit."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.model_selection import PredefinedSplit, StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from kit.config import EnsembleConfig, TrainConfig
from kit.core.exceptions import KitError
from kit.data.challenge import read_challenge
from kit.runs import EnsembleRun, Run, TrainingRun, list_runs, open_run, open_training, prepare_run
from kit.stacking import ensemble, members
from kit.stacking.ensemble import compare, ensemble_config, evaluation_folds, groupings, stack
from kit.stacking.members import read_members
from kit.stacking.stackers import METHODS, Best, Blend, Greedy, Single
from kit.studies.choice import choose
from kit.submission import check_submission, read_predictions, write_submission

CODES = [10, 40, 50, 1140, 2705]


@pytest.fixture(autouse=True)
def root(root):
    return root


def soft(logits: np.ndarray) -> np.ndarray:
    values = np.exp(logits - logits.max(-1, keepdims=True))
    return values / values.sum(-1, keepdims=True)


def k_folds(y: np.ndarray, folds: int = 5) -> np.ndarray:
    fold = np.zeros(len(y), int)
    splits = StratifiedKFold(folds, shuffle=True, random_state=0).split(y, y)
    for part, (_, rows) in enumerate(splits):
        fold[rows] = part
    return fold


def write_run(name, y, oof, fold=None, test=None, order=None, codes=CODES, config=None, data="same", **columns) -> Run:
    """A finished training run: `oof` `[N, K]`, `test` `[F, N_test, K]`, rows in `order`."""
    run = prepare_run(TrainConfig(run=name, **(config or {})))
    fold = np.zeros(len(y), int) if fold is None else fold
    items = pd.DataFrame({"id": np.arange(len(y)), "label": np.array(codes)[y], "fold": fold, **columns})
    order = np.arange(len(y)) if order is None else order
    test = np.full((1, 3, len(codes)), 1 / len(codes)) if test is None else test
    test_items = pd.DataFrame({"id": 1000 + np.arange(test.shape[1]), "split": "test"})
    run.write(codes, (items.iloc[order], oof[order]), (test_items, test), {"data": data})
    return run


def write_complementary(items: int = 300, folds: bool = True) -> tuple[list[str], np.ndarray]:
    """Three members, each blind for another pair of classes."""
    random = np.random.default_rng(0)
    y = random.permutation(np.arange(items) % len(CODES))
    names = [f"m{i}" for i in range(3)]
    for i, name in enumerate(names):
        logits = 3.0 * np.eye(len(CODES))[y] + random.normal(size=(items, len(CODES)))
        a, b = i, i + 1
        logits[:, [a, b]] = logits[:, [a, b]].mean(1, keepdims=True) + random.normal(size=(items, 2))
        write_run(name, y, soft(logits), k_folds(y) if folds else None)
    return names, y


def config(members, run="ensemble", **values) -> EnsembleConfig:
    return EnsembleConfig(run, tuple(members), TrainConfig.data, **values)


# --- no leak


@pytest.fixture
def memorisers() -> list[str]:
    """Four 1-nearest-neighbour members, trained on noise with shuffled labels: nothing is to be learned."""
    random = np.random.default_rng(1)
    y = random.permutation(np.arange(300) % len(CODES))
    fold, names = k_folds(y), [f"memoriser{i}" for i in range(4)]
    for name in names:
        features, oof = random.normal(size=(300, 6)), np.empty((300, len(CODES)))
        for part in range(5):
            model = KNeighborsClassifier(1).fit(features[fold != part], y[fold != part])
            oof[fold == part] = model.predict_proba(features[fold == part])
        write_run(name, y, oof, fold)
    return names


CHANCE, DEVIATION = 1 / len(CODES), (0.2 * 0.8 / 300) ** 0.5  # of the accuracy of guessing 300 items


@pytest.mark.parametrize("method", METHODS)
def test_nested_stacking_of_shuffled_labels_stays_at_chance(memorisers, method):
    summary = stack(config(memorisers, method=method)).summary
    assert abs(summary["accuracy"] - CHANCE) < 3 * DEVIATION
    assert summary["gain_low"] < 0
    assert "warning" not in summary


def test_in_sample_stacking_of_shuffled_labels_does_not_and_says_so(memorisers):
    with pytest.warns(UserWarning, match="ensemble is evaluated in-sample"):
        summary = stack(config(memorisers, method="network", evaluation="in-sample")).summary
    assert summary["accuracy"] > CHANCE + 4 * DEVIATION and summary["gain_low"] > 0
    assert "too good" in summary["warning"]
    assert summary["in_sample_macro_f1"] == summary["macro_f1"]


def test_a_scored_fold_is_never_learned_from(monkeypatch):
    names, _ = write_complementary(60)
    members, seen = read_members(names), []

    class Spy:
        def fit(self, X, y, groups):
            seen.append({row.tobytes() for row in X})
            return self

        def predict_proba(self, X):
            assert not seen[-1] & {row.tobytes() for row in X}
            return X.mean(1)

    monkeypatch.setitem(METHODS, "blend", lambda seed: Spy())
    ensemble.out_of_fold(members, config(names, method="blend"))
    assert [len(rows) for rows in seen] == [48] * 5


def test_members_of_one_split_are_scored_in_stratified_folds_with_whole_groups():
    y = np.arange(60) % 3
    items = pd.DataFrame({"label": y, "fold": 0, "group": np.arange(60) // 6})
    folds = evaluation_folds(items, 5, seed=0)
    assert pd.Series(folds).groupby(items["group"]).nunique().eq(1).all()
    plain = evaluation_folds(items.drop(columns="group"), 5, seed=0)
    assert (pd.crosstab(plain, y) == 4).all(axis=None)
    assert (evaluation_folds(items.assign(fold=y), 5, seed=0) == y).all()
    assert len(set(evaluation_folds(items[:12], 5, seed=0))) == 2  # of two groups
    assert len(set(evaluation_folds(items[:3].drop(columns="group"), 5, seed=0))) == 3  # a class each: plain folds
    for few in (items[:1].drop(columns="group"), items[:6]):
        with pytest.raises(KitError, match="too few for a nested evaluation"):
            evaluation_folds(few, 5, seed=0)


# --- gain


@pytest.mark.parametrize("folds", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_complementary_members_gain(method, folds):
    names, _ = write_complementary(folds=folds)
    summary = stack(config(names, method=method)).summary
    singles = {name: open_run(name).summary["macro_f1"] for name in names}
    assert summary["best_member"] == max(singles, key=singles.get)
    assert summary["best_member_macro_f1"] == max(singles.values())
    assert summary["gain"] == pytest.approx(summary["macro_f1"] - max(singles.values()))
    assert 0.05 < summary["gain_low"] < summary["gain"] < summary["gain_high"]
    assert summary["items"] == {"oof": 300, "test": 3}


def test_blend_trusts_the_member_that_is_right():
    random = np.random.default_rng(0)
    y = random.integers(0, 5, 200)
    X = np.stack([soft(random.normal(size=(200, 5))), np.eye(5)[y], soft(random.normal(size=(200, 5)))], 1)
    blend = Blend().fit(X, y)
    assert blend.weights_[1] > 0.8 and blend.weights_.min() >= 0 and blend.weights_.sum() == pytest.approx(1)
    assert (blend.predict_proba(X).argmax(1) == y).all()


def test_blend_minimises_the_loss():
    random = np.random.default_rng(0)
    y = random.integers(0, 5, 200)
    X = soft(2 * np.eye(5)[y][:, None] + random.normal(size=(200, 3, 5)))
    blend = Blend().fit(X, y)

    def loss(weights):
        blend.weights_ = weights
        return -np.log(blend.predict_proba(X)[np.arange(200), y]).mean()

    best, found = blend.weights_, loss(blend.weights_)
    assert all(loss(best + step) > found for step in 0.1 * (np.eye(3) - np.roll(np.eye(3), 1, 0)))


@pytest.mark.parametrize("method", METHODS)
def test_a_class_that_no_item_has_keeps_its_column(method):
    random = np.random.default_rng(0)
    y = random.integers(0, 3, 90)  # of 5 classes
    X = soft(4 * np.eye(5)[y][:, None] + random.normal(size=(90, 2, 5)))
    found = METHODS[method](0).fit(X, y).predict_proba(X)
    assert found.shape == (90, 5)
    assert np.allclose(found.sum(1), 1) and (found[:, 3:].mean(0) < 0.1).all()
    assert (found.argmax(1) == y).mean() > 0.9


@pytest.mark.parametrize("method", METHODS)
def test_stackers_are_scikit_learn_classifiers(method):
    names, y = write_complementary(60)
    X, folds = read_members(names).oof, k_folds(y)
    stacker = METHODS[method](0).fit(X, y)
    copy = clone(stacker)
    assert not hasattr(copy, "classes_") and (copy.fit(X, y).predict_proba(X) == stacker.predict_proba(X)).all()
    assert (stacker.classes_[stacker.predict_proba(X).argmax(1)] == stacker.predict(X)).all()
    assert stacker.score(X, y) == (stacker.predict(X) == y).mean() > 0.5
    theirs = cross_val_predict(copy, X, y, cv=PredefinedSplit(folds), method="predict_proba")
    assert (theirs == ensemble.out_of_fold(read_members(names), config(names, method=method))).all()


@pytest.mark.parametrize("method", METHODS)
def test_out_of_fold_columns_stay_in_place_if_no_item_has_a_class(method):
    """Which scikit-learn's cross_val_predict, numbering the classes that occur, would get wrong."""
    y = np.repeat([0, 2, 4], 20)
    for i in range(2):
        logits = 3 * np.eye(5)[y] + np.random.default_rng(i).normal(size=(60, 5))
        write_run(f"m{i}", y, soft(logits), k_folds(y))
    assert stack(config(["m0", "m1"], method=method)).summary["accuracy"] > 0.8


def test_a_fold_whose_class_is_in_no_other():
    y = np.repeat(np.arange(5), 10)
    for i in range(2):
        logits = 4 * np.eye(5)[y] + np.random.default_rng(i).normal(size=(50, 5))
        write_run(f"m{i}", y, soft(logits), fold=y)  # fold 0 has all items of the first class
    for method in METHODS:
        assert stack(config(["m0", "m1"], run=method, method=method)).summary["macro_f1"] > 0.5


@pytest.mark.parametrize("method", ["blend", "greedy", "best"])
def test_noise_beside_a_good_member_does_no_harm(method):
    random = np.random.default_rng(0)
    y = random.permutation(np.arange(300) % 5)
    write_run("good", y, soft(2.5 * np.eye(5)[y] + random.normal(size=(300, 5))), k_folds(y))
    noise = ["bold", "bolder", "boldest"]
    for spread, name in enumerate(noise):
        write_run(name, y, soft(4.0 * (spread + 1) * random.normal(size=(300, 5))), k_folds(y))
    summary = stack(config(["good", *noise], method=method)).summary
    assert summary["best_member"] == "good" and summary["gain"] > -0.01


def test_a_member_that_is_too_sure_of_itself_is_brought_back():
    random = np.random.default_rng(0)
    y = random.integers(0, 5, 400)
    logits = 1.5 * np.eye(5)[y][:, None] + random.normal(size=(400, 2, 5))
    mild, bold = soft(logits), soft(logits * np.array([1, 4])[:, None])
    for method in METHODS:
        as_mild, as_bold = (METHODS[method](0).fit(X, y) for X in (mild, bold))
        assert as_bold.temperatures_[1] == pytest.approx(4 * as_mild.temperatures_[1], rel=0.01)
        np.testing.assert_allclose(as_bold.predict_proba(bold), as_mild.predict_proba(mild), atol=0.02)


@pytest.mark.parametrize("method", ["logistic", "blend", "greedy", "best"])
def test_the_order_of_the_members_does_not_matter(method):
    names, y = write_complementary(100)
    X = read_members(names).oof
    one, other = (METHODS[method](0).fit(X[:, order], y).predict_proba(X[:, order]) for order in ([0, 1, 2], [2, 0, 1]))
    np.testing.assert_allclose(one, other, atol=2e-3)


def test_greedy_takes_members_by_the_loss_of_their_mean():
    random = np.random.default_rng(0)
    y = random.integers(0, 5, 200)
    X = soft(2 * np.eye(5)[y][:, None] + random.normal(size=(200, 4, 5)))

    def loss(weights):
        return -np.log(X[np.arange(200), :, y] @ weights).mean()

    found = Greedy().fit(X, y).weights_
    assert found.sum() == pytest.approx(1) and loss(found) < min(loss(single) for single in np.eye(4))
    assert loss(found) < loss(np.full(4, 1 / 4)) + 1e-3


def test_best_chooses_in_inner_folds_that_split_no_group(monkeypatch):
    names, y = write_complementary(60)
    for name in names:
        write_run(name, y, open_run(name).predictions("oof")[2], y % 2, group=np.arange(60) // 3)
    members, learned = read_members(names), []
    X = members.oof
    group_of = {row.tobytes(): group for row, group in zip(X, members.groups, strict=True)}

    class Spy(Single):
        def fit(self, X, y, groups=None):
            assert groups.tolist() == [group_of[row.tobytes()] for row in X]
            learned.append({*groups})
            return super().fit(X, y)

        def predict_proba(self, X):
            assert not learned[-1] & {group_of[row.tobytes()] for row in X}
            return super().predict_proba(X)

    monkeypatch.setattr(Best, "CANDIDATES", {"single": Spy()})
    Best(0).fit(X, y, members.groups)
    assert len(learned) == Best.FOLDS + 1

    class Grouped(Blend):
        def fit(self, X, y, groups):
            assert groups.tolist() == [group_of[row.tobytes()] for row in X]
            return super().fit(X, y)

    monkeypatch.setitem(METHODS, "best", lambda seed: Grouped())
    ensemble.out_of_fold(members, config(names, method="best"))


def test_best_keeps_to_the_single_member_if_no_stack_beats_its_macro_f1():
    random = np.random.default_rng(0)
    y = random.permutation(np.arange(200) % 5)
    X = np.stack([soft(8 * np.eye(5)[y]), soft(random.normal(size=(200, 5)))], 1)
    best = METHODS["best"](0).fit(X, y)
    assert (best.predict(X) == y).all()
    few = METHODS["best"](0).fit(X[:1], y[:1])
    assert few.stacker_.chosen_ == "single"


# --- run folders


def test_test_predictions_are_the_mean_over_folds_and_rows_may_come_in_any_order():
    random = np.random.default_rng(0)
    y = random.permutation(np.arange(100) % 5)
    fold, oof = k_folds(y), [soft(2 * np.eye(5)[y] + random.normal(size=(100, 5))) for _ in range(2)]
    test = soft(3 * random.normal(size=(5, 8, 5)))
    write_run("a", y, oof[0], fold, test)
    write_run("b", y, oof[1], fold, test)
    shuffled = write_run("c", y, oof[1], fold, test, order=random.permutation(100))
    table = pd.read_parquet(shuffled.folder / "test.parquet").sample(frac=1, random_state=0)
    columns = ["id", "split", "fold", *(f"p_{code}" for code in reversed(CODES))]
    table[columns].to_parquet(shuffled.folder / "test.parquet")
    plain, mixed = read_members(["a", "b"]), read_members(["a", "c"])
    assert np.allclose(plain.test, test.mean(0)[:, None], atol=1e-6)
    assert np.allclose(plain.test, mixed.test) and np.array_equal(plain.oof, mixed.oof)
    assert plain.oof.shape == (100, 2, 5) and plain.labels.tolist() == y.tolist()
    assert plain.identity != mixed.identity


def test_the_ensemble_is_a_run_whose_submission_is_valid(tiny_data, root):
    challenge = read_challenge(tiny_data)
    y = challenge.train["label"].map(challenge.classes.index).to_numpy()
    data, names = {"data": str(tiny_data)}, ["a", "b"]
    for seed, name in enumerate(names):
        random = np.random.default_rng(seed)
        run = prepare_run(TrainConfig(run=name, **data))
        items = challenge.train.assign(fold=k_folds(y, 3), group=np.arange(len(y)))
        test_items = challenge.test["test"].assign(split="test")
        oof = soft(np.eye(3)[y] + random.normal(size=(36, 3)))
        test = soft(random.normal(size=(3, len(test_items), 3)))
        run.write(challenge.classes, (items, oof), (test_items, test), {"data": "tiny"})
    run = stack(ensemble_config(names, "all 2", study="tiny"))
    assert run.name == "tiny-ensemble-all_2-best" and run.config.data == str(tiny_data)
    frame, codes, values = run.predictions("oof")
    assert frame.columns.tolist() == ["id", "label", "fold", "group", "fingerprint"] and codes == challenge.classes
    assert frame["fold"].tolist() == k_folds(y, 3).tolist()
    assert np.allclose(values.sum(1), 1, atol=1e-5)
    assert run.predictions("test")[0].columns.tolist() == ["id", "split", "fold", "fingerprint"]
    (path,) = write_submission(read_predictions(run.folder), challenge, root / "submissions")
    assert "7 rows" in check_submission(path, challenge)


def test_a_challenge_without_test_file():
    y = np.arange(50) % 5
    for name in "ab":
        write_run(name, y, soft(np.eye(5)[y]), k_folds(y), test=np.empty((1, 0, 5)))
    run = stack(config("ab"))
    assert run.summary["items"] == {"oof": 50, "test": 0} and run.predictions("test")[2].shape == (0, 5)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_writes_the_same_bytes(method):
    names, _ = write_complementary(60)
    runs = [stack(config(names, run=name, method=method, seed=3)) for name in ("one", "two")]
    for part in ("oof", "test"):
        one, two = ((run.folder / f"{part}.parquet").read_bytes() for run in runs)
        assert one == two


def test_a_finished_ensemble_is_made_again_only_when_a_member_changed():
    names, y = write_complementary(60)
    run = stack(config(names, method="blend"))
    before, written = run.summary, (run.folder / "summary.json").stat().st_mtime_ns
    stack(config(names, method="blend"))
    assert (run.folder / "summary.json").stat().st_mtime_ns == written
    write_run("m0", y, soft(5.0 * np.eye(5)[y]), k_folds(y))  # as finished: prepare_run leaves it, write replaces it
    after = stack(config(names, method="blend")).summary
    assert after["macro_f1"] == 1 and after["members_identity"] != before["members_identity"]
    with pytest.raises(KitError, match="method"):
        stack(config(names, method="logistic"))
    assert stack(config(names, method="logistic"), again=True).summary["method"] == "logistic"


# --- refusals

OTHERS = {
    "ids": ({"id": np.arange(50) + 1}, ["1 more (50)", "1 missing (0)", "split_seed"]),
    "folds": ({"fold": np.arange(50) % 4}, ["fold of id", "differs", "folds"]),
    "labels": ({"label": np.roll(np.array(CODES)[np.arange(50) % 5], 1)}, ["label of id 0, 1, 2, ", "2705 and 10"]),
}


@pytest.mark.parametrize("what", OTHERS)
def test_items_that_differ_are_refused(what):
    columns, words = OTHERS[what]
    y = np.arange(50) % 5
    for name, changed in {"good": {}, "other": columns}.items():
        run = write_run(name, y, soft(np.eye(5)[y]), k_folds(y))
        table = pd.read_parquet(run.folder / "oof.parquet").assign(**changed)
        table.to_parquet(run.folder / "oof.parquet")
    refused(["good", "other"], "'other' does not fit 'good'", *words)


def refused(members, *words):
    with pytest.raises(KitError) as caught:
        stack(config(members))
    assert all(word in str(caught.value) for word in words), caught.value
    assert not open_run("ensemble").folder.exists()


def test_other_classes_data_and_test_items_are_refused():
    y, oof = np.arange(50) % 5, soft(np.eye(5)[np.arange(50) % 5])
    write_run("good", y, oof)
    write_run("classes", y, oof, codes=[10, 40, 50, 60, 2705])
    refused(["good", "classes"], "'classes' does not fit 'good'", "1 more (60)", "1 missing (1140)")
    write_run("texts", y, oof, data="other", config={"data": "data/elsewhere"})
    refused(["good", "texts"], "'texts' does not fit 'good'", "data/elsewhere and data/shop")
    write_run("tests", y, oof, test=np.full((1, 4, 5), 0.2))
    refused(["good", "tests"], "'tests' does not fit 'good'", "1 more (('test', 1003))")
    uneven = write_run("uneven", y, oof, test=np.full((2, 3, 5), 0.2))
    pd.read_parquet(uneven.folder / "test.parquet")[:-1].to_parquet(uneven.folder / "test.parquet")
    refused(["good", "uneven"], "uneven/test.parquet", "more folds")


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.9, -0.2])
def test_what_is_no_probability_is_refused(value):
    y, oof = np.arange(50) % 5, soft(np.eye(5)[np.arange(50) % 5])
    write_run("good", y, oof)
    bad = oof.copy()
    run = write_run("bad", y, oof)
    bad[7, 0] = value
    table = pd.read_parquet(run.folder / "oof.parquet")
    table["p_10"] = bad[:, 0]
    table.to_parquet(run.folder / "oof.parquet")
    refused(["good", "bad"], "bad/oof.parquet has 1 rows", "(id 7)")


def test_a_run_is_a_training_or_an_ensemble():
    names, _ = write_complementary(60)
    stack(config(names, method="blend"))
    kinds = dict.fromkeys(names, TrainingRun) | {"ensemble": EnsembleRun}
    assert {run.name: type(run) for run in list_runs()} == {n: type(open_run(n)) for n in kinds} == kinds
    assert type(open_run("gone")) is Run and open_training(names[0]) == open_run(names[0])
    with pytest.raises(KitError, match=r"'ensemble' exists with other settings: kind \(ensemble → training\)\. Choose"):
        prepare_run(TrainConfig(run="ensemble"))
    with pytest.raises(KitError, match=r"'m2' exists with other settings: kind \(training → ensemble\)\. Choose"):
        stack(config(names[:2], run="m2", study="mine"))
    with pytest.raises(KitError, match="'m0' is not an ensemble"):
        choose(open_run("m0"))
    for kind, name in ((TrainingRun, "ensemble"), (EnsembleRun, "m0")):
        with pytest.raises(KitError, match=f"{name} is an? (ensemble|training)'s.*05_ensemble makes"):
            _ = kind(open_run(name).folder).config


def test_members_must_be_finished_training_runs():
    names, _ = write_complementary(60)
    refused([*names, "gone"], "no run 'gone'")
    run = prepare_run(TrainConfig(run="begun"))
    refused([*names, run.name], "'begun' is not finished")
    twice = open_run("m2")
    table = pd.read_parquet(twice.folder / "oof.parquet")
    pd.concat([table, table[:1]]).to_parquet(twice.folder / "oof.parquet")
    refused(names, "m2/oof.parquet repeats id 0")
    inner = stack(config(names[:2], run="inner", method="blend")).name
    refused([*names[:2], inner], "'inner' is an ensemble", "m0, m1")
    with pytest.raises(KitError, match="name of a member"):
        stack(config(names[:2], run="m0"), again=True)
    assert open_run("m0").finished
    with pytest.raises(KitError, match="data='data/elsewhere' is not what 'm0'"):
        stack(EnsembleConfig("ensemble", ("m0", "m1"), "data/elsewhere"))
    with pytest.raises(KitError, match="members is empty"):
        read_members([])


# --- many ensembles


def test_groupings_of_the_papers_members():
    texts, images = ["camembert", "flaubert", "mbert"], ["resnet152", "resnext101_32x8d"]
    six = {f"{text}-{image}": (text, image) for image in images for text in texts}
    found = groupings(six)
    assert len(found) == 9 and len(found["all 6"]) == 6 and list(found)[-1] == "all 6"
    assert found["resnet152 × camembert + mbert"] == ["camembert-resnet152", "mbert-resnet152"]
    assert len(found["resnext101_32x8d × camembert + flaubert + mbert"]) == 3
    four = {name: pair for name, pair in six.items() if pair[0] != "mbert"}
    assert [len(names) for names in groupings(four).values()] == [2, 2, 4]


def test_groupings_of_other_members():
    paths = {"a": ("/x/bert", "hub/net"), "b": ("/y/bert", "hub/net"), "c": ("/x/bert", "other"), "d": ("/x/bert", "o")}
    assert list(groupings(paths)) == ["net × x_bert + y_bert", "all 4"]
    assert list(groupings({"a": ("t", "i"), "b": ("u", "i")})) == ["all 2"]
    assert groupings({"a": ("t", "i"), "b": ("t", "i")}) == {"all 2": ["a", "b"]}


@pytest.mark.parametrize(
    ("texts", "images", "sizes", "said"),
    [
        (5, 2, {2, 3, 4, 5}, ""),
        (10, 1, {2}, "Of 1,013 sets of text backbones only those of 2, 10 are stacked (46), and all members."),
        (6, 2, {2, 6}, "Of 114 sets of text backbones only those of 2, 6 are stacked (32), and all members."),
        (40, 2, {40}, "only those of 40 are stacked (2), and all members."),
        (1, 70, set(), ""),
    ],
)
def test_many_backbones_do_not_make_more_groupings_than_can_be_stacked(texts, images, sizes, said, capsys):
    found = groupings({f"{t}-{i}": (f"t{t}", f"i{i}") for i in range(images) for t in range(texts)})
    last = found.pop(f"all {texts * images}")
    assert len(last) == texts * images and {len(names) for names in found.values()} == sizes
    assert len(found) <= 60
    printed = capsys.readouterr().out
    assert said in printed and bool(said) == bool(printed)


LONG = [f"/w/dangvantuan_sentence-camembert-large-paraphrase-multilingual-{n}" for n in range(5)]


@pytest.mark.parametrize("study", ["", "s", "s" * 250])
def test_an_ensembles_name_never_overflows(study):
    names, _ = write_complementary(60)
    found = groupings({f"m{n}": (text, "resnet152") for n, text in enumerate([*LONG, LONG[0] + "-v2"])})
    made = [ensemble_config(names, label, study, method=method).run for label in found for method in METHODS]
    assert max(map(len, made)) <= 250
    assert study or len(set(made)) == len(made)


def test_compare_keeps_what_it_made():
    names, _ = write_complementary(60)
    groups = {"net + a/b": names[:2], "all 3": names}
    table = compare(groups, ("logistic", "blend"), study="mine")
    assert [*table.index] == [*groups] and [*table] == ["logistic", "blend"]
    assert table.map(lambda run: run.name).to_numpy().tolist() == [
        [f"mine-ensemble-{label}-{method}" for method in ("logistic", "blend")] for label in ("net+a_b", "all_3")
    ]
    run = table.loc["all 3", "blend"]
    assert run.config.study == "mine" and sum(run.summary["weights"].values()) == pytest.approx(1)
    times = table.map(lambda run: (run.folder / "summary.json").stat().st_mtime_ns)
    assert (compare(groups, ("logistic", "blend"), study="mine") == table).all(axis=None)
    assert table.map(lambda run: (run.folder / "summary.json").stat().st_mtime_ns).equals(times)
    configs = [ensemble_config(names, "all 3", seed=seed) for seed in range(2)]
    assert configs[0].run.startswith("ensemble-all_3-best-") and configs[0].run != configs[1].run


def test_both_wrong_counts_items():
    y = np.arange(20) % 5
    right, half = np.eye(5)[y], np.eye(5)[np.where(np.arange(20) < 10, y, (y + 1) % 5)]
    write_run("right", y, right)
    write_run("half", y, half)
    table = members.both_wrong(read_members(["right", "half"]))
    assert table.to_numpy().tolist() == [[0, 0], [0, 50]]


def test_nothing_warns_on_few_items():
    y = np.arange(12) % 5
    for name in "ab":
        write_run(name, y, soft(np.eye(5)[y]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert stack(config("ab")).summary["macro_f1"] == 1


def test_an_ensemble_of_members_that_changed_is_out_of_date():
    names, y = write_complementary()
    run = stack(ensemble_config(names, "all 3", "s", method="blend"))
    assert members.is_current(run)
    write_run(names[0], y, soft(np.eye(len(CODES))[y]), k_folds(y))
    assert not members.is_current(run)
    again = stack(ensemble_config(names, "all 3", "s", method="blend"))  # made anew, without being asked
    assert members.is_current(again)
    fewer = stack(ensemble_config(names[::-1], "all 3", "s", method="blend"))  # the study's members in another order
    assert list(fewer.summary["members"]) == names[::-1]
    (open_run(names[2]).folder / "summary.json").unlink()
    assert not members.is_current(fewer)
