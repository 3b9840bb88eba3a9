"""Figures of the error analysis draw for any number of classes and mistakes, and say what they show."""

import os
import re
import warnings

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
from test_errors import make_errors

from kit.analysis import plots
from kit.analysis.errors import confusions, per_class
from kit.analysis.estimates import Estimate
from kit.studies import report


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
    assert {str(code) for code in codes} <= {text.split()[0] for text in written}
    assert any(text.startswith("10  Prix en") for text in written)
    assert any(text.startswith("10  Prix en") for text in texts(plots.f1_bars(per_class(found))))
    assert texts(plots.confusion_bars(confusions(found)))
    assert f"without description\n{(~found.items['described']).sum()} items" in texts(plots.loss_boxes(found.items))


def test_confusion_bars_point_from_predicted_to_actual():
    found = make_errors([10, 10, 40], [40, 40, 10], names={10: "Livres", 40: "Jeux"})
    written = texts(plots.confusion_bars(confusions(found)))
    assert "Jeux\n→ Livres" in written and "2 (66.7 %)" in written
    assert "no mistakes" in texts(plots.confusion_bars(confusions(make_errors([10], [10]))))


def test_confusion_matrix_prints_per_cent_of_the_true_class():
    written = texts(plots.confusion_matrix(np.array([[97, 3, 0], [1, 1, 0], [0, 0, 0]]), [10, 40, 60], {}))
    assert written.count("50") == 2 and "97" in written
    assert not {"3", "0"} & set(written)  # too rare to print, and a class without items


def test_f1_bars_leave_out_a_class_without_items():
    scores = per_class(make_errors([10, 40], [10, 10]))
    absent = pd.DataFrame([{"code": 61, "name": "61", "support": 0, "predicted": 0}])
    figure = plots.f1_bars(pd.concat([scores, absent]))
    assert "61" not in texts(figure) and "macro-F1 33.3" in texts(figure)
    (axis,) = figure.axes
    assert axis.get_xlim() == (0, 100)  # per cent, as every other score
    assert sorted(bar.get_width() for bar in axis.patches) == pytest.approx([0, 200 / 3])


@pytest.mark.parametrize("described", [[True] * 4, [False] * 4, [True, False, False, False]])
@pytest.mark.parametrize("predicted", [[10] * 4, [40, 10, 10, 10]])
def test_loss_boxes_of_groups_that_may_be_empty(described, predicted):
    found = make_errors([10] * 4, predicted, [0.0, 1e-9, 0.5, 3.0], described)
    written = texts(plots.loss_boxes(found.items))
    wrong = [d for d, p in zip(described, predicted, strict=True) if p == 40]
    for group in (described, wrong):
        assert f"without description\n{len(group) - sum(group)} items" in written
        assert f"with description\n{sum(group)} items" in written


def test_an_estimate_far_from_the_line_is_written_and_does_not_stretch_the_scale():
    ours = [Estimate(-0.5, -1.7, 0.6, True), Estimate(-25.7, -30.1, -21.6, True), Estimate(-1.0, -2.1, 0.1, True)]
    paper = [Estimate(-12.6, -12.6, -12.6), Estimate(-2.0, -2.0, -2.0), ""]
    figure = plots.intervals(pd.DataFrame({"ours": ours, "paper": paper}, ["a", "b", "c"]), "points", mark=0)
    low, high = figure.axes[0].get_xlim()
    assert -15 < low < -1.7 and 0.6 < high < 5
    written = texts(figure)
    assert {"← -25.7 [-30.1, -21.6]", "← -12.6", "ours", "paper"} <= set(written)
    figure = plots.intervals(pd.DataFrame({"F1": ours}, ["a", "b", "c"]), "per cent")  # no line: all are drawn
    assert figure.axes[0].get_xlim()[0] < -30.1 and not any("←" in text for text in texts(figure))
    assert texts(plots.intervals(pd.DataFrame({"F1": [Estimate(0, 0, 0)] * 2}, ["a", "b"]), "points", mark=0))


