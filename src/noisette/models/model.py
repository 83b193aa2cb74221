"""The model: codec, texts, denoiser and schedule, made into something that draws pictures."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from noisette import __version__
from noisette.conditioning import label_cond, to_null
from noisette.conditioning.text import alike
from noisette.core import (
    Cond,
    Denoiser,
    Level,
    NetDenoiser,
    Solver,
    Step,
    Weight,
    given,
    guide,
    last,
    prior,
    sample,
)
from noisette.errors import UserError
from noisette.files import ensure_writable
from noisette.guidance import clip_x0, rescaled_guide
from noisette.hub.card import model_card
from noisette.hub.embedded import find_model
from noisette.hub.folder import CODEC, WEIGHTS, Notes, in_precision, read_spec, read_weights, write_folder
from noisette.hub.png import OutputType, pictures
from noisette.hub.spec import GRIDS, AnySchedule, ModelSpec
from noisette.models.asking import (
    MOST_PICTURES,
    Drawing,
    Labels,
    Prompts,
    Told,
    label_index,
    seeds_of,
    shape_of,
    solver_of,
    told_of_pictures,
    told_to_draw,
    whole,
)
from noisette.models.autoencoder import PIXELS_AT_ONCE, decoded, encoded, load_codec
from noisette.models.texts import Texts, texts_in
from noisette.nets.text import Prompted
from noisette.nets.vae import Codec
from noisette.solvers import NoiseStreams

__all__ = ["Model", "Output", "load"]


@dataclass(frozen=True)
class Output:
    """Pictures, the seed that made each of them, and settings (JSON values) that would make them again.

    ``images``: as `noisette.hub.png.pictures` describes for the output type that was asked; latents as they
    are for "latent".
    """

    images: Any
    seeds: tuple[int, ...]
    labels: tuple[int, ...] | None
    settings: dict[str, Any] = field(repr=False)
    prompts: tuple[str, ...] | None = None
    negative_prompts: tuple[str, ...] | None = None

    def settings_of(self, index: int) -> dict[str, Any]:
        """The settings of one picture, with its own seed, and its own label or prompt."""
        own: dict[str, Any] = {"seed": self.seeds[index]}
        if self.prompts is None:
            own["label"] = None if self.labels is None else self.labels[index]
        else:
            own["prompt"] = self.prompts[index]
            own["negative_prompt"] = self.negative_prompts[index] if self.negative_prompts else ""
        return {**self.settings, **own}


@dataclass(frozen=True, eq=False)
class Model:
    """A denoising network with its description: build it, draw with it, save it, load it.

    A latent model has a ``codec``, a text-to-image model ``texts``. ``notes`` are facts about its making that
    travel with it: what it was trained on, for how long.
    """

    spec: ModelSpec
    denoiser: NetDenoiser
    notes: Notes = field(default_factory=dict[str, str | int | float])
    codec: Codec | None = None
    texts: Texts | None = None

    @classmethod
    def new(
        cls,
        spec: ModelSpec,
        net: nn.Module | None = None,
        notes: Notes | None = None,
        *,
        codec: Codec | None = None,
        texts: Texts | None = None,
    ) -> Model:
        """A model around ``net``, or around a freshly initialised network as the spec describes it."""
        net = spec.build() if net is None else net
        return cls(spec, NetDenoiser(net, spec.parameterization, spec.time), notes or {}, codec, texts)

    @classmethod
    def load(cls, name: str | os.PathLike[str], *, dtype: torch.dtype = torch.float32) -> Model:
        """The model of that name: one that ships, a model folder, or the folder of a training run.

        On the CPU, in evaluation mode, in ``dtype`` whatever the file holds. Raises UserError.
        """
        folder = find_model(name)
        spec, notes = read_spec(folder)
        if not isinstance(spec, ModelSpec):
            raise UserError(f"{name} is an autoencoder and draws nothing: name a model trained with it")
        net = read_weights(folder / WEIGHTS, spec.build).to(dtype).eval()
        codec = None if spec.codec is None else load_codec(folder, dtype=dtype)
        return cls.new(spec, net, notes, codec=codec, texts=texts_in(folder, spec.text))

    def save(
        self, folder: str | os.PathLike[str], *, dtype: torch.dtype | None = None, overwrite: bool = False
    ) -> Path:
        """Write the model folder: model.json, README.md, the weights, and the tokenizer where there is one.

        ``dtype`` (float16, bfloat16, float32) is what the weights are kept in; None leaves them as they
        are. Raises UserError when the folder holds something already and ``overwrite`` is not set.
        """
        folder = ensure_writable(folder, overwrite=overwrite)
        parts: dict[str, nn.Module] = {WEIGHTS: self.denoiser.net}
        if self.codec is not None:
            parts[CODEC] = self.codec
        if self.texts is not None:
            self.texts.save(folder)
        states = {name: in_precision(part.state_dict(), dtype) for name, part in parts.items()}
        card = model_card(
            self.spec, sum(p.numel() for part in parts.values() for p in part.parameters()), self.notes
        )
        return write_folder(folder, self.spec, states, self.notes, card, overwrite=True)

    @property
    def schedule(self) -> AnySchedule:
        """The noise schedule the network was trained for."""
        return self.spec.schedule

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.denoiser.net.parameters()).device

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Model:
        """Move the networks, in place, and return the model; the state of sampling stays float32."""
        for part in (self.denoiser, self.codec):
            if part is not None:
                part.to(device=device, dtype=dtype)
        return self

    def compiled(self, **options: Any) -> Model:
        """The same model with its network through `torch.compile(**options)`: slow once, then faster."""
        net: Any = self.denoiser.net
        if isinstance(net, Prompted):
            net = Prompted(torch.compile(net.net, **options), net.text)  # pyright: ignore[reportArgumentType]
        else:
            net = torch.compile(net, **options)
        return replace(self, denoiser=NetDenoiser(net, self.spec.parameterization, self.spec.time))

    def encode(self, images: Tensor) -> Tensor:
        """Pictures [N, C, H, W] in [-1, 1] as what the network works on: latents, or the same pictures."""
        return images if self.codec is None else encoded(self.codec, images)

    def decode(self, latents: Tensor) -> Tensor:
        """The pictures [N, C, H, W] of what the network works on; large ones are decoded in tiles."""
        return latents if self.codec is None else decoded(self.codec, latents)

    def cond(self, prompts: Sequence[str]) -> Cond:
        """What the network is told for texts: their tokens, encoded once for a whole trajectory."""
        if self.texts is None:
            raise UserError(f"{self.spec.name} has no texts to read a prompt with: load it, or give texts=")
        cond = self.texts.cond(prompts, self.device)
        net = self.denoiser.net
        with torch.no_grad():
            return net.encode(cond) if isinstance(net, Prompted) else cond

    def guided(
        self,
        guidance_scale: Weight = 1.0,
        *,
        weak: Callable[[Cond], Cond] = to_null,
        guidance_rescale: float = 0.0,
        clip: bool | None = None,
    ) -> Denoiser:
        """The denoiser as `generate` samples it: classifier-free guidance, then pixels clipped to [-1, 1].

        ``guidance_scale`` is Stable Diffusion's, 1 is off; a function of the level may be given, such as
        `noisette.guidance.Interval`. ``weak`` makes the condition that is guided away from: no label, or a
        negative prompt. ``guidance_rescale`` is the part phi of arXiv:2305.08891. Latents are never clipped,
        unless ``clip`` says so. Cost: one call a step, of two lanes where the scale is not 1.
        """
        off = isinstance(guidance_scale, int | float) and guidance_scale == 1
        if self.spec.labels is None and self.spec.text is None and not off:
            raise UserError(
                f"{self.spec.name} has no labels, so there is nothing to guide: leave guidance_scale at 1"
            )
        if isinstance(guidance_scale, int | float) and not math.isfinite(guidance_scale):
            raise UserError(f"guidance_scale must be a finite number, got {guidance_scale}")
        if not 0 <= guidance_rescale <= 1:
            raise UserError(f"guidance_rescale is a part in [0, 1], not {guidance_rescale}")
        denoiser: Denoiser = self.denoiser
        if not off and guidance_rescale:
            denoiser = rescaled_guide(denoiser, given(denoiser, weak), guidance_scale, guidance_rescale)
        elif not off:
            denoiser = guide(denoiser, given(denoiser, weak), guidance_scale)
        clip = self.spec.codec is None if clip is None else clip
        return clip_x0(denoiser) if clip else denoiser

    def levels(self, num_inference_steps: int | None = None, grid: str | None = None) -> list[Level]:
        """The grid of a trajectory from noise to data; None takes the model's own defaults."""
        steps = self.spec.defaults.steps if num_inference_steps is None else num_inference_steps
        name = self.spec.defaults.grid if grid is None else grid
        if name not in GRIDS:
            raise UserError(f"there is no grid {name!r}: take one of {', '.join(GRIDS)}")
        return GRIDS[name](self.schedule, whole(steps, "num_inference_steps", 1, 100_000))

    def label_index(self, label: int | str) -> int:
        """The index of a class by its name, or by its number. Raises UserError for neither."""
        return label_index(self.spec, label)

    def generate(
        self,
        prompt: Prompts | None = None,
        *,
        negative_prompt: Prompts | None = None,
        label: Labels | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: Weight | None = None,
        guidance_rescale: float | None = None,
        seed: int | Sequence[int] | None = None,
        num_images_per_prompt: int = 1,
        solver: str | Solver[Any] | None = None,
        eta: float | None = None,
        grid: str | None = None,
        height: int | None = None,
        width: int | None = None,
        latents: Tensor | None = None,
        output_type: OutputType | Literal["latent"] = "pil",
        callback: Callable[[Step], None] | None = None,
        batch_size: int | None = None,
    ) -> Output:
        """Draw pictures from noise.

        ``prompt``: what a text-to-image model is to draw, or a list of texts, with ``num_images_per_prompt``
        pictures of each; ``negative_prompt`` (one for all, or one each) is what guidance leads away from,
        by default the empty text. ``label``: the same for a class-conditional model, an index or a name;
        None draws every label in turn. Picture k of the call is made from ``seed`` + k (or the k-th of a
        list; None takes a fresh seed) and depends on nothing else: not on the other pictures nor on
        ``batch_size``, how many are drawn at a time. What is left None is the model's own default.
        ``guidance_scale`` and ``guidance_rescale``: see `guided`. ``eta``: the noise of DDIM. ``latents``
        [N, C, h, w] replace the initial noise; ``output_type`` "latent" gives them back undecoded.
        ``callback`` sees each `Step`, and may assign its x.

        Any height and width that the network divides will do: a model of 64 x 64 draws a wide panorama.

        Cost: per batch, steps times the calls of the solver. Raises UserError for what cannot be drawn.
        """
        each = whole(num_images_per_prompt, "num_images_per_prompt", 1, MOST_PICTURES)
        told = told_to_draw(self.spec, prompt, negative_prompt, label, each)
        seeds = seeds_of(seed, each if told.count is None else told.count)
        shape = shape_of(self.spec, len(seeds), height, width, latents)
        size = max(1, PIXELS_AT_ONCE // (shape[2] * shape[3])) if batch_size is None else batch_size
        size = whole(size, "batch_size", 1, MOST_PICTURES)
        scale = self._scale(guidance_scale)
        rescale = self.spec.defaults.guidance_rescale if guidance_rescale is None else guidance_rescale
        drawing = self._drawing(num_inference_steps, grid, solver, eta)
        drawn: list[Tensor] = []
        for part in (slice(start, start + size) for start in range(0, len(seeds), size)):
            noise = NoiseStreams(seeds[part])
            x = noise(torch.empty(len(seeds[part]), *shape[1:], device=self.device))
            if latents is not None:
                x = latents[part].to(x)
            cond, weak = self._conds(told, part)
            denoiser = self.guided(scale, weak=weak, guidance_rescale=rescale)
            x = drawing.run(denoiser, x, cond, noise, callback)
            drawn.append((x if output_type == "latent" else self._seen(x)).cpu())
        settings = {
            "model": self.spec.name,
            **drawing.settings,
            "guidance_scale": scale if isinstance(scale, int | float) else repr(scale),
            "guidance_rescale": rescale,
            "size": f"{shape[3] * self.spec.factor}x{shape[2] * self.spec.factor}",
            "latents": None if latents is None else "given",
            "noisette": __version__,
        }
        done = torch.cat(drawn)
        images = done if output_type == "latent" else pictures(done, output_type)
        return Output(images, tuple(seeds), told.labels, settings, told.prompts, told.negatives)

    def invert(
        self,
        images: Tensor,
        prompt: Prompts | None = None,
        *,
        label: Labels | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: Weight = 1.0,
        solver: str | Solver[Any] = "ddim",
        grid: str | None = None,
    ) -> Tensor:
        """The initial noise from which `generate` draws ``images`` again: the solver on the flipped grid.

        images: [N, C, H, W] in [-1, 1]; prompt or label: one for all, or one each, None for none. Returns
        ``latents`` [N, C, h, w] for `generate` with the same solver, grid and prompt; the error falls with
        the number of steps. Nothing is clipped here. Source: arXiv:2010.02502, Section 4.3.
        """
        told = told_of_pictures(self.spec, len(images), prompt, label)
        size: tuple[int, int] = images.shape[-2], images.shape[-1]
        self.spec.check_size(*size)
        latents = self.encode(images.to(self.device, torch.float32))
        shape_of(self.spec, len(images), *size, latents)
        cond, weak = self._conds(told, slice(None))
        levels = self.levels(num_inference_steps, grid)
        steps = sample(
            self.guided(guidance_scale, weak=weak, clip=False),
            latents,
            levels[::-1],
            solver_of(solver, None, self.schedule),
            cond=cond,
        )
        end = prior(torch.ones(()), levels[0])
        return last(steps) / end.to(self.device)

    def _conds(self, told: Told, part: slice) -> tuple[Cond, Callable[[Cond], Cond]]:
        """The condition of some of the pictures, and the change to what guidance leads away from."""
        if told.prompts is None:
            return {} if told.labels is None else label_cond(told.labels[part], self.device), to_null
        cond, null = alike(self.cond(told.prompts[part]), self.cond((told.negatives or ())[part]))
        return cond, lambda _: null

    def _seen(self, x: Tensor) -> Tensor:
        """Pictures as they are shown: a decoder may leave [-1, 1], a picture does not."""
        return x if self.codec is None else self.decode(x).clamp(-1, 1)

    def _scale(self, scale: Weight | None) -> Weight:
        if scale is not None:
            return scale
        told = self.spec.labels is not None or self.spec.text is not None
        return self.spec.defaults.guidance_scale if told else 1.0

    def _drawing(
        self, steps: int | None, grid: str | None, solver: str | Solver[Any] | None, eta: float | None
    ) -> Drawing:
        defaults = self.spec.defaults
        solver = defaults.solver if solver is None else solver
        levels = self.levels(steps, grid)
        settings = {
            "num_inference_steps": len(levels) - 1,
            "solver": solver if isinstance(solver, str) else repr(solver),
            "grid": grid or defaults.grid,
            "eta": eta,
        }
        return Drawing(levels, solver_of(solver, eta, self.schedule), settings)


def load(name: str | os.PathLike[str], *, dtype: torch.dtype = torch.float32) -> Model:
    """The model of that name, or in that folder: see `Model.load`."""
    return Model.load(name, dtype=dtype)
