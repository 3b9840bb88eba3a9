"""A run that learns from another: what its targets are, and with which teachers that is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fakes import catalogue, fake
from interrupted import AGREE, count_asked, kill_after
from PIL import Image

from kit import cli
from kit.analysis.board import board, tell_comparison
from kit.config import train_config
from kit.core.exceptions import KitError
from kit.data.items import data_fingerprints, read_items, tables_fingerprint
from kit.runs import open_run, prepare_run
from kit.stacking.ensemble import ensemble_config, stack
from kit.studies import distil
from kit.studies.study_runs import ablation, baseline
from kit.training.interrupt import Watch
from kit.training.run_trainer import train


@pytest.fixture
def config(tiny_config) -> dict:
    return tiny_config | {"folds": 2, "epochs": 1, "keep": "last", "freeze_text": True, "freeze_image": True}


def told(config: dict, name: str, classes=None, right: float = 0.8):
    """A finished run that was never trained: it predicts `classes`, by default the labels, with probability `right`."""
    run = prepare_run(train_config(**config, run=name), again=True)
    codes, frames = read_items(run.config)
    if classes is None:
        classes = pd.Categorical(frames["train"]["label"], categories=codes).codes
    values = np.full((len(classes), 3), (1 - right) / 2)
    values[np.arange(len(classes)), classes] = right
    summary = {"data": tables_fingerprint(data_fingerprints(frames)), "seconds": 1.0}
    run.write(codes, (frames["train"], values), (frames["test"], np.full((2, 7, 3), 1 / 3)), summary)
    return run


def taught(config: dict, name: str = "student", **changes):
    run = prepare_run(train_config(**config | {"teacher": "teacher", "run": name} | changes))
    train(run)
    return run


@pytest.mark.parametrize("loss", [{}, {"class_weights": 0.5, "label_smoothing": 0.1}])
def test_a_teacher_without_a_share_changes_nothing(root, config, loss):
    config |= loss | {"system": "concat"}
    told(config, "teacher")
    plain, student = taught(config, "plain", teacher=""), taught(config, teacher_share=0.0)
    assert (student.folder / "oof.parquet").read_bytes() == (plain.folder / "oof.parquet").read_bytes()


@pytest.fixture
def noisy(config, tiny_data, tmp_path) -> dict:
    """The tiny catalogue with images of one colour per class, and every fourth label wrong."""
    folder = shutil.copytree(tiny_data, tmp_path / "noisy")
    for path in (folder / "images" / "image_train").iterdir():
        colour = ["red", "green", "blue"][int(path.stem.split("_")[1]) % 3]  # images are numbered from 500
        Image.new("RGB", (40, 40), colour).save(path)
    labels = pd.read_csv(path := folder / "Y_train_CVw08PX.csv", index_col=0)
    labels.iloc[::4] = np.roll(labels, 1)[::4]
    labels.to_csv(path)
    return config | {"data": str(folder), "system": "image", "epochs": 15, "linear_start": True, "curve": False}


def test_a_student_follows_its_teacher_where_labels_are_noise(root, noisy, one_thread):
    told(noisy, "teacher", np.arange(36) % 3, right=0.98)
    plain, student = taught(noisy, "plain", teacher=""), taught(noisy, teacher_share=1.0)
    agree, sure = [], []
    for run in (plain, student):
        frame, _, values = run.predictions("oof")
        agree.append((values.argmax(1) == frame["id"] % 3).mean())
        sure.append(values.max(1).mean())
    losses = student.metrics.groupby("fold")["train_loss"]
    assert (losses.last() < losses.first() / 2).all()
    assert agree[1] == 1 and sure[1] > sure[0]


def test_an_interrupted_student_goes_on_to_the_same_bytes_with_the_same_teacher(root, config, monkeypatch):
    told(config, "teacher")
    config |= {"batch_size": 4, "save_steps": 2, "system": "concat"}
    asked = count_asked(monkeypatch)
    whole = taught(config, "whole")
    kill_after(monkeypatch, len(asked) // 3)
    with pytest.raises(SystemError, match="killed"):
        taught(config)
    monkeypatch.setattr(Watch, "agree", AGREE)
    told(config, "teacher", right=0.7)
    with pytest.raises(KitError, match=r"changed since it was begun \(teacher\)"):
        taught(config)
    told(config, "teacher")
    assert (taught(config).folder / "oof.parquet").read_bytes() == (whole.folder / "oof.parquet").read_bytes()


def rewrite_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite(change):
    def damage(folder: Path) -> None:
        change(pd.read_parquet(folder / "oof.parquet")).to_parquet(folder / "oof.parquet")

    return damage


@pytest.mark.parametrize(
    ("changes", "damage", "sentence"),
    [
        ({}, rewrite(lambda frame: frame.rename(columns={"p_40": "p_41"})), "other classes, 1 more .41. and 1 missing"),
        ({}, rewrite(lambda frame: frame[3:]), "validated on other items, 3 missing"),
        ({"split_seed": 1}, None, "the fold of id .* differs"),
        ({"limit": 30}, None, "validated on other items"),
        ({}, lambda folder: rewrite_json(folder / "summary.json", data="other"), "it read other texts"),
        ({}, lambda folder: (folder / "summary.json").unlink(), "is not finished"),
        ({"teacher": "nobody"}, None, "There is no run 'nobody'"),
        ({"teacher": "student"}, None, "is the name of its teacher"),
        ({"folds": 1}, None, "no training item with an out-of-fold prediction"),
        ({"system": "tfidf"}, None, "has no use for teacher="),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(root, config, changes, damage, sentence):
    teacher = told(config, "teacher")
    if damage:
        damage(teacher.folder)
    with pytest.raises(KitError, match=sentence):
        taught(config, **changes)


@pytest.fixture
def command(root, config, monkeypatch):
    """`kit distil` on a stack of two runs, which trains here."""
    light = told(config | {"system": "tfidf"}, "light")
    members = [light, told(config | {"dropout": 0.2}, "network", np.arange(36) % 2)]
    made = stack(ensemble_config([run.name for run in members], "all", method="blend"))
    monkeypatch.setattr(distil, "launch", lambda runs: [train(run) for run in runs if not run.finished])
    return lambda *options: cli.main(["distil", made.name, "-p", "run", "student", *options])


def test_a_stack_teaches_the_model_of_its_best_network(command, config, capsys):
    assert command("-p", "lr", "0.02") == 0
    run, out = open_run("student"), capsys.readouterr().out
    stacked = run.config.teacher
    assert run.config == train_config(**config | {"lr": 0.02, "dropout": 0.2, "run": "student", "teacher": stacked})
    assert "only test items show what it is worth" in out
    row = board().set_index("run").loc["student"]
    assert f"teacher {stacked}" in row["changes"] and row["why"] == run.summary["warning"]
    assert run.summary["warning"] in tell_comparison("network", "student")
    assert ablation(run.config) is baseline(run.config) is None  # no row of the paper's tables
    with pytest.raises(KitError, match=f"a student itself, and knows labels of all folds: name '{stacked}'"):
        taught(config, "pupil", teacher="student")
    with pytest.raises(KitError, match="leave it out of the members"):
        stack(ensemble_config(["light", "student"], "all"))
    told(config | {"system": "tfidf"}, "light", np.arange(36) % 2)
    assert command("-p", "lr", "0.02") == 1
    assert "stack it again" in capsys.readouterr().err
    stack(open_run(stacked).config)
    assert command("-p", "lr", "0.02") == 1
    assert "changed since 'student' learned from it" in capsys.readouterr().err


def test_on_one_side_the_student_reads_that_side(root):
    data = catalogue(root, "text")
    fake(train_config(run="tfidf", system="tfidf", data=data, recipe="demo"), 0.9)
    student = distil.student_config(open_run("tfidf"), {})
    assert (student.system, student.teacher) == ("text", "tfidf")


def test_a_teacher_without_backbones_asks_for_the_students(root, config):
    fake(train_config(run="mine", system="own", data=config["data"], folds=2), 0.9)
    with pytest.raises(KitError, match="name the student's with -p text and -p image"):
        distil.student_config(open_run("mine"), {})
    student = distil.student_config(open_run("mine"), {name: config[name] for name in ("text", "image", "width")})
    assert (student.system, student.text, student.teacher) == ("coattention", config["text"], "mine")


def test_a_stack_that_was_scored_in_sample_teaches_nothing(root, config):
    for name in ("a", "b"):
        told(config, name)
    with pytest.warns(UserWarning, match="in-sample"):
        made = stack(ensemble_config(["a", "b"], "all", method="blend", evaluation="in-sample"))
    with pytest.raises(KitError, match="no out-of-fold predictions"):
        taught(config, teacher=made.name)
