"""Small additions to a trained network that leave its own weights alone."""

from noisette.adapters.lora import (
    LowRank,
    attach,
    attached,
    detach,
    fresh,
    fuse,
    lora_state,
    projections,
    set_adapters,
    updates_of,
)

__all__ = [
    "LowRank",
    "attach",
    "attached",
    "detach",
    "fresh",
    "fuse",
    "lora_state",
    "projections",
    "set_adapters",
    "updates_of",
]
