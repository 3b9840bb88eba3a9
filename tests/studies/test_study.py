"""Which runs make a study, and the tables that they make: right runs, right differences, honest verdicts."""

import dataclasses
import os
import shutil

import numpy as np
import pandas as pd
import pytest
from fakes import VALUES, catalogue, fake, fake_study

from kit.analysis.errors import read_errors
from kit.analysis.estimates import Answers
from kit.cli import main
from kit.config import train_config
from kit.core.exceptions import KitError
from kit.core.files import read_json, write_json
from kit.core.paths import project
from kit.data.challenge import read_challenge
from kit.data.items import check_data
from kit.runs import find_run, list_runs, open_run, prepare_run
from kit.stacking.ensemble import compare, ensemble_config, groupings, stack
from kit.stacking.stackers import METHODS
from kit.studies import pipeline, tables
from kit.studies.choice import choice_of, choose, chosen, expectation, find_result
from kit.studies.plan import Plan, Study
from kit.studies.report import notes, read_answers, why_test_differs, write_report
from kit.studies.study_runs import (
    ABLATIONS,
    BASELINES,
    MATCHED,
    ablation,
    ablations,
    backbone_names,
    baseline,
    baseline_runs,
    baselines,
    member_runs,
    members,
    one_run,
    stacking_groups,
    study_runs,
)
from kit.training.launch import launch


def test_members_are_every_pair_in_the_papers_order():
    configs = members(VALUES, ["camembert", "/weights/flaubert"], ["resnet152", "resnext101_32x8d"])
    assert [config.run for config in configs] == [
        "s-camembert-resnet152",
        "s-flaubert-resnet152",
        "s-camembert-resnext101_32x8d",
        "s-flaubert-resnext101_32x8d",
    ]
    assert {config.study for config in configs} == {"s"}


def test_one_run_of_a_study_is_the_member_that_its_tables_know():
    member = members(VALUES, ["camembert"], ["resnet152"])[0]
    assert one_run(VALUES) == one_run(VALUES | {"run": ""}) == member
    assert one_run(VALUES | {"run": "mine"}).run == "mine"
    others = [VALUES | {"study": ""}, VALUES | {"bilstm": False}, VALUES | {"system": "concat"}]
    assert member.run not in [one_run(values).run for values in others]


def test_baselines_are_frozen_and_parameters_reach_them():
    configs = baselines(VALUES | {"recipe": "demo", "limit": 100, "train_text_layers": 2}, matched=False)
    assert not any(config.train_text_layers for config in configs)
    assert [config.system for config in configs] == list(BASELINES)
    assert all(config.freeze_text and config.freeze_image and config.limit == 100 for config in configs)
    assert {config.epochs for config in configs} == {10}  # the demo's, for baselines
    assert {config.epochs for config in baselines(VALUES | {"recipe": "demo", "epochs": 2})} == {2}


def test_two_runs_separate_what_fine_tuning_and_what_coattention_gains():
    *usual, tuned, frozen = baselines(VALUES)
    assert usual == baselines(VALUES, matched=False)
    assert [baseline(config) for config in (*usual, tuned, frozen)] == [*BASELINES, *MATCHED]
    member = members(VALUES, ["camembert"], ["resnet152"])[0]
    # each differs from what it is compared with in one thing
    for ours, other in ((tuned, member), (frozen, usual[0])):
        changed = {f.name for f in dataclasses.fields(ours) if getattr(ours, f.name) != getattr(other, f.name)}
        assert changed == {"run", "system"}
    assert ablation(member) == "full" and ablation(frozen) is baseline(member) is None
    # where both backbones are frozen anyway, they would repeat concat and the member
    assert baselines(VALUES | {"recipe": "demo"}) == baselines(VALUES | {"recipe": "demo"}, matched=False)
    half = baselines(VALUES | {"freeze_image": True})
    assert [config.frozen for config in half[-2:]] == [("image",), ("text", "image")]
    partly = baselines(VALUES | {"recipe": "demo", "train_text_layers": 2})
    assert [config.train_text_layers for config in partly[-2:]] == [2, 0]


def test_a_frozen_model_of_a_fine_tuned_study_is_no_member(root):
    for config in (baselines(VALUES)[-1], members(VALUES, ["camembert"], ["resnet152"])[0]):
        fake(config, 0.9)
        assert list(member_runs("s")) == ([] if "frozen" in config.run else ["s-camembert-resnet152"])


