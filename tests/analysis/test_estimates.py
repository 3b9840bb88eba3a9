"""Gains are paired, and probabilities are judged by what chance leaves."""

import numpy as np
import pytest
from fakes import VALUES, fake

from kit.analysis import calibration
from kit.analysis.estimates import gains
from kit.config import train_config
from kit.runs import open_run


def test_gains_are_paired_and_of_the_runs_that_are_there(root):
    for name, right in (("text", 0.5), ("concat", 0.9), ("same", 0.5)):
        fake(train_config(**VALUES, run=name), right)
    runs = {name: open_run(name) for name in ("text", "concat", "same")}
    table = gains(runs, [("concat", "text"), ("logistic", "text"), ("same", "text")])
    assert table[["system", "against"]].to_numpy().tolist() == [["concat", "text"], ["same", "text"]]
    better, none = table["gain"]
    assert 0 < better.low < better.value < better.high and str(none) == "+0.0 [+0.0, +0.0]"
    assert gains({}, [("concat", "text")]).empty


@pytest.mark.parametrize(
    ("certain", "verdict"), [(0.7, ""), (0.99, ", so these are too high"), (0.3, ", so these are too low")]
)
def test_probabilities_are_said_to_be_off_only_beyond_chance(certain, verdict, monkeypatch):
    right = np.random.default_rng(0).random(400) < 0.7
    monkeypatch.setattr(calibration, "certainty", lambda run: (np.full(400, certain), right))
    said = calibration.describe_calibration(None)
    assert f"a probability of {100 * certain:.1f} % in the mean" in said and "on 400 items" in said
    assert said.endswith(f"400 items{verdict}.")
