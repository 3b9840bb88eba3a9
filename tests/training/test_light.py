"""The light baselines give probabilities that mean what they say, of any few items."""

import numpy as np
import pytest

from kit.metrics import softmax
from kit.training.neighbours import Neighbours
from kit.training.tfidf import Calibrated, tfidf_model

LETTERS = np.array(list("abcdefghijklmnop"))


def catalogue(items: int, classes: int, random: np.random.Generator, own: float = 0.5):
    """Texts of six words, each with the chance `own` one of the class's three words, and the classes' codes."""
    words = np.array(["".join(random.choice(LETTERS, 5)) for _ in range(3 * classes)])
    labels = random.integers(0, classes, items)
    drawn = np.where(
        random.random((items, 6)) < own,
        3 * labels[:, None] + random.integers(0, 3, (items, 6)),
        random.integers(0, len(words), (items, 6)),
    )
    return np.array([" ".join(row) for row in words[drawn]], object), 10 + 3 * labels


def loss(probabilities: np.ndarray, y: np.ndarray, codes: np.ndarray) -> float:
    return -np.log(probabilities[np.arange(len(y)), np.searchsorted(codes, y)]).mean()


@pytest.mark.parametrize(("classes", "own"), [(2, 0.2), (6, 0.25), (12, 0.4)])
def test_probabilities_are_calibrated(classes, own):
    texts, y = catalogue(1000, classes, np.random.default_rng(0), own)
    learn, scored = np.arange(1000) < 600, np.arange(1000) >= 600
    codes, plain = np.unique(y), tfidf_model().fit(texts[learn], y[learn])
    margins = plain.decision_function(texts[scored])
    if classes == 2:
        margins = np.column_stack([-margins, margins])
    model = Calibrated(tfidf_model()).fit(texts[learn], y[learn], np.arange(600))
    found = model.predict_proba(texts[scored])
    assert np.allclose(found.sum(1), 1) and found.shape == (400, classes)
    assert (codes[found.argmax(1)] == plain.predict(texts[scored])).all()
    calibrated = loss(found, y[scored], codes)
    assert calibrated < loss(softmax(margins), y[scored], codes)
    best = min(loss(softmax(margins * sharpness), y[scored], codes) for sharpness in np.geomspace(0.01, 100, 200))
    assert calibrated < 1.03 * best  # the best that any sharpness does, in hindsight
    again = Calibrated(tfidf_model()).fit(texts[learn], y[learn], np.arange(600)).predict_proba(texts[scored])
    assert (found == again).all()


def test_twins_are_held_out_together():
    """Labels of pure noise, each text twice: a duplicate in sight would make the machine sure of itself."""
    texts, y = catalogue(300, 4, np.random.default_rng(0), own=0.0)
    texts, y, duplicates = np.tile(texts, 2), np.tile(y, 2), np.tile(np.arange(300), 2)
    others, labels = catalogue(200, 4, np.random.default_rng(1), own=0.0)
    apart = Calibrated(tfidf_model()).fit(texts, y, np.arange(600))
    together = Calibrated(tfidf_model()).fit(texts, y, duplicates)
    sure, unsure = (loss(model.predict_proba(others), labels, np.unique(y)) for model in (apart, together))
    assert 0 < 2 * (unsure - np.log(4)) < sure - np.log(4)  # of which log 4 is the best that there is


@pytest.mark.parametrize("labels", [[10, 40], [10, 10, 40], [10, 40, 60], [10, 10, 40, 40], [10, 10, 40, 60, 60, 2705]])
@pytest.mark.parametrize("duplicates", [False, True])
@pytest.mark.filterwarnings("error")
def test_classes_of_an_item_or_two_have_probabilities(labels, duplicates):
    texts = np.array([f"livre {code} numero {i}" for i, code in enumerate(labels)], object)
    groups = np.zeros(len(labels)) if duplicates else np.arange(len(labels))
    model = Calibrated(tfidf_model()).fit(texts, np.array(labels), groups)
    found = model.predict_proba(np.array([*texts, "", "tout autre chose"], object))
    assert found.shape == (len(labels) + 2, len(set(labels)))
    assert np.isfinite(found).all() and np.allclose(found.sum(1), 1)


