"""Scenes rendered once, with everything that the reader is to say of them, in files of five hundred."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields, replace
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor

from noisette.files import atomic_write
from noisette.pixels import to_uint8
from noisette.scenes.crew import keep_memory
from noisette.scenes.layout import SLOTS, place
from noisette.scenes.reader.net import SIZE, SURROUNDINGS, WORDS, fit
from noisette.scenes.render import render
from noisette.scenes.sampling import sample_scene
from noisette.scenes.scene import Camera, Object, Scene

COUNT = 500
"""Scenes in a shard."""

BATCH = 50
"""Scenes of one kind. Of every eight batches two are in motion, one is drawn at 128 pixels and averaged down,
one is seen by cameras that the sampler would not choose; of every sixteen, one shows no object."""

LONGEST = 2.0
"""Seconds: scenes in motion are seen at a time up to this."""


@dataclass(frozen=True)
class Pictures:
    """Pictures and what is true of them, on the CPU.

    rgb: uint8 [N, 3, 64, 64]; owner: int8 [N, 64, 64], index of the object, below 0 where there is none (-1
    floor, -2 sky); words: int8 [N, 4, 5], indices into the WORDS in their order, -1 where there is no object;
    place: float32 [N, 4, 2], units to the right and away; on: int8 [N, 4], index or -1; around: int8 [N, 4],
    indices into SURROUNDINGS in their order.
    """

    rgb: Tensor
    owner: Tensor
    words: Tensor
    place: Tensor
    on: Tensor
    around: Tensor

    def __len__(self) -> int:
        return len(self.rgb)

    def __getitem__(self, rows: Tensor | slice) -> Pictures:
        return Pictures(*(getattr(self, f.name)[rows] for f in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[Pictures]) -> Pictures:
        """All the pictures of the parts, in order."""
        return cls(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    @classmethod
    def read(cls, files: Sequence[Path]) -> Pictures:
        """The pictures of shards."""
        from safetensors.torch import load_file

        tables = [load_file(file) for file in files]
        return cls.joined([cls(**{f.name: table[f.name] for f in fields(cls)}) for table in tables])


def tables(
    scene: Scene, time: float, extrinsics: Tensor
) -> tuple[list[list[int]], list[list[float]], list[int]]:
    """The rows of words, place and on of one scene at a time, seen by a camera [4, 4]."""
    right, forward = extrinsics[0, :2], extrinsics[2, :2]
    ahead = forward / forward.norm().clamp(min=1e-6)
    words = [[-1] * len(WORDS) for _ in range(SLOTS)]
    where, on = [[0.0, 0.0] for _ in range(SLOTS)], [-1] * SLOTS
    for i, thing in enumerate(scene.objects):
        x, y, _ = place(scene, i, time).center
        words[i] = [known.index(getattr(thing, name)) for name, known in WORDS.items()]
        where[i] = [float(x * right[0] + y * right[1]), float(x * ahead[0] + y * ahead[1])]
        on[i] = -1 if thing.on is None else thing.on
    return words, where, on


def pictures(scenes: Sequence[Scene], times: Sequence[float], *, size: int = SIZE) -> Pictures:
    """Render scenes, each at its time, and write down what is true of them."""
    drawn = render(scenes, size, time=times)
    rows = [tables(*each) for each in zip(scenes, times, drawn.extrinsics, strict=True)]
    words, where, on = (torch.tensor(column) for column in zip(*rows, strict=True))
    step = size // SIZE
    around = [[known.index(around_of(s)[name]) for name, known in SURROUNDINGS.items()] for s in scenes]
    return Pictures(
        rgb=to_uint8(fit(drawn.rgb)),
        owner=drawn.instance[:, step // 2 :: step, step // 2 :: step].to(torch.int8),
        words=words.to(torch.int8),
        place=where,
        on=on.to(torch.int8),
        around=torch.tensor(around).to(torch.int8),
    )


def around_of(scene: Scene) -> dict[str, str]:
    """The words of SURROUNDINGS of a scene."""
    floor = scene.floor
    return {
        "light": scene.light,
        "style": scene.style,
        "floor_color": floor.color,
        "floor_pattern": floor.pattern,
    }


def emptied(scene: Scene) -> Scene:
    """The scene with nothing to see: its one object is far behind the camera."""
    away = Object("sphere", size="small", x=1e3, y=0.0)
    return replace(scene, objects=(away,), camera=replace(scene.camera, azimuth=0.0, motion="still"))


def reseen(scene: Scene, rng: random.Random) -> Scene:
    """The scene from where the sampler would not stand: views around it, and pictures that cut things off."""
    camera = Camera(rng.uniform(0, 360), rng.uniform(8, 60), rng.uniform(5, 9), rng.uniform(33, 48))
    return replace(scene, camera=camera)


def make_lesson(first: int, split: str) -> dict[str, Tensor]:
    """COUNT scenes of a split, of seeds from `first` on, as the fields of Pictures; pure in its arguments."""
    parts = []
    for start in range(first, first + COUNT, BATCH):
        kind, rng = start // BATCH % 16, random.Random(start)
        moving = kind % 4 == 1
        scenes = [sample_scene(seed, split=split, motion=moving) for seed in range(start, start + BATCH)]
        if kind == 3:
            scenes = [emptied(scene) for scene in scenes]
        if kind % 8 == 6:
            scenes = [reseen(scene, rng) for scene in scenes]
        times = [rng.uniform(0, LONGEST) if moving else 0.0 for _ in scenes]
        parts.append(pictures(scenes, times, size=2 * SIZE if kind % 8 == 2 else SIZE))
    return vars(Pictures.joined(parts))


def make_exam(first: int, split: str) -> dict[str, Tensor]:
    """COUNT still scenes of a split as the fields of Pictures, and "alone", int32 [N, 4]: how many pixels
    each object would cover if nothing stood before it."""
    scenes = exam_scenes(first, COUNT, split)
    made = pictures(scenes, [0.0] * COUNT, size=2 * SIZE if first >= LARGE else SIZE)
    table = torch.zeros((COUNT, SLOTS), dtype=torch.int32)
    for row, counts in zip(table, alone(scenes), strict=True):
        row[: len(counts)] = torch.tensor(counts)
    return vars(made) | {"alone": table}


def alone(scenes: Sequence[Scene]) -> list[list[int]]:
    """How many of 64 x 64 pixels each object of each scene would cover if nothing stood before it."""
    singles = [(k, *single(scene, i)) for k, scene in enumerate(scenes) for i in range(len(scene.objects))]
    drawn = render([scene for _, scene, _ in singles], SIZE, samples=1).instance
    rows: list[list[int]] = [[] for _ in scenes]
    for (k, _, index), owner in zip(singles, drawn, strict=True):
        rows[k].append(int((owner == index).sum()))
    return rows


LARGE = 1_000_000
"""Exams of seeds from here on are drawn at 128 pixels."""


def exam_scenes(first: int, count: int, split: str) -> list[Scene]:
    """The scenes of exams: those of the seeds from `first` on."""
    return [sample_scene(seed, split=split) for seed in range(first, first + count)]


def single(scene: Scene, index: int) -> tuple[Scene, int]:
    """The scene with one object and what it stands on, and the object's index in it."""
    chain = [index]
    while (below := scene.objects[chain[-1]].on) is not None:
        chain.append(below)
    things = [replace(scene.objects[i], on=k + 1) for k, i in enumerate(chain)]
    things[-1] = replace(things[-1], on=None)
    return replace(scene, objects=tuple(things)), 0


