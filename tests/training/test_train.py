"""A run from configuration to folder: complete, repeatable, exact about what it refuses."""

import contextlib
import dataclasses
import json
import re
import shutil
import signal
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator, PartialState
from accelerate.data_loader import BatchSamplerShard
from fakes import catalogue
from safetensors.torch import load_file

import kit.data.augment
import kit.train
import kit.training.fold_trainer
import kit.training.run_trainer
from kit.config import OWN, SYSTEMS, EnsembleConfig, train_config
from kit.core.exceptions import KitError
from kit.core.files import write_json
from kit.data.folds import holdout, stratified_sample
from kit.data.items import read_items
from kit.data.sampler import LengthBatches, make_loader
from kit.metrics import macro_f1
from kit.models.backbones import find_backbones
from kit.models.classifier import Classifier, build_model
from kit.runs import Run, find_run, list_runs, open_run, prepare_run
from kit.train import main, meet
from kit.training.attention import average_folds, measure_attention
from kit.training.fold_trainer import FoldTrainer
from kit.training.launch import died
from kit.training.optimization import class_weights, parameter_groups
from kit.training.predict import predict
from kit.training.run_trainer import prepare, train
from kit.training.saved_weights import load_weights
from kit.training.soup import cook
from kit.training.status import AT_WORK, Teller, read_error, read_status
from kit.training.summary import report_blank_images


@pytest.fixture
def run(root, tiny_config):
    result = prepare_run(train_config(**tiny_config, run="tiny"))
    train(result)
    return result


def test_a_run_folder_is_complete(run, tiny_data):
    summary, metrics = run.summary, run.metrics
    assert list(metrics["epoch"]) == [1, 2]
    assert {"train_loss", "loss", "macro_f1", "accuracy", "seconds", "samples_per_second"} <= set(metrics)
    assert summary["macro_f1"] == pytest.approx(metrics["macro_f1"].max())
    assert summary["macro_f1_low"] <= summary["macro_f1"] <= summary["macro_f1_high"]
    assert summary["items"] == {"oof": 7, "test": 7}
    assert summary["trained"] == {"0": 29}
    assert [metrics["epoch"][metrics["kept"]].item()] == summary["kept_epochs"]
    frame, codes, values = run.predictions("oof")
    assert codes == [10, 40, 2705]
    assert np.allclose(values.sum(1), 1, atol=1e-5)
    labels = pd.read_csv(tiny_data / "Y_train_CVw08PX.csv", index_col=0)["prdtypecode"]
    assert (labels.loc[frame["id"]].to_numpy() == frame["label"]).all()
    accuracy = (np.array(codes)[values.argmax(1)] == frame["label"]).mean()
    assert accuracy == pytest.approx(summary["accuracy"])
    test, _, _ = run.predictions("test")
    assert list(test["id"]) == list(range(36, 43))
    assert set(test["split"]) == {"test"}
    assert [path.name for path in run.folder.glob(".*")] == [".lock"]  # no half-written file is left


def test_the_same_seed_gives_the_same_bytes(root, tiny_config):
    contents = []
    for name in ("a", "b"):
        result = prepare_run(train_config(**tiny_config, run=name))
        train(result)
        contents.append((result.folder / "oof.parquet").read_bytes())
    assert contents[0] == contents[1]
    other = prepare_run(train_config(**tiny_config | {"seed": 1}, run="c"))
    train(other)
    assert (other.folder / "oof.parquet").read_bytes() != contents[0]


def prepared(config, accelerator):
    """The model of fold 0 as training would build it, and its validation items."""
    _, frames, products, build = prepare(config, accelerator)
    torch.manual_seed(0)
    return build(), products["train"].part(np.flatnonzero(frames["train"]["fold"] == 0))


def test_the_saved_weights_are_the_kept_epochs(run):
    """A new model with model-0.safetensors gives the predictions of oof.parquet."""
    accelerator = Accelerator(cpu=True)
    model, oof = prepared(run.config, accelerator)
    load_weights(model, run.folder / "model-0.safetensors", model.frozen_prefixes)
    logits = predict(model, accelerator.prepare(make_loader(oof, 3)), len(oof), accelerator)
    _, _, values = run.predictions("oof")
    assert np.allclose(torch.from_numpy(logits).softmax(1), values, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train_text_layers": 1},
        {"train_text_layers": 2, "embedding_layer": True},  # all of them, from the embeddings' output
        {"train_text_layers": 1, "layer_weights": False},
        {"train_text_layers": 1, "system": "concat"},
    ],
)
def test_features_once_or_at_every_step_give_the_same_logits(root, tiny_config, changes):
    accelerator, logits = Accelerator(cpu=True), []
    for budget in (0, 1):
        config = train_config(**tiny_config, freeze_text=True, freeze_image=True, features_gb=budget, **changes)
        model, oof = prepared(config, accelerator)
        text = model.text.below if changes else model.text
        assert (text is None) == (budget == 1)
        assert (model.image is None) == (budget == 1 or config.pooled)
        logits.append(predict(model, make_loader(oof, 3), len(oof), accelerator))
    model, oof = prepared(dataclasses.replace(config, train_text_layers=0), accelerator)
    logits.append(predict(model, make_loader(oof, 3), len(oof), accelerator))
    assert np.allclose(logits[0], logits[1], atol=1e-5)
    assert np.allclose(logits[0], logits[2], atol=1e-5)  # before any training, the layers are the backbone's


def test_saved_text_layers_fit_a_backbone_that_runs_and_cached_features(root, tiny_config):
    changes = {"freeze_text": True, "train_text_layers": 1, "features_gb": 0, "backbone_lr_scale": 1.0}
    run = prepare_run(train_config(**tiny_config | changes, run="partly"))
    train(run)
    names = {name for name in load_file(run.folder / "model-0.safetensors") if name.startswith("text.")}
    assert names and all(name.startswith("text.model.encoder.layer.0.") for name in names)
    _, _, values = run.predictions("oof")
    accelerator = Accelerator(cpu=True)
    for budget in (0, 1):
        model, oof = prepared(dataclasses.replace(run.config, features_gb=budget), accelerator)
        untrained = predict(model, make_loader(oof, 3), len(oof), accelerator)
        load_weights(model, run.folder / "model-0.safetensors", model.frozen_prefixes)
        logits = predict(model, make_loader(oof, 3), len(oof), accelerator)
        assert not np.allclose(untrained, logits, atol=1e-3)
        assert np.allclose(torch.from_numpy(logits).softmax(1), values, atol=1e-5)


