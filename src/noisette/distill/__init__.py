"""Fewer steps: a student learns to do at once what its teacher does in many calls."""

from noisette.distill.consistency import (
    Boundaries,
    consistency_error,
    doubling,
    growing,
    pseudo_huber,
)
from noisette.distill.progressive import truncated_snr, two_steps
from noisette.distill.trajectory import picked

__all__ = [
    "Boundaries",
    "consistency_error",
    "doubling",
    "growing",
    "picked",
    "pseudo_huber",
    "truncated_snr",
    "two_steps",
]
