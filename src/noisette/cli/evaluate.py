"""``noisette evaluate``: how good a model's pictures are, in numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeGuard

import typer

from noisette.cli.asked import drawn_as_asked
from noisette.cli.likeness import USUAL, likeness_figures
from noisette.cli.onecall import drawer_on
from noisette.cli.quiz import rebuilt_figures, scenes_figures, show_rebuilt, show_scenes
from noisette.errors import UserError

if TYPE_CHECKING:
    from noisette.data import ImageDataset
    from noisette.models import Generator, Model

EPILOG = """\b
Examples:
  noisette evaluate digits -n 1000
  noisette evaluate scenes -n 1000
  noisette evaluate runs/photos --data photos/
  noisette evaluate digits --data mnist/ -n 10000 --steps 50 --json digits.json
  noisette evaluate runs/digits --data mnist/ --bits-per-dim
"""

DIGITS = tuple("0123456789")
BITS_IMAGES = 64
QUICK_BITS_IMAGES = 1000

Figures = dict[str, Any]


def evaluate(
    model: Annotated[str, typer.Argument(help="A model that ships, a model folder, or the folder of a run.")],
    data: Annotated[
        Path | None, typer.Option("--data", help="Real images, to which the pictures are compared.")
    ] = None,
    n: Annotated[
        int | None,
        typer.Option("-n", min=2, max=1_000_000, help="How many pictures to draw; default 1000."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Of the data; default train (test for bits/dim).")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the solver.")] = None,
    solver: Annotated[str | None, typer.Option(help="Such as ddim, ddpm, dpmpp-2m, heun, unipc.")] = None,
    grid: Annotated[str | None, typer.Option(help="How the steps are spaced, such as trailing.")] = None,
    guidance_scale: Annotated[
        float | None, typer.Option(help="How strongly the label guides; 1 is off.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the pictures and the choice of real ones.")] = 0,
    bits_per_dim: Annotated[
        bool, typer.Option("--bits-per-dim", help="Likelihood, or the bound on it: needs --data.")
    ] = False,
    fit: Annotated[
        str | None, typer.Option(help="How real images come to the model's size: crop or pad.")
    ] = None,
    to_json: Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...; auto takes a GPU if there is one.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the JSON file.")] = False,
) -> None:
    """Measure a model: accuracy by a judge of digits or a reader of scenes, Frechet distance, bits/dim.

    A text-to-image model is asked for scenes: n pictures of combinations it has seen, and n of others; an
    autoencoder is given as many to rebuild. With --data the pictures of any model are compared with as many
    real ones, beside as many others of those, and copies are counted.
    """
    from noisette.files import ensure_writable
    from noisette.models import Model

    if to_json is not None:
        ensure_writable(to_json, overwrite=overwrite)
    if _is_autoencoder(model):
        drawing = {"--data": data, "--split": split, "--steps": steps, "--solver": solver, "--grid": grid}
        drawing |= {"--guidance-scale": guidance_scale, "--bits-per-dim": bits_per_dim or None, "--fit": fit}
        if meant := [name for name, value in drawing.items() if value is not None]:
            raise UserError(f"{model} is an autoencoder, which rebuilds scenes: leave {', '.join(meant)} out")
        figures, name, show = _rebuilt(model, n or USUAL), model, show_rebuilt
    else:
        if bits_per_dim and data is None:
            raise UserError("--bits-per-dim measures real images: give them with --data")
        walk = {"--steps": steps, "--solver": solver, "--grid": grid, "--guidance-scale": guidance_scale}
        loaded = drawer_on(model, device, walk, None)
        real = None if data is None else _open(loaded, data, split, fit)
        options: dict[str, Any] = {"num_inference_steps": steps, "solver": solver, "grid": grid}
        options["guidance_scale"] = guidance_scale
        options = options if isinstance(loaded, Model) else {}
        figures, show = _drawn(loaded, n, seed, options, real, bits_only=bits_per_dim)
        if bits_per_dim and data is not None and real is not None:
            figures |= _bits(loaded, real if split else _held_out(loaded, data, fit, real), seed)
        name = loaded.spec.name
    _keep(figures, to_json)
    show(name, figures)


def _drawn(
    model: Model | Generator,
    n: int | None,
    seed: int,
    options: dict[str, Any],
    real: ImageDataset | None,
    bits_only: bool,
) -> tuple[Figures, Callable[[str, Figures], None]]:
    """What there is to say of n pictures, and what shows it."""
    if _draws_digits(model):
        return _pictures(model, n or USUAL, seed, options, real), _show
    if real is not None:
        return {} if bits_only else likeness_figures(model, real, n, seed, options), _show
    if _draws_scenes(model):
        return scenes_figures(model, n or USUAL, seed, options), show_scenes
    raise UserError(
        f"there is a judge for digits of 1x32x32, and a reader for scenes from text: {model.spec.name} "
        "draws neither; compare its pictures with real ones, --data FOLDER"
    )


def _keep(figures: Figures, file: Path | None) -> None:
    from noisette.files import atomic_write

    if file is not None:
        with atomic_write(file) as path:
            path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _is_autoencoder(name: str) -> bool:
    from noisette.hub import read_spec
    from noisette.hub.finding import located
    from noisette.hub.folder import SPEC
    from noisette.models import AutoencoderSpec

    place = located(name)
    return (place / SPEC).is_file() and isinstance(read_spec(place)[0], AutoencoderSpec)


def _rebuilt(name: str, n: int) -> Figures:
    """What an autoencoder loses of scenes."""
    from noisette.models import Autoencoder

    codec = Autoencoder.load(name)
    if (codec.spec.codec.in_channels, codec.spec.codec.out_channels) != (3, 3):
        raise UserError(f"scenes, which autoencoders are measured on, have three channels: {name} has others")
    return rebuilt_figures(lambda x: codec.decode(codec.encode(x)), n, max(64, codec.spec.image_size))


def _draws_scenes(model: Model | Generator) -> TypeGuard[Model]:
    spec = model.spec
    return spec.text is not None and spec.channels == 3 and spec.image_size >= 64


def _draws_digits(model: Model | Generator) -> bool:
    spec = model.spec
    return (spec.channels, spec.image_size, spec.labels) == (1, 32, DIGITS)


def _open(model: Model | Generator, data: Path, split: str | None, fit: str | None) -> ImageDataset:
    from noisette.data import open_dataset

    spec = model.spec
    # The judge has learned digits of 28x28 with a border; other models cut the middle square.
    usual = "pad" if _draws_digits(model) else "crop"
    return open_dataset(
        data,
        size=spec.image_size,
        channels=spec.channels,  # pyright: ignore[reportArgumentType]
        fit=fit or str(model.notes.get("fit", usual)),  # pyright: ignore[reportArgumentType]
        split=split,
        labels=spec.labels,
    )


def _held_out(model: Model | Generator, data: Path, fit: str | None, real: ImageDataset) -> ImageDataset:
    """The test images where the data have some: a bound on training images flatters."""
    try:
        return _open(model, data, "test", fit)
    except UserError:
        return real


def _pictures(
    model: Model | Generator, n: int, seed: int, options: dict[str, Any], real: ImageDataset | None
) -> Figures:
    """Draw n pictures, every label in turn, and compare them."""
    import torch

    from noisette import metrics

    labels = [k % len(DIGITS) for k in range(n)]
    fakes, asked = drawn_as_asked(model, n, {"label": labels}, seed, options)
    judge = metrics.Judge.load()
    figures: Figures = {"pictures": n, **asked}
    figures["accuracy"] = metrics.accuracy(judge, fakes, torch.tensor(labels))
    if real is None:
        features = metrics.collect(judge.features, fakes)
        distance = metrics.frechet_distance(metrics.digits_reference(), metrics.Statistics.of(features))
        return {**figures, "frechet_to_60000": distance}
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(seed))[:n].tolist()
    batches = (real.fetch(order[i : i + 256])["image"] for i in range(0, len(order), 256))
    found = metrics.evaluate(judge.features, batches, fakes, seed=seed)
    return {**figures, **{key: value for key, value in found.items() if key not in ("n_real", "n_fake")}}


def _bits(model: Model | Generator, real: ImageDataset, seed: int) -> Figures:
    """The likelihood of real images by a model of one call; of a few, the variational bound of the others."""
    import torch

    from noisette.conditioning import NO_LABEL, label_cond
    from noisette.core import bits_per_dim
    from noisette.models import Generator

    if isinstance(model, Generator):
        order = torch.randperm(len(real), generator=torch.Generator().manual_seed(seed))
        batch = real.fetch(order[:QUICK_BITS_IMAGES].tolist())
        if "label" not in batch:
            raise UserError(f"{model.spec.name} is told the class of an image, and these images have none")
        found = model.bits_per_dim(batch["image"], list(map(int, batch["label"])), seed=seed)
        return {"bits_per_dim": float(found.mean()), "bits_images": len(found)}
    end = model.schedule(1.0)
    if not math.isclose(float(end.alpha.square() + end.sigma.square()), 1.0, abs_tol=1e-6):
        raise UserError(f"bits/dim needs a variance-preserving schedule, and {model.spec.name} has another")
    steps = int(getattr(model.schedule, "steps", 1000))
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(seed))[:BITS_IMAGES].tolist()
    batch = real.fetch(order)
    x0 = batch["image"].to(model.device)
    labels = batch.get("label", torch.full((len(order),), NO_LABEL)) if model.spec.labels else None
    with torch.no_grad():
        value = bits_per_dim(
            model.guided(1.0),
            x0,
            model.schedule,
            steps,
            cond={} if labels is None else label_cond(labels, model.device),
            variance="learned" if model.spec.net.learned_variance else "large",
            generator=torch.Generator().manual_seed(seed),
        )
    return {"bits_per_dim": float(value.mean()), "bits_images": len(order)}


def _show(name: str, figures: Figures) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(name, "", box=None)
    for key, value in figures.items():
        table.add_row(key.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value))
    Console().print(table)
