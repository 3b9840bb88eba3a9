"""Items as HTML cards: image, text, true and predicted class, and what a model attended to.

Text is escaped to ASCII, so that it is right whatever encoding a page declares.
"""

import base64
import html
import io
import itertools
from contextlib import suppress

import matplotlib
import numpy as np
import pandas as pd
from PIL import Image

from kit.core.exceptions import KitError
from kit.data.images import thumbnail

CARD = "border:1px solid rgba(128,128,128,.45);border-radius:6px;padding:8px;overflow-wrap:anywhere"
IMAGE_STYLE = "width:{0}px;height:{0}px;object-fit:contain;background:#fff;color:#666;font-size:12px"
SIDE = 190  # pixels, of an image beside its map
BLUE = "#2a6f97"
GOOD, BAD = "#1d7a41", "#b3261e"  # behind white letters, which are then legible on a light and on a dark page
# viridis is perceptually uniform and safe for the colour-blind; of blues, each is darker than the one before
REGIONS, WORDS = matplotlib.colormaps["viridis"], matplotlib.colormaps["Blues"]


def gallery(items: pd.DataFrame, names: dict[int, str]) -> str:
    """Return rows of `Errors.items` as HTML cards: images, title, description, true and predicted class."""
    return _page([_card(item, names) for item in items.itertuples()], "repeat(auto-fill,minmax(260px,1fr))")


def attention_gallery(items: pd.DataFrame, names: dict[int, str]) -> str:
    """Return rows of `kit.training.explain:explain` as HTML cards, one below the other.

    Each has its images, each again under its map of attention, the words shaded by the attention on their pieces, and
    the most likely classes as bars. Colours begin at no attention and end at twice even attention, or at the card's
    maximum if that is more, so that even attention looks even.
    """
    return _page([_attention_card(item, names) for item in items.itertuples()], "minmax(0,1fr)")


def _page(cards: list[str], columns: str) -> str:
    grid = f"display:grid;grid-template-columns:{columns};gap:10px;font:13px/1.4 sans-serif"
    content = "\n".join(cards) or "<p>No item to show.</p>"
    page = f'<div class="tex2jax_ignore" style="{grid}">\n{content}\n</div>'  # the class: Jupyter leaves $ alone
    return page.encode("ascii", "xmlcharrefreplace").decode()


def _card(item, names: dict[int, str]) -> str:
    def line(word: str, colour: str, code: int, probability: float) -> str:
        name = html.escape(f"{code} {names.get(code, '')}".strip())
        return f"<div>{_mark(word, colour)} {name}, {probability:.1%}</div>"

    description = item.description if item.described else "(no description)"
    return (
        f'<div style="{CARD}">{"".join(_thumbnail(path, item.title) for path in item.images or [None])}'
        f'<div style="font-weight:bold;margin-top:6px">{_shorten(item.title, 120)}</div>'
        f'<div style="opacity:.75;margin:2px 0 6px">{_shorten(description, 160)}</div>'
        f"{line('true', GOOD, item.label, item.probability_true)}"
        f"{line('predicted', GOOD if item.predicted == item.label else BAD, item.predicted, item.probability)}"
        f"<div>loss {item.loss:.2f}</div></div>"
    )


def _mark(word: str, colour: str) -> str:
    return f'<b style="background:{colour};color:#fff;padding:0 4px;border-radius:3px">{word}</b>'


def _shorten(text: str, length: int) -> str:
    return html.escape(text if len(text) <= length else text[: length - 1].rstrip() + "…")


def _thumbnail(path: str | None, title: str, size: int = 128) -> str:
    """Return a thumbnail inside the page (data URI), or a box that says why there is none."""
    style = IMAGE_STYLE.format(size)
    box = f'<div style="{style};display:grid;place-items:center">{{}}</div>'
    if not isinstance(path, str):
        return box.format("no image")
    try:
        data = base64.b64encode(thumbnail(path, size)).decode()
    except KitError:
        return box.format("image unreadable")
    return f'<img alt="{_shorten(title, 120)}" style="{style}" src="data:image/jpeg;base64,{data}">'


