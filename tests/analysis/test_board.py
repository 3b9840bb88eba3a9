"""The board: every run with its state, and what sets two runs apart."""

import dataclasses
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from fakes import VALUES, fake
from sklearn.metrics import f1_score

from kit import cli
from kit.analysis.board import board, compare, tell_board
from kit.config import EnsembleConfig, train_config
from kit.core.exceptions import KitError
from kit.core.files import write_json
from kit.data.catalogue import describe
from kit.data.challenge import read_challenge
from kit.data.items import challenge_of
from kit.metrics import macro_f1, weighted_f1
from kit.runs import open_run
from kit.studies.study_runs import members

HOLD = (
    "import sys, kit.runs; r = kit.runs.open_run(sys.argv[1])\nwith r.alone(): print(1, flush=True); sys.stdin.read()"
)


def begun(name: str, status: dict | None = None, error: dict | None = None) -> None:
    """A run that was started and is not finished."""
    folder = open_run(name).folder
    write_json(folder / "config.json", dataclasses.asdict(train_config(run=name, study="s", recipe="demo", lr=0.5)))
    for file, content in {"status.json": status, "error.json": error}.items():
        if content:
            write_json(folder / file, content)


@pytest.fixture
def runs(root, tiny_data):
    values = VALUES | {"data": str(tiny_data), "recipe": "demo", "lr": 0.02}
    for config in members(values, ["camembert", "flaubert"], ["resnet152"]):
        fake(config, 0.9 if config.text == "camembert" else 0.5, seed=3)
    fake(EnsembleConfig("both", ("s-camembert-resnet152", "s-flaubert-resnet152"), str(tiny_data), study="s"), 0.95)
    fake(train_config(run="words", study="s", system="logistic_text", data=str(tiny_data), recipe="demo"), 0.5)
    place = {"fold": 2, "epoch": 3, "done": 30, "total": 60}
    begun("waits")
    begun("killed", place)
    begun("stopped", place, {"kind": "stopped", "sentence": "The training was stopped; the same command goes on."})
    begun("broken", place, {"kind": "error", "sentence": "The loss became NaN."})
    (root / "runs" / "s").mkdir()  # a study's folder is no run
    return root


def test_every_run_has_its_state_and_what_differs_from_its_recipe(runs, tiny_data):
    (runs / "runs" / "other").mkdir()
    (runs / "runs" / "other" / "config.json").write_text('{"of": "another version"}')
    environment = os.environ | {"KIT_ROOT": str(runs)}
    command = [sys.executable, "-c", HOLD, "killed"]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline()
        at_work = board().set_index("run").loc["killed"]
        holder.communicate(b"")
    assert (at_work["state"], at_work["why"]) == ("at work", "fold 2, epoch 3, 50% of the steps done")
    table = board().set_index("run")
    assert table["state"].to_dict() == {
        "s-camembert-resnet152": "finished", "s-flaubert-resnet152": "finished", "both": "finished",
        "words": "finished",
        "broken": "failed", "killed": "interrupted", "other": "damaged", "stopped": "interrupted", "waits": "not begun",
    }  # fmt: skip
    assert table["why"]["broken"] == "The loss became NaN." and "another version" in table["why"]["other"]
    assert table["changes"]["s-flaubert-resnet152"] == f"demo: data {tiny_data}, text flaubert, lr 0.02"
    assert table["changes"]["both"] == "best of 2 runs"
    assert table["changes"]["words"] == f"demo: system logistic_text, data {tiny_data}"
    run = open_run("s-camembert-resnet152")
    assert table["macro-F1"][run.name].value == 100 * run.summary["macro_f1"]
    assert set(board("s")["run"]) == set(table.index) - {"other"}


def test_a_folder_that_a_file_manager_copied_is_listed_too(runs):
    shutil.copytree(runs / "runs" / "words", runs / "runs" / "words copy")
    assert board().set_index("run").loc["words copy", "state"] == "finished"


