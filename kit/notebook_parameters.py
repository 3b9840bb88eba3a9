"""Read a notebook's parameters from its parameters cell and check their names and types."""

import ast
import dataclasses
from typing import Literal, get_origin, get_type_hints

from kit.config import NAMES, TrainConfig, check_type
from kit.core.console import plain_warnings
from kit.core.exceptions import KitError, did_you_mean

INJECTED = "# Parameters\n"  # first line of the cell that papermill inserts after the tagged one


def parameter_types(config: type, **more: type) -> dict[str, type]:
    """Return the fields of a dataclass with their types, without choices and bounds, and `more`."""
    hints = get_type_hints(config)
    return {name: str if get_origin(hint) is Literal else hint for name, hint in hints.items()} | more


def read_parameters(namespace: dict, types: dict[str, type]) -> dict:
    """Return the notebook's parameters from its `globals()`; raise KitError if a name or a type is wrong.

    Call it in the cell after the one tagged `parameters`. `types`: the type of each parameter. Any other name that this
    cell or papermill's cell assigns is a mistake, and is refused; variables of other cells are ignored. None is allowed
    if a recipe decides the value.
    """
    plain_warnings()
    by_recipe = {field.name for field in dataclasses.fields(TrainConfig)} - {*NAMES} if "recipe" in types else ()
    values = {name: namespace[name] for name in _assigned_names(namespace, types) if name in namespace}
    for name in values:
        if name not in types:
            hint = did_you_mean(name, types)
            raise KitError(f"There is no parameter {name!r}.{hint} The parameters are: {', '.join(types)}.")
    return {
        name: value if value is None and name in by_recipe else check_type(name, value, types[name])
        for name, value in values.items()
    }


def _assigned_names(namespace: dict, types: dict[str, type]) -> list[str]:
    """Return the names that the `parameters` cell and papermill's cell after it assigned when they last ran.

    IPython keeps the source of every cell that ran. The `parameters` cell is one that annotates known names, or assigns
    most of those again; if there is none, return all known names. Without IPython, return every name that papermill
    could have set.
    """
    ran = namespace.get("In")
    if not isinstance(ran, list):
        flat = (bool, int, float, str, type(None))
        return [name for name, value in namespace.items() if not name.startswith("_") and isinstance(value, flat)]
    declared = (known for source in ran if len(known := types.keys() & _assigned(source, annotated=True)) > 1)
    usual, given, injected = next(declared, None), [*types], []
    for source, names in ((source, _assigned(source)) for source in ran):
        if source.startswith(INJECTED):
            injected = names
        elif usual and 2 * len(usual & {*names}) >= len(usual):
            given, injected = names, []
    return [*dict.fromkeys(given + injected)]


def _assigned(source: str, annotated: bool = False) -> list[str]:
    """Return the public variables that a cell assigns; with `annotated`, only those that it annotates with a type."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):  # such a cell did not run
        return []
    if annotated:
        nodes = [node.target for node in nodes if isinstance(node, ast.AnnAssign)]
    stored = [node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    return [name for name in dict.fromkeys(stored) if not name.startswith("_")]
