"""PNGs that carry the settings they were made with: the A1111 text chunk, and JSON for exactness."""

from __future__ import annotations

import os
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
    "eta": "Eta",
}


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
    """The text of the ``parameters`` chunk: the prompt on the first line, the rest as ``Key: value, ...``."""
    pairs = (f"{name}: {settings[key]}" for key, name in _A1111.items() if settings.get(key) is not None)
    text = f"{settings.get('prompt', '')}\n{', '.join(pairs)}"
    return text.encode("utf-8", "replace").decode("utf-8")


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings that `write_png` put into a picture.

    Raises UserError when the file is no PNG or carries none.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.load()
            text = getattr(image, "text", {}).get(JSON)
    except FileNotFoundError:
        raise UserError(f"there is no picture {os.fspath(path)}") from None
    # Pillow meets broken files with many classes of error, some of them SyntaxError and struct.error.
    except Exception as error:
        raise UserError(f"{os.fspath(path)} is not a readable PNG: {str(error).splitlines()[:1]}") from None
    settings = None if text is None else parse_json(text, f"the settings in {os.fspath(path)}")
    if not isinstance(settings, dict):
        raise UserError(f"{os.fspath(path)} carries no noisette settings: was it edited by another program?")
    return settings


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
