"""Whether a larger text encoder aligns pictures better with what was asked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from noisette.atlas.cells import Cell, Tick
from noisette.atlas.guidance.bench import Bench, Measured, Way
from noisette.atlas.guidance.encoders import BEGIN, TEXT
from noisette.atlas.guidance.estimates import Estimate, points, resamples
from noisette.atlas.guidance.scales import share
from noisette.atlas.page import Finding, Section, Verdict, figure, percent, table
from noisette.atlas.scenes.pictures import SMALL, each, matrix
from noisette.errors import UserError
from noisette.hub import read_spec
from noisette.models import Model
from noisette.nets.text import TextConfig
from noisette.scenes.quiz import Question, quiz

NAMES: Mapping[str, str] = {
    "bag": "bag of words",
    "small": "small transformer",
    "large": "larger transformer",
}

KINDS = {"two objects": "binding", "relation": "relations"}
SPLITS = {"test": "seen", "novel": "held out"}
SHOWN = 4


@dataclass(frozen=True)
class Trained:
    """The bench of each encoder's model, by name, and in words how they were trained."""

    benches: Mapping[str, Bench]
    training: str

    @classmethod
    def of(cls, bench: Bench, folder: str | os.PathLike[str], models: Mapping[str, Model]) -> Trained:
        """The same bench with the models of a folder."""
        benches = {name: replace(bench, model=model) for name, model in models.items()}
        return cls(benches, _training(Path(folder), next(iter(models.values()))))


def _training(folder: Path, model: Model) -> str:
    """How the models in a folder were trained, of which ``model`` is one."""
    steps = model.notes.get("steps", "as many")
    begun = ", which had learned to draw with another encoder before" * (folder / BEGIN).is_dir()
    text = folder / TEXT / next(iter(NAMES)) / "model"
    taught = ""
    if text.is_dir():
        alone = read_spec(text)[1].get("steps", "as many")
        taught = f", and each was first taught for {alone} steps where in a picture a caption says things are"
    return (
        f"Three models, trained for {steps} steps each on the same scenes in the same order with the same "
        f"U-Net{begun}. Only the text encoders differ{taught}."
    )


def load(folder: str | os.PathLike[str]) -> dict[str, Model]:
    """The three models. Raises UserError where one is missing, or their U-Nets or trainings differ."""
    models = {}
    for name in NAMES:
        path = Path(folder) / name
        if not path.is_dir():
            raise UserError(
                f"{folder} lacks {name!r}: python -m noisette.atlas.guidance.encoders {folder} trains it"
            )
        models[name] = Model.load(path)
    specs = [(model.spec.net, model.notes.get("steps")) for model in models.values()]
    if any(spec != specs[0] for spec in specs):
        raise UserError(f"the models in {folder} differ in more than their text encoders: train them anew")
    return models


def questions(bench: Bench) -> list[Question]:
    """Questions of two objects and of relations, as many of each, seen and held out."""
    return [
        question
        for split in SPLITS
        for question in quiz(split, bench.plan.count, bench.first)
        if question.kind in KINDS
    ]


def cells(trained: Trained) -> list[Cell]:
    """One for each encoder."""
    return [
        Cell(
            {"what": "encoder", "encoder": name, "count": bench.plan.count,
             "resamples": bench.plan.resamples, **bench.settings},
            bench.plan.count,
            partial(measure, bench),
        )
        for name, bench in trained.benches.items()
    ]  # fmt: skip


