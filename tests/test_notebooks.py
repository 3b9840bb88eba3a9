"""Notebooks are clean, thin, agree with the configuration, and run on a tiny catalogue from anywhere."""

import ast
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from kit.config import TrainConfig, parameter_types
from kit.runs import Run
from kit.submission import check_submission

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def cells(path: Path, kind: str = "code") -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def parameters(path: Path) -> dict:
    """Name → (annotation, default) of the tagged cell."""
    (cell,) = [cell for cell in cells(path) if "parameters" in cell.metadata.get("tags", [])]
    found = {}
    for node in ast.parse(cell.source).body:
        assert isinstance(node, ast.AnnAssign), f"{path.name}: a parameter has a type, a default and a comment"
        assert "  # " in cell.source.splitlines()[node.lineno - 1]
        found[node.target.id] = (node.annotation.id, ast.literal_eval(node.value))
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stripped_and_thin(path):
    nbformat.validate(nbformat.read(path, as_version=4))
    ids = [cell.id for cell in nbformat.read(path, as_version=4).cells]
    assert len(ids) == len(set(ids))
    for cell in cells(path):
        assert not cell.outputs
        assert cell.execution_count is None
        assert len(cell.source.splitlines()) <= 16
        loops = (ast.FunctionDef, ast.ClassDef, ast.For, ast.While)
        assert not any(isinstance(node, loops) for node in ast.walk(ast.parse(cell.source)))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameter_defaults_are_the_configurations(path):
    defaults = parameter_types(TrainConfig)
    for name, (annotation, value) in parameters(path).items():
        if name in defaults and path.stem == "03_train":
            assert annotation == defaults[name].__name__, name
            assert value is None or value == getattr(TrainConfig, name), name


@pytest.fixture(scope="module")
def told(tmp_path_factory, tiny_data, tiny_texts, tiny_image):
    """01, 03 and 07 executed one after the other on the tiny catalogue, from a folder that is not the project's."""
    root = tmp_path_factory.mktemp("project")
    patch = pytest.MonkeyPatch()
    patch.setenv("KIT_ROOT", str(root))
    patch.setenv("OMP_NUM_THREADS", "1")
    train = {"data": str(tiny_data), "text": tiny_texts["camembert"], "image": tiny_image, "run": "tiny", "epochs": 1}
    train |= {"image_size": 64, "max_tokens": 16, "batch_size": 8, "width": 16, "attention_width": 8, "workers": 0}
    values = {"01_eda": {"data": str(tiny_data), "items": 2}, "03_train": train, "07_submission": {}}
    for path in NOTEBOOKS:
        out = root / f"{path.stem}.ipynb"
        papermill.execute_notebook(path, out, values[path.stem], progress_bar=False, cwd=root)
    yield root
    patch.undo()


def outputs(path: Path) -> list:
    return [output for cell in cells(path) for output in cell.outputs]


@pytest.mark.parametrize(("name", "figures"), [("01_eda", 4), ("03_train", 1), ("07_submission", 0)])
def test_executed_notebooks_are_reports(told, name, figures):
    found = outputs(told / f"{name}.ipynb")
    assert sum("image/png" in output.get("data", {}) for output in found) == figures
    noise = [output.text for output in found if output.get("name") == "stderr"]
    assert not noise
    assert all("Warning" not in str(output) for output in found)


def test_the_run_is_shared_between_notebooks(told, tiny_data):
    run = Run(told / "runs" / "tiny")
    assert run.finished
    assert run.summary["epochs"] == 1
    (file,) = (told / "submissions" / "tiny").iterdir()
    assert file.name == "y_test_pred.csv"
    from kit.challenge import read_challenge

    assert "7 rows" in check_submission(file, read_challenge(tiny_data))
    text = "".join(output.get("text", "") for output in outputs(told / "03_train.ipynb"))
    assert "epoch  1/1 " in text


REFUSALS = [
    ({"txet": "flaubert"}, "There is no parameter 'txet'. Did you mean text?"),
    ({"epochs": "two"}, "The parameter epochs='two' must be a whole number."),
    ({"text": "flaubert"}, "hf download flaubert/flaubert_base_cased"),
]


@pytest.mark.parametrize(("values", "sentence"), REFUSALS)
def test_mistakes_end_in_one_sentence_before_anything_is_trained(values, sentence, tmp_path, monkeypatch):
    monkeypatch.setenv("KIT_ROOT", str(tmp_path))
    notebook = next(path for path in NOTEBOOKS if path.stem == "03_train")
    with pytest.raises(PapermillExecutionError) as error:
        papermill.execute_notebook(notebook, tmp_path / "out.ipynb", values, progress_bar=False)
    assert sentence in error.value.evalue
    assert len(error.value.traceback) == 1
    assert not (tmp_path / "runs").exists()


def test_papermill_makes_the_run_folder(tmp_path):
    """`papermill IN runs/new/OUT` works where runs/new does not exist."""
    command = [sys.executable, "-m", "papermill", str(NOTEBOOKS[0]), "runs/new/out.ipynb", "-p", "data", "/no/where"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "KitError: /no/where cannot be listed" in done.stderr
    assert (tmp_path / "runs" / "new" / "out.ipynb").is_file()
