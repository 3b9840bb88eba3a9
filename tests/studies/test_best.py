"""The ladder: a valid submission after every rung, whatever stops it, and nothing is done twice."""

import os
import signal
from dataclasses import replace

import numpy as np
import psutil
import pytest
import timm
from fakes import catalogue
from PIL import Image
from transformers import CONFIG_MAPPING

from kit import cli
from kit.config import LIGHT, LIGHT_PAIRS, PAIRS, RECIPES, recipe_changes, train_config
from kit.core.paths import submissions_folder
from kit.data.challenge import read_challenge
from kit.models.image_backbones import image_work
from kit.models.registry import IMAGE, TEXT
from kit.models.text_backbones import text_work
from kit.runs import open_run
from kit.studies import best
from kit.studies.pace import Workload, duration
from kit.submission import check_submission
from kit.training import light
from kit.training.launch import launch as real_launch
from kit.training.run_trainer import train

PAPER = PAIRS["paper"]
IMAGES = ("resnet152", "resnext101_32x8d")
TINY = {
    "image_size": 64, "max_tokens": 16, "batch_size": 8, "width": 16, "attention_width": 8, "classifier_width": 8,
    "epochs": 1, "workers": 0, "folds": 2, "features_gb": 1,
    "linear_start": False, "keep": "last",
}  # fmt: skip


@pytest.fixture
def climb(root, tiny_data, tiny_texts, tiny_image, monkeypatch):
    """Return a function that runs `kit best` on the tiny catalogue and returns its exit status; it trains here, and
    calls `at(rung)` before each rung. Its `trained` lists the runs made."""
    challenge, trained = read_challenge(tiny_data), []

    def command(*options: str, at=lambda rung: None, texts: str = tiny_texts["bert"], launch=None) -> int:
        rungs = []

        def train_here(runs):
            if rungs:
                command.check()
            rungs.append(len(rungs))
            at(rungs[-1])
            for run in runs:
                light.fit(run) if run.config.system in LIGHT else train(run)
                trained.append(run.name)

        monkeypatch.setattr(best, "launch", launch or train_here)
        monkeypatch.setattr(best, "LIGHT_MEMBERS", ("logistic_image", "neighbours"))  # the quick ones
        given = [part for name, value in TINY.items() for part in ("-p", name, str(value))]
        named = ["--data", str(tiny_data), "--texts", texts, "--images", tiny_image, "--recipe", "demo", "--seeds", "1"]
        return cli.main(["best", *named, *given, *options])

    command.trained = trained
    command.check = lambda: check_submission(submissions_folder() / "best" / "y_test_pred.csv", challenge)
    return command


def interrupt(rung: int) -> None:
    if rung == 2:
        raise KeyboardInterrupt


def test_every_rung_leaves_a_submission_and_an_interrupted_ladder_goes_on(climb, capsys):
    assert climb(at=interrupt) == 130
    assert "7 rows" in climb.check()
    assert climb.trained[0] == "best-tfidf" and len(climb.trained) == 3
    made = {name: open_run(name).summary["finished"] for name in climb.trained}
    assert "co-attention" in capsys.readouterr().out
    assert climb() == 0
    climb.check()
    assert len(climb.trained) == 4  # the training alone was left
    assert made == {name: open_run(name).summary["finished"] for name in made}
    stacked = open_run("best").summary
    assert sorted(stacked["members"]) == sorted(climb.trained)
    out = capsys.readouterr().out
    assert "2 of 3 rungs, finished already: macro-F1" in out and "3 members" in out and "4 members" in out
    assert "its best member, best-" in out
    assert climb() == 0 and len(climb.trained) == 4
    assert open_run("best").summary == stacked
    assert cli.main(["check", str(submissions_folder() / "best" / "y_test_pred.csv")]) == 0
    capsys.readouterr()
    assert climb("--seeds", "0") == 0
    assert "no longer stacked, because these options do not name them: best-coatt" in capsys.readouterr().out
    assert climb("-p", "again", "True", "--max-minutes", "0") == 0
    assert "1 member" in (out := capsys.readouterr().out)  # the old stack is not submitted
    assert "submits its only member, best-tfidf" in out and open_run("best").summary["members"] == ["best-tfidf"]


def test_a_ladder_that_is_told_to_end_ends_its_training_too(climb, monkeypatch, capsys):
    started = []

    def look(view) -> None:  # while the training runs in a process of its own
        if not started:
            started.append(psutil.Process().children()[-1])
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("kit.training.launch._View.refresh", look)
    assert climb("--max-minutes", "0", launch=real_launch) == 130
    assert not started[0].is_running() and not open_run("best-tfidf").finished
    assert "the same command resumes" in capsys.readouterr().err


