"""The notebooks in JupyterLab, in a real browser, as `make notebooks` opens them: Run All works, and works twice."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from browser import Browser, needs_chromium

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
TINY = {
    "recipe": "demo", "run": "tiny", "limit": 24, "folds": 2, "epochs": 20, "batch_size": 2, "image_size": 64,
    "max_tokens": 24,
}  # fmt: skip
PANEL = "[...jupyterapp.shell.widgets('main')].find(panel => panel.context)"
READY = f"window.jupyterapp && {PANEL}?.context?.isReady && {PANEL}.sessionContext.session?.kernel?.status == 'idle'"
CELLS = f"{PANEL}.content.widgets"
LINES = "[...document.querySelectorAll('.jp-OutputArea-output pre')]"
PICTURES = "[...document.querySelectorAll('.jp-OutputArea img')]"
SHOWN = [  # notebook, pictures in the page, what it says
    ("00_quick_start", 3, "y_test_pred.csv is a valid challengedata submission of 7 rows"),
    ("03_train", 9, "runs/tiny"),
]
JUPYTERS_OWN = "is not trusted|websocket_ping_timeout"  # warnings of its server, whatever one opens
# notes each text of a cell's output that replaces another, as a progress bar does
WATCH = f"""window.bars = []; new MutationObserver(() => {{
    for (const line of {LINES})
        if (line.textContent.includes('%|') && bars.at(-1) != line.textContent) bars.push(line.textContent)
}}).observe(document.body, {{childList: true, subtree: true, characterData: true}})"""


@pytest.fixture
def address(tmp_path, tiny_data, tiny_texts, tiny_image) -> Iterator[str]:
    """JupyterLab, as `make notebooks` starts it, in a project whose notebooks have tiny parameters."""
    (tmp_path / "notebooks").mkdir()
    values = {"data": str(tiny_data), "text": tiny_texts["bert"], "image": tiny_image}
    for name, more in {"00_quick_start": {}, "03_train": TINY}.items():
        notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
        cell.source += "".join(f"\n{key} = {value!r}" for key, value in (values | more).items())
        nbformat.write(notebook, tmp_path / "notebooks" / f"{name}.ipynb")
    (tmp_path / "docs").symlink_to(NOTEBOOKS.parent / "docs")
    places = {f"JUPYTER_{name}_DIR": str(tmp_path / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    places |= {"KIT_ROOT": str(tmp_path), "KIT_PROJECT": str(tmp_path), "OMP_NUM_THREADS": "1"}
    options = ["--no-browser", "--port=0", "--IdentityProvider.token=tiny", "--LabApp.expose_app_in_browser=True"]
    command, log = [sys.executable, "-m", "kit", "notebooks", *options], tmp_path / "server.log"
    with open(log, "w") as file, subprocess.Popen(command, env=os.environ | places, stderr=subprocess.PIPE) as server:
        lines = (line.decode() for line in server.stderr)
        yield next(found[1] for line in lines if (found := re.search(r"(http://\S+/lab)\?token", line)))
        server.terminate()
        file.writelines(lines)
    said = [line for line in log.read_text().splitlines() if not re.search(JUPYTERS_OWN, line)]
    assert not [line for line in said if re.match(r"\[[WE] ", line) or "Warning" in line or "Traceback" in line]


def run_all(page: Browser, command: str) -> list[dict]:
    """Run all cells and return their outputs."""
    page.evaluate(f"window.ran = false; jupyterapp.commands.execute('{command}').then(() => ran = true); 0")
    page.until("ran || document.querySelector('.jp-Dialog .jp-mod-accept')")  # it asks before it restarts the kernel
    page.evaluate("document.querySelector('.jp-Dialog .jp-mod-accept')?.click()")
    page.until("ran")
    assert page.evaluate(f"{CELLS}.every(cell => cell.model.type != 'code' || cell.model.executionCount > 0)")
    return page.evaluate(f"{CELLS}.flatMap(cell => cell.model.outputs?.toJSON() ?? [])")


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize(("name", "pictures", "said"), SHOWN)
def test_run_all_works_in_jupyterlab_and_works_twice(name, pictures, said, address, tmp_path):
    with Browser(tmp_path / "profile") as page:
        page.resize(1400, 20000)  # JupyterLab draws the cells that are in view
        page.open(f"{address}/tree/work/{name}.ipynb?token=tiny")
        page.until(READY)
        page.evaluate(WATCH)
        for command in ("notebook:run-all-cells", "notebook:restart-run-all"):
            outputs = run_all(page, command)
            page.picture(tmp_path / "page.png")  # for those who look into a failure
            text = "".join(output.get("text", "") for output in outputs)
            assert "error" not in {output["output_type"] for output in outputs}
            assert "stderr" not in {output.get("name") for output in outputs} and "Warning" not in text
            assert said in text
            page.until(f"{PICTURES}.every(picture => picture.complete)")
            assert page.evaluate(f"{PICTURES}.filter(picture => picture.naturalWidth > 0).length") == pictures
            assert not page.evaluate(f"{LINES}.some(line => line.textContent.includes('%|'))")  # no bar is left
        if name == "03_train":
            assert "is already finished" in text
            bars = page.evaluate("bars")
            assert len({bar for bar in bars if bar.startswith("fold")}) > 1, bars
        # JupyterLab itself warns while the kernel restarts
        assert [warning for warning in page.console if "Connection lost, reconnecting" not in warning] == []
