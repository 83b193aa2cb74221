"""A small world whose truth is known: ray-traced, captioned, animatable scenes, and their reader."""

from noisette.scenes.constraints import Constraints, Pattern, Relation, holds, relations
from noisette.scenes.render import Rendering, render, render_video, render_views
from noisette.scenes.sampling import sample_scene
from noisette.scenes.scene import Camera, Floor, Object, Scene

__all__ = [
    "Camera",
    "Constraints",
    "Floor",
    "Object",
    "Pattern",
    "Relation",
    "Rendering",
    "Scene",
    "holds",
    "relations",
    "render",
    "render_video",
    "render_views",
    "sample_scene",
]