def test_vectors_out_of_the_cache_or_computed_are_the_same(root, tiny_config):
    accelerator, logits = Accelerator(cpu=True), []
    for budget in (0, 1):
        config = train_config(
            **tiny_config, system="concat", freeze_text=True, freeze_image=True, features_gb=budget, linear_start=True
        )
        model, oof = prepared(config, accelerator)
        logits.append(predict(model, make_loader(oof, 3), len(oof), accelerator))
    assert np.allclose(*logits, atol=1e-5)


def test_frozen_features_are_computed_once_and_never_trusted_when_stale(root, tiny_config, tiny_data, monkeypatch):
    import kit.training.features

    computed = []
    write = kit.training.features._Frozen.write
    monkeypatch.setattr(
        kit.training.features._Frozen, "write", lambda self, *a: (computed.append(self.side), write(self, *a))
    )
    data = root / "data"
    shutil.copytree(tiny_data, data)
    accelerator = Accelerator(cpu=True)

    def count(**changes):
        computed.clear()
        prepared(train_config(**tiny_config | {"data": str(data)} | changes), accelerator)
        return sorted(set(computed))

    both = {"freeze_text": True, "freeze_image": True}
    assert count(**both) == ["image", "text"]
    assert count(**both) == []
    assert count(**both, bilstm=False, seed=3, width=8) == []  # another head reads the same
    assert count(**both, layer_weights=False) == ["text"]
    assert count(**both, image_size=96) == ["image"]
    assert count(system="concat", **both) == []  # a vector an item, out of what is there
    assert count(system="concat", features_gb=0, **both) == ["image", "text"]
    assert count(system="dot", features_gb=0, **both) == []
    for path in (root / "cache").glob("image*.npy"):
        path.write_bytes(path.read_bytes()[:50])
    assert count(**both) == ["image"]
    image = next((data / "images" / "image_train").iterdir())
    image.write_bytes(next((data / "images" / "image_test").iterdir()).read_bytes())
    assert count(**both) == ["image"]


@pytest.mark.parametrize("split", ["random", "grouped"])
def test_folds_train_a_model_each_and_validate_every_item_once(root, tiny_config, split):
    changes = {"folds": 3, "epochs": 1, "split": split, "keep": "last", "run": "folds"}
    result = prepare_run(train_config(**tiny_config | changes))
    train(result)
    oof, _, values = result.predictions("oof")
    assert list(oof["id"]) == list(range(36))
    assert oof["fold"].value_counts().to_dict() == dict.fromkeys(range(3), 12)
    assert ("group" in oof) == (split == "grouped")
    assert np.isfinite(values).all()
    test = result.predictions("test")[0]
    assert sorted(zip(test["fold"], test["id"], strict=True)) == [(f, i) for f in range(3) for i in range(36, 43)]
    assert list(result.metrics["fold"]) == [0, 1, 2]
    assert len(list(result.folder.glob("model-*.safetensors"))) == 3


def test_keep_last_keeps_the_last(root, tiny_config):
    result = prepare_run(train_config(**tiny_config | {"epochs": 3, "keep": "last"}, run="last"))
    train(result)
    assert result.summary["kept_epochs"] == [3]
    assert result.summary["macro_f1"] == pytest.approx(result.metrics["macro_f1"].iloc[-1])


def test_a_soup_takes_each_of_the_three_best_epochs_that_does_not_lower_it(root, tiny_config, monkeypatch):
    """The second best mixed in scores as much as the best, the third less."""
    f1 = iter([0.2, 0.5, 0.1, 0.6, 0.4, 0.6, 0.5])  # of five epochs, then of epochs 4 and 2, then of 4, 2 and 5
    kept = {}

    def scored(probabilities, labels):
        return {"loss": 1.0, "macro_f1": next(f1), "accuracy": 0.5}

    def cooked(session, model, validate):
        kept.update({path.name: load_file(path) for path in session.run.folder.glob("epoch-*")})
        cook(session, model, validate)

    monkeypatch.setattr(kit.training.fold_trainer, "scores", scored)
    monkeypatch.setattr(kit.training.fold_trainer, "cook", cooked)
    run = prepare_run(train_config(**tiny_config | {"epochs": 5, "keep": "soup"}, run="soup"))
    train(run)
    assert sorted(kept) == [f"epoch-0-{epoch}.safetensors" for epoch in (2, 4, 5)]
    assert not list(run.folder.glob("epoch-*"))
    assert run.summary["kept_epochs"] == [2, 4]
    assert run.metrics["kept"].tolist() == [False, True, False, True, False]
    soup, best, second = (
        load_file(run.folder / "model-0.safetensors"),
        *(kept[f"epoch-0-{n}.safetensors"] for n in (4, 2)),
    )
    for name, value in soup.items():
        wanted = (best[name] + second[name]) / 2 if value.is_floating_point() else best[name]
        assert torch.allclose(value, wanted, atol=1e-6), name
    accelerator = Accelerator(cpu=True)
    model, oof = prepared(run.config, accelerator)
    load_weights(model, run.folder / "model-0.safetensors", model.frozen_prefixes)
    logits = predict(model, accelerator.prepare(make_loader(oof, 3)), len(oof), accelerator)
    assert np.allclose(torch.from_numpy(logits).softmax(1), run.predictions("oof")[2], atol=1e-5)


@pytest.mark.parametrize("system", [system for system in SYSTEMS if system not in ("coattention", OWN)])
def test_every_baseline_leaves_a_run(root, tiny_config, system, capsys):
    frozen = {"freeze_text": True, "freeze_image": True}
    result = prepare_run(train_config(**tiny_config, **frozen, system=system, folds=2, run=system))
    assert main([str(result.folder / "config.json")]) == 0
    assert len(result.predictions("oof")[0]) == 36
    assert len(result.predictions("test")[0]) == 14
    assert result.summary["system"] == system
    if system == "tfidf":  # the title gives the class away
        assert result.summary["accuracy"] > 0.5


