"""Recipes by name: each module here defines one `recipe`, and so may any file of yours."""

from __future__ import annotations

import difflib
import os
import runpy
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from noisette.errors import UserError
from noisette.training import Plan

__all__ = ["recipe_named", "recipe_names"]


def recipe_names() -> tuple[str, ...]:
    """The recipes that come with noisette, sorted."""
    return tuple(sorted(module.name.replace("_", "-") for module in iter_modules(__path__)))


def recipe_named(name: str | os.PathLike[str]) -> Plan:
    """The recipe of that name, or the ``recipe`` that a Python file defines, such as ``mine.py``.

    A file is a program and is run: give only your own, or one you have read.
    Raises UserError for an unknown name, a missing file, and a file without a recipe.
    """
    if Path(name).suffix == ".py":
        return _from_file(Path(name).expanduser())
    names = recipe_names()
    if str(name) not in names:
        near = difflib.get_close_matches(str(name), names, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        known = f"there are {', '.join(names)}, or give a .py file that defines `recipe`"
        raise UserError(f"there is no recipe {str(name)!r}: {hint}{known}")
    return import_module(f"{__name__}.{str(name).replace('-', '_')}").recipe


def _from_file(path: Path) -> Plan:
    if not path.is_file():
        raise UserError(f"{path}: no such file; a recipe is a name or a .py file that defines `recipe`")
    recipe = runpy.run_path(str(path)).get("recipe")
    if not isinstance(recipe, Plan):
        raise UserError(f"{path} defines no `recipe`: it needs recipe = noisette.training.Recipe(...)")
    return recipe
