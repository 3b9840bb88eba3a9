"""Starts training as a command: a notebook can train on any number of devices, and its own process stays clean."""

import os
import re
import subprocess
import sys
import threading

from IPython import get_ipython
from IPython.display import display

from kit.config import KitError
from kit.runs import Run

BAR = re.compile(r"\d+%\|")  # a refresh of tqdm's bar


def launch(run: Run, processes: int = 0) -> None:
    """Trains `run` with `accelerate launch`: shows its lines and its progress bar, keeps the rest in train.log.

    `processes`: how many, one a GPU; 0 means every GPU of this machine, or one process where there is none. For several
    machines, start `accelerate launch -m kit.train runs/<name>/config.json` from a shell with your own configuration.
    Raises KitError with training's own sentence, or with where to look.
    """
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no"]
    command += ["--dynamo_backend", "no", "--num_processes", str(processes or _device_count())]
    command += ["-m", "kit.train", str(run.folder / "config.json")]
    log, reasons = run.folder / "train.log", []
    with (
        open(log, "w", encoding="utf-8") as file,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", env=_environment()
        ) as process,
    ):
        reader = threading.Thread(target=_follow, args=(process.stderr, file, reasons))
        reader.start()
        try:
            for line in process.stdout:
                file.write(line)
                print(line, end="", flush=True)
        except BaseException:
            process.terminate()  # the notebook was interrupted: training must not go on alone
            raise
        finally:
            reader.join()
    if process.returncode:
        raise KitError(
            reasons[0] if reasons else f"Training stopped with exit status {process.returncode}: see the end of {log}."
        )


def _follow(stream, file, reasons: list[str]) -> None:
    """Training's error output: refreshes of the bar are shown, one over the other, and the rest is kept in the log."""
    handle = display({"text/plain": ""}, raw=True, display_id=True) if get_ipython() else None
    for line in stream:  # a carriage return ends a line too
        if not BAR.search(line):
            file.write(line)
            file.flush()
            if line.startswith(KitError.__name__ + ": "):
                reasons.append(line.split(": ", 1)[1].strip())
        elif handle:
            handle.update({"text/plain": line.strip()}, raw=True)
        else:
            print(line.strip(), end="\r", file=sys.stderr, flush=True)


def _environment() -> dict:
    return os.environ | {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}


def _device_count() -> int:
    import torch

    return max(1, torch.cuda.device_count())
