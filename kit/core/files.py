"""Atomic writes, locks that a dead process does not hold, and JSON."""

import glob
import json
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import psutil
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from kit.core.exceptions import Busy, KitError

TRAIN_AGAIN = "train the run again, with -p again True"


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary path)` beside `path`, then rename: a reader sees the old file or the complete new one.

    The file's permissions follow the user's umask, whatever its writer would have chosen. Raise KitError if it cannot
    be written.
    """
    host = "@" + platform.node().replace(".", "_")
    temporary = path.with_name(f".{path.name}.{os.getpid()}{host}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(f".{glob.escape(path.name)}.*"):  # from killed processes
            process = leftover.suffix[1:].removesuffix(host)
            if process.isdecimal() and not psutil.pid_exists(int(process)):
                leftover.unlink(missing_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        if temporary.stat().st_mode != mode:
            with suppress(OSError):  # a file system without permissions
                temporary.chmod(mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())  # otherwise a power cut may leave an empty file under the new name
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise KitError(f"{path} cannot be written ({error}): free space or fix permissions.") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def locked(lock: Path, what: Path, patience: float = -1, busy: str = "") -> Iterator[None]:
    """Hold the lock of `what`. Other processes wait for it, but not for a dead one.

    Raise KitError if it cannot be written, or Busy, with the sentence `busy`, after `patience` seconds (below 0: wait).
    """
    file_lock = FileLock(lock, timeout=patience)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file_lock.acquire()
    except Timeout:
        raise Busy(busy) from None
    except OSError as error:
        raise KitError(f"{what} cannot be written ({error}): free space or fix permissions.") from error
    try:
        yield
    finally:
        file_lock.release()


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, content: dict) -> None:
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path, advice: str = TRAIN_AGAIN) -> dict:
    """Return the object in a file. Raise KitError, with `advice` on what to do, if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
        return content
    except (OSError, ValueError) as error:
        raise KitError(f"{path} cannot be read ({error}): {advice}.") from error


def now() -> str:
    """Return the current time in UTC, to be stored inside a file: copying a file loses its modification time."""
    return datetime.now(UTC).isoformat()


def read_time(text) -> datetime | None:
    """Return a time that `now` wrote; None if `text` is not a time."""
    try:
        time = datetime.fromisoformat(text)
        return time if time.tzinfo else time.replace(tzinfo=UTC)
    except (TypeError, ValueError):
        return None
