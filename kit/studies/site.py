"""A study's site: its report and its executed notebooks as static pages that need nothing from outside."""

import base64
import html
import io
import re
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import mistune
import nbformat
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import math_to_image

from kit.core.exceptions import KitError
from kit.core.files import write_text
from kit.core.paths import notebooks_folder

STYLE = """
:root{color-scheme:light dark;--back:#fff;--text:#222;--soft:#595959;--line:#d5d9de;--link:#1d5f87;--code:#f8f9fb;
--good:#1d7a41;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--back:#16191d;--text:#e3e5e8;--soft:#a5acb5;--line:#3b424a;--link:#7cc0ea;
--code:#1f242a;--good:#6cc98d;--bad:#f28b82}.formula{filter:invert(.9)}
main img:not(.formula){filter:brightness(.85)}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;margin:0;background:var(--back);color:var(--text)}
main{max-width:1280px;margin:0 auto;padding:0 1rem 4rem;overflow-wrap:anywhere}
p,ul,ol,h1{max-width:52rem}
a{color:var(--link)}
h1{line-height:1.2}h2{margin-top:2.5rem;border-bottom:2px solid var(--link)}
nav{display:flex;gap:1.2rem;white-space:nowrap;padding:.7rem 1rem;border-bottom:1px solid var(--line)}
nav [aria-current]{font-weight:bold;color:var(--text);text-decoration:none}
nav,.scroll,.highlight,.output_subarea,.figure{overflow-x:auto}
main ::-webkit-scrollbar,nav::-webkit-scrollbar{height:9px;background:var(--code)}
main ::-webkit-scrollbar-thumb,nav::-webkit-scrollbar-thumb{background:var(--soft)}
.scroll{border:1px solid var(--line);border-radius:4px;margin:1rem 0;width:fit-content;max-width:100%}
table{border:0;border-collapse:collapse;font-size:14px;width:max-content;max-width:none;overflow-wrap:break-word}
th,td{padding:.35em .7em;border:0;border-bottom:1px solid var(--line);vertical-align:top;max-width:20em}
th,td{text-align:left!important}
tr:last-child>*{border-bottom:0}
.text_cell_render table{display:block;overflow-x:auto;width:fit-content;max-width:100%}
thead th{background:var(--code)}
.good{color:var(--good);font-weight:bold}.bad{color:var(--bad);font-weight:bold}.open{color:var(--soft)}
main img{background:#fff;border-radius:4px;max-width:max(100%,40rem)}
main img.formula{background:none}main .formula,main .unconfined{max-width:none}
code,pre{font:13px/1.45 ui-monospace,monospace}code{background:var(--code)}
pre{margin:0;padding:.6rem;white-space:pre-wrap}
.highlight{background:var(--code);border-radius:4px;margin:1rem 0 .5rem}.highlight pre{white-space:pre}
.output_stderr,.output_error{border-left:4px solid var(--bad)}
@media(min-width:700px){nav{flex-wrap:wrap}}@media(max-width:700px){th,td{max-width:12em;padding:.35em .5em}}
.ansi-red-fg,.ansi-bold-red-fg{color:var(--bad)}
"""
MARKS = {"✓": "good", "✗": "bad", "–": "open", "·": "open"}  # first character of a verdict → class of its cell
WIDE = 1600  # pixels from which a figure, such as a matrix of many classes, is not shrunk to the page but scrolls
ALIGNED = re.compile(r"\\(?:begin|end)\{(?:aligned|align\*?|split|gathered)\}")
RELATIVE = r"(?!https?:|data:|#|mailto:)"


def page(title: str, body: str, pages: Mapping[str, str], current: str) -> str:
    """Return a whole page; `pages`: file name → label, for the bar of links · `current`: this page's file name."""
    bar = "".join(
        f'<a href="{html.escape(name)}"{" aria-current=page" if name == current else ""}>{html.escape(label)}</a>'
        for name, label in pages.items()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}{_code_style()}</style></head>"
        f'<body><nav aria-label="Pages">{bar}</nav><main>{body}</main></body></html>\n'
    )


def report_body(text: str, folder: Path) -> str:
    """Return a report's Markdown as HTML with its figures, files in `folder`, inside; names are escaped."""
    body = str(mistune.create_markdown(escape=True, plugins=["table"])(text))
    body = re.sub(r'src="(figures/[\w.]+)"', lambda match: f'src="{_data_uri(folder / match[1])}"', body)
    body = re.sub(r"<p>(<img [^>]*>)</p>", r'<div class="figure" tabindex="0">\1</div>', body)
    body = body.replace('href="site/', 'href="')
    body = re.sub(r"<td([^>]*)>([✓✗–·]) ", lambda match: f'<td{match[1]} class="{MARKS[match[2]]}">{match[2]} ', body)
    body = body.replace("<table>", '<div class="scroll" role="region" aria-label="table" tabindex="0"><table>')
    return body.replace("</table>", "</table></div>")