def test_ablations_change_one_thing_and_share_the_full_model():
    rows = ablations(VALUES, 2)
    assert list(rows) == list(ABLATIONS)
    assert [config.seed for config in rows["no-bilstm"]] == [0, 1]
    assert rows["full"][0] == members(VALUES, ["camembert"], ["resnet152"])[0]
    for row, configs in rows.items():
        for config in configs:
            assert ablation(config) == row
            full = rows["full"][config.seed]
            changed = {f.name for f in dataclasses.fields(config) if getattr(config, f.name) != getattr(full, f.name)}
            assert changed - {"run", "curve"} == set(ABLATIONS[row])  # curve changes no result
    names = [config.run for configs in rows.values() for config in configs]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (VALUES | {"study": ""}, "study is empty"),
        (VALUES | {"study": "a/b"}, "must be a folder name"),
        (VALUES | {"study": None}, "study is empty"),
    ],
)
def test_a_study_needs_a_name(values, sentence):
    with pytest.raises(KitError, match=sentence):
        baselines(values)


def test_no_seed_is_refused():
    with pytest.raises(KitError, match="seeds=0 is too small"):
        ablations(VALUES, 0)


def test_a_study_has_its_own_runs_only(root):
    with pytest.raises(KitError, match="study 's' has no finished run; studies with runs: none yet"):
        study_runs("s")
    for name in ("s", "s-2"):  # one name begins with the other
        for config in members(VALUES | {"study": name}, ["camembert"], ["resnet152"]):
            fake(config, 0.9)
    assert [run.name for run in study_runs("s")] == ["s-camembert-resnet152"]
    assert member_runs("s") == {"s-camembert-resnet152": ("camembert", "resnet152")}
    with pytest.raises(KitError, match="studies with runs: s, s-2"):
        study_runs("other")


@pytest.fixture
def study(root, tiny_data):
    return fake_study(tiny_data)


def test_tables_stand_beside_the_papers_numbers(study):
    models = tables.models(study)
    assert list(models["paper"]) == ["88.78", "88.52"]
    assert [open_run(name).finished for name in models["run"]] == [True, True]  # each number has its folder
    table = tables.ablations(study).set_index("model")
    assert list(table.index) == list(ABLATIONS)
    assert table["paper"]["no-bilstm"] == "76.18"
    assert table["paper"]["no-co-attention"] == table["paper's difference"]["no-co-attention"] == ""  # not in the paper
    assert table["difference"]["no-bilstm"].high < 0
    assert table["difference"]["no-layer-weights"].value == 0  # the same predictions, seed by seed
    scores = [100 * open_run(name).summary["macro_f1"] for name in table["runs"]["full"].split(", ")]
    assert table["macro-F1"]["full"] == f"{np.mean(scores):.1f}"
    assert list(tables.baselines(study)["system"]) == ["concat", "bilinear", "dot", "text", "co-attention"]


def curves(name: str, *folds: list[float]) -> None:
    rows = [(f, e + 1, score) for f, scores in enumerate(folds) for e, score in enumerate(scores)]
    frame = pd.DataFrame(rows, columns=["fold", "epoch", "macro_f1"])
    frame.to_csv(open_run(name).folder / "metrics.csv", index=False)


def test_the_report_says_what_the_choice_of_the_epoch_is_worth(study):
    runs = [open_run(name) for name in member_runs(study)]
    (text,) = notes(runs, Answers())
    assert "`keep` best" in text and "no metrics.csv" in text
    curves(runs[0].name, [0.5, 0.71, 0.7], [0.5, 0.6, 0.6])
    curves(runs[1].name, [0.9, 0.5, 0.87])
    (text,) = notes(runs, Answers())
    assert (
        "for the 3 models trained for table 1, the selected epoch is 1.3 points above the last one on average" in text
    )
    assert "at most 3.0" in text
    for run in runs:
        write_json(run.folder / "config.json", dataclasses.asdict(run.config) | {"keep": "last"})
    assert "keep" not in "".join(notes(runs, Answers()))


@pytest.mark.parametrize("data", ["data/emoji", "./data/emoji/", str(project() / "data" / "emoji")])
@pytest.mark.parametrize("codes", [[], [10, 40]])
def test_the_report_says_what_was_chosen_on_the_catalogue(root, data, codes):
    config = train_config(run="some", data=data, recipe="demo")
    write_json(open_run("some").folder / "config.json", dataclasses.asdict(config))
    answers = Answers(pd.Series(codes, dtype=int))
    (text,) = notes([open_run("some")], answers)
    assert "chosen on validation splits of the two" in text
    assert ("`test` played no part in that" in text) == bool(codes)
    for other, shipped in {"data/shop": True, str(root): False}.items():
        write_json(open_run("some").folder / "config.json", dataclasses.asdict(config) | {"data": other})
        text = "".join(notes([open_run("some")], answers))
        assert ("chosen on validation splits" in text) == shipped
        assert ("one of the two small catalogues that the kit ships with" in text) == shipped


