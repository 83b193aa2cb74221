"""The runner: `fit` trains a recipe on data into a folder, around the loop of `noisette.core.train`."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from noisette.core import TrainStep, train
from noisette.data import Images
from noisette.errors import UserError
from noisette.files import ensure_writable
from noisette.training.checkpoint import load_latest, save
from noisette.training.folder import CHECKPOINTS, claim, last_checkpoint, replace_model
from noisette.training.recipe import Plan
from noisette.training.report import Reporter
from noisette.training.setup import accelerator_for, batches, begin
from noisette.training.signals import StopRequest
from noisette.training.state import TrainState

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["FitResult", "fit"]


@dataclass(frozen=True)
class FitResult:
    """What came of a run: the averaged model, the step reached, and whether it was asked to stop early.

    ``model`` is a `Model`, or an `Autoencoder`, as the recipe says; ``folder`` is the saved model's, None
    when the run was interrupted.
    """

    model: Any
    step: int
    interrupted: bool
    folder: Path | None


def fit(
    recipe: Plan,
    data: str | os.PathLike[str] | Images | None,
    out: str | os.PathLike[str],
    *,
    max_train_steps: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_step: Callable[[TrainStep], None] | None = None,
) -> FitResult:
    """Train ``recipe`` on ``data`` into the folder ``out``; the model is ``out/model``.

    ``data`` None takes the world that the recipe brings along, if it does.

    ``out`` gets recipe.json, checkpoints/, samples/ (grids drawn from the averaged weights), logs/
    (TensorBoard) and at the end model/. ``max_train_steps`` is where this run ends (by default the
    recipe's ``steps``); the learning rate follows the recipe all the same, so that ``resume`` can go
    on from there, bit for bit on a CPU. Ctrl-C and SIGTERM finish the step, save and return; a second
    Ctrl-C does not wait. ``on_step`` sees every `TrainStep`, its ``index`` counted from 1.

    Under torchrun or `accelerate launch` the processes share each batch and do together what one
    process does alone. torch's global generator is reseeded at every step.

    Raises UserError: ``out`` holds something and neither ``resume`` nor ``overwrite`` is set; nothing to
    resume from, or another recipe; data that do not fit; a loss that is not finite.
    """
    out, total = Path(out), recipe.steps if max_train_steps is None else max_train_steps
    if total < 1:
        raise UserError(f"max_train_steps must be at least 1, not {total}")
    accelerator = accelerator_for(recipe)
    if accelerator.is_main_process and not resume:
        ensure_writable(out, overwrite=overwrite)  # told before the data are read, not after
    saved = load_latest(out / CHECKPOINTS) if resume else None
    with accelerator.main_process_first():  # what one process keeps on disk, the others read
        state = begin(recipe, data, accelerator.device, accelerator.process_index, accelerator.num_processes)
    if saved is not None:
        state.restore(saved)
    if accelerator.is_main_process and not resume:
        claim(out, recipe, overwrite=overwrite)
    accelerator.wait_for_everyone()
    interrupted = _run(state, accelerator, out, total, on_step)
    state.ema.copy_to(state.net)
    state.net.eval()
    model = state.task.finished(_notes(state))
    if accelerator.is_main_process and not interrupted:
        replace_model(model, out / "model")
    accelerator.wait_for_everyone()
    return FitResult(model, state.step, interrupted, None if interrupted else out / "model")


def _run(
    state: TrainState,
    accelerator: Accelerator,
    out: Path,
    total: int,
    on_step: Callable[[TrainStep], None] | None,
) -> bool:
    """Train to step ``total``; True when asked to stop before it."""
    recipe, main = state.recipe, accelerator.is_main_process
    if state.step >= total:
        return False
    net: Any = accelerator.prepare_model(state.net.train())
    called: Any = torch.compile(net) if recipe.compile else net
    stream = batches(state, accelerator.device, accelerator.process_index)
    reporter = Reporter(out, state.step, total, recipe.batch_size, visible=main)
    with StopRequest() as stop, reporter, closing(stream):
        updates = train(
            lambda batch: state.task.loss(called, *batch, state.step),
            stream,
            state.optimizer,
            backward=accelerator.backward,
            max_grad_norm=recipe.max_grad_norm,
        )
        asked = False
        for update in updates:
            loss, asked = _agree(update.loss, stop.asked, accelerator)
            _require_finite(loss, float(update.grad_norm), state.step + 1, out)
            state.step += 1
            state.ema.update(state.net)
            reporter.step(state.step, loss, float(update.grad_norm), state.optimizer.param_groups[0]["lr"])
            if on_step is not None:
                on_step(TrainStep(state.step, torch.tensor(loss), update.grad_norm))
            ends = asked or state.step >= total
            if main:
                _keep(state, reporter, out, ends)
            if ends:
                break
        interrupted = asked and state.step < total
        if interrupted:
            reporter.say(f"stopped at step {state.step}, saved in {out / CHECKPOINTS}; go on with --resume")
    accelerator.unwrap_model(net, keep_fp32_wrapper=False)
    accelerator.free_memory()
    return interrupted


def _keep(state: TrainState, reporter: Reporter, out: Path, ends: bool) -> None:
    """Checkpoint and draw where the recipe says so."""
    recipe = state.recipe
    if ends or _due(state.step, recipe.checkpoint_every):
        save(
            out / CHECKPOINTS,
            state.checkpoint(),
            keep=recipe.keep_checkpoints,
            milestone=recipe.milestone_every,
        )
    if _due(state.step, recipe.sample_every):
        with state.ema.swapped_into(state.net.eval()):
            reporter.pictures(state.step, state.task.pictures())
        state.net.train()


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _agree(loss: Tensor, asked: bool, accelerator: Accelerator) -> tuple[float, bool]:
    """The loss of the whole batch, and whether any process was asked to stop."""
    if accelerator.num_processes == 1:
        return float(loss), asked
    both: Any = accelerator.reduce(torch.stack([loss, loss.new_tensor(float(asked))]), "mean")
    return float(both[0]), float(both[1]) > 0


def _require_finite(loss: float, grad_norm: float, step: int, out: Path) -> None:
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    last = last_checkpoint(out)
    raise UserError(
        f"training stopped at step {step}: the loss is {loss:g} and the gradient norm {grad_norm:g}; "
        + (f"the last good checkpoint is {last}" if last else "there is no checkpoint yet")
        + " (a lower lr, a longer warmup or precision fp32 may help)"
    )


def _count(state: TrainState) -> int:
    """How many images the run has seen, or how many there are: the fewer."""
    return min(len(state.loader.data), state.step * state.recipe.batch_size)


def _notes(state: TrainState) -> dict[str, str | int | float]:
    recipe = state.recipe
    start = getattr(recipe, "start", None)
    return {
        **({"start": Path(start).name} if start else {}),
        "trained_on": f"{_count(state)} images ({Path(state.loader.data.origin).name})",
        "steps": state.step,
        "batch_size": recipe.batch_size,
        "objective": repr(getattr(recipe, "objective", "")),
        "fit": recipe.fit,
        "seed": recipe.seed,
    }
