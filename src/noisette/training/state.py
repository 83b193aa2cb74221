"""What a training run remembers from one step to the next, to and from a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer

import noisette
from noisette.errors import UserError
from noisette.hub import to_record
from noisette.training.checkpoint import Checkpoint, flatten_optimizer, restore_optimizer
from noisette.training.ema import EMA
from noisette.training.recipe import Plan, differences
from noisette.training.tasks import Task

if TYPE_CHECKING:
    from noisette.data import Loader

__all__ = ["TrainState"]


@dataclass
class TrainState:
    """The weights, their average, the optimizer, the place in the data, and the number of updates made.

    Random numbers are functions of the seed and the step (see `Draws`), so they need no state.
    """

    recipe: Plan
    task: Task
    ema: EMA
    optimizer: Optimizer
    loader: Loader
    step: int = field(default=0)

    @property
    def net(self) -> nn.Module:
        """What is trained."""
        return self.task.net

    def checkpoint(self) -> Checkpoint:
        """A snapshot; tensors are shared with the run, so save it before the next step."""
        moments, facts = flatten_optimizer(self.optimizer)
        tensors: dict[str, Any] = {
            "weights": self.net.state_dict(),
            "ema": self.ema.shadow,
            "optimizer": moments,
        }
        if more := self.task.state_dict():
            tensors["history"] = dict(more)
        return Checkpoint(
            self.step,
            tensors,
            {
                "noisette": noisette.__version__,
                "recipe": to_record(self.recipe),
                "optimizer": facts,
                "ema_updates": self.ema.updates,
                "data": self.loader.state_dict(),
            },
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint. Raises UserError where it is of another recipe or other data."""
        _same_recipe(checkpoint.facts["recipe"], to_record(self.recipe))
        self.net.load_state_dict(dict(checkpoint.tensors["weights"]))
        self.ema.load(dict(checkpoint.tensors["ema"]), checkpoint.facts["ema_updates"])
        restore_optimizer(self.optimizer, checkpoint.tensors["optimizer"], checkpoint.facts["optimizer"])
        self.task.load_state_dict(checkpoint.tensors.get("history", {}))
        self.loader.load_state_dict(checkpoint.facts["data"])
        self.step = checkpoint.step


def _same_recipe(before: dict[str, Any], now: dict[str, Any]) -> None:
    if changed := differences(before, now):
        raise UserError(
            f"the checkpoint was made by another recipe ({'; '.join(changed)}): resume with the same "
            "recipe, or train into a new folder"
        )
