"""Pictures that a model draws, as data for its student."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from noisette.errors import UserError
from noisette.models import Model

__all__ = ["DrawnImages"]


class DrawnImages:
    """``count`` pictures of a model, the labels in turn; picture i is that of seed i.

    For a student whose teacher's data are not at hand. `noisette.training.kept` draws them once. Raises
    UserError for a model that is told texts: it learns from pictures with captions.
    """

    shuffled = False

    def __init__(self, model: Model, count: int) -> None:
        if model.spec.text is not None:
            raise UserError(
                f"{model.spec.name} is told texts: give it pictures with captions to learn from, --data"
            )
        self.model, self.count = model, count
        self.origin, self.labels = f"drawn by {model.spec.name}", model.spec.labels
        self.shape = (model.spec.channels, model.spec.image_size, model.spec.image_size)
        digest = hashlib.blake2b(f"{model.spec!r}/{count}".encode(), digest_size=12)
        for name, value in model.denoiser.state_dict().items():
            digest.update(name.encode() + value.detach().cpu().float().contiguous().numpy().tobytes())
        self.fingerprint = digest.hexdigest()

    @property
    def corrupt(self) -> Mapping[str, str]:
        """{}: what is drawn is readable."""
        return {}

    def note_corrupt(self, found: Mapping[str, str]) -> None:
        """Nothing to note."""

    def __len__(self) -> int:
        return self.count

    def fetch(self, indices: Sequence[int], flip: Sequence[bool] | None = None) -> dict[str, Any]:
        """A batch: "image" float32 [B, C, H, W] in [-1, 1], with "label" where there are any."""
        if flip is not None and any(flip):
            raise UserError(f"{self.origin}: what is drawn is not mirrored, set flip=False")
        if self.labels is None:
            return {"image": self._drawn(indices, num_images_per_prompt=len(indices))}
        label = torch.tensor([i % len(self.labels) for i in indices])
        return {"image": self._drawn(indices, label=label.tolist()), "label": label}

    def _drawn(self, indices: Sequence[int], **options: Any) -> Any:
        return self.model.generate(seed=list(indices), output_type="torch", **options).images