def test_runs_on_other_items_are_not_compared(study):
    config = ablations(VALUES, 1)["no-bilstm"][0]
    fake(config, 0.5, items=30)
    with pytest.raises(KitError, match="validate different items: train them with the same split"):
        tables.ablations(study)


def test_the_report_is_written_from_run_folders_alone(study, root, tiny_data):
    pd.DataFrame({"prdtypecode": [10, 40, 2705, 10, 40, 2705, 10]}, index=range(36, 43)).to_csv(root / "answers.csv")
    answers = str(root / "answers.csv")
    failed = {"s-x": "It <b>failed</b>."}
    write_json(root / "runs" / "s" / "study.json", {"data": str(tiny_data), "answers": answers, "failed": failed})
    page = write_report("s").read_text()
    text = (root / "runs" / "s" / "REPORT.md").read_text()
    assert f"Analysed and submitted: {choice_of('s').why}" in text
    assert "88.78" in text and "| test" in text
    assert "tested at once" in text and "| within class" in text
    assert "&lt;b&gt;failed" in page and "<b>failed" not in page
    assert page.count("<img") >= 4 and 'src="figures' not in page


@pytest.mark.parametrize("split", ["grouped", "random"])
def test_the_report_says_how_many_test_items_grouped_folds_forbid(root, tiny_data, split):
    config = train_config(**VALUES | {"data": str(tiny_data), "split": split, "run": "member"})
    fake(config, 0.75)
    run, challenge = open_run("member"), read_challenge(tiny_data)
    answers = Answers(pd.Series([10, 10, 40, 40, 40, 40, 40], range(36, 43)))  # `fake` predicts 10 for all
    test, errors = challenge.test["test"].copy(), read_errors(run, challenge)
    assert why_test_differs(run, run, errors, answers, challenge) == ""  # no duplicates
    test.loc[:2, "title"] = challenge.train["title"].iloc[[5, 9, 7]].str.upper().tolist()
    known = dataclasses.replace(challenge, test={"test": test})
    assert why_test_differs(run, run, errors, Answers(), known) == ""
    text = why_test_differs(run, run, errors, answers, known)
    if split == "grouped":
        assert "3 of the 7 test items share a title" in text
        assert "right on 66.7 [0.0, 100.0] % of these, on 0.0 [0.0, 0.0] % of the other" in text
        assert f"on {100 * (~errors.items['wrong']).mean():.1f} [" in text
    else:
        assert text == ""


def test_answers_tell_how_much_a_run_gains_on_another(root):
    runs = []
    for name, codes in {"good": [0, 1, 0, 1], "bad": [0, 0, 0, 1]}.items():
        write_json(open_run(name).folder / "config.json", dataclasses.asdict(train_config(run=name)))
        frame = pd.DataFrame({"id": range(4), "label": [5, 6, 5, 6], "fold": 0})
        test = pd.DataFrame({"id": range(4), "split": "test"})
        open_run(name).write([5, 6], (frame, np.eye(2)[codes]), (test, np.eye(2)[codes][None]), {})
        runs.append(open_run(name))
    answers = Answers(pd.Series([5, 6, 5, 6]))
    gained = answers.score(*runs)
    assert gained.signed and gained.value == pytest.approx(answers.score(runs[0]).value - answers.score(runs[1]).value)
    assert gained.low <= gained.value <= gained.high and gained.value > 20
    assert Answers().score(*runs) is None and Answers(pd.Series([5], [9])).score(*runs) is None


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ({36: 10}, "has different ids than the test file"),
        ({i: 10 for i in range(36, 42)} | {42: None}, "line 8: prdtypecode is missing"),
    ],
)
def test_answers_that_do_not_fit_are_refused(rows, sentence, tiny_data, tmp_path):
    pd.DataFrame({"prdtypecode": rows}).to_csv(tmp_path / "answers.csv")
    with pytest.raises(KitError, match=sentence):
        read_answers(str(tmp_path / "answers.csv"), read_challenge(tiny_data))
    with pytest.raises(KitError, match="cannot be read"):
        read_answers(str(tmp_path / "none.csv"), read_challenge(tiny_data))


def test_without_a_name_what_the_study_submits_is_found(study):
    assert find_result() == chosen(study) != list_runs()[-1]
    assert find_result("s-no-bilstm-s0").name == "s-no-bilstm-s0"
    with pytest.raises(KitError, match="leave one of them out"):
        find_result("s-no-bilstm-s0", study)
    fake(train_config(run="alone"), 0.9)
    assert find_result().name == "alone"


