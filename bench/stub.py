"""torchvision where its compiled operators are missing.

Two peers import torchvision for its image transforms, the third because it is there. Its wheel may hold
operators built for another torch; without them even `import torchvision` fails, because it attaches
shape rules to `nms` and `qnms`. Declaring the two, with no implementation, is enough for the transforms.
"""

from __future__ import annotations

import importlib
import sys

import torch

SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
# The declarations live as long as this object.
_library: torch.library.Library | None = None


def torchvision_transforms() -> bool:
    """Make `import torchvision` work; True where the operators had to be declared for it."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error) or _library is not None:
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        declare()
        importlib.import_module("torchvision")
    return _library is not None


def declare() -> None:
    """Declare the operators that `import torchvision` asks for."""
    global _library
    _library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        _library.define(name + SCHEMA)
