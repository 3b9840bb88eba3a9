"""A run's folder tells how its training goes, and why it failed, however it was started."""

import json
import math
import os
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from kit.config import train_config
from kit.core import console
from kit.core.exceptions import KitError, OutOfMemory
from kit.core.files import write_json
from kit.runs import prepare_run
from kit.studies.pace import Workload
from kit.studies.pipeline import Named
from kit.studies.plan import Plan, Study
from kit.train import _train, main
from kit.training import fold_trainer, launch, status
from kit.training.fold_trainer import FoldTrainer
from kit.training.interrupt import Interrupted, Watch
from kit.training.status import Teller, fail, read_error, read_status


@pytest.fixture
def run(root, tiny_config, monkeypatch):
    monkeypatch.delenv("KIT_LAUNCHER", raising=False)
    return prepare_run(train_config(**tiny_config | {"epochs": 2, "images_gb": 0.0}, run="run"))


def test_a_training_started_by_hand_tells_all_in_its_folder(run, capsys):
    assert main([str(run.folder / "config.json")]) == 0
    printed = capsys.readouterr()
    assert "epoch  2/2" in printed.out and not printed.err  # which is no terminal, so it gets no bars
    assert (run.folder / "train.log").read_text(encoding="utf-8").splitlines() == printed.out.splitlines()
    told = read_status(run)
    steps = run.config.steps(29)
    assert told.pop("seconds_per_step") > 0 and told.pop("started")
    assert told == {
        "process": os.getpid(), "launcher": 0, "phase": "", "bar": "", "fold": 1, "epoch": 2, "step": steps // 2,
        "done": steps, "total": steps,
    }  # fmt: skip
    assert not read_error(run)


FAILURES = {
    "a sentence": (KitError("There is no x: make one."), 1, "error", "There is no x: make one."),
    "a reader's": (KitError("in\n  File\nKitError: No x.\n"), 1, "error", "No x."),
    "memory": (OutOfMemory("Memory ran out: smaller."), 1, "memory", "Memory ran out: smaller."),
    "a signal": (Interrupted("told to end"), 130, "stopped", "The training was told to end; the same command begins"),
}