def test_an_ensemble_with_baselines_is_none_of_the_papers_and_says_what_it_should_gain(study):
    light = baseline_runs(study)
    run = stack(ensemble_config([*member_runs(study), *light], "everything", study, method="greedy"))
    row = tables.ensembles(study).set_index("run").loc[run.name]
    assert row["grouping"] == f"all 2 + {len(light)} baselines" and row["paper"] == ""
    sentence = expectation(run)
    members = len(run.config.members)
    assert sentence.startswith(
        f"The stack {run.name!r} of {members} members (method greedy) is expected to change macro-F1 by"
    )
    assert run.summary["best_member"] in sentence and f"{100 * run.summary['gain_high']:+.1f}]" in sentence
    assert expectation(open_run(light[0])) == ""


# --- which run is submitted


def test_the_choice_of_a_named_study_is_found_whatever_came_later(study):
    fake(train_config(run="alone"), 0.9)
    assert find_result(study=study) == chosen(study) != find_result()


@pytest.fixture
def pair(root, tiny_data, monkeypatch):
    """A study of two members, whose ensembles are stacked by the fastest method whatever their name."""
    for method in ("network", "logistic"):
        monkeypatch.setitem(METHODS, method, METHODS["blend"])
    for seed, config in enumerate(members(VALUES | {"data": str(tiny_data)}, ["camembert", "flaubert"], ["resnet152"])):
        fake(config, 0.8 - 0.1 * seed, seed)
    return "s"


def ensemble(study: str, method: str, names: list[str] = (), evaluation: str = "nested"):
    """What 05_ensemble does last: of the study's members, or of the runs `names`."""
    pairs = member_runs(study) if not names else {name: ("", "") for name in names}
    config = ensemble_config(pairs, f"all {len(pairs)}", "" if names else study, method=method, evaluation=evaluation)
    choose(run := stack(config))
    return run


def copied(root, order: list[str]) -> None:
    """The run folders as a copy leaves them: with file times that tell nothing."""
    for seconds, name in enumerate(order):
        os.utime(root / "runs" / name / "summary.json", (10**9 + seconds,) * 2)


@pytest.mark.parametrize("method", ["blend", "logistic", "network"])
def test_the_choice_of_05_is_what_is_analysed_and_submitted(pair, root, method, capsys):
    others = [stack(ensemble_config(member_runs(pair), "all 2", pair, method=m)) for m in ("network", "blend")]
    run = ensemble(pair, method)
    copied(root, [run.name, *(other.name for other in others)])
    assert chosen(pair) == find_result() == run
    assert f"{run.name}, of {len(study_runs(pair))} finished runs of the study 's': 05_ensemble chose it." in (
        capsys.readouterr().out
    )
    again = ensemble(pair, "network")  # finished already: nothing is newer but the choice
    assert chosen(pair) == find_result() == again


def test_the_choice_among_runs_of_no_study_is_found_without_a_name(pair, root, capsys):
    names = list(member_runs(pair))
    blend = ensemble("", "blend", names)
    stack(ensemble_config(names, "all 2", method="network"))
    assert find_result() != blend  # the newest run, made since
    choose(blend)
    copied(root, [blend.name])
    assert find_result() == blend
    assert f"{blend.name}, of {len(list_runs())} finished runs: 05_ensemble chose it last." in capsys.readouterr().out
    assert chosen(pair).config.study == pair  # the study's own choice is another matter
    ensemble(pair, "logistic")
    assert find_result() == chosen(pair)
    fake(train_config(run="alone"), 0.9)
    assert find_result().name == "alone"


def test_a_choice_that_is_out_of_date_is_not_taken_and_the_reason_is_said(pair, root):
    blend = ensemble(pair, "blend")
    usual = stack(ensemble_config(member_runs(pair), "all 2", pair))
    (blend.folder / "summary.json").unlink()
    found = choice_of(pair)
    assert found.run == usual
    assert "the ensemble of most members, by best; 05_ensemble chose s-ensemble-all_2-blend, which is gone" in found.why
    blend = ensemble(pair, "blend")
    fake(open_run("s-flaubert-resnet152").config, 0.6, seed=9)  # a member is trained again
    found = choice_of(pair)
    assert found.run.name in member_runs(pair) and "no ensemble; 05_ensemble chose" in found.why
    assert "which has members that were trained again or are gone: run it again" in found.why
    assert ensemble(pair, "blend") == chosen(pair)


