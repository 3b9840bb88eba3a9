"""The error analysis joins predictions to items, tests what the paper tests, and shows any product text safely."""

import dataclasses
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import t as student
from scipy.stats import ttest_ind
from sklearn.metrics import f1_score, precision_score, recall_score

from kit.analysis.errors import Errors, confusions, hardest, next_steps, per_class, read_errors, welch, worst_mistakes
from kit.analysis.gallery import gallery
from kit.config import train_config
from kit.core.exceptions import KitError
from kit.runs import Run
from kit.studies.tables import descriptions, tell_descriptions


def make_errors(label, predicted, loss=1.0, described=True, names=None, **columns) -> Errors:
    items = pd.DataFrame({"label": label, "predicted": predicted}).assign(loss=loss, described=described)
    items = items.assign(id=range(len(items)), title="titre", description="texte", images=[[]] * len(items))
    items = items.assign(probability=0.5, probability_true=0.1, wrong=items["label"] != items["predicted"], **columns)
    return Errors(items, sorted({*label, *predicted}), names or {})


@pytest.fixture
def run(tmp_path, tiny_data) -> Run:
    """A finished run on the tiny catalogue, validated on 12 of its items in another order than the file's."""
    config = train_config(data=str(tiny_data), run="some")
    ids = [30, 3, 4, 35, 8, 9, 10, 11, 20, 21, 22, 23]
    labels = [(10, 40, 2705)[i % 3] for i in ids]
    values = np.full((12, 3), 0.2, np.float32)
    values[np.arange(12), [0, 0, 1, *[i % 3 for i in ids[3:-1]], 1]] = 0.6  # the last is 2705, taken for 40
    values[0] = [1, 0, 0]
    values[1] = [0, 1, 0]  # is 10
    frame = pd.DataFrame({"id": ids, "label": labels, "fold": 0})
    folder = tmp_path / "some"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
    (folder / "summary.json").write_text("{}")
    frame.join(pd.DataFrame(values, columns=["p_10", "p_40", "p_2705"])).to_parquet(folder / "oof.parquet")
    return Run(folder)


def test_items_are_joined_by_id(run):
    found = read_errors(run)
    items = found.items.set_index("id")
    assert list(items.index[:4]) == [30, 3, 4, 35]
    assert items.loc[35, "title"].startswith("piscine")
    assert [Path(path).name for path in items.loc[35, "images"]] == ["image_535_product_935.jpg"]
    assert items["described"].tolist() == [i % 2 == 1 for i in items.index]
    assert items.index[items["wrong"]].tolist() == [3, 23]
    assert items.loc[23, ["predicted", "label"]].tolist() == [40, 2705]
    assert items.loc[23, "probability"] == pytest.approx(0.6)
    assert items.loc[23, "loss"] == pytest.approx(-np.log(0.2))
    assert items.loc[30, "loss"] == 0
    assert 80 < items.loc[3, "loss"] < 100  # a probability of zero: large, not infinite
    assert found.counts.tolist() == [[3, 1, 0], [0, 3, 0], [0, 1, 4]]


@pytest.mark.parametrize(("column", "value"), [("id", 99), ("label", 40), ("label", 77)])
def test_data_that_changed_since_is_refused(run, column, value):
    frame = pd.read_parquet(run.folder / "oof.parquet")
    frame.loc[0, column] = value
    frame.to_parquet(run.folder / "oof.parquet")
    with pytest.raises(KitError, match=r"changed since the run 'some' was trained on it: 1 of .* items .* \(id \d+\)"):
        read_errors(run)


def test_confusions_point_from_predicted_to_actual():
    found = make_errors([10, 10, 10, 40, 40, 60], [40, 40, 10, 10, 40, 10], names={10: "Livres", 40: "Jeux"})
    table = confusions(found, top=2)
    first = table.iloc[0]
    assert (first["predicted"], first["actual"], first["count"], first["share"]) == (40, 10, 2, 0.5)
    assert (first["predicted_name"], first["actual_name"]) == ("Jeux", "Livres")
    assert len(table) == 2
    assert confusions(found)["actual_name"].tolist() == ["Livres", "Jeux", "60"]  # a code where there is no name