def test_a_lost_submission_is_written_again(climb):
    climb("--max-minutes", "0")
    os.remove(submissions_folder() / "best" / "y_test_pred.csv")
    climb("--max-minutes", "0")
    climb.check()
    assert climb.trained == ["best-tfidf"]
    climb("--max-minutes", "0", "-p", "again", "True")
    assert climb.trained == ["best-tfidf"] * 2
    assert climb("--study", "best-tfidf") == 1  # its stack would take the place of that training
    assert climb.trained == ["best-tfidf"] * 2


def test_without_time_the_text_alone_is_submitted(climb, capsys):
    assert climb("--max-minutes", "0") == 0
    climb.check()
    assert climb.trained == ["best-tfidf"]
    assert "left out, it needs " in capsys.readouterr().out


def test_a_rung_that_runs_out_of_time_ends_the_ladder(climb, capsys):
    def end(rung: int) -> None:
        if rung:
            raise best.TimeUp

    assert climb("--max-minutes", "1000", at=end) == 0
    assert "stopped when the time was over" in capsys.readouterr().out
    climb.check()


def test_a_training_longer_than_the_time_begins_in_what_is_left_of_it(climb, monkeypatch, capsys):
    def end(rung: int) -> None:
        if rung == 2:
            raise best.TimeUp

    hours = {"coattention": 1e6}
    monkeypatch.setattr(best, "duration", lambda configs, *_: (hours.get(configs[0].system, 1.0), False))
    assert climb("--max-minutes", "1000", at=end) == 0
    out = capsys.readouterr().out
    assert "left out, it needs 12 days" in out and "that are left: stopped when the time was over" in out
    climb.check()


def test_a_limit_interrupts():
    with pytest.raises(best.TimeUp), best.limited(0):
        signal.pause()
    with best.limited(None):
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_a_rung_that_fails_is_named_and_the_others_are_made(climb, capsys, tiny_texts):
    def fail(rung: int) -> None:
        if rung == 1:
            raise best.KitError("no space left.")

    assert climb(at=fail) == 1
    assert "no space left" in capsys.readouterr().err
    assert sorted(open_run("best").summary["members"]) == sorted(climb.trained)
    assert len(climb.trained) == 2


def test_backbones_that_are_not_here_are_left_out(climb, capsys, tiny_texts):
    assert climb("--max-minutes", "0", texts=f"{tiny_texts['bert']},camembert") == 0
    plan, _, _ = capsys.readouterr().out.partition("In all")
    assert "left out, because their backbones cannot be loaded: best-" in plan
    assert "The text backbone 'camembert'" in plan
    assert (
        plan.count("co-attention") == 1 and plan.count("  light ") == 1
    )  # of the second pair only the image is here, as in the first


def test_wrong_options_are_refused_before_anything_is_trained(climb, capsys, tiny_data, tmp_path):
    for options, sentence in (
        (["--recipe", "mine"], f"recipe='mine' is not one of {', '.join(RECIPES)}"),
        (["--seeds", "-1"], "seeds=-1 is too small"),
        (["-p", "system", "text"], "-p system cannot be set for a whole study"),
        (["--study", "a/b"], "must be a folder name"),
        (["--max-minutes", "nan"], "max_minutes=nan is not a number of minutes"),
        (["--max-minutes", "-1"], "max_minutes=-1.0 is not a number of minutes"),
    ):
        assert climb(*options) == 1
        assert sentence in capsys.readouterr().err
    assert not climb.trained


def test_the_order_is_the_gain_per_minute(climb, monkeypatch, capsys):
    monkeypatch.setattr(best, "duration", lambda configs, *_: (1.0 if configs[0].system not in LIGHT else 100.0, False))
    climb("--max-minutes", "0")
    plan = capsys.readouterr().out.splitlines()
    assert ["tfidf" in plan[0], "co-attention" in plan[1], "light" in plan[2]] == [True] * 3


def test_a_plan_counts_what_its_rungs_share_once(climb, monkeypatch, capsys):
    monkeypatch.setattr(best, "duration", lambda configs, *_: (100.0 + len(configs), False))
    climb("--max-minutes", "0")
    assert "In all about 104 s" in capsys.readouterr().out  # four runs, and 100 s for all of them


