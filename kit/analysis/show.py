"""Tables as a notebook shows them."""

import pandas as pd
from pandas.io.formats.style import Styler


def table(frame: pd.DataFrame) -> Styler:
    """Return a table to show: text to the left, no row numbers, names taken literally."""
    left = [{"selector": "th, td", "props": "text-align: left; vertical-align: top"}]
    style = frame.style.format(escape="html").hide(axis="index").set_table_styles(left)
    return style.set_table_attributes('class="tex2jax_ignore"')  # Jupyter leaves $ alone
