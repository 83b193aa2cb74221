"""noisette: the recipe `digits`, the parts its runner is made of, and the runner itself."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bench import nets
from noisette.core import Eps, IndexTime, train
from noisette.data import ImageDataset, loader
from noisette.models import Model
from noisette.recipes import digits
from noisette.schedules import LinearVP
from noisette.training import EMA, Recipe
from noisette.training.denoising import Denoising
from noisette.training.setup import accelerator_for, batches
from noisette.training.state import TrainState


def plain_recipe(batch_size: int) -> Recipe:
    """The recipe without labels, predicting noise over the linear schedule: what the peers do."""
    spec = digits.recipe.spec
    spec = replace(
        spec,
        net=replace(spec.net, num_classes=None),
        labels=None,
        schedule=LinearVP(),
        parameterization=Eps(),
        time=IndexTime(1000),
        defaults=replace(spec.defaults, guidance_scale=1.0),
    )
    return replace(digits.recipe, spec=spec, batch_size=batch_size, precision="fp32")


def recipe(batch_size: int, precision: Any = "fp32") -> Recipe:
    """The recipe as it is, at another batch size."""
    return replace(digits.recipe, batch_size=batch_size, precision=precision)


class Loop:
    """What `noisette.training.fit` does in each step, around any plain network or the recipe's own."""

    def __init__(self, recipe: Recipe, dataset: ImageDataset, plain: nn.Module | None = None) -> None:
        self.recipe, self.batch_size = recipe, recipe.batch_size
        net = recipe.spec.build() if plain is None else nets.ForOurs(plain)
        self.parameters = nets.parameters(net)
        self.accelerator = accelerator_for(recipe)
        optimizer = torch.optim.AdamW(
            net.parameters(), lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay
        )
        stream = loader(dataset, recipe.batch_size, seed=recipe.seed)
        task = Denoising(copy.deepcopy(recipe), torch.device("cpu"))
        task.net = net
        self.training = TrainState(recipe, task, EMA(net, recipe.ema), optimizer, stream)
        self.prepared: Any = self.accelerator.prepare_model(net.train())

    def updates(self) -> Iterator[None]:
        state = self.training
        for update in train(
            lambda batch: state.task.loss(self.prepared, *batch, state.step),
            batches(state, torch.device("cpu")),
            state.optimizer,
            backward=self.accelerator.backward,
            max_grad_norm=self.recipe.max_grad_norm,
        ):
            float(update.loss)
            state.step += 1
            state.ema.update(state.net)
            yield

    def sample(self, count: int, steps: int | None = None, *, solver: str = "ddim") -> Tensor:
        """Draw with the weights as they are, each label in turn, without guidance: one call a step."""
        spec, net = self.recipe.spec, self.training.net.eval()
        if self.recipe.precision == "bf16":
            net = copy.deepcopy(net).to(torch.bfloat16)
        asked = {"num_images_per_prompt": count} if spec.labels is None else {"label": labels(count)}
        output = Model.new(spec, net).generate(
            **asked,
            num_inference_steps=steps,
            guidance_scale=1.0,
            solver=solver,
            seed=0,
            output_type="torch",
            batch_size=count,
        )
        self.training.net.train()
        return output.images


def labels(count: int) -> list[int]:
    """Every digit in turn."""
    return [k % 10 for k in range(count)]