def test_few_items_without_a_mistake_do_not_make_it_sure():
    texts, y = catalogue(60, 3, np.random.default_rng(0), own=1.0)
    model = Calibrated(tfidf_model()).fit(texts, y, np.arange(60))
    found = model.predict_proba(texts)
    assert (np.unique(y)[found.argmax(1)] == y).all()
    assert found.max(1).min() > 0.9 and (1 - found.max(1)).max() > 1e-5


WIDTHS = (8, 12)


def vectors(items: int, classes: int, random: np.random.Generator, text: float = 1.0, image: float = 1.0):
    """Vectors of both sides around their class's centre, as far from each other as the weights say, and codes."""
    centres, labels = np.random.default_rng(9).standard_normal((classes, sum(WIDTHS))), np.arange(items) % classes
    centres *= np.repeat([text, image], WIDTHS)
    return (centres[labels] + random.standard_normal((items, sum(WIDTHS)))).astype(np.float32), 10 + 3 * labels


@pytest.mark.parametrize(("text", "image"), [(1.0, 0.0), (0.0, 1.0), (0.7, 0.7)])
def test_neighbours_read_the_side_that_tells(text, image):
    (x, y), (others, labels) = (vectors(600, 6, np.random.default_rng(n), text, image) for n in range(2))
    model = Neighbours(WIDTHS).fit(x, y, np.arange(600))
    found = model.predict_proba(others)
    assert np.allclose(found.sum(1), 1) and found.min() > 0 and (model.predict(others) == labels).mean() > 0.7
    weight = model.chosen_[0]
    assert weight <= 0.2 if not image else weight >= 0.7 if not text else 0.2 <= weight <= 0.7
    assert loss(found, labels, np.unique(y)) < np.log(6) / 2


def test_a_duplicate_in_training_gives_its_class():
    x, y = vectors(400, 5, np.random.default_rng(0), 0.5, 0.5)
    x, y = np.tile(x, (2, 1)), np.tile(np.random.default_rng(1).permutation(y), 2)  # only duplicates tell
    model = Neighbours(WIDTHS).fit(x, y, np.arange(800))
    assert (model.predict(x) == y).all() and model.predict_proba(x).max(1).min() > 0.9


def test_duplicates_do_not_vote_for_each_other_as_values_are_chosen():
    """Labels of pure noise, each item twice: its duplicate in sight would make the model sure of itself."""
    x, y = vectors(300, 4, np.random.default_rng(0), 0.0, 0.0)
    others, labels = vectors(200, 4, np.random.default_rng(1), 0.0, 0.0)
    x, y, duplicates = np.tile(x, (2, 1)), np.tile(y, 2), np.tile(np.arange(300), 2)
    apart, together = (Neighbours(WIDTHS).fit(x, y, groups) for groups in (np.arange(600), duplicates))
    sure, unsure = (loss(model.predict_proba(others), labels, np.unique(y)) for model in (apart, together))
    assert unsure - np.log(4) < 0.1 < sure - np.log(4)  # log 4: the best that there is


@pytest.mark.parametrize("items", [2, 3, 20])
@pytest.mark.parametrize("groups", [1, 2, 20])
@pytest.mark.filterwarnings("error")
def test_a_few_items_have_neighbours(items, groups):
    x, y = vectors(items, 2, np.random.default_rng(0))
    found = (
        Neighbours(WIDTHS)
        .fit(x, y, np.arange(items) % groups)
        .predict_proba(vectors(7, 2, np.random.default_rng(1))[0])
    )
    assert found.shape == (7, 2) and np.isfinite(found).all() and found.min() > 0 and np.allclose(found.sum(1), 1)
