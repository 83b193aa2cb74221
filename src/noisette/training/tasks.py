"""What a run trains: the network, its loss, the pictures that show how far it is, and what is saved."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from noisette.data import Images
from noisette.training.draws import Draws
from noisette.training.recipe import AutoencoderRecipe, GroundingRecipe, Plan, Recipe

__all__ = ["Savable", "Task", "task_of"]


class Savable(Protocol):
    """What a finished run gives."""

    def save(self, folder: str | os.PathLike[str]) -> Path: ...


class Task(Protocol):
    """The part of a run that depends on what is trained; the runner has the rest.

    ``prepare`` turns the images into what batches are made of, then ``build`` makes ``net``, which holds all
    that is trained; ``loss`` calls it by way of the ``net`` it is given, which may be compiled or spread over
    processes. ``pictures`` are [C, H, W] in [-1, 1].
    """

    @property
    def name(self) -> str: ...
    @property
    def net(self) -> nn.Module: ...
    @property
    def labels(self) -> tuple[str, ...] | None: ...
    @property
    def pictures_shape(self) -> tuple[int, ...]: ...

    def prepare(self, data: Images) -> Images: ...
    def build(self) -> nn.Module: ...
    def loss(self, net: nn.Module, batch: Mapping[str, Any], draws: Draws, step: int) -> Tensor: ...
    def pictures(self) -> Tensor: ...
    def finished(self, notes: Mapping[str, str | int | float]) -> Savable: ...
    def state_dict(self) -> Mapping[str, Tensor]: ...
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...


def task_of(recipe: Plan, device: torch.device) -> Task:
    """The task of a recipe."""
    from noisette.training.autoencoding import Autoencoding
    from noisette.training.denoising import Denoising
    from noisette.training.distilling import Distilling, DistillRecipe
    from noisette.training.generating import Generating
    from noisette.training.generators import GeneratorRecipe
    from noisette.training.grounding import Grounding

    match recipe:
        case DistillRecipe():
            return Distilling(recipe, device)
        case GroundingRecipe():
            return Grounding(recipe, device)
        case Recipe():
            return Denoising(recipe, device)
        case AutoencoderRecipe():
            return Autoencoding(recipe, device)
        case GeneratorRecipe():
            return Generating(recipe, device)
    raise TypeError(f"{type(recipe).__name__} says nothing to train")
