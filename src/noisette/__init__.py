"""Diffusion models: train them, sample them fast, guide them, measure them.

>>> import noisette
>>> digits = noisette.load("digits")  # doctest: +SKIP
>>> digits.generate(label=7, num_inference_steps=20, guidance_scale=2, seed=0).images  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noisette.models import Model, load

__all__ = ["Model", "__version__", "load"]

__version__ = "0.1.0"

_HOMES = {"Model": "noisette.models", "load": "noisette.models"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import noisette` stays cheap (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
