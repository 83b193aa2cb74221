"""``noisette sample``: pictures from a model."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noisette.cli.onecall import drawer_on
from noisette.cli.pictures import check_sheet, is_folder, metadata, summary, write_sheet
from noisette.cli.terminal import progress
from noisette.errors import UserError

if TYPE_CHECKING:
    from noisette.models import Generator, Model, Output

EPILOG = """\b
Examples:
  noisette sample digits -o digits.png
  noisette sample digits --label 7 -n 16 --steps 20 --guidance-scale 2 --seed 0 -o sevens.png
  noisette sample runs/digits --solver ddim --eta 1 --steps 100 -n 1000 -o pictures/
"""


def sample(
    model: Annotated[str, typer.Argument(help="A model that ships, a model folder, or the folder of a run.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="One PNG of all pictures, or a folder for one PNG each.")
    ],
    label: Annotated[
        list[str] | None,
        typer.Option("--label", help="A class by name or number; again for more. Default: all in turn."),
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, max=1_000_000, help="How many pictures.")] = 16,
    steps: Annotated[int | None, typer.Option(help="Steps of the solver.")] = None,
    solver: Annotated[str | None, typer.Option(help="Such as ddim, ddpm, dpmpp-2m, heun, unipc.")] = None,
    grid: Annotated[str | None, typer.Option(help="How the steps are spaced, such as trailing.")] = None,
    guidance_scale: Annotated[
        float | None, typer.Option(help="How strongly the label guides; 1 is off.")
    ] = None,
    eta: Annotated[float | None, typer.Option(help="Noise of ddim: 0 none, 1 as ddpm.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Of a GAN, a flow or a VAE: scales its noise; 1 is as learned.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Picture k is drawn from seed + k. Default: a fresh one.")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Side in pixels, if not the model's own.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pictures drawn at a time.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...; auto takes a GPU if there is one.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Draw pictures. PNGs carry the settings and the seed of every picture."""
    from noisette.files import ensure_writable
    from noisette.models import Model

    folder = is_folder(out)
    ensure_writable(out, overwrite=overwrite)
    walk = {"--steps": steps, "--solver": solver, "--grid": grid, "--guidance-scale": guidance_scale}
    loaded = drawer_on(model, device, {**walk, "--eta": eta, "--size": size}, temperature)
    many: dict[str, Any] = {
        "num_inference_steps": steps,
        "solver": solver,
        "grid": grid,
        "guidance_scale": guidance_scale,
        "eta": eta,
        "height": size,
        "width": size,
    }
    options = many if isinstance(loaded, Model) else {"temperature": temperature}
    job = _Job(
        loaded, _labels(loaded, label, n), n, secrets.randbelow(2**32) if seed is None else seed, options
    )
    if not folder:
        side = size or loaded.spec.image_size
        check_sheet(out, n, side, side)
    start = time.perf_counter()
    if folder:
        _write_folder(job, out, batch_size)
    else:
        _write_sheet(job, out, batch_size, columns=_columns(loaded, label, n))
    print(summary(out, range(job.seed, job.seed + n), time.perf_counter() - start))


@dataclass(frozen=True)
class _Job:
    model: Model | Generator
    labels: list[int] | None
    n: int
    seed: int
    options: dict[str, Any]

    def outputs(self, batch_size: int | None, output_type: str) -> Iterator[Output]:
        """The pictures in their order, a batch at a time, with a bar on the terminal."""
        from noisette.models import PIXELS_AT_ONCE, Model

        model, side = self.model, self.options.get("height") or self.model.spec.image_size
        batch = max(1, PIXELS_AT_ONCE // side**2) if batch_size is None else batch_size
        if batch < 1:
            raise UserError(f"batch-size must be at least 1, got {batch_size}")
        many = isinstance(model, Model)
        steps = (
            len(model.levels(self.options["num_inference_steps"], self.options["grid"])) - 1 if many else 1
        )
        with progress("sampling", steps * math.ceil(self.n / batch)) as advance:
            called = {**self.options, "callback": lambda step: advance()} if many else self.options
            for first in range(0, self.n, batch):
                count = min(batch, self.n - first)
                yield model.generate(
                    label=None if self.labels is None else self.labels[first : first + count],
                    seed=self.seed + first,
                    num_images_per_prompt=count if self.labels is None else 1,
                    output_type=output_type,  # pyright: ignore[reportArgumentType]
                    **called,
                )
                if not many:
                    advance()


def _labels(model: Model | Generator, asked: list[str] | None, n: int) -> list[int] | None:
    names = model.spec.labels
    if names is None and not asked:
        return None
    chosen = [model.label_index(one) for one in asked] if asked else range(len(names or ()))
    return [chosen[k % len(chosen)] for k in range(n)]


def _columns(model: Model | Generator, asked: list[str] | None, n: int) -> int:
    """One column for each label where that comes out even, else about as many columns as rows."""
    kinds = len(asked) if asked else len(model.spec.labels or ())
    if 1 < kinds <= 32 and n % kinds == 0:
        return kinds
    return math.ceil(math.sqrt(n))


def _prompt(model: Model | Generator, labels: tuple[int, ...] | None) -> str:
    names = model.spec.labels
    return "" if names is None or labels is None else ", ".join(names[k] for k in dict.fromkeys(labels))


def _write_sheet(job: _Job, out: Path, batch_size: int | None, columns: int) -> None:
    outputs = list(job.outputs(batch_size, "torch"))
    labels = None if job.labels is None else tuple(job.labels)
    settings = {
        "prompt": _prompt(job.model, labels),
        **outputs[0].settings,
        "seed": job.seed,
        "columns": columns,
        "seeds": [seed for output in outputs for seed in output.seeds],
        "labels": job.labels,
    }
    write_sheet(out, [output.images for output in outputs], columns, settings)


def _write_folder(job: _Job, out: Path, batch_size: int | None) -> None:
    """One PNG for each picture, and a metadata.jsonl that makes the folder a data set."""
    from noisette.hub.png import write_png

    names = job.model.spec.labels
    with metadata(out) as add:
        index = 0
        for output in job.outputs(batch_size, "pil"):
            for k, image in enumerate(output.images):
                settings = output.settings_of(k)
                label = None if names is None else names[settings["label"]]
                name = f"{index:06d}.png"
                write_png(out / name, image, {"prompt": label or "", **settings})
                row = {"file_name": name, "seed": settings["seed"]}
                add(row if label is None else {**row, "label": label})
                index += 1
