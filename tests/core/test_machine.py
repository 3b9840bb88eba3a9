"""What this machine offers."""

import joblib

from kit.core.machine import available_threads


def test_threads_are_those_that_a_container_may_use_unless_the_user_says(monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 3)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert available_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert available_threads() == 2
