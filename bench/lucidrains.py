"""denoising-diffusion-pytorch: its U-Net, its GaussianDiffusion, its Trainer.

Defaults are those of its README (U-Net of 64 channels with multiples 1, 2, 4, 8 and flash attention) and
of its Trainer (batch 16, Adam at 1e-4, averaging with decay 0.995). We differ where the default
could only hurt it here: digits are not mirrored, and it neither samples nor measures while it trains.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bench import nets, stub

STEPS = 50  # of DDIM, its few-step sampler; the README shows 250


def default_net() -> nn.Module:
    """The U-Net of its README, for one channel."""
    return _unet(64, (1, 2, 4, 8))


def equal_net(target: int) -> nn.Module:
    """Its U-Net of three resolutions at the widths that come nearest to ``target`` parameters."""
    sizes = (_unet(dim, (1, 2, deepest)) for deepest in (3, 4) for dim in range(16, 40, 2))
    return min(sizes, key=lambda net: abs(nets.parameters(net) - target))


class Loop:
    """`Trainer.train`, one update at a time; ``pngs`` is a folder of images."""

    def __init__(self, net: nn.Module, pngs: Path, work: Path, *, batch_size: int = 16) -> None:
        stub.torchvision_transforms()
        from denoising_diffusion_pytorch import GaussianDiffusion, Trainer

        self.batch_size, self.parameters, self.said = batch_size, nets.parameters(net), io.StringIO()
        own = net if hasattr(net, "self_condition") else nets.ForLucidrains(net)
        diffusion = GaussianDiffusion(own, image_size=32, timesteps=1000, sampling_timesteps=STEPS)
        work.mkdir(parents=True, exist_ok=True)
        self.trainer = Trainer(
            diffusion,
            str(pngs),
            train_batch_size=batch_size,
            augment_horizontal_flip=False,
            save_and_sample_every=10**9,
            calculate_fid=False,
            results_folder=str(work),
        )

    def updates(self) -> Iterator[None]:
        while True:
            self.trainer.train_num_steps = self.trainer.step + 1
            with contextlib.redirect_stdout(self.said), contextlib.redirect_stderr(self.said):
                self.trainer.train()  # it draws a bar for every call, and announces its end
            self.said.truncate(0)
            yield

    def sample(self, count: int, steps: int | None = None, *, average: bool = True) -> Tensor:
        diffusion = self.trainer.ema.ema_model if average else self.trainer.model
        diffusion.sampling_timesteps = steps or STEPS
        diffusion.eval()
        return diffusion.sample(batch_size=count).clone() * 2 - 1

    def state(self) -> dict[str, Any]:
        trainer = self.trainer
        return {
            "step": trainer.step,
            "model": trainer.model.state_dict(),
            "optimizer": trainer.opt.state_dict(),
            "ema": trainer.ema.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        trainer = self.trainer
        trainer.step = state["step"]
        trainer.model.load_state_dict(state["model"])
        trainer.opt.load_state_dict(state["optimizer"])
        trainer.ema.load_state_dict(state["ema"])


def _unet(dim: int, multiples: tuple[int, ...]) -> nn.Module:
    stub.torchvision_transforms()
    from denoising_diffusion_pytorch import Unet

    return Unet(dim=dim, dim_mults=multiples, channels=1, flash_attn=True)
