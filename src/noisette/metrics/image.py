"""Image-to-image measures: how far is each image from the one it should equal?"""

from __future__ import annotations

from torch import Tensor

from noisette.errors import UserError


def _check(images: Tensor, targets: Tensor) -> None:
    if images.shape != targets.shape or images.ndim != 4:
        raise UserError(
            f"Images {list(images.shape)} and targets {list(targets.shape)} must be [B, C, H, W] alike."
        )


def psnr(images: Tensor, targets: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image, in dB: `10 log10(2^2 / MSE)` for values in [-1, 1].

    images, targets: [B, C, H, W]; returns [B], infinity where they are equal.
    Raises UserError on unequal shapes.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    _check(images, targets)
    return peak_signal_noise_ratio(images, targets, data_range=2.0, reduction="none", dim=(1, 2, 3))


def ssim(images: Tensor, targets: Tensor) -> Tensor:
    """Structural similarity of each image, at most 1 (equal), in 11x11 Gaussian windows of width 1.5.

    images, targets: [B, C, H, W] in [-1, 1] with H, W >= 11; returns [B].
    Raises UserError on unequal or smaller shapes.
    Source: Wang et al. 2004, Eq. 13.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    _check(images, targets)
    if min(images.shape[-2:]) < 11:
        raise UserError(f"Structural similarity needs 11x11 pixels or more, not {list(images.shape[-2:])}.")
    values = structural_similarity_index_measure(images, targets, data_range=2.0, reduction="none")
    assert isinstance(values, Tensor)
    return values.reshape(-1)
