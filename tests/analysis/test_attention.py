"""How far attention moved from even is said in words and numbers."""

from fakes import VALUES, fake, measured_attention

from kit.analysis.attention import attention_table, describe_attention
from kit.config import train_config
from kit.core.files import write_json
from kit.runs import open_run


def test_how_attention_moved_is_said_in_words_and_numbers(root):
    for name in ("even", "moved"):
        fake(train_config(**VALUES, run=name), 0.9)
    runs = [open_run(name) for name in ("even", "moved")]
    assert attention_table(runs).empty and "not measured" in describe_attention(runs[0])
    for run, values in zip(runs, ((0.004, 0.002), (0.2, 0.002)), strict=True):
        write_json(run.folder / "summary.json", run.summary | {"attention": measured_attention(*values)})
    table = attention_table(runs)
    assert list(table["attention on"]) == ["text", "image", "both"] * 2
    assert list(table["variation"]) == ["0.004", "0.002", "", "0.200", "0.002", ""]
    still, moving = (describe_attention(run) for run in runs)
    assert "says nothing about co-attention" in still and "the text stayed even" in still
    assert "says nothing" not in moving
    assert "the text moved" in moving and "20.0 % of the 36 predictions change" in moving
