"""Figures of the error analysis draw for any number of classes and mistakes, and say what they show."""

import warnings

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from test_errors import make_errors

from kit import plots
from kit.errors import confusions, per_class


def texts(figure) -> list[str]:
    """What is written in a figure, once drawn without a warning (a missing glyph, a layout that does not fit)."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.canvas.draw()
    found = [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_visible()]
    plt.close(figure)
    return [text for text in found if text]


@pytest.mark.parametrize("classes", [1, 2, 27])
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_figures_draw_for_any_number_of_classes_and_mistakes(classes, share):
    random, codes = np.random.default_rng(0), np.arange(classes) * 10 + 10
    label = np.repeat(codes, 8)
    predicted = np.where(random.random(len(label)) < share, random.choice(codes, len(label)), label)
    names = {int(code): f"Prix en $ et accessoires {code}" for code in codes[:20]}  # two dollar signs: no mathematics
    found = make_errors(label, predicted, random.random(len(label)), random.random(len(label)) < 0.5, names)
    written = texts(plots.confusion_matrix(found.counts, found.codes, names))
    assert {str(code) for code in codes} <= set(written)
    assert any(text.startswith("10  Prix en") for text in written)
    assert any(text.startswith("10  Prix en") for text in texts(plots.f1_bars(per_class(found))))
    assert texts(plots.confusion_bars(confusions(found)))
    assert f"without description\n{(~found.items['described']).sum()} items" in texts(plots.loss_boxes(found.items))


def test_confusion_bars_point_from_predicted_to_actual():
    found = make_errors([10, 10, 40], [40, 40, 10], names={10: "Livres", 40: "Jeux"})
    written = texts(plots.confusion_bars(confusions(found)))
    assert "Jeux\n→ Livres" in written and "2 (66.7%)" in written
    assert "no mistakes" in texts(plots.confusion_bars(confusions(make_errors([10], [10]))))


def test_confusion_matrix_prints_per_cent_of_the_true_class():
    written = texts(plots.confusion_matrix(np.array([[97, 3, 0], [1, 1, 0], [0, 0, 0]]), [10, 40, 60], {}))
    assert written.count("50") == 2 and "97" in written
    assert not {"3", "0"} & set(written)  # too rare to print, and a class without items


def test_f1_bars_leave_out_a_class_without_items():
    scores = per_class(make_errors([10, 40], [10, 10]))
    absent = pd.DataFrame([{"code": 60, "name": "60", "support": 0, "predicted": 0}])
    written = texts(plots.f1_bars(pd.concat([scores, absent])))
    assert "10" in written and "60" not in written
    assert "macro-F1 0.333" in written


@pytest.mark.parametrize("described", [[True] * 4, [False] * 4, [True, False, False, False]])
@pytest.mark.parametrize("predicted", [[10] * 4, [40, 10, 10, 10]])
def test_loss_boxes_of_groups_that_may_be_empty(described, predicted):
    found = make_errors([10] * 4, predicted, [0.0, 1e-9, 0.5, 3.0], described)
    written = texts(plots.loss_boxes(found.items))
    wrong = [d for d, p in zip(described, predicted, strict=True) if p == 40]
    for group in (described, wrong):
        assert f"without description\n{len(group) - sum(group)} items" in written
        assert f"with description\n{sum(group)} items" in written
