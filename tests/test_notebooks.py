"""Notebooks are clean, thin, agree with the configuration, and run on a tiny catalogue from anywhere."""

import ast
import atexit
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest
from conftest import CODES
from fakes import VALUES, catalogue, fake
from papermill.exceptions import PapermillExecutionError

from kit import cli, working_copies
from kit.config import TrainConfig, train_config
from kit.core.exceptions import KitError
from kit.data.challenge import read_challenge
from kit.notebook_parameters import parameter_types, read_parameters
from kit.runs import list_runs, open_run
from kit.stacking.stackers import METHODS
from kit.studies import pipeline
from kit.studies.pipeline import run_notebook
from kit.studies.study_runs import ABLATIONS, BASELINES, ablations, baselines, one_run
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


def tell(root: Path, data: Path, texts: str, images: str, *more: str) -> subprocess.CompletedProcess:
    """The whole study on tiny backbones, in a root of its own, from a folder that is not the project's."""
    options = [part for name, value in TINY.items() for part in ("-p", name, str(value))]
    command = [sys.executable, "-m", "kit", "paper", "--study", "tiny", "--data", str(data), "--texts", texts]
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
    return root, tell(root, tiny_data, texts, tiny_image, "--answers", str(root / "answers.csv"), "--jobs", "2")


def outputs(path: Path) -> list:
    return [output for cell in cells(path) for output in cell.outputs]


FIGURES = {"01_eda": 5, "02_baselines": 1, "04_ablations": 1, "05_ensemble": 2, "06_error_analysis": 4}


@pytest.mark.parametrize(("name", "figures"), FIGURES.items())
def test_executed_notebooks_are_reports(told, name, figures):
    root, _ = told
    found = outputs(root / "runs" / "tiny" / f"{name}.ipynb")
    assert sum("image/png" in output.get("data", {}) for output in found) == figures
    noise = [output.text for output in found if output.get("name") == "stderr"]
    assert not noise
    assert all(word not in str(output) for output in found for word in ("Warning", "%|", "widget-view"))


def test_the_story_goes_on_past_a_member_that_fails_and_says_so(told, tiny_data):
    root, done = told
    assert done.returncode == 1
    assert "FAILED tiny-nowhere-tiny_image" in done.stderr and "There is no directory" in done.stderr
    assert "Traceback" not in done.stderr
    assert re.search(r"report\.\n\d+ runs left: about .* \(estimated\)\.\n", done.stdout)  # before anything is trained
    assert re.search(r"s per step\n +\d+ runs left: about ", done.stdout)
    finished = {run.parent.name for run in (root / "runs").glob("*/summary.json")}
    assert {f"tiny-baseline-{system}" for system in (*BASELINES, "concat-finetuned", "coattention-frozen")} <= finished
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
    assert "with even attention" in report and "co-attention itself beats concat, both fine-tuned" in report
    shown = str(outputs(root / "runs" / "tiny" / "02_baselines.ipynb"))
    assert "What co-attention itself gains" in shown and "Nothing to compare" not in shown  # made beside the members
    for number in ("76.18", "6.81", "79.16"):  # the paper's
        assert number in report
    rows = [line for line in report.splitlines() if line.startswith("| runs/")]
    for line in rows:
        assert (root / line.split("|")[1].strip() / "summary.json").is_file()
    assert "Missing: tiny-nowhere" in report
    site = root / "runs" / "tiny" / "site"
    assert (site / "index.html").read_text().count("data:image/png;base64,") == 4
    notebooks = {path.name.partition("-")[0].removesuffix(".html") for path in site.glob("0*.html")}
    assert notebooks == {path.stem for path in NOTEBOOKS[1:]}  # a study needs no quick start
    assert len(list(site.glob("03_train-*.html"))) == 2


def test_the_story_again_trains_nothing(told, tiny_data, tiny_texts, tiny_image):
    root, _ = told
    before = {path: path.stat().st_mtime_ns for path in (root / "runs").glob("*/oof.parquet")}
    summary = root / "runs" / "tiny-baseline-dot" / "summary.json"
    usual = summary.read_text()
    content = json.loads(usual)
    summary.write_text(json.dumps(content | {"outline": content["outline"] | {"images": "others"}}))
    done = tell(root, tiny_data, f"{tiny_texts['bert']},{tiny_texts['camembert']}", tiny_image)
    assert done.returncode == 1
    assert "data changed since the run 'tiny-baseline-dot' was trained (images)" in done.stderr
    summary.write_text(usual)
    done = tell(root, tiny_data, f"{tiny_texts['bert']},{tiny_texts['camembert']}", tiny_image)
    assert done.returncode == 0, done.stderr
    assert "0 of them to do" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in (root / "runs").glob("*/oof.parquet")} == before
    assert "Missing" not in (root / "runs" / "tiny" / "REPORT.md").read_text()


