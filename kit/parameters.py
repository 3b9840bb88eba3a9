"""Notebook parameters: read from the parameters cell, names and types checked."""

import ast
import dataclasses
import difflib
from typing import get_type_hints

from kit.config import NAMES, TrainConfig, check_type
from kit.core.exceptions import KitError

INJECTED = "# Parameters\n"  # how papermill begins the cell that it puts after the tagged one


def parameter_types(config: type, **more: type) -> dict[str, type]:
    """The fields of a dataclass with their types, and `more`."""
    return get_type_hints(config) | more


def read_parameters(namespace: dict, types: dict[str, type]) -> dict:
    """Return the notebook's parameters out of its `globals()`, names and types checked.

    Call it in the cell after the one tagged `parameters`. `types` says what each parameter is. What that cell or
    papermill's assigns besides is a mistake, and is refused; variables of other cells are none of its business. None
    passes if a recipe decides.
    """
    decided = {field.name for field in dataclasses.fields(TrainConfig)} - {*NAMES} if "recipe" in types else ()
    found = {name: namespace[name] for name in _given(namespace, types) if name in namespace}
    for name in found:
        if name not in types:
            close = difflib.get_close_matches(name, types, 1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise KitError(f"There is no parameter {name!r}.{hint} The parameters are: {', '.join(types)}.")
    return {
        name: value if value is None and name in decided else check_type(name, value, types[name])
        for name, value in found.items()
    }


def _given(namespace: dict, types: dict[str, type]) -> list[str]:
    """The names that the `parameters` cell assigned when it last ran, and papermill's cell after it.

    IPython keeps the source of what ran. There the cell is one that gives types to known names, or assigns most of
    those again; if none does, all known names count. Without IPython, in a script, all that papermill could set counts.
    """
    ran = namespace.get("In")
    if not isinstance(ran, list):
        flat = (bool, int, float, str, type(None))
        return [name for name, value in namespace.items() if not name.startswith("_") and isinstance(value, flat)]
    declared = (known for source in ran if len(known := types.keys() & assigned(source, annotated=True)) > 1)
    usual, given, injected = next(declared, None), [*types], []
    for source, names in ((source, assigned(source)) for source in ran):
        if source.startswith(INJECTED):
            injected = names
        elif usual and 2 * len(usual & {*names}) >= len(usual):
            given, injected = names, []
    return [*dict.fromkeys(given + injected)]


def assigned(source: str, annotated: bool = False) -> list[str]:
    """Return the public variables that a cell assigns, or those alone that it gives a type."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):  # a cell that did not run
        return []
    if annotated:
        nodes = [node.target for node in nodes if isinstance(node, ast.AnnAssign)]
    stored = [node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    return [name for name in dict.fromkeys(stored) if not name.startswith("_")]
