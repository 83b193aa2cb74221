"""From a recipe to the parts of a run: the task, its state, its batches."""

from __future__ import annotations

import copy
import os
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn

from noisette.data import Images, loader, open_dataset
from noisette.errors import UserError
from noisette.nets.text import Prompted
from noisette.scenes.crew import cores
from noisette.training.draws import Draws, mix
from noisette.training.ema import EMA
from noisette.training.generators import GeneratorRecipe, skip_long
from noisette.training.kept import kept
from noisette.training.muon import Muon, matrices
from noisette.training.recipe import AutoencoderRecipe, Plan, Recipe
from noisette.training.report import working
from noisette.training.state import TrainState
from noisette.training.tasks import Task, task_of

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Batch", "accelerator_for", "batches", "begin"]

Batch: TypeAlias = tuple[dict[str, Any], Draws]


def accelerator_for(recipe: Plan) -> Accelerator:
    """The accelerator of this process, in the recipe's precision; an older run's settings are dropped."""
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    half = recipe.precision == "bf16" or (recipe.precision == "auto" and _has_bf16())
    # Without the word, Accelerate takes processes on a machine without a GPU for strangers to each other.
    # An adversary that has not entered yet takes no part in a step.
    spread = DistributedDataParallelKwargs(find_unused_parameters=isinstance(recipe, AutoencoderRecipe))
    return Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision="bf16" if half else "no",
        kwargs_handlers=[spread],
    )


def _has_bf16() -> bool:
    """Whether the GPU, or without one the CPU, multiplies bf16 itself rather than by way of float32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    able = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def begin(
    recipe: Plan,
    data: str | os.PathLike[str] | Images | None,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world: int = 1,
) -> TrainState:
    """A task with its first weights (equal on all processes), and the state of a run before its first step.

    Raises UserError when the data do not fit the recipe.
    """
    device = torch.device(device)
    if recipe.batch_size % world:
        raise UserError(f"batch_size {recipe.batch_size} cannot be shared by {world} processes")
    task = task_of(copy.deepcopy(recipe), device)
    batches = loader(
        task.prepare(_opened(recipe, task, data)),
        recipe.batch_size // world,
        seed=recipe.seed,
        flip=recipe.flip,
        num_workers=recipe.num_workers,
        rank=rank,
        world_size=world,
        pin_memory=device.type == "cuda",
    )
    torch.manual_seed(mix(recipe.seed, "weights"))
    net = task.build().to(device, memory_format=_layout(recipe, device))  # pyright: ignore
    net.gradient_checkpointing = recipe.gradient_checkpointing  # pyright: ignore[reportArgumentType]
    return TrainState(recipe, task, EMA(net, recipe.ema), _optimizer(recipe, net), batches)


def _optimizer(recipe: Plan, net: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of all weights that learn, those of a text encoder in groups of their own rate."""
    learning = [weight for weight in net.parameters() if weight.requires_grad]
    options: dict[str, Any] = {"lr": recipe.lr, "betas": recipe.betas, "weight_decay": recipe.weight_decay}
    muon = recipe.optimizer == "muon"
    made = Muon(learning, matrices(net), **options) if muon else torch.optim.AdamW(learning, **options)
    if isinstance(recipe, Recipe) and isinstance(net, Prompted) and recipe.text_lr_scale != 1:
        text = {id(weight) for weight in net.text.parameters()}
        halves = [
            {**group, "params": [w for w in group["params"] if (id(w) in text) == told], "lr_scale": scale}
            for group in made.param_groups
            for told, scale in ((False, 1.0), (True, recipe.text_lr_scale))
        ]
        made.param_groups = [half for half in halves if half["params"]]
    if isinstance(recipe, GeneratorRecipe) and recipe.skip_long:
        skip_long(made, recipe.max_grad_norm)
    return made


def batches(state: TrainState, device: torch.device, rank: int = 0) -> Generator[Batch]:
    """Batches on the device with the random numbers of their step; sets the learning rate before each.

    torch's global generator, which dropout inside networks uses, is seeded for the step and the process.
    """
    recipe, layout = state.recipe, _layout(state.recipe, device)
    for batch in state.loader:
        for group in state.optimizer.param_groups:
            group["lr"] = recipe.lr_at(state.step) * group.get("lr_scale", 1.0)
        torch.manual_seed(mix(recipe.seed, state.step, "dropout", rank))
        x0 = batch["image"].to(device, non_blocking=True).contiguous(memory_format=layout)
        draws = Draws(recipe.seed, state.step, first=rank * len(x0), total=recipe.batch_size, device=device)
        yield {**batch, "image": x0}, draws


def _opened(recipe: Plan, task: Task, data: str | os.PathLike[str] | Images | None) -> Images:
    """The data of a run, those of the recipe where none are given. Raises UserError where there are none."""
    channels: Any = task.pictures_shape[0]
    size = task.pictures_shape[-1]
    if data is None:
        if recipe.world is None:
            raise UserError(f"{task.name} learns from images: name a folder of them, or another data set")
        data = recipe.world.open(size)
        if recipe.world.count:
            with working("rendering scenes") as progress:
                data = kept(data, workers=cores(), progress=progress)
    elif isinstance(data, str | os.PathLike):
        data = open_dataset(Path(data), size=size, channels=channels, fit=recipe.fit, labels=task.labels)
    if tuple(data.shape) != task.pictures_shape:
        shapes = f"images are {tuple(data.shape)}, but {task.name} draws {task.pictures_shape}"
        raise UserError(f"{data.origin}: {shapes}")
    return data


def _layout(recipe: Plan, device: torch.device) -> torch.memory_format:
    last = device.type == "cuda" if recipe.channels_last is None else recipe.channels_last
    return torch.channels_last if last else torch.contiguous_format