@pytest.mark.parametrize(("error", "exit_status", "kind", "sentence"), FAILURES.values(), ids=FAILURES)
def test_why_a_training_failed_is_kept_until_it_starts_again(run, monkeypatch, error, exit_status, kind, sentence):
    def failing(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("kit.train.train", failing)
        assert main([str(run.folder / "config.json")]) == exit_status
    found = read_error(run)
    assert found["kind"] == kind and found["sentence"].startswith(sentence)
    assert f"KitError: run: {found['sentence']}" in (run.folder / "train.log").read_text(encoding="utf-8")
    monkeypatch.setattr("kit.train.train", lambda *_: None)
    assert main([str(run.folder / "config.json")]) == 0
    assert not read_error(run)


def test_an_error_of_nobodys_is_kept_with_its_traceback(run, monkeypatch):
    def failing(*_):
        raise RuntimeError("boom\nand more")

    monkeypatch.setattr("kit.train.train", failing)
    with pytest.raises(RuntimeError):
        main([str(run.folder / "config.json")])
    log = run.folder / "train.log"
    assert read_error(run)["sentence"] == f"Training stopped (RuntimeError: boom): {log} has the rest."
    assert "Traceback" in log.read_text() and log.read_text().endswith("RuntimeError: boom\nand more\n")


def test_the_process_that_fails_first_says_why(run, monkeypatch):
    """The second of two, which has no part in the other files."""

    def failing(*_):
        raise KitError("There is no x.")

    monkeypatch.setattr("kit.train.train", failing)
    assert _train(run, Watch(), Teller(), False) == 1
    fail(run, "stopped", "The training was told to end.")  # what the first one is, by then
    assert read_error(run)["sentence"] == "There is no x."
    assert not read_status(run) and not (run.folder / "train.log").exists()


def test_a_log_has_whole_lines_and_no_bars(run, capsys):
    teller = Teller()
    with teller.listening(), teller.telling(run):
        for text in ("\r  0%|   ", "\r 50%|█  ", "\r       \r", "half ", "a line\n", "\r100%|███", "\n", "old\rnew\n"):
            sys.stderr.write(text)
        print("other")
    assert (run.folder / "train.log").read_text() == "half a line\nnew\nother\n"
    assert "50%|" in capsys.readouterr().err


def test_a_full_disk_costs_the_files_and_not_the_training(run, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(status.os, "replace", full)
    monkeypatch.setattr("builtins.open", full)
    teller = Teller()
    with teller.listening(), teller.telling(run):
        print("a line")
        status.report(step=1)
        fail(run, "error", "x")
    assert not read_status(run) and not read_error(run)


def test_a_status_is_written_now_and_then_and_at_each_change_of_phase(run, monkeypatch):
    monkeypatch.setattr(status, "PERIOD", math.inf)
    teller, seen = Teller(), []
    with teller.telling(run):
        for fields in ({"epoch": 1, "step": 1}, {"epoch": 1, "step": 2}, {"epoch": 2, "step": 1}):
            status.report(**fields)
            seen.append(read_status(run).get("step"))
        for phase in ("predict", "predict", "tokens"):
            console.sink(phase=phase, bar=f"{phase} {len(seen)}")
            seen.append(read_status(run)["bar"])
    assert seen == [1, 1, 1, "predict 3", "predict 3", "tokens 5"]
    status.report(step=9)  # nobody listens any more
    assert read_status(run)["step"] == 1


def test_a_bar_says_what_it_shows(monkeypatch):
    told = []
    monkeypatch.setattr(console, "sink", lambda phase, bar: told.append((phase, bar)))
    for _ in console.Bar(range(2), desc="tokens", leave=False, delay=0, mininterval=0):
        pass
    assert {phase for phase, _ in told} == {"tokens"}
    assert "50%|" in told[1][1] and told[-1][1] == ""


@pytest.mark.parametrize("several", [False, True])
def test_whoever_watches_sees_what_its_own_training_tells(several, root, tiny_config, monkeypatch, capsys):
    runs = [prepare_run(train_config(**tiny_config, run=name)) for name in "abc"]
    shown = []
    monkeypatch.setattr(launch.Terminal, "write", lambda _, text: shown.append(text))
    fail(runs[0], "error", "of an earlier training")
    (runs[0].folder / "train.log").write_text("earlier\n")
    view = launch._View(runs, several)

    def tell(run, launcher: int, log: str) -> None:
        (run.folder / "train.log").write_text(log)
        write_json(run.folder / "status.json", {"launcher": launcher, "bar": f"{run.name}'s bar"})
        view.refresh()

    tell(runs[0], os.getpid(), "earlier\nepoch 1\nepo")
    assert capsys.readouterr().out == ("" if several else "epoch 1\n")
    assert shown[-1] == ("a: a's bar" if several else "a's bar")
    with open(runs[0].folder / "train.log", "a") as file:
        file.write("ch 2\na: macro-F1\n")
    tell(runs[1], os.getpid(), "epoch 1\n")
    assert capsys.readouterr().out == ("a: macro-F1\n" if several else "epoch 2\na: macro-F1\nepoch 1\n")
    tell(runs[2], 1, "x\n")  # another's
    view.close()
    assert capsys.readouterr().out == ("b: epoch 1\n" if several else "")
    assert shown[-1] == "" and view.at == 1
    assert not view.errors()
    fail(runs[1], "error", "new")
    assert {name: error["sentence"] for name, error in view.errors().items()} == {"b": "new"}


def test_runs_that_train_at_once_end_their_lines(root, tiny_config, monkeypatch):
    """Each line reaches the notebook in one piece."""
    run, pieces = prepare_run(train_config(**tiny_config, run="a")), []
    view = launch._View([run], named=True)
    (run.folder / "train.log").write_text("epoch 1\n")
    write_json(run.folder / "status.json", {"launcher": os.getpid()})
    monkeypatch.setattr("sys.stdout", SimpleNamespace(write=pieces.append, flush=lambda: None))
    view.close()
    assert [piece for piece in pieces if piece] == ["a: epoch 1\n"]


def test_a_studys_plan_takes_the_pace_from_the_folders(root, tiny_config, capsys):
    configs = [train_config(**tiny_config, run=name) for name in ("old", "new", "later")]
    runs = [prepare_run(config) for config in configs]
    write_json(runs[0].folder / "status.json", {"started": "before", "seconds_per_step": 6000.0})
    plan = Plan.__new__(Plan)
    plan.study, plan.groups, plan.cannot = Study({}, [], [], jobs=2), {"03_train": configs}, {}
    plan.workload = Workload(36, 7, 1.0, np.full(36, 50))
    plan.timed, plan.looking = {"old": "before", "new": "", "later": ""}, threading.Lock()
    write_json(runs[1].folder / "status.json", {"started": "now", "step": 1})
    plan.look()
    assert capsys.readouterr().out == ""
    write_json(runs[1].folder / "status.json", {"started": "now", "seconds_per_step": 6000.0})
    with plan.following():
        plan.look()
        plan.look()
    printed = capsys.readouterr().out
    assert printed.count("run 2 of 3, new: 6e+03 s per step") == 1
    seconds = sum(config.steps(29) for config in configs) * 6000 / 2  # two at a time
    assert f"3 runs left: about {console.in_words(seconds)}." in printed


def test_the_pace_is_without_the_first_step_which_compiles(root, tiny_config, monkeypatch, capsys):
    clock, step = [0.0], FoldTrainer.step

    def timed(self, batch):
        clock[0] += 0.25 if clock[0] else 46
        return step(self, batch)

    monkeypatch.setattr(FoldTrainer, "step", timed)
    monkeypatch.setattr(fold_trainer, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    run = prepare_run(train_config(**tiny_config | {"epochs": 1, "batch_size": 2}, run="run"))
    assert main([str(run.folder / "config.json")]) == 0
    assert "0.25 s a step: about 3.8 s for 15 steps" in capsys.readouterr().out
    assert read_status(run)["seconds_per_step"] == 0.25
    assert run.metrics["seconds"].item() == 49.5  # all of it


def test_a_training_that_resumes_is_as_far_as_it_was_until_its_first_step(run):
    told = {"fold": 1, "epoch": 1, "step": 3, "done": 3, "total": 8, "seconds_per_step": 9.0}
    for saved in (False, True):
        write_json(run.folder / "status.json", told)
        with Teller().telling(run):
            assert (read_status(run).get("done"), "seconds_per_step" in read_status(run)) == (
                3 if saved else None,
                False,
            )
        (run.folder / "state.pt").touch()


def test_each_line_of_one_notebook_among_several_has_its_name(capsys):
    stream = Named("one")
    for text in ("fold 1/3 ", "epoch 1\nfold", " 2/3\n"):
        stream.write(text)
    assert capsys.readouterr().out == "one: fold 1/3 epoch 1\none: fold 2/3\n"


def test_a_torn_file_tells_nothing(run):
    for text in ("", '{"kind": ', json.dumps([1])):
        (run.folder / "error.json").write_text(text)
        assert read_error(run) == {}
