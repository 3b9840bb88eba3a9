"""A finished run's models predict again what they predicted, and show what they attended to."""

from collections.abc import Iterator

import numpy as np
import pytest

from kit.config import train_config
from kit.core.exceptions import KitError
from kit.runs import TrainingRun, prepare_run
from kit.training.run_trainer import train
from kit.training.trained import open_trained

SMALL = {
    "image_size": 96, "max_tokens": 24, "width": 16, "attention_width": 8, "classifier_width": 8, "batch_size": 8,
    "epochs": 1, "lr": 0.01, "workers": 0, "folds": 2, "freeze_text": True, "freeze_image": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_data, tiny_texts, tiny_image) -> Iterator[TrainingRun]:
    """A finished run of two folds on frozen backbones; the folder of runs is a temporary one in the meantime."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIT_ROOT", str(tmp_path_factory.mktemp("root")))
        backbones = {"data": str(tiny_data), "text": tiny_texts["bert"], "image": tiny_image}
        made = prepare_run(train_config(**backbones, **SMALL, run="tiny"))
        train(made)
        yield made


def test_the_model_of_each_fold_predicts_what_the_run_predicted(run):
    trained, test = open_trained(run), run.predictions("test")
    oof, codes, values = run.predictions("oof")
    assert trained.codes == codes
    for fold in range(2):
        model, rows = trained.model(fold), (oof["fold"] == fold).to_numpy()
        items = trained.products["train"].part(trained.places(oof["id"][rows].tolist()))
        assert np.allclose(trained.probabilities(model, items), values[rows], atol=1e-5)
        predicted = trained.probabilities(model, trained.products["test"])
        assert np.allclose(predicted, test[2][test[0]["fold"] == fold], atol=1e-5)


def test_new_items_are_prepared_as_in_training(run):
    _, _, values = run.predictions("test")
    new = open_trained(run).frames["test"][["title", "description", "image_path"]].iloc[::-1]
    trained = open_trained(run, {"test": new})
    assert np.allclose(trained.probabilities(trained.model(0), trained.products["test"])[::-1], values[:7], atol=1e-5)


def test_what_cannot_predict_again_is_refused(run, monkeypatch):
    with pytest.raises(KitError, match=r"no out-of-fold item 99999"):
        open_trained(run).places([99999])
    weights = run.folder / "model-1.safetensors"
    weights.rename(hidden := weights.with_suffix(".hidden"))
    with pytest.raises(KitError, match=r"model-1.safetensors is missing"):
        open_trained(run).model(1)
    hidden.rename(weights)
    changed = run.summary | {"outline": run.summary["outline"] | {"texts": "others"}}
    monkeypatch.setattr(TrainingRun, "summary", changed)
    with pytest.raises(KitError, match=r"The data changed since the run 'tiny' was trained \(texts\)"):
        open_trained(run)
