"""A run says how long it may take before anything is trained."""

import dataclasses
import shutil
from types import SimpleNamespace

import pandas as pd
import pytest
from fakes import fake

from kit.config import TrainConfig, train_config
from kit.core.exceptions import KitError
from kit.core.files import write_json
from kit.models.backbones import find_backbones
from kit.models.image_backbones import image_work
from kit.models.text_backbones import text_work
from kit.runs import open_run
from kit.studies import pace

SPEED = 1e11  # operations per second
SMALL = {"recipe": "demo", "text": "e5_small", "image": "efficientnet_lite0"}
CHALLENGE = 84_915, 13_812  # a third of the training items is whole
KEPT = 1000.0  # GiB, enough for all outputs


MEASURE = pace._speed


@pytest.fixture(autouse=True)
def processor(root, monkeypatch):
    monkeypatch.setattr(pace, "available_gpus", lambda: 0)
    monkeypatch.setattr(pace, "_speed", lambda: SPEED)


def texts(count: int, characters: int = 2000) -> pd.DataFrame:
    return pd.DataFrame({"title": ["x" * characters] * count, "description": [None] * count})


def challenge(items: int, images: float = 1) -> SimpleNamespace:
    return SimpleNamespace(train=texts(items), test={"test": range(7)}, images_per_item=images)


def told(config: TrainConfig, learned: int, predicted: int) -> tuple[float, bool]:
    """Return the duration of a run on so many items, whose texts are longer than all that is read."""
    return pace.duration([config], pace.Workload.of(texts(learned), predicted, 1))


def computing(count: float) -> float:
    """Return the seconds in which both backbones of SMALL read so many items."""
    return count * (text_work("e5_small", 64)[0] + image_work("efficientnet_lite0", 224)[0]) / SPEED


def test_the_papers_recipe_takes_days_on_a_processor(monkeypatch):
    said = pace.expected_time(train_config(), challenge(84916))
    assert "days (estimated)" in said
    assert "-p text e5_small -p image efficientnet_lite0 -p recipe demo" in said
    quick = pace.expected_time(train_config(limit=20, epochs=1), challenge(84916))
    assert "2.4 min (estimated)" in quick and "e5_small" not in quick
    assert "4.9 min" in pace.expected_time(train_config(limit=20, epochs=1), challenge(84916, images=3))
    monkeypatch.setattr(pace, "available_gpus", lambda: 1)
    assert "no GPU" not in pace.expected_time(train_config(), challenge(84916))


def test_trained_text_layers_are_counted_in_every_step():
    frozen = train_config(**SMALL, system="text")
    two = train_config(**SMALL, system="text", train_text_layers=2)
    steps, forward = frozen.steps(pace.items_per_fold(frozen, 600)), text_work("e5_small", 64)[0]
    more = told(two, 600, 0)[0] - told(frozen, 600, 0)[0]
    assert more == pytest.approx(steps * 3 * 32 * forward * 2 / 12 / SPEED)


def test_frozen_outputs_that_are_too_large_to_keep_are_computed_whenever_they_are_read():
    config = train_config(**SMALL)
    kept, _ = told(dataclasses.replace(config, features_gb=KEPT), *CHALLENGE)
    steps, (learned, predicted) = config.steps(56_610), CHALLENGE
    # in each fold: the start reads the training items, six epochs and attention the others, and last come the tests
    passes = 32 * steps + 3 * (56_610 + 7 * 28_305 + predicted)
    seconds, measured = told(config, *CHALLENGE)
    assert not measured and passes > 18 * sum(CHALLENGE)
    assert seconds - kept == pytest.approx(computing(passes - learned - predicted))
    for few in (config, train_config(**SMALL, system="concat")):  # a fusion reads means, which are kept
        items = (626, 155) if few is config else CHALLENGE
        assert told(few, *items) == told(dataclasses.replace(few, features_gb=KEPT), *items)


def test_a_short_text_is_expected_to_take_less_time_than_a_long_one():
    config = train_config(**SMALL, system="text", train_text_layers=2, features_gb=KEPT)
    short, long = (pace.duration([config], pace.Workload.of(texts(600, n), 0, 1))[0] - pace.START for n in (42, 1000))
    assert short == pytest.approx(long / 4, rel=0.01)  # 16 tokens of 64


def test_the_size_of_frozen_outputs_is_known_without_weights(tiny_config):
    backbones = find_backbones(train_config(**tiny_config))
    text, image = backbones["text"].outline, backbones["image"].outline
    assert text_work(tiny_config["text"], 24)[1:] == (24 * text.width, text.depth)
    assert image_work(tiny_config["image"], 64)[1] == image.regions * image.width