def test_the_quick_start_ends_with_a_valid_submission(tmp_path, tiny_data, tiny_texts, tiny_image, monkeypatch):
    monkeypatch.setenv("KIT_ROOT", str(tmp_path))
    assert len(cells(NOTEBOOKS[0])) == 5
    names = {"data": str(tiny_data), "text": tiny_texts["bert"], "image": tiny_image}
    options = [part for name, value in names.items() for part in ("-p", name, value)]
    assert cli.main(["run", "00_quick_start", *options]) == 0
    found = outputs(tmp_path / "runs" / "quick" / "00_quick_start.ipynb")
    said = "".join(output.get("text", "") for output in found)
    assert "36 labelled items of 3 classes; 7 items to predict" in said
    assert re.search(r"macro-F1 \d+\.\d \[\d+\.\d, \d+\.\d\] per cent", said)
    assert "y_test_pred.csv is a valid challengedata submission of 7 rows" in said
    (page,) = (output["data"]["text/html"] for output in found if "text/html" in output.get("data", {}))
    assert page.count("<img alt=") == 3
    assert "stderr" not in {output.get("name") for output in found}


def test_a_catalogue_of_texts_with_a_class_of_one_item_is_explored(root):
    assert cli.main(["run", "01_eda", "-p", "data", catalogue(root, "text", alone=True)]) == 0
    (path,) = (root / "runs").glob("*/01_eda.ipynb")
    said = "".join(output.get("text", "") for output in outputs(path))
    assert "Training needs two items per class: alone has one" in said and "no validation item has a duplicate" in said


@pytest.mark.slow
def test_the_baselines_of_a_catalogue_of_texts_are_trained_and_shown(root, tiny_texts):
    names = {"data": catalogue(root, "text"), "text": tiny_texts["bert"], "recipe": "demo", "study": "s"}
    options = [part for name, value in (names | TINY).items() for part in ("-p", name, str(value))]
    assert cli.main(["run", "02_baselines", *options]) == 0
    assert {run.name for run in list_runs()} == {f"s-baseline-{row}" for row in ("text", "tfidf", "logistic_text")}
    assert (
        sum("image/png" in output.get("data", {}) for output in outputs(root / "runs" / "s" / "02_baselines.ipynb"))
        == 1
    )


REFUSALS = [
    ({"txet": "flaubert"}, "There is no parameter 'txet'. Did you mean text?"),
    ({"epochs": "two"}, "The parameter epochs='two' must be a whole number."),
    (
        {"text": "flaubert"},
        'hf download flaubert/flaubert_base_cased … and set text = "DIR"; or take what needs no network: '
        'text = "e5_small", image = "efficientnet_lite0", recipe = "demo"',
    ),
    ({"text": "flaubert", "data": "/no/where"}, "/no/where cannot be listed"),
]


@pytest.mark.parametrize(("values", "sentence"), REFUSALS)
def test_mistakes_end_in_one_sentence_before_anything_is_trained(values, sentence, tmp_path, monkeypatch):
    monkeypatch.setenv("KIT_ROOT", str(tmp_path))
    notebook = next(path for path in NOTEBOOKS if path.stem == "03_train")
    with pytest.raises(PapermillExecutionError) as error:
        papermill.execute_notebook(notebook, tmp_path / "out.ipynb", values, progress_bar=False)
    assert all(part in error.value.evalue for part in sentence.split(" … "))
    assert len(error.value.traceback) == 1
    assert not (tmp_path / "runs").exists()


# --- cells run more than once in one kernel


@pytest.fixture
def shell():
    """An IPython of its own in this process: a kernel, but for its sockets."""
    from IPython.core.history import HistoryManager
    from IPython.core.interactiveshell import InteractiveShell

    enabled, HistoryManager.enabled = HistoryManager.enabled, False  # nothing into the user's history
    shell = InteractiveShell()
    HistoryManager.enabled = enabled

    def run(*sources: str) -> dict:
        for source in sources:
            shell.run_cell(source, store_history=True).raise_error()
        return shell.user_ns

    yield run
    shell.restore_sys_module_state()
    atexit.unregister(shell.atexit_operations)