def test_the_best_score_is_on_top_with_the_colour_of_its_kind():
    scores = pd.Series([Estimate(50, 40, 60), Estimate(70, 60, 80), Estimate(60, 50, 70)], ["image", "both", "text"])
    figure = plots.ranked(scores, ["image", "text and image", "text"], "per cent")
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["both", "text", "image"]
    assert axis.get_ylim()[0] > axis.get_ylim()[1]  # the first row is on top
    drawn = {kind: line.lines[0].get_xydata().tolist() for line in axis.containers for kind in [line.get_label()]}
    assert drawn == {"image": [[50, 2]], "text and image": [[70, 0]], "text": [[60, 1]]}
    assert {"image", "text and image", "text"} <= set(texts(figure))


@pytest.mark.parametrize("items", [1, 20, 700])
def test_calibration_draws_each_bins_share_of_right_predictions(items):
    sure = np.linspace(0.3, 1, items)
    figure = plots.calibration(sure, np.ones(items, bool))
    (bars,) = figure.axes[0].containers
    assert bars.lines[0].get_ydata().tolist() == [100] * min(items, 15)
    assert any("calibrated" in text for text in texts(figure))


NAMES = {  # a class's name → what is written of it
    "two dollars": ("Jeux de 5$ a 10$", "Jeux de 5$ a 10$"),
    "no mathematics": ("Cartes $5^^$ promo", "Cartes $5^^$ promo"),
    "a command": (r"\frac{1}{0}$ et \$", r"\frac{1}{0}$ et \$"),
    "three dollars": ("$$$", "$$$"),
    "long": ("Accessoires et périphériques " * 5, "Accessoires et périphériques…"),
    "one long word": ("x" * 150, "x" * 39 + "…"),
    "lines and tabs": ("Jeux\n et\tjouets\x01", "Jeux et jouets"),
    "in parts": ("cafe\u0301", "café"),
    "Chinese": ("\u5bb6\u5ead\u7528\u54c1", ""),
    "Chinese among Latin": ("LEGO \u7a4d\u307f\u6728 set", "LEGO … set"),
    "emoji": ("\U0001f381\ufe0f\U0001f9f8", ""),
    "emoji among Latin": ("Jouets \U0001f381 et jeux \U0001f469\u200d\U0001f467", "Jouets et jeux"),
    "Arabic": ("\u0643\u062a\u0628", "\u0643\u062a\u0628"),
    "nothing": ("", ""),
}


@pytest.fixture
def own_fonts(monkeypatch):
    """No font but matplotlib's own, whatever is installed."""
    monkeypatch.setattr(plots, "_families", list)
    plots._find_family.cache_clear()
    yield
    plots._find_family.cache_clear()


def drawn(figure) -> tuple[list[str], float]:
    """What is written in a figure, as a reader sees it, and how much of its width the plot itself has."""
    width = None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.canvas.draw()
        width = figure.axes[0].get_window_extent().width / figure.bbox.width
    written = [text for text in figure.findobj(matplotlib.text.Text) if text.get_visible() and text.get_text()]
    assert not any(text._preprocess_math(text.get_text())[1] for text in written)  # none is mathematics
    return [text._preprocess_math(text.get_text())[0] for text in written], width


@pytest.mark.parametrize(("name", "classes"), [("long", 27), *((name, 2) for name in NAMES)])
def test_any_name_is_written_or_left_out_in_every_figure(name, classes, own_fonts):
    content, shown = NAMES[name]
    codes = [10 * i for i in range(1, classes + 1)]
    names = dict.fromkeys(codes, content)
    found = make_errors(codes * 4, [*codes * 3, *codes[1:], codes[0]], names=names)
    label = f"10  {shown}" if shown else "10"
    for figure in (
        plots.confusion_matrix(found.counts, codes, names),
        plots.f1_bars(per_class(found)),
        plots.class_bars(pd.Series(1, codes), names, "items"),
    ):
        written, width = drawn(figure)
        plt.close(figure)
        assert label in written
        assert width > 0.12
    pair = next(text for text in drawn(plots.confusion_bars(confusions(found)))[0] if "→" in text and "\n" in text)
    wanted = re.escape(shown) if shown and "…" not in shown else r"\d+(  .+)?"  # with its code unless whole
    assert all(re.fullmatch(f"(→ )?{wanted}", line) for line in pair.split("\n"))
    items = pd.DataFrame({"title": [content] * 2, "description": [content] * 2, "label": codes[:2], "image_path": None})
    unwritten = shown or plots.UNWRITTEN
    title = unwritten if content else "(no title)"
    begins = (title[:20], unwritten[:20])
    assert sum(text.startswith(begins) for text in drawn(plots.sample_rows(items, names))[0]) >= 4
    assert any(title[:20] in text for text in drawn(plots.duplicate_rows(items, np.zeros(2), names))[0])
    plt.close("all")