def test_members_that_a_choice_has_not_seen_are_named(pair):
    run = ensemble(pair, "blend")
    fake(members(open_values(pair), ["mbert"], ["resnet152"])[0], 0.6, seed=3)
    assert choice_of(pair).run == run
    assert "it lacks s-mbert-resnet152: run 05_ensemble again" in choice_of(pair).why


def open_values(study: str) -> dict:
    return VALUES | {"data": open_run(next(iter(member_runs(study)))).config.data}


def test_an_in_sample_choice_is_taken_with_a_warning(pair, capsys):
    with pytest.warns(UserWarning, match="in-sample"):
        run = ensemble(pair, "blend", evaluation="in-sample")
    for name in ("", run.name):
        assert find_result(name) == run
        assert "It is evaluated in-sample: the ensemble is scored on the items that it" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"run": 3, "chosen": "2026-01-01"}', '{"run": "a", "chosen": 1}']
)
def test_a_damaged_choice_is_a_sentence(pair, root, content):
    (root / "runs" / pair).mkdir()
    (root / "runs" / pair / "choice.json").write_text(content)
    with pytest.raises(KitError, match=r"s/choice.json is damaged: run 05_ensemble again"):
        find_result()


def test_the_order_of_runs_is_not_that_of_their_files(root):
    names = ["c", "a", "b"]
    for name in names:
        fake(train_config(run=name), 0.9)
    copied(root, ["b", "c", "a"])
    assert [run.name for run in list_runs()] == names and find_run().name == "b"
    path = root / "runs" / "b" / "summary.json"
    write_json(path, read_json(path) | {"finished": "yesterday"})
    assert [run.name for run in list_runs()] == ["b", "c", "a"]


# --- backbones whose names end alike

KAGGLE = [f"/kaggle/input/{name}/transformers/base/1" for name in ("camembert", "flaubert", "mbert")]
SIMILAR = {
    "version folders": KAGGLE,
    "signs": ["/w/all-MiniLM-L6-v2", "/w/all_MiniLM_L6_v2", "/w/all.MiniLM.L6.v2"],
    "long": [f"/w/{'sentence-transformers-paraphrase-' * 3}{n}" for n in range(3)],
    "capitals": ["/w/bert", "/w/BERT", "hub/Bert"],
}


@pytest.mark.parametrize("texts", SIMILAR.values(), ids=SIMILAR)
def test_members_whose_directories_end_alike_are_all_members(root, texts):
    at_once = members(VALUES, texts, ["resnet152"])
    assert len({config.run.lower() for config in at_once}) == 3
    made = []
    for text in texts:  # one after the other, as 03_train with `study` and no `run` makes them
        made.append(one_run(VALUES | {"text": text}))
        fake(made[-1], 0.9, seed=len(made))
        assert one_run(VALUES | {"text": text}) == made[-1]
    assert len({config.run for config in made}) == 3
    assert members(VALUES, texts, ["resnet152"]) == made  # the whole study finds what is there
    assert list(ablations(VALUES | {"text": texts[2]}, 1)["full"]) == [made[2]]
    pairs = member_runs("s")
    assert set(pairs) == {config.run for config in made} and len(set(pairs.values())) == 3
    assert len(tables.models("s")) == 3
    stack(ensemble_config(pairs, "all 3", "s", method="blend"))
    assert len(groupings(pairs)["all 3"]) == 3
    assert tables.ensembles("s")["grouping"][0] == "all 3"


def test_05_stacks_what_a_study_has(root):
    light = baselines(VALUES, matched=False)[-2:]
    for config in light:
        fake(config, 0.7)
    assert stacking_groups("", "s") == {"2 baselines": [config.run for config in light]}
    for config in members(VALUES, ["camembert", "flaubert"], ["resnet152"]):
        fake(config, 0.9)
    groups = stacking_groups("", "s")
    assert list(groups) == ["all 2", "all 2 and 2 baselines"] and len([*groups.values()][-1]) == 4
    assert stacking_groups(f"{light[0].run}, {light[1].run}", "other") == {"all 2": [config.run for config in light]}


def test_one_directory_written_in_two_ways_is_one_backbone(root):
    configs = members(VALUES, ["/w/bert", "/w/bert/", "/w/x/../bert"], ["resnet152"])
    assert [config.run for config in configs] == ["s-bert-resnet152"]
    for seed, text in enumerate(["/w/bert", "/w/bert/"]):
        fake(train_config(**VALUES | {"text": text, "seed": seed, "run": f"s-{seed}"}), 0.9)
    assert member_runs("s") == {"s-0": ("bert", "resnet152")}
    assert backbone_names(study_runs("s"))["s-1"] == ("bert", "resnet152")


