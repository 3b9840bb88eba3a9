"""The one error that users see, and the shortening of lists in its sentences."""


class KitError(Exception):
    """Something the user can mend: one sentence that says what is wrong, where, and what to do."""

    def _render_traceback_(self):  # IPython shows this in place of a traceback
        return [f"{type(self).__name__}: {self}"]


def shorten(items, shown: int = 5) -> str:
    """The first few items, and how many more there are."""
    items = list(items)
    return ", ".join(map(str, items[:shown])) + (f" and {len(items) - shown} more" if len(items) > shown else "")
