"""The items whose attention is shown, and the paper's equations beside their code."""

from fakes import VALUES, fake

from kit.analysis.errors import read_errors
from kit.config import train_config
from kit.runs import TrainingRun, open_run
from kit.studies.equations import EQUATIONS, architecture, equation_lines, equations
from kit.studies.examples import attention_examples, attention_matters, open_attending, telling_items


def test_examples_are_items_on_which_text_and_image_alone_disagree(root, tiny_data):
    values = VALUES | {"data": str(tiny_data)}
    for name, right, system in (("s-full", 0.5, "coattention"), ("s-text", 0.9, "text"), ("s-image", 0.3, "image")):
        fake(train_config(**values, run=name, system=system), right, seed=len(name))
    run = TrainingRun(open_run("s-full").folder)
    chosen, why = telling_items(run, read_errors(run), right=2, wrong=2)
    predicted = [open_run(name).predictions("oof")[2].argmax(1) for name in ("s-text", "s-image")]
    differ = set((predicted[0] != predicted[1]).nonzero()[0])  # ids are places here
    wrong = read_errors(run).items.set_index("id")["wrong"]
    assert 0 < len(differ) < 36 and set(chosen) <= differ and f"{len(differ)} items on which text alone" in why
    assert wrong.loc[chosen].tolist() == [False, False, True, True]
    lone = TrainingRun(open_run("s-full").folder)
    (open_run("s-text").folder / "summary.json").unlink()
    assert "disagree" not in telling_items(lone, read_errors(lone), 1, 1)[1]


def test_a_run_without_attention_says_so(root, tiny_data):
    fake(train_config(**VALUES | {"data": str(tiny_data)}, run="s-concat", system="concat"), 0.5)
    attending = open_attending(open_run("s-concat"))
    assert "There is no attention to look at" in attention_examples(attending, 1, 1)
    assert attention_matters(attending) == ""  # said once


def test_each_equation_stands_beside_the_lines_that_compute_it():
    lines = {number: " ".join(equation_lines(number).values()) for number in EQUATIONS}
    parts = ("softmax", "affinity", "h_image", "h_text", "a_image =", "a_text =", "a_image, regions", "a_text, text")
    assert all(part in lines[number] for number, part in zip(EQUATIONS, parts, strict=True))
    page = equations()
    for number in EQUATIONS:
        assert rf"\tag{{{number}}}$$" in page
    assert page.count("```\n") == 12 and "`kit/models/layers.py`, `CoAttention.forward`" in page


def test_the_architecture_is_inside_the_notebook():
    assert "data:image/svg+xml;base64,PHN2Zy" in architecture()