def test_welch_is_scipys_with_the_sign_of_without_minus_with():
    loss = np.array([4.0, 5.0, 7.0, 1.0, 2.0, 2.5, 1.5, 0.1, 0.2, 0.4])
    described = np.array([False] * 3 + [True] * 4 + [False] + [True] * 2)
    wrong = np.array([True] * 7 + [False] * 3)
    table = welch(make_errors([10] * 10, np.where(wrong, 40, 10), loss, described))
    for group, chosen in {"misclassified items": wrong, "all items": np.ones(10, bool)}.items():
        without, given = loss[chosen & ~described], loss[chosen & described]
        row = table.loc[group]
        test = ttest_ind(without, given, equal_var=False, alternative="greater")
        assert row["t"] == pytest.approx(test.statistic)
        assert row["t"] > 0
        assert row["p"] == pytest.approx(test.pvalue)
        assert row["df"] == pytest.approx(test.df)
        assert row["difference"] == pytest.approx(without.mean() - given.mean())
        assert (row["items_without"], row["items_with"]) == (len(without), len(given))
        both = ttest_ind(without, given, equal_var=False).confidence_interval()
        assert (row["difference_low"], row["difference_high"]) == pytest.approx(tuple(both))
    assert table.loc["all items", "error_rate_without"] == 0.75
    assert table.loc["all items", "error_rate_with"] == pytest.approx(4 / 6)


def test_a_class_that_is_hard_and_undescribed_does_not_pass_for_an_effect_of_descriptions():
    random = np.random.default_rng(0)
    label = np.repeat([10, 40], 500)
    described = random.random(1000) < np.where(label == 10, 0.1, 0.9)
    loss = random.normal(np.where(label == 10, 5, 1), 0.5)
    table = welch(make_errors(label, label, loss, described))
    assert table.loc["all items", "p"] < 1e-6
    assert table.loc["within class", "p"] > 0.01


MISSING = {  # how often the items of each of 27 classes have no description
    "3 or 97 %": np.where(np.arange(27) < 17, 0.03, 0.97),
    "2 to 90 %": np.linspace(0.02, 0.9, 27),
    "35 %": np.full(27, 0.35),
    "0, 40 or 100 %": np.arange(27) % 3 / 2 * np.where(np.arange(27) % 3 == 1, 0.8, 1),
}


@pytest.mark.parametrize("missing", MISSING)
def test_a_difference_within_classes_is_found_however_often_descriptions_are_missing(missing):
    random, true, rows = np.random.default_rng(0), 0.3, []
    for _ in range(150):
        label = random.integers(0, 27, 1144)
        without = random.random(1144) < MISSING[missing][label]
        noise = (random.exponential(1, 1144) - 1) * np.where(without, 1.5, 0.8)
        loss = 2 * MISSING[missing][label] + true * without + noise  # classes that lack descriptions are harder, too
        rows.append(welch(make_errors(label, label, loss, ~without)).loc["within class"])
    table = pd.DataFrame(rows)
    differences = table["difference"].astype(float)
    assert abs(differences.mean() - true) < 3 * differences.std() / np.sqrt(150)
    assert table["difference_low"].le(true).mul(table["difference_high"] >= true).mean() == pytest.approx(
        0.95, abs=0.05
    )
    error = (table["difference_high"] - table["difference_low"]) / 2 / student.ppf(0.975, table["df"].astype(float))
    assert error.mean() == pytest.approx(differences.std(), rel=0.2)


def test_of_one_class_the_comparison_within_is_the_plain_one():
    random = np.random.default_rng(0)
    without, loss = random.random(400) < 0.3, random.exponential(1, 400)
    table = welch(make_errors([10] * 400, [10] * 400, loss + without, ~without))
    plain, within = (table.loc[row] for row in ("all items", "within class"))
    assert within["difference"] == pytest.approx(plain["difference"])
    assert within["t"] == pytest.approx(plain["t"], rel=0.02) and within["t"] > 5
    assert within["p"] == pytest.approx(student.sf(within["t"], 398))
    assert within[["mean_loss_without", "error_rate_with"]].isna().all()


