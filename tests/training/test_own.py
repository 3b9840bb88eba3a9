"""Predictions of a model from elsewhere become a run that stacks and submits like the others."""

import numpy as np
import pandas as pd
import pytest
import torch
from fakes import catalogue

from kit.config import train_config
from kit.core.exceptions import KitError
from kit.export import export
from kit.runs import open_run, prepare_run
from kit.stacking.ensemble import ensemble_config, stack
from kit.studies.study_runs import one_run
from kit.training import light
from kit.training.own import OwnMember


@pytest.fixture
def member(root, tiny_config):
    return OwnMember("mine", **tiny_config | {"folds": 3})


def confident(member: OwnMember, frame: str) -> np.ndarray:
    """Probabilities that favour the first class, and in training the true one."""
    items = getattr(member, frame)
    values = np.full((len(items), len(member.codes)), 0.1 / (len(member.codes) - 1))
    true = [member.codes.index(label) for label in items["label"]] if frame == "train" else [0] * len(items)
    values[np.arange(len(items)), true] = 0.9
    return values


def test_an_own_member_is_stacked_with_a_run_of_the_kit(member, tiny_config):
    member.write(confident(member, "train"), np.stack([confident(member, "test")] * 3))
    light.fit(prepare_run(train_config(**tiny_config, run="theirs", system="tfidf", folds=3)))
    stacked = stack(ensemble_config(["mine", "theirs"], "both", method="best"))
    assert stacked.summary["best_member"] == "mine"
    assert stacked.read_test()[1].idxmax(axis=1).eq(member.codes[0]).all()


def test_other_folds_than_the_studys_are_refused(member, tiny_config):
    light.fit(prepare_run(train_config(**tiny_config, run="theirs", system="tfidf", folds=3, study="s")))
    OwnMember("fits", **tiny_config, folds=3, study="s")
    with pytest.raises(KitError, match=r"'theirs' of the study 's' has other folds \(folds=3\): take the same"):
        OwnMember("other", **tiny_config, study="s")
    with pytest.raises(KitError, match=r"There is no field .fold.\. Did you mean folds"):
        OwnMember("other", **tiny_config, fold=3)


@pytest.mark.parametrize(
    ("oof", "test", "sentence"),
    [
        (lambda good: good[:-1], lambda good: good, r"oof has the shape"),
        (lambda good: good, lambda good: good[:, :-1], r"test has the shape"),
        (lambda good: good, lambda good: None, r"test has the shape \[0"),
        (lambda good: 2 * good, lambda good: good, r"oof has rows that are no probabilities"),
        (lambda good: good, lambda good: np.log(good), r"test has rows that are no probabilities"),
        (lambda good: good * np.nan, lambda good: good, r"oof has rows that are no probabilities"),
    ],
)
def test_what_is_no_prediction_of_these_items_is_refused(member, oof, test, sentence):
    with pytest.raises(KitError, match=sentence):
        member.write(oof(confident(member, "train")), test(confident(member, "test")))
    assert not open_run("mine").finished


def test_the_names_of_a_frame_count(member):
    values, even = confident(member, "train"), np.full((len(member.test), len(member.codes)), 1 / len(member.codes))
    right = pd.DataFrame(values, columns=member.codes)
    by_id = right.set_index(member.train["id"]).sample(frac=1, random_state=0)
    for frame in (right, right[member.codes[::-1]], by_id, pd.DataFrame(values)):
        run = member.write(frame, [pd.DataFrame(even, columns=member.codes[::-1])] * 3, again=True)
        assert run.summary["macro_f1"] == 1
    for wrong, words in (
        (right.add_prefix("p"), "columns are named p10"),
        (right.set_index([values[:, 0]]), "rows are"),
    ):
        with pytest.raises(KitError, match=words):
            member.write(wrong, even, again=True)


@pytest.mark.parametrize(
    "oof", [[["a"] * 3] * 36, [[1], [1, 2]], torch.ones(36, 3, requires_grad=True)], ids=["text", "ragged", "gradient"]
)
def test_what_is_no_array_of_numbers_is_refused(member, oof):
    with pytest.raises(KitError, match="oof is no array of numbers"):
        member.write(oof)


@pytest.mark.parametrize("models", [0, 2])
def test_a_run_is_replaced_only_by_one_that_can_be_written(member, models):
    run = member.write(confident(member, "train"), confident(member, "test"))
    with pytest.raises(KitError, match=f"test has {models} models' predictions: give those of 3, or their mean"):
        member.write(confident(member, "train"), np.stack([confident(member, "test")] * 2)[:models], again=True)
    assert run.finished


def test_without_test_items_the_own_predictions_of_training_items_are_enough(root):
    member = OwnMember("mine", data=catalogue(root, "text", test=False), recipe="demo")
    run = member.write(confident(member, "train"))
    assert run.finished and len(run.predictions("test")[0]) == 0


def test_an_own_member_is_not_overwritten_trained_or_exported(member, tmp_path):
    run = member.write(confident(member, "train"), confident(member, "test"))
    before = (run.folder / "oof.parquet").read_bytes()
    with pytest.raises(KitError, match="There is a run 'mine'"):
        member.write(confident(member, "train")[:, ::-1], confident(member, "test"))
    with pytest.raises(KitError, match="only that predicts"):
        export("mine", tmp_path / "out")
    with pytest.raises(KitError, match="nothing to train"):
        light.fit(run)
    with pytest.raises(KitError, match="nothing to train"):
        one_run({"system": "own", "run": "mine"})
    assert (run.folder / "oof.parquet").read_bytes() == before
    member.write(confident(member, "train")[:, ::-1], confident(member, "test"), again=True)
    assert (run.folder / "oof.parquet").read_bytes() != before
