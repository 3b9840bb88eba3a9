"""The documentation: its commands start something that exists, and its links, paths and names lead somewhere."""

import argparse
import ast
import dataclasses
import importlib.util
import pkgutil
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch
from accelerate.commands.launch import launch_command_parser
from papermill.cli import papermill

from kit import cli
from kit.config import PAIRS, SYSTEMS, EnsembleConfig, TrainConfig, train_config
from kit.core.exceptions import KitError
from kit.models import heads, registry
from kit.notebook_parameters import parameter_types
from kit.runs import open_run, prepare_run
from kit.stacking.stackers import Stacker, Tempered
from kit.training.run_trainer import train

PROJECT = Path(__file__).resolve().parents[1]
MANUAL = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md"))]
PAGES = [*MANUAL, *(PROJECT / folder / "README.md" for folder in ("data", "benchmarks", "submissions"))]
FIELDS = parameter_types(TrainConfig)
OTHERS = {
    "git",
    "cd",
    "cp",
    "mkdir",
    "pip",
    "pre-commit",
    "tensorboard",
}  # programs whose arguments are not ours to check
IN_PROJECT = re.compile(r"(?:kit|tests|docs|notebooks|benchmarks)/[\w./-]*")


def name_of(page: Path) -> str:
    return str(page.relative_to(PROJECT))


def blocks(page: Path, language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def commands(page: Path) -> list[str]:
    """The commands of the page's bash blocks, without comments, each on one line."""
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if shlex.split(line, comments=True)]


