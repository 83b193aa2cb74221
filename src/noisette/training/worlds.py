"""Data that a recipe brings along."""

from __future__ import annotations

from dataclasses import dataclass

from noisette.errors import UserError
from noisette.scenes.dataset import ENDLESS, SceneDataset

__all__ = ["ScenesWorld"]


@dataclass(frozen=True)
class ScenesWorld:
    """Scenes of a split: ``count`` of them with captions without end, or, at 0, scenes without end too.

    A count is for machines that train faster than they render: its pictures are rendered once and kept.
    """

    count: int = 0
    split: str = "train"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 0:
            raise UserError(f"a world has 0 (no end) or more scenes, not {self.count}")

    def open(self, size: int) -> SceneDataset:
        """The pictures of this world at a size in pixels."""
        return SceneDataset(size, self.split, self.seed, length=self.count or ENDLESS, scenes=self.count > 0)
