"""Tables, and how to read them, as a notebook shows them."""

import pandas as pd
from IPython.display import Markdown
from pandas.api.types import is_numeric_dtype
from pandas.io.formats.style import Styler


def table(frame: pd.DataFrame | pd.Series, precision: int = 1) -> Styler:
    """Return a table to show: text to the left, numbers to the right with `precision` decimals, no row numbers, names
    taken literally. An index that has a name becomes the first column."""
    frame = pd.DataFrame(frame)
    frame = frame if frame.index.name is None else frame.reset_index()
    numbers = [f".col{place}" for place, kind in enumerate(frame.dtypes) if is_numeric_dtype(kind)]
    styles = [{"selector": "th, td", "props": "text-align: left; vertical-align: top"}]
    styles += [{"selector": f"th{column}, td{column}", "props": "text-align: right"} for column in numbers]
    style = frame.style.format(escape="html", precision=precision, na_rep="–").hide(axis="index")
    return style.set_table_styles(styles).set_table_attributes('class="tex2jax_ignore"')  # Jupyter leaves $ alone


def legend(text: str) -> Markdown | None:
    """Return how to read a table, to show below it; None for "". A terminal, which does not show the table, does not
    print it either."""
    return Markdown(text) if text else None
