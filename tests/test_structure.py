"""The package is layered: a module imports only from lower floors, and what only reads runs never loads torch."""

import ast
import subprocess
import sys
from pathlib import Path

import kit

PACKAGE = Path(kit.__file__).parent
FLOORS = {}
for line in kit.__doc__.splitlines():
    head, _, rest = line.partition(" ")
    if head.isdecimal():
        FLOORS |= {name.strip(): int(head) for name in rest.split(",")}


def imports(module: str) -> set[str]:
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "kit":
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kit."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {name.name.split(".")[1] for name in node.names if name.name.startswith("kit.")}
    return found


def test_every_module_has_a_floor():
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} == set(FLOORS)


def test_imports_point_down():
    for module, floor in FLOORS.items():
        for other in imports(module):
            assert FLOORS[other] < floor, f"kit.{module} imports kit.{other}"


def test_reading_runs_needs_no_torch():
    modules = "submission", "launch", "plots", "runs", "twins", "stacking", "errors", "study", "tables", "report"
    code = f"import sys, {', '.join(f'kit.{name}' for name in modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
