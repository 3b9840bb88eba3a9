"""Parameters are read, checked and named; the recipes are complete."""

import dataclasses
import json
import pickle
import shutil
import types
from pathlib import Path

import pytest
from fakes import fake

from kit import runs
from kit.config import (
    RECIPES,
    EnsembleConfig,
    TrainConfig,
    bounded_name,
    check_name,
    short_names,
    split_names,
    train_config,
)
from kit.core import paths
from kit.core.exceptions import KitError
from kit.core.paths import project, resolve, root, runs_folder
from kit.notebook_parameters import parameter_types, read_parameters


def test_the_papers_recipe():
    config = TrainConfig()
    assert (config.image_size, config.max_tokens, config.batch_size, config.epochs) == (500, 510, 16, 10)
    assert (config.lr, config.backbone_lr_scale, config.lr_decay, config.weight_decay) == (3e-4, 0.01, 0.9, 0.0)
    assert (config.width, config.layer_weights, config.bilstm, config.attention) == (2048, True, True, "both")
    assert config.coattention and not config.attention_scale
    assert config.val_share == 0.2


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_set_known_fields(recipe):
    config = train_config(recipe=recipe)
    assert all(getattr(config, name) == value for name, value in RECIPES[recipe].items())
    assert train_config(recipe=recipe, epochs=3).epochs == 3
    assert train_config(recipe=recipe, weight_decay=0).weight_decay == 0  # an explicit 0 is a value
    assert train_config(recipe=recipe, epochs=None).epochs == config.epochs


def test_names_tell_runs_apart():
    names = {
        train_config(**change).run
        for change in (
            {},
            {"seed": 1},
            {"text": "mbert"},
            {"lr": 0.1},
            {"recipe": "demo"},
            {"data": "/else/where/shop"},
        )
    }
    assert len(names) == 6
    assert train_config(workers=7).run == train_config().run  # changes nothing of the result
    assert train_config(run="mine").run == "mine"


REFUSALS = [
    ({"epochs": "two"}, "epochs='two' must be a whole number"),
    ({"epochs": 2.5}, "epochs=2.5 must be a whole number"),
    ({"epochs": True}, "epochs=True must be a whole number"),
    ({"epochs": 0}, "epochs=0 is too small: it must be at least 1"),
    ({"lr": "fast"}, "lr='fast' must be a number"),
    ({"lr": float("nan")}, "lr=nan is too small"),
    ({"lr": 100}, "lr=100.0 is too large"),
    ({"bilstm": "no"}, "bilstm='no' must be True or False"),
    ({"recipe": "mine"}, "recipe='mine' is not one of paper, demo"),
    ({"attention": "none"}, "attention='none' is not one of both, text, image"),
    ({"attention": "text", "coattention": False}, "never reads the image: take system='text' instead"),
    ({"width": 513}, "width=513 must be even"),
    ({"batch_size": 10, "accumulate": 4}, "batch_size=10 must be a multiple of accumulate=4"),
    ({"augment": True, "freeze_image": True}, "reads each only once: pass -p augment False"),
    ({"warmup": 1.0}, "warmup=1.0 is too large"),
    ({"class_weights": -1}, "class_weights=-1.0 is too small"),
    ({"schedule": "linear"}, "schedule='linear' is not one of exponential, cosine"),
    (
        {"train_text_layers": 2},
        "train_text_layers=2 needs freeze_text, which fixes the layers below: pass -p freeze_te",
    ),
    *(
        (
            {"train_text_layers": 2, "freeze_text": True, "system": system},
            f"{system}' has no use for train_text_layers=2: leave it out",
        )
        for system in ("tfidf", "logistic", "neighbours", "image")
    ),
    *(
        ({name: value, "system": system}, f"{system}' has no use for {name}={value!r}: leave it out")
        for name, value, system in (
            ("augment", True, "text"),
            ("modality_dropout", 0.3, "image"),
            ("class_weights", 0.5, "tfidf"),
            ("label_smoothing", 0.1, "logistic"),
            ("pair", True, "image"),
        )
    ),
    ({"run": "../../etc"}, "must be a folder name"),
    ({"run": "a b"}, "must be a folder name"),
    ({"run": "a" * 300}, "must be a folder name of up to 250"),
    ({"val_share": 1.0}, "val_share=1.0 is too large"),
    ({"data": "donn\udce9es"}, r"data='donn\\udce9es' is not in this shell's encoding"),
]


