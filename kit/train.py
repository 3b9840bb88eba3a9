"""The one training loop: `accelerate launch -m kit.train runs/<name>/config.json …`, on any devices Accelerate knows.

N items · K classes · F folds
"""

import os
import signal
import sys
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, get_int_from_env, parse_flag_from_env

from kit.config import LAUNCHER, LINEAR
from kit.core.console import accept_any_character
from kit.core.exceptions import KitError
from kit.runs import BEGINS, STOPPED, TrainingRun
from kit.training import linear
from kit.training.interrupt import IgnoreBrokenPipe, Interrupted, Watch
from kit.training.trainer import train

WORLDS = "PMI", "OMPI_COMM_WORLD", "MV2_COMM_WORLD", "WORLD"  # whose _SIZE says of how many processes this is one


def main(arguments: list[str]) -> int:
    accept_any_character()
    if not arguments:
        print("usage: accelerate launch -m kit.train runs/<name>/config.json …", file=sys.stderr)
        return 2
    if os.environ.get(LAUNCHER):
        sys.stdout, sys.stderr = IgnoreBrokenPipe(sys.stdout), IgnoreBrokenPipe(sys.stderr)
    try:
        state = meet()
    except KitError as error:
        print(f"{KitError.__name__}: {error}", file=sys.stderr, flush=True)
        return 1
    watch = Watch()
    with watch.listening():
        failed = _train_all(arguments, state, watch)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return failed


def meet() -> PartialState:
    """Return the state once all processes that the environment names are there; say so if it names several.

    Raises KitError where its variables are not whole.
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
        # so long the others wait while the first computes frozen features
        state = PartialState(parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=timedelta(hours=6))
        if state.num_processes < count:
            raise ValueError(f"of {count} processes, this one has LOCAL_RANK={os.environ.get('LOCAL_RANK', '')}")
    except (ValueError, RuntimeError, ImportError) as error:
        if not several:
            raise
        reason = str(error).partition("\n")[0].rstrip(".")
        raise KitError(
            f"The environment says that several processes train together, but not how they meet ({reason}): start "
            f"them with accelerate launch, or unset RANK, LOCAL_RANK, WORLD_SIZE and MASTER_ADDR to train alone."
        ) from error
    finally:
        signal.signal(signal.SIGINT, usual)
    return state


def _finished(run: TrainingRun) -> bool:
    """The same answer on all processes."""
    return broadcast_object_list([run.finished])[0]


def _train_all(arguments: list[str], state: PartialState, watch: Watch) -> int:
    """The exit status: 1 where a run failed, 130 after an interruption."""
    failed, main = 0, state.is_main_process
    for argument in arguments:
        path = Path(argument).resolve()
        run = TrainingRun(path if path.is_dir() else path.parent)
        try:
            system = run.config.system  # before the lock, which would make a folder that is not there
            finished = _finished(run)
            with run.alone() if main and not finished else nullcontext():
                if finished or _finished(run):  # by now: another process may have held it meanwhile
                    if main:
                        print(f"{run.name} is finished already", flush=True)
                    continue
                if main:
                    print(f"{BEGINS}{run.name}", flush=True)
                if system in LINEAR:
                    linear.fit(run)
                else:
                    train(run, watch)
        except Interrupted as reason:
            if state.is_main_process:
                saved = "goes on from its saved state" if run.begun else "begins anew: nothing was saved yet"
                why = str(reason) or "stopped in another process"
                sentence = f"{STOPPED}{why}; the same command {saved} (-p again True would start over)."
                print(f"\n{KitError.__name__}: {run.name}: {sentence}", file=sys.stderr, flush=True)
            return 130
        except KitError as error:
            # one raised in a process that reads images arrives with that process's traceback around it
            sentence = str(error).rsplit(f"{KitError.__name__}: ", 1)[-1].strip()
            print(f"\n{KitError.__name__}: {run.name}: {sentence}", file=sys.stderr, flush=True)
            failed = 1
            if state.num_processes > 1:  # the other processes may be elsewhere: all start anew with the next run
                return 1
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
