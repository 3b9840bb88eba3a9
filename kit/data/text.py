"""Clean HTML, mojibake and white space in product texts, and join title and description."""

import re
import unicodedata
from html import unescape
from html.entities import html5

import ftfy
import pandas as pd

# Only HTML's own names (and Word's `o:p`) make a tag: `a <b et c`, `x<y>z`, `taille <M>` are text.
TAG_NAME = (
    r"(?:a|abbr|area|article|b|base|big|blockquote|body|br|button|caption|center|cite|code|col|colgroup|dd|del|div"
    r"|dl|dt|em|embed|figcaption|figure|font|footer|form|h[1-6]|head|header|hr|html|i|iframe|img|input|ins|label|li"
    r"|link|main|map|mark|meta|nav|noscript|object|ol|option|p|param|pre|q|s|script|section|select|small|source|span"
    r"|strike|strong|style|sub|sup|svg|table|tbody|td|textarea|tfoot|th|thead|title|tr|tt|u|ul|video|wbr|xml"
    r"|[a-z]\w*:\w+)"
)
TAG = re.compile(
    # with their bodies; an unclosed one extends to the end, as in a browser
    r"<(script|style)\b[^<>]*>.*?(?:</\1\s*>|\Z)|<!--.*?(?:-->|\Z)|<!(?:doctype|\[)[^<>]*>|<\?xml[^<>]*>"
    rf"""|</?{TAG_NAME}(?:[\s/](?:"[^"<]*"|'[^'<]*'|[^<>"'])*)?>"""  # a quoted attribute may hold `>` ...
    rf"|</?{TAG_NAME}[\s/][^<>]*>",
    re.IGNORECASE | re.DOTALL,
)  # ... or lack its closing quote
# Only such texts go through ftfy, which is slow: UTF-8 lead and trail bytes shown as CP1252 (`Ã©`, `â€`), or a control
# character.
UTF8_TRAIL = "".join(bytes([b]).decode("cp1252", "ignore") for b in range(0x80, 0xC0))
MOJIBAKE = re.compile(rf"[Â-ô][{UTF8_TRAIL}\x80-\x9f]|Ã |[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
SURROGATE = re.compile("[\ud800-\udfff]")  # half a character: no tokenizer takes it
FTFY = ftfy.TextFixerConfig(unescape_html=False, uncurl_quotes=False, fix_character_width=False, explain=False)
# With a semicolon only. Browsers also accept 106 names without one, even in mid-word, which turns `Four&micro-ondes`
# into `Fourµ-ondes` and `&copy=3` into `©=3`. The end of a word is no criterion either: `Guitare&amp Fender`,
# `lot&#12`.
ENTITY = re.compile("&(?:#[0-9]{1,9}|#[xX][0-9a-fA-F]{1,8}|([A-Za-z][A-Za-z0-9]{1,31}));")


def clean_text(text: str, light: bool = False) -> str:
    """Return plain text: decode entities (escaped up to three times), remove tags, repair mojibake, drop control
    characters, collapse white space.

    `light` repairs entities and white space only. Titles get this form, because cleaning them costs about a point of
    macro-F1 on this data (Synerise, SIGIR eCom 2020). ftfy repairs mojibake: `Ã©tÃ©` becomes `été`. It cannot restore
    `à¢me` (âme, lower-cased after the damage) nor a letter replaced by `?`: both stay as they are. Accents are
    composed, as in all texts (`compose`).
    """
    for _ in range(3):
        if "&" not in text or (plain := ENTITY.sub(_decode_entity, text)) == text:
            break
        text = plain
    if not light:
        if "<" in text:
            text = TAG.sub(" ", text)
        if MOJIBAKE.search(text):
            text = ftfy.fix_text(text.replace("\x0b", " "), FTFY)  # a vertical tab separates words
        if not text.isascii():
            text = INVISIBLE.sub("", text)
    if not text.isascii():
        text = SURROGATE.sub("\ufffd", text)
    return " ".join(compose(text).split())


def _decode_entity(match: re.Match) -> str:
    return html5.get(f"{match[1]};", match[0]) if match[1] else unescape(match[0])


def compose(text: str) -> str:
    """Return the text in Unicode's composed form (NFC): `é` as one character rather than `e` and an accent, which look
    the same to a reader and are different words to a model."""
    return unicodedata.normalize("NFC", text)


def product_pairs(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """Return title and description of each item, the description empty if there is none."""
    return [*zip(frame["title"], frame["description"].fillna(""), strict=True)]


def product_texts(frame: pd.DataFrame) -> list[str]:
    """Return title and description as one text (paper section 4.2); one alone if there is no other."""
    return [f"{title} {text}" if title and text else title or text for title, text in product_pairs(frame)]
