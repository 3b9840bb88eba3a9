"""Scores agree with scikit-learn's, and intervals behave."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from kit.metrics import (
    bootstrap_macro_f1,
    calibration_bins,
    calibration_error,
    calibration_error_by_chance,
    confusion,
    f1_per_class,
    macro_f1,
    scores,
    softmax,
)


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


@pytest.mark.parametrize(
    ("classes", "items", "recall"),
    [(27, 229, 0.75), (27, 283, 0.2), (10, 60, 0.6)],
    ids=["as data/emoji's", "a poor model", "few items"],
)
def test_intervals_of_scores_cover_better_than_percentiles(classes, items, recall):
    random, sets, hits = np.random.default_rng(0), 120, {"ours": 0, "percentiles": 0}
    shares = np.append(np.full(classes - 1, 0.8 / (classes - 1)), 0.2)
    right = random.beta(10 * recall, 10 * (1 - recall), classes)
    elsewhere = (1 - np.eye(classes)) / (classes - 1)
    population = shares[:, None] * (np.diag(right) + (1 - right[:, None]) * elsewhere)
    truth = np.mean(f1_per_class(1e6 * population))
    for _ in range(sets):
        drawn = random.choice(classes**2, items, p=population.ravel())
        true, predicted = drawn // classes, drawn % classes
        counts = confusion(true, predicted, classes)
        resampled = random.multinomial(items, counts.ravel() / items, 200).reshape(-1, classes, classes)
        percentiles = np.percentile(np.nanmean(f1_per_class(resampled), 1), [2.5, 97.5])
        ours = bootstrap_macro_f1(true, predicted, samples=200)
        for name, (low, high) in {"ours": ours, "percentiles": percentiles}.items():
            hits[name] += low <= truth <= high
    assert hits["ours"] / sets > 0.9
    assert hits["ours"] / sets > hits["percentiles"] / sets + 0.05


@pytest.mark.parametrize("items", [1, 2, 7, 30])
@pytest.mark.parametrize("right", [0, 0.1, 0.5, 0.95, 1])
def test_intervals_hold_their_estimate_and_stay_between_0_and_1(items, right):
    random = np.random.default_rng(items)
    for _ in range(10):
        true = random.integers(0, 9, items)
        ours, theirs = (np.where(random.random(items) < right, true, random.integers(0, 9, items)) for _ in range(2))
        low, high = bootstrap_macro_f1(true, ours, samples=20)
        assert 0 <= low <= macro_f1(true, ours) <= high <= 1
        low, high = bootstrap_macro_f1(true, ours, theirs, samples=20)
        assert low <= macro_f1(true, ours) - macro_f1(true, theirs) + 1e-12 and low <= high


def test_a_better_prediction_gains():
    random = np.random.default_rng(0)
    true = random.integers(0, 4, 400)
    good, bad = (np.where(random.random(400) < share, true, (true + 1) % 4) for share in (0.9, 0.6))
    low, high = bootstrap_macro_f1(true, good, bad, samples=200)
    assert 0.1 < low < high < 0.5


def test_softmax_of_large_logits():
    assert np.allclose(softmax(np.array([[1000.0, 1000.0, -1000.0]], np.float32)), [[0.5, 0.5, 0]])


def test_the_mean_of_seeds_is_compared_seed_by_seed():
    random = np.random.default_rng(0)
    true = random.integers(0, 4, 300)
    seeds = np.stack([np.where(random.random(300) < 0.8, true, (true + 1) % 4) for _ in range(3)])
    assert bootstrap_macro_f1(true, seeds, seeds, samples=20) == (0, 0)
    low, high = bootstrap_macro_f1(true, seeds, samples=200)
    assert low < np.mean([macro_f1(true, row) for row in seeds]) < high
    alone = bootstrap_macro_f1(true, seeds[0], samples=200)
    assert high - low < alone[1] - alone[0]  # the mean of three is steadier than one


def test_scores_of_certain_and_impossible_predictions():
    found = scores(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1]))
    assert found["accuracy"] == 0.5
    assert found["loss"] == pytest.approx(-np.log(np.finfo(np.float32).tiny) / 2)
    assert found["macro_f1"] == pytest.approx(1 / 3)


def test_calibration_error_is_the_gap_between_probability_and_accuracy():
    sure = np.array([0.9, 0.6, 0.9, 0.6])
    right = np.array([True, False, False, True])
    assert calibration_error(sure, right, bins=2) == pytest.approx((abs(0.6 - 0.5) + abs(0.9 - 0.5)) / 2)
    assert [part.tolist() for part in calibration_bins(sure, 2)] == [[1, 3], [0, 2]]
    assert calibration_error(sure[:1], right[:1]) == pytest.approx(0.1)  # fewer items than bins


def test_what_chance_leaves_of_exact_probabilities_is_what_exact_probabilities_have():
    random = np.random.default_rng(1)
    sure = random.uniform(0.3, 1, 600)
    expected = np.mean([calibration_error(sure, random.random(600) < sure) for _ in range(300)])
    assert calibration_error_by_chance(sure) == pytest.approx(expected, rel=0.1)
    assert calibration_error_by_chance(np.tile(sure, 16)) < expected / 2
    assert calibration_error_by_chance(np.ones(9)) == 0


def test_copies_of_items_make_no_interval_narrower_if_they_are_drawn_together():
    random = np.random.default_rng(0)
    true = random.integers(0, 4, 200)
    ours, theirs = (np.where(random.random(200) < share, true, (true + 1) % 4) for share in (0.8, 0.7))
    four = [np.repeat(codes, 4) for codes in (true, ours, theirs)]
    together = bootstrap_macro_f1(*four, groups=np.repeat(np.arange(200), 4), samples=200)
    assert together == pytest.approx(bootstrap_macro_f1(true, ours, theirs, samples=200))
    low, high = bootstrap_macro_f1(*four, samples=200)
    assert high - low < 0.7 * (together[1] - together[0])
