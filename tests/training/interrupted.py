"""A training that gets a signal in its middle: `work`, or as a script `interrupted.py CONFIG ASKED NUMBER RANK`."""

import os
import sys
from pathlib import Path

import torch
from accelerate import Accelerator

import kit.train
from kit.runs import Run
from kit.training import checkpoint


def work(root: str, config: str, asked: int, number: int) -> None:
    """Trains the run at `config`. Once it has asked `asked` times whether to stop, the process gets the signal
    `number`."""
    os.environ["KIT_ROOT"] = root
    torch.set_num_threads(1)
    agree, times = kit.train.Watch.agree, iter(range(10**9))

    def counted(watch, bad=False):
        if next(times) == asked:
            os.kill(os.getpid(), number)
        return agree(watch, bad)

    kit.train.Watch.agree = counted
    sys.exit(kit.train.main([config]))


def save(rank: int, port: int, folder: str, passed) -> None:
    """Save a state as process `rank` of two. The one that writes waits a second for the other to pass, which it must
    not, and writes nothing if it does."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "true"}
    write = checkpoint._save
    checkpoint._save = lambda *content: passed.wait(1) or write(*content)
    states = checkpoint.Checkpoints(Run(Path(folder)), Accelerator(), {})
    states.write(checkpoint.Progress(torch.zeros(1)))
    passed.set()
    assert states.path.is_file()


AGREE = kit.train.Watch.agree


def count_asked(monkeypatch) -> list:
    """Return a list that gets an entry each time a training of this process asks whether to stop."""
    asked = []
    monkeypatch.setattr(kit.train.Watch, "agree", lambda watch, bad=False: (asked.append(0), AGREE(watch, bad))[1])
    return asked


def kill_after(monkeypatch, asked: int) -> None:
    """Let a training of this process die with SystemError once it has asked `asked` times whether to stop."""
    left = iter(range(asked))

    def killed(watch, bad=False):
        if next(left, None) is None:
            raise SystemError("killed")
        return AGREE(watch, bad)

    monkeypatch.setattr(kit.train.Watch, "agree", killed)


def main() -> None:
    """The process RANK of several, as its arguments say."""
    config, asked, number, rank = sys.argv[1:]
    mine = os.environ["RANK"] == rank
    work(os.environ["KIT_ROOT"], config, int(asked) if mine else -1, int(number))


if __name__ == "__main__":
    main()