def test_the_board_fits_a_terminal_of_100_columns(runs):
    fake(train_config(run="a" * 70, recipe="demo", data="/some/where/" + "deep/" * 20), 0.9)
    lines = tell_board(board(), 100).splitlines()
    assert max(map(len, lines)) <= 100
    assert any("…" in line and "finished" in line and "[" in line for line in lines)
    assert "    demo: data /some/where" in "\n".join(lines)


def test_a_pipe_gets_whole_names_of_the_runs_of_one_study(runs, capsys):
    fake(train_config(run="a" * 70, recipe="demo", study="long"), 0.9)
    assert cli.main(["runs", "--study", "long"]) == 0
    out = capsys.readouterr().out
    assert "a" * 70 in out and "words" not in out
    assert cli.main(["runs", "show", "word"]) == 1
    assert "Did you mean words?" in capsys.readouterr().err


def test_weighted_f1_is_scikit_learns():
    true, predicted = np.random.default_rng(0).integers(0, 4, (2, 50))
    assert weighted_f1(true, predicted) == pytest.approx(f1_score(true, predicted, average="weighted"))


def test_two_runs_are_compared_item_by_item(runs, capsys):
    one, other = "s-camembert-resnet152", "s-flaubert-resnet152"
    gained, flips = compare(one, other)
    scores = []
    for name in (one, other):
        frame, codes, values = open_run(name).predictions("oof")
        scores.append(np.array(codes)[values.argmax(1)])
    true = frame["label"].to_numpy()
    assert gained.value == pytest.approx(100 * (macro_f1(true, scores[1]) - macro_f1(true, scores[0])))
    assert gained.high < 0
    assert sorted(flips["id"]) == frame["id"][(scores[0] == true) != (scores[1] == true)].tolist()
    row = flips.iloc[0]
    assert row["title"].split()[0] in ("livre", "jeu", "piscine") and row[row["gets it right"]] == row["true"]
    assert cli.main(["runs", "compare", one, other]) == 0
    short = capsys.readouterr().out
    assert "A is better" in short and "--all lists them" in short
    assert cli.main(["runs", "compare", one, other, "--all"]) == 0
    assert capsys.readouterr().out.count("    true ") == len(flips) > short.count("    true ")
    config = train_config(run="elsewhere")
    fake(config, 0.5, items=30)
    with pytest.raises(KitError, match="validate different items"):
        compare(one, "elsewhere")


def test_a_comparison_names_a_catalogues_items_by_their_own_ids(root, tmp_path):
    frame = pd.DataFrame({"sku": [f"S-{i}" for i in range(36)], "name": "chaise", "kind": ["a", "b", "c"] * 12})
    data = str(describe(frame, title="name", label="kind", id="sku", out=tmp_path / "own"))
    for name, right in {"good": 1.0, "bad": 0.0}.items():
        fake(train_config(run=name, data=data, system="text"), right, first=1, codes=read_challenge(data).classes)
    _, flips = compare("good", "bad")
    assert flips["id"].tolist() == frame["sku"].tolist()


def test_items_that_have_changed_are_not_compared(runs, monkeypatch):
    def changed(run, **options):
        challenge = challenge_of(run, **options)
        labels = np.roll(challenge.train["label"], 1)
        return dataclasses.replace(challenge, train=challenge.train.assign(label=labels))

    monkeypatch.setattr("kit.analysis.board.challenge_of", changed)
    with pytest.raises(KitError, match="has changed since"):
        compare("s-camembert-resnet152", "s-flaubert-resnet152")


def test_one_run_is_shown(runs, capsys):
    assert cli.main(["runs", "show", "s-flaubert-resnet152"]) == 0
    text = " ".join(capsys.readouterr().out.split())  # lines break at the terminal's width
    assert "text flaubert, lr 0.02" in text and "weighted F1" in text and "The worst classes:" in text
    assert "oof.parquet (" in text
    assert cli.main(["runs", "show", "broken"]) == 0
    assert "broken: failed. The loss became NaN." in capsys.readouterr().out
    assert cli.main(["runs", "show", "nowhere"]) == 1
    assert "There is no run 'nowhere'" in capsys.readouterr().err