def test_a_name_that_another_run_has_is_not_taken(root):
    fake(train_config(**VALUES | {"text": "/w/other", "run": "s-camembert-resnet152"}), 0.9)  # named by hand
    assert one_run(VALUES).run not in ("s-camembert-resnet152", "s-other-resnet152")


def test_a_long_study_name_leaves_room_for_its_runs(root):
    values = VALUES | {"study": "s" * 250, "text": KAGGLE[0]}
    configs = [*members(values, KAGGLE, ["resnet152"]), *baselines(values)]
    configs += [config for row in ablations(values, 2).values() for config in row]
    names = {config.run for config in configs}
    assert max(map(len, names)) <= 250 and len(names) == 3 + 12 + 12  # no two runs share one


def test_what_was_not_measured_is_no_zero(root):
    fake(train_config(run="one"), 0.9)
    run = open_run("one")
    row = tables.runs([run]).iloc[0]
    assert (row["seconds per step"], row["process peak GB"], row["time"]) == ("–", "–", "1.0 s")
    write_json(
        run.folder / "summary.json", run.summary | {"step_seconds": 65.2, "peak_memory_gb": 2.19, "seconds": 0.3}
    )
    row = tables.runs([run]).iloc[0]
    assert (row["seconds per step"], row["process peak GB"], row["time"]) == ("65", "2.2", "0.3 s")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"limit": 30}, r"read different items \(limit: 30 and 0\): train one again like the other"),
        ({"clean_titles": False, "limit": 9}, r"\(limit: 9 and 0; clean_titles: False and True\)"),
        ({}, "The data changed between 's-no-bilstm-s0' and 's-no-bilstm-s1': train the older one again"),
    ],
)
def test_the_data_is_blamed_only_if_the_settings_are_alike(root, changed, sentence):
    for row in ("full", "no-bilstm"):
        for config in ablations(VALUES, 2)[row]:
            fake(config, 0.5)
    fake(dataclasses.replace(ablations(VALUES, 1)["no-bilstm"][0], **changed), 0.5, data="other")
    with pytest.raises(KitError, match=sentence) as caught:
        tables.ablations("s")
    assert ("data changed" in str(caught.value)) == (not changed)


def test_a_run_of_another_version_does_not_stop_a_study(study, root):
    folder = root / "runs" / "old"
    write_json(folder / "config.json", {"colour": 1})
    write_json(folder / "summary.json", {})
    with pytest.warns(UserWarning, match="unknown field colour"):
        assert "old" not in [run.name for run in study_runs(study)]


def test_members_come_in_the_same_order_whichever_was_trained_last(study):
    before = list(member_runs(study))
    path = open_run(before[0]).folder / "summary.json"
    path.write_text(path.read_text())  # the newest now
    assert list(member_runs(study)) == before


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["-p", "bilstm", "False"], "-p bilstm cannot be set for a whole study"),
        (["-p", "epoch", "3"], "-p epoch is no field of a run"),
        (["-p", "epochs", "three"], "epochs='three' must be a whole number"),
        (["-p", "again", "perhaps"], "again='perhaps' must be True or False"),
        (["-p", "processes", "many"], "processes='many' must be a whole number"),
        (["--texts", ","], "texts and images must each name at least one backbone"),
        (["-p", "split", "3"], "split='3' is not one of"),
        (["--answers", "/no/where.csv"], "cannot be read"),
        (["--data", "/no/where", "--texts", "/no/text"], "/no/where cannot be listed"),
    ],
)
def test_a_study_refuses_before_it_starts(more, sentence, root, tiny_data, tiny_texts, tiny_image, capsys):
    texts = ["--texts", tiny_texts["bert"], "--images", tiny_image]
    assert main(["paper", "--study", "s", "--data", str(tiny_data), *texts, *more]) == 1
    assert sentence in capsys.readouterr().err
    assert not list((root / "runs").glob("*"))


def test_05_stacks_one_member_with_the_baselines_but_no_run_alone(root):
    (member,) = members(VALUES, ["camembert"], ["resnet152"])
    fake(member, 0.9)
    for names in ("", member.run):
        with pytest.raises(KitError, match=f"A stack needs two finished runs, and .* has {member.run}: train"):
            stacking_groups(names, "s")
    light = baselines(VALUES, matched=False)[-2:]
    for config in light:
        fake(config, 0.7)
    names = [member.run, *(config.run for config in light)]
    assert stacking_groups("", "s") == {"all 1 and 2 baselines": names}
    assert len(compare(stacking_groups("", "s"), ["blend"], "s")) == 1