@pytest.mark.parametrize(("shift", "verdict"), [(1, "do worse than"), (0, "are not told apart"), (-1, "do better")])
def test_the_effect_of_descriptions_is_said_and_measured_in_errors_too(shift, verdict):
    random = np.random.default_rng(0)
    without = np.arange(400) % 2 > 0
    predicted = np.where(random.random(400) < 0.4 + 0.2 * shift * without, 40, 10)
    errors = make_errors([10] * 400, predicted, 1 + random.normal(0, 0.5, 400) + shift * without, ~without)
    rates = errors.items.groupby("described")["wrong"].mean()
    shown = descriptions(errors).set_index("items")["difference in errors, points"]
    assert shown["all items"].startswith(f"{100 * (rates[False] - rates[True]):+.1f} [")
    assert shown["misclassified items"] == ""
    assert tell_descriptions(errors).startswith(f"Items without a description {verdict}")
    assert f"error rate by {shown['within class']} points" in tell_descriptions(errors)
    assert "is not tested. Too few" in tell_descriptions(make_errors([10] * 4, [10] * 4, np.arange(4.0), [True] * 4))


@pytest.mark.filterwarnings("error")
def test_what_to_try_next_follows_from_the_tables():
    label, predicted = [10] * 20 + [40] * 4 + [60] * 8, [10] * 20 + [10, 10, 60, 40] + [60] * 8
    described = [True] * 20 + [False] * 4 + [True] * 6 + [False] * 2
    errors = make_errors(label * 4, predicted * 4, described=described * 4, names={10: "big", 40: "small"})
    weak, rare, texts = next_steps(errors)
    assert (
        weak.startswith("small is the weakest class (F1 40.0 [") and "16 items), most often taken for big (8)" in weak
    )
    assert "recall 25.0, precision 100.0" in rare and "-p class_weights 0.5" in rare
    assert texts.startswith("24 items lack a description and are misclassified more often, by 50.0 [")
    assert next_steps(make_errors(label, label)) == []


@pytest.mark.filterwarnings("error")
def test_classes_without_both_kinds_of_items_compare_nothing():
    label, described = [10] * 4 + [40] * 4, [True] * 4 + [False] * 4
    loss = np.arange(8.0) ** 2
    row = welch(make_errors(label, label, loss, described)).loc["within class"]
    assert row[["difference", "difference_low", "t", "df", "p"]].isna().all()
    assert row["note"].startswith("Too few items") and row["items_without"] == row["items_with"] == 0
    label, loss, described = label + [60] * 5, [*loss, 3, 4, 7, 1, 2], described + [False] * 3 + [True] * 2
    row = welch(make_errors(label, label, loss, described)).loc["within class"]
    assert (row["items_without"], row["items_with"], row["note"]) == (3, 2, "")
    assert row["difference"] == pytest.approx(14 / 3 - 1.5)


@pytest.mark.parametrize("described", [[True] * 6, [False] * 6, [True] * 5 + [False]])
@pytest.mark.filterwarnings("error")
def test_too_few_items_for_a_test_are_said(described):
    table = welch(make_errors([10] * 6, [40] * 6, [1, 2, 3, 4, 5, 6.0], described))
    assert table[["t", "df", "p", "difference_low"]].isna().all(axis=None)
    assert table["note"].str.startswith("Too few items").all()


@pytest.mark.filterwarnings("error")
def test_losses_without_variance_are_said():
    described = [True, False] * 3
    assert welch(make_errors([10] * 6, [10] * 6, 0.0, described)).loc["all items", "note"].startswith("The losses do")
    one_side = welch(make_errors([10] * 6, [10] * 6, [1, 2, 1, 3, 1, 4.0], described)).loc["all items"]
    assert one_side["t"] > 0 and one_side["note"] == ""


def test_class_scores_are_scikit_learns():
    random = np.random.default_rng(1)
    label = random.choice([10, 40, 60, 2705], 300, p=[0.6, 0.3, 0.08, 0.02])
    predicted = np.where(random.random(300) < 0.7, label, random.choice([10, 40, 60], 300))
    table = per_class(make_errors(label, predicted))
    for column, score in {"f1": f1_score, "precision": precision_score, "recall": recall_score}.items():
        assert table[column].to_numpy() == pytest.approx(score(label, predicted, average=None))
    assert (table["f1_low"] <= table["f1"]).all() and (table["f1"] <= table["f1_high"]).all()
    assert table["support"].tolist() == [(label == code).sum() for code in table["code"]]


