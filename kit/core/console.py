"""Console output: streams that accept any character, and progress bars that leave nothing behind."""

import io
import os
import shutil
import sys
import warnings
from collections.abc import Callable

from tqdm import tqdm

SHELL = "KIT_SHELL"  # environment variable: the notebook is executed by a command, so that -p sets its parameters
sink: Callable[..., None] | None = None  # told what each bar is called and shows, and how far a training is


def open_closed_streams() -> None:
    """Let what is written to a standard stream that the shell has closed (`2>&-`) go nowhere, instead of failing."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
            setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w", closefd=False))


def accept_any_character() -> None:
    """Let standard output replace characters that its encoding lacks (as in a Latin-1 locale) instead of failing."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # standard error does so by default


def plain_warnings() -> None:
    """Print a warning as its sentence, without the place in the code that gave it."""
    usual = warnings.formatwarning

    def plain(message, category, filename, lineno, line=None) -> str:
        return f"{message}\n" if category is UserWarning else usual(message, category, filename, lineno, line)

    warnings.formatwarning = plain


def in_notebook() -> bool:
    return "ipykernel" in sys.modules and sys.modules["IPython"].get_ipython() is not None


def in_words(seconds: float | None) -> str:
    """Return a duration to read at a glance; "–" if there is none."""
    if seconds is None:
        return "–"
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.{1 if seconds < 10 * size else 0}f} {unit}"
    return f"{seconds:.{1 if seconds < 10 else 0}f} s"


def setting(**values: str) -> str:
    """Return how these parameters are set where the user is: in a notebook's first cell, or in a shell."""
    if in_notebook() and not os.environ.get(SHELL):
        return ", ".join(f'{name} = "{value}"' for name, value in values.items())
    return " ".join(f"-p {name} {value}" for name, value in values.items())


class Line(io.TextIOBase):
    """One line below a notebook's cell: each text that is written replaces the previous one.

    Unlike tqdm's widget, it leaves nothing in an executed notebook after an empty text is written.
    """

    encoding = "utf-8"  # tqdm checks it before it draws with block characters

    def __init__(self):
        self.handle = None

    def write(self, text: str) -> int:
        if text.strip() or self.handle:
            from IPython.display import display

            self.handle = self.handle or display({"text/plain": ""}, raw=True, display_id=True)
            self.handle.update({"text/plain": text.strip()}, raw=True)
        return len(text)


class Terminal:
    """The same on the last line of a terminal; nothing if standard error is none."""

    def write(self, text: str) -> None:
        if sys.stderr.isatty():
            columns = shutil.get_terminal_size().columns
            print(f"\r\x1b[2K{text[: columns - 1]}", end="", file=sys.stderr, flush=True)


class Nowhere(io.TextIOBase):
    """A stream that keeps nothing: a log needs no bars."""

    encoding = "utf-8"  # tqdm checks it before it draws with block characters

    def write(self, text: str) -> int:
        return len(text)


class Bar(tqdm):
    """A progress bar: on a Line in a notebook, if the work takes longer than a second; elsewhere on standard error if
    that is a terminal."""

    def __init__(self, *arguments, **options):
        if in_notebook():
            options = {"delay": 1} | options | {"file": Line(), "position": 0}
        elif not sys.stderr.isatty():
            options = options | {"file": Nowhere()}
        super().__init__(*arguments, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool | None:
        if sink:
            sink(phase=(self.desc or "").removesuffix(": "), bar=str(self) if msg is None else msg)
        return super().display(msg, pos)
