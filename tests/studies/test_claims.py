"""The verdicts on the paper's claims: each follows its interval, and only if its attention moved."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from fakes import VALUES, fake, fake_study, measured_attention

from kit.analysis.errors import read_errors
from kit.analysis.estimates import Estimate
from kit.config import EnsembleConfig
from kit.core.files import read_json, write_json
from kit.runs import open_run
from kit.studies import claims, tables
from kit.studies.choice import chosen
from kit.studies.study_runs import ABLATIONS, MATCHED, ablation, ablations, baselines, member_runs, members, study_runs


@pytest.fixture
def study(root, tiny_data):
    return fake_study(tiny_data)


def test_verdicts_follow_the_intervals(study):
    found = claims.claims(tables.baselines(study), tables.ablations(study), chosen(study), read_errors(chosen(study)))
    assert found.set_index("claim")["paper"]["with even attention the model is worse"] == "not asked"
    verdicts = found.set_index("claim")["verdict"]
    assert verdicts["without its BiLSTM the model is worse"] == "holds"
    assert verdicts["with even attention the model is worse"] == "holds"
    assert verdicts["with the top text layer alone the model is worse"] == "not told apart"
    assert verdicts["fine-tuned co-attention beats the best frozen fusion (here concat)"] == "holds"
    assert set(found["attention"]) == {"", "not measured"}


def test_what_coattention_itself_gains_is_told_from_what_fine_tuning_gains(study, tiny_data):
    """Here fine-tuning gains all, and co-attention nothing: the claims say so, beside the paper's."""
    values = VALUES | {"data": str(tiny_data)}
    table = tables.baselines(study)
    assert tables.own_gain(table).empty and "Runs are missing" in tables.explain_own_gain(table)
    *_, tuned, frozen = baselines(values)
    fake(tuned, 0.95, seed=0)
    fake(frozen, 0.5, seed=7)
    table = tables.baselines(study)
    assert list(table["system"])[-3:] == [*MATCHED, "co-attention"]
    own = tables.own_gain(table).set_index("backbones")[tables.OWN_GAIN]
    assert {name: own[name].value for name in ("fine-tuned", "frozen")} == {"fine-tuned": 0, "frozen": 0}
    assert "missing" not in tables.explain_own_gain(table)
    found = claims.claims(table, pd.DataFrame(), chosen(study), read_errors(chosen(study))).set_index("claim")
    assert found["verdict"]["fine-tuned co-attention beats the best frozen fusion (here concat)"] == "holds"
    assert found["verdict"]["co-attention itself beats concat, both fine-tuned"] == "not told apart"
    assert found["verdict"]["co-attention itself beats concat, both frozen"] == "not told apart"


def test_in_a_frozen_study_the_model_and_concat_are_like_for_like(root, tiny_data):
    values = VALUES | {"data": str(tiny_data), "recipe": "demo"}
    assert "no run of `concat`" in tables.explain_own_gain(pd.DataFrame())
    fake(baselines(values)[0], 0.5)
    assert "train the model with 03_train" in tables.explain_own_gain(tables.baselines("s"))
    fake(members(values, ["camembert"], ["resnet152"])[0], 0.9)
    table = tables.baselines("s")
    own = tables.own_gain(table)
    assert list(own["backbones"]) == ["frozen"] and own[tables.OWN_GAIN][0].value > 0
    assert "mixes" not in tables.explain_own_gain(table)
    found = claims.claims(table, pd.DataFrame(), chosen("s"), read_errors(chosen("s")))
    assert found["claim"][0] == "co-attention beats the best fusion (here concat)"


ORDER = "the attended image is worth more than the attended text"
BEST = "fine-tuned co-attention beats the best frozen fusion (here concat)"


@pytest.mark.parametrize(
    ("text", "image", "untested"),
    [
        (0.004, 0.002, {BEST, ORDER, *(claims.WORSE[row] for row in claims.REMOVED)}),
        (0.2, 0.002, {claims.WORSE["text-attention-only"]}),  # it takes the image's away, which is even
        (0.004, 0.3, {claims.WORSE["image-attention-only"]}),
        (0.2, 0.3, set()),
    ],
)
def test_a_claim_about_attention_that_did_not_move_is_not_tested(study, text, image, untested):
    for name in [run.name for run in study_runs(study) if ablation(run.config) == "full"]:
        path = open_run(name).folder / "summary.json"
        write_json(path, read_json(path) | {"attention": measured_attention(text, image)})
    final = chosen(study)
    found = claims.claims(tables.baselines(study), tables.ablations(study), final, read_errors(final))
    verdicts = found.set_index("claim")["verdict"]
    assert set(verdicts.index[verdicts == "not tested"]) == untested
    assert (found.loc[found["verdict"] == "not tested", claims.AT_ONCE] == "not tested").all()
    row = found.set_index("claim").loc[BEST]
    assert row["attention"] == f"text {text:.3f}, image {image:.3f}; 10.0 %" and row["ours"].value > 0
    one_side = found.set_index("claim").loc[claims.WORSE["text-attention-only"], "attention"]
    assert one_side == f"image {image:.3f}; {100 * image:.1f} %"
    assert verdicts[claims.WORSE["no-bilstm"]] == "holds"  # another part
    assert ("stayed even" in claims.explain_verdicts(found)) == bool(untested)
    tested = (~found["verdict"].isin(["not tested", "not testable"])).sum()
    assert f" {tested} claims are tested at once" in claims.explain_verdicts(found)


