"""The error that users see, and helpers for its sentences."""

import difflib
import re
from collections.abc import Iterable

LONGEST = 200  # characters of one item in a sentence: a stray quotation mark makes a whole table one name


class KitError(Exception):
    """A problem that the user can fix: one sentence that says what is wrong, where, and what to do."""

    def _render_traceback_(self):  # IPython shows this instead of a traceback
        lines = [f"{KitError.__name__}: {self}"]
        for name, value in re.findall(r"-p (\w+) (\S*[\w/])", str(self)):
            value = value if re.fullmatch(r"True|False|[\d.]+", value) else f'"{value}"'
            lines.append(f"(In the notebook's first code cell: {name} = {value})")
        return lines


class Busy(KitError):
    """Another process holds what this one needs."""


class OutOfMemory(KitError):
    """Memory ran out in several processes; config.json now asks for smaller batches, so start the run again."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a question for the closest of the `known` names, after a space; "" if none is close."""
    close = difflib.get_close_matches(name, [*known], 1)
    return f" Did you mean {close[0]}?" if close else ""


def shorten(items, shown: int = 5) -> str:
    """Return the first `shown` items as text, each cut if it is very long, and the number of the rest."""
    items = [text if len(text) <= LONGEST else f"{text[:LONGEST]}…" for text in map(str, items)]
    return ", ".join(items[:shown]) + (f" and {len(items) - shown} more" if len(items) > shown else "")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the error's type if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
