"""Interrupted trainings go on as if nothing had happened: killed, told to end, out of time, memory, disk or numbers."""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from interrupted import AGREE, count_asked, kill_after, save, work
from safetensors.torch import load_file

import kit.models.classifier
import kit.training.fold_trainer
from kit.config import train_config
from kit.core.exceptions import KitError
from kit.models.heads import CoAttentionHead, FusionHead
from kit.runs import Run, prepare_run
from kit.train import main
from kit.training import interrupt
from kit.training.checkpoint import Checkpoints
from kit.training.interrupt import Interrupted, Watch
from kit.training.launch import launch
from kit.training.run_trainer import train
from kit.training.soup import cook
from kit.training.status import AT_WORK

# a process that has imported all and does nothing else: from it a training starts in no time, and without our threads
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["interrupted"])


def trained(run: Run, root: Path, asked: int = -1, number: int = signal.SIGKILL) -> int:
    """The exit status of a training in a process of its own."""
    process = FORKS.Process(target=work, args=(str(root), str(run.folder / "config.json"), asked, number))
    process.start()
    process.join(300)
    return process.exitcode


@pytest.fixture
def crash_config(tiny_config) -> dict:
    """36 items in two folds, each of 5 steps; a state after every second step."""
    return tiny_config | {"folds": 2, "epochs": 1, "batch_size": 4, "save_steps": 2}


def results(run: Run) -> dict[str, bytes]:
    return {name: (run.folder / name).read_bytes() for name in ("oof.parquet", "test.parquet")} | {
        path.name: path.read_bytes() for path in run.folder.glob("model-*")
    }


def begun(config: dict, name: str) -> Run:
    return prepare_run(train_config(**config, run=name))


PARTLY = {"freeze_text": True, "train_text_layers": 1}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("changes", [{}, PARTLY | {"linear_start": True, "keep": "held_out", "epochs": 2}])
def test_a_killed_training_goes_on_to_the_same_bytes(root, crash_config, number, kills, changes):
    """At random steps; the states before them are what is gone on from."""
    crash_config |= changes
    whole, torn = begun(crash_config, "whole"), begun(crash_config, "torn")
    assert trained(whole, root) == 0
    chance, killed = random.Random(0), 0
    while killed < kills:
        status = trained(torn, root, chance.randrange(0, 60 if changes else 12), number)
        if torn.finished:
            killed = killed if status == 0 else killed + 1
            assert results(torn) == results(whole)
            prepare_run(torn.config, again=True)
            continue
        assert status == (-number if number == signal.SIGKILL else 130)
        killed += 1
        assert not list(torn.folder.glob("summary.json"))
        torn = begun(crash_config, "torn")
    assert trained(torn, root) == 0
    assert results(torn) == results(whole)
    assert torn.summary["attention"] == whole.summary["attention"]  # of both folds
    assert torn.metrics.drop(columns=["seconds", "samples_per_second", "step_seconds"]).equals(
        whole.metrics.drop(columns=["seconds", "samples_per_second", "step_seconds"])
    )
    assert not (torn.folder / "state.pt").exists()


def test_a_state_is_saved_in_time_and_not_again_at_an_epochs_end(root, crash_config, monkeypatch):
    seen, write = [], Checkpoints.write
    monkeypatch.setattr(Checkpoints, "write", lambda *given: [seen.append(given[1].step), write(*given)])
    train(begun(crash_config | {"batch_size": 2, "folds": 1, "save_steps": 7}, "run"))
    assert seen == [7, 15, 0]  # at step 14 of 15 it is not worth it


FINE_TUNING = {
    "epochs": 3,
    "keep": "soup",
    "pair": True,
    "augment": True,
    "modality_dropout": 0.3,
    "class_weights": 0.5,
    "schedule": "cosine",
    "warmup": 0.3,
}