def notebook_body(path: Path, pages: Mapping[str, str]) -> str:
    """Return an executed notebook as HTML. Links to notebooks lead to their `pages`; other relative links become text.

    Raise KitError if the notebook cannot be read.
    """
    from nbconvert import HTMLExporter  # takes a second, which no other command should wait

    try:
        notebook = nbformat.read(path, as_version=4)
    except (OSError, ValueError) as error:
        raise KitError(f"{path} cannot be read ({error}): execute the notebook again.") from error
    heading = path.stem
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            heading = next(iter(re.findall(r"^#+ (.*)$", cell.source, re.MULTILINE)), heading)
            cell.source = _formulas(_links(cell.source, pages))
        if "outputs" in cell:  # a progress bar that has ended leaves an empty line
            cell.outputs = [output for output in cell.outputs if output.get("data") != {"text/plain": ""}]
        for output in cell.get("outputs", ()):
            if "text/markdown" in output.get("data", {}):
                output.data["text/markdown"] = _formulas(_links("".join(output.data["text/markdown"]), pages))
            if "image/png" in output.get("data", {}):
                shown = output.metadata.setdefault("image/png", {})
                shown.setdefault("alt", f"Figure: {heading}")
                width = int.from_bytes(base64.b64decode(output.data["image/png"][:32])[16:20], "big")  # PNG's header
                shown["unconfined"] = width > WIDE
    exporter = HTMLExporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    exporter.exclude_anchor_links = exporter.embed_images = True
    body, _ = exporter.from_notebook_node(notebook, {"metadata": {"path": str(notebooks_folder())}})
    return re.sub(r"<img (?![^>]*\balt=)", '<img alt="Figure" ', body)


def write_site(folder: Path, title: str, index: str, notebooks: dict[str, tuple[Path, str]]) -> Path:
    """Write a site into `folder`, without the pages of an earlier one, and return its index.

    `index`: the first page's HTML · `notebooks`: page name → executed notebook and its label. Raise KitError if a
    notebook cannot be read, or a page not be written.
    """
    pages = {"index.html": "Report"} | {name: label for name, (_, label) in notebooks.items()}
    for old in folder.glob("*.html"):
        if old.name not in pages:
            old.unlink()
    for name, (path, label) in notebooks.items():
        write_text(folder / name, page(f"{label} · {title}", notebook_body(path, pages), pages, name))
    write_text(folder / "index.html", page(title, index, pages, "index.html"))
    return folder / "index.html"


def _links(source: str, pages: Mapping[str, str]) -> str:
    def link(match: re.Match) -> str:
        text, stem = match[1], Path(match[2]).name.removesuffix(".ipynb")
        name = next((name for name in pages if name == f"{stem}.html" or name.startswith(f"{stem}-")), None)
        return f"[{text}]({name})" if name and match[2].endswith(".ipynb") else text

    return re.sub(rf"(?<!!)\[([^\]]+)\]\({RELATIVE}([^)\s]+)\)", link, source)


def _formulas(source: str) -> str:
    """Draw the formulas of a Markdown text; those that matplotlib cannot draw become code, to be read."""

    def draw(match: re.Match) -> str:
        display, inline = match[1], match[2]
        if not (tex := display or inline):  # code
            return match[0]
        try:
            lines = [_formula(line) for line in re.split(r"\\\\", ALIGNED.sub("", tex)) if line.strip()]
        except (ValueError, RuntimeError):
            return f"\n```\n{tex.strip()}\n```\n" if display else f"`{tex}`"
        return f'\n<div class="figure">{"<br>".join(lines)}</div>\n' if display else "".join(lines)

    return re.sub(r"```.*?```|`[^`]*`|\$\$(.+?)\$\$|\$([^$\s](?:[^$\n]*[^$\s])?)\$", draw, source, flags=re.DOTALL)


def _formula(tex: str) -> str:
    """Return a line of TeX as a picture in line with its text. Raise ValueError if matplotlib cannot draw it."""
    tex, picture = " ".join(re.sub(r"\\tag\{(.*?)\}", r"\\quad(\1)", tex).replace("&", "").split()), io.BytesIO()
    with matplotlib.rc_context({"savefig.transparent": True}):
        depth = math_to_image(f"${tex}$", picture, FontProperties(size=11.5), 72, "svg")  # type: ignore[arg-type]
    uri = base64.b64encode(picture.getvalue()).decode()
    place = f'style="vertical-align:-{depth:.1f}pt" src="data:image/svg+xml;base64,{uri}"'
    return f'<img class="formula" alt="{html.escape(tex)}" {place}>'


def _data_uri(path: Path) -> str:
    kind = {".svg": "svg+xml"}.get(path.suffix, "png")
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _code_style() -> str:
    from pygments.formatters import HtmlFormatter

    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("default", "github-dark"))
    own = ".highlight{background:var(--code)}"
    return f"{light}@media(prefers-color-scheme:dark){{{dark}}}{own}"