@dataclass(frozen=True)
class Job:
    """A shard to be written, by one of the functions above."""

    file: Path
    make: Callable[[int, str], dict[str, Tensor]]
    first: int
    split: str

    def __call__(self) -> None:
        from safetensors.torch import save_file

        torch.set_num_threads(1)
        made = {name: value.clone().contiguous() for name, value in self.make(self.first, self.split).items()}
        with atomic_write(self.file) as part:
            save_file(made, part)


def lessons(folder: Path, count: int) -> list[Job]:
    """Scenes to learn from, of all splits."""
    firsts = range(0, count, COUNT)
    return [Job(folder / f"lesson-{first:08d}.safetensors", make_lesson, first, "all") for first in firsts]


def exams(folder: Path, count: int, split: str, begin: int = 0) -> list[Job]:
    """Scenes to be examined on."""
    firsts = range(begin, begin + count, COUNT)
    return [Job(folder / f"{split}-{first:08d}.safetensors", make_exam, first, split) for first in firsts]


def prepare(jobs: Sequence[Job], workers: int) -> None:
    """Render what is missing, in processes of their own, under a progress bar."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    missing = [job for job in jobs if not job.file.exists()]
    columns = (TextColumn("rendering scenes"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        Progress(*columns) as progress,
        ProcessPoolExecutor(workers, get_context("spawn"), initializer=keep_memory) as pool,
    ):
        task = progress.add_task("", total=COUNT * len(jobs), completed=COUNT * (len(jobs) - len(missing)))
        running = [pool.submit(job) for job in missing]
        try:
            for job in as_completed(running):
                job.result()
                progress.advance(task, COUNT)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
