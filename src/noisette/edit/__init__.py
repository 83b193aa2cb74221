"""Edits: changing a picture by changing its noise, or the trajectory that leads from the noise to it."""

from noisette.edit.interpolate import lerp, slerp

__all__ = ["lerp", "slerp"]
