"""Parameters are read, checked and named; the recipes are complete."""

import dataclasses
import types

import pytest

from kit.config import RECIPES, KitError, TrainConfig, parameter_types, read_parameters, resolve, train_config


def test_the_papers_recipe():
    config = TrainConfig()
    assert (config.image_size, config.max_tokens, config.batch_size, config.epochs) == (500, 510, 16, 10)
    assert (config.lr, config.backbone_lr_scale, config.lr_decay, config.weight_decay) == (3e-4, 0.01, 0.9, 0.0)
    assert (config.width, config.layer_weights, config.bilstm, config.attention) == (2048, True, True, "both")
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
            {"data": "/else/where/sample"},
        )
    }
    assert len(names) == 6
    assert train_config(workers=7).run == train_config().run  # changes nothing of the result
    assert train_config(run="mine").run == "mine"
    assert train_config(run=3).run == "3"


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
    ({"width": 513}, "width=513 must be even"),
    ({"batch_size": 10, "accumulate": 4}, "batch_size=10 must be a multiple of accumulate=4"),
    ({"run": "../../etc"}, "must be a folder name"),
    ({"run": "a b"}, "must be a folder name"),
    ({"run": "a" * 300}, "must be a folder name of up to 250"),
    ({"val_share": 1.0}, "val_share=1.0 is too large"),
]


@pytest.mark.parametrize(("values", "sentence"), REFUSALS)
def test_refusals(values, sentence):
    with pytest.raises(KitError, match=sentence):
        train_config(**values)


@pytest.mark.parametrize("path", ["~nobody-of-that-name/x", "a\0b"])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(KitError, match=r"is no path .* give a folder"):
        resolve(path)


def test_notebook_parameters_are_checked():
    known = parameter_types(TrainConfig, processes=int)
    interactive = {"In": [], "Out": {}, "_": 1, "__name__": "x", "get_ipython": print, "math": types, "Path": type}
    assert read_parameters(interactive | {"epochs": 3, "lr": 1, "run": 5, "limit": None}, known) == {
        "epochs": 3, "lr": 1.0, "run": "5", "limit": None,
    }  # fmt: skip
    with pytest.raises(KitError, match=r"There is no parameter 'txet'. Did you mean text"):
        read_parameters({"txet": "flaubert"}, known)
    with pytest.raises(KitError, match=r"There is no parameter 'foo'. The parameters are: data, text"):
        read_parameters({"foo": 1}, known)
    with pytest.raises(KitError, match="processes='all' must be a whole number"):
        read_parameters({"processes": "all"}, known)


def test_the_check_cell_can_be_run_again():
    known = parameter_types(TrainConfig)
    later = {"epochs": 3, "parameters": {"epochs": 3}, "config": TrainConfig(), "frame": [1]}
    assert read_parameters(later, known) == {"epochs": 3}


def test_an_error_in_a_notebook_is_one_sentence():
    assert KitError("It is so.")._render_traceback_() == ["KitError: It is so."]


def test_config_survives_a_round_trip():
    config = train_config(recipe="demo", seed=3)
    assert TrainConfig(**dataclasses.asdict(config)) == config