def _attention_card(item, names: dict[int, str]) -> str:
    right = item.top[0][0] == item.label
    verdict = _mark("right", GOOD) if right else _mark("wrong", BAD)
    title, note = " ".join(item.words), []
    images = [_thumbnail(path, title, SIDE) for path in item.images or [None]]
    if item.regions is not None and item.images:
        with suppress(KitError):  # unreadable, as the first box says
            ceiling = _ceiling(item.regions)
            overlays = [_overlay(path, r, ceiling) for path, r in zip(item.images, item.regions, strict=True)]
            images = list(itertools.chain(*zip(images, overlays, strict=True)))
            note.append(_range("regions", item.regions))
            if len(item.images) > 1:
                shares = item.regions.sum((1, 2)) / item.regions.sum()
                parts = [f"image {i} has {share:.0%}" for i, share in enumerate(shares, 1)]
                note.append(f"of the attention on the images, {', '.join(parts)}")
    if item.attention is not None:
        note.append(_range("words", item.attention))
        note.append(f"tokens outside words have {item.unsplit:.0%} of the attention on the text")
    classes = list(item.top)
    if item.label not in [code for code, _ in classes]:
        classes.append((item.label, item.probability_true))
    bars = "".join(_bar(code, names.get(code, ""), share, code == item.label) for code, share in classes)
    own = html.escape(str(getattr(item, "key", item.id)))
    return (
        f'<div style="{CARD}"><div>{verdict} · item {own} · fold {item.fold + 1}</div>'
        f'<div style="display:flex;flex-wrap:wrap;gap:10px;margin-top:6px">'
        f'<div style="display:flex;flex-wrap:wrap;gap:6px">{"".join(images)}</div>'
        f'<div style="flex:1 1 300px;min-width:0">{_shaded(item.words, item.attention)}'
        f'<div style="display:grid;grid-template-columns:minmax(90px,40%) 1fr max-content;gap:3px 8px;margin-top:8px">'
        f'{bars}</div></div></div><div style="opacity:.75;margin-top:6px">{"; ".join(note)}</div></div>'
    )


def _bar(code: int, name: str, share: float, true: bool) -> str:
    label = f"<bdi>{html.escape(f'{code} {name}'.strip())}</bdi>"
    mark, colour = (" <b>(true)</b>", BLUE) if true else ("", "#8d99ae")
    bar = f'<div style="width:{100 * share:.1f}%;min-width:1px;height:1em;background:{colour}"></div>'
    return f'<div>{label}{mark}</div><div>{bar}</div><div style="text-align:right">{100 * share:.1f} %</div>'


def _shaded(words: list[str], attention: np.ndarray | None) -> str:
    """Return the words on white, each darker the more attention it has; the direction of the script is the browser's
    to find out."""
    shades = np.zeros(len(words)) if attention is None else attention / _ceiling(attention)
    spans = []
    for word, shade, value in zip(words, shades, words if attention is None else attention, strict=True):
        red, green, blue, _ = WORDS(0.85 * shade, bytes=True)
        ink = "#000" if 0.299 * red + 0.587 * green + 0.114 * blue > 104 else "#fff"
        hint = "" if attention is None else f' title="{value:.2f} × even"'
        style = f"background:rgb({red},{green},{blue});color:{ink};padding:1px 2px;border-radius:3px"
        spans.append(f'<span style="{style}"{hint}>{html.escape(word)}</span>')
    text = " ".join(spans) or "(no text)"
    return f'<div dir="auto" style="background:#fff;color:#000;padding:4px;line-height:1.7">{text}</div>'


def _overlay(path: str, regions: np.ndarray, ceiling: float) -> str:
    """Return the image in grey under the map `[h, w]`, smoothed and half transparent; colours end at `ceiling`. Raise
    KitError if unreadable."""
    image = Image.open(io.BytesIO(thumbnail(path, SIDE))).convert("L")
    shades = Image.fromarray((regions / ceiling).astype(np.float32)).resize(image.size, Image.Resampling.BICUBIC)
    colours = REGIONS(np.clip(np.asarray(shades), 0, 1))[:, :, :3]  # [H, W, 3]
    mixed = 0.45 * np.asarray(image)[:, :, None] / 255 + 0.55 * colours
    Image.fromarray((255 * mixed).astype(np.uint8)).save(buffer := io.BytesIO(), "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="attention on regions" style="{IMAGE_STYLE.format(SIDE)}" src="data:image/jpeg;base64,{data}">'


def _ceiling(attention: np.ndarray) -> float:
    """Return the attention, as a multiple of even attention, at which the colours end."""
    return max(2.0, float(attention.max(initial=0)))


def _range(what: str, attention: np.ndarray) -> str:
    least, most = attention.min(), attention.max()
    return f"attention on {what}: {least:.2f} to {most:.2f} × even, colours from 0 to {_ceiling(attention):.3g}"
