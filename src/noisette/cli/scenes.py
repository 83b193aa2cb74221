"""``noisette scenes sheet | draw | export | read``: the small world whose truth is known."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noisette.cli.pictures import read_picture
from noisette.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from noisette.scenes.constraints import Constraints
    from noisette.scenes.reader import Reading, Score
    from noisette.scenes.render import Rendering
    from noisette.scenes.scene import Scene

EPILOG = """\b
Example:
  noisette scenes draw "a small red cube left of a shiny blue sphere, at night" -o night.png
"""
SHEET_EPILOG = """\b
Example:
  noisette scenes sheet -o sheet.png --size 128
"""
DRAW_EPILOG = """\b
Examples:
  noisette scenes draw "a small red cube left of a shiny blue sphere, at night" -o night.png
  noisette scenes draw "a figure that walks, the camera orbits" --frames 24 -o walk.gif
  noisette scenes draw scene.json --views 8 -o around.png
"""
EXPORT_EPILOG = """\b
Examples:
  noisette scenes export --count 10000 --size 64 --out scenes/
  noisette scenes export --count 1000 --maps canny,depth --format webdataset --out hints/
  noisette scenes export --count 500 --frames 16 --fps 8 --maps none --out clips/
"""
READ_EPILOG = """\b
Examples:
  noisette scenes read picture.png
  noisette scenes read picture.png --expect "a red cube left of a blue sphere"
  noisette scenes read picture.png --json
"""

app = typer.Typer(
    name="scenes",
    rich_markup_mode=None,
    help="A small world whose truth is known: draw it, export it, read it.",
    epilog=EPILOG,
)


@app.callback(invoke_without_command=True)
def scenes(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command(epilog=SHEET_EPILOG)
def sheet(
    out: Annotated[Path, typer.Option("--out", "-o", help="The PNG.")],
    size: Annotated[int, typer.Option(min=32, max=512, help="Side of a tile in pixels.")] = 128,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Everything the world can show, on one page."""
    from noisette.files import atomic_write, ensure_writable

    _picture_name(out, (".png",))
    ensure_writable(out, overwrite=overwrite)
    from noisette.scenes.sheet import sheet as drawn

    page = drawn(size)
    with atomic_write(out) as path:
        page.save(path, format="PNG")
    print(f"{out}: {page.width} x {page.height} pixels")


