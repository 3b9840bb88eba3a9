"""Wrong labels are found among right ones, whatever the classes' sizes and however sure a model is of each."""

import numpy as np
import pandas as pd

from kit.analysis.label_noise import label_issues, suspect_labels
from kit.metrics import softmax


def planted(noise: float, items: int = 600) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return probabilities of a model that is right about most items, labels of which some are wrong, and the truth."""
    random = np.random.default_rng(0)
    true = random.choice(4, items, p=[0.55, 0.25, 0.15, 0.05])
    logits = random.normal(size=(items, 4)) + 4 * np.eye(4)[true]
    labels = np.where(random.random(items) < noise, (true + 1) % 4, true)
    return softmax(logits), labels, true


def test_wrong_labels_are_found_and_few_right_ones_suspected():
    probabilities, labels, true = planted(0.1)
    probable = suspect_labels(probabilities, labels)
    suspected, wrong = probable != labels, labels != true
    assert (suspected & wrong).sum() > 0.7 * wrong.sum()
    assert (suspected & ~wrong).sum() < 0.2 * suspected.sum()
    assert (probable[suspected & wrong] == true[suspected & wrong]).mean() > 0.9


def test_hardly_any_right_label_is_suspected():
    probabilities, labels, _ = planted(0)
    assert (suspect_labels(probabilities, labels) != labels).mean() < 0.02


def test_a_class_without_items_is_never_the_probable_one():
    probabilities = np.array([[0.2, 0.1, 0.7], [0.1, 0.2, 0.7], [0.3, 0.3, 0.4]])
    assert 2 not in suspect_labels(probabilities, np.array([0, 1, 0]))


def test_a_tie_keeps_the_label():
    probabilities = np.array([[0.5, 0.5], [0.5, 0.5], [0.9, 0.1], [0.1, 0.9]])  # as votes of neighbours
    labels = np.array([0, 1, 1, 0])
    assert suspect_labels(probabilities, labels).tolist() == [0, 1, 0, 1]


def test_the_surest_come_first():
    probabilities, labels, _ = planted(0.1)

    class Fake:
        def predictions(self, part):
            return pd.DataFrame(), [10, 20, 30, 40], probabilities

    class Items:
        items = pd.DataFrame({"id": range(len(labels)), "label": np.array([10, 20, 30, 40])[labels]})

    found = label_issues(Fake(), Items())
    own = probabilities[found["id"], labels[found["id"]]]
    assert found["margin"].is_monotonic_increasing and (found["probable"] != found["label"]).all()
    assert own[:10].mean() < own[-10:].mean()