@pytest.mark.parametrize(("values", "sentence"), REFUSALS)
def test_refusals(values, sentence):
    with pytest.raises(KitError, match=sentence):
        train_config(**values)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"method": "mean"}, "method='mean' is not one of network, logistic, blend"),
        ({"folds": 1}, "folds=1 is too small: it must be at least 2"),
        ({"seed": 2**32}, "seed=4294967296 is too large: it must be at most 4294967295"),
        ({"members": ["007", 7]}, "members=7 is not text"),
        ({"members": ["a", "a"]}, "must name different runs"),
    ],
)
def test_refusals_of_an_ensemble(values, sentence):
    with pytest.raises(KitError, match=sentence):
        EnsembleConfig(**{"run": "e", "members": ["a", "b"], "data": "d"} | values)


@pytest.mark.parametrize("path", ["~nobody-of-that-name/x", "a\0b"])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(KitError, match=r"is no path .* give a folder"):
        resolve(path)


@pytest.fixture
def places(tmp_path, monkeypatch):
    """`project` and `root` for a package outside any project; the one to look around for is tmp_path/project."""
    for name, marked in {"project": "rakuten-notebook-kit", "another": "my-shop"}.items():
        (tmp_path / name / "notebooks").mkdir(parents=True)
        (tmp_path / name / "pyproject.toml").write_text(f'[project]\nname = "{marked}"\n')
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "site-packages" / "kit" / "core" / "paths.py"))
    monkeypatch.delenv("KIT_PROJECT", raising=False)

    def found(standing: str, **environment: str):
        (tmp_path / standing).mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(tmp_path / standing)
        for name, value in ({"KIT_ROOT": ""} | environment).items():
            monkeypatch.setenv(name, value)
        return project(), root()

    return found


@pytest.mark.parametrize("standing", ["project", "project/notebooks", "project/data/a/b"])
@pytest.mark.parametrize(
    ("root", "place"), [("", "project"), ("out", "project/out"), ("../out", "out"), ("{tmp}/x", "x")]
)
def test_the_project_is_the_one_that_one_stands_in(places, tmp_path, standing, root, place):
    """Shell and Jupyter, in whatever folder of it, mean the same; also by a relative KIT_ROOT."""
    assert places(standing, KIT_ROOT=root.format(tmp=tmp_path)) == (tmp_path / "project", tmp_path / place)


def test_a_project_behind_a_link_and_around_a_project(places, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path / "project", target_is_directory=True)
    assert places("link/notebooks")[0] == tmp_path / "project"
    shutil.copytree(tmp_path / "project", tmp_path / "another" / "kit-checkout")
    assert places("another/kit-checkout/notebooks")[0] == tmp_path / "another" / "kit-checkout"
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "project" / "kit" / "core" / "paths.py"))
    assert places("another")[0] == tmp_path / "project"  # installed with -e
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "project/.venv/lib/site-packages/kit/core/paths.py"))
    assert places("elsewhere") == (tmp_path / "project", tmp_path / "project")
    assert places("elsewhere", KIT_PROJECT="/a", KIT_ROOT="/b") == (Path("/a"), Path("/b"))  # as the parent says


@pytest.mark.parametrize("standing", ["elsewhere", "another/notebooks"])
@pytest.mark.parametrize("root", ["", "out"])
def test_without_a_project_nothing_is_written_beside_the_package(places, standing, root):
    asked = [lambda: places(standing, KIT_ROOT=root), runs_folder, lambda: resolve("data/shop")]
    for ask in (*asked, runs.list_runs, runs.find_run, lambda: runs.find_run("mine")):
        with pytest.raises(KitError, match=r"There is no project here: change to its folder, .* or set KIT_ROOT"):
            ask()
    assert resolve("/some/data") == Path("/some/data")


def test_kit_root_alone_is_enough(places, tmp_path):
    assert places("elsewhere", KIT_ROOT=str(tmp_path / "x")) == (tmp_path / "x", tmp_path / "x")
    with pytest.raises(KitError, match=r"KIT_ROOT='~nobody-of-that-name/x' is no path .* set it to a folder"):
        places("elsewhere", KIT_ROOT="~nobody-of-that-name/x")