def test_every_field_of_fine_tuning_survives_a_kill(root, crash_config, monkeypatch):
    """In the second epoch; and when the soup is made, but no state says so yet."""
    config = crash_config | FINE_TUNING | {"folds": 1}
    whole, torn = begun(config, "whole"), begun(config, "torn")
    asked = count_asked(monkeypatch)
    train(whole)
    kill_after(monkeypatch, len(asked) // 4)
    with pytest.raises(SystemError, match="killed"):
        train(torn)
    monkeypatch.setattr(Watch, "agree", AGREE)
    monkeypatch.setattr(kit.training.fold_trainer, "cook", lambda *arguments: [cook(*arguments), sys.exit("killed")])
    with pytest.raises(SystemExit, match="killed"):
        train(torn)
    monkeypatch.setattr(kit.training.fold_trainer, "cook", cook)
    train(torn)
    assert not list(torn.folder.glob("epoch-*"))
    assert results(torn) == results(whole)


def test_a_state_is_refused_with_other_settings_or_data(root, crash_config, tiny_data):
    data = root / "data"
    shutil.copytree(tiny_data, data)
    run = begun(crash_config | {"data": str(data)}, "run")
    assert trained(run, root, 7) == -signal.SIGKILL
    with pytest.raises(KitError, match=r"'run' was begun with other settings: lr \(0.01 → 0.1\)\. .*-p again True"):
        begun(crash_config | {"data": str(data), "lr": 0.1}, "run")
    labels = (data / "Y_train_CVw08PX.csv").read_text()
    (data / "Y_train_CVw08PX.csv").write_text(labels.replace("40", "41"))
    with pytest.raises(KitError, match=r"The data of the run 'run' changed since it was begun \(labels\): put back"):
        train(run)
    (data / "Y_train_CVw08PX.csv").write_text(labels)
    image = min((data / "images" / "image_train").iterdir())
    pixels = image.read_bytes()
    shutil.copy(max((data / "images" / "image_train").iterdir()), image)
    with pytest.raises(KitError, match=r"changed since it was begun \(images\)"):
        train(run)
    image.write_bytes(pixels)
    state = torch.load(run.folder / "state.pt", weights_only=True)
    torch.save(state | {"format": 1}, run.folder / "state.pt")
    with pytest.raises(KitError, match=r"state\.pt cannot be read \(another version of the kit wrote it\): pass"):
        train(run)
    (run.folder / "state.pt").write_bytes((run.folder / "state.pt").read_bytes()[:1000])
    with pytest.raises(KitError, match=r"state\.pt cannot be read .*: pass -p again True to start over"):
        train(run)
    assert not prepare_run(run.config, again=True).begun


def test_settings_that_change_no_result_may_change_in_between(root, crash_config):
    run = begun(crash_config, "run")
    assert trained(run, root, 7) == -signal.SIGKILL
    run = begun(crash_config | {"accumulate": 2, "save_steps": 0, "nonfinite": "skip"}, "run")
    train(run)
    assert run.summary["accumulate"] == 2


def test_max_minutes_stops_with_a_state(root, crash_config, capsys):
    run = begun(crash_config | {"max_minutes": 1e-9}, "run")
    assert main([str(run.folder / "config.json")]) == 130
    assert re.search(
        r"KitError: run: The training was stopped after 1e-09 minutes, as max_minutes says; the same command goes on",
        capsys.readouterr().err,
    )
    assert run.begun
    assert main([str(begun(crash_config | {"max_minutes": 0}, "run").folder / "config.json")]) == 0
    assert "Resuming at epoch 1, step 1" in capsys.readouterr().out


def test_a_training_ends_with_the_notebook_that_started_it(root, crash_config, monkeypatch, capsys):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    monkeypatch.setenv("KIT_LAUNCHER", str(gone.pid))
    run = begun(crash_config, "run")
    assert main([str(run.folder / "config.json")]) == 130
    assert "left alone by the notebook that started it; the same command goes on" in capsys.readouterr().err


def signalled(watch, monkeypatch):
    os.kill(os.getpid(), signal.SIGTERM)
    return "told to end"


def out_of_time(watch, monkeypatch):
    watch.minutes = 1e-9
    return "stopped after 1e-09 minutes"


def alone(watch, monkeypatch):
    monkeypatch.setattr(interrupt.psutil, "pid_exists", lambda process: False)
    watch.launcher = 1
    return "left alone by the notebook"


@pytest.mark.parametrize("reason", [signalled, out_of_time, alone])
def test_a_batch_that_never_comes_keeps_nobody_from_stopping(monkeypatch, reason):
    monkeypatch.setattr(interrupt, "GRACE", 0)
    monkeypatch.setattr(interrupt, "TICK", 0.01)
    watch, sentences = Watch(), []

    def lost():
        yield "first"
        sentences.append(reason(watch, monkeypatch))
        threading.Event().wait()  # for ever

    with watch.listening(), pytest.raises(Interrupted) as stopped, watch:
        list(watch.each(lost()))
    assert str(stopped.value).startswith(sentences[0])
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_batch_that_comes_after_a_signal_is_trained_on():
    def slow():
        for number in range(3):
            if number == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            yield number

    watch = Watch()
    with watch.listening(), watch:
        assert list(watch.each(slow())) == [0, 1, 2]
        assert watch.agree()[0] and watch.heard == "told to end"


def test_a_run_has_one_writer(root, crash_config, monkeypatch, capsys):
    monkeypatch.setattr("kit.runs.PATIENCE", 0)
    run = begun(crash_config, "run")
    with run.alone():
        with pytest.raises(KitError, match="'run' is at work in another process: wait for it, stop it, or choose"):
            prepare_run(run.config)
        assert main([str(run.folder / "config.json")]) == AT_WORK
    assert "is at work in another process" in capsys.readouterr().err
    holder = FORKS.Process(target=hold, args=(str(run.folder), ready := FORKS.Event()))
    holder.start()
    ready.wait(60)
    with pytest.raises(KitError, match="at work"):
        prepare_run(run.config)
    holder.kill()
    holder.join()
    assert not prepare_run(run.config).finished  # a dead one keeps nobody out


def hold(folder: str, ready) -> None:
    with Run(Path(folder)).alone():
        ready.set()
        signal.pause()


def test_memory_that_runs_out_makes_smaller_batches(root, crash_config, monkeypatch, capsys):
    """The step stays: its items are cut into more batches."""
    forward = kit.models.heads.CoAttentionHead.forward

    def leaky(head, layers, mask, *images):
        if len(mask) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return forward(head, layers, mask, *images)

    monkeypatch.setattr(kit.models.heads.CoAttentionHead, "forward", leaky)
    run = begun(crash_config | {"batch_size": 8, "freeze_image": True}, "run")
    train(run)
    assert run.summary["accumulate"] == 4
    assert "Memory ran out: a step's 8 items are now cut into 4 batches (accumulate=4)" in capsys.readouterr().out
    monkeypatch.setattr(kit.models.heads.CoAttentionHead, "forward", forward)
    cut = begun(crash_config | {"batch_size": 8, "freeze_image": True, "accumulate": 4}, "cut")
    train(cut)
    assert results(cut)["oof.parquet"] == results(run)["oof.parquet"]


def test_memory_too_small_for_one_item_says_what_to_lower(root, crash_config, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr(kit.models.heads.CoAttentionHead, "forward", full)
    with pytest.raises(KitError, match="too little memory for a batch of one item a process: lower max_tokens"):
        train(begun(crash_config, "run"))


def spoil(monkeypatch, at: int, kind=CoAttentionHead) -> None:
    """The model's output at its `at`-th training batch is no number."""
    forward, count = kind.forward, iter(range(10**9))

    def spoilt(head, *inputs):
        logits = forward(head, *inputs)
        return logits * torch.nan if head.training and next(count) == at else logits

    monkeypatch.setattr(kind, "forward", spoilt)


def spoil_gradient(monkeypatch, at: int) -> None:
    """The gradient at the `at`-th training batch is no number, although the loss is one."""
    forward, count = CoAttentionHead.forward, iter(range(10**9))

    def spoilt(head, *inputs):
        logits = forward(head, *inputs)
        if head.training and next(count) == at:
            logits.register_hook(lambda gradient: gradient * torch.nan)
        return logits

    monkeypatch.setattr(CoAttentionHead, "forward", spoilt)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_fusions_loss_that_is_no_number_stops_with_the_items(root, crash_config, monkeypatch, frozen):
    spoil(monkeypatch, 0, FusionHead)
    change = {"system": "concat", "freeze_text": frozen, "freeze_image": frozen}
    with pytest.raises(KitError, match=r"The loss became NaN or infinite in epoch 1, step 1\. .*: id \d+, \d+"):
        train(begun(crash_config | change, "run"))


def test_a_loss_that_is_no_number_stops_with_the_items(root, crash_config, monkeypatch, tiny_data):
    spoil(monkeypatch, 3)
    run = begun(crash_config, "run")
    with pytest.raises(
        KitError, match=r"The loss became NaN or infinite in epoch 1, step 4\. .*: id \d+, \d+, \d+, \d+\. Start"
    ):
        train(run)
    state = torch.load(run.folder / "state.pt", weights_only=True)
    assert state["progress"]["step"] == 2  # the last good one
    assert all(value.isfinite().all() for value in state["model"].values() if value.is_floating_point())
    monkeypatch.undo()


def test_a_gradient_that_is_no_number_stops_with_its_step(root, crash_config, monkeypatch):
    spoil_gradient(monkeypatch, 2)
    with pytest.raises(KitError, match=r"The gradient became NaN or infinite in epoch 1, step 3\. Start over"):
        train(begun(crash_config, "run"))


@pytest.mark.parametrize("spoil", [spoil, spoil_gradient])
def test_a_step_that_is_no_number_can_be_skipped(root, crash_config, monkeypatch, spoil):
    monkeypatch.setenv("KIT_ROOT", str(root))
    spoil(monkeypatch, 3)
    run = begun(crash_config | {"nonfinite": "skip"}, "run")
    train(run)
    assert run.summary["skipped_steps"] == 1
    assert np.isfinite(run.predictions("oof")[2]).all()


def launched(run: Run, *arguments, script: str = "interrupted.py", machines: int = 1) -> list[int]:
    """The exit statuses of the launchers of two processes that execute the script, on one machine or on two that are
    this one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"compute_environment": "LOCAL_MACHINE", "distributed_type": "MULTI_GPU", "num_processes": 2}
    settings |= {"num_machines": machines, "mixed_precision": "no", "use_cpu": False, "main_process_port": port}
    settings |= {"main_process_ip": "127.0.0.1"} if machines > 1 else {}
    environment, started = os.environ | {"ACCELERATE_USE_CPU": "true"}, []
    for rank in range(machines):
        file = run.folder / f"accelerate-{rank}.json"
        file.write_text(json.dumps(settings | {"machine_rank": rank}))
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", file]
        command += [Path(__file__).with_name(script), run.folder / "config.json", *map(str, arguments)]
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    outputs = [process.communicate(timeout=300)[0].decode(errors="replace") for process in started]
    print(*outputs, sep="\n")
    return [process.returncode for process in started]


def test_no_process_leaves_before_the_state_is_written(root, crash_config):
    """The launcher would kill the one that writes once another has ended."""
    run = begun(crash_config, "run")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    passed = FORKS.Event()
    processes = [FORKS.Process(target=save, args=(rank, port, str(run.folder), passed)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]


def disturbed(run: Run, asked: int = -1, number: int = signal.SIGKILL, **how) -> list[int]:
    """`launched`, where the second process gets a signal when it asks for the `asked`th time whether to stop."""
    return launched(run, asked, int(number), 1, **how)


@pytest.mark.slow
def test_sharded_weights_train_stop_and_go_on_like_whole_ones(root, crash_config, monkeypatch):
    """Weights, states and results of a model of which each process has a part."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    plain, whole, torn = (begun(crash_config, name) for name in ("plain", "whole", "torn"))
    assert disturbed(plain) == [0]
    assert disturbed(whole, script="sharded.py") == [0]
    assert disturbed(torn, 5, signal.SIGTERM, script="sharded.py") == [1]
    assert torn.begun
    assert disturbed(torn, script="sharded.py") == [0]
    assert results(torn) == results(whole)
    for part in ("oof", "test"):
        assert np.allclose(whole.predictions(part)[2], plain.predictions(part)[2], atol=1e-5)
    weights = [load_file(run.folder / "model-0.safetensors") for run in (plain, whole)]
    assert {k: v.shape for k, v in weights[0].items()} == {k: v.shape for k, v in weights[1].items()}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_two_processes_stop_and_go_on_together(root, crash_config, monkeypatch, number):
    """The signal goes to one of them; the result is that of two which nobody disturbs."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    whole, torn = begun(crash_config, "whole"), begun(crash_config, "torn")
    assert disturbed(whole) == [0]
    assert disturbed(torn, 5, number) == [1]
    one, other = torch.load(torn.folder / "state.pt", weights_only=True)["local"]
    assert not torch.equal(one["random"], other["random"])  # dropout of its own
    assert disturbed(torn) == [0]
    assert results(torn) == results(whole)


@pytest.mark.slow
def test_two_machines_do_what_one_does(root, crash_config, monkeypatch):
    """Two launchers that meet on this machine's own address, each with one process."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    one, two = begun(crash_config, "one"), begun(crash_config, "two")
    assert disturbed(one) == [0]
    assert disturbed(two, machines=2) == [0, 0]
    assert results(two) == results(one)
    assert two.summary["processes"] == 2


@pytest.mark.slow
def test_twenty_kills_of_two_processes(root, crash_config, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    whole, torn, chance = begun(crash_config, "whole"), begun(crash_config, "torn"), random.Random(1)
    assert disturbed(whole) == [0]
    for _ in range(20):
        disturbed(torn, chance.randrange(12), chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
        if torn.finished:
            assert results(torn) == results(whole)
            prepare_run(torn.config, again=True)
    assert disturbed(torn) == [0]
    assert results(torn) == results(whole)


NOTEBOOK = """
import sys
from kit.training.launch import launch
from kit.runs import open_run
launch([open_run("torn")], processes=int(sys.argv[1]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_notebook_that_is_stopped_leaves_a_state(root, crash_config, monkeypatch, number, processes):
    """In the middle of an epoch, while processes of their own read the images; the notebook dies too, or lives on."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config = crash_config | {"workers": 1, "images_gb": 0.0, "epochs": 40, "folds": 1, "save_steps": 0}
    torn, whole = begun(config, "torn"), begun(config, "whole")
    command = [sys.executable, "-c", NOTEBOOK, str(processes)]
    notebook = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = []
    for line in notebook.stdout:
        said.append(line)
        if line.startswith("epoch  3"):
            break
    trainers = [
        p for p in psutil.Process(notebook.pid).children(recursive=True) if "kit.train" in " ".join(p.cmdline())
    ]
    assert trainers, "".join(said)
    notebook.send_signal(number)
    output = notebook.communicate(timeout=120)[0]
    psutil.wait_procs(trainers, timeout=120)
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in trainers)
    assert torn.begun, output
    state = torch.load(torn.folder / "state.pt", weights_only=True)["progress"]
    assert 2 <= state["epoch"] < 39
    launch([begun(config, "torn")], processes)
    launch([whole], processes)
    assert results(torn) == results(whole)
