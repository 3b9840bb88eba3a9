"""The one error that users see, and the shortening of lists in its sentences."""


class KitError(Exception):
    """Something the user can mend: one sentence that says what is wrong, where, and what to do."""

    def _render_traceback_(self):  # IPython shows this in place of a traceback
        return [f"{KitError.__name__}: {self}"]


class Busy(KitError):
    """Another process holds what this one needs."""


class OutOfMemory(KitError):
    """Memory ran out on several processes, and config.json now has smaller batches: to be started again."""


def shorten(items, shown: int = 5) -> str:
    """The first few items, and how many more there are."""
    items = list(items)
    return ", ".join(map(str, items[:shown])) + (f" and {len(items) - shown} more" if len(items) > shown else "")
