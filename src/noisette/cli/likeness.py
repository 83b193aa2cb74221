"""``noisette evaluate --data``: how like a model's pictures are to real ones, and whether any are copies."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from noisette.cli.asked import AT_ONCE, drawn_as_asked
from noisette.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from noisette.data import ImageDataset
    from noisette.models import Generator, Model

MEASURED = ("frechet", "kid", "precision", "recall")
FEWEST, USUAL = 100, 1000
"""Pictures below which the nearest 50 are no longer near; and how many there are when nobody says."""
HELD = 2**27
"""Numbers in the real images that drawn ones are held against, at most: they are kept in memory."""


def likeness_figures(
    model: Model | Generator, real: ImageDataset, n: int | None, seed: int, options: dict[str, Any]
) -> dict[str, Any]:
    """Distances of n pictures to n real ones, beside those of n others; and how many pictures are copies.

    Each picture is drawn for the caption, or the label, of one of those others, so that both are held
    against the same real ones. Features are `noisette.metrics.perceptual_features`. A copy is as
    `noisette.metrics.copies` has it, in pixels and in features, of any of the real images; of those others
    themselves, how many are as near to one of the rest. Raises UserError for less than 2 n real images.
    """
    import torch

    from noisette import metrics

    held = min(len(real), max(HELD // prod(real.shape), 2 * FEWEST))
    most = held // 2
    n = min(USUAL, most) if n is None else n
    if not FEWEST <= n <= most:
        raise UserError(
            f"{real.origin}: n pictures are compared with n real ones and n others, of {len(real)}: "
            + (f"take -n from {FEWEST} to {most}" if most >= FEWEST else f"at least {2 * FEWEST} are needed")
        )
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(seed))[:held].tolist()
    batches = [real.fetch(order[i : i + AT_ONCE]) for i in range(0, len(order), AT_ONCE)]
    images = torch.cat([batch["image"] for batch in batches])
    drawn, settings = drawn_as_asked(model, n, _asked(model, batches, n), seed, options)
    seen, truth = (metrics.collect(_features, pictures) for pictures in (drawn, images))
    against, others = truth[n : 2 * n], truth[:n]
    found, floor = (metrics.compare(against, features, seed=seed) for features in (seen, others))
    return {
        "pictures": n,
        **settings,
        **{key: found[key] for key in MEASURED},
        **{f"real_{key}": floor[key] for key in MEASURED},
        "held_against": len(images),
        **_copies("pixels", drawn.flatten(1), images.flatten(1)),
        **_copies("features", seen, truth),
    }


def _copies(space: str, drawn: Tensor, real: Tensor) -> dict[str, int]:
    """How many pictures are copies, of how many images; and how many real ones, of the rest of them."""
    from noisette.metrics import copies

    n = len(drawn)
    found, usual = copies(drawn, real), copies(real[:n], real[n:])
    return {
        f"copies_in_{space}": int(found.found.sum()),
        f"images_copied_in_{space}": found.count,
        f"real_copies_in_{space}": int(usual.found.sum()),
    }


def _features(images: Tensor) -> Tensor:
    from noisette.metrics import perceptual_features

    return perceptual_features(images.expand(-1, 3, -1, -1))


def _asked(model: Model | Generator, batches: Sequence[dict[str, Any]], n: int) -> dict[str, list[Any]]:
    """What the model is told of the first n of the images. Raises UserError where they have no captions."""
    name, given = ("text", "prompt") if model.spec.text is not None else ("label", "label")
    if model.spec.text is None and model.spec.labels is None:
        return {}
    if name not in batches[0]:
        raise UserError(f"{model.spec.name} draws what captions say, and these images have none")
    told = [one for batch in batches for one in batch[name]][:n]
    return {given: told if name == "text" else [int(label) for label in told]}
