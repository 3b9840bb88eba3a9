"""The site: whole, with nothing from outside, and no wider than the screen it is read on."""

import base64
import html
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from browser import Browser, needs_chromium
from fakes import fake_study

from kit.core.exceptions import KitError
from kit.core.files import write_json
from kit.core.paths import submissions_folder
from kit.studies.choice import chosen
from kit.studies.report import as_markdown, write_report
from kit.studies.site import notebook_body, report_body

LEGIBLE = (Path(__file__).parents[1] / "legible.js").read_text(encoding="utf-8")
LONG = "Accessoires\U0001f381" * 20  # no space to break at
MARKDOWN = f"""# 1 · A notebook

{LONG}: see [05_ensemble](05_ensemble.ipynb), [03_train](03_train.ipynb) and [the manual](../docs/data.md).

The affinity $C = \\tanh(T W_b I^\\top)$ costs `$2`, and $\\begin{{none}}$ cannot be drawn.

$$\\begin{{aligned}} a_t &= \\mathrm{{softmax}}(w_t^\\top H_t) \\\\ t' &= \\sum_i a_i T_i \\end{{aligned}}$$

| {" | ".join("column" for _ in range(20))} |
|{"---|" * 20}
| {" | ".join("wide" for _ in range(20))} |
"""


def output(kind: str, **content) -> nbformat.NotebookNode:
    return nbformat.v4.new_output(kind, **content)


def notebook(path: Path, picture: bytes) -> None:
    """Write a notebook as papermill leaves it: text, tables and pictures wider than a phone, and an error."""
    table = pd.DataFrame(np.ones((3, 40))).assign(name=["<script>alert(1)</script>", LONG, "\u0643\u062a\u0628"])
    outputs = [
        output("stream", name="stdout", text=LONG + "\n"),
        output("display_data", data={"text/plain": ""}),  # a progress bar that has ended
        output("display_data", data={"image/png": base64.b64encode(picture).decode()}),
        output("execute_result", data={"text/html": table.to_html(), "text/plain": "a table"}),
        output("error", ename="KitError", evalue="wrong", traceback=[f"\x1b[31mKitError\x1b[0m: {LONG}"]),
    ]
    shown = {"text/markdown": r"$$C = \tanh(T W I^\top) \tag{3}$$"}
    outputs.append(output("display_data", data=shown))
    code = nbformat.v4.new_code_cell("answer = 42  # " + "a long line " * 30, outputs=outputs)
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(MARKDOWN), code])
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(made, path)


@pytest.fixture(scope="module")
def site(tmp_path_factory, tiny_data) -> Iterator[Path]:
    """The site of a study of two members, with one notebook of its own and one of a member."""
    root = tmp_path_factory.mktemp("root")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIT_ROOT", str(root))
        study = fake_study(tiny_data)
        figure, axis = plt.subplots(figsize=(12, 2))
        axis.plot([1, 2])
        figure.savefig(root / "picture.png")
        plt.close(figure)
        for folder, name in {study: "01_eda", f"{study}-camembert-resnet152": "03_train"}.items():
            notebook(root / "runs" / folder / f"{name}.ipynb", (root / "picture.png").read_bytes())
        write_json(root / "runs" / study / "study.json", {"failed": {"s-x": LONG}})
        submission = submissions_folder() / chosen(study).name / "y_test_pred.csv"
        submission.parent.mkdir(parents=True)
        submission.write_text(",prdtypecode\n")
        yield write_report(study).parent


class Page(HTMLParser):
    """What a page links to and shows."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.unnamed = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.links += [values["href"]] if tag == "a" else []
        self.sources += [values[name] for name in ("src", "srcset", "data") if values.get(name)]
        self.sources += [values["href"]] if tag == "link" else []
        self.unnamed += tag == "img" and not values.get("alt")


def test_every_link_and_picture_is_there_and_nothing_comes_from_outside(site):
    names = {path.name for path in site.iterdir()}
    assert names == {"index.html", "01_eda.html", "03_train-s-camembert-resnet152.html", "y_test_pred.csv"}
    for path in site.glob("*.html"):
        page, text = Page(path), path.read_text(encoding="utf-8")
        assert all(link in names for link in page.links), page.links
        assert all(source.startswith("data:image/") for source in page.sources)
        assert page.unnamed == 0 and not {"script", "iframe", "object"} & set(page.tags)
        assert not re.search(r"@import|url\(", text)
        assert 'name="viewport"' in text and "prefers-color-scheme:dark" in text
    assert {"index.html", "01_eda.html", "y_test_pred.csv"} <= set(Page(site / "index.html").links)
    notebook = (site / "01_eda.html").read_text(encoding="utf-8")
    assert '<a href="03_train-s-camembert-resnet152.html">03_train</a>' in notebook
    assert "see 05_ensemble, " in notebook and "the manual." in notebook  # they have no page: text
    assert 'alt="C = \\tanh(T W_b I^\\top)"' in notebook and "<code>$2</code>" in notebook
    assert "<code>\\begin{none}</code>" in notebook
    assert not re.search(r"<pre>\s*</pre>", notebook)
    assert notebook.count('class="formula"') == 4  # one per line of an aligned block, one in a cell's output
    assert 'alt="Figure: 1 · A notebook"' in notebook


def test_names_in_the_reports_tables_are_shown_as_they_are(tmp_path):
    names = ["Mugs | Bols", r"a\|b", "5*3 cm, 4*2", "[x](y)", "![p](http://x/y.png)", "`code`", "a\\", "<b>", "T_s_r"]
    text = report_body(as_markdown(pd.DataFrame({"name": names, "n": range(len(names))})), tmp_path)
    assert [html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", text)][::2] == names


def test_the_report_answers_first(site):
    text = html.unescape((site / "index.html").read_text(encoding="utf-8"))
    places = [text.index(part) for part in ("macro-F1 in per cent on", "y_test_pred.csv<", "What held up", "Table 1")]
    assert places == sorted(places) and max(places) < text.index("How to read this report")
    assert re.search(r'class="good">✓ holds</td>\s*<td[^>]*>fine-tuned co-attention beats', text)
    assert re.search(r'class="open">– not told apart</td>\s*<td[^>]*>with the top text layer alone', text)
    assert "## Table 3" not in text and "no finished run" not in text  # there is no ensemble: no section


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_each_page_can_be_read_on_a_phone_and_on_a_screen_by_day_and_by_night(site, browser, width, scheme):
    browser.resize(width, 800)
    browser.prefer(scheme)
    for path in sorted(site.glob("*.html")):
        browser.open(path.as_uri())
        assert browser.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
        assert browser.evaluate(LEGIBLE) == [], path.name
    assert browser.console == []


@needs_chromium
def test_what_cannot_be_read_is_found(site, browser):
    browser.prefer("light")
    browser.open((site / "index.html").as_uri())
    faint = "<p style='color:#888'>faint</p>"
    cut = "<p style='width:3em;overflow:hidden;white-space:pre'>far too long</p>"
    browser.evaluate(f'document.body.innerHTML = "<b>plain</b>{faint}{cut}"')
    assert browser.evaluate(LEGIBLE) == ["3.5: faint", "cut: far too long"]


def test_a_page_of_a_notebook_that_is_gone_goes(site, tmp_path):
    (site.parent / "01_eda.ipynb").unlink()
    write_report("s")
    assert not (site / "01_eda.html").exists() and "01_eda" not in (site / "index.html").read_text(encoding="utf-8")
    broken = tmp_path / "broken.ipynb"
    broken.write_text("{")
    with pytest.raises(KitError, match=r"cannot be read .*: execute the notebook again"):
        notebook_body(broken, {})