def test_05_stacks_fine_tuned_models_of_one_side_too(root):
    configs = [train_config(**VALUES | {"run": f"s-{system}", "system": system}) for system in ("text", "tfidf")]
    for config in configs:
        fake(config, 0.7)
    assert stacking_groups("", "s") == {"2 baselines": ["s-text", "s-tfidf"]}
    assert list(tables.baselines("s")["system"]) == ["tfidf"]  # `text` there is the frozen one


def test_baselines_are_compared_on_the_members_backbones(root):
    """The newest baselines are on other backbones than the member, and share one of them."""
    pairs = [("camembert", "resnet152"), ("camembert", "resnet50"), ("flaubert", "resnet152")]
    systems = ("tfidf", "logistic", "logistic_text", "logistic_image", "neighbours")
    for number, (text, image) in enumerate(pairs):
        for system in systems[bool(number) :]:
            values = VALUES | {"system": system, "text": text, "image": image}
            fake(train_config(**values | {"run": f"s-{number}-{system}"}), 0.5, seed=number)
    last = tables.baselines("s")
    assert set(last["run"]) == {f"s-0-{system}" for system in ("tfidf", "logistic", "neighbours")} | {
        "s-1-logistic_text",  # the same text
        "s-2-logistic_image",
    }
    for text, image in pairs[1:2]:
        fake(members(VALUES, [text], [image])[0], 0.9)
    table = tables.baselines("s").set_index("system")["run"]
    assert (table["logistic"], table["neighbours"], table["tfidf"]) == ("s-1-logistic", "s-1-neighbours", "s-0-tfidf")
    assert (table["logistic_text"], table["logistic_image"]) == ("s-1-logistic_text", "s-1-logistic_image")
    assert table["co-attention"] == "s-camembert-resnet50"


def test_a_stack_of_light_members_alone_is_found_and_reported(root, tiny_data):
    values = VALUES | {"data": str(tiny_data)}
    light = baselines(values, matched=False)[-2:]
    for seed, config in enumerate(light):
        fake(config, 0.7, seed)
    with pytest.raises(KitError, match="study 's' has no ensemble and no finished member yet: stack its runs"):
        write_report("s")
    assert find_result().name == light[-1].run
    run = dataclasses.replace(ensemble_config([config.run for config in light], "members", "s"), run="s")
    choose(stack(run))
    for config in light[:1]:
        fake(dataclasses.replace(config, run="s-later"), 0.2)  # the newest
    assert choice_of("s").run.name == find_result().name == "s"
    (root / "runs" / "s" / "choice.json").unlink()
    assert choice_of("s").why.startswith("s, of 4 finished runs of the study 's': the ensemble of most members")
    write_report("s")
    text = (root / "runs" / "s" / "REPORT.md").read_text()
    assert "| 2 baselines" in text and "the ensemble beats its best member" in text
    assert "Table 1" not in text and "co-attention itself" not in text and "backbones stay frozen" not in text


# --- catalogues without one side, or without items to predict


@pytest.mark.parametrize(
    ("side", "systems"), [("text", ["text", "tfidf", "logistic_text"]), ("image", ["image", "logistic_image"])]
)
def test_a_catalogue_of_one_side_has_the_baselines_that_read_it(side, systems, root):
    values = VALUES | {"data": catalogue(root, side)}
    configs = baselines(values)
    assert [config.system for config in configs] == systems
    check_data(configs[0])
    helpful = f"has only {side}s, and co-attention, .*: take 02_baselines, 03_train with -p system {side}, or kit best"
    for refused in (
        lambda: members(values, ["camembert"], ["resnet152"]),
        lambda: one_run(values),
        lambda: ablations(values, 1),
    ):
        with pytest.raises(KitError, match=helpful):
            refused()
    assert one_run(values | {"system": side}).system == side


def test_baselines_and_ablations_refuse_a_system(root):
    for refused in (baselines, lambda values: ablations(values, 1)):
        with pytest.raises(KitError, match="system cannot be set for baselines and ablations"):
            refused(VALUES | {"system": "text"})


def test_a_whole_study_refuses_a_catalogue_of_one_side(root, tiny_texts, tiny_image, capsys):
    texts = ["--texts", tiny_texts["bert"], "--images", tiny_image]
    assert main(["paper", "--study", "s", "--data", catalogue(root, "text"), *texts]) == 1
    assert "described has only texts, and co-attention" in capsys.readouterr().err
    assert not list((root / "runs").glob("*"))