def test_notebook_parameters_are_checked():
    known = parameter_types(TrainConfig, processes=int)
    interactive = {"In": [], "Out": {}, "_": 1, "__name__": "x", "get_ipython": print, "math": types, "Path": type}
    assert read_parameters(interactive | {"epochs": 3, "lr": 1, "run": "5", "limit": None}, known) == {
        "epochs": 3, "lr": 1.0, "run": "5", "limit": None,
    }  # fmt: skip
    with pytest.raises(KitError, match=r"There is no parameter 'txet'. Did you mean text"):
        read_parameters({"txet": "flaubert"}, known)
    with pytest.raises(KitError, match=r"There is no parameter 'foo'. The parameters are: data, text"):
        read_parameters({"foo": 1}, known)
    with pytest.raises(KitError, match="processes='all' must be a whole number"):
        read_parameters({"processes": "all"}, known)


TYPED = {"2024_11_25": 20241125, "007": 7, "1e5": 1e5, "3.10": 3.1, "None": None, "True": True, "inf": float("inf")}


@pytest.mark.parametrize("name", ["run", "study", "data", "text", "image"])
@pytest.mark.parametrize("typed", TYPED)
def test_a_name_that_papermill_has_changed_is_refused_with_the_form_that_works(name, typed):
    with pytest.raises(KitError, match=rf"The parameter {name}=.* is not text: .* pass it with -r {name}"):
        read_parameters({name: TYPED[typed]}, parameter_types(TrainConfig))
    assert read_parameters({name: typed}, parameter_types(TrainConfig)) == {name: typed}  # as -r brings it


@pytest.mark.parametrize("value", [20241125, None, False])
def test_names_of_the_other_notebooks_are_refused_alike(value):
    for name in ("members", "study", "method", "edition"):
        with pytest.raises(KitError, match=f"-r {name}"):
            read_parameters({name: value}, {"members": str, "study": str, "method": str, "edition": str})
    with pytest.raises(KitError, match="top=None must be a whole number"):
        read_parameters({"top": None}, {"top": int})
    if value is not None:  # train_config: None is the recipe's
        with pytest.raises(KitError, match="-r run"):
            train_config(run=value)


# --- parameters in IPython, where cells run in any order and any number of times

CELL = 'data: str = "data/shop"  # a folder\nlimit: int = 0  # items\nsplit: str = None  # of the recipe\n'
KNOWN = parameter_types(TrainConfig, processes=int)


class Kernel(dict):
    """A namespace with the history that IPython keeps in it."""

    def __init__(self):
        super().__init__(In=[""], __name__="__main__")

    def run(self, *sources: str) -> dict:
        for source in sources:
            self["In"].append(source)
            exec(source, self)
        self["In"].append("parameters = read_parameters(globals(), types)")
        return read_parameters(self, KNOWN)


def test_variables_of_other_cells_are_no_parameters():
    kernel, usual = Kernel(), {"data": "data/shop", "limit": 0, "split": None}
    assert kernel.run("epoch = 3; width = 800", CELL, "score, owner, epochs = 1.0, '', 7") == usual
    assert kernel.run() == kernel.run(CELL) == usual  # this cell again, and all cells again
    assert kernel.run("x = 1", CELL, "for seed in range(3): folds = seed") == usual


def test_a_changed_cell_counts_as_it_is_now():
    kernel = Kernel()
    assert kernel.run(CELL + "epochs: int = 3")["epochs"] == 3
    assert "epochs" not in kernel.run(CELL)  # the line was removed
    assert kernel.run(CELL.replace("= 0", "= 40"))["limit"] == 40
    assert kernel.run('data = "x"\nlimit = 4 * 10\nsplit = "grouped"\nseed = 1') == {  # all types were taken off
        "data": "x", "limit": 40, "split": "grouped", "seed": 1,
    }  # fmt: skip


def test_what_papermill_injects_counts_and_unknown_names_are_refused_there_and_in_the_cell():
    injected = "# Parameters\nlimit = 40\nepochs = 1\n"
    assert Kernel().run(CELL, injected) == {"data": "data/shop", "limit": 40, "split": None, "epochs": 1}
    kernel = Kernel()
    kernel.run(CELL, injected)
    assert kernel.run("# Parameters\nlimit = 50\n") == {"data": "data/shop", "limit": 50, "split": None}  # edited
    assert kernel.run(CELL)["limit"] == 0  # run without the other
    for cells in ((CELL, "# Parameters\nepoch = 1\n"), (CELL + "epoch: int = 1",), (CELL + "epoch = 1",)):
        with pytest.raises(KitError, match=r"There is no parameter 'epoch'. Did you mean epochs\?"):
            Kernel().run("x = 1", *cells)


