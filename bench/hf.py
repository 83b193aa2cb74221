"""diffusers: its UNet2DModel and schedulers, in a loop with the settings of its training example.

Defaults are those of examples/unconditional_image_generation: six resolutions of 128 to 512 channels,
batch 16, AdamW at 1e-4 with 500 steps of warm-up and a cosine over 100 epochs, averaged weights.
We differ where the default could only hurt it here: one channel in place of three, no mirrored digits, and 20
steps of DPM-Solver++ in place of the example's 1000 of DDPM, which would take days on these cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from bench import nets, stub
from bench.data import Images

STEPS = 20


def default_net() -> nn.Module:
    """The network of its training example, for one channel."""
    stub.torchvision_transforms()
    from diffusers import UNet2DModel

    down = ("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D")
    up = ("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4
    return UNet2DModel(
        sample_size=32,
        in_channels=1,
        out_channels=1,
        layers_per_block=2,
        block_out_channels=(128, 128, 256, 256, 512, 512),
        down_block_types=down,
        up_block_types=up,
    )


def equal_net(target: int) -> nn.Module:
    """Its network of three resolutions at the widths that come nearest to ``target`` parameters."""
    widths = [(w, 2 * w, deepest) for w in (24, 32, 40, 48) for deepest in range(64, 193, 32)]
    return min(map(_small, widths), key=lambda net: abs(nets.parameters(net) - target))


class Loop:
    """Noise prediction over `DDPMScheduler`, on images [N, 1, 32, 32] in [-1, 1]."""

    def __init__(self, net: nn.Module, images: Tensor, *, batch_size: int = 16) -> None:
        stub.torchvision_transforms()
        from accelerate import Accelerator
        from diffusers import DDPMScheduler
        from diffusers.optimization import get_scheduler
        from diffusers.training_utils import EMAModel

        self.batch_size, self.parameters = batch_size, nets.parameters(net)
        net = net if hasattr(net, "config") else nets.ForDiffusers(net)
        self.accelerator = Accelerator(mixed_precision="no")
        self.noise = DDPMScheduler(num_train_timesteps=1000)
        optimizer = torch.optim.AdamW(
            net.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8
        )
        loader = DataLoader(Images(images), batch_size=batch_size, shuffle=True)
        rates = get_scheduler(
            "cosine", optimizer=optimizer, num_warmup_steps=500, num_training_steps=100 * len(loader)
        )
        self.ema = EMAModel(
            net.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=3 / 4, foreach=True
        )
        self.net, self.optimizer, self.loader, self.rates = self.accelerator.prepare(
            net, optimizer, loader, rates
        )

    def updates(self) -> Iterator[None]:
        while True:
            self.net.train()
            for clean in self.loader:
                noise = torch.randn_like(clean)
                times = torch.randint(0, self.noise.config.num_train_timesteps, (len(clean),))
                predicted = self.net(self.noise.add_noise(clean, noise, times), times).sample
                loss = F.mse_loss(predicted, noise)
                self.accelerator.backward(loss)
                self.accelerator.clip_grad_norm_(self.net.parameters(), 1.0)
                self.optimizer.step()
                self.rates.step()
                self.optimizer.zero_grad()
                self.ema.step(self.net.parameters())
                loss.item()  # the example logs it every step
                yield

    @torch.no_grad()
    def sample(
        self, count: int, steps: int | None = None, *, average: bool = True, ddim: bool = False
    ) -> Tensor:
        from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

        kind = DDIMScheduler if ddim else DPMSolverMultistepScheduler
        scheduler: Any = kind.from_config(self.noise.config)
        scheduler.set_timesteps(steps or STEPS)
        self.net.eval()
        with self._averaged(average):
            x = torch.randn(count, 1, 32, 32) * scheduler.init_noise_sigma
            for time in scheduler.timesteps:
                noise = self.net(scheduler.scale_model_input(x, time), time).sample
                x = scheduler.step(noise, time, x).prev_sample
        self.net.train()
        return x.clamp(-1, 1)

    @contextmanager
    def _averaged(self, average: bool) -> Iterator[None]:
        if average:
            self.ema.store(self.net.parameters())
            self.ema.copy_to(self.net.parameters())
        yield
        if average:
            self.ema.restore(self.net.parameters())

    def state(self) -> dict[str, Any]:
        return {
            "model": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rates": self.rates.state_dict(),
            "ema": self.ema.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rates.load_state_dict(state["rates"])
        self.ema.load_state_dict(state["ema"])


def _small(widths: tuple[int, ...]) -> nn.Module:
    stub.torchvision_transforms()
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=32,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=widths,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=32,
    )
