"""``noisette convert``: a model in another layout or precision, with LoRAs made a part of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noisette.cli.weights import dtype_named, fused
from noisette.errors import UserError

if TYPE_CHECKING:
    import torch

    from noisette.models import Model

EPILOG = """\b
Examples:
  noisette convert sd15.safetensors sd15/
  noisette convert sd15/ sd15-fp16.safetensors --dtype float16
  noisette convert sd15/ in-ink/ --lora ink.safetensors:0.8 --lora faces.safetensors
"""

SINGLE = ".safetensors"
OTHERS = (".ckpt", ".pt", ".pth", ".bin", ".onnx", ".gguf")


def convert(
    model: Annotated[
        str, typer.Argument(metavar="IN", help="A folder, a single file, or owner/name on the Hub.")
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="A folder, or a single file if it ends in .safetensors.")
    ],
    dtype: Annotated[
        str | None, typer.Option(help="float32, float16 or bfloat16; default: what IN is kept in.")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="Which weights of a folder to take, as fp16.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option("--lora", metavar="FILE[:WEIGHT]", help="Add a LoRA into the weights; again for more."),
    ] = None,
    prediction: Annotated[
        str | None, typer.Option(help="Of a single file that does not say: epsilon or v_prediction.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Write a model as a folder that diffusers loads, or as a single file; noisette's own stay its own."""
    from noisette.files import ensure_writable
    from noisette.hub.finding import located
    from noisette.models import load

    if out.suffix.lower() in OTHERS:
        raise UserError(f"{out}: weights are written as safetensors: take a name that ends in {SINGLE}")
    wanted = None if dtype is None else dtype_named(dtype)
    if prediction not in (None, "epsilon", "v_prediction"):
        raise UserError(f"--prediction is epsilon or v_prediction, not {prediction!r:.40}")
    ensure_writable(out, overwrite=overwrite)
    place = located(model, variant, revision)
    if out.exists() and out.samefile(place):
        raise UserError(f"{out} is what is read: choose another name")
    if prediction is not None and place.is_dir():
        raise UserError(f"{model} is a folder, which says what it predicts: leave --prediction out")
    loras = tuple(filter(None, lora or ()))
    # As they are kept, weights take the least memory; but what is added to them is not to be rounded twice.
    told: dict[str, Any] = {"variant": variant, "revision": revision, "prediction": prediction}
    told["dtype"] = dtype_named("fp32") if loras and wanted is not None else None
    loaded = fused(load(model, **told), loras)
    if loaded.checkpoint is None and out.suffix.lower() == SINGLE:
        raise UserError(f"{model} is in noisette's own format, a folder: take a name without {SINGLE}")
    print(_said(loaded, loaded.save(out, dtype=wanted, overwrite=overwrite), wanted, len(loras)))


def _said(model: Model, out: Path, dtype: torch.dtype | None, loras: int) -> str:
    """What was written, in a line."""
    files = [out] if out.is_file() else [path for path in out.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    kind = "noisette's own format" if model.checkpoint is None else model.checkpoint.pipeline
    kept = dtype or next(model.denoiser.net.parameters()).dtype
    shown = f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
    added = f", with {loras} LoRA{'s' * (loras > 1)} in its weights" if loras else ""
    return f"{out}: {kind}, {str(kept).removeprefix('torch.')}, {shown}{added}"