@pytest.mark.parametrize(("evaluation", "verdict"), [("nested", "holds"), ("in-sample", "not testable")])
def test_an_ensemble_scored_on_what_it_learned_from_holds_nothing(study, tiny_data, evaluation, verdict):
    names = tuple(member_runs(study))
    config = EnsembleConfig("e", names, str(tiny_data), evaluation=evaluation, study=study)
    fake(config, 0.5, gain=0.1, gain_low=0.05, gain_high=0.15)
    final = open_run("e")
    found = claims.claims(tables.baselines(study), tables.ablations(study), final, read_errors(final))
    found = found.set_index("claim")
    row = found.loc["the ensemble beats its best member"]
    assert row["verdict"] == verdict and "+10.0 [+5.0, +15.0]" in str(row["ours"])
    assert ("scored on the items that it learned from" in str(row["ours"])) == (evaluation == "in-sample")
    about_mistakes = found[found.index.str.startswith("mistakes")].iloc[0]
    assert ("in-sample" in about_mistakes["ours"]) == (evaluation == "in-sample")
    if evaluation == "in-sample":
        assert about_mistakes["verdict"] == about_mistakes[claims.AT_ONCE] == "not testable"


@pytest.mark.parametrize(("image", "verdict"), [(0.95, "holds"), (0.3, "contradicted")])
def test_the_two_sides_are_compared_with_each_other(study, tiny_data, image, verdict):
    """Each alone says only that the other side is missed, which hides a reversed order."""
    for seed, config in enumerate(ablations(VALUES | {"data": str(tiny_data)}, 2)["image-attention-only"]):
        fake(config, image, seed=seed)
    table, final = tables.ablations(study), chosen(study)
    found = claims.claims(tables.baselines(study), table, final, read_errors(final)).set_index("claim").loc[ORDER]
    means = table.set_index("model")["macro-F1"].astype(float)
    assert found["ours"].value == pytest.approx(means["image-attention-only"] - means["text-attention-only"], abs=0.11)
    assert (found["verdict"], found["paper"]) == (verdict, "+6.64")


def gains(*bounds: tuple[float, float, float]) -> pd.DataFrame:
    """A table of ablations with these differences."""
    rows = list(ABLATIONS)[1:]
    return pd.DataFrame(
        {"model": rows[: len(bounds)], "difference": [Estimate(*values, signed=True) for values in bounds]}
    )


@pytest.mark.parametrize(
    ("bounds", "alone", "at_once"),
    [
        ([(-2.0, -3.9, -0.1)], ["holds"], ["holds"]),  # p = .039
        ([(-2.0, -3.9, -0.1)] * 4, ["holds"] * 4, ["not told apart"] * 4),
        ([(-9.0, -9.5, -8.5), (-2.0, -3.9, -0.1)], ["holds"] * 2, ["holds"] * 2),  # the first is out of the way
        ([(-2.5, -4.4, -0.6), (1.0, -1, 3)], ["holds", "not told apart"], ["holds", "not told apart"]),
        ([(3.0, 2.0, 4.0), (0.0, 0.0, 0.0)], ["contradicted", "not told apart"], ["contradicted", "not told apart"]),
    ],
)
def test_verdicts_on_many_claims_at_once_are_stricter(study, bounds, alone, at_once):
    final = open_run("s-camembert-resnet152")
    errors = read_errors(final)
    errors = dataclasses.replace(errors, items=errors.items.assign(described=True))  # two claims are not testable
    found = claims.claims(pd.DataFrame(), gains(*bounds), final, errors)
    assert found["verdict"].tolist() == [*alone, "not testable", "not testable"]
    assert found[claims.AT_ONCE].tolist() == [*at_once, "not testable", "not testable"]
    shown = claims.mark(found)["verdict"]
    taken_back = shown == f"– holds alone, not among {len(bounds)}"
    assert taken_back[: len(bounds)].tolist() == [one != other for one, other in zip(alone, at_once, strict=True)]
    assert shown.str.startswith("✓").sum() == at_once.count("holds")
    assert ("tested at once" in claims.explain_verdicts(found)) == (len(bounds) > 1)


def test_holm_is_the_textbooks():
    p = pd.Series([0.01, 0.04, np.nan, 0.03, 0.005])
    assert claims.holm(p).tolist() == pytest.approx([0.03, 0.06, np.nan, 0.06, 0.02], nan_ok=True)
    assert claims.holm(pd.Series([0.6, 0.9])).tolist() == [1, 1]
    assert claims.holm(pd.Series([np.nan])).isna().all()


@pytest.mark.parametrize(
    ("shift", "p", "verdict"),
    [(0.52, (0.025, 0.05), "holds"), (0.0, (0.4, 0.6), "not told apart"), (-0.7, (0.98, 0.999), "contradicted")],
)
def test_the_claim_about_descriptions_is_tested_as_the_table_tests_it(study, shift, p, verdict):
    final = open_run("s-camembert-resnet152")
    errors, loss = read_errors(final), np.tile([1.0, 2.0, 3.0, 4.0], 8)
    items = pd.concat([errors.items] * 2, ignore_index=True).iloc[:64]
    described = np.repeat([True, False], 32)
    items = items.assign(described=described, wrong=True, loss=np.tile(loss, 2) + shift * ~described)
    errors = dataclasses.replace(errors, items=items)
    row = claims.claims(pd.DataFrame(), pd.DataFrame(), final, errors).iloc[-1]
    shown = tables.descriptions(errors).set_index("items").loc["misclassified items", "p, one-sided"]
    assert p[0] < float(shown) < p[1]
    assert row["verdict"] == verdict and f"p = {shown}" in row["ours"]