@pytest.mark.parametrize("test", [True, False])
def test_a_study_of_one_member_is_stacked_and_submitted_only_if_there_is_something(
    test, root, tiny_config, monkeypatch, capsys
):
    """What the notebooks do is recorded; the runs that they train are there."""
    values = tiny_config | {"data": catalogue(root, "text", "image", test=test), "study": "s"}
    text, image = values["text"], values["image"]
    plan, executed = Plan(Study(values, [text], [image], matched=False)), []
    for config in (*plan.members, *plan.groups["02_baselines"][-2:]):
        fake(config, 0.9)
    monkeypatch.setattr(pipeline, "_execute", lambda step, *_, **__: executed.append(step.notebook))
    pipeline.run_notebooks(plan)
    assert executed[-3 + (not test) :] == ["05_ensemble", "06_error_analysis", "07_submission"][: 2 + test]
    assert ("07_submission: left out" in capsys.readouterr().out) != test and not plan.failed


def test_the_baselines_are_shown_beside_the_members_and_a_copy_older_than_its_runs_is_made_again(
    root, tiny_config, monkeypatch
):
    """What the notebooks do is recorded; their runs are made up."""
    values, executed = tiny_config | {"study": "s"}, []
    study = Study(values, [values["text"]], [values["image"]], matched=False)
    plan = Plan(study)
    (member,) = plan.members

    def execute(step, plan, **_):
        notebook, folder, given, configs = step
        executed.append((notebook, given.get("again")))
        for config in configs:
            if not open_run(config.run).finished:
                fake(config, 0.9)
        copy = root / "runs" / folder / f"{notebook}.ipynb"
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.touch()
        if notebook == "02_baselines":
            copy.write_text(str(open_run(member.run).finished))

    def again(failed=(), **changes) -> list:
        executed.clear()
        plan.study, plan.failed = dataclasses.replace(study, **changes), dict(failed)
        pipeline.run_notebooks(plan)
        return [step for step in executed if step[0] < "05"]

    monkeypatch.setattr(pipeline, "_execute", execute)
    notebooks = ["01_eda", "02_baselines", "03_train", "02_baselines", "04_ablations"]
    assert again() == [(name, None if name == "01_eda" else False) for name in notebooks]
    copy = root / "runs" / "s" / "02_baselines.ipynb"
    assert copy.read_text() == "True"
    assert not again()
    later = copy.stat().st_mtime_ns + 10**10
    os.utime(open_run(member.run).folder / "summary.json", ns=(later, later))  # trained since
    assert [name for name, _ in again()] == notebooks[2:]
    told = [given for name, given in again(again=True) if name == "02_baselines"]
    assert told == [True, False]  # the second time nothing is trained
    assert [name for name, _ in again(again=True, failed={"02_baselines": "why"})].count("02_baselines") == 1


def test_a_planned_study_that_starts_again_forgets_its_runs_on_other_data(root, tiny_config, tiny_data):
    values = tiny_config | {"study": "s"}
    made = Plan(Study(values, [values["text"]], [values["image"]], matched=False)).members[0]
    fake(made, 0.9)
    other = str(shutil.copytree(tiny_data, root / "other"))
    another = prepare_run(train_config(**values | {"data": other, "run": "another"}))
    with pytest.raises(KitError, match=r"'another' would learn from .*other, and .*give each catalogue a study"):
        launch([another])
    values |= {"data": other}
    Plan(Study(values, [values["text"]], [values["image"]], again=True, matched=False))
    assert not open_run(made.run).finished and open_run(made.run).config.data == other


def test_a_study_without_a_run_names_the_steps_that_it_lacks(root, tiny_config, monkeypatch):
    values = tiny_config | {"study": "s"}
    plan = Plan(Study(values, [values["text"]], [values["image"]], matched=False))
    monkeypatch.setattr(pipeline, "_execute", lambda *_, **__: None)
    pipeline.run_notebooks(plan)
    assert set(plan.failed) == {"06_error_analysis", "07_submission"}


@pytest.mark.parametrize("gpus", [0, 4])
def test_notebooks_that_train_do_not_share_gpus(gpus, root, tiny_config, monkeypatch):
    values = tiny_config | {"study": "s"}
    plan = Plan(Study(values, [values["text"]], [values["image"]], jobs=2, matched=False))
    alone = []
    monkeypatch.setattr(pipeline, "available_gpus", lambda: gpus)
    monkeypatch.setattr(pipeline, "_execute", lambda step, plan, named=False: alone.append(not named))
    pipeline._execute_several([pipeline.Step("03_train", name, {}) for name in ("a", "b")], plan)
    assert alone == [gpus > 0] * 2
