"""Items as HTML cards: image, title, description, true and predicted class."""

import base64
import html

import pandas as pd

from kit.core.exceptions import KitError
from kit.data.images import thumbnail

CARD = "border:1px solid rgba(128,128,128,.45);border-radius:6px;padding:8px;overflow-wrap:anywhere"
IMAGE_STYLE = "width:128px;height:128px;object-fit:contain;background:#fff;color:#666;font-size:12px"


def gallery(items: pd.DataFrame, names: dict[int, str]) -> str:
    """Return rows of `Errors.items` as HTML cards: image, title, description, true and predicted class.

    Text is escaped to ASCII, so that it is right whatever encoding a page declares.
    """
    cards = "\n".join(_card(item, names) for item in items.itertuples()) or "<p>No item to show.</p>"
    grid = "display:grid;grid-template-columns:repeat(auto-fill,minmax(260px,1fr));gap:10px;font:13px/1.4 sans-serif"
    page = f'<div class="tex2jax_ignore" style="{grid}">\n{cards}\n</div>'  # the class: Jupyter leaves $ alone
    return page.encode("ascii", "xmlcharrefreplace").decode()


def _card(item, names: dict[int, str]) -> str:
    def line(word: str, colour: str, code: int, probability: float) -> str:
        name = html.escape(f"{code} {names.get(code, '')}".strip())
        return f'<div><b style="color:{colour}">{word}</b> {name}, {probability:.1%}</div>'

    description = item.description if item.described else "(no description)"
    return (
        f'<div style="{CARD}">{_thumbnail(item.image_path, item.title)}'
        f'<div style="font-weight:bold;margin-top:6px">{_shorten(item.title, 120)}</div>'
        f'<div style="opacity:.75;margin:2px 0 6px">{_shorten(description, 160)}</div>'
        f"{line('true', '#2f9e5b', item.label, item.probability_true)}"
        f"{line('predicted', '#d9534f', item.predicted, item.probability)}"
        f"<div>loss {item.loss:.2f}</div></div>"
    )


def _shorten(text: str, length: int) -> str:
    return html.escape(text if len(text) <= length else text[: length - 1].rstrip() + "…")


def _thumbnail(path: str | None, title: str, size: int = 128) -> str:
    """Return a thumbnail inside the page (data URI), or a box that says why there is none."""
    box = f'<div style="{IMAGE_STYLE};display:grid;place-items:center">{{}}</div>'
    if not isinstance(path, str):
        return box.format("no image")
    try:
        data = base64.b64encode(thumbnail(path, size)).decode()
    except KitError:
        return box.format("image unreadable")
    return f'<img alt="{_shorten(title, 120)}" style="{IMAGE_STYLE}" src="data:image/jpeg;base64,{data}">'