def test_intervals_of_classes_cover_what_many_items_would_show():
    random, codes = np.random.default_rng(0), [10, 40, 60, 2705]
    recall, covered = dict(zip(codes, (0.9, 0.6, 0.97, 0.5), strict=True)), []

    def draw(items: int) -> Errors:
        label = random.choice(codes, items, p=[0.5, 0.3, 0.15, 0.05])
        hit = random.random(items) < pd.Series(label).map(recall)
        return make_errors(label, np.where(hit, label, random.choice([10, 40, 2705], items)))

    truth = per_class(draw(400_000))["f1"]
    for _ in range(200):
        table = per_class(draw(200))
        covered.append((table["f1_low"] <= truth) & (truth <= table["f1_high"]))
        assert (table["f1_low"] <= table["f1"]).all() and (table["f1"] <= table["f1_high"]).all()
    assert np.mean(covered, axis=0) == pytest.approx(0.95, abs=0.04)


@pytest.mark.filterwarnings("error")
def test_a_class_without_items_has_no_score():
    found = make_errors([10, 10], [10, 40])
    table = per_class(dataclasses.replace(found, codes=[10, 40, 60])).set_index("code")
    assert np.isnan(table.loc[60, ["f1", "f1_low", "precision", "recall"]].to_numpy(float)).all()
    assert np.isnan(table.loc[40, "recall"]) and table.loc[40, "f1"] == 0


def test_the_worst_come_first_and_only_mistakes():
    found = make_errors([10] * 4, [10, 40, 40, 40], [9.0, 1.0, 3.0, 2.0])
    assert worst_mistakes(found, 2)["loss"].tolist() == [3, 2]
    for call in (worst_mistakes, confusions):
        with pytest.raises(KitError, match="=0 is too small"):
            call(found, 0)


class Page(HTMLParser):
    """Tags and texts of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.texts, self.sources = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name == "src"]

    def handle_data(self, data):
        self.texts.append(data.strip())


def test_gallery_escapes_product_text_and_names():
    title, description = '<script>alert("é")</script>', "</div><img src=x onerror=y> & d'été"
    found = make_errors([10], [40], names={10: '"><b>Livres', 40: "Jeux & 'jouets'"}, title=title)
    page = gallery(found.items.assign(description=description), found.names)
    parsed = Page(page)
    assert set(parsed.tags) == {"div", "b"}
    assert title in parsed.texts and description in parsed.texts
    assert '10 "><b>Livres, 10.0%' in parsed.texts and "40 Jeux & 'jouets', 50.0%" in parsed.texts
    assert page.isascii()


def test_gallery_shows_images_and_says_where_there_is_none(tmp_path):
    photo, broken = tmp_path / "a.jpg", tmp_path / "b.jpg"
    Image.new("RGB", (500, 400), "red").save(photo)
    broken.write_bytes(photo.read_bytes()[:300])
    images = [[str(photo), str(photo)], [str(broken)], [str(tmp_path / "gone.jpg")], []]
    found = make_errors([10] * 4, [40] * 4, described=[True, True, True, False])
    page = Page(gallery(found.items.assign(images=images), {}))
    source, again = page.sources
    assert source == again and source.startswith("data:image/jpeg;base64,") and len(source) < 10_000
    assert page.texts.count("image unreadable") == 2
    assert page.texts.count("no image") == 1
    assert page.texts.count("(no description)") == 1


def test_long_texts_are_cut_even_without_spaces():
    found = make_errors([10], [40], title="a" * 5000)
    assert "a" * 119 + "…" in Page(gallery(found.items, {})).texts


@pytest.mark.filterwarnings("error")
def test_a_run_without_mistakes():
    found = make_errors([10, 40, 10, 40], [10, 40, 10, 40], [0.1, 0.2, 0.3, 0.4], [True, True, False, False])
    assert confusions(found).empty and worst_mistakes(found).empty
    assert "No item" in gallery(worst_mistakes(found), {})
    assert (per_class(found)["f1"] == 1).all()
    assert welch(found)["note"].tolist()[:2] == [
        "Too few items: the test needs two without and two with a description.",
        "",
    ]


def test_the_hardest_classes_are_shown_in_per_cent_with_one_cell_for_the_interval():
    shown = hardest(per_class(make_errors([10, 10, 40, 61], [10, 40, 40, 40])), 2)
    assert shown["code"].tolist() == [61, 40]
    row = shown.iloc[1]
    assert row["precision, %"] == "33.3" and row["recall, %"] == "100.0"
    assert row["F1, % [95 % interval]"].startswith("50.0 [") and shown.iloc[0]["precision, %"] == "–"
