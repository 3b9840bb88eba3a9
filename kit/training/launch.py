"""Start training as a command, so that a notebook can train on any number of devices and its process stays clean."""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kit.config import LAUNCHER, LIGHT
from kit.core.console import Line, Terminal, accept_any_character, in_notebook
from kit.core.exceptions import KitError
from kit.core.files import write_json
from kit.core.machine import available_gpus, available_threads
from kit.core.paths import project, resolve, root
from kit.runs import EnsembleRun, TrainingRun, finished_trainings
from kit.training.status import AT_WORK, read_error, read_status

# Environment variables by which torchrun, Accelerate and MPI tell a process its rank and how it trains. If a pod or a
# shell sets them, a training started here would wait for processes that nobody starts.
LAUNCHERS = re.compile(
    r"((LOCAL|NODE|GROUP|ROLE)_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|FORK_LAUNCHED|"
    r"(TORCHELASTIC|PET|PMI|PMIX|MPI|OMPI|MV2|ACCELERATE|FSDP|DEEPSPEED|MEGATRON_LM|PARALLELISM_CONFIG)_\w+"
)
POLL = 0.3  # seconds between two looks at the folders of runs
LAST_LINES = 200  # kept of the output of a training that was killed


def launch(runs: list[TrainingRun], processes: int = 0, jobs: int = 1) -> None:
    """Train the unfinished runs among `runs`, and show their folders' new lines of train.log and their progress bar; if
    several train at once, only the last line of each.

    `processes`: number per run, one per GPU; 0: one per GPU that the run has, or as many as divide the runs' batches;
    without a GPU, one. Several start through `accelerate launch`; one needs no launcher. For several machines, start
    `accelerate launch -m kit.train runs/<name>/config.json` from a shell with your own configuration.
    `jobs`: number of runs that train at once; they share the cores, which they use better than one run with all of
    them, and each needs its own memory. Each has its part of the GPUs, at least one, which it shares if there are fewer
    GPUs than runs.

    If a run fails, the others are still trained; then raise KitError with the sentence of the first that failed. Raise
    KitError at once if a run is an ensemble or its study has runs on other data, or if `processes` or `jobs` is
    impossible.
    """
    accept_any_character()
    if ensembles := [run.name for run in runs if isinstance(run, EnsembleRun)]:
        raise KitError(f"{', '.join(ensembles)} cannot be trained: 05_ensemble makes an ensemble, from trained runs.")
    _require_one_catalogue(runs)
    if jobs < 1:
        raise KitError(f"jobs={jobs} is too small: it must be at least 1.")
    gpus, waiting = available_gpus(), [run for run in runs if not run.finished]
    if finished := len(runs) - len(waiting):
        print(f"Finished already: {finished} of {len(runs)} runs", flush=True)
    failed: dict[str, str] = {}
    at_once = max(1, min(jobs, len(waiting)))
    each = gpus and max(1, gpus // at_once)
    count = processes or _most_processes(waiting, each)
    if count < 1 or 0 < each < count:
        shared = f" for {at_once} runs at a time" if at_once > 1 else ""
        raise KitError(
            f"processes={processes} is impossible: there are {gpus} GPUs here{shared}, and each process takes one."
        )
    shares = [waiting[i::at_once] for i in range(at_once)]
    crew = _Crew(count, available_threads() // (count * at_once), named=at_once > 1)
    with ThreadPoolExecutor(at_once) as pool:
        try:
            for errors in pool.map(crew.train, shares, _devices(gpus, at_once)):
                failed |= errors
        except BaseException:
            crew.stop()  # the notebook was interrupted: training must not go on alone
            raise
    if failed:
        sentence = next(iter(failed.values()))
        others = f" ({len(failed)} of {len(runs)} runs failed: {', '.join(failed)})" if len(runs) > 1 else ""
        raise KitError(sentence + others)


def _require_one_catalogue(runs: list[TrainingRun]) -> None:
    """Raise KitError if a run's study has a finished one on other data: a study compares runs on the same items."""
    places = {run.config.study: (run.name, resolve(run.config.data)) for run in runs if run.config.study}
    for study, (name, ours) in places.items():
        for other in finished_trainings(study):
            if (theirs := resolve(other.config.data)) != ours:
                raise KitError(
                    f"{name!r} would learn from {ours}, and {other.name!r} of the same study {study!r} learned from "
                    f"{theirs}: give each catalogue a study of its own, or remove {other.folder}."
                )


class _Crew:
    """Training processes: `count` per run, with `threads` threads each; `named`: several runs train at once."""

    def __init__(self, count: int, threads: int, named: bool):
        self.count, self.named, self.stopped = count, named, False
        self.running: list[subprocess.Popen] = []
        # waiting threads sleep: spinning ones make training several times slower if others use the cores too
        self.environment = {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
        self.environment |= {
            name: value
            for name, value in os.environ.items()
            if name == "ACCELERATE_USE_CPU" or not LAUNCHERS.fullmatch(name)
        }
        self.environment |= {"OMP_NUM_THREADS": str(max(1, threads)), "PYTHONIOENCODING": "utf-8:replace"}
        self.environment |= {"KIT_PROJECT": os.fspath(project()), "KIT_ROOT": os.fspath(root())}
        self.environment[LAUNCHER] = str(os.getpid())
        # seconds to save gigabytes, if the launcher is told to stop; 30 are left if one of the processes ends by itself
        self.environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = "600"
        if not available_gpus():
            self.environment["ACCELERATE_USE_CPU"] = "true"  # else several processes would each train alone

    def train(self, waiting: list[TrainingRun], devices: dict[str, str]) -> dict[str, str]:
        """Train the runs in turn on `devices`, as environment variables say; return why some failed, by name."""
        failed: dict[str, str] = {}
        while waiting and not self.stopped:
            before = [_accumulate(run) for run in waiting]
            reached, reasons = self._start(waiting, devices)
            tried = waiting[: reached + 1]
            # if the process died, the runs after the one that it reached are still to do
            waiting = [run for run in waiting[reached + 1 :] if not run.finished]
            kind = reasons.get(tried[-1].name, {}).get("kind")
            if kind == "memory" and _accumulate(tried[-1]) > before[reached]:
                waiting.insert(0, tried.pop())  # once more, in smaller batches
            self.stopped |= kind == "stopped"  # a signal, or max_minutes: it applies to all runs
            failed |= {run.name: reasons.get(run.name, {}).get("sentence", "") for run in tried if not run.finished}
        return failed

    def stop(self) -> None:
        """Tell the trainings to save and end. Only the training itself is signalled: if its loader workers were ended
        first, it could not save."""
        self.stopped = True
        for process in self.running:
            process.terminate()

    def _start(self, runs: list[TrainingRun], devices: dict[str, str]) -> tuple[int, dict[str, dict]]:
        """Train `runs` on `devices` with one command; return the position of the last one it reached, and the errors by
        name."""
        command = [sys.executable, "-m", "kit.train"]
        if self.count > 1:  # with a configuration of its own, so that one left in the user's home does not steer it
            settings: dict = {"compute_environment": "LOCAL_MACHINE", "distributed_type": "MULTI_GPU"}
            settings |= {"num_processes": self.count, "num_machines": 1, "machine_rank": 0, "mixed_precision": "no"}
            file = runs[0].folder / "accelerate.json"
            write_json(file, settings | {"main_process_port": 0, "use_cpu": False})
            command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file)]
            command += ["-m", "kit.train"]
        command += [str(run.folder / "config.json") for run in runs]
        view = _View(runs, self.named)
        # a session of its own: ending the notebook's processes leaves it the time to save
        options: dict = {"env": self.environment | devices, "start_new_session": True, "stdout": subprocess.DEVNULL}
        with tempfile.TemporaryFile() as said, subprocess.Popen(command, stderr=said, **options) as process:
            self.running.append(process)
            if self.stopped:  # since the loop checked
                process.terminate()
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(POLL)
                view.refresh()
            view.close()
            said.seek(0)
            rest = said.read().decode("utf-8", "replace")
        reasons = view.errors()
        reached = max(view.at, *(place for place, run in enumerate(runs) if run.name in reasons), 0)
        for run in runs[: reached + 1]:
            if not run.finished and run.name not in reasons:
                reasons[run.name] = died(run, process.returncode, rest if run is runs[reached] else "")
        return reached, reasons


class _View:
    """Show what is new in the folders of `runs`, which are trained in turn; `at`: position of the last one begun.
    `named`: they are not the only ones at work."""

    def __init__(self, runs: list[TrainingRun], named: bool):
        self.runs, self.named, self.at, self.shown, self.last = runs, named, 0, "", ""
        self.seen = [_size(run.folder / "train.log") for run in runs]
        self.before = [(read_status(run), read_error(run)) for run in runs]
        self.bar = Line() if in_notebook() else Terminal()

    def refresh(self) -> None:
        """Print the new lines of the logs, and show the bar of the run at work."""
        for place, run in enumerate(self.runs):
            status = read_status(run)
            if status == self.before[place][0] or status.get("launcher") != os.getpid():  # not begun, or not by us
                self.seen[place] = _size(run.folder / "train.log")
                continue
            if place > self.at:
                self._print_lines(ended=True)
                self.at = place
            if place == self.at:
                self._print_lines()
                self._show((bar := status.get("bar", "")) and self.named * f"{run.name}: " + bar)

    def close(self) -> None:
        self.refresh()
        self._print_lines(ended=True)
        self._show("")

    def errors(self) -> dict[str, dict]:
        """Return the errors of the runs that failed since then, by name."""
        errors = {run.name: (read_error(run), before) for run, (_, before) in zip(self.runs, self.before, strict=True)}
        return {name: error for name, (error, before) in errors.items() if error and error != before}

    def _print_lines(self, ended: bool = False) -> None:
        """Print the new lines of the run at work; of one among several, only the last, once it has ended."""
        name, lines = self.runs[self.at].name, self._new_lines(self.at)
        if self.named:
            self.last = [self.last, *lines][-1]
            lines = [self.last] if ended and self.last else []
            self.last = "" if ended else self.last
        for line in lines:
            self._show("")
            named = line if not self.named or line.startswith(name) else f"{name}: {line}"
            print(f"{named}\n", end="", flush=True)  # with its end, because other threads print too

    def _new_lines(self, place: int) -> list[str]:
        path = self.runs[place].folder / "train.log"
        if _size(path) == self.seen[place]:
            return []
        with contextlib.suppress(OSError), open(path, "rb") as file:
            file.seek(self.seen[place])
            whole = file.read().rpartition(b"\n")[0]
            self.seen[place] += len(whole) + bool(whole)
            return whole.decode("utf-8", "replace").splitlines()
        return []

    def _show(self, text: str) -> None:
        if text != self.shown:
            self.shown = text
            self.bar.write(text)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def died(run: TrainingRun, status: int, said: str) -> dict:
    """Return the error of a training that left none: another process holds the run, or it was killed. Append what it
    `said` to the log."""
    lines = [line for line in said.splitlines() if line.strip()]
    last = f" ({lines[-1].strip()[:200]})" if lines else ""
    log = run.folder / "train.log"
    try:
        with run.alone(0 if status == AT_WORK else None):
            run.still_there()
            with contextlib.suppress(OSError), open(log, "a", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in lines[-LAST_LINES:])
    except KitError as error:
        return {"kind": "error", "sentence": str(error)}
    return {"kind": "error", "sentence": f"Training stopped with exit status {status}{last}: {log} has the rest."}


def _accumulate(run: TrainingRun) -> int:
    try:
        return run.config.accumulate
    except KitError:  # training itself will say what is wrong with config.json
        return 0


def _devices(gpus: int, shares: int) -> list[dict[str, str]]:
    """Return the environment variables that give each share of the runs its part of the GPUs, if there is something to
    share out."""
    if not gpus or shares == 1:
        return [{}] * shares
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = given.split(",")[:gpus] if given else [str(number) for number in range(gpus)]
    parts = [visible[share::shares] or [visible[share % gpus]] for share in range(shares)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(part)} for part in parts]


def _most_processes(runs: list[TrainingRun], gpus: int) -> int:
    """Return the largest number of processes, up to `gpus`, that divides every training's batches; at least one.

    If all are light, it is one: the others would only wait, and take their share of the threads.
    """
    sizes = []
    for run in runs:
        with contextlib.suppress(KitError):  # training itself will say what is wrong with config.json
            sizes += [] if run.config.system in LIGHT else [run.config.micro_batch]
    if not sizes:
        return 1
    count = max((n for n in range(1, gpus + 1) if not any(size % n for size in sizes)), default=1)
    if count < gpus:
        print(
            f"Using {count} of {gpus} GPUs: batches of {sorted(set(sizes))} items cannot be divided by more", flush=True
        )
    return count
