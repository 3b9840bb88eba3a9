"""What is printed survives any terminal, and no bar stays in an executed notebook."""

import contextlib
import io
import subprocess
import sys
from types import SimpleNamespace

import IPython.display
import pytest
from tqdm.contrib.concurrent import thread_map

from kit.core import console
from kit.core.console import Bar, accept_any_character, in_words, setting


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_of_any_encoding_takes_any_character(monkeypatch, encoding):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    accept_any_character()
    print("── é 名 \udce9", flush=True)
    assert sys.stdout.buffer.getvalue().decode(encoding).count("?") == {"ascii": 5, "latin-1": 4, "utf-8": 1}[encoding]


@pytest.mark.parametrize(("command", "status"), [("kit runs 2>&-", 0), ("kit runs >&-", 0), ("kit runs | true", 141)])
def test_a_stream_that_is_closed_gives_no_traceback(root, command, status):
    command = command.replace("kit", f"{sys.executable} -m kit")
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, "")


@pytest.fixture
def shown(monkeypatch) -> list[str]:
    """As in a notebook: what its line showed, one text after the other."""
    texts = []
    handle = SimpleNamespace(update=lambda data, raw: texts.append(data["text/plain"]))
    monkeypatch.setattr(IPython.display, "display", lambda *_, **__: handle)
    monkeypatch.setattr(console, "in_notebook", lambda: True)
    return texts


def loop():
    for _ in Bar(range(3), desc="tokens", leave=False, delay=0, mininterval=0):
        pass


def interrupted():
    with contextlib.suppress(KeyboardInterrupt):
        for _ in Bar(range(3), desc="tokens", leave=False, delay=0, mininterval=0):
            raise KeyboardInterrupt


def nested():
    for _ in Bar(range(2), desc="ensembles", leave=False, delay=0, mininterval=0):
        loop()


def threads():
    thread_map(str, range(3), desc="hashes", leave=False, tqdm_class=Bar, delay=0, mininterval=0)


@pytest.mark.parametrize("work", [loop, interrupted, nested, threads])
def test_a_log_has_no_bars_but_who_watches_is_told(capsys, monkeypatch, work):
    told = []
    monkeypatch.setattr(console, "sink", lambda phase, bar: told.append(bar))
    work()
    assert any("%|" in bar for bar in told)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("work", [loop, interrupted, nested, threads])
def test_a_bar_in_a_notebook_is_gone_when_it_is_done(shown, capsys, work):
    work()
    assert any("%|" in text for text in shown)
    assert shown[-1] == ""
    assert capsys.readouterr() == ("", "")


def test_what_is_done_at_once_shows_no_bar(shown):
    for _ in Bar(range(3), leave=False):
        pass
    assert shown == []


def test_parameters_are_set_as_where_the_user_is(monkeypatch):
    assert setting(text="e5_small", recipe="demo") == "-p text e5_small -p recipe demo"
    monkeypatch.setattr(console, "in_notebook", lambda: True)
    assert setting(text="e5_small", recipe="demo") == 'text = "e5_small", recipe = "demo"'
    monkeypatch.setenv(console.SHELL, "1")  # a command executes the notebook
    assert setting(text="e5_small") == "-p text e5_small"


def test_times_are_read_at_a_glance():
    assert [in_words(s) for s in (None, 0, 0.6, 73, 110, 130, 900, 10_000, 100_000, 1_000_000)] == [
        "–", "0.0 s", "0.6 s", "73 s", "110 s", "2.2 min", "15 min", "2.8 h", "28 h", "12 days",
    ]  # fmt: skip
