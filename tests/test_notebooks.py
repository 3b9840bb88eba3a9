"""Notebooks are clean, thin, agree with the configuration, and run on a tiny catalogue from anywhere."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest
from conftest import CODES
from papermill.exceptions import PapermillExecutionError

from kit.challenge import read_challenge
from kit.config import TrainConfig, parameter_types
from kit.study import ABLATIONS, BASELINES
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
        assert len(cell.source.splitlines()) <= (20 if "parameters" in cell.metadata.get("tags", []) else 12)
        loops = (ast.FunctionDef, ast.ClassDef, ast.For, ast.While)
        assert not any(isinstance(node, loops) for node in ast.walk(ast.parse(cell.source)))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameter_defaults_are_the_configurations(path):
    defaults = parameter_types(TrainConfig)
    for name, (annotation, value) in parameters(path).items():
        if name in defaults and path.stem == "03_train":
            assert annotation == defaults[name].__name__, name
            assert value is None or value == getattr(TrainConfig, name), name


TINY = {
    "image_size": 64, "max_tokens": 16, "batch_size": 8, "width": 16, "attention_width": 8, "classifier_width": 8,
    "epochs": 1, "workers": 0, "folds": 2, "features_gb": 1,
}  # fmt: skip


def story(root: Path, data: Path, texts: str, images: str, *more: str) -> subprocess.CompletedProcess:
    """`python -m kit.story` on tiny backbones, in a root of its own, from a folder that is not the project's."""
    options = [part for name, value in TINY.items() for part in ("-p", name, str(value))]
    command = [sys.executable, "-m", "kit.story", "--study", "tiny", "--data", str(data), "--texts", texts]
    command += ["--images", images, *options, *more]
    environment = os.environ | {"KIT_ROOT": str(root), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def told(tmp_path_factory, tiny_data, tiny_texts, tiny_image):
    """All notebooks in turn on the tiny catalogue; one of the members has a backbone that is not there."""
    root = tmp_path_factory.mktemp("project")
    answers = pd.DataFrame({"prdtypecode": [CODES[i % 3] for i in range(36, 43)]}, index=range(36, 43))
    answers.to_csv(root / "answers.csv")
    texts = f"{tiny_texts['bert']},{root / 'nowhere'},{tiny_texts['camembert']}"
    return root, story(root, tiny_data, texts, tiny_image, "--answers", str(root / "answers.csv"), "--jobs", "2")


def outputs(path: Path) -> list:
    return [output for cell in cells(path) for output in cell.outputs]


FIGURES = {"01_eda": 5, "02_baselines": 1, "04_ablations": 1, "05_ensemble": 1, "06_error_analysis": 4}


@pytest.mark.parametrize(("name", "figures"), FIGURES.items())
def test_executed_notebooks_are_reports(told, name, figures):
    root, _ = told
    found = outputs(root / "runs" / "tiny" / f"{name}.ipynb")
    assert sum("image/png" in output.get("data", {}) for output in found) == figures
    noise = [output.text for output in found if output.get("name") == "stderr"]
    assert not noise
    assert all("Warning" not in str(output) for output in found)


def test_the_story_goes_on_past_a_member_that_fails_and_says_so(told, tiny_data):
    root, done = told
    assert done.returncode == 1
    assert "FAILED tiny-nowhere-tiny_image" in done.stderr and "There is no directory" in done.stderr
    assert "Traceback" not in done.stderr
    assert "training steps left, at this pace: about" in done.stdout
    assert "6 of another kind, not timed yet" in done.stdout  # while baselines train: no member, no ablation
    finished = {run.parent.name for run in (root / "runs").glob("*/summary.json")}
    assert {f"tiny-baseline-{system}" for system in BASELINES} <= finished
    assert {f"tiny-{row}-s0" for row in ABLATIONS if row != "full"} <= finished
    ensembles = [name for name in finished if "ensemble" in name]
    assert ensembles
    (submitted,) = (root / "submissions").iterdir()
    assert submitted.name in ensembles
    (file,) = submitted.iterdir()
    assert "7 rows" in check_submission(file, read_challenge(tiny_data))


def test_the_report_stands_beside_the_paper_and_names_its_runs(told):
    root, _ = told
    report = (root / "runs" / "tiny" / "REPORT.md").read_text()
    for title in ("## Table 1", "## Table 2", "## Table 3", "## Table 4", "## Figure 2", "## Figure 5"):
        assert title in report
    for number in ("76.18", "6.81", "79.16"):  # the paper's
        assert number in report
    rows = [line for line in report.splitlines() if line.startswith("| runs/")]
    for line in rows:
        assert (root / line.split("|")[1].strip() / "summary.json").is_file()
    assert "Missing: tiny-nowhere" in report
    page = (root / "runs" / "tiny" / "REPORT.html").read_text()
    assert page.count("data:image/png;base64,") == 4


def test_the_story_again_trains_nothing(told, tiny_data, tiny_texts, tiny_image):
    root, _ = told
    before = {path: path.stat().st_mtime_ns for path in (root / "runs").glob("*/oof.parquet")}
    summary = root / "runs" / "tiny-baseline-dot" / "summary.json"
    usual = summary.read_text()
    content = json.loads(usual)
    summary.write_text(json.dumps(content | {"outline": content["outline"] | {"images": "others"}}))
    done = story(root, tiny_data, f"{tiny_texts['bert']},{tiny_texts['camembert']}", tiny_image)
    assert done.returncode == 1
    assert "data changed since the run 'tiny-baseline-dot' was trained (images)" in done.stderr
    summary.write_text(usual)
    done = story(root, tiny_data, f"{tiny_texts['bert']},{tiny_texts['camembert']}", tiny_image)
    assert done.returncode == 0, done.stderr
    assert "0 of them to do" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in (root / "runs").glob("*/oof.parquet")} == before
    assert "Missing" not in (root / "runs" / "tiny" / "REPORT.md").read_text()


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