def measure(bench: Bench, tick: Tick) -> dict[str, Any]:
    """The questions answered by one model at its own guidance scale, by kind and split."""
    asked = questions(bench)
    scale = bench.model.spec.defaults.guidance_scale
    latents = bench.draw([q.text for q in asked], bench.seeds(len(asked)), Way(scale), tick)
    images = bench.decode(latents).clamp(-1, 1)
    right, _ = bench.answered(images, asked)
    found: dict[str, Any] = {"scale": scale}
    for kind in KINDS:
        of = [k for k, question in enumerate(asked) if question.kind == kind]
        rows = resamples(len(of), bench.plan.resamples, bench.seed)
        found[kind] = Estimate.mean(right[of], rows).record()
        # As many of each split, one after the other.
        parts = right[of].chunk(len(SPLITS))
        found[f"{kind} by split"] = [[int(part.sum()), len(part)] for part in parts]
    chosen = [k for kind in KINDS for k in [i for i, q in enumerate(asked) if q.kind == kind][:SHOWN]]
    return {**found, "pictures": each(images[chosen]), "texts": [asked[k].text for k in chosen]}


def sections(trained: Trained, measured: Measured) -> list[Section]:
    """Side by side."""
    found = dict(zip(trained.benches, measured, strict=True))
    rights = {kind: [Estimate.of(one[kind]) for one in found.values()] for kind in KINDS}
    texts = next(iter(found.values()))["texts"]
    told = "".join(f"<li>{escape(text)}</li>" for text in texts)
    pictures = {NAMES[name]: one["pictures"] for name, one in found.items()}
    counts = next(iter(found.values()))["relation by split"]
    return [
        Section(
            "encoders",
            "Larger text encoders",
            "The larger the text encoder before the same U-Net, the better pictures show which attribute "
            "belongs to which object, and what stands where.",
            aligning(rights),
            [
                table(
                    ["Text encoder", "weights", *(f"{kind}:<br>{split}" for kind in KINDS.values()
                                                  for split in SPLITS.values())],
                    [_row(trained.benches[name].model, NAMES[name], one) for name, one in found.items()],
                    "Questions answered right, and below them the 95&nbsp;% interval: combinations that "
                    "training shows, and combinations that it never does.",
                ),
                figure(
                    matrix([f"{k}" for k in range(1, len(texts) + 1)], pictures, "caption"),
                    "The same captions and noises."
                    f"<ol style='margin:.5rem 0 0;padding-left:1.4rem;{SMALL}'>{told}</ol>",
                ),
            ],
            f"{trained.training} The bag of words has neither layers nor positions and cannot know in which "
            "order words stand. Binding: both of two objects have their shape and color; a relation counts "
            f"when both objects are right and it holds. {counts[0][1]} questions a cell; scale "
            f"{next(iter(found.values()))['scale']:g}, the same noises. The verdict pools seen and held-out "
            "combinations.",
        )
    ]  # fmt: skip


def aligning(rights: Mapping[str, list[Estimate]]) -> Verdict:
    """Whether every kind rises at every step from one encoder to the next larger one."""
    names = [name.split()[0] for name in NAMES.values()]
    sure, parts = [], []
    for kind, line in rights.items():
        changes = [b - a for a, b in pairwise(line)]
        sure += [change.above(0) for change in changes]
        levels = ", ".join(f"{percent(one.value, 1)} ({name})" for one, name in zip(line, names, strict=True))
        parts.append(f"{KINDS[kind]} {levels}; the steps are {' and '.join(map(points, changes))}")
    finding: Finding = "holds" if all(sure) else "holds in part" if any(sure) else "does not hold"
    return Verdict(
        finding, f"{sum(sure)} of {len(sure)} steps up are certain. {'. '.join(_capital(p) for p in parts)}."
    )


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _row(model: Model, name: str, found: Mapping[str, Any]) -> list[str]:
    text = model.spec.text
    layers = text.num_hidden_layers if isinstance(text, TextConfig) else 0
    encoder = getattr(model.denoiser.net, "text", None)
    count = sum(p.numel() for p in encoder.parameters()) if encoder is not None else 0
    told = f"{name} <small>{layers} layer{'s' * (layers != 1)}</small>"
    cells = [share(*pair) for kind in KINDS for pair in found[f"{kind} by split"]]
    return [told, f"{count / 1e6:.2f} M", *cells]
