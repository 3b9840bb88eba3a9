"""Where things are: the project, its runs, caches and submissions."""

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from kit.core.exceptions import KitError

MARK = re.compile(r'^name = "rakuten-notebook-kit"$', re.MULTILINE)  # in a project's pyproject.toml


class Nowhere:
    """Stands for a folder that could not be found: any use of a path in it raises KitError with `sentence`."""

    def __init__(self, sentence: str):
        self._sentence = sentence

    def __truediv__(self, part) -> "Path | Nowhere":
        return Path(part) if os.path.isabs(part) else self

    def __repr__(self) -> str:
        return "no project"

    def __fspath__(self) -> str:
        raise KitError(self._sentence)

    def __getattr__(self, name: str):
        raise KitError(self._sentence)


def find_project(start: Path) -> Path | None:
    """Return the nearest of `start` and the folders above it that holds a project: its notebooks and pyproject.toml."""
    for folder in (start, *start.parents):
        with contextlib.suppress(OSError, ValueError):
            if MARK.search((folder / "pyproject.toml").read_text(encoding="utf-8")) and (folder / "notebooks").is_dir():
                return folder
    return None


def find_places(environment: Mapping[str, str]) -> tuple[Path | Nowhere, Path | Nowhere]:
    """Return the folder in which relative paths start, and the one of runs/, submissions/ and cache/.

    The project is the one that the user stands in, else the one that this package is part of, else KIT_ROOT. The latter
    is where KIT_ROOT in `environment` says, if it is set. Processes that the kit starts are told both.
    """
    root = environment.get("KIT_ROOT")
    try:
        told = environment.get("KIT_PROJECT")
        project = Path(told) if told else _standing_in() or find_project(Path(__file__).resolve().parents[1])
        place = Path(root or ".").expanduser()
        if project or place.is_absolute():
            place = ((project or place) / place).resolve()
            return project or place, place
        sentence = (
            "There is no project here: change to its folder, install the kit with pip install -e, or set KIT_ROOT to "
            "the absolute path of a folder for runs and submissions."
        )
    except (RuntimeError, ValueError) as error:
        sentence = f"KIT_ROOT={root!r} is no path ({error}): set it to a folder."
    return Nowhere(sentence), Nowhere(sentence)


def _standing_in() -> Path | None:
    try:
        return find_project(Path.cwd())
    except OSError:  # the working directory was removed
        return None


PROJECT, ROOT = find_places(os.environ)


def resolve(path) -> Path:
    """An absolute path; a relative one starts at the project's root, wherever the notebook kernel was started.

    Raises KitError.
    """
    try:
        return (PROJECT / Path(path).expanduser()).resolve()
    except (RuntimeError, ValueError) as error:  # nobody of that name, a null byte
        raise KitError(f"{str(path)!r} is no path ({error}): give a folder or a file.") from None