def inline(page: Path) -> list[str]:
    """What the page's text has in backticks."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text)


def parameters(notebook: str) -> set[str]:
    """What a notebook takes: the names of its parameters cell, and in one that trains all fields of a run."""
    path = PROJECT / "notebooks" / f"{notebook}.ipynb"
    assert path.is_file(), f"there is no notebook {notebook}"
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    (tagged,) = (cell for cell in cells if "parameters" in cell.metadata.get("tags", []))
    own = {node.target.id for node in ast.parse(tagged.source).body if isinstance(node, ast.AnnAssign)}
    return own | (set(FIELDS) if any("TrainConfig" in cell.source for cell in cells) else set())


def given(words: list[str]) -> dict[str, str]:
    """The parameters that `-p NAME VALUE` and `-r NAME VALUE` give."""
    return {words[i + 1]: words[i + 2] for i, word in enumerate(words) if word in ("-p", "-r")}


def check_values(values: dict[str, str], known: set[str]) -> None:
    """The names are known, and a run can have these values."""
    assert set(values) <= known
    read = {bool: lambda text: {"True": True, "False": False}[text]}
    ours = {name: read.get(FIELDS[name], FIELDS[name])(value) for name, value in values.items() if name in FIELDS}
    config = train_config(**ours)
    for side, names in {"text": registry.TEXT, "image": registry.IMAGE}.items():
        assert getattr(config, side) in names or getattr(config, side).startswith("/")


def check_kit(words: list[str]) -> None:
    try:
        options = cli.parser().parse_args(words[1:])
    except SystemExit:
        pytest.fail(f"kit refuses {words[1:]}")
    if words[1] == "run":
        check_values(given(words), parameters(words[2]))
    elif "p" in options:  # a study: any field of its runs
        check_values(given(words), {*FIELDS, "processes", "again"})


def check_make(words: list[str]) -> None:
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    settings = dict(word.split("=", 1) for word in words[1:] if "=" in word)
    for target in (word for word in words[1:] if "=" not in word):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"the Makefile has no target {target}"
    for variable in settings:
        assert f"$({variable})" in makefile, f"the Makefile has no variable {variable}"
    for target in {"paper", "best"} & set(words):
        options = shlex.split(settings.get("OPTIONS", ""))
        try:
            cli.parser().parse_args([target, *options])
        except SystemExit:
            pytest.fail(f"kit refuses {options}")
        check_values(given(options), {*FIELDS, "processes", "again"})
        for variable, names in {"TEXTS": registry.TEXT, "IMAGES": registry.IMAGE}.items():
            assert {name for name in settings.get(variable, "").split(",") if name} <= set(names)


def check_papermill(words: list[str]) -> None:
    options = papermill.make_context("papermill", words[1:]).params
    source = Path(options["notebook_path"])
    assert (PROJECT / source).is_file()
    check_values(given(words), parameters(source.stem))
    assert options["help_notebook"] or options["output_path"]


def check_accelerate(words: list[str]) -> None:
    options = launch_command_parser().parse_args(words[2:])
    assert options.module
    assert importlib.util.find_spec(options.training_script)
    assert all(re.fullmatch(r"runs/\w+/config\.json", argument) for argument in options.training_script_args)


def check_python(words: list[str]) -> None:
    if words[1] == "-m":
        assert importlib.util.find_spec(words[2])
    elif words[1] == "-c":
        for node in ast.walk(ast.parse(words[2])):
            for name in node.names if isinstance(node, ast.ImportFrom) else ():
                pkgutil.resolve_name(f"{node.module}:{name.name}")
    else:
        assert (PROJECT / words[1]).is_file()


def check_hub(words: list[str]) -> None:
    assert words[1] == "download"
    hub = {spec.source for spec in registry.TEXT.values()} | {f"timm/{spec.timm}" for spec in registry.IMAGE.values()}
    hub |= {f"timm/{image}" for pairs in PAIRS.values() for _, image in pairs}
    assert words[2] in hub, f"{words[2]} is no backbone of the registry or of a recipe"


def check_source(words: list[str]) -> None:
    assert words[1:] == [".venv/bin/activate"]


CHECKS = {
    "kit": check_kit,
    "make": check_make,
    "papermill": check_papermill,
    "accelerate": check_accelerate,
    "python": check_python,
    "hf": check_hub,
    "source": check_source,
}


@pytest.mark.parametrize(
    ("page", "command"), [(name_of(page), line) for page in PAGES for line in commands(page)], ids=lambda value: value
)
def test_commands_start_something(page, command):
    words = shlex.split(command, comments=True)
    assert words[0] in CHECKS or words[0] in OTHERS, f"{page}: what is {words[0]}?"
    CHECKS.get(words[0], lambda words: None)(words)


WRONG = [
    "kit run 03_train -p epoch 3",
    "kit run 03_train -p recipe best_of_all",
    "kit run 01_eda -p epochs 3",
    "kit run 08_nothing",
    "kit paper --sead 3",
    "kit paper -p epoch 3",
    "kit kaggle --texts camembert",
    "kit train",
    "make papers",
    "make paper SEED=3",
    "make paper OPTIONS='-p epoch 3'",
    "make best OPTIONS='--sead 3'",
    "source venv/bin/activate",
    "papermill notebooks/03_train.ipynb -p run second",
    "python -m kit.story",
    "hf download almanach/nothing",
]


@pytest.mark.parametrize("command", WRONG)
def test_a_wrong_command_is_caught(command):
    words = shlex.split(command)
    with pytest.raises((AssertionError, KitError, pytest.fail.Exception, KeyError)):
        CHECKS[words[0]](words)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_parameters_in_the_text_exist(page):
    (found,) = (action for action in cli.parser()._actions if isinstance(action, argparse._SubParsersAction))
    notebooks = {path.stem for path in (PROJECT / "notebooks").glob("*.ipynb")}
    known = {"processes", "again"}.union(*map(parameters, notebooks))
    for code in inline(page):
        words = code.split()
        if words[0] == "kit" and len(words) > 1:
            assert words[1] in found.choices or words[1].startswith("-"), code
            if any(word.startswith("-") for word in words[2:]):  # a whole command
                check_kit(words)
        if words[0] == "make" and len(words) > 1:
            check_make(words)
        for name in re.findall(r"-[pr] (\w+)", code):
            assert name in known or name.isupper(), code
        assert {*re.findall(r"\b0\d_[a-z_]+", code)} <= notebooks, code


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if path.startswith("https://"):
            continue
        file = page.parent / path if path else page
        assert file.exists(), f"{name_of(page)} links to {target}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, target


@pytest.mark.parametrize("page", MANUAL, ids=name_of)
def test_paths_and_names_exist(page):
    for code in inline(page):
        for path in filter(IN_PROJECT.fullmatch, code.split()):
            assert (PROJECT / path).exists(), path
        for name in re.findall(r"(?<![\w.])kit(?:\.\w+)+(?::\w+)?", code):
            pkgutil.resolve_name(name)


def test_the_readme_is_a_front_door():
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 125
    assert "![" in "".join(text.splitlines()[:12])  # a picture on the first screen
    for page in MANUAL[1:]:
        assert f"({name_of(page)})" in text, f"the README does not link to {name_of(page)}"
    for path in (PROJECT / "notebooks").glob("*.ipynb"):
        assert f"({name_of(path)})" in text


def test_no_number_is_left_to_fill_in():
    for page in PAGES:
        assert "{{" not in page.read_text(encoding="utf-8"), name_of(page)


def test_the_file_tree_is_the_projects():
    (tree,) = blocks(PROJECT / "README.md", "text")
    folders = [PROJECT]
    for line in tree.splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        folders = [*folders[: depth + 1], folders[depth] / name]
        assert folders[-1].exists(), line
    listed = {line.split()[0].rstrip("/") for line in tree.splitlines()}
    assert {path.name for path in (PROJECT / "kit").iterdir() if (path / "__init__.py").is_file()} <= listed


def test_departures_from_the_paper_name_their_fields():
    text = (PROJECT / "docs" / "paper-to-code.md").read_text(encoding="utf-8").partition("## Where the kit departs")[2]
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    names = {name for row in rows for name in re.findall(r"`(\w+)`", row[-1]) if not name.startswith("0")}
    assert {"lr", "lr_decay", "dropout", "max_tokens", "width"} <= names
    assert names <= set(FIELDS) | {field.name for field in dataclasses.fields(EnsembleConfig)}


def test_the_examples_of_new_parts_work(root, tiny_data, tiny_config, monkeypatch):
    entries, reads, fusion, stacker, member = (
        next(block for block in blocks(PROJECT / "CONTRIBUTING.md", "python") if sign in block)
        for sign in ("TextSpec(", "# in SYSTEMS", "# in FUSIONS", "METHODS[", "OwnMember(")
    )
    for registered, entry in ((SYSTEMS, reads), (heads.FUSIONS, fusion)):
        ((name, value),) = eval("{" + entry + "}", dict(vars(heads))).items()
        monkeypatch.setitem(registered, name, value)
    train(prepare_run(train_config(**tiny_config | {"run": "gated", "system": name, "epochs": 1})))
    assert open_run("gated").finished
    head = heads.FusionHead(3, name, text_width=4, image_width=6)
    text, regions = torch.randn(2, 1, 4), torch.randn(2, 5, 6)
    gated = torch.sigmoid(head.text(text[:, 0])) * regions.mean(1)
    assert torch.equal(head.eval()([text], None, regions), head.classifier(gated))
    assert "data/challenge" in member
    model = SimpleNamespace(predict_proba=lambda items: np.full((len(items), 3), 1 / 3))
    exec(member.replace("data/challenge", str(tiny_data)), {"np": np, "fit": lambda items: model})
    assert open_run("trees").finished
    specs = eval("{" + entries + "}", dict(vars(registry)))
    assert {type(spec).__name__ for spec in specs.values()} == {"TextSpec", "ImageSpec"}
    there = {"np": np, "Stacker": Stacker, "Tempered": Tempered, "METHODS": {}}
    exec(stacker, there)
    X = np.random.default_rng(0).dirichlet(np.ones(3), size=(8, 2))  # [N, M, K]
    (method,) = there["METHODS"].values()
    assert np.allclose(method(0).fit(X, np.arange(8) % 3).stacker_.predict_proba(X), X.mean(1))
