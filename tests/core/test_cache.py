"""What is kept is computed once, comes back as it was, and is not believed when its inputs changed or it is damaged."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.core import cache
from kit.core.cache import cached_memmap, content_hashes, fingerprint, get_or_compute
from kit.core.exceptions import KitError


def lengths(keys, asked):
    """Values that tell which keys were computed."""

    def compute(new):
        asked.append([keys[i] for i in new])
        return [[len(keys[i])] * 2 for i in new]

    return get_or_compute("lengths", keys, pa.list_(pa.int32()), compute).to_pylist()


def test_values_are_computed_once(root):
    asked = []
    assert lengths(["a", "bcd", "a"], asked) == [[1, 1], [3, 3], [1, 1]]
    assert lengths(["bcd", "ef", "a"], asked) == [[3, 3], [2, 2], [1, 1]]
    assert lengths([], asked) == []
    assert asked == [["a", "bcd"], ["ef"]]


@pytest.mark.parametrize("at", [0.3, 0.5, 0.9])
def test_a_damaged_store_is_computed_again_and_never_believed(root, at):
    keys, asked = [f"key {i}" for i in range(500)], []
    expected = lengths(keys, asked)
    path = root / "cache" / "lengths.parquet"
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 0xFF
    path.write_bytes(content)
    assert lengths(keys, asked) == expected


def test_a_folder_that_cannot_be_written_costs_time_alone(root):
    (root / "cache").write_text("in the way")
    asked = []
    assert lengths(["a"], asked) == lengths(["a"], asked) == [[1, 1]]
    assert asked == [["a"], ["a"]]


def test_a_file_is_hashed_again_when_it_changes(root, tmp_path, monkeypatch):
    read, hash_file = [], cache._hash_file
    monkeypatch.setattr(cache, "_hash_file", lambda path: (read.append(os.path.basename(path)), hash_file(path))[1])
    paths = [str(tmp_path / name) for name in "ab"]
    for path in paths:
        with open(path, "w") as file:
            file.write("one")
    first = content_hashes(paths)
    assert first[0] == first[1] and content_hashes(paths) == first
    assert sorted(read) == ["a", "b"]
    before = os.stat(paths[0])
    with open(paths[0], "w") as file:
        file.write("two")
    os.utime(paths[0], ns=(before.st_atime_ns, before.st_mtime_ns))  # same size, same time of change
    assert content_hashes(paths)[0] != first[0]
    assert read[2:] == ["a"]
    shutil.copy2(paths[1], paths[0] + ".new")
    os.replace(paths[0] + ".new", paths[0])
    assert content_hashes(paths) == first
    with pytest.raises(KitError, match=r"gone cannot be read \(No such file or directory\)"):
        content_hashes([str(tmp_path / "gone")])


def fill(values):
    values[:] = 7


def test_an_array_is_written_once_and_mapped(root):
    first = cached_memmap("sevens", (3, 2), [np.dtype(np.float32)], fill)
    assert (first == 7).all() and isinstance(first, np.memmap)
    again = cached_memmap("sevens", (3, 2), [np.dtype(np.float32)], lambda values: pytest.fail("is there already"))
    assert (again == 7).all()
    with pytest.raises(ValueError, match="read-only"):
        again[0, 0] = 1


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "other shape", "other type"])
def test_a_half_written_or_foreign_array_is_written_again(root, damage):
    path = root / "cache" / "sevens.npy"
    cached_memmap("sevens", (30, 2), [np.dtype(np.float32)], fill)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-4])
    elif damage in ("empty", "text"):
        path.write_text("no array" * (damage == "text"))
    else:
        np.save(path, np.zeros((2, 30) if damage == "other shape" else (30, 2), np.float32 if "s" in damage else int))
    assert (cached_memmap("sevens", (30, 2), [np.dtype(np.float32)], fill) == 7).all()


def test_a_writer_that_fails_leaves_nothing(root):
    def stumble(values):
        values[0] = 1
        raise KitError("cannot go on")

    with pytest.raises(KitError, match="cannot go on"):
        cached_memmap("sevens", (3, 2), [np.dtype(np.float32)], stumble)
    assert [path.name for path in (root / "cache").iterdir()] == ["sevens.lock"]


def test_an_array_that_cannot_be_written_is_named(root):
    (root / "cache").write_text("in the way")
    with pytest.raises(KitError, match=r"sevens.npy cannot be written .* free space or fix permissions"):
        cached_memmap("sevens", (3, 2), [np.dtype(np.float32)], fill)


def test_processes_that_want_the_same_array_write_it_once(root):
    """Both start at once; the one that comes second waits, and reads."""
    code = (
        "import os, sys, numpy as np\nfrom kit.core.cache import cached_memmap as array\n"
        "print('ready', flush=True)\nsys.stdin.readline()\n"
        "def write(values):\n    values[:] = os.getpid()\n    print('wrote', flush=True)\n"
        "print(int(array('pids', (200, 50_000), [np.dtype(np.int64)], write)[0, 0]), flush=True)"
    )
    command, pipes = [sys.executable, "-c", code], {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, env=os.environ | {"KIT_ROOT": str(root)}, **pipes) for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [process.communicate()[0].split() for process in processes]
    assert sum("wrote" in output for output in outputs) == 1
    assert len({output[-1] for output in outputs}) == 1


@given(st.lists(st.text()), st.lists(st.text()))
@settings(max_examples=200, deadline=None)
def test_a_digest_tells_where_parts_end(a, b):
    assert (fingerprint(*a) == fingerprint(*b)) == (a == b)