@app.command(epilog=DRAW_EPILOG)
def draw(
    what: Annotated[str, typer.Argument(help="A text, or the name of a file with a scene in JSON.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="A .png (views and frames side by side), .gif or .webp.")
    ],
    size: Annotated[int, typer.Option(min=8, max=4096, help="Side in pixels.")] = 256,
    seed: Annotated[int, typer.Option(help="Which of the scenes that fit the text.")] = 0,
    views: Annotated[int | None, typer.Option(min=1, max=64, help="Cameras around the scene.")] = None,
    frames: Annotated[int | None, typer.Option(min=1, max=999, help="Pictures of a clip.")] = None,
    fps: Annotated[float, typer.Option(min=0.1, max=100, help="Frames per second.")] = 8.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Draw a scene from text or from JSON; the picture carries the scene with it."""
    from noisette.files import atomic_write, ensure_writable

    _picture_name(out, (".png", ".gif", ".webp"))
    if views is not None and frames is not None:
        raise UserError("--views goes around the scene and --frames goes on in time: give one of them")
    if out.suffix.lower() == ".png" and (views or frames or 1) * size * size > 2**26:
        raise UserError("so many pictures do not fit into one: take a smaller --size, or a .gif")
    ensure_writable(out, overwrite=overwrite)
    scene = _scene(what, seed)
    images = _images(_rendering(scene, size, views, frames, fps))
    if out.suffix.lower() == ".png":
        from noisette.hub.png import write_png

        settings = {"prompt": what, "scene": json.loads(scene.to_json()), "seed": seed}
        write_png(out, _side_by_side(images), settings)
    else:
        with atomic_write(out) as path:
            images[0].save(path, save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0)
    from noisette.scenes.caption import describe

    print(f"{out}: {describe(scene)}")


def _picture_name(out: Path, suffixes: tuple[str, ...]) -> None:
    if out.suffix.lower() not in suffixes:
        raise UserError(f"{out}: take a name that ends in {' or '.join(suffixes)}")


def _scene(what: str, seed: int) -> Scene:
    from noisette.scenes.parse import parse
    from noisette.scenes.sampling import sample_scene
    from noisette.scenes.scene import Scene

    if what.endswith(".json"):
        return Scene.from_json(Path(what).read_bytes())
    asked = parse(what)
    # Nothing but what was asked for, where something was.
    return sample_scene(seed, **{**vars(asked), "count": asked.count or len(asked.objects) or None})


def _rendering(scene: Scene, size: int, views: int | None, frames: int | None, fps: float) -> Rendering:
    from noisette.scenes.export import orbit
    from noisette.scenes.render import render, render_video, render_views

    if frames is not None:
        return render_video(scene, frames, fps, size)
    if views is not None:
        return render_views(scene, orbit(scene.camera, views), size)
    return render([scene], size)


def _images(rendering: Rendering) -> list[Image]:
    from noisette.data import to_pil

    return to_pil(rendering.rgb, batch=True)


def _side_by_side(images: list[Image]) -> Image:
    from PIL import Image

    width, height = images[0].size
    strip = Image.new("RGB", (width * len(images), height))
    for k, image in enumerate(images):
        strip.paste(image, (k * width, 0))
    return strip


@app.command(epilog=EXPORT_EPILOG)
def export(
    count: Annotated[int, typer.Option(min=1, max=10**7, help="How many scenes.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder.")],
    size: Annotated[int, typer.Option(min=8, max=4096, help="Side of a picture in pixels.")] = 64,
    format: Annotated[str, typer.Option("--format", help="imagefolder or webdataset.")] = "imagefolder",
    split: Annotated[str, typer.Option(help="train, test, novel or all.")] = "train",
    maps: Annotated[
        str, typer.Option(help="Such as canny,depth; all or none; metric_depth and instances are truths.")
    ] = "all",
    views: Annotated[int | None, typer.Option(min=1, max=999, help="Cameras around each scene.")] = None,
    frames: Annotated[int | None, typer.Option(min=1, max=999, help="A clip of each scene.")] = None,
    fps: Annotated[float, typer.Option(help="Frames per second of a clip.")] = 8.0,
    motion: Annotated[
        bool | None, typer.Option("--motion/--no-motion", help="Whether things move; default: in clips.")
    ] = None,
    describe: Annotated[str, typer.Option(help="Text that every scene must fit.")] = "",
    seed: Annotated[int, typer.Option(help="Of all scenes and captions.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one a core.")] = None,
) -> None:
    """Write a data set of scenes with captions, maps and cameras. Stopped and run again, it goes on."""
    from noisette.scenes.export import MAPS, Export
    from noisette.scenes.export import export as write

    named = [name.strip().replace("-", "_") for name in maps.split(",") if name.strip()]
    chosen = {"all": MAPS, "none": ()}.get(maps.strip(), tuple(named))
    job = Export(count, size, format, split, seed, chosen, describe, views, frames, fps, motion)
    with _bar("exporting", count) as report:
        write(job, out, workers=workers, report=report)
    pictures = f" of {job.pictures} pictures" if job.pictures > 1 else ""
    print(f"{out}: {count} scene{'s' * (count > 1)}{pictures}")


@contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar with rate and time left on a terminal, nothing elsewhere: tell it how many are done."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.progress import TimeRemainingColumn as Left
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.0f}/s" if task.speed else "", style="progress.data.speed")

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), Left()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        begun = False

        def report(done: int) -> None:
            # What an earlier run did is not counted into the rate.
            nonlocal begun
            if begun:
                bar.update(task, completed=done)
            else:
                bar.reset(task, completed=done)
            begun = True

        yield report


@app.command(epilog=READ_EPILOG)
def read(
    image: Annotated[Path, typer.Argument(help="A PNG, JPEG or WebP picture of the world.")],
    expect: Annotated[str | None, typer.Option(help="Say what of this text the picture shows.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what the reader sees in a picture."""
    from noisette.scenes.parse import parse

    asked = None if expect is None else parse(expect)
    pixels = _pixels(image)
    from noisette.scenes.reader import judge
    from noisette.scenes.reader import read as see

    (seen,) = see(pixels)
    score = None if asked is None else judge(seen, asked)
    if as_json:
        print(json.dumps(_tree(seen, score), indent=2))
        return
    _tell(seen)
    if asked is not None and score is not None:
        _hold(asked, score)


def _pixels(path: Path) -> Tensor:
    """The middle square of a picture, [1, 3, S, S] with S at least 64."""
    import numpy as np
    import torch

    from noisette.data.images import fit_square
    from noisette.pixels import from_uint8

    picture = read_picture(path)
    square = fit_square(picture, max(64, min(picture.size)))
    return from_uint8(torch.from_numpy(np.array(square)).permute(2, 0, 1))[None]


def _tree(seen: Reading, score: Score | None) -> dict[str, Any]:
    tree = {name: value for name, value in vars(seen).items() if name != "objects"}
    things = [{name: v for name, v in vars(thing).items() if name != "mask"} for thing in seen.objects]
    tree |= {"objects": things, "relations": [asdict(relation) for relation in seen.relations()]}
    return tree if score is None else {**tree, "expected": {**asdict(score), "all": score.all}}


def _tell(seen: Reading) -> None:
    from rich.console import Console
    from rich.table import Table

    if not seen.readable:
        print("This is no picture of the world of scenes, or none that can be read.")
        return
    table = Table("", "shape", "color", "size", "material", "pose", "center", "sure", box=None)
    for k, thing in enumerate(seen.objects, 1):
        center = f"{thing.center[0]:.0f}, {thing.center[1]:.0f}"
        words = (thing.shape, thing.color, thing.size, thing.material, thing.pose or "")
        table.add_row(str(k), *words, center, f"{min(thing.confidence.values()):.0%}")
    Console().print(table)
    print(_sentence(seen))


def _sentence(seen: Reading) -> str:
    names = [f"{thing.color} {thing.shape}" for thing in seen.objects]
    things = [f"a {o.size} {o.material} {name}" for o, name in zip(seen.objects, names, strict=True)]
    told = ", ".join(things) or "nothing"
    where = [
        f"; the {names[r.subject]} {r.kind} the {names[r.object]}"
        for r in seen.relations()
        if r.kind not in ("right of", "behind")
    ]
    around = f"on a {seen.floor_pattern} {seen.floor_color} floor; light: {seen.light}; style: {seen.style}"
    return f"{told} {around}{''.join(where)}."


def _hold(asked: Constraints, score: Score) -> None:
    """A line for each thing asked: whether it is there."""

    def line(holds: bool, text: str) -> None:
        print(f"{'yes' if holds else 'NO ':3}  {text}")

    def name(index: int) -> str:
        pattern = asked.objects[index]
        words = (pattern.size, pattern.material, pattern.color, pattern.shape or "object")
        return " ".join(filter(None, words))

    for index, fields in enumerate(score.objects):
        wrong = [key for key, holds in fields.items() if not holds]
        line(not wrong, name(index) + (f" ({', '.join(wrong)})" if wrong else ""))
    for relation, holds in zip(asked.relations, score.relations, strict=True):
        line(holds, f"{name(relation.subject)} {relation.kind} {name(relation.object)}")
    for key, holds in score.surroundings.items():
        line(holds, f"{key.replace('_', ' ')}: {getattr(asked, key)}")
    if score.count is not None:
        line(score.count, f"number of objects: {asked.count}")
