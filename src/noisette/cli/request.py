"""What a person asks of ``noisette generate``: by options, or by a picture that carries its settings."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from noisette.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

    from noisette.models import Model

__all__ = ["MOST_AT_ONCE", "Request", "restored"]

MOST_AT_ONCE = 4096
DEVICES = ("cpu", "cuda", "mps", "xpu")
BATCH = 16
"""Pictures drawn at a time, unless asked otherwise: what one restored picture costs at most."""

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Request:
    """One run of the command; what is None is the model's own default, or not asked for.

    ``batch_index``: a picture that was the k-th of its batch is drawn as the k-th of a batch of its size,
    because for another size a computer adds numbers up in another order. ``columns``: of a sheet.
    ``accepted``: texts that the model has drawn before, whatever their words. ``lora``: files with weights,
    as `noisette.cli.weights.Lora` reads them. ``image`` and ``mask`` are paths.
    """

    model: str | None = None
    variant: str | None = None
    revision: str | None = None
    lora: tuple[str, ...] = ()
    prompt: str | None = None
    negative_prompt: str = ""
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_rescale: float | None = None
    solver: str | None = None
    grid: str | None = None
    eta: float | None = None
    clip_skip: int | None = None
    image: str | None = None
    mask: str | None = None
    strength: float | None = None
    cache_every: int | None = None
    width: int | None = None
    height: int | None = None
    seeds: tuple[int, ...] = ()
    batch_size: int | None = None
    batch_index: int | None = None
    columns: int | None = None
    device: str | None = None
    precision: str = "fp32"
    compile: bool = False
    model_hash: str | None = None
    accepted: tuple[str, ...] = ()

    def changed(self, asked: Mapping[str, Any], *, n: int | None, seed: int | None, fresh: int) -> Request:
        """The request with what is asked for besides, where it is not None; ``fresh``: the seed if none is.

        Picture k has seed + k. A change of solver leaves eta behind.
        """
        given = {name: value for name, value in asked.items() if value is not None}
        if n is not None or seed is not None or "batch_size" in given:
            given = {"batch_size": None, "batch_index": None, **given}
        if n is not None and self.columns is not None:
            given["columns"] = math.isqrt(n - 1) + 1
        if given.get("solver", self.solver) != self.solver:
            given = {"eta": None, **given}
        if "model" in given:
            given = {"variant": None, "revision": None, **given, "accepted": ()}
        if given.keys() & {"model", "variant", "revision", "lora"}:
            given["model_hash"] = None
        if "image" in given:  # another picture has a size of its own
            given = {"width": None, "height": None, **given}
        seeds = self.seeds or (fresh,)
        if seed is not None:
            seeds = tuple(seed + k for k in range(len(seeds)))
        if n is not None:
            seeds = (*seeds[:n], *(seeds[-1] + k for k in range(1, n - len(seeds) + 1)))
        return replace(self, **given, seeds=seeds)

    def check(self) -> None:
        """Raises UserError for settings that do not go together."""
        if self.image is None and (self.mask is not None or self.strength is not None):
            raise UserError("--mask and --strength belong to a picture: give it by --image")
        if self.compile and self.cache_every is not None:
            raise UserError("--compile and --cache-every do not go together: leave one of them out")

    def filled(self, model: Model, image: Image | None = None) -> Request:
        """The request with the model's defaults in place of what was left open; a picture has its own size.

        A checkpoint of others' is sampled by its own scheduler where no solver is asked for.
        """
        from noisette.models.starting import STRENGTH, pictures_of

        spec, defaults = model.spec, model.spec.defaults
        if image is None:
            width, height = (spec.image_size if side is None else side for side in (self.width, self.height))
        else:
            height, width = pictures_of(image, self.height, self.width, spec.stride).shape[-2:]
        spec.check_size(height, width)
        ours = model.checkpoint is None
        strength = (STRENGTH if self.mask is None else 1.0) if self.strength is None else self.strength
        scale, rescale = self.guidance_scale, self.guidance_rescale
        steps = defaults.steps if self.num_inference_steps is None else self.num_inference_steps
        solver, grid = defaults.names(steps, self.solver, self.grid) if ours else (self.solver, self.grid)
        return replace(
            self,
            num_inference_steps=steps,
            guidance_scale=defaults.guidance_scale if scale is None else scale,
            guidance_rescale=defaults.guidance_rescale if rescale is None else rescale,
            solver=solver,
            grid=grid,
            strength=None if image is None else strength,
            width=width,
            height=height,
            batch_size=self.batch_size or min(BATCH, len(self.seeds), _fitting(width, height, spec.factor)),
            device=model.device.type,
        )

    def drawing(self) -> dict[str, Any]:
        """What `Model.generate` is told beside prompts and seeds."""
        names = ("num_inference_steps", "guidance_scale", "guidance_rescale", "solver", "grid", "eta")
        taken = {name: getattr(self, name) for name in (*names, "strength", "width", "height")}
        return {**taken, "clip_skip": self.clip_skip or 0}

    def pictures(self) -> dict[str, Any]:
        """The paths of the pictures that this begins with."""
        return {"image": self.image, "mask": self.mask}


def _fitting(width: int, height: int, factor: int) -> int:
    from noisette.models import PIXELS_AT_ONCE

    return max(1, PIXELS_AT_ONCE * factor**2 // (width * height))


def restored(path: Path, besides: Collection[str] = ()) -> tuple[Request, str]:
    """The request that made a picture, and a line on what could not be taken from it, "" where all could.

    ``besides``: names of settings that are asked for anyway, which are not read. Raises UserError for a
    picture without settings, and for one that no settings make.
    """
    from noisette.hub.png import recover_settings

    settings, foreign = recover_settings(path)
    settings = {name: value for name, value in settings.items() if name not in besides}
    if foreign is not None:
        return _of_others(path, settings, foreign)
    where = str(path)
    if "num_inference_steps" not in settings and "num_inference_steps" not in besides:
        raise UserError(f"{where} was not drawn by a model: there is nothing to restore")
    if settings.get("latents") is not None:
        raise UserError(f"{where} was drawn from latents that it does not carry: it cannot be drawn again")
    if settings.get("image") == "given":
        raise UserError(f"{where} was drawn from a picture that it does not name: give it by --image")
    if settings.get("label") is not None or settings.get("labels") is not None:
        raise UserError(f"{where} was drawn from labels: noisette sample draws them")
    if "batch_size" in besides:
        settings.pop("batch_index", None)
    device, line = _device(settings, where)
    index, size = _one(settings, "batch_index", int, where), _one(settings, "batch_size", int, where)
    if not 0 <= (index or 0) < (1 if size is None else size) <= MOST_AT_ONCE:
        raise UserError(f"{where}: there is no picture {index} in a batch of {size}")
    common = _common(settings, where)
    request = Request(
        model=_one(settings, "weights" if "weights" in settings else "model", str, where),
        variant=_one(settings, "variant", str, where),
        revision=_one(settings, "revision", str, where),
        lora=_loras(settings, where),
        clip_skip=_one(settings, "clip_skip", int, where),
        image=_one(settings, "image", str, where),
        mask=_one(settings, "mask", str, where),
        strength=_one(settings, "strength", float, where),
        cache_every=_cache(settings, where),
        seeds=_seeds(settings, where),
        batch_index=index,
        batch_size=size,
        columns=_columns(settings, where),
        device=device,
        precision=_one(settings, "precision", str, where) or "fp32",
        compile=_one(settings, "compile", bool, where) or False,
        model_hash=_one(settings, "model_hash", str, where),
        accepted=(common["prompt"], common["negative_prompt"]),
        **common,
    )
    return request, line


def _of_others(path: Path, settings: dict[str, Any], foreign: tuple[str, ...]) -> tuple[Request, str]:
    """What a picture of another tool says, with its model only where that is one of ours."""
    from noisette.hub.embedded import find_model

    model = settings.get("model")
    try:
        found = None if model is None else find_model(model) and model
    except UserError:
        found, foreign = None, (f"Model {model}", *foreign)
    line = f"{path}: not understood, and left out: {', '.join(foreign)}" if foreign else ""
    seed = settings.get("seed")
    return Request(model=found, seeds=() if seed is None else (seed,), **_common(settings, str(path))), line


def _common(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    width, height = _size(settings, where)
    return {
        "prompt": _one(settings, "prompt", str, where) or "",
        "negative_prompt": _one(settings, "negative_prompt", str, where) or "",
        "num_inference_steps": _one(settings, "num_inference_steps", int, where),
        "guidance_scale": _one(settings, "guidance_scale", float, where),
        "guidance_rescale": _one(settings, "guidance_rescale", float, where) or 0.0,
        "solver": _one(settings, "solver", str, where),
        "grid": _one(settings, "grid", str, where),
        "eta": _one(settings, "eta", float, where),
        "width": width,
        "height": height,
    }


def _one(settings: Mapping[str, Any], name: str, kind: type[Kind], where: str) -> Kind | None:
    value: Any = settings.get(name)
    fits = type(value) is kind or (kind is float and type(value) is int and abs(value) < 2**53)
    if value is not None and not fits:
        raise UserError(f"{where}: its {name} {value!r:.60} is not to be had by an option: give another one")
    return cast(Kind | None, value)


def _seeds(settings: Mapping[str, Any], where: str) -> tuple[int, ...]:
    several = settings.get("seeds")
    if not isinstance(several, list) or not several:
        seed = _one(settings, "seed", int, where)
        return () if seed is None else (seed,)
    if any(type(seed) is not int for seed in several):
        raise UserError(f"{where}: its seeds are not whole numbers")
    return tuple(several)


def _loras(settings: Mapping[str, Any], where: str) -> tuple[str, ...]:
    found = _one(settings, "lora", list, where) or []
    if not all(isinstance(lora, str) for lora in found):
        raise UserError(f"{where}: its LoRAs are not named as FILE:WEIGHT")
    return tuple(found)


def _cache(settings: Mapping[str, Any], where: str) -> int | None:
    every = _one(settings, "cache_every", int, where)
    if every is not None and every < 1:
        raise UserError(f"{where}: its cache_every {every} is less than 1")
    return every


def _device(settings: Mapping[str, Any], where: str) -> tuple[str | None, str]:
    """The kind of device that drew a picture, or a line where there is none of that kind here."""
    import torch

    device = _one(settings, "device", str, where)
    if device is None or device not in DEVICES:
        return None, ""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        return None, f"{where} was drawn on {device}, which is not here: single pixels may differ"
    return device, ""


def _columns(settings: Mapping[str, Any], where: str) -> int | None:
    columns = _one(settings, "columns", int, where)
    if columns is not None and not 0 < columns <= MOST_AT_ONCE:
        raise UserError(f"{where}: a sheet has 1 to {MOST_AT_ONCE} columns, not {columns}")
    return columns


def _size(settings: Mapping[str, Any], where: str) -> tuple[int | None, int | None]:
    text = _one(settings, "size", str, where)
    if text is None:
        return None, None
    found = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text)
    if found is None:
        raise UserError(f"{where}: its size {text!r:.40} is not of the form 64x64")
    return int(found[1]), int(found[2])
