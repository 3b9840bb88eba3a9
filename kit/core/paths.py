"""Where things are: the project, its runs, caches and submissions. Asked anew each time, by environment and folder."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kit.core.exceptions import KitError

_private: list[Path] = []  # caches that replace the usual one, the innermost last
MARK = re.compile(r'^name = "rakuten-notebook-kit"$', re.MULTILINE)  # in a project's pyproject.toml


def project() -> Path:
    """Return the folder in which relative paths start. Raise KitError if there is none.

    The project is the one that the user stands in, else the one that this package is part of, else KIT_ROOT. Processes
    that the kit starts are told by KIT_PROJECT.
    """
    if told := os.environ.get("KIT_PROJECT"):
        return Path(told)
    if folder := _standing_in() or find_project(Path(__file__).resolve().parents[1]):
        return folder
    if (place := _kit_root()).is_absolute():
        return place.resolve()
    raise KitError(
        "There is no project here: change to its folder, install the kit with pip install -e, or set KIT_ROOT to "
        "the absolute path of a folder for runs and submissions."
    )


def root() -> Path:
    """Return the folder of runs/, submissions/ and cache/: KIT_ROOT if it is set, else the project.

    Raise KitError if there is neither.
    """
    place = _kit_root()
    return (place if place.is_absolute() else project() / place).resolve()


def runs_folder() -> Path:
    """Return the folder with one folder per run. Raise KitError as `root` does."""
    return root() / "runs"


def submissions_folder() -> Path:
    """Return the folder of submission files, one folder per run. Raise KitError as `root` does."""
    return root() / "submissions"


def cache_folder() -> Path:
    """Return the folder of what can be computed again. Raise KitError as `root` does, unless the cache is private."""
    return _private[-1] if _private else root() / "cache"


@contextlib.contextmanager
def private_cache() -> Iterator[None]:
    """Use a temporary folder as cache/ in the meantime: nothing of what is computed stays, and no project is needed."""
    with tempfile.TemporaryDirectory(prefix="kit-", ignore_cleanup_errors=True) as folder:
        _private.append(Path(folder))
        try:
            yield
        finally:
            _private.pop()


def notebooks_folder() -> Path:
    """Return the folder of the shipped notebooks. Raise KitError if there is no project."""
    return project() / "notebooks"


def find_project(start: Path) -> Path | None:
    """Return the nearest of `start` and the folders above it that holds a project: its notebooks and pyproject.toml."""
    for folder in (start, *start.parents):
        with contextlib.suppress(OSError, ValueError):
            if MARK.search((folder / "pyproject.toml").read_text(encoding="utf-8")) and (folder / "notebooks").is_dir():
                return folder
    return None


def resolve(path) -> Path:
    """Return an absolute path; a relative one starts at the project, wherever the notebook's kernel was started.

    Raise KitError if it is no path, or relative and there is no project.
    """
    try:
        place = Path(path).expanduser()
        return (place if place.is_absolute() else project() / place).resolve()
    except (RuntimeError, ValueError) as error:  # nobody of that name, a null byte
        raise KitError(f"{str(path)!r} is no path ({error}): give a folder or a file.") from None


def require_encoding(name: str, path: str) -> None:
    """Raise KitError if a path, which the user gave as `name`, has bytes that could not be decoded."""
    if re.search("[\ud800-\udfff]", path):
        raise KitError(f"{name}={path!r} is not in this shell's encoding: rename it, or set LC_ALL=C.UTF-8.")


def spelling(path: str) -> str:
    """Return one spelling for all of the same folder: from the project if it is inside. A hub name stays as it is.

    Raise KitError if it is no path, or if there is no project.
    """
    place = resolve(path)
    return place.relative_to(project()).as_posix() if place.is_relative_to(project()) else str(place)


def _kit_root() -> Path:
    told = os.environ.get("KIT_ROOT")
    try:
        return Path(told or ".").expanduser()
    except RuntimeError as error:  # nobody of that name
        raise KitError(f"KIT_ROOT={told!r} is no path ({error}): set it to a folder.") from None


def _standing_in() -> Path | None:
    try:
        return find_project(Path.cwd())
    except OSError:  # the working directory was removed
        return None
