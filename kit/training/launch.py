"""Starts training as a command: a notebook can train on any number of devices, and its own process stays clean."""

import contextlib
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from kit.config import LAUNCHER
from kit.core.console import Line, accept_any_character, in_notebook
from kit.core.exceptions import KitError
from kit.core.files import locked, write_json
from kit.core.machine import available_gpus, available_threads
from kit.core.paths import project, root
from kit.runs import BEGINS, NO_MEMORY, STOPPED, Run

# variables by which torchrun, Accelerate and MPI tell a process which of several it is, and how it trains; a pod or a
# shell that has them would make a training of our own wait for processes that nobody starts
LAUNCHERS = re.compile(
    r"((LOCAL|NODE|GROUP|ROLE)_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|FORK_LAUNCHED|"
    r"(TORCHELASTIC|PET|PMI|PMIX|MPI|OMPI|MV2|ACCELERATE|FSDP|DEEPSPEED|MEGATRON_LM|PARALLELISM_CONFIG)_\w+"
)
BAR = re.compile(r"\d+%\|")  # a refresh of tqdm's bar
ERROR = re.compile(r"[\w.]*Error: ")  # the last line of a traceback, or a sentence of ours


def launch(runs: list[Run], processes: int = 0, jobs: int = 1) -> None:
    """Trains the unfinished of `runs`, shows their lines and progress bar, and keeps all they say in train.log.

    `processes`: how many for each run, one a GPU; 0 means every GPU of this machine, or as many as can share the runs'
    batches, or one process where there is none. Several start through `accelerate launch`; one needs no launcher. For
    several machines, start `accelerate launch -m kit.train runs/<name>/config.json` from a shell with your own
    configuration. `jobs`: how many runs train at once; they share the cores, which they use better than one run with
    all of them, and each needs its memory.
    A run that fails does not keep the others from training; then raises KitError with the first one's own sentence, or
    with where to look.
    """
    accept_any_character()
    gpus, waiting, failed = available_gpus(), [run for run in runs if not run.finished], {}
    count = processes or _able(waiting, gpus)
    if count < 1 or 0 < gpus < count:
        raise KitError(f"processes={processes} can't be: this machine has {gpus} GPUs, and each process takes one.")
    if jobs < 1:
        raise KitError(f"jobs={jobs} is too small: it must be at least 1.")
    shares = [waiting[i::jobs] for i in range(min(jobs, len(waiting)))]
    crew = _Crew(count, available_threads() // (count * max(1, len(shares))), loud=len(runs) == 1)
    with ThreadPoolExecutor(max(1, len(shares))) as pool:
        try:
            for found in pool.map(crew.train, shares):
                failed |= found
        except BaseException:
            crew.stop()  # the notebook was interrupted: training must not go on alone
            raise
    if failed:
        sentence = next(iter(failed.values()))
        others = f" ({len(failed)} of {len(runs)} runs failed: {', '.join(failed)})" if len(runs) > 1 else ""
        raise KitError(sentence + others)


class _Crew:
    """Training processes: `count` a run, of so many `threads`; `loud`: every epoch is shown."""

    def __init__(self, count: int, available_threads: int, loud: bool):
        self.count, self.loud, self.stopped, self.running = count, loud, False, []
        # waiting threads sleep: spinning ones slow training several times over where others use the cores too
        self.environment = {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
        self.environment |= {
            name: value
            for name, value in os.environ.items()
            if name == "ACCELERATE_USE_CPU" or not LAUNCHERS.fullmatch(name)
        }
        self.environment |= {"OMP_NUM_THREADS": str(max(1, available_threads)), "PYTHONUNBUFFERED": "1"}
        self.environment["PYTHONIOENCODING"] = "utf-8:replace"
        self.environment |= {"KIT_PROJECT": os.fspath(project()), "KIT_ROOT": os.fspath(root())}
        self.environment[LAUNCHER] = str(os.getpid())
        if not available_gpus():
            self.environment["ACCELERATE_USE_CPU"] = "true"  # else several processes would each train alone

    def train(self, waiting: list[Run]) -> dict[str, str]:
        """Trains the runs in turn; gives why some failed, by name."""
        failed = {}
        while waiting and not self.stopped:
            before = [_accumulate(run) for run in waiting]
            reached, reason = self._start(waiting)
            tried = waiting[: reached + 1]
            waiting = [run for run in waiting[reached + 1 :] if not run.finished]  # one that died took them with it
            sentence = reason.get(tried[-1].name, "")
            if sentence.startswith(NO_MEMORY) and _accumulate(tried[-1]) > before[reached]:
                waiting.insert(0, tried.pop())  # once more, in smaller batches
            self.stopped |= sentence.startswith(STOPPED)  # a signal, or max_minutes: not for this run alone
            failed |= {run.name: reason.get(run.name, "") for run in tried if not run.finished}
        return failed

    def stop(self) -> None:
        """Tells the trainings to save and end. Each hears it once, and passes it on itself: a training whose readers of
        images are ended under its hands could not save."""
        self.stopped = True
        for process in self.running:
            process.terminate()

    def _start(self, runs: list[Run]) -> tuple[int, dict[str, str]]:
        """One command for `runs`: the position of the last that it came to, and why runs failed, by name."""
        command = [sys.executable, "-m", "kit.train"]
        if self.count > 1:  # with a configuration of its own, so that one left in the user's home does not steer it
            settings = {"compute_environment": "LOCAL_MACHINE", "distributed_type": "MULTI_GPU"}
            settings |= {"num_processes": self.count, "num_machines": 1, "machine_rank": 0, "mixed_precision": "no"}
            file = runs[0].folder / "accelerate.json"
            write_json(file, settings | {"main_process_port": 0, "use_cpu": False})
            command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file)]
            command += ["-m", "kit.train"]
        command += [str(run.folder / "config.json") for run in runs]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8", "errors": "replace"}
        logs = _Logs(runs)
        with (
            contextlib.closing(logs),
            # a session of its own: whoever ends the notebook's processes leaves it the time to save
            subprocess.Popen(command, env=self.environment, start_new_session=True, **pipes) as process,
        ):
            self.running.append(process)
            if self.stopped:  # meanwhile
                process.terminate()
            reader = threading.Thread(target=_follow, args=(process.stderr, logs), daemon=True)
            reader.start()
            for line in process.stdout:
                logs.write(line)
                if not line.lstrip().startswith(BEGINS if self.loud else ("epoch", "fold")):
                    print(line, end="", flush=True)
            reader.join()
        reached = max([logs.at, *(place for place, run in enumerate(runs) if run.name in logs.sentences)])
        for run in runs[: reached + 1]:
            if not run.finished and run.name not in logs.sentences:
                last = f" ({logs.last[:200]})" if logs.last and run is runs[reached] else ""
                log = run.folder / "train.log"
                logs.sentences[run.name] = (
                    f"Training stopped with exit status {process.returncode}{last}: {log} has the rest."
                )
        return reached, logs.sentences


