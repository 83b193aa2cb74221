"""The atlas: claims about diffusion models, each measured, drawn and tabulated on a page of its own.

A page is a module with ``run(out, *, quick, seed, ...) -> Path``: it writes NAME.html, which needs no other
file and no network, and NAME.json with every number in it. Its docstring states the claims.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from noisette.errors import UserError

__all__ = ["PAGES", "page_named"]

PAGES = ("collapse", "ddim", "guidance", "scenes")
"""The pages there are."""


def page_named(name: str) -> ModuleType:
    """The module of the page of that name. Raises UserError, listing the pages, for an unknown one."""
    if name not in PAGES:
        raise UserError(f"the atlas has no page {name!r:.40}: its pages are {', '.join(PAGES)}")
    return import_module(f"noisette.atlas.{name}")