def check_cell(path: Path) -> str:
    """The cell after the parameters, as far as it reads them."""
    lines = cells(path)[1].source.splitlines()
    return "\n".join(lines[: next(i for i, line in enumerate(lines) if "read_parameters(globals()" in line) + 1])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_parameters_can_be_read_again_whatever_the_cells_below_have_left(path, shell):
    first, check = cells(path)[0].source, check_cell(path)
    usual = shell(first, check)["parameters"]
    assert usual == {name: value for name, (_, value) in parameters(path).items()}
    later = {node.id for cell in cells(path)[1:] for node in ast.walk(ast.parse(cell.source))
             if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}  # fmt: skip
    left = "\n".join(f"{name} = 0.5" for name in later - {"parameters"} - set(usual))
    assert shell(left, "scratch = 1; epoch = 'mine'", first, check)["parameters"] == usual  # all cells again
    assert shell(left, check)["parameters"] == usual
    name = "data" if "data" in usual else "study"
    changed = shell("\n".join(f"{line.split(' = ')[0]} = 'x'" if line.startswith(f"{name}:") else line
                              for line in first.splitlines()), check)  # fmt: skip
    assert changed["parameters"] == usual | {name: "x"}
    with pytest.raises(KitError, match="There is no parameter 'epoch'"):
        shell(first, "# Parameters\nepoch = 3\n", check)


def test_05_to_07_run_twice_in_one_kernel(shell, root, tiny_data, capsys, monkeypatch):
    """Nothing is trained: of two made up runs, an ensemble and a submission, then with another method."""

    import kit.studies.study_runs

    for method in ("network", "logistic"):
        monkeypatch.setitem(METHODS, method, METHODS["blend"])  # the fastest
    values = VALUES | {"data": str(tiny_data)}
    for seed, config in enumerate(kit.studies.study_runs.members(values, ["camembert", "flaubert"], ["resnet152"])):
        fake(config, 0.7, seed)
    for method in ("network", "blend"):
        for path in NOTEBOOKS[5:]:
            sources = [cell.source for cell in cells(path)]
            sources[0] = sources[0].replace('"paper"', '"s"', 1).replace('method: str = "best"', f'method = "{method}"')
            shell(*sources)
        assert (root / "submissions" / f"s-ensemble-all_2-{method}" / "y_test_pred.csv").is_file()
    assert "05_ensemble chose it" in capsys.readouterr().out


@pytest.mark.parametrize(("kind", "shown"), [("Busy", "'own'"), ("KeyError", "KeyError: 'own'")])
def test_a_cell_that_fails_says_why(kind, shown, root, monkeypatch):
    def fail(*_):
        raise PapermillExecutionError(1, 1, "table['own']", kind, "'own'", [])

    monkeypatch.setattr("kit.studies.pipeline._papermill", fail)
    with pytest.raises(KitError) as error:
        run_notebook("01_eda", [])
    assert str(error.value) == shown


# --- a notebook that somebody has edited


def test_a_notebook_that_is_cut_short_is_named(tmp_path, monkeypatch):
    notebook = next(path for path in NOTEBOOKS if path.stem == "01_eda")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / notebook.name).write_text(notebook.read_text()[:500])
    monkeypatch.setenv("KIT_PROJECT", str(tmp_path))
    with pytest.raises(KitError, match=r"01_eda.ipynb cannot be read .* restore it with git checkout notebooks"):
        run_notebook("01_eda", [])


def test_a_parameter_that_could_not_be_decoded_is_refused():
    with pytest.raises(KitError, match=r"data='caf.*' is not in this shell's encoding"):
        run_notebook("01_eda", [["data", "caf\udce9"]])


def planned(tiny_config: dict) -> tuple[dict, list[TrainConfig]]:
    given = {name: value for name, value in tiny_config.items() if name in TINY or name in ("data", "text", "image")}
    given |= {"recipe": "paper", "study": "s"}
    return given, [train_config(**given, run="s-member")]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_study_sets_every_parameter_that_a_notebook_has(path, tiny_config):
    given, configs = planned(tiny_config)
    values = pipeline.parameters(path.stem, given, configs)
    options = {"processes", "again", "jobs", "seeds", "matched"} | ({"run"} if path.stem[:2] in ("06", "07") else set())
    assert set(parameters(path)) - options <= set(values)
    for name, value in pipeline.SHIPPED.get(path.stem, {}).items():
        assert parameters(path)[name][1] == value