def test_a_small_catalogues_pace_holds_for_the_steps_alone():
    config = train_config(**SMALL, seed=1, data="data/challenge")
    kept = dataclasses.replace(config, features_gb=KEPT)
    near = train_config(**SMALL, system="neighbours", data="data/challenge")
    before = [told(one, *CHALLENGE) for one in (config, near)]
    fake(train_config(**SMALL, run="d"), 0.9, items=626, step_seconds=0.02)
    fake(train_config(**SMALL, run="n", system="neighbours"), 0.9, items=626, seconds=2.0)
    assert [told(one, *CHALLENGE) for one in (config, near)] == before  # its steps run no backbone
    features = computing(sum(CHALLENGE))
    assert told(kept, *CHALLENGE) == (pytest.approx(0.02 * config.steps(56_610) + features), False)
    again = train_config(**SMALL, seed=1)
    assert told(again, 626, 7) == (pytest.approx(0.02 * again.steps(417)), True)  # from the cache
    assert told(train_config(**SMALL, system="neighbours", seed=1), 626, 7) == (pytest.approx(2), True)


def test_neighbours_take_fifty_minutes_of_a_core_on_the_challenge_as_the_manual_says():
    config = train_config(**SMALL, system="neighbours", folds=5)
    once, twice = (told(config, n * CHALLENGE[0], n * CHALLENGE[1])[0] for n in (1, 2))
    once, twice = once - computing(sum(CHALLENGE)), twice - computing(2 * sum(CHALLENGE))
    assert once == pytest.approx(50 * 60, rel=0.05)
    assert twice > 3 * once  # it grows with the square


def test_a_light_run_on_one_split_has_read_all_items():
    fake(train_config(**SMALL, run="w", system="tfidf", folds=1, val_share=0.2), 0.9, items=125, seconds=5.0)
    config = train_config(**SMALL, system="tfidf", folds=1, val_share=0.2, seed=1)
    assert told(config, 625, 7) == (pytest.approx(5), True)


def unfinished(config, **status) -> None:
    write_json(open_run(config.run).folder / "config.json", dataclasses.asdict(config))
    write_json(open_run(config.run).folder / "status.json", status)


def test_an_interrupted_training_has_a_pace_unless_its_steps_may_have_run_frozen_backbones():
    for name, frozen in (("tuned", False), ("frozen", True)):
        config = train_config(**SMALL, run=name, freeze_text=frozen, freeze_image=frozen)
        unfinished(config, seconds_per_step=9.0)
        for other, known in ((config, True), (dataclasses.replace(config, data="data/challenge"), not frozen)):
            seconds, measured = told(other, 626, 7)
            assert [measured, seconds >= 9 * config.steps(417)] == [known] * 2


def test_of_an_interrupted_training_the_rest_is_planned():
    config = train_config(**SMALL, run="long", freeze_text=False, freeze_image=False, linear_start=False)
    steps = config.steps(417)
    unfinished(config, seconds_per_step=9.0, fold=3, done=steps - 10, total=steps)
    whole, _ = told(config, 626, 7)  # nothing was saved
    (open_run("long").folder / "state.pt").touch()
    rest, measured = told(config, 626, 7)
    assert measured and config.folds == 3
    assert whole - 9 * steps == pytest.approx(3 * (rest - 90))  # the last fold is still predicted
    assert rest - 90 == pytest.approx(computing(7 * 209 + 7))
    other = dataclasses.replace(config, lr=0.5)
    assert told(other, 626, 7)[0] == pytest.approx(whole)  # which would not resume


def test_images_are_also_predicted_mirrored_if_training_augments_them():
    config = train_config(**SMALL, freeze_image=False, linear_start=False, keep="last", curve=False)
    more = told(dataclasses.replace(config, augment=True), 626, 7)[0] - told(config, 626, 7)[0]
    assert more == pytest.approx((626 + 3 * 7) * image_work("efficientnet_lite0", 224)[0] / SPEED, rel=0.01)


def test_a_folder_that_a_file_manager_copied_does_not_matter():
    fake(train_config(**SMALL, run="w", system="tfidf"), 0.9, seconds=5.0)
    folder = open_run("w").folder
    shutil.copytree(folder, folder.with_name("w (1)"))
    assert told(train_config(**SMALL, system="tfidf", seed=1), 36, 7)[1]


def test_the_speed_of_gpus_is_measured_in_another_process(monkeypatch):
    """One that keeps no GPU from the trainings; here it finds none, and measures the processor."""
    monkeypatch.setattr(pace, "available_gpus", lambda: 2)
    monkeypatch.setattr(pace, "measured_speed", lambda: pytest.fail("measured in this process"))
    MEASURE.cache_clear()
    assert MEASURE() > 0
    MEASURE.cache_clear()
    monkeypatch.setattr(pace.sys, "executable", "false")
    with pytest.raises(KitError, match="speed of the GPU could not be measured"):
        MEASURE()
