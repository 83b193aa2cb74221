"""PNGs that carry the settings they were made with: the A1111 text chunk, and JSON for exactness."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from torch import Tensor, isfinite

from noisette.data.images import to_pil
from noisette.errors import UserError
from noisette.files import atomic_write
from noisette.hub.records import parse_json
from noisette.pixels import to_uint8

if TYPE_CHECKING:
    from PIL.Image import Image

OutputType: TypeAlias = Literal["pil", "numpy", "torch", "uint8"]

PARAMETERS, JSON = "parameters", "noisette"

# Our setting, and what tools that read the `parameters` chunk call it.
_A1111 = {
    "num_inference_steps": "Steps",
    "solver": "Sampler",
    "grid": "Schedule type",
    "guidance_scale": "CFG scale",
    "seed": "Seed",
    "size": "Size",
    "model": "Model",
    "model_hash": "Model hash",
    "eta": "Eta",
}
_READ = {name: key for key, name in _A1111.items() if key != "model_hash"}
_NUMBERS = {"num_inference_steps": int, "seed": int, "guidance_scale": float, "eta": float}
_SAMPLERS = {
    "Euler": "euler",
    "Euler a": "euler-ancestral",
    "Heun": "heun",
    "DPM++ 2M": "dpmpp-2m",
    "DPM++ 2M SDE": "dpmpp-2m-sde",
    "DPM++ SDE": "dpmpp-sde",
    "DDIM": "ddim",
    "PLMS": "plms",
    "UniPC": "unipc",
}
_NEGATIVE, _KARRAS = "Negative prompt:", " Karras"
_PAIR = re.compile(r'\s*(\w[\w \-/]{0,40}):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
_LONGEST_PAIRS = 2**16


def write_png(path: str | os.PathLike[str], image: Image, settings: Mapping[str, Any]) -> Path:
    """Write ``image`` with its ``settings`` (JSON values), atomically; an existing file is replaced.

    Ask `noisette.files.ensure_writable` first. `read_settings` gives the settings back exactly; the chunk
    ``parameters`` holds what Stable Diffusion tools show: prompt, then ``Steps: 20, Sampler: ...``.
    """
    import json

    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    chunks.add_text(PARAMETERS, a1111(settings))
    chunks.add_text(JSON, json.dumps(settings, allow_nan=False))
    with atomic_write(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=chunks)
    return Path(path)


def a1111(settings: Mapping[str, Any]) -> str:
    """The text of the ``parameters`` chunk: prompt, negative prompt if there is one, ``Key: value, ...``."""
    known = ((name, settings[key]) for key, name in _A1111.items() if settings.get(key) is not None)
    pairs = ", ".join(f"{name}: {_quoted(str(value))}" for name, value in known)
    negative = settings.get("negative_prompt")
    lines = [settings.get("prompt", ""), *([f"{_NEGATIVE} {negative}"] if negative else []), pairs]
    return "\n".join(map(str, lines)).encode("utf-8", "replace").decode("utf-8")


def parse_a1111(text: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What a ``parameters`` chunk says, in our names, and the "Key value" of all that we have no name for.

    Any text can be read: where no line of settings ends it, all of it is the prompt. Samplers are told by
    their names in A1111's web interface or by ours.
    """
    *lines, last = text.split("\n")
    pairs = _PAIR.findall(last) if len(last) <= _LONGEST_PAIRS else []
    if _PAIR.sub("", last).strip() or not (len(pairs) > 2 or any(key == "Steps" for key, _ in pairs)):
        lines, pairs = [*lines, last], []
    start = next((i for i, line in enumerate(lines) if line.startswith(_NEGATIVE)), len(lines))
    negative = "\n".join(lines[start:])[len(_NEGATIVE) :].removeprefix(" ")
    settings: dict[str, Any] = {"prompt": "\n".join(lines[:start]), "negative_prompt": negative}
    foreign: list[str] = []
    for key, value in ((key, _unquoted(value)) for key, value in pairs):
        understood = _understood(key, value)
        settings |= understood or {}
        if understood is None:
            foreign.append(f"{key} {value}")
    return settings, tuple(foreign)


