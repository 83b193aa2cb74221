"""What an autoencoder is trained for: to give back its input, plainly, in kind, and beyond telling apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from noisette.errors import UserError
from noisette.metrics.perceptual import perceptual_distance
from noisette.nets.gan import (
    PatchDiscriminator,
    PatchDiscriminatorConfig,
    adaptive_weight,
    discriminator_hinge,
    generator_hinge,
)
from noisette.nets.vae import AutoencoderKL, Codec
from noisette.nets.vq import Quantized

__all__ = ["Contest", "Reconstruction"]


@dataclass(frozen=True)
class Reconstruction:
    """``|x - x'| + perceptual * d(x, x') + kl * KL + adversarial * a * G``, in the units of latent diffusion.

    The first two are SUMMED over the values of an image (the perceptual distance d counts once for each
    value, and enters at step ``perceptual_from``: it costs as much as a small network), as is KL, in nats;
    so 1e-6 is the usual weight of KL, and not per pixel. A vector-quantised
    autoencoder has its codebook's loss, times the number of values, in KL's place. G is the hinge loss of a
    generator, from step ``adversary_from`` on, and ``a`` balances its gradient at the last layer with that of
    the reconstruction (of several processes, each over its own share of the batch). The discriminator learns
    its own hinge loss in the same update; neither feels the other's loss.

    ``jitter`` disturbs the latents that are decoded by noise of up to so many of their standard deviations,
    another share of it for each image: what a diffusion model draws is never quite what the encoder makes,
    and a decoder that has only seen the latter turns small errors into patterns (arXiv:2510.11690).
    Source: arXiv:2112.10752, App. G; arXiv:2012.09841, Eq. 5-7. Raises UserError for negative weights.
    """

    perceptual: float = 1.0
    perceptual_from: int = 0
    kl: float = 1e-6
    adversarial: float = 0.5
    adversary_from: int = 50_000
    adversary: PatchDiscriminatorConfig = PatchDiscriminatorConfig()  # noqa: RUF009  a frozen value
    jitter: float = 0.0

    def __post_init__(self) -> None:
        weights = (self.perceptual, self.kl, self.adversarial, self.jitter)
        if min(*weights, self.perceptual_from, self.adversary_from) < 0:
            raise UserError("the weights of a reconstruction, and the steps they enter at, are not negative")


class Contest(nn.Module):
    """An autoencoder, and the discriminator it is to fool, trained as one module.

    ``forward(x, noise, contested, spread) -> (x', regulariser [B], logits)``: noise in the latents' shape,
    and how far it goes beyond the posterior, for an `AutoencoderKL`; logits of (x' as the autoencoder is
    judged by it, x, x' as the discriminator learns from it), or None while the contest has not begun.
    """

    def __init__(self, codec: Codec, adversary: PatchDiscriminator | None) -> None:
        super().__init__()
        self.codec, self.adversary = codec, adversary

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether the autoencoder recomputes its activations in backward."""
        return self.codec.gradient_checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, recompute: bool) -> None:
        self.codec.gradient_checkpointing = recompute

    def forward(
        self, x: Tensor, noise: Tensor, contested: bool, spread: Tensor | None = None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor] | None]:
        drawn = isinstance(self.codec, AutoencoderKL)
        rebuilt, rest = self.codec(x, noise, spread) if drawn else self.codec(x)
        regulariser = rest.loss * x[0].numel() if isinstance(rest, Quantized) else rest.kl()
        if not contested or self.adversary is None:
            return rebuilt, regulariser, None
        # For the autoencoder's own step the discriminator is a fixed judge: its weights take no gradient.
        fixed = {name: value.detach() for name, value in self.adversary.named_parameters()}
        judged = functional_call(self.adversary, fixed, (rebuilt,))
        return rebuilt, regulariser, (judged, self.adversary(x), self.adversary(rebuilt.detach()))


def contest_loss(
    objective: Reconstruction,
    net: nn.Module,
    last_layer: Tensor,
    x: Tensor,
    noise: Tensor,
    contested: bool,
    spread: Tensor | None = None,
) -> Tensor:
    """The loss of a batch x [B, C, H, W] in [-1, 1], a mean over its images; one call of a `Contest`, net."""
    rebuilt, regulariser, logits = net(x, noise, contested, spread)
    rebuilt, values = rebuilt.float(), x[0].numel()
    error = (x - rebuilt).abs().flatten(1).sum(1)
    if objective.perceptual:
        error = error + objective.perceptual * values * perceptual_distance(x, rebuilt)
    loss = error.mean()
    total = loss + objective.kl * regulariser.float().mean()
    if logits is None:
        return total
    judged, real, fake = (part.float() for part in logits)
    fooled = generator_hinge(judged).mean()
    weight = objective.adversarial * adaptive_weight(loss, fooled, last_layer)
    return total + weight * fooled + discriminator_hinge(real, fake).mean()


def latent_noise(codec: Codec, x: Tensor) -> Tensor:
    """An empty tensor in the shape of the latents of x."""
    factor = codec.config.factor
    return torch.empty(
        len(x), codec.config.embed_dim, x.shape[2] // factor, x.shape[3] // factor, device=x.device
    )
