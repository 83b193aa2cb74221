"""The model: codec, texts, denoiser and schedule, made into something that draws pictures."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from noisette import __version__
from noisette.adapters.lora import attach, detach, fuse
from noisette.conditioning import to_null
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
    sample,
)
from noisette.errors import UserError
from noisette.guidance import clip_x0, rescaled_guide
from noisette.hub.checkpoint import Checkpoint
from noisette.hub.folder import (
    Notes,
)
from noisette.hub.lora_files import read_lora
from noisette.hub.png import OutputType, pictures
from noisette.hub.single import PredictionType
from noisette.hub.spec import AnySchedule, ModelSpec
from noisette.models.asking import (
    MOST_PICTURES,
    Labels,
    Prompts,
    label_index,
    seeds_of,
    shape_of,
    told_of_pictures,
    told_to_draw,
    whole,
)
from noisette.models.autoencoder import PIXELS_AT_ONCE, TILE, decoded, encoded
from noisette.models.checkpoints import named_parts, scheduler_config
from noisette.models.drawing import drawing_of
from noisette.models.starting import Pictures, Start, pictures_of, start_of
from noisette.models.storing import read_model, write_model
from noisette.models.telling import conds_of
from noisette.models.texts import Texts
from noisette.nets import DeepCache, UNet
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
            own["negative_prompt"] = self.negative_prompts[index] if self.negative_prompts else None
        return {**self.settings, **own}


@dataclass(frozen=True, eq=False)
class Model:
    """A denoising network with its description: build it, draw with it, save it, load it.

    A latent model has a ``codec``, a text-to-image model ``texts``. ``notes`` are facts about its making that
    travel with it: what it was trained on, for how long. A model that comes from a checkpoint of others'
    keeps what that said besides weights as ``checkpoint``: it is sampled and saved by it. Pictures with a
    side beyond ``tile`` pixels go through the codec in tiles; ``place`` is where an `offloaded` model works.
    """

    spec: ModelSpec
    denoiser: NetDenoiser
    notes: Notes = field(default_factory=dict[str, str | int | float])
    codec: Codec | None = None
    texts: Texts | None = None
    checkpoint: Checkpoint | None = None
    tile: int = TILE
    place: torch.device | None = None

    @classmethod
    def new(
        cls,
        spec: ModelSpec,
        net: nn.Module | None = None,
        notes: Notes | None = None,
        *,
        codec: Codec | None = None,
        texts: Texts | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> Model:
        """A model around ``net``, or around a freshly initialised network as the spec describes it."""
        net = spec.build() if net is None else net
        denoiser = NetDenoiser(net, spec.parameterization, spec.time)
        return cls(spec, denoiser, notes or {}, codec, texts, checkpoint)

    @classmethod
    def load(
        cls,
        name: str | os.PathLike[str],
        *,
        dtype: torch.dtype | None = torch.float32,
        variant: str | None = None,
        revision: str | None = None,
        prediction: PredictionType | None = None,
    ) -> Model:
        """The model of that name, on the CPU, in evaluation mode, in ``dtype``; None is as the file has it.

        A model that ships, a model folder, the folder of a training run; a folder of diffusers' pipelines or
        a single file of Stable Diffusion's; or the name of a repository on the Hugging Face Hub
        ("owner/name", at a ``revision``), which is downloaded once. ``variant`` chooses among the weights of
        diffusers' folders ("fp16"); ``prediction`` says of a single file what its network predicts, where
        the file does not. Nothing pickled is executed. Raises UserError.
        """
        found = read_model(name, dtype, variant, revision, prediction)
        spec, net, notes, codec, texts, checkpoint = found
        return cls.new(spec, net, notes, codec=codec, texts=texts, checkpoint=checkpoint)

    def save(
        self, folder: str | os.PathLike[str], *, dtype: torch.dtype | None = None, overwrite: bool = False
    ) -> Path:
        """Write the model folder: model.json, README.md, the weights, and the tokenizer where there is one.

        A model from a checkpoint of others' becomes a folder that diffusers loads, or, where ``folder`` ends
        in .safetensors, a single file in Stable Diffusion's first layout.
        ``dtype`` (float16, bfloat16, float32) is what the weights are kept in; None leaves them as they
        are. Raises UserError when there is something already and ``overwrite`` is not set, and while a LoRA
        is attached.
        """
        return write_model(self, folder, dtype, overwrite)

    @property
    def schedule(self) -> AnySchedule:
        """The noise schedule the network was trained for."""
        return self.spec.schedule

    @property
    def device(self) -> torch.device:
        """Where the network works."""
        return self.place or next(self.denoiser.net.parameters()).device

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Model:
        """Move the networks, in place, and return the model; the state of sampling stays float32."""
        for part in (self.denoiser, self.codec):
            if part is not None:
                part.to(device=device, dtype=dtype)
        return self

    def offloaded(self, device: torch.device | str) -> Model:
        """The same model with its weights kept in memory and brought to ``device`` layer by layer.

        Slow, and needs hardly more memory there than one layer and what flows through it; so that Stable
        Diffusion runs on a graphics card of 4 GB. The weights given up to it cannot be moved back.
        """
        from accelerate import cpu_offload

        for part in (self.denoiser.net, self.codec):
            if part is not None:
                cpu_offload(part, torch.device(device))
        return replace(self, place=torch.device(device))

    def load_lora(
        self, path: str | os.PathLike[str], weight: float = 1.0, *, name: str | None = None
    ) -> Model:
        """Attach a LoRA file of kohya's, diffusers' or PEFT's dialect, in place, and return the model.

        Several add up, each under its ``name`` (by default the file's) with its own ``weight``;
        `unload_lora` leaves every weight as it was. Raises UserError for what does not fit this model.
        """
        parts = named_parts(self.spec, self.denoiser.net)
        updates = read_lora(path).updates({part: rows for part, (_, rows) in parts.items()})
        name = re.sub(r"\W", "_", Path(path).stem) if name is None else name
        for part, own in updates.items():
            attach(parts[part][0], own, weight=weight, name=name)
        return self

    def unload_lora(self, name: str | None = None) -> Model:
        """Detach one LoRA, or all of them; the model is bit for bit what it was."""
        detach(self.denoiser.net, name)
        return self

    def fuse_lora(self) -> Callable[[], None]:
        """Add what is attached into the weights; the function returned takes it out again, bit for bit."""
        return fuse(self.denoiser.net)

    def cached(self, every: int, branch: int = 0) -> Model:
        """The same model, whose U-Net computes its deep part at each ``every``-th step only: `DeepCache`."""
        net: Any = self.denoiser.net
        inner = net.net if isinstance(net, Prompted) else net
        if not isinstance(inner, UNet):
            raise UserError(f"{self.spec.name} has no U-Net whose features could be kept")
        deep: Any = DeepCache(inner, every, branch)
        net = Prompted(deep, net.text) if isinstance(net, Prompted) else deep
        return replace(self, denoiser=NetDenoiser(net, self.spec.parameterization, self.spec.time))

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
        return images if self.codec is None else encoded(self.codec, images, self.tile)

    def decode(self, latents: Tensor) -> Tensor:
        """The pictures [N, C, H, W] of what the network works on; large ones are decoded in tiles."""
        return latents if self.codec is None else decoded(self.codec, latents, self.tile)

    def cond(self, prompts: Sequence[str]) -> Cond:
        """What the network is told for texts: their tokens, encoded once for a whole trajectory."""
        if self.texts is None:
            raise UserError(f"{self.spec.name} has no texts to read a prompt with: load it, or give texts=")
        return self.read(self.texts.cond(prompts, self.device))

    @torch.no_grad()
    def read(self, cond: Cond) -> Cond:
        """A condition with token ids as one with their encodings, where the network brings its encoder."""
        net = self.denoiser.net
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
        if getattr(self.spec.net, "guidance_dim", None):
            return self._told_guidance(guidance_scale, guidance_rescale, clip)
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
            # What others' checkpoints are tuned to is rescaling what their network says, whatever that is.
            space = None if self.checkpoint is None else self.spec.parameterization
            weaker = given(denoiser, weak)
            denoiser = rescaled_guide(denoiser, weaker, guidance_scale, guidance_rescale, space)
        elif not off:
            denoiser = guide(denoiser, given(denoiser, weak), guidance_scale)
        return self._clipped(denoiser, clip)

    def levels(self, num_inference_steps: int | None = None, grid: str | None = None) -> list[Level]:
        """The grid of a trajectory from noise to data; None takes the model's own defaults."""
        return drawing_of(self.spec, self._scheduler, num_inference_steps, grid, None, None).levels

    def label_index(self, label: int | str) -> int:
        """The index of a class by its name, or by its number. Raises UserError for neither."""
        return label_index(self.spec, label)

    def generate(
        self,
        prompt: Prompts | None = None,
        *,
        negative_prompt: Prompts | None = None,
        label: Labels | None = None,
        image: Pictures | None = None,
        mask_image: Pictures | None = None,
        strength: float | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: Weight | None = None,
        guidance_rescale: float | None = None,
        clip_skip: int = 0,
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
        """Draw pictures from noise, or from pictures.

        ``prompt``: what a text-to-image model is to draw, or a list of texts, with ``num_images_per_prompt``
        pictures of each; ``negative_prompt`` (one for all, or one each) is what guidance leads away from,
        by default the empty text. ``label``: the same for a class-conditional model, an index or a name;
        None draws every label in turn. Picture k of the call is made from ``seed`` + k (or the k-th of a
        list; None takes a fresh seed) and depends on nothing else: not on the other pictures nor on
        ``batch_size``, how many are drawn at a time. What is left None is the model's own default.
        ``guidance_scale`` and ``guidance_rescale``: see `guided`. ``eta``: the noise of DDIM. ``latents``
        [N, C, h, w] replace the initial noise; ``output_type`` "latent" gives them back undecoded.
        ``callback`` sees each `Step`, and may assign its x. ``clip_skip`` layers earlier CLIP is read.

        ``image``, one or one for each: the last ``strength`` of the steps are taken from it under noise (by
        default 0.8; 0 gives it back). With a ``mask_image``, white is drawn anew and black kept (by default
        in all steps). Source: arXiv:2108.01073, Algorithm 2.

        Any height and width that the network divides will do: a model of 64 x 64 draws a wide panorama.

        Cost: per batch, steps times the calls of the solver. Raises UserError for what cannot be drawn.
        """
        each = whole(num_images_per_prompt, "num_images_per_prompt", 1, MOST_PICTURES)
        told = told_to_draw(self.spec, prompt, negative_prompt, label, each)
        given = None if image is None else pictures_of(image, height, width, self.spec.stride)
        if given is not None:
            height, width = given.shape[-2:]
        seeds = seeds_of(
            seed, each * (1 if given is None else len(given)) if told.count is None else told.count
        )
        shape = shape_of(self.spec, len(seeds), height, width, latents)
        drawing = drawing_of(self.spec, self._scheduler, num_inference_steps, grid, solver, eta)
        start, concat = start_of(self, given, mask_image, strength, shape, drawing.scale)
        size = max(1, PIXELS_AT_ONCE // (shape[2] * shape[3])) if batch_size is None else batch_size
        size = whole(size, "batch_size", 1, MOST_PICTURES)
        scale = self._scale(guidance_scale)
        rescale = self.spec.defaults.guidance_rescale if guidance_rescale is None else guidance_rescale
        drawn: list[Tensor] = []
        for part in (slice(first, first + size) for first in range(0, len(seeds), size)):
            self._forget()
            noise = NoiseStreams(seeds[part])
            eps = noise(torch.empty(len(seeds[part]), *shape[1:], device=self.device))
            if latents is not None:
                eps = latents[part].to(eps)
            cond, weak = conds_of(self, told, part, shape[2:], clip_skip, concat)
            denoiser = self.guided(scale, weak=weak, guidance_rescale=rescale)
            x = drawing.run(denoiser, start.part(part), cond, eps, noise, callback)
            drawn.append((x if output_type == "latent" else self._seen(x)).cpu())
        settings = {
            "model": self.spec.name,
            **drawing.settings,
            "guidance_scale": scale if isinstance(scale, int | float) else repr(scale),
            "guidance_rescale": rescale,
            "size": f"{shape[3] * self.spec.factor}x{shape[2] * self.spec.factor}",
            **({"clip_skip": clip_skip} if clip_skip else {}),
            **({"image": "given", "strength": start.strength} if given is not None else {}),
            **({"mask": "given"} if mask_image is not None else {}),
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
        drawing = drawing_of(self.spec, self._scheduler, num_inference_steps, grid, solver, None)
        cond, weak = conds_of(self, told, slice(None), (latents.shape[-2], latents.shape[-1]))
        levels = drawing.levels
        steps = sample(
            self.guided(guidance_scale, weak=weak, clip=False),
            latents,
            levels[::-1],
            drawing.solver,
            cond=cond,
        )
        end = Start(scale=drawing.scale).at(levels[0], torch.ones(()))
        return last(steps) / end.to(self.device)

    @property
    def _scheduler(self) -> Mapping[str, Any] | None:
        return None if self.checkpoint is None else scheduler_config(self.checkpoint)

    def _told_guidance(self, scale: Weight, rescale: float, clip: bool | None) -> Denoiser:
        """The denoiser of a network that was distilled from its guided self, and is told the scale."""
        if (callable(scale) and not isinstance(scale, Tensor)) or rescale:
            raise UserError(
                f"{self.spec.name} is told its guidance as one number: no intervals, and no guidance_rescale"
            )
        return self._clipped(given(self.denoiser, lambda cond: {**cond, "guidance_scale": scale}), clip)

    def _clipped(self, denoiser: Denoiser, clip: bool | None) -> Denoiser:
        clip = self.spec.codec is None and self.checkpoint is None if clip is None else clip
        return clip_x0(denoiser) if clip else denoiser

    def _forget(self) -> None:
        """Drop what a `cached` network has kept: every trajectory begins without."""
        for module in self.denoiser.modules():
            if isinstance(module, DeepCache):
                module.reset()

    def _seen(self, x: Tensor) -> Tensor:
        """Pictures as they are shown: a decoder may leave [-1, 1], a picture does not."""
        return x if self.codec is None else self.decode(x).clamp(-1, 1)

    def _scale(self, scale: Weight | None) -> Weight:
        if scale is not None:
            return scale
        told = self.spec.labels is not None or self.spec.text is not None
        return self.spec.defaults.guidance_scale if told else 1.0


def load(
    name: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = torch.float32,
    variant: str | None = None,
    revision: str | None = None,
    prediction: PredictionType | None = None,
) -> Model:
    """The model of that name, in that folder or file, or of that repository: see `Model.load`."""
    return Model.load(name, dtype=dtype, variant=variant, revision=revision, prediction=prediction)
