"""Without a GPU, the paper's recipe says how long it may take before anything is trained."""

from kit.config import train_config
from kit.training import pace


def test_the_papers_recipe_takes_days_on_a_processor(monkeypatch):
    monkeypatch.setattr(pace, "available_gpus", lambda: 0)
    said = pace.expected_time(train_config(), 84916)
    assert "21 to 35 days (estimate: 679,360 images and texts" in said
    assert "-p text e5_small -p image efficientnet_lite0 -p recipe demo" in said
    assert "hours" in pace.expected_time(train_config(), 626)
    assert "minutes (est" in pace.expected_time(train_config(limit=20, epochs=1), 626)
    assert pace.expected_time(train_config(recipe="demo"), 84916) == ""
    monkeypatch.setattr(pace, "available_gpus", lambda: 1)
    assert pace.expected_time(train_config(), 84916) == ""
