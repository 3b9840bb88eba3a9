"""Results kept under cache/: values by key, arrays by name, and the hashes that their keys consist of.

A key contains a hash of everything that its value depends on, so that a change leads to another key and a new
computation. Files appear whole or not at all; one that cannot be read counts as absent. Deleting cache/ costs time and
nothing else.
"""

import functools
import hashlib
import mmap
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.contrib.concurrent import thread_map

from kit.core.console import Bar
from kit.core.exceptions import KitError
from kit.core.files import locked, write_atomically
from kit.core.paths import cache_folder

UNREADABLE = "!"  # prefix of the reason why a file cannot be read, in place of its hash


def get_or_compute(
    store: str, keys: Sequence[str], kind: pa.DataType, compute: Callable[[list[int]], Sequence]
) -> pa.Array:
    """Return the value, of type `kind`, of each of `keys`, from cache/<store>.parquet.

    `compute` receives the positions in `keys` of missing values (for equal keys the first) and returns these values,
    which are added to the store.
    """
    path = cache_folder() / f"{store}.parquet"
    known, values = _read_store(path, kind)
    places = {key: place for place, key in enumerate(known)}
    new: dict[str, int] = {}
    for position, key in enumerate(keys):
        if key not in places:
            new.setdefault(key, position)
    if new:
        values = pa.concat_arrays([values, pa.array(compute(list(new.values())), kind)])
        places |= {key: place for place, key in enumerate(new, len(known))}
        table = pa.table({"key": pa.array([*known, *new], pa.string()), "value": values})
        with suppress(KitError):  # read-only or full: computed again next time
            write_atomically(path, lambda temporary: pq.write_table(table, temporary, write_page_checksum=True))
    return values.take(pa.array([places[key] for key in keys], pa.int64()))


def _read_store(path: Path, kind: pa.DataType) -> tuple[list[str], pa.Array]:
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        return table["key"].to_pylist(), table["value"].combine_chunks().cast(kind)
    except (OSError, KeyError, pa.ArrowException):
        return [], pa.array([], kind)


def cached_memmap(
    name: str,
    size: tuple[int, ...],
    dtypes: Sequence[np.dtype],
    write: Callable[[np.ndarray], None],
) -> np.ndarray:
    """Return the array cache/<name>.npy, memory-mapped; if it does not exist, `write` fills it first.

    If `write` raises OverflowError because a dtype cannot hold the values, it fills an array of the next of `dtypes`.
    Raise KitError if the file cannot be written.
    """
    path = cache_folder() / f"{name}.npy"
    if (values := _map(path, size, dtypes)) is None:
        with locked(path.with_suffix(".lock"), path):
            if (values := _map(path, size, dtypes)) is None:  # no other process has written it meanwhile
                for kind in dtypes:
                    try:
                        write_atomically(path, functools.partial(_write_array, size=size, dtype=kind, write=write))
                        break
                    except OverflowError:
                        if kind == dtypes[-1]:
                            raise
                values = _map(path, size, dtypes)
    if values is None:
        raise KitError(f"{path} cannot be read back as it was written: free space, or check the disk.")
    return values


def release(values: np.ndarray) -> None:
    """Release a mapped array's pages, which stay in its file; otherwise all written pages count as our memory."""
    if isinstance(values, np.memmap) and hasattr(mmap, "MADV_DONTNEED"):
        values._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]  # numpy's stubs leave _mmap out


def _map(path: Path, size: tuple[int, ...], dtypes: Sequence[np.dtype]) -> np.ndarray | None:
    try:
        values = np.load(path, mmap_mode="r")
    except Exception:  # a damaged header can raise anything
        return None
    return values if values.shape == size and values.dtype in dtypes else None


def _write_array(path: Path, size: tuple[int, ...], dtype: np.dtype, write: Callable[[np.ndarray], None]) -> None:
    values = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=size)
    if hasattr(os, "posix_fallocate"):  # a full disk raises an error here instead of crashing the process later
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    write(values)
    values.flush()


def fingerprint(*parts: bytes | str) -> str:
    """Return a hash of the parts and of their boundaries, as 32 hexadecimal digits."""
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        content = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        total.update(len(content).to_bytes(8, "little") + content)
    return total.hexdigest()


def content_hashes(paths: Sequence[str | None], strict: bool = True) -> list[str]:
    """Return a hash of each file's contents, "" if its path is None.

    A file is read again when its size, inode, or time of modification or status change differs. If one cannot be read,
    raise KitError, or with `strict=False` return UNREADABLE and the reason in place of its hash.
    """
    hashes = ["" if path is None else _stamp(path) for path in paths]
    known = enumerate(zip(paths, hashes, strict=True))
    readable = {i: path for i, (path, stamp) in known if path is not None and not stamp.startswith(UNREADABLE)}
    files = list(readable.values())

    def compute(new: list[int]) -> list[str]:
        return thread_map(_hash_file, [files[i] for i in new], desc="file hashes", leave=False, tqdm_class=Bar)

    keys = [fingerprint(os.path.abspath(path), hashes[i]) for i, path in readable.items()]
    for i, digest in zip(readable, get_or_compute("files", keys, pa.string(), compute).to_pylist(), strict=True):
        hashes[i] = digest
    for path, digest in zip(paths, hashes, strict=True):
        if strict and digest.startswith(UNREADABLE):
            raise KitError(f"{path} cannot be read ({digest[1:]}): replace the file.")
    return hashes


def _stamp(path: str) -> str:
    """Return a string that changes when the file does, or UNREADABLE and the reason."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            return f"{UNREADABLE}not a file"
        os.close(os.open(path, os.O_RDONLY))  # tested each time: changed permissions leave no other trace
    except OSError as error:
        return f"{UNREADABLE}{error.strerror}"
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def _hash_file(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise KitError(f"{path} cannot be read ({error.strerror}): replace the file.") from error
