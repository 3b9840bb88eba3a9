"""Disks that are full or may not be written: what was there stays valid, and the sentence says what to do.

The limits are real: of the size of a file (RLIMIT_FSIZE), and, where a user may mount, a small file system of its own.
"""

import os
import platform
import resource
import shutil
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from kit.config import train_config
from kit.core.cache import cached_memmap
from kit.core.exceptions import KitError
from kit.core.files import write_atomically, write_text
from kit.runs import prepare_run
from kit.train import main
from kit.training.run_trainer import train


@pytest.fixture
def small_files():
    """No file may become larger than the bytes that are given to this."""
    usual, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda most: resource.setrlimit(resource.RLIMIT_FSIZE, (most, usual[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    signal.signal(signal.SIGXFSZ, ignored)


def test_a_file_that_does_not_fit_leaves_the_old_one(tmp_path, small_files):
    path = tmp_path / "file"
    write_text(path, "old")
    small_files(1000)
    with pytest.raises(KitError, match=r"file cannot be written \(.*\): free space or fix permissions"):
        write_text(path, "new" * 1000)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_an_array_that_does_not_fit_is_an_error_and_not_a_crash(root, small_files):
    small_files(100_000)
    with pytest.raises(KitError, match=r"values\.npy cannot be written"):
        cached_memmap("values", (1000, 1000), [np.dtype(np.float32)], lambda values: values.fill(1))
    assert not list((root / "cache").glob("*.npy*"))
    small_files(10_000_000)
    assert cached_memmap("values", (1000, 1000), [np.dtype(np.float32)], lambda values: values.fill(1)).sum() == 1e6


def test_training_goes_on_without_states_where_they_do_not_fit(root, tiny_config, small_files, capsys):
    """What is computed outweighs the chance to go on with it; the results are small."""
    train(prepare_run(train_config(**tiny_config, run="before")))  # caches are there
    size = (root / "runs" / "before" / "model-0.safetensors").stat().st_size
    run = prepare_run(train_config(**tiny_config, run="run"))
    small_files(int(1.5 * size))
    train(run)
    assert run.finished
    assert capsys.readouterr().out.count("The training continues, but without saved states: ") == 1
    assert (run.folder / "oof.parquet").read_bytes() == (root / "runs" / "before" / "oof.parquet").read_bytes()


def test_a_disk_full_of_results_leaves_a_state_to_go_on_from(root, tiny_config, small_files, capsys):
    run = prepare_run(train_config(**tiny_config | {"keep": "last"}, run="run"))
    train(prepare_run(train_config(**tiny_config, run="before")))
    weights = (root / "runs" / "before" / "model-0.safetensors").stat().st_size
    from kit.training import checkpoint

    write = checkpoint.write_atomically

    def first_states_then_nothing(path, content):  # space that others take in the meantime
        write(path, content)
        small_files(weights // 2)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "write_atomically", first_states_then_nothing)
        assert main([str(run.folder / "config.json")]) == 1
    assert "cannot be written" in capsys.readouterr().err
    assert not run.finished and run.begun
    torch.load(run.folder / "state.pt", weights_only=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    train(run)
    assert (run.folder / "test.parquet").is_file()


TMPFS = """
mount -t tmpfs -o size=400k none {mount} || exit 77
cd {mount} && {python} -c '
from pathlib import Path
from kit.core.exceptions import KitError
from kit.core.files import write_text
path = Path("{mount}/submission.csv")
write_text(path, "old")
try:
    write_text(path, "x" * 1_000_000)
except KitError as error:
    assert "No space left on device" in str(error), error
    assert path.read_text() == "old"
    assert [found.name for found in Path("{mount}").iterdir()] == ["submission.csv"]
    print("as it should be")
'
"""


def test_a_full_file_system(tmp_path):
    """In a mount namespace of its own, where a user may mount."""
    script = TMPFS.format(mount=tmp_path, python=sys.executable)
    try:
        done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no unshare on this machine")
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("this machine lets no user mount")
    assert "as it should be" in done.stdout, done.stderr


def test_a_folder_that_may_not_be_written(tmp_path, root, tiny_config):
    """As another user: permissions mean nothing to root."""
    data = train_config(**tiny_config, run="run")
    for folder in (tmp_path, *tmp_path.parents):
        if os.geteuid() == 0 and folder.stat().st_uid == 0 and str(folder) not in ("/", "/tmp"):
            folder.chmod(0o755)
    (root / "runs").mkdir()
    (root / "runs").chmod(0o555)
    try:
        if os.getuid() == 0:
            os.seteuid(65534)
        with pytest.raises(KitError, match=r"runs/run cannot be written \(.*Permission denied.*\): free"):
            prepare_run(data)
    finally:
        os.seteuid(os.getuid())
        (root / "runs").chmod(0o755)


WRITERS = {
    "text": lambda path: path.write_text("x"),
    "safetensors": lambda path: save_file({"x": torch.zeros(1)}, path),
    "parquet": pd.DataFrame({"x": [1]}).to_parquet,
    "torch": lambda path: torch.save({"x": 1}, path),
    "private": lambda path: os.close(os.open(shutil.move(path, f"{path}-") and path, os.O_CREAT | os.O_WRONLY, 0o600)),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_files_are_readable_as_the_umask_says(tmp_path, writer, mask):
    (tmp_path / "file").touch(0o600)  # what was there does not count
    usual = os.umask(mask)
    try:
        write_atomically(tmp_path / "file", WRITERS[writer])
    finally:
        os.umask(usual)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_half_written_file_of_a_killed_process_is_swept_away(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here = platform.node().replace(".", "_")
    (tmp_path / f".file.{gone.pid}@{here}").write_text("half")
    others = {f".file.{os.getppid()}@{here}", f".file.{gone.pid}@another-machine"}
    for name in others:
        (tmp_path / name).write_text("of one that lives")
    write_text(tmp_path / "file", "whole")
    assert set(os.listdir(tmp_path)) == others | {"file"}
