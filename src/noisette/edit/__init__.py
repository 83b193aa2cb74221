"""Edits: changing a picture by changing its noise, or the trajectory that leads from the noise to it."""

from noisette.edit.interpolate import lerp, slerp
from noisette.edit.projection import colourised, enlarged, inpainted, projected

__all__ = ["colourised", "enlarged", "inpainted", "lerp", "projected", "slerp"]
