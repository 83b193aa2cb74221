"""The command `python -m noisette.training.reader OUT`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noisette.errors import UserError
from noisette.files import atomic_write, ensure_writable
from noisette.metrics.features import collect
from noisette.metrics.frechet import Statistics, frechet_distance
from noisette.pixels import from_uint8
from noisette.scenes.reader import Reader
from noisette.scenes.scene import Scene
from noisette.training.reader import __doc__ as PURPOSE
from noisette.training.reader.card import card, results
from noisette.training.reader.fitting import Budget, fit, half
from noisette.training.reader.measure import measure, report, silence, steadiness
from noisette.training.reader.shards import COUNT, LARGE, Job, Pictures, exam_scenes, exams, lessons, prepare

NOISES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)


def examine(reader: Reader, papers: dict[str, list[Job]]) -> dict[str, Any]:
    """Every figure of the card, of exams by title."""
    figures: dict[str, Any] = {"exams": {}}
    shown: dict[str, Pictures] = {}
    for title, jobs in papers.items():
        shown[title] = data = Pictures.read([job.file for job in jobs])
        scenes = [scene for job in jobs for scene in exam_scenes(job.first, COUNT, job.split)]
        figures["exams"][title] = report(measure(reader, data, scenes, alone(jobs, scenes)))
    test, novel = shown["test"], shown["novel"]
    figures["silence"] = silence(reader, test)
    figures["noise"] = {f"{amount:g}": share for amount, share in steadiness(reader, test[:COUNT], NOISES)}
    figures["frechet"] = frechet(reader, from_uint8(test.rgb), from_uint8(novel.rgb))
    return figures


def alone(jobs: Sequence[Job], scenes: Sequence[Scene]) -> list[list[int]]:
    """How many pixels each object of each scene would cover if nothing stood before it."""
    from safetensors.torch import load_file

    tables = torch.cat([load_file(job.file)["alone"] for job in jobs]).tolist()
    return [row[: len(scene.objects)] for row, scene in zip(tables, scenes, strict=True)]


def frechet(reader: Reader, test: Tensor, novel: Tensor) -> dict[str, float]:
    """Distances between real pictures, and the scale of the features."""
    count = len(test) // 2
    features, other = collect(reader.features, test), collect(reader.features, novel[:count])
    a, b = Statistics.of(features[:count]), Statistics.of(features[count : 2 * count])
    return {
        "half": count,
        "floor": frechet_distance(a, b),
        "novel": frechet_distance(a, Statistics.of(other)),
        "trace": Statistics.of(features).covariance.trace().item(),
    }


def parse(arguments: list[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(
        prog="python -m noisette.training.reader",
        description=PURPOSE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the weights, card and figures")
    parser.add_argument("--work", type=Path, help="folder for scenes and checkpoints (OUT/work)")
    parser.add_argument("--scenes", type=int, default=80_000, help="scenes to train on")
    parser.add_argument("--exam", type=int, default=2_000, help="scenes of each exam")
    parser.add_argument("--steps", type=int, help="train for so many steps")
    parser.add_argument("--minutes", type=float, help="train for so long; of the two, what ends first (55)")
    parser.add_argument("--workers", type=int, default=4, help="processes that render")
    parser.add_argument("--threads", type=int, default=2, help="threads that train")
    parser.add_argument("--prepare", action="store_true", help="render the scenes and stop")
    parser.add_argument("--overwrite", action="store_true", help="replace files of the same names")
    return parser, parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    from safetensors.torch import save

    parser, options = parse(arguments)
    names = ("scenes-reader.safetensors", "scenes-reader.json", "scenes-reader.md")
    try:
        files = [ensure_writable(options.out / name, overwrite=options.overwrite) for name in names]
    except UserError as error:
        parser.error(str(error))
    work = options.work or options.out / "work"
    papers = {
        "test": exams(work / "scenes", options.exam, "test"),
        "novel": exams(work / "scenes", options.exam, "novel"),
        "test, 128 px": exams(work / "scenes", options.exam // 2, "test", LARGE),
    }
    study = lessons(work / "scenes", options.scenes)
    prepare([*(job for paper in papers.values() for job in paper), *study], options.workers)
    if options.prepare:
        return
    torch.set_num_threads(options.threads)
    unlimited = options.steps is None and options.minutes is None
    budget = Budget(options.steps, 55.0 if unlimited else options.minutes)
    reader, run = fit(Pictures.read([job.file for job in study]), budget, work / "checkpoints")
    if budget.spent(run.step, run.seconds) < 1:
        parser.exit(130, f"stopped at step {run.step}: the same command goes on from there\n")
    figures = examine(reader, papers)
    facts = {"scenes": options.scenes, "steps": run.step, "minutes": run.seconds / 60, "budget": told(budget)}
    weights = save({name: half(value) for name, value in reader.state_dict().items()})
    texts = (json.dumps(facts | figures, indent=1).encode(), card(reader, facts, figures).encode())
    for file, content in zip(files, (weights, *texts), strict=True):
        with atomic_write(file) as part:
            part.write_bytes(content)
    print(results(figures["exams"]))


def told(budget: Budget) -> str:
    """The options that give this budget."""
    steps = f"--steps {budget.steps}" if budget.steps else ""
    minutes = f"--minutes {budget.minutes:g}" if budget.minutes else ""
    return f"{steps} {minutes}".strip()


if __name__ == "__main__":
    main()
