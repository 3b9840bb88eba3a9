"""The paper's equations of the model, each beside the lines of code that compute it.

The lines are found by their comments "eq. 3", so that nothing is copied.
"""

import base64
import html
import inspect
import re
from itertools import groupby
from pathlib import Path

from torch import nn

from kit.core.paths import project
from kit.models.layers import CoAttention, WeightedLayers

EQUATIONS: dict[int, tuple[str, type[nn.Module]]] = {  # number → LaTeX, and the layer that computes it
    2: (r"O = \gamma \sum_l \mathrm{softmax}(w)_l \, H_l", WeightedLayers),
    3: (r"C = \tanh(T \, W_b \, I^\top)", CoAttention),
    4: (r"H_i = \tanh(W_v I + C^\top (W_s T))", CoAttention),
    5: (r"H_t = \tanh(W_s T + C \, (W_v I))", CoAttention),
    6: (r"a_i = \mathrm{softmax}(w_i^\top H_i)", CoAttention),
    7: (r"a_t = \mathrm{softmax}(w_t^\top H_t)", CoAttention),
    8: (r"i' = \sum_r a_{i,r} \, I_r", CoAttention),
    9: (r"t' = \sum_n a_{t,n} \, T_n", CoAttention),
}
MARK = re.compile(r"#.*\beq\. (\d+(?:, \d+)*)$")


def equations() -> str:
    """Return Markdown with the equations in order, and below each its lines of code and their place."""
    parts = []
    for lines, alike in groupby(EQUATIONS, equation_lines):
        numbers, code = [*alike], "\n".join(line.strip() for line in lines.values())
        layer = EQUATIONS[numbers[0]][1]
        path = Path(inspect.getfile(layer)).relative_to(Path(__file__).parents[2])
        place = f"`{path}`, `{layer.__name__}.forward`, line {', '.join(map(str, lines))}"
        formulas = [f"$${EQUATIONS[number][0]} \\tag{{{number}}}$$" for number in numbers]
        parts.append("\n\n".join([*formulas, f"```\n{code}\n```", place]))
    return "\n\n".join(parts)


def equation_lines(number: int) -> dict[int, str]:
    """Return the lines of code that compute an equation, by their number in the file."""
    source, first = inspect.getsourcelines(EQUATIONS[number][1].forward)
    marked = {first + i: MARK.search(line.rstrip()) for i, line in enumerate(source)}
    wanted = [line for line, mark in marked.items() if mark and str(number) in mark[1].split(", ")]
    return {line: source[line - first].rstrip() for line in wanted}


def architecture() -> str:
    """Return the picture of the model, as HTML that holds the whole file; a sentence if this project has no docs/."""
    path = project() / "docs" / "architecture.svg"
    if not path.is_file():
        return f"<p>The picture of the model, {html.escape(str(path))}, is not here.</p>"
    data = base64.b64encode(path.read_bytes()).decode()
    style = "width:100%;max-width:1160px;background:#fff"
    return f'<img alt="The co-attention model" style="{style}" src="data:image/svg+xml;base64,{data}">'