def _quoted(value: str) -> str:
    import json

    return json.dumps(value, ensure_ascii=False) if set(value) & set(',:"\n') else value


def _unquoted(value: str) -> str:
    try:
        return str(parse_json(value, "")) if value.startswith('"') else value.strip()
    except UserError:
        return value


def _understood(key: str, value: str) -> dict[str, Any] | None:
    """Our settings for one of theirs; None where there are none."""
    from noisette.hub.spec import GRIDS
    from noisette.solvers import SOLVER_NAMES

    name = _READ.get(key)
    if name in _NUMBERS:
        try:
            return {name: _NUMBERS[name](value)}
        except ValueError:
            return None
    if name == "grid":
        grid = value.lower()
        return {} if grid == "automatic" else {name: grid} if grid in GRIDS else None
    if name == "solver":
        plain = value.removesuffix(_KARRAS)
        solver = value if value in SOLVER_NAMES else _SAMPLERS.get(plain)
        return None if solver is None else {name: solver} | ({"grid": "karras"} if plain != value else {})
    if name == "size" and not re.fullmatch(r"\d{1,6}x\d{1,6}", value):
        return None
    return {name: value} if name else None


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings that `write_png` put into a picture.

    Raises UserError when the file is no PNG or carries none.
    """
    settings, foreign = recover_settings(path)
    if foreign is not None:
        raise UserError(f"{os.fspath(path)} carries no noisette settings: was it edited by another program?")
    return settings


def recover_settings(path: str | os.PathLike[str]) -> tuple[dict[str, Any], tuple[str, ...] | None]:
    """The settings of a picture and None, or of another tool's picture what `parse_a1111` understands.

    Raises UserError when the file is no PNG or carries neither.
    """
    chunks = _chunks(path)
    if JSON in chunks:
        settings = parse_json(chunks[JSON], f"the settings in {os.fspath(path)}")
        if isinstance(settings, dict):
            return settings, None
    if PARAMETERS in chunks:
        return parse_a1111(chunks[PARAMETERS])
    raise UserError(f"{os.fspath(path)} carries no noisette settings: was it edited by another program?")


def _chunks(path: str | os.PathLike[str]) -> dict[str, str]:
    """The texts that a PNG carries."""
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.load()
            return dict(getattr(image, "text", {}))
    except FileNotFoundError:
        raise UserError(f"there is no picture {os.fspath(path)}") from None
    # Pillow meets broken files with many classes of error, some of them SyntaxError and struct.error.
    except Exception as error:
        raise UserError(f"{os.fspath(path)} is not a readable PNG: {str(error).splitlines()[:1]}") from None


def pictures(images: Tensor, output_type: OutputType = "pil") -> Any:
    """Images [N, C, H, W] in [-1, 1], C = 1, 3 or 4, in the form people ask for.

    "pil": a list of PIL images; "numpy": float32 [N, H, W, C] in [0, 1]; "torch": float32 [N, C, H, W] in
    [-1, 1]; "uint8": a torch tensor [N, C, H, W] of bytes. Raises UserError for values that are no numbers.
    """
    if not bool(isfinite(images).all()):
        raise UserError(
            "the pictures hold NaN or infinity: take another solver, a smaller guidance scale, or float32"
        )
    match output_type:
        case "torch":
            return images.float()
        case "uint8":
            return to_uint8(images)
        case "numpy":
            return images.float().add(1).div(2).clamp(0, 1).movedim(1, -1).numpy()
        case "pil":
            if images.shape[1] not in (1, 3, 4):
                raise UserError(f'{images.shape[1]} channels make no picture: ask for output_type="torch"')
            return to_pil(images, batch=True)
    raise UserError(f"output_type {output_type!r} is not one of {', '.join(get_args(OutputType))}")
