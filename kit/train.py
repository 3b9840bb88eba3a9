"""The command that trains: `accelerate launch -m kit.train runs/<name>/config.json …`, on all that Accelerate knows."""

import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, get_int_from_env, parse_flag_from_env

from kit.config import LAUNCHER, LIGHT
from kit.core.console import accept_any_character
from kit.core.exceptions import Busy, KitError, OutOfMemory, first_line
from kit.runs import TrainingRun
from kit.training import light
from kit.training.interrupt import TOGETHER, Interrupted, Watch
from kit.training.run_trainer import train
from kit.training.status import AT_WORK, Teller, crash, fail

WORLDS = "PMI", "OMPI_COMM_WORLD", "MV2_COMM_WORLD", "WORLD"  # whose _SIZE says of how many processes this is one


def main(arguments: list[str]) -> int:
    accept_any_character()
    if not arguments:
        print("usage: accelerate launch -m kit.train runs/<name>/config.json …", file=sys.stderr)
        return 2
    teller = Teller()
    with teller.listening():
        try:
            state = meet()
        except KitError as error:
            print(f"{KitError.__name__}: {error}", file=sys.stderr, flush=True)
            return 1
        watch = Watch()
        with watch.listening():
            failed = _train_all(arguments, state, watch, teller)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return failed


def meet() -> PartialState:
    """Return the state once all processes that the environment names are there; say so if it names several.

    Raise KitError if its variables are incomplete.
    """
    several = "LOCAL_RANK" in os.environ or any(f"{name}_SIZE" in os.environ for name in WORLDS)
    usual = signal.getsignal(signal.SIGINT)
    try:
        count = get_int_from_env([f"{name}_SIZE" for name in WORLDS], 1)
        rank = get_int_from_env(["RANK", *(f"{name}_RANK" for name in WORLDS)], -1)
        if count > 1 and not 0 <= rank < count:
            raise ValueError(f"of {count} processes, this one has RANK={os.environ.get('RANK', '')}")
        if count > 1 and not os.environ.get(LAUNCHER) and (address := os.environ.get("MASTER_ADDR")):
            port = os.environ.get("MASTER_PORT", 29500)
            print(f"Process {rank} is waiting for {count} processes at {address}:{port}", flush=True)
        if count > 1:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python would hear it when all are there, and no sooner
        state = PartialState(parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=TOGETHER)
        if state.num_processes < count:
            raise ValueError(f"of {count} processes, this one has LOCAL_RANK={os.environ.get('LOCAL_RANK', '')}")
    except (ValueError, RuntimeError, ImportError) as error:
        if not several:
            raise
        reason = first_line(error).rstrip(".")
        raise KitError(
            f"The environment says that several processes train together, but not how they meet ({reason}): start "
            f"them with accelerate launch, or unset RANK, LOCAL_RANK, WORLD_SIZE and MASTER_ADDR to train alone."
        ) from error
    finally:
        signal.signal(signal.SIGINT, usual)
    return state


def _finished(run: TrainingRun) -> bool:
    """Return whether the run is finished, agreed by all processes."""
    return broadcast_object_list([run.finished])[0]


def _train_all(arguments: list[str], state: PartialState, watch: Watch, teller: Teller) -> int:
    """Return the exit status: 1 if a run failed, AT_WORK if another process has it, 130 after an interruption."""
    failed = 0
    for argument in arguments:
        path = Path(argument).resolve()
        status = _train_one(TrainingRun(path if path.is_dir() else path.parent), state, watch, teller)
        if status == 130 or (status and state.num_processes > 1):  # the others may be elsewhere: all start anew
            return status
        failed = 1 if 1 in (failed, status) else max(failed, status)
    return failed


def _train_one(run: TrainingRun, state: PartialState, watch: Watch, teller: Teller) -> int:
    """Train one run; return the exit status."""
    main = state.is_main_process
    teller.begin()
    try:
        run.config  # noqa: B018 (asked before the lock, which would make a folder that is not there)
        finished = _finished(run)
        with run.alone() if main and not finished else nullcontext():
            if finished or _finished(run):  # by now: another process may have held it meanwhile
                if main:
                    print(f"{run.name} is finished already", flush=True)
                return 0
            with teller.telling(run) if main else nullcontext():
                return _train(run, watch, teller, main)
    except Interrupted as reason:  # while it waited for the run
        return _stopped(run, reason, main)
    except KitError as error:
        _say(run, _describe(run, error))
        return AT_WORK if isinstance(error, Busy) else 1


def _train(run: TrainingRun, watch: Watch, teller: Teller, main: bool) -> int:
    """Train a run whose lock this process holds, and record in its folder what goes wrong; return the exit status."""
    try:
        if main:
            print(f"── {run.name}", flush=True)
        if run.config.system in LIGHT:
            light.fit(run)
        else:
            train(run, watch)
        return 0
    except Interrupted as reason:
        if main:
            fail(run, "stopped", _describe(run, reason))
        return _stopped(run, reason, main)
    except KitError as error:
        fail(run, "memory" if isinstance(error, OutOfMemory) else "error", _describe(run, error))
        _say(run, _describe(run, error))
        return 1
    except BaseException as error:
        crash(run, error, teller)
        raise


def _stopped(run: TrainingRun, reason: Interrupted, main: bool) -> int:
    if main:
        _say(run, _describe(run, reason))
    return 130


def _describe(run: TrainingRun, error: BaseException) -> str:
    if isinstance(error, Interrupted):
        saved = "goes on from its saved state" if run.begun else "begins anew: nothing was saved yet"
        why = str(error) or "stopped in another process"
        return f"The training was {why}; the same command {saved} (-p again True would start over)."
    # one raised in a process that reads images arrives with that process's traceback around it
    return str(error).rsplit(f"{KitError.__name__}: ", 1)[-1].strip()


def _say(run: TrainingRun, sentence: str) -> None:
    print(f"\n{KitError.__name__}: {run.name}: {sentence}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
