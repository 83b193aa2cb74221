"""What models that draw in one call are trained for, and the recipe that says so."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from noisette.errors import UserError
from noisette.hub.generator import GeneratorSpec
from noisette.nets.adversarial import (
    ResDiscriminator,
    ResDiscriminatorConfig,
    ResGenerator,
    ResGeneratorConfig,
    gradient_penalty,
    nonsaturating_discriminator,
    nonsaturating_generator,
)
from noisette.nets.flow import GlowConfig
from noisette.nets.hvae import LadderConfig
from noisette.training.recipe import Plan

__all__ = ["Adversarial", "Duel", "ExactLikelihood", "FreeBits", "GeneratorRecipe", "duel_loss", "skip_long"]


@dataclass(frozen=True)
class Adversarial:
    """A generator is to be taken for real by its adversary, which learns to tell in the same update.

    ``-log D(G(z)) - log D(x) - log(1 - D(G(z))) + R1``, in which neither player feels the other's part. R1
    is `gradient_penalty` with weight ``gamma``, taken at each ``every``-th step and ``every`` times as large
    there. Source: arXiv:1801.04406; arXiv:1912.04958, Sec. 3.1 (lazy). Raises UserError.
    """

    adversary: ResDiscriminatorConfig = ResDiscriminatorConfig()  # noqa: RUF009  a frozen value
    gamma: float = 1.0
    every: int = 16

    def __post_init__(self) -> None:
        if not 0 <= self.gamma < math.inf or self.every < 1:
            raise UserError(f"gamma is a weight from 0 up, every a count of steps, not {self}")


@dataclass(frozen=True)
class ExactLikelihood:
    """Bits per dimension of a flow, each image dequantised by uniform noise of its own at every step."""


@dataclass(frozen=True)
class FreeBits:
    """The bound of a VAE, in nats per dimension, in which ``free`` nats of each channel cost nothing.

    The weight of the divergence climbs from 0 to 1 over the first ``climb`` steps: at full price from the
    start, a fine group soon says all, and the coarse ones before it never learn to. Source: arXiv:1606.04934,
    App. C.8 (free); arXiv:1602.02282, Sec. 3.2 (climb).
    """

    free: float = 0.0
    climb: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.free < math.inf or self.climb < 0:
            raise UserError(f"free is in nats and climb in steps, each from 0 up, not {self}")

    def weight(self, step: int) -> float:
        """Of the divergence at update ``step`` (from 0)."""
        return min(1.0, (step + 1) / max(self.climb, 1))


GenerativeObjective: TypeAlias = Adversarial | ExactLikelihood | FreeBits
_FITTING = {Adversarial: ResGeneratorConfig, ExactLikelihood: GlowConfig, FreeBits: LadderConfig}


@dataclass(frozen=True, kw_only=True)
class GeneratorRecipe(Plan):
    """How to train a model that draws in one call: ``spec`` says which, ``objective`` for what.

    With ``skip_long`` an update whose gradient is longer than ``max_grad_norm`` is left out, where otherwise
    the gradient is shortened: one enormous step of a divergence is noise. Source: arXiv:2011.10650, Sec. 4
    (with a second, larger bound for it). Raises UserError where the parts do not fit each other.
    """

    spec: GeneratorSpec
    objective: GenerativeObjective
    skip_long: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        spec, objective = self.spec, self.objective
        if not isinstance(spec.net, _FITTING[type(objective)]):
            raise UserError(
                f"{spec.name} is a {type(spec.net).__name__}, which {type(objective).__name__} does not train"
            )
        if isinstance(objective, Adversarial):
            adversary = objective.adversary
            judged = (adversary.channels, adversary.image_size, adversary.num_classes)
            if judged != (spec.channels, spec.image_size, len(spec.labels)):
                raise UserError(
                    f"{spec.name}: the adversary judges {judged[0]}x{judged[1]}x{judged[1]} of {judged[2]} "
                    f"classes, which is not what is drawn"
                )


class Duel(nn.Module):
    """A generator and the adversary it is to fool, trained as one module.

    ``forward(x, label, z, penalised) -> (judged, real, fake, penalty)``, logits and penalty [B]: of G(z) as
    the generator is judged by it, of x, and of G(z) as the adversary learns from it; the penalty, of weight
    1, is None where it is not asked for.
    """

    def __init__(self, generator: ResGenerator, adversary: ResDiscriminator) -> None:
        super().__init__()
        self.generator, self.adversary = generator, adversary

    def forward(
        self, x: Tensor, label: Tensor, z: Tensor, penalised: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        drawn = self.generator(z, label)
        # For the generator's own step the adversary is a fixed judge: its weights take no gradient.
        fixed = {name: value.detach() for name, value in self.adversary.named_parameters()}
        judged = functional_call(self.adversary, fixed, (drawn, label))
        real, fake = self.adversary(x, label), self.adversary(drawn.detach(), label)
        penalty = gradient_penalty(lambda x: self.adversary(x, label), x, 1.0) if penalised else None
        return judged.float(), real.float(), fake.float(), penalty


def duel_loss(
    objective: Adversarial, net: nn.Module, x: Tensor, label: Tensor, z: Tensor, step: int
) -> Tensor:
    """The loss of both players for a batch x [B, C, H, W], []; one call of a `Duel`, net."""
    penalised = objective.gamma > 0 and step % objective.every == 0
    judged, real, fake, penalty = net(x, label, z, penalised)
    loss = nonsaturating_generator(judged).mean() + nonsaturating_discriminator(real, fake).mean()
    return loss if penalty is None else loss + objective.every * objective.gamma * penalty.mean()


def skip_long(optimizer: Optimizer, bound: float) -> None:
    """Let the optimizer leave out every update whose gradient has been shortened to ``bound``.

    The loop clips to that length before it steps, so that a gradient as long as the bound was longer.
    """

    def drop(optimizer: Optimizer, args: object, kwargs: object) -> None:
        weights = [w for group in optimizer.param_groups for w in group["params"] if w.grad is not None]
        length = nn.utils.get_total_norm([w.grad for w in weights])
        if length >= bound * (1 - 1e-4):
            for weight in weights:
                weight.grad = None

    optimizer.register_step_pre_hook(drop)
