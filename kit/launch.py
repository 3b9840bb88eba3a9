"""Starts training as a command: a notebook can train on any number of devices, and its own process stays clean."""

import contextlib
import os
import re
import subprocess
import sys
import threading

import psutil
from IPython import get_ipython
from IPython.display import display

from kit.config import KitError
from kit.runs import Run, write_json

BAR = re.compile(r"\d+%\|")  # a refresh of tqdm's bar
ERROR = re.compile(r"[\w.]*Error: ")  # the last line of a traceback, or a sentence of ours


def launch(run: Run, processes: int = 0) -> None:
    """Trains `run` with `accelerate launch`: shows its lines and its progress bar, keeps the rest in train.log.

    `processes`: how many, one a GPU; 0 means every GPU of this machine, or one process where there is none. For several
    machines, start `accelerate launch -m kit.train runs/<name>/config.json` from a shell with your own configuration.
    Raises KitError with training's own sentence, or with where to look.
    """
    count = processes or max(1, _gpus())
    if count < 1 or count > max(1, _gpus()) > 1:
        raise KitError(f"processes={processes} can't be: this machine has {_gpus()} GPUs, and each process takes one.")
    # a configuration of its own, so that one left in the user's home does not steer it
    settings = {"compute_environment": "LOCAL_MACHINE", "distributed_type": "MULTI_GPU" if count > 1 else "NO"}
    settings |= {"num_processes": count, "num_machines": 1, "machine_rank": 0, "mixed_precision": "no"}
    write_json(run.folder / "accelerate.json", settings | {"main_process_port": 0, "use_cpu": False})
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(run.folder / "accelerate.json")]
    command += ["-m", "kit.train", str(run.folder / "config.json")]
    threads = str(max(1, (os.cpu_count() or 1) // count))  # Accelerate would take 1
    # waiting threads sleep: spinning ones slow training several times over where others use the cores too
    environment = {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
    environment |= os.environ | {"PYTHONUNBUFFERED": "1"}
    if not _gpus():
        environment["ACCELERATE_USE_CPU"] = "true"  # else several processes would each train alone
    log, reasons = run.folder / "train.log", []
    with (
        open(log, "w", encoding="utf-8") as file,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", env=environment
        ) as process,
    ):
        reader = threading.Thread(target=_follow, args=(process.stderr, file, reasons), daemon=True)
        reader.start()
        try:
            for line in process.stdout:
                file.write(line)
                print(line, end="", flush=True)
        except BaseException:
            _stop(process)  # the notebook was interrupted: training must not go on alone
            raise
        finally:
            reader.join()
    if process.returncode:
        told = [reason for reason in reasons if reason.startswith(KitError.__name__)]
        if told:
            raise KitError(told[0].split(": ", 1)[1])
        last = f" ({reasons[-1][:200]})" if reasons else ""
        raise KitError(f"Training stopped with exit status {process.returncode}{last}: {log} has the rest.")


def _stop(process: subprocess.Popen) -> None:
    """Ends the launcher and what it started."""
    family = [*psutil.Process(process.pid).children(recursive=True), process]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.terminate()


def _follow(stream, file, reasons: list[str]) -> None:
    """Training's error output: refreshes of the bar are shown, one over the other, and the rest is kept in the log."""
    handle = display({"text/plain": ""}, raw=True, display_id=True) if get_ipython() else None
    for line in stream:  # a carriage return ends a line too
        if BAR.search(line):
            if handle:
                handle.update({"text/plain": line.strip()}, raw=True)
            else:
                print(line.strip(), end="\r", file=sys.stderr, flush=True)
            continue
        if ERROR.match(line) and "CalledProcessError" not in line:
            reasons.append(line.strip())
        with contextlib.suppress(OSError, ValueError):  # a full disk, say: training must not wait for its reader
            file.write(line)
            file.flush()


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
