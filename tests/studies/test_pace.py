"""A run says how long it may take before anything is trained."""

from kit.config import train_config
from kit.studies import pace


def test_the_papers_recipe_takes_days_on_a_processor(root, monkeypatch):
    monkeypatch.setattr(pace, "available_gpus", lambda: 0)
    monkeypatch.setattr(pace, "_speed", lambda: 1e11)  # operations per second
    said = pace.expected_time(train_config(), 84916)
    assert "days (estimated)" in said
    assert "-p text e5_small -p image efficientnet_lite0 -p recipe demo" in said
    quick = pace.expected_time(train_config(limit=20, epochs=1), 84916)
    assert "114 s (estimated)" in quick and "e5_small" not in quick
    assert "3.8 min" in pace.expected_time(train_config(limit=20, epochs=1), 84916, images=3)
    monkeypatch.setattr(pace, "available_gpus", lambda: 1)
    assert "no GPU" not in pace.expected_time(train_config(), 84916)