class _Logs:
    """train.log of each run in turn. A training announces a run once it holds the folder, and only then is that run's
    log touched: what was said until then goes there first.

    `at`: position of the run that is being trained · `sentences`: by run, our own error of it · `last`: the last error
    of any kind.
    """

    def __init__(self, runs: list[Run]):
        self.runs, self.names = runs, [run.name for run in runs]
        self.at, self.sentences, self.last = 0, {}, ""
        self.before, self.begun, self.writing = [], set(), threading.Lock()

    def write(self, line: str) -> None:
        with self.writing:
            if line.startswith(BEGINS) and line[len(BEGINS) :].strip() in self.names:
                self.at = self.names.index(line[len(BEGINS) :].strip())
                self.begun.add(self.at)
                self._append(self.at, "".join(self.before))
                self.before.clear()
            if self.begun:
                self._append(self.at, line)
            else:
                self.before.append(line)

    def _append(self, place: int, text: str) -> None:
        with contextlib.suppress(OSError), open(self.runs[place].folder / "train.log", "a", encoding="utf-8") as file:
            file.write(text)  # not on a full disk, say: training must not wait for its reader

    def error(self, line: str) -> None:
        self.last = line.strip()
        kind, _, rest = self.last.partition(": ")
        name, _, sentence = rest.partition(": ")
        if kind == KitError.__name__ and name in self.names:
            self.sentences.setdefault(name, sentence)
            place = self.names.index(name)
            if place != self.at and place in self.begun:  # the other stream is ahead, at the next run already
                self._append(place, line)

    def close(self) -> None:
        """Keep what was said by a training that died before it held its run, unless another process holds it."""
        run = self.runs[0]
        if self.before and not run.finished and run.name not in self.sentences:
            with contextlib.suppress(KitError):
                run.still_there()
                with locked(run.folder / ".lock", run.folder, patience=0):
                    self._append(0, "".join(self.before))


def _follow(stream, logs: _Logs) -> None:
    """Training's error output: refreshes of the bar are shown, one over the other, and the rest is kept in the log."""
    bar = Line() if in_notebook() else None
    for line in stream:  # a carriage return ends a line too
        if not line.strip():  # what wiped out a bar
            continue
        if BAR.search(line):
            if bar:
                bar.write(line)
            else:
                print(line.strip(), end="\r", file=sys.stderr, flush=True)
            continue
        if ERROR.match(line) and "CalledProcessError" not in line:
            logs.error(line)
        logs.write(line)
    if bar:
        bar.write("")


def _accumulate(run: Run) -> int:
    try:
        return run.config.accumulate
    except KitError:  # training itself says what is wrong with config.json
        return 0


def _able(runs: list[Run], gpus: int) -> int:
    """As many processes as there are GPUs, or the most that can share every run's batches; at least one."""
    sizes = []
    for run in runs:
        with contextlib.suppress(KitError):  # training itself says what is wrong with config.json
            sizes.append(run.config.micro_batch)
    count = max((n for n in range(1, gpus + 1) if not any(size % n for size in sizes)), default=1)
    if count < gpus:
        print(f"{count} of the {gpus} GPUs train: more can't share batches of {sorted(set(sizes))} items", flush=True)
    return count
