"""What the experiments of the page share: the model, the reader, the questions, and the drawing itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from noisette import __version__
from noisette.atlas.cells import Tick, digest
from noisette.atlas.guidance.estimates import Estimate, resamples
from noisette.conditioning.text import NO_TEXT, alike
from noisette.core import Cond, Denoiser, last, prior, sample
from noisette.guidance import Interval, dynamic_threshold
from noisette.metrics import Statistics, collect, frechet_distance
from noisette.models import Model
from noisette.pixels import to_uint8
from noisette.scenes.parse import parse
from noisette.scenes.quiz import KINDS, SEEDS_FROM, Question, answers, quiz, true_pictures
from noisette.scenes.reader import Reader
from noisette.scenes.render import render
from noisette.scenes.sampling import sample_scene
from noisette.solvers import NoiseStreams, solver_named

BATCH = 50
APART = 10**7
"""From the seeds of one run of the page to those of the next."""

HALF_LEVEL = 1 / 255
"""Half of one of 256 levels, in [-1, 1]: what is out of range by less comes back when it is rounded."""

QUANTILE = 0.995

Remedy: TypeAlias = Literal["none", "interval", "rescale", "threshold"]
Measured: TypeAlias = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Plan:
    """How much is measured, and with what.

    ``scales`` are drawn without remedy, ``strong`` with each of them too. ``count`` questions stand behind
    every mark and distance; each of `captions` of them is drawn ``each`` times for its diversity. Guidance
    is limited to ``low`` < sigma / alpha <= ``high``, and rescaled by ``phi``.
    """

    scales: tuple[float, ...] = (1, 1.5, 2, 3, 4, 5, 7.5, 10, 15)
    strong: tuple[float, ...] = (3, 7.5, 15)
    count: int = 400
    each: int = 8
    resamples: int = 200
    low: float = 0.3
    high: float = 5.0
    phi: float = 0.7
    quick: bool = False

    @property
    def captions(self) -> int:
        """Captions of which many pictures are drawn."""
        return max(len(KINDS), self.count // 25)


QUICK = Plan(count=16, each=4, resamples=100, quick=True)


@dataclass(frozen=True)
class Way:
    """One way to guide: how strongly, and what is done about its strength."""

    scale: float
    remedy: Remedy = "none"

    def denoiser(self, model: Model, weak: Callable[[Cond], Cond], plan: Plan) -> Denoiser:
        """The guided denoiser of the model."""
        match self.remedy:
            case "none":
                return model.guided(self.scale, weak=weak)
            case "interval":
                return model.guided(Interval(self.scale, plan.low, plan.high), weak=weak)
            case "rescale":
                return model.guided(self.scale, weak=weak, guidance_rescale=plan.phi)
            case "threshold":
                return dynamic_threshold(model.guided(self.scale, weak=weak), QUANTILE)

    def settings(self, plan: Plan) -> dict[str, Any]:
        """What decides its outcome."""
        extra: dict[Remedy, dict[str, Any]] = {
            "none": {},
            "interval": {"low": plan.low, "high": plan.high},
            "rescale": {"phi": plan.phi},
            "threshold": {"quantile": QUANTILE},
        }
        return {"scale": self.scale, "remedy": self.remedy, **extra[self.remedy]}


@dataclass(frozen=True)
class Truth:
    """The scenes that the questions were told of: drawn, and drawn through the autoencoder."""

    images: Tensor
    latents: Tensor
    statistics: Statistics
    size: float


@dataclass(frozen=True)
class Bench:
    """What everything is measured with."""

    model: Model
    reader: Reader
    seed: int
    plan: Plan

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What decides whatever is measured: the world, the reader, the model, and the seed."""
        look = render([sample_scene(k) for k in range(4)], samples=1).rgb
        spec = torch.tensor(list(repr(self.model.spec).encode()), dtype=torch.uint8)
        parts = [part for part in (self.model.denoiser.net, self.model.codec) if part is not None]
        weights = [tensor for part in parts for tensor in part.state_dict().values()]
        return {
            "noisette": __version__,
            "world": digest([to_uint8(look)]),
            "reader": digest(list(self.reader.state_dict().values())),
            "model": digest([spec, *weights]),
            "seed": self.seed,
        }

    @property
    def first(self) -> int:
        """The seed from which questions are taken."""
        return SEEDS_FROM + APART * self.seed

    @cached_property
    def questions(self) -> list[Question]:
        """The quiz that every way of guiding answers."""
        return quiz("test", self.plan.count, self.first)

    @cached_property
    def rows(self) -> Tensor:
        """The resamples of the questions, [R, count]."""
        return resamples(self.plan.count, self.plan.resamples, self.seed)

    @cached_property
    def truth(self) -> Truth:
        """Rendered when first asked for, 20 ms a picture."""
        images = true_pictures(self.questions, self.model.spec.image_size)
        latents = self.model.encode(images).cpu()
        statistics = Statistics.of(collect(self.reader.features, images))
        return Truth(images, latents, statistics, float(quantiles(latents).mean()))

    @cached_property
    def asked_again(self) -> list[Question]:
        """The questions of which many pictures are drawn, as many of each kind as can be."""
        turns = {kind: iter([q for q in self.questions if q.kind == kind]) for kind in KINDS}
        found = [next(turns[kind], None) for _ in range(self.plan.captions) for kind in KINDS]
        return [question for question in found if question is not None][: self.plan.captions]

    @cached_property
    def truly_apart(self) -> tuple[Tensor, Tensor]:
        """How far apart true scenes of one caption are, drawn from what the caption asks and nothing more."""
        scenes = [
            sample_scene(k, **vars(parse(question.text)))
            for question in self.asked_again
            for k in range(self.first, self.first + self.plan.each)
        ]
        size = self.model.spec.image_size
        return self.apart(torch.cat([render([scene], size).rgb for scene in scenes]))

    def apart(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean distance of two pictures of one caption, in features and in pixels, [captions] each.

        images: [captions * each, 3, S, S], those of a caption together. Of pixels the root mean square.
        """
        features = collect(self.reader.features, images).unflatten(0, (-1, self.plan.each))
        pixels = images.flatten(1).unflatten(0, (-1, self.plan.each))
        above = torch.ones(self.plan.each, self.plan.each).triu(1).bool()
        of_features, of_pixels = (
            torch.stack([torch.cdist(rows, rows)[above].mean() for rows in values])
            for values in (features, pixels)
        )
        return of_features, of_pixels / images[0].numel() ** 0.5

    def seeds(self, count: int, first: int = 0) -> range:
        """The seeds of the noises of pictures, the same for every way."""
        return range(APART * self.seed + first, APART * self.seed + first + count)

    def draw(self, texts: Sequence[str], seeds: Sequence[int], way: Way, tick: Tick) -> Tensor:
        """Latents [N, c, h, w] of a picture for each text, as `Model.generate` draws them by default."""
        model, drawn = self.model, list[Tensor]()
        levels = model.levels()
        defaults = model.spec.defaults
        solver: Any = solver_named(defaults.names(defaults.steps)[0], model.schedule)
        for start in range(0, len(texts), BATCH):
            part = slice(start, start + BATCH)
            noise = NoiseStreams(seeds[part])
            x = noise(torch.empty(len(texts[part]), *model.spec.shape, device=model.device))
            cond, null = alike(model.cond(texts[part]), model.cond([NO_TEXT] * len(x)))
            denoiser = way.denoiser(model, lambda _, null=null: null, self.plan)
            drawn.append(last(sample(denoiser, prior(x, levels[0]), levels, solver, cond=cond, noise=noise)))
            tick(len(x))
        return torch.cat(drawn).cpu()

    def decode(self, latents: Tensor) -> Tensor:
        """What the decoder makes of them, which may leave [-1, 1]."""
        return self.model.decode(latents).cpu()

    def read(self, latents: Tensor, drawn: Tensor) -> dict[str, Any]:
        """Everything that is measured of answers to the questions: latents, and their unclamped pictures."""
        images, rows = drawn.clamp(-1, 1), self.rows
        features = collect(self.reader.features, images)
        resampled = (frechet_distance(self.truth.statistics, Statistics.of(features[row])) for row in rows)
        distance = frechet_distance(self.truth.statistics, Statistics.of(features))
        over = (drawn.abs() - 1).clamp(min=0)
        found = {
            "frechet": Estimate(distance, tuple(resampled)),
            "clipped": Estimate.mean((over > HALF_LEVEL).double().flatten(1).mean(1), rows),
            "beyond": Estimate.mean(over.flatten(1).mean(1), rows),
            "size": Estimate.mean(quantiles(latents) / self.truth.size, rows),
        }
        right, everything = self.answered(images, self.questions)
        found["right"] = Estimate.mean(right, rows)
        of = torch.tensor([list(KINDS).index(question.kind) for question in self.questions])
        marks = {kind: right[of == k] for k, kind in enumerate(KINDS)} | {"everything": everything}
        return {
            "marks": {kind: [int(row.sum()), len(row)] for kind, row in marks.items()},
            **{name: one.record() for name, one in found.items()},
        }

    def answered(self, images: Tensor, questions: Sequence[Question]) -> tuple[Tensor, Tensor]:
        """Whether each picture is right by the kind of its question, and in everything: 0 or 1, [N]."""
        found = answers(images, questions, self.reader)
        right, everything = zip(*((one.right, one.everything) for one in found), strict=True)
        return torch.tensor(right).float(), torch.tensor(everything).float()


def quantiles(latents: Tensor) -> Tensor:
    """The 99.5 % quantile of the absolute values of each of latents [N, c, h, w]: [N]."""
    return torch.quantile(latents.abs().flatten(1), QUANTILE, dim=1)