def test_a_failing_run_does_not_keep_the_others_from_training(root, tiny_config, tmp_path, monkeypatch):
    """In the environment of a pod with several, and in a locale without the characters that are printed."""
    from kit.training.launch import launch

    strange = {"OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "ACCELERATE_USE_FSDP": "true"}
    strange |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    for name, value in strange.items():
        monkeypatch.setenv(name, value)
    names = {"first": {}, "broken": {"text": str(tmp_path / "nowhere")}, "last": {}}
    runs = [prepare_run(train_config(**tiny_config | {"epochs": 1} | c, run=n)) for n, c in names.items()]
    with pytest.raises(KitError, match=r"There is no directory .*nowhere.* \(1 of 3 runs failed: broken\)"):
        launch(runs)
    assert [run.finished for run in runs] == [True, False, True]
    logs = [(run.folder / "train.log").read_text() for run in runs]
    assert "epoch  1/1" in logs[0] and "nowhere" in logs[1] and "epoch  1/1" in logs[2]
    assert all(log.startswith(f"── {name}\n") and "\n\n" not in log for name, log in zip(names, logs, strict=True))


def test_an_ensemble_is_not_trained(root, tiny_config):
    from kit.training.launch import launch

    training = prepare_run(train_config(**tiny_config, run="one"))
    ensemble = prepare_run(EnsembleConfig("both", ("one", "two"), tiny_config["data"]))
    with pytest.raises(KitError, match="both cannot be trained: 05_ensemble makes an ensemble"):
        launch([training, ensemble])
    assert not (training.folder / "train.log").exists() and not (ensemble.folder / "train.log").exists()


def test_several_runs_train_at_once_and_share_the_cores(root, tiny_config, tmp_path, monkeypatch, capsys):
    from kit.training.launch import launch

    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    changes = {"a": {}, "b": {"text": str(tmp_path / "nowhere")}, "c": {"seed": 1}, "d": {"seed": 2}}
    runs = [prepare_run(train_config(**tiny_config | {"epochs": 1} | c, run=n)) for n, c in changes.items()]
    with pytest.raises(KitError, match=r"There is no directory .*nowhere.* \(1 of 4 runs failed: b\)"):
        launch(runs, jobs=2)
    assert [run.finished for run in runs] == [True, False, True, True]
    told = sorted(capsys.readouterr().out.splitlines())
    assert [line.partition(": ")[0] for line in told] == [*"abcd"] and "no directory" in told[1]  # a line each
    alone = prepare_run(train_config(**tiny_config | {"epochs": 1, "run": "alone"}))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    launch([alone])
    assert (alone.folder / "oof.parquet").read_bytes() == (runs[0].folder / "oof.parquet").read_bytes()
    with pytest.raises(KitError, match="jobs=0 is too small"):
        launch(runs, jobs=0)


LAUNCHED = {
    "torchrun": "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE GROUP_RANK ROLE_RANK ROLE_NAME ROLE_WORLD_SIZE "
    "GROUP_WORLD_SIZE MASTER_ADDR MASTER_PORT TORCHELASTIC_RUN_ID TORCHELASTIC_MAX_RESTARTS PET_NNODES NODE_RANK",
    "mpirun": "OMPI_COMM_WORLD_SIZE OMPI_COMM_WORLD_RANK PMI_SIZE PMI_RANK PMIX_RANK MV2_COMM_WORLD_SIZE MPI_RANKS",
    "accelerate": "ACCELERATE_USE_FSDP ACCELERATE_USE_DEEPSPEED ACCELERATE_DYNAMO_BACKEND FSDP_VERSION FORK_LAUNCHED "
    "ACCELERATE_MIXED_PRECISION ACCELERATE_TORCH_DEVICE PARALLELISM_CONFIG_TP_SIZE",
}
KEPT = {"CUDA_VISIBLE_DEVICES", "NCCL_SOCKET_IFNAME", "HF_HOME", "ACCELERATE_USE_CPU", "RANKING", "SLURM_JOB_ID"}


@pytest.mark.parametrize("launcher", LAUNCHED)
def test_what_a_notebook_starts_takes_itself_for_no_part_of_another_training(root, monkeypatch, launcher):
    from kit.training import launch

    for name in [*LAUNCHED[launcher].split(), *KEPT]:
        monkeypatch.setenv(name, "1")
    environment = launch._Crew(1, 1, True).environment
    assert not set(LAUNCHED[launcher].split()) & set(environment)
    assert set(environment) >= KEPT
    assert environment["KIT_ROOT"] == str(root)


@pytest.fixture
def unmet(monkeypatch):
    """A process that has not met any other yet, with nothing about others in its environment."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "KIT_LAUNCHER"):
        monkeypatch.setenv(name, "")  # so that what Accelerate sets goes again
        monkeypatch.delenv(name)
    monkeypatch.setattr(PartialState, "_shared_state", {})
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"WORLD_SIZE": "2"}, "of 2 processes, this one has RANK="),
        ({"WORLD_SIZE": "two"}, "two"),
        ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "localhost"}, "of 2 processes, this one has RANK=2"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "of 4 processes, this one has RANK="),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, "MASTER_ADDR"),
        ({"LOCAL_RANK": "0"}, "expected, but not set"),
    ],
)
def test_an_environment_that_names_others_but_not_how_to_meet_is_refused(
    unmet, monkeypatch, capsys, environment, reason
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["runs/x/config.json"]) == 1
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert sentence.startswith("KitError: The environment says that several processes train together, but not how they")
    assert reason in sentence and "accelerate launch, or unset RANK, LOCAL_RANK, WORLD_SIZE" in sentence


def test_who_waits_for_others_says_so_first_and_can_be_stopped(unmet, monkeypatch, capsys):
    environment = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "host", "MASTER_PORT": "7"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    usual = signal.getsignal(signal.SIGINT)

    def waiting(cpu, timeout):
        assert capsys.readouterr().out == "Process 1 is waiting for 2 processes at host:7\n"
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL  # Python's own would wait for the others too
        raise RuntimeError("nobody came")

    monkeypatch.setattr(kit.train, "PartialState", waiting)
    with pytest.raises(KitError, match="nobody came"):
        meet()
    assert signal.getsignal(signal.SIGINT) == usual


def test_a_log_is_touched_when_its_run_is_held_and_not_before(root, tiny_config, monkeypatch, capsys):
    monkeypatch.setattr("kit.runs.PATIENCE", 0)
    runs = [prepare_run(train_config(**tiny_config, run=name)) for name in "ab"]
    for run in runs:
        (run.folder / "train.log").write_text("of another\n")

    def logs() -> list[str]:
        return [(run.folder / "train.log").read_text(encoding="utf-8") for run in runs]

    with runs[0].alone():
        assert main([str(runs[0].folder / "config.json")]) == AT_WORK
        busy = died(runs[0], AT_WORK, capsys.readouterr().err)
    assert "The run 'a' is at work in another process: wait for it" in busy["sentence"]
    assert logs() == ["of another\n"] * 2 and not read_status(runs[0]) and not read_error(runs[0])
    teller = Teller()
    with teller.listening():
        print("warning")
        with runs[0].alone(), teller.telling(runs[0]):
            print("── a")
            print("epoch")
        print("KitError: b: The run 'b' is at work in another process: wait for it.", file=sys.stderr)
    assert logs() == ["of another\nwarning\n── a\nepoch\n", "of another\n"]


def test_what_a_training_said_that_died_at_once_is_kept(root, tiny_config, monkeypatch):
    monkeypatch.setattr("kit.runs.PATIENCE", 0)
    run = prepare_run(train_config(**tiny_config, run="run"))
    with run.alone():
        assert "at work in another process" in died(run, 1, "ImportError: no torch\n")["sentence"]
    assert not (run.folder / "train.log").exists()
    assert "stopped with exit status 1 (ImportError: no torch): " in died(run, 1, "ImportError: no torch\n")["sentence"]
    assert (run.folder / "train.log").read_text() == "ImportError: no torch\n"


@pytest.mark.parametrize("system", ["coattention", "tfidf"])
def test_a_run_that_another_process_finished_meanwhile_is_not_trained_again(
    root, tiny_config, monkeypatch, capsys, system
):
    """The other has the folder while this one waits for it."""
    run = prepare_run(train_config(**tiny_config | {"epochs": 1, "system": system}, run="run"))
    config, alone, before = str(run.folder / "config.json"), Run.alone, []

    def files() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in run.folder.iterdir() if path.name != ".lock"}

    @contextlib.contextmanager
    def wait(held):
        if not before:
            before.append({})
            assert main([config]) == 0  # the other
            before.append(files())
        with alone(held):
            yield

    monkeypatch.setattr(Run, "alone", wait)
    assert main([config]) == 0
    assert "run is finished already" in capsys.readouterr().out
    assert files() == before[1]


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("what", ["config.json", ""])
def test_an_ensembles_folder_is_not_trained(root, capsys, finished, what):
    run = prepare_run(EnsembleConfig("both", ("a", "b"), "data/shop"))
    if finished:
        write_json(run.folder / "summary.json", {"macro_f1": 0.5})
    before = {path: path.read_bytes() for path in run.folder.iterdir()}
    assert main([str(run.folder / what)]) == 1
    assert re.fullmatch(r"\s*KitError: both: .*/both is an ensemble's: 05_ensemble .*\.\n", capsys.readouterr().err)
    assert {path: path.read_bytes() for path in run.folder.iterdir()} == before


@pytest.mark.parametrize(
    "error",
    [
        "DataLoader timed out after 1800 seconds",
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
        "shared memory. Please try to raise your shared memory limit.",
        "DataLoader worker (pid(s) 7, 8) exited unexpectedly",
    ],
)
def test_readers_that_died_end_in_a_sentence(root, tiny_config, monkeypatch, error):
    def lost(*_):
        raise RuntimeError(error)

    monkeypatch.setattr(kit.training.run_trainer, "_train", lost)
    with pytest.raises(KitError, match=r"that read images failed \(DataLoader .*: start the container with --shm-size"):
        train(prepare_run(train_config(**tiny_config, run="run")))


def test_a_run_out_of_memory_on_several_processes_starts_anew(root, tiny_config, monkeypatch):
    """One of them can't make the others' batches smaller: it says so in config.json, and ends."""
    from kit.training import launch

    run, asked = prepare_run(train_config(**tiny_config, run="run")), []

    def start(crew, runs, devices):
        asked.append(runs[0].config.accumulate)
        if asked[-1] < 4:
            write_json(run.folder / "config.json", dataclasses.asdict(run.config) | {"accumulate": 2 * asked[-1]})
        return 0, {"run": {"kind": "memory", "sentence": "Memory ran out"}}

    monkeypatch.setattr(launch._Crew, "_start", start)
    with pytest.raises(KitError, match="Memory ran out"):
        launch.launch([run], processes=2)
    assert asked == [1, 2, 4]


@pytest.mark.parametrize(("gpus", "count"), [(0, 1), (1, 1), (3, 2), (4, 4), (6, 4)])
def test_as_many_processes_as_can_share_a_batch(root, tiny_config, monkeypatch, capsys, gpus, count):
    from kit.training import launch

    run, asked = prepare_run(train_config(**tiny_config | {"batch_size": 8, "accumulate": 2}, run="run")), []
    monkeypatch.setattr(launch, "available_gpus", lambda: gpus)
    monkeypatch.setattr(launch._Crew, "_start", lambda crew, runs, devices: asked.append(crew.count) or (0, {}))
    with pytest.raises(KitError):
        launch.launch([run])
    assert asked == [count]
    assert ("batches of [4] items cannot be divided by more" in capsys.readouterr().out) == (count < gpus)


@pytest.mark.parametrize(
    ("gpus", "visible", "jobs", "expected"),
    [
        (4, "", 2, [("0,2", 2), ("1,3", 2)]),
        (3, "GPU-a,GPU-b,GPU-c,-1", 2, [("GPU-a,GPU-c", 1), ("GPU-b", 1)]),
        (1, "", 2, [("0", 1), ("0", 1)]),
        (2, "5,7", 1, [("5,7", 2)]),
        (0, "", 2, [("", 1), ("", 1)]),
    ],
)
def test_runs_that_train_at_once_share_out_the_gpus(root, tiny_config, monkeypatch, gpus, visible, jobs, expected):
    from kit.training import launch

    runs, asked = [prepare_run(train_config(**tiny_config | {"batch_size": 4}, run=name)) for name in "ab"[:jobs]], []

    class Started(contextlib.nullcontext):
        returncode = 1

        def __init__(self, command, env, **_):
            super().__init__(self)
            folder = Path(command[-1]).parent
            settings = folder / "accelerate.json"
            count = json.loads(settings.read_text())["num_processes"] if str(settings) in command else 1
            asked.append((folder.name, env["CUDA_VISIBLE_DEVICES"], count))

        def poll(self) -> int:
            return self.returncode

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(launch, "available_gpus", lambda: gpus)
    monkeypatch.setattr(launch.subprocess, "Popen", Started)
    with pytest.raises(KitError, match="exit status 1"):
        launch.launch(runs, jobs=jobs)
    assert sorted(asked) == [(run.name, *one) for run, one in zip(runs, expected, strict=True)]
    if gpus:
        with pytest.raises(KitError, match=f"is impossible: there are {gpus} GPUs here{' for 2 runs' * (jobs > 1)}"):
            launch.launch(runs, gpus // jobs + 1 + (gpus == 1), jobs)


def test_light_runs_get_one_process_and_all_threads(root, tiny_config, monkeypatch, capsys):
    from kit.training import launch

    light = prepare_run(train_config(**tiny_config, system="neighbours", run="light"))
    run, asked = prepare_run(train_config(**tiny_config, run="run")), []
    monkeypatch.setattr(launch, "available_gpus", lambda: 2)
    monkeypatch.setattr(launch, "available_threads", lambda: 4)
    monkeypatch.setattr(
        launch._Crew,
        "_start",
        lambda crew, runs, devices: (
            asked.append((crew.count, crew.environment["OMP_NUM_THREADS"])) or (len(runs) - 1, {})
        ),
    )
    for runs in ([light], [light, run]):
        with pytest.raises(KitError):
            launch.launch(runs)
    assert asked[0] == (1, "4") and asked[-1] == (2, "2")
    assert "Using" not in capsys.readouterr().out


def test_a_stopped_run_keeps_the_others_from_starting(root, tiny_config, monkeypatch):
    from kit.training import launch

    runs, asked = [prepare_run(train_config(**tiny_config, run=name)) for name in "abc"], []

    def start(crew, runs, devices):
        asked.append([run.name for run in runs])
        sentence = "The training was stopped after 5 minutes, as max_minutes says; the same command goes on."
        return 0, {"a": {"kind": "stopped", "sentence": sentence}}

    monkeypatch.setattr(launch._Crew, "_start", start)
    with pytest.raises(KitError, match="stopped after 5 minutes"):
        launch.launch(runs)
    assert asked == [["a", "b", "c"]]


def test_a_finished_run_is_left_alone_by_the_shell_too(run, capsys):
    before = {path.name: path.stat().st_mtime_ns for path in run.folder.iterdir()}
    assert main([str(run.folder / "config.json")]) == 0
    assert "tiny is finished already" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in run.folder.iterdir()} == before


@pytest.mark.parametrize(
    "changes", [{"freeze_text": True, "freeze_image": True, "linear_start": True}, {"accumulate": 2}]
)
def test_other_ways_to_train(root, tiny_config, changes):
    result = prepare_run(train_config(**tiny_config | changes, run="other"))
    train(result)
    assert result.finished
    assert np.isfinite(result.metrics["loss"]).all()


def test_two_learning_rates(tiny_config):
    config = train_config(**tiny_config)
    model = build_model(config, 3, find_backbones(config), config.sides)
    groups = parameter_groups(model, config)
    assert [group["lr"] for group in groups] == [pytest.approx(0.001), pytest.approx(0.01)]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert {id(p) for p in groups[1]["params"]} == {id(p) for p in model.head.parameters()}


def test_a_finished_run_is_kept_and_another_configuration_refused(run, tiny_config):
    before = (run.folder / "oof.parquet").stat().st_mtime_ns
    assert prepare_run(train_config(**tiny_config, run="tiny")).finished
    assert (run.folder / "oof.parquet").stat().st_mtime_ns == before
    changed = train_config(**tiny_config | {"epochs": 1}, run="tiny")
    with pytest.raises(KitError, match=r"epochs \(2 → 1\).*-p run.*-p again True"):
        prepare_run(changed)
    assert not prepare_run(changed, again=True).finished
    with pytest.raises(KitError, match="'tiny' is not finished"):
        find_run("tiny")


@pytest.mark.parametrize(
    ("name", "content", "read"),
    [
        ("summary.json", b"{}", lambda run: str(run)),
        ("config.json", b'{"members": ["a", "b"]}', lambda run: open_run(run.name).config),
        ("metrics.csv", b"", lambda run: run.metrics),
        ("metrics.csv", b"\xff\xfe", lambda run: run.metrics),
        ("test.parquet", b"PAR1", lambda run: run.predictions("test")),
    ],
)
def test_a_damaged_file_is_named(run, name, content, read):
    (run.folder / name).write_bytes(content)
    with pytest.raises(KitError, match=rf"{name} .*: train the run again, with -p again True\.$"):
        read(run)


def test_where_there_is_no_run_none_is_made(root, capsys):
    assert main([str(root / "runs" / "nope" / "config.json")]) == 1
    assert "nope/config.json cannot be read" in capsys.readouterr().err
    assert not (root / "runs").exists()


@pytest.mark.parametrize("change", [{"p_x": 1.0}, {"p_10": "much"}, {"drop": "id"}, {"drop": "label"}])
def test_predictions_of_another_form_are_refused(run, change):
    path = run.folder / "oof.parquet"
    frame = pd.read_parquet(path)
    frame = frame.drop(columns=change["drop"]) if "drop" in change else frame.assign(**change)
    frame.to_parquet(path)
    if "p_x" in change:
        assert run.predictions("oof")[1] == [10, 40, 2705]  # no class, and no harm
        return
    with pytest.raises(KitError, match=r"oof\.parquet"):
        run.predictions("oof")


def test_a_bit_that_flips_in_the_predictions_is_noticed(run):
    path = run.folder / "oof.parquet"
    content, values = path.read_bytes(), run.predictions("oof")[2]
    place = content.index(values[:4, -1].tobytes())
    path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
    with pytest.raises(KitError, match=r"oof.parquet cannot be read \("):
        run.predictions("oof")


def test_a_folder_removed_meanwhile_is_not_made_again(root, tiny_config, monkeypatch):
    run = prepare_run(train_config(**tiny_config, run="gone"))
    predict = kit.training.fold_trainer.predict
    monkeypatch.setattr(
        kit.training.fold_trainer, "predict", lambda *a: (shutil.rmtree(run.folder, True), predict(*a))[1]
    )
    with pytest.raises(KitError, match="gone was removed or emptied during the run"):
        train(run)
    assert not run.finished


def test_images_that_change_meanwhile_are_noticed(root, tiny_config, tiny_data, tmp_path, monkeypatch):
    shutil.copytree(tiny_data, folder := tmp_path / "data")
    first, second, *_ = sorted((folder / "images" / "image_train").iterdir())
    run = prepare_run(train_config(**tiny_config | {"data": str(folder), "images_gb": 0.0}, run="run"))
    predict = kit.training.fold_trainer.predict
    monkeypatch.setattr(
        kit.training.fold_trainer, "predict", lambda *a: (shutil.copyfile(second, first), predict(*a))[1]
    )
    with pytest.raises(KitError, match=r"changed since it was begun \(images\)"):
        train(run)
    assert not run.finished


def test_a_precision_that_the_device_lacks_is_refused_in_a_sentence(root, tiny_config):
    with pytest.raises(KitError, match="precision='fp16' is not supported on this device"):
        train(prepare_run(train_config(**tiny_config | {"precision": "fp16"}, run="half")))


def test_runs_are_found(root, run):
    assert [found.name for found in list_runs()] == ["tiny"]
    assert find_run().name == "tiny"
    with pytest.raises(KitError, match=r"no run 'other' .* Finished runs, the newest first: tiny"):
        find_run("other")
    with pytest.raises(KitError, match="must be a folder name"):
        find_run("a" * 300)


def test_no_run_yet(root):
    with pytest.raises(KitError, match=r"no finished run .* 03_train"):
        find_run()


def test_a_catalogue_without_any_image_does_not_train_on_white_ones(root, tmp_path):
    data = catalogue(tmp_path, "text", "image")
    for path in tmp_path.glob("*.png"):
        path.unlink()
    config = train_config(run="white", data=data, recipe="demo", system="image", missing="blank")
    with pytest.raises(KitError, match=r"None of the 36 training items of .* has a readable image"):
        report_blank_images(prepare_run(config), read_items(config)[1])


def test_a_broken_image_is_named_whoever_reads_it(root, tiny_config, tiny_data, tmp_path, capsys):
    folder = tmp_path / "broken"
    shutil.copytree(tiny_data, folder)
    image = next((folder / "images" / "image_train").iterdir())
    image.write_bytes(image.read_bytes()[:100])
    for workers in (0, 1):
        changes = {"data": str(folder), "workers": workers, "run": f"w{workers}"}
        result = prepare_run(train_config(**tiny_config | changes))
        assert main([str(result.folder / "config.json")]) == 1
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith(f"KitError: w{workers}: 1 of the 43 images can't be read: {image} (")
        assert not result.finished


def test_the_command_line(root, tiny_config):
    result = prepare_run(train_config(**tiny_config | {"epochs": 1}, run="shell"))
    command = [sys.executable, "-m", "kit.train", str(result.folder / "config.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert result.finished
    result.clear()
    (result.folder / "config.json").write_text(json.dumps({"colour": 1}))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "unknown field colour" in done.stderr
    assert "Traceback" not in done.stderr


def test_batches_have_every_item_once_and_like_lengths_together():
    lengths = np.random.default_rng(0).integers(1, 200, 1003).tolist()
    sampler = LengthBatches(lengths, 16, shuffle=True, seed=1)
    first, again = list(sampler), list(sampler)
    assert first == again
    assert sorted(chain(*first)) == list(range(1003))
    assert len(first) == len(sampler)
    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in first)
    assert padded < 1.1 * sum(lengths)
    sampler.set_epoch(1)
    assert list(sampler) != first
    ordered = list(chain(*LengthBatches(lengths, 16, shuffle=False)))
    assert [lengths[i] for i in ordered] == sorted(lengths, reverse=True)


@pytest.mark.parametrize(
    ("items", "batch", "accumulate"), [(1003, 16, 1), (763, 32, 1), (763, 8, 4), (97, 16, 1), (43, 16, 2)]
)
def test_the_short_last_step_is_a_random_choice_of_items(items, batch, accumulate):
    lengths = np.random.default_rng(0).permutation(items)  # an item's length says how many are shorter
    sampler, step, places, seen = (
        LengthBatches(lengths, batch, True, 1, accumulate=accumulate),
        batch * accumulate,
        [],
        set(),
    )
    for epoch in range(300):
        sampler.set_epoch(epoch)
        order = list(chain(*sampler))
        assert sorted(order) == list(range(items))
        last = order[items // step * step :]
        places.append(np.mean(lengths[last]) / (items - 1))
        seen |= set(last)
        sampler.start = 1
        assert list(chain(*sampler)) == order[step:]
        sampler.start = 0
    assert np.mean(places) == pytest.approx(0.5, abs=0.05)
    assert len(seen) > 0.9 * items


@pytest.mark.parametrize("items", [7, 64, 97, 1003])
def test_a_step_has_the_same_items_however_it_is_cut(items):
    lengths, steps = np.random.default_rng(0).integers(1, 200, items), {}
    for accumulate in (1, 2, 4, 16):
        order = list(chain(*LengthBatches(lengths, 16 // accumulate, True, 3, accumulate=accumulate)))
        steps[accumulate] = [sorted(order[i : i + 16]) for i in range(0, items, 16)]
    assert all(found == steps[1] for found in steps.values())


def test_the_split_is_stratified_and_repeatable():
    labels = pd.Series([1] * 60 + [2] * 30 + [3] * 10)
    mask = holdout(labels, 0.2, 0)
    assert mask.sum() == 20
    assert labels[mask].value_counts().to_dict() == {1: 12, 2: 6, 3: 2}
    assert (mask == holdout(labels, 0.2, 0)).all()
    assert (mask != holdout(labels, 0.2, 1)).any()
    half = stratified_sample(labels, 50, 0)
    assert labels[half].value_counts().to_dict() == {1: 30, 2: 15, 3: 5}
    assert set(labels[stratified_sample(labels, 99, 0)]) == set(labels[stratified_sample(labels, 6, 0)]) == {1, 2, 3}
    with pytest.raises(KitError, match="limit=5 is too small for 3 classes"):
        stratified_sample(labels, 5, 0)
    assert len(stratified_sample(labels, 0, 0)) == len(stratified_sample(labels, 500, 0)) == 100


@pytest.mark.parametrize(
    ("labels", "share", "sentence"),
    [
        ([1] * 10, 0.2, "of one class"),
        ([1] * 10 + [2], 0.2, "Class 2 has only one training item"),
        ([1, 1, 2, 2, 3, 3], 0.2, "6 training items are too few for 3 classes"),
    ],
)
def test_impossible_splits_are_refused(labels, share, sentence):
    with pytest.raises(KitError, match=sentence):
        holdout(pd.Series(labels), share, 0)


def test_every_coattention_run_measures_its_attention(root, tiny_config):
    still = {"linear_start": True, "freeze_text": True, "freeze_image": True, "lr": 0.0, "folds": 2, "keep": "last"}
    changes = {"still": still, "trained": {}, "text": {"attention": "text"}, "concat": {"system": "concat"}}
    measured = {}
    for name, change in changes.items():
        train(result := prepare_run(train_config(**tiny_config | {"epochs": 1} | change, run=name)))
        measured[name] = result.summary.get("attention")
    assert measured["still"]["items"] == 36 and measured["trained"]["items"] == 7
    for side in ("text", "image"):
        assert measured["still"][side] == pytest.approx({"variation": 0, "entropy": 1, "changed": 0, "macro_f1": 0})
        assert 0 < measured["trained"][side]["variation"] < 1 and 0 < measured["trained"][side]["entropy"] < 1
    assert set(measured["trained"]) == {"items", "text", "image", "both"}
    assert set(measured["text"]) == {"items", "text"}  # the classifier does not see the other side
    assert measured["concat"] is None


def test_measures_of_attention_are_means_over_items_and_folds():
    labels = np.array([0, 1, 2, 0])
    learned, even = np.eye(3)[labels], np.eye(3)[[0, 1, 2, 1]]
    logits = np.stack([learned, even, learned, even], axis=1)  # [4, 4, 3]
    spread = np.array([[[0.1, 0.9], [0.0, 1.0]], [[0.3, 0.7], [0.0, 1.0]]] * 2)
    found = measure_attention(train_config(), logits, spread, labels)
    lost = macro_f1(labels, np.array([0, 1, 2, 1])) - 1
    assert found["text"] == pytest.approx({"variation": 0.2, "entropy": 0.8, "changed": 0.25, "macro_f1": lost})
    assert found["image"] == pytest.approx({"variation": 0, "entropy": 1, "changed": 0, "macro_f1": 0})
    assert found["both"] == pytest.approx({"changed": 0.25, "macro_f1": lost})
    other = found | {"items": 2, "both": {"changed": 0.75, "macro_f1": 0.0}}
    assert average_folds([found, other])["both"] == pytest.approx({"changed": 0.5, "macro_f1": lost / 2})
    assert average_folds([found, other])["items"] == 6


def test_two_processes_see_every_item_once_and_predict_all(root, tiny_config, monkeypatch):
    """Two processes (gloo), and steps cut into four batches, learn what one process does with whole steps: 29 items in
    steps of 8, so that the last is shared unevenly. Gathered predictions have every id once, in order."""
    from kit.training.launch import launch

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    same = tiny_config | {"text": no_dropout(tiny_config["text"], root), "dropout": 0.0, "freeze_image": True}
    same |= {"class_weights": 1.0, "modality_dropout": 0.3, "schedule": "cosine", "warmup": 0.2, "keep": "soup"}
    runs = {name: prepare_run(train_config(**same, run=name)) for name in ("one", "two", "cut")}
    launch([runs["two"]], processes=2)
    train(runs["one"])
    write_json(runs["cut"].folder / "config.json", dataclasses.asdict(runs["cut"].config) | {"accumulate": 4})
    train(runs["cut"])
    assert [run.summary["processes"] for run in runs.values()] == [1, 2, 1]
    for name in ("two", "cut"):
        for part in ("oof", "test"):
            frame, _, values = runs[name].predictions(part)
            expected, _, wanted = runs["one"].predictions(part)
            assert frame.equals(expected)
            assert np.allclose(values, wanted, atol=1e-5)
        wanted = runs["one"].summary["attention"]
        for side in ("text", "image", "both"):
            assert runs[name].summary["attention"][side] == pytest.approx(wanted[side], abs=1e-5)
        assert runs[name].summary["attention"]["items"] == wanted["items"] == 7
        losses = [run.metrics[["train_loss", "loss"]].to_numpy() for run in (runs["one"], runs[name])]
        assert np.allclose(*losses, atol=1e-5)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_class_weights_make_up_for_rare_classes(power):
    labels = np.repeat([0, 1, 2], [6, 3, 1])
    weights = class_weights(labels, 4, power)[:3]
    assert np.isclose(weights[labels].mean(), 1)
    assert np.allclose(weights / weights[0], [1, 2**power, 6**power])


def test_the_loss_of_an_item_counts_as_much_as_its_class(root, tiny_config, monkeypatch):
    """With weights that add up to one, two losses add up to the plain one."""
    still = tiny_config | {"text": no_dropout(tiny_config["text"], root), "dropout": 0.0, "lr": 0.0, "epochs": 1}
    still |= {"freeze_text": True, "freeze_image": True, "label_smoothing": 0.1}
    losses = []
    for number, weights in enumerate([None, [1.0, 0.7, 0.2], [0.0, 0.3, 0.8]]):
        monkeypatch.setattr(kit.training.fold_trainer, "class_weights", lambda *_, w=weights: torch.tensor(w))
        run = prepare_run(train_config(**still, class_weights=float(weights is not None), run=f"w{number}"))
        train(run)
        losses.append(run.metrics["train_loss"].item())
    assert losses[0] == pytest.approx(losses[1] + losses[2], abs=1e-5)


def test_each_training_image_changes_in_its_own_way_at_every_epoch(root, tiny_config, monkeypatch):
    """The same however the items of a step are shared; items that validate are only mirrored."""
    drawn = {}
    for accumulate in (1, 4):
        seen = drawn[accumulate] = []
        monkeypatch.setattr(
            kit.data.augment, "augment", lambda pixels, seeds, seen=seen: (seen.extend(seeds), pixels)[1]
        )
        train(prepare_run(train_config(**tiny_config, augment=True, accumulate=accumulate, run=f"cut{accumulate}")))
        assert len(seen) == len(set(seen)) == 2 * 29
    assert set(drawn[1]) == set(drawn[4])


def test_one_side_of_some_training_items_is_left_out_and_of_predicted_ones_what_they_lack(
    root, tiny_config, tiny_data, tmp_path, monkeypatch
):
    folder = tmp_path / "blank"
    shutil.copytree(tiny_data, folder)
    for image in sorted((folder / "images" / "image_train").iterdir())[:6]:
        image.unlink()
    forward, seen = Classifier.forward, []
    monkeypatch.setattr(
        Classifier,
        "forward",
        lambda model, batch, **how: (how or seen.append((model, batch)), forward(model, batch, **how))[1],
    )
    drawn = []
    for accumulate in (1, 4):
        seen.clear()
        changes = {"data": str(folder), "missing": "blank", "epochs": 8, "modality_dropout": 0.3, "keep": "last"}
        changes |= {"freeze_text": True, "freeze_image": True, "curve": False, "linear_start": True}
        train(prepare_run(train_config(**tiny_config | changes, accumulate=accumulate, run=f"cut{accumulate}")))
        rows, missing = (torch.cat([batch[key] for _, batch in seen if "label" in batch]) for key in ("row", "missing"))
        learned, predicted = missing[: 8 * 29], missing[8 * 29 :]
        assert not learned.all(1).any()  # one side is always left
        assert 0.1 < learned[:, 0].float().mean() < 0.25
        assert predicted[:, 1].any() and not predicted[:, 0].any()
        lacks = [learned[rows[: 8 * 29] == row][:, 1] for row in range(29)]
        assert 6 - int(predicted[:, 1].sum()) == sum(bool(item.all()) for item in lacks)  # blank in every epoch
        drawn.append({(row.item(), *pair.tolist()) for row, pair in zip(rows, missing, strict=True)})
    assert drawn[0] == drawn[1]


RATES = {  # of the six steps of two epochs, as shares of lr
    "the paper's": ({}, [1, 1, 1, 0.9, 0.9, 0.9]),
    "cosine": ({"schedule": "cosine"}, [1, 0.933, 0.75, 0.5, 0.25, 0.067]),
    "warm-up": ({"lr_decay": 1.0, "warmup": 0.5}, [0.25, 0.5, 0.75, 1, 1, 1]),
    "both": ({"schedule": "cosine", "warmup": 1 / 6}, [0.5, 0.933, 0.75, 0.5, 0.25, 0.067]),
}


@pytest.mark.parametrize("name", RATES)
def test_both_learning_rates_follow_the_schedule(name, root, tiny_config, monkeypatch):
    changes, wanted = RATES[name]
    rates, update = [], FoldTrainer.update

    def watched(trainer):
        rates.append([group["lr"] for group in trainer.optimizer.param_groups])
        update(trainer)

    monkeypatch.setattr(FoldTrainer, "update", watched)
    config = train_config(**tiny_config | {"batch_size": 10, "curve": False, "keep": "last"} | changes, run="rates")
    train(prepare_run(config))
    shares = np.array(rates) / [config.lr * config.backbone_lr_scale, config.lr]
    assert np.allclose(shares, np.array(wanted)[:, None], atol=1e-3)


def no_dropout(text: str, folder: Path) -> str:
    """The text backbone at `text` with nothing left to chance: each process would have chances of its own."""
    shutil.copytree(text, folder / "text")
    config = json.loads((folder / "text" / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "text" / "config.json").write_text(json.dumps(config))
    return str(folder / "text")


@pytest.mark.parametrize("items", [64, 100, 97])
def test_processes_share_batches_without_loss(items):
    sampler = LengthBatches(np.random.default_rng(0).integers(1, 9, items).tolist(), 16, shuffle=True)
    shards = [BatchSamplerShard(sampler, 2, rank, split_batches=True, even_batches=True) for rank in range(2)]
    seen = [row for shard in shards for batch in shard for row in batch]
    assert set(seen) == set(range(items))
    assert len(seen) - items < 16


@pytest.mark.parametrize("system", ["coattention", "tfidf", "logistic", "neighbours"])
def test_a_folder_without_a_test_file_trains(root, tiny_config, tiny_data, tmp_path, system):
    folder = tmp_path / "no_test"
    shutil.copytree(tiny_data, folder)
    (folder / "X_test_update.csv").unlink()
    result = prepare_run(train_config(**tiny_config | {"data": str(folder), "epochs": 1, "system": system}, run="none"))
    assert main([str(result.folder / "config.json")]) == 0
    assert len(result.predictions("test")[0]) == 0


def test_batches_that_processes_cannot_share_are_refused(root, tiny_config, monkeypatch):
    result = prepare_run(train_config(**tiny_config | {"batch_size": 3}, run="odd"))
    monkeypatch.setattr("accelerate.Accelerator.num_processes", 2)
    with pytest.raises(KitError, match="3 items can't be shared by 2 processes: make batch_size a multiple of 2"):
        train(result)
