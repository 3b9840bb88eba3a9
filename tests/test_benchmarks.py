"""The synthetic catalogue is a challenge folder with the traps of the real one."""

import importlib.util
from pathlib import Path

import pandas as pd
import pytest

from kit.core.exceptions import KitError
from kit.core.paths import project
from kit.data.challenge import read_challenge

spec = importlib.util.spec_from_file_location("synthetic", project() / "benchmarks" / "synthetic.py")
synthetic = importlib.util.module_from_spec(spec)
spec.loader.exec_module(synthetic)


def test_sixty_rows_read_back_with_every_class_and_duplicates(tmp_path):
    synthetic.write_synthetic(tmp_path / "a", rows=60, test_rows=12, seed=1)
    challenge = read_challenge(tmp_path / "a")
    train, test = challenge.train, challenge.test["test"]
    assert (len(train), len(test)) == (60, 12)
    assert challenge.classes == sorted(synthetic.COUNTS)
    assert train["label"].value_counts().min() == 2
    assert 0.15 < train["description"].isna().mean() < 0.55
    items = pd.concat([train, test])
    assert items.duplicated(["title", "description"]).any()
    assert items["image_path"].map(lambda path: Path(path).read_bytes()).duplicated().any()

    synthetic.write_synthetic(tmp_path / "b", rows=60, test_rows=12, seed=1)
    again, there = ([p for p in sorted((tmp_path / name).rglob("*")) if p.is_file()] for name in "ba")
    assert [p.name for p in again] == [p.name for p in there]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(again, there, strict=True))


def test_few_rows_have_fewer_classes_and_what_cannot_be_is_refused(tmp_path):
    synthetic.write_synthetic(tmp_path / "few", rows=9, test_rows=1)
    assert len(read_challenge(tmp_path / "few").classes) == 4
    with pytest.raises(KitError, match="exists already"):
        synthetic.write_synthetic(tmp_path / "few", rows=60, test_rows=12)
    with pytest.raises(KitError, match="too few"):
        synthetic.write_synthetic(tmp_path / "none", rows=3, test_rows=1)
    assert [path.name for path in tmp_path.iterdir()] == ["few"]
