"""The package is layered: a module imports only from lower floors, and what only reads runs never loads torch."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import kit

PACKAGE = Path(kit.__file__).parent
FLOORS = [line.split()[0] for line in kit.__doc__.splitlines()[4:] if line.strip()]
MODULES = [
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
]


def imports(module: str) -> set[str]:
    """The kit's modules that `module` imports, in functions too."""
    tree = ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "kit":
            folder = node.module.partition(".")[2]
            names = {f"{folder}.{name.name}".strip(".") for name in node.names}
            found |= {name if name in MODULES else folder for name in names}
        elif isinstance(node, ast.Import):
            found |= {name.name.partition(".")[2] for name in node.names if name.name.startswith("kit.")}
    return found


def floor(module: str) -> int:
    return FLOORS.index(module.partition(".")[0])


def test_every_module_has_a_floor():
    assert {module.partition(".")[0] for module in MODULES} == set(FLOORS)


def test_imports_point_down():
    for module in MODULES:
        for other in imports(module):
            assert other in MODULES, f"kit.{module} imports kit.{other}"
            if other.partition(".")[0] != module.partition(".")[0]:
                assert floor(other) < floor(module), f"kit.{module} imports kit.{other}"


def test_no_module_needs_itself():
    tuple(graphlib.TopologicalSorter({module: imports(module) for module in MODULES}).static_order())


def test_reading_runs_needs_no_torch():
    light = [m for m in MODULES if m.partition(".")[0] in ("stacking", "analysis", "runs", "predictions", "submission")]
    light += [
        "studies.study_runs",
        "studies.choice",
        "studies.tables",
        "studies.claims",
        "studies.report",
        "studies.site",
        "training.launch",
        "data.duplicates",
        "cli",
    ]
    code = f"import sys, {', '.join(f'kit.{name}' for name in light)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_tests_lie_where_the_code_lies():
    folders = {path.parent.name for path in Path(__file__).parent.rglob("test_*.py")} - {"tests"}
    assert folders <= {path.parent.name for path in PACKAGE.rglob("*.py")}
