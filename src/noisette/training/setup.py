"""From a recipe to the parts of a run: the model, its state, its batches, its loss."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from noisette.conditioning import drop_labels, label_cond
from noisette.core import Cond, Denoiser
from noisette.data import Images, loader, open_dataset
from noisette.errors import UserError
from noisette.models import Model
from noisette.training.draws import Draws, mix
from noisette.training.ema import EMA
from noisette.training.recipe import Recipe
from noisette.training.state import TrainState

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Batch", "accelerator_for", "batches", "begin", "loss_of"]

Batch: TypeAlias = tuple[Tensor, Cond, Draws]


def accelerator_for(recipe: Recipe) -> Accelerator:
    """The accelerator of this process, in the recipe's precision; an older run's settings are dropped."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    half = recipe.precision == "bf16" or (recipe.precision == "auto" and _has_bf16())
    # Without the word, Accelerate takes processes on a machine without a GPU for strangers to each other.
    return Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision="bf16" if half else "no")


def _has_bf16() -> bool:
    """Whether the GPU, or without one the CPU, multiplies bf16 itself rather than by way of float32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    able = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def begin(
    recipe: Recipe,
    data: str | os.PathLike[str] | Images,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world: int = 1,
) -> tuple[Model, TrainState]:
    """A model with random weights (equal on all processes), and the state of a run before its first step.

    Raises UserError when the data do not fit the recipe.
    """
    device = torch.device(device)
    if recipe.batch_size % world:
        raise UserError(f"batch_size {recipe.batch_size} cannot be shared by {world} processes")
    batches = loader(
        _fitting(recipe, data),
        recipe.batch_size // world,
        seed=recipe.seed,
        flip=recipe.flip,
        num_workers=recipe.num_workers,
        rank=rank,
        world_size=world,
        pin_memory=device.type == "cuda",
    )
    torch.manual_seed(mix(recipe.seed, "weights"))
    model = Model.new(recipe.spec)
    net = model.denoiser.net.to(device, memory_format=_layout(recipe, device))  # pyright: ignore
    net.gradient_checkpointing = recipe.gradient_checkpointing  # pyright: ignore[reportArgumentType]
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay
    )
    objective = copy.deepcopy(recipe.objective)
    return model, TrainState(recipe, net, EMA(net, recipe.ema), optimizer, objective, batches)


def batches(state: TrainState, device: torch.device, rank: int = 0) -> Generator[Batch]:
    """Batches on the device with the random numbers of their step; sets the learning rate before each.

    torch's global generator, which dropout inside networks uses, is seeded for the step and the process.
    """
    recipe, layout = state.recipe, _layout(state.recipe, device)
    for batch in state.loader:
        for group in state.optimizer.param_groups:
            group["lr"] = recipe.lr_at(state.step)
        torch.manual_seed(mix(recipe.seed, state.step, "dropout", rank))
        x0 = batch["image"].to(device, non_blocking=True).contiguous(memory_format=layout)
        draws = Draws(recipe.seed, state.step, first=rank * len(x0), total=recipe.batch_size, device=device)
        yield x0, _cond(recipe, batch, draws), draws


def loss_of(state: TrainState, denoiser: Denoiser) -> Callable[[Batch], Tensor]:
    """The mean of the recipe's objective over a batch."""
    schedule = state.recipe.spec.schedule

    def loss(batch: Batch) -> Tensor:
        x0, cond, draws = batch
        return state.objective(denoiser, schedule, x0, cond, draws).mean()

    return loss


def _cond(recipe: Recipe, batch: dict[str, Any], draws: Draws) -> Cond:
    """The labels of a batch, some of them left out."""
    if recipe.spec.labels is None:
        return {}
    cond = label_cond(batch["label"], draws.generator.device)
    return drop_labels(cond, draws.uniform(len(cond["label"])) < recipe.label_dropout)


def _fitting(recipe: Recipe, data: str | os.PathLike[str] | Images) -> Images:
    """The data as the recipe's spec wants them. Raises UserError where they cannot be."""
    spec = recipe.spec
    if isinstance(data, str | os.PathLike):
        channels: Any = spec.channels
        data = open_dataset(
            Path(data), size=spec.image_size, channels=channels, fit=recipe.fit, labels=spec.labels
        )
    wanted = (spec.channels, spec.image_size, spec.image_size)
    if tuple(data.shape) != wanted:
        raise UserError(f"{data.origin}: images are {tuple(data.shape)}, but {spec.name} draws {wanted}")
    if spec.labels is not None and data.labels != spec.labels:
        raise UserError(f"{data.origin}: the classes are {data.labels}, but {spec.name} learns {spec.labels}")
    return data


def _layout(recipe: Recipe, device: torch.device) -> torch.memory_format:
    last = device.type == "cuda" if recipe.channels_last is None else recipe.channels_last
    return torch.channels_last if last else torch.contiguous_format
