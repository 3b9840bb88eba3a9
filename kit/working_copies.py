"""Open working copies of the notebooks in JupyterLab, so that edits never change the shipped notebooks, nor the
defaults of any command.
"""

import hashlib
import os
import sys
from functools import partial
from pathlib import Path

from kit.core.exceptions import KitError
from kit.core.files import read_json, write_atomically, write_json
from kit.core.paths import notebooks_folder, project


def copy_notebooks(shipped: Path, work: Path) -> list[str]:
    """Copy the notebooks from `shipped` to `work`, and return a sentence for each edited copy that is now outdated.

    An edited copy is left unchanged; an unedited one is updated. Raise KitError if there are no notebooks.
    """
    paths, record, sentences = sorted(shipped.glob("*.ipynb")), work / ".shipped.json", []
    if not paths:
        raise KitError(f"{shipped} has no notebooks: run this from the project's folder, after pip install -e.")
    copied = read_json(record, "remove it") if record.is_file() else {}  # name → hash of the copied version
    for path in paths:
        copy, content = work / path.name, path.read_bytes()
        current = copy.read_bytes() if copy.exists() else None
        if current is None or current == content or _hash(current) == copied.get(path.name):
            if current != content:
                write_atomically(copy, partial(Path.write_bytes, data=content))
            copied[path.name] = _hash(content)
        elif copied.get(path.name) != _hash(content):
            sentences.append(f"{copy} was edited, and {path} is newer: rename or remove yours to get the new one.")
    write_json(record, copied)
    return sentences


def command(project: Path, options: list[str]) -> list[str]:
    """Return the command that opens JupyterLab in the working copies, with the whole project in its file browser."""
    folders = [f"--ServerApp.root_dir={project}", f"--FileContentsManager.preferred_dir={project / 'work'}"]
    allow = ["--allow-root"] if os.geteuid() == 0 else []  # as in containers: Jupyter refuses root otherwise
    return [sys.executable, "-m", "jupyterlab", *folders, *allow, *options]


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def open_notebooks(options: list[str]) -> None:
    """Make the working copies, and replace this process with JupyterLab. Raise KitError if there are no notebooks."""
    sentences = copy_notebooks(notebooks_folder(), project() / "work")
    print(*sentences, f"The notebooks in {project() / 'work'} are yours to edit.", sep="\n", flush=True)
    arguments = command(project(), options)
    os.execv(arguments[0], arguments)
