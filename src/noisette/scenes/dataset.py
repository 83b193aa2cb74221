"""Training data without end: image i is a scene drawn, rendered and told when it is asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from torch.utils.data import Dataset, get_worker_info

from noisette import __version__
from noisette.errors import UserError
from noisette.pixels import from_uint8, to_uint8
from noisette.scenes.caption import caption
from noisette.scenes.crew import keep_memory
from noisette.scenes.render import render
from noisette.scenes.sampling import sample_scene
from noisette.scenes.scene import Scene, check_word
from noisette.scenes.splits import SPLITS

__all__ = ["SceneDataset"]

ENDLESS = 10**9
"""Images before the first one returns: more than any training here sees."""


class SceneDataset(Dataset[dict[str, Any]]):
    """Pictures [3, size, size] in [-1, 1] of scenes of a split, with captions; used like an ImageDataset.

    Image i is a function of (seed, split, i) and of nothing else: `data[i]` is {"image", "text"}, and
    "scene" with `scenes=True`. So there is no state to save, and workers, processes and resumed runs see what
    one process sees. The order of the numbers is random already: it needs no shuffling. Nothing is mirrored,
    as captions tell left from right. Pixels take the 256 values of a stored picture.

    The cost is that of `render` and about half a millisecond per image.

    Attributes:
        shape: (3, size, size).
        labels: None; has_text: True.
        shuffled: True, the order of the images needs no other.
        origin: what it is, for messages; fingerprint: all that its images depend on.

    Raises UserError for a split that does not exist, or fewer than one image.
    """

    labels: tuple[str, ...] | None = None
    has_text = True
    shuffled = True

    def __init__(
        self,
        size: int = 64,
        split: str = "train",
        seed: int = 0,
        *,
        length: int = ENDLESS,
        samples: int = 4,
        scenes: bool = False,
    ) -> None:
        check_word("split", split, SPLITS)
        if length < 1:
            raise UserError(f"length: a data set has at least one image, not {length}")
        self.size, self.split, self.seed = size, split, seed
        self.samples, self.scenes, self._length = samples, scenes, length
        self.shape = (3, size, size)
        self.origin = f"scenes, split {split}"
        self.fingerprint = f"scenes {__version__}/{split}/{seed}/{size}/{samples}/{length}"

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.origin} has {len(self)} images, no image {index}")
        return {key: value[0] for key, value in self.fetch([index % len(self)]).items()}

    def scene(self, index: int) -> Scene:
        """What image `index` shows."""
        digest = hashlib.blake2b(f"{self.seed}/{index}".encode("ascii"), digest_size=8).digest()
        return sample_scene(int.from_bytes(digest, "big"), split=self.split)

    def text(self, index: int) -> str:
        """What is said of image `index`."""
        return self._told(self.scene(index), index)

    def fetch(self, indices: Sequence[int], flip: Sequence[bool] | None = None) -> dict[str, Any]:
        """A batch: "image" float32 [B, 3, size, size] in [-1, 1], "text" list[str], "scene" too if wanted.

        Raises UserError where an image is to be mirrored.
        """
        if flip is not None and any(flip):
            raise UserError(f"{self.origin}: captions tell left from right, nothing is mirrored: flip=False")
        if get_worker_info() is not None:
            keep_memory()
        scenes = [self.scene(i) for i in indices]
        batch: dict[str, Any] = {
            "image": from_uint8(to_uint8(render(scenes, self.size, samples=self.samples).rgb)),
            "text": [self._told(scene, i) for scene, i in zip(scenes, indices, strict=True)],
        }
        return {**batch, "scene": scenes} if self.scenes else batch

    @property
    def corrupt(self) -> Mapping[str, str]:
        """{}: what is drawn cannot be corrupt."""
        return {}

    def note_corrupt(self, found: Mapping[str, str]) -> None:
        """Nothing to note."""

    def _told(self, scene: Scene, index: int) -> str:
        return caption(scene, Random(f"caption/{self.seed}/{self.split}/{index}"))
