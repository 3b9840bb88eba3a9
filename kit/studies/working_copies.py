"""Opens working copies of the notebooks in JupyterLab, which saves what is edited there: the shipped ones stay as they
are, and with them the defaults of every command.
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
    """Copy the notebooks from `shipped` to `work`; return a sentence for each copy that is older than what is shipped.

    A copy that was changed stays as it is; one that was not follows what is shipped. Raises KitError.
    """
    paths, record, sentences = sorted(shipped.glob("*.ipynb")), work / ".shipped.json", []
    if not paths:
        raise KitError(
            f"{shipped} has no notebooks: start this in the project's folder, installed with pip install -e."
        )
    copied = read_json(record) if record.is_file() else {}  # name → hash of what was copied
    for path in paths:
        copy, content = work / path.name, path.read_bytes()
        there = copy.read_bytes() if copy.exists() else None
        if there is None or there == content or _hash(there) == copied.get(path.name):
            if there != content:
                write_atomically(copy, partial(Path.write_bytes, data=content))
            copied[path.name] = _hash(content)
        elif copied.get(path.name) != _hash(content):
            sentences.append(f"{copy} is changed, and {path} is newer: rename or remove yours to get the new one.")
    write_json(record, copied)
    return sentences


def command(project: Path, options: list[str]) -> list[str]:
    """Return the command that opens JupyterLab in the working copies; its file browser reaches the whole project."""
    folders = [f"--ServerApp.root_dir={project}", f"--FileContentsManager.preferred_dir={project / 'work'}"]
    allow = ["--allow-root"] if os.geteuid() == 0 else []  # in a container, say: Jupyter refuses root otherwise
    return [sys.executable, "-m", "jupyterlab", *folders, *allow, *options]


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def open_notebooks(options: list[str]) -> None:
    """Make the working copies, and replace this process by JupyterLab on them. Raises KitError."""
    sentences = copy_notebooks(notebooks_folder(), project() / "work")
    print(*sentences, f"The notebooks in {project() / 'work'} are yours to edit.", sep="\n", flush=True)
    arguments = command(project(), options)
    os.execv(arguments[0], arguments)