def test_a_kernel_that_keeps_no_history_reads_what_it_knows():
    assert read_parameters({"In": [""], "limit": 3, "score": 1.0}, KNOWN) == {"limit": 3}
    assert Kernel().run("limit = 3") == {"limit": 3}


# --- names

ALIKE = [
    ["/k/camembert/transformers/base/1", "/k/flaubert/transformers/base/1", "/k/mbert/transformers/base/2"],
    ["all-MiniLM-L6-v2", "all_MiniLM_L6_v2", "all.MiniLM.L6.v2"],
    ["x/base_1", "/base/1", "/other/1"],
    ["/w/BERT", "/w/bert"],
    ["/w/模型一", "/w/模型二"],
    ["a" * 90 + "1", "a" * 90 + "2"],
    ["a/b_c", "a_b/c", "a_b_c"],
    ["hub/net", "net"],
]


@pytest.mark.parametrize("names", ALIKE)
def test_short_names_differ_and_are_folder_names(names):
    short = short_names(names)
    assert list(short) == names and len({name.lower() for name in short.values()}) == len(names)
    for name in short.values():
        check_name(name)
        assert len(name) <= 60
    assert short_names(reversed(names)) == short


def test_names_in_one_text_may_have_spaces_after_the_commas():
    assert split_names(" e5_small, minilm,,") == ["e5_small", "minilm"] and split_names("") == []


def test_short_names_are_as_short_as_they_can_be():
    assert short_names(["camembert", "/w/flaubert", "almanach/camembert-base"]) == {
        "camembert": "camembert", "/w/flaubert": "flaubert", "almanach/camembert-base": "camembert_base",
    }  # fmt: skip
    assert list(short_names(ALIKE[0]).values()) == [
        "camembert_transformers_base_1",
        "flaubert_transformers_base_1",
        "2",
    ]
    assert set(short_names(short_names(ALIKE[0]).values()).values()) == set(short_names(ALIKE[0]).values())


def test_names_that_are_made_of_others_never_overflow():
    assert bounded_name("a-b") == "a-b" and bounded_name("x" * 250) == "x" * 250
    long = [bounded_name("x" * 250 + end) for end in ("y", "z")]
    assert [len(name) for name in long] == [250, 250] and long[0] != long[1]
    assert len(train_config(data="d" * 300, text="t" * 300, image="i" * 300, seed=2**32 - 1).run) <= 250
    EnsembleConfig(long[0], ("a", "b"), "data")


def test_a_folder_spelled_otherwise_is_the_same_run(tmp_path, monkeypatch):
    monkeypatch.setenv("KIT_ROOT", str(tmp_path))
    spelled = ["data/shop", "data/shop/", "./data/shop", "data/../data/shop", str(project() / "data/shop")]
    assert len({train_config(data=data).run for data in spelled}) == 1
    fake(train_config(data=spelled[0], run="a"), 0.5)
    run = runs.open_run("a")
    assert [run.changes(train_config(data=data, run="a")) for data in spelled] == [[]] * 5
    assert run.changes(train_config(data="data/emoji", run="a")) == ["data (data/shop → data/emoji)"]


def test_an_error_in_a_notebook_is_one_sentence():
    assert KitError("It is so.")._render_traceback_() == ["KitError: It is so."]


def test_an_error_in_a_notebook_says_what_to_set_there():
    shown = KitError("Pass -p again True, or -p corrupt blank, or another -p run.")._render_traceback_()
    assert [line.partition(": ")[2] for line in shown[1:]] == ["again = True)", 'corrupt = "blank")']


def test_config_survives_a_round_trip():
    for config in (train_config(recipe="demo", seed=3, lr=1), EnsembleConfig("e", ("a", "b"), "d")):
        assert type(config)(**json.loads(json.dumps(dataclasses.asdict(config)))) == config
        assert pickle.loads(pickle.dumps(config)) == config