def test_a_matrix_of_long_names_is_as_large_as_one_of_short_ones():
    for classes in (2, 27):
        codes = list(range(classes))
        sizes = []
        for name in ("a", "W" * 60, "ACCESSOIRES " * 9, "périphériques " * 11):
            figure = plots.confusion_matrix(np.eye(classes), codes, dict.fromkeys(codes, name))
            drawn(figure)
            box = figure.axes[0].get_window_extent()
            sizes.append((box.width, box.height))
            plt.close(figure)
        assert min(sizes)[0] > 0.9 * 0.3 * classes * figure.dpi
        assert all(height > 0.6 * 0.3 * classes * figure.dpi for _, height in sizes)


@pytest.mark.parametrize("classes", [300, 3000])
def test_many_classes_stay_below_what_can_be_drawn(classes, monkeypatch):
    sizes = []

    def small(*args, figsize, **options):
        sizes.append(figsize)
        raise InterruptedError

    monkeypatch.setattr(plt, "subplots", small)
    for draw in (
        lambda: plots.class_bars(pd.Series(1, range(classes)), {}, "items"),
        lambda: plots.confusion_matrix(np.eye(classes), list(range(classes)), {}),
    ):
        with pytest.raises(InterruptedError):
            draw()
    assert max(max(size) for size in sizes) * 144 < 2**16


def test_a_font_that_is_installed_writes_what_the_usual_one_cannot():
    with plt.rc_context({"font.family": ["cmr10"], "axes.formatter.use_mathtext": True}), warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = plots.class_bars(pd.Series([1, 2], [10, 20]), {10: "\u0416\u0443\u043a", 20: "Livres"}, "items")
        figure.canvas.draw()
        (label,) = [text for text in figure.axes[0].get_yticklabels() if text.get_text().startswith("10")]
        assert label.get_text() == "10  \u0416\u0443\u043a"
        assert label.get_fontfamily()[0] == "cmr10" and len(label.get_fontfamily()) > 1
    plt.close("all")


def test_a_figure_that_fails_costs_the_report_itself_alone(tmp_path, capsys):
    path = tmp_path / "figures" / "figure4.png"
    shown = report._draw(path, "Figure 4", lambda: plots.class_bars(pd.Series([1.0], [10]), {}, "items"))
    assert path.is_file() and "](figures/figure4.png)" in shown
    assert "could not be drawn: ZeroDivisionError" in report._draw(path, "Figure 4", lambda: 1 / 0)
    assert not path.exists()
    assert "Figure 4: could not be drawn" in capsys.readouterr().err


@pytest.mark.parametrize("backend", ["Agg", "no_such_backend"])
def test_a_notebook_shows_figures_whatever_the_environment_says(backend, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", backend)
    imports = "from kit.analysis import plots\nimport pandas as pd"
    cells = [imports, "plots.class_bars(pd.Series([1], [10]), {}, 'items');"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbformat.write(notebook, tmp_path / "in.ipynb")
    done = papermill.execute_notebook(tmp_path / "in.ipynb", None, kernel_name="python3", progress_bar=False)
    outputs = [output for cell in done.cells for output in cell.outputs]
    assert ["image/png" in output.get("data", {}) for output in outputs] == [True]
    assert os.environ["MPLBACKEND"] == backend
