"""Files that appear whole or not at all, locks that a dead process does not hold, and JSON."""

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

from kit.core.exceptions import KitError

TRAIN_AGAIN = "train the run again, with -p again True"


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """`write(temporary path)` beside `path`, then a rename: a reader sees the old file or the whole new one.

    The file may be read by whom the user's umask says, whatever its writer would have chosen.
    """
    here = "@" + platform.node().replace(".", "_")
    temporary = path.with_name(f".{path.name}.{os.getpid()}{here}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{path.name}.*"):  # by a process that was killed
            process = left.suffix[1:].removesuffix(here)
            if process.isdecimal() and not psutil.pid_exists(int(process)):
                left.unlink(missing_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        if temporary.stat().st_mode != mode:
            with suppress(OSError):  # a file system without permissions
                temporary.chmod(mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())  # else a machine that stops may leave an empty file under the new name
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise KitError(f"{path} cannot be written ({error}): free space or fix permissions.") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def locked(lock: Path, what: Path, patience: float = -1, busy: str = "") -> Iterator[None]:
    """Holds the lock of `what`; others wait for it, a dead process keeps nobody waiting.

    Raises KitError where it can't be written, and after `patience` seconds (below 0: never) with the sentence `busy`.
    """
    held = FileLock(lock, timeout=patience)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held.acquire()
    except Timeout:
        raise KitError(busy) from None
    except OSError as error:
        raise KitError(f"{what} cannot be written ({error}): free space or fix permissions.") from error
    try:
        yield
    finally:
        held.release()


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, content: dict) -> None:
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
        return content
    except (OSError, ValueError) as error:
        raise KitError(f"{path} cannot be read ({error}): {TRAIN_AGAIN}.") from error


def now() -> str:
    """Return the time, in UTC, as files keep it: a file's own time is lost when it is copied."""
    return datetime.now(UTC).isoformat()


def read_time(text) -> datetime | None:
    """Return a time that `now` wrote; None if it is none."""
    try:
        time = datetime.fromisoformat(text)
        return time if time.tzinfo else time.replace(tzinfo=UTC)
    except (TypeError, ValueError):
        return None
