"""A finished run's models predict again what they predicted, and show what they attended to."""

import dataclasses
import html
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

from kit.analysis.errors import read_errors
from kit.config import train_config
from kit.core.exceptions import KitError
from kit.runs import TrainingRun, prepare_run
from kit.studies.examples import attention_examples, attention_matters, open_attending
from kit.training.anatomy import anatomy, describe_lengths
from kit.training.explain import blanking, explain
from kit.training.run_trainer import train
from kit.training.saved_weights import load_weights
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
        assert np.allclose(trained.probabilities([model], items)[0], values[rows], atol=1e-5)
        predicted = trained.probabilities([model], trained.products["test"])[0]
        assert np.allclose(predicted, test[2][test[0]["fold"] == fold], atol=1e-5)


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


def test_an_explained_item_has_the_probabilities_that_the_run_predicted(run):
    oof, codes, values = run.predictions("oof")
    trained = open_trained(run)
    ids = oof["id"].tolist()[::-3]
    found = explain(trained, ids)
    assert found["id"].tolist() == ids
    wanted = pd.DataFrame(values, oof["id"], codes).loc[ids]
    for row, (_, of_item) in zip(found.itertuples(), wanted.iterrows(), strict=True):
        assert [code for code, _ in row.top] == of_item.sort_values(ascending=False, kind="stable").index.tolist()
        assert [p for _, p in row.top] == pytest.approx([of_item[code] for code, _ in row.top], abs=1e-5)
        assert row.probability_true == pytest.approx(of_item[row.label], abs=1e-5)
        assert row.regions.shape == (1, 3, 3) and row.regions.mean() == pytest.approx(1, abs=1e-5)
        assert row.words == f"{row.title} {row.description or ''}".split()[: len(row.words)]
        assert len(row.attention) == len(row.words) and (row.attention > 0).all() and 0 < row.unsplit < 1
    falls = blanking(trained, items=5)
    assert falls["side"].value_counts().to_dict() == {"image": 5, "text": 5}
    assert set(falls["id"]) <= set(oof["id"])
    assert np.isfinite(falls[["attended", "random"]]).all(axis=None)
    pd.testing.assert_frame_equal(falls, blanking(trained, items=5))


def test_a_run_without_attention_has_nothing_to_explain(run):
    trained = open_trained(run)
    plain = dataclasses.replace(trained, config=dataclasses.replace(trained.config, coattention=False))
    for refused in (lambda: explain(plain, [0]), lambda: blanking(plain)):
        with pytest.raises(KitError, match="'tiny' has no co-attention"):
            refused()


def test_a_notebook_shows_examples_their_test_and_the_models_parts(run, monkeypatch):
    loaded = []
    monkeypatch.setattr("kit.training.trained.load_weights", lambda *given: loaded.append(load_weights(*given)))
    trained = open_attending(run)
    page = html.unescape(attention_examples(trained, right=2, wrong=1))
    right, wrong = (items["wrong"] == value for items in [read_errors(run).items] for value in (False, True))
    assert page.count(">right<") == min(2, right.sum()) and page.count(">wrong<") == min(1, wrong.sum())
    assert page.count("attention on regions:") == page.count("(true)") == page.count(" · item ")
    assert attention_matters(trained).startswith("tiny: Blanking the most attended fifth of the regions")
    lengths = np.concatenate([trained.products[part].lengths for part in ("train", "test")])
    shorter = dataclasses.replace(trained.config, max_tokens=int(np.median(lengths)))
    said = describe_lengths(dataclasses.replace(trained, config=shorter))
    share = 100 * (lengths >= np.median(lengths)).mean()
    assert said.startswith(f"{share:.1f} % of the 43 texts have {shorter.max_tokens} tokens or more") and share > 50
    parts = anatomy(trained).set_index("part")
    trained.model(0)
    assert len(loaded) <= 5  # of two folds, each loaded when it follows the other
    tokens = parts["shape"]["input: layers of the frozen text backbone, computed once"]
    items, length = map(int, tokens[1:-1].split(", ")[:2])
    assert parts["shape"]["tokens through BiLSTM"] == str([items, length, 16])
    attended = [[items, 16], [items, 16], [items, length], [items, 9]]
    assert parts["shape"]["co-attention (eq. 3 to 9): t', i', a_t, a_i"] == ", ".join(map(str, attended))
    assert parts["shape"]["classifier"] == str([items, 3])
    counts = parts["parameters"][parts["parameters"] != ""].str.replace(",", "").astype(int)
    assert counts.sum() == run.summary["parameters"]


def test_fine_tuned_backbones_mirrored_images_and_pairs_are_explained_too(root, tiny_data, tiny_texts, tiny_image):
    values = SMALL | {"freeze_text": False, "freeze_image": False, "pair": True, "augment": True, "folds": 1}
    values |= {"data": str(tiny_data), "text": tiny_texts["camembert"], "image": tiny_image, "modality_dropout": 0.3}
    made = prepare_run(train_config(**values, run="live"))
    train(made)
    oof, codes, predicted = made.predictions("oof")
    trained = open_trained(made)
    found = explain(trained, oof["id"].tolist())
    wanted = predicted[np.arange(len(oof)), [codes.index(label) for label in oof["label"]]]
    assert np.allclose(found["probability_true"], wanted, atol=1e-5)
    assert all(len(row.words) == len(row.attention) and row.regions.shape == (1, 3, 3) for row in found.itertuples())
    assert len(blanking(trained)) == 2 * len(oof)
    assert {"text backbone", "image backbone", "input: pixels"} <= set(anatomy(trained)["part"])
    with pytest.raises(KitError, match="has no out-of-fold item"):  # one that every model of the run learned from
        explain(trained, [next(i for i in range(36) if i not in set(oof["id"]))])