EDITS = [
    {"limit": 40, "epochs": 1},
    {"folds": 7, "split": "grouped", "seed": 5, "missing": "blank"},
    {"width": 8, "bilstm": False, "system": "concat", "run": "mine"},  # rows that the user has added
]


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("name", ["02_baselines", "03_train", "04_ablations"])
def test_what_is_edited_in_a_notebooks_first_cell_changes_no_study(
    name, edit, tiny_config, tmp_path, monkeypatch, root
):
    path = next(path for path in NOTEBOOKS if path.stem == name)
    notebook = nbformat.read(path, as_version=4)
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    cell.source += "".join(f"\n{name}: {type(value).__name__} = {value!r}" for name, value in edit.items())
    (tmp_path / "notebooks").mkdir()
    nbformat.write(notebook, tmp_path / "notebooks" / path.name)
    monkeypatch.setenv("KIT_PROJECT", str(tmp_path))
    given, configs = planned(tiny_config)
    given |= {"run": "s-member"} if name == "03_train" else {}
    injected = "# Parameters\n" + "".join(
        f"{n} = {v!r}\n" for n, v in pipeline.parameters(name, given, configs).items()
    )
    namespace = {"In": [cell.source, injected]}
    for source in namespace["In"]:
        exec(source, namespace)
    options = {"processes": int, "jobs": int, "seeds": int, "again": bool, "matched": bool}
    found = read_parameters(namespace, parameter_types(TrainConfig, **options))
    found = {name: value for name, value in found.items() if name not in options}
    if name == "03_train":
        assert one_run(found) == configs[0]
    else:
        assert {"02_baselines": baselines, "04_ablations": lambda v: ablations(v, 2)}[name](found) == (
            baselines(given) if name == "02_baselines" else ablations(given, 2)
        )


def test_a_run_that_a_notebook_made_otherwise_than_planned_is_refused(root):

    config = train_config(run="s-member", study="s")
    fake(train_config(run="s-member", study="s", limit=40, epochs=1), 0.9)
    with pytest.raises(
        KitError, match=r"03_train.ipynb left the run 's-member' with other settings \(limit \(40 → 0\), ep"
    ):
        pipeline._require_planned("03_train", [config])
    (open_run("s-member").folder / "summary.json").unlink()
    with pytest.raises(KitError, match="left the run 's-member' unfinished"):
        pipeline._require_planned("03_train", [config])


def test_a_study_refuses_runs_of_other_settings_before_it_trains(tiny_config, root, capsys):

    given, _ = planned(tiny_config)
    fake(baselines(given | {"limit": 30, "lr": 0.5})[1], 0.9)
    arguments = ["--study", "s", "--data", given["data"], "--texts", given["text"], "--images", given["image"]]
    arguments += [part for name, value in given.items() if name in TINY for part in ("-p", name, str(value))]
    assert cli.main(["paper", *arguments]) == 1
    said = capsys.readouterr().err
    assert (
        "The run 's-baseline-bilinear' exists with other settings than this study's (limit (30 → 0), lr (0.5 →" in said
    )
    assert [path.name for path in (root / "runs").iterdir()] == ["s-baseline-bilinear"]


# --- working copies


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    shipped, work = tmp_path / "notebooks", tmp_path / "work"
    shipped.mkdir()
    for name in ("01_eda", "03_train"):
        (shipped / f"{name}.ipynb").write_text(name)
    assert working_copies.copy_notebooks(shipped, work) == []
    return shipped, work


def test_jupyter_opens_copies_that_a_newer_version_never_overwrites(folders):
    shipped, work = folders
    edited, other = work / "03_train.ipynb", work / "01_eda.ipynb"
    edited.write_text("mine")
    assert working_copies.copy_notebooks(shipped, work) == []  # no newer one is there
    for path in shipped.iterdir():
        path.write_text("newer")
    for _ in range(2):
        (sentence,) = working_copies.copy_notebooks(shipped, work)
        assert str(edited) in sentence and "is newer: rename or remove yours" in sentence
        assert (edited.read_text(), other.read_text()) == ("mine", "newer")
    edited.unlink()
    assert working_copies.copy_notebooks(shipped, work) == [] and edited.read_text() == "newer"


def test_copies_without_a_record_are_taken_for_changed(folders):
    shipped, work = folders
    (work / ".shipped.json").unlink()
    (work / "01_eda.ipynb").write_text("mine")
    assert len(working_copies.copy_notebooks(shipped, work)) == 1
    with pytest.raises(KitError, match="has no notebooks"):
        working_copies.copy_notebooks(work / "none", work)


@pytest.mark.parametrize("user", [0, 1000])
def test_jupyter_reaches_the_whole_project_and_starts_in_containers(user, tmp_path, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: user)
    options = cli.parser().parse_args(["notebooks", "--no-browser", "--port", "8889"]).options
    assert options == ["--no-browser", "--port", "8889"]
    command = working_copies.command(tmp_path, ["--no-browser"])
    assert f"--ServerApp.root_dir={tmp_path}" in command and command[-1] == "--no-browser"
    assert ("--allow-root" in command) == (user == 0)