def test_an_estimate_gives_way_to_a_measured_pace(climb, tiny_config):
    climb("--max-minutes", "0")
    config = open_run("best-tfidf").config
    workload = Workload(36, 7, 1.0, np.full(36, 50))
    assert duration([config], workload) == (pytest.approx(open_run("best-tfidf").summary["seconds"]), True)
    once, measured = duration([train_config(**tiny_config, system="logistic")], workload)
    twice, _ = duration([train_config(**tiny_config, system=system) for system in ("logistic", "neighbours")], workload)
    assert not measured and once < twice < 2 * once  # the backbones run once
    assert duration([train_config(**tiny_config)], replace(workload, learned=36000))[0] > once


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_recipe_has_a_ladder(recipe):
    light, trained = LIGHT_PAIRS.get(recipe, PAIRS[recipe]), PAIRS[recipe]
    ladder = best.rungs("best", {"recipe": recipe, "teacher": "", "folds": 5}, light, trained, seeds=1)
    systems = [[config.system for config in rung.configs] for rung in ladder]
    assert systems[0] == ["tfidf"] and systems[1] == [*best.LIGHT_MEMBERS] and ["coattention"] in systems
    assert (["text"] in systems) == (recipe != "demo")  # whose text backbone is frozen: the probe does as well
    for config in (config for rung in ladder for config in rung.configs):
        assert set(recipe_changes(config)) <= {"study", "system", "text", "image", "folds"}


def test_what_a_network_alone_can_do_does_not_stop_the_light_members():
    values, pairs = {"recipe": "demo", "train_text_layers": 2, "teacher": "t"}, PAIRS["demo"][:1]
    ladder = best.rungs("best", values, pairs, pairs, seeds=1)
    assert [rung.configs[0].train_text_layers for rung in ladder] == [0, 0, 2, 2]


def test_a_text_of_two_pairs_is_trained_alone_once():
    pairs = [("camembert", "resnet152"), ("camembert", "resnext101_32x8d")]
    names = [rung.name for rung in best.rungs("best", {"recipe": "night"}, pairs[:1], pairs, seeds=2)]
    assert [name for name in names if "alone" in name] == [f"text alone camembert, seed {n}" for n in (0, 1)]
    assert sum("co-attention" in name for name in names) == 4 and sum("light" in name for name in names) == 1


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_recipes_backbones_exist(recipe):
    known, config = timm.list_models(pretrained=True), train_config(recipe=recipe)
    for text, image in [*PAIRS[recipe], *LIGHT_PAIRS.get(recipe, [])]:
        assert TEXT[text].model_type in CONFIG_MAPPING
        name = IMAGE[image].timm if image in IMAGE else image
        assert name in known or (image in IMAGE and IMAGE[image].file)
        assert text_work(text, min(config.max_tokens, 128))[0] > 1e9
        assert image_work(image, config.image_size)[0] > 1e8


@pytest.mark.parametrize(
    ("side", "named"),
    [
        (
            "text",
            ["tfidf", *(f"light {name}" for name, _ in PAPER), *(f"text alone {name}, seed 0" for name, _ in PAPER)],
        ),
        # the third pair has the first one's images
        ("image", ["logistic_image", "light resnext101_32x8d", *(f"image alone {name}, seed 0" for name in IMAGES)]),
    ],
)
def test_a_catalogue_of_one_side_has_the_rungs_that_read_it(side, named, root):
    ladder = best.rungs("best", {"data": catalogue(root, side), "recipe": "paper"}, PAPER, PAPER, seeds=1)
    assert [rung.name for rung in ladder] == named
    assert {side for rung in ladder for config in rung.configs for side in config.sides} == {side}
    assert {config.system for rung in ladder[1:] for config in rung.configs} == {f"logistic_{side}", side}


def test_the_ladder_is_climbed_on_images_alone(climb, root, capsys):
    data = catalogue(root, "image")
    assert climb("--data", data) == 0
    (name,) = climb.trained
    assert name.startswith("best-logistic_image-")
    file = submissions_folder() / "best" / "predictions.csv"
    assert "7 rows" in check_submission(file, read_challenge(data))
    assert open_run("best").config.members == (name,)  # `kit predict best` predicts with it


def test_without_backbones_for_the_images_alone_the_ladder_says_so(climb, root, capsys):
    assert climb("--data", catalogue(root, "image"), "--images", "resnet152") == 1
    assert "The image backbone 'resnet152'" in capsys.readouterr().err and not climb.trained


def test_without_items_to_predict_there_is_a_stack_and_no_submission(climb, root, capsys):
    climb.check = lambda: None
    assert climb("--data", catalogue(root, "text", "image", test=False)) == 0
    assert f"→ {root / 'runs' / 'best'}" in capsys.readouterr().out
    assert len(open_run("best").summary["members"]) == 4 and not submissions_folder().exists()


def test_members_are_not_stacked_with_those_of_other_photos(climb, tiny_data, capsys):
    split = ("-p", "split", "random")
    assert climb(*split, at=interrupt) == 130  # the first member reads no images
    photo = next((tiny_data / "images" / "image_train").iterdir())
    kept = photo.read_bytes()
    try:
        Image.new("RGB", (40, 40), "red").save(photo)
        assert climb(*split) == 1
    finally:
        photo.write_bytes(kept)
    assert "was trained (images): put back the old data" in capsys.readouterr().err
