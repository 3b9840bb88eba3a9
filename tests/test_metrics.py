"""Scores agree with scikit-learn's, intervals behave, and the linear references learn."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from kit.config import train_config
from kit.linear import references
from kit.metrics import bootstrap_macro_f1, macro_f1, softmax


@pytest.mark.parametrize("seed", range(20))
def test_macro_f1_is_scikit_learns(seed):
    random = np.random.default_rng(seed)
    true, predicted = random.choice([10, 40, 2705, 1280], 50), random.choice([10, 40, 2705, 99], 50)
    assert macro_f1(true, predicted) == pytest.approx(f1_score(true, predicted, average="macro"))


def test_intervals_hold_the_score_and_shrink_with_items():
    random = np.random.default_rng(0)
    widths = []
    for items in (50, 5000):
        true = random.integers(0, 4, items)
        predicted = np.where(random.random(items) < 0.7, true, random.integers(0, 4, items))
        low, high = bootstrap_macro_f1(true, predicted, samples=200)
        assert low < macro_f1(true, predicted) < high
        widths.append(high - low)
        assert bootstrap_macro_f1(true, predicted, predicted, samples=50) == (0, 0)
    assert widths[1] < widths[0] / 5


def test_a_better_prediction_gains():
    random = np.random.default_rng(0)
    true = random.integers(0, 4, 400)
    good, bad = (np.where(random.random(400) < share, true, (true + 1) % 4) for share in (0.9, 0.6))
    low, high = bootstrap_macro_f1(true, good, bad, samples=200)
    assert 0.1 < low < high < 0.5


def test_softmax_of_large_logits():
    assert np.allclose(softmax(np.array([[1000.0, 1000.0, -1000.0]], np.float32)), [[0.5, 0.5, 0]])


def test_linear_references_learn_from_words(tiny_config):
    found = references(train_config(**tiny_config))
    assert set(found) == {"TF-IDF + LinearSVC", "frozen features + logistic regression"}
    for parts in found.values():
        assert {name: len(values) for name, values in parts.items()} == {"oof": 7, "test": 7}
    wanted = [(10, 40, 2705)[i % 3] for i in range(36, 43)]
    assert sum(found["TF-IDF + LinearSVC"]["test"] == wanted) >= 5  # chance: 2 or 3
