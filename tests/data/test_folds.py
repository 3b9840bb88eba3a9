"""Folds: every item validates once, classes keep their shares, and members of a group never part."""

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.core.exceptions import KitError
from kit.data.folds import assign_folds, holdout

LABELS = pd.Series([1] * 60 + [2] * 30 + [3] * 10)


def shares(labels: pd.Series, chosen: np.ndarray) -> dict:
    return labels[chosen].value_counts().to_dict()


def test_one_fold_is_the_papers_split():
    for seed in (0, 1):
        mask = holdout(LABELS, 0.2, seed)
        assert (assign_folds(LABELS, seed=seed) == np.where(mask, 0, -1)).all()


@pytest.mark.parametrize("groups", [None, np.arange(100)], ids=["random", "grouped"])
def test_every_item_validates_once_and_classes_keep_their_shares(groups):
    fold = assign_folds(LABELS, folds=5, groups=groups)
    assert fold.shape == (100,)
    for i in range(5):
        assert shares(LABELS, fold == i) == {1: 12, 2: 6, 3: 2}
    assert (fold == assign_folds(LABELS, folds=5, groups=groups)).all()
    assert (fold != assign_folds(LABELS, folds=5, seed=1, groups=groups)).any()


@pytest.mark.parametrize(("share", "size"), [(0.2, 20), (0.3, 30), (0.5, 50), (0.75, 75), (0.07, 7), (0.02, 2)])
def test_one_grouped_fold_has_about_val_share_of_the_items(share, size):
    fold = assign_folds(LABELS, val_share=share, groups=np.arange(100))
    assert set(fold) == {-1, 0}
    assert abs((fold == 0).sum() - size) <= 1
    for code, count in shares(LABELS, fold == 0).items():
        assert abs(count - share * (code == LABELS).sum()) <= 1


@st.composite
def catalogues(draw) -> tuple[pd.Series, np.ndarray]:
    """Labels of three unequal classes, and groups of a few items each, within and across the classes."""
    size = draw(st.integers(90, 200))
    second, third = size // 3, size // 6
    labels = pd.Series(draw(st.permutations([1] * (size - second - third) + [2] * second + [3] * third)))
    pairs = draw(st.lists(st.tuples(st.integers(0, size - 1), st.integers(0, size - 1)), max_size=size // 4))
    groups = np.arange(size)
    for a, b in pairs:
        if (groups == groups[a]).sum() + (groups == groups[b]).sum() <= 6:
            groups[groups == groups[b]] = groups[a]
    return labels, groups


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(catalogues(), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_groups_never_part_whatever_they_are(catalogue, folds, seed):
    labels, groups = catalogue
    fold = assign_folds(labels, folds=folds, seed=seed, groups=groups)
    assert set(fold) == ({-1, 0} if folds == 1 else set(range(folds)))
    assert (pd.Series(fold).groupby(groups).nunique() == 1).all()
    share = 0.2 if folds == 1 else 1 / folds
    for i in range(folds):
        for code, items in labels.value_counts().items():
            assert abs((labels[fold == i] == code).sum() - share * items) <= 6  # the largest group
            assert code in set(labels[fold != i])
    assert (fold == assign_folds(labels, folds=folds, seed=seed, groups=groups)).all()


def test_classes_smaller_than_the_folds_validate_where_they_can():
    labels = pd.Series([1] * 20 + [2] * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for groups in (None, np.arange(22)):
            fold = assign_folds(labels, folds=5, groups=groups)
            assert len(set(fold[-2:])) == 2


def test_labels_may_have_any_index():
    moved = LABELS.set_axis(np.arange(100)[::-1] + 7)
    for folds in (1, 4):
        for groups in (None, np.arange(100) // 2):
            assert (assign_folds(LABELS, folds, groups=groups) == assign_folds(moved, folds, groups=groups)).all()


UNEQUAL = [1] * 10 + [2] * 20
TOGETHER = [0] * 10 + list(range(1, 21))  # class 1 is one group
LOST = "All items of class 1 validate in fold .*: take "
REFUSALS = [
    ([1] * 10, None, {"folds": 2}, "All 10 training items are of one class"),
    ([1] * 10 + [2], None, {"folds": 2}, "Class 2 has only one training item"),
    (UNEQUAL, None, {"folds": 21}, "folds=21 needs more than the 20 items .*: take fewer folds"),
    (
        UNEQUAL,
        [0, 1] * 15,
        {"folds": 4},
        "folds=4 needs more than the 2 groups of duplicates: take -p split random, or fewer",
    ),
    (UNEQUAL, range(30), {"val_share": 0.01}, "val_share=0.01 needs more than the 20 items .*: take another share"),
    (UNEQUAL, TOGETHER, {"folds": 5}, LOST + "fewer folds, -p split random, or drop it"),
    (UNEQUAL, TOGETHER, {"folds": 2}, LOST + "-p split random, or drop it"),
]


@pytest.mark.parametrize(("labels", "groups", "setting", "sentence"), REFUSALS)
def test_impossible_folds_are_refused(labels, groups, setting, sentence):
    with pytest.raises(KitError, match=sentence):
        assign_folds(pd.Series(labels), groups=None if groups is None else np.array(groups), **setting)
