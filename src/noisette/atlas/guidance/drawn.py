"""The pictures behind most of the page: every way of guiding answers the quiz, and draws captions again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from noisette.atlas.cells import Cell, Tick
from noisette.atlas.guidance.bench import Bench, Measured, Plan, Remedy, Way
from noisette.atlas.guidance.estimates import Estimate, resamples
from noisette.atlas.scenes.pictures import each
from noisette.metrics import Statistics, collect, frechet_distance
from noisette.scenes.quiz import KINDS, Question, quiz, true_pictures

REMEDIES: tuple[Remedy, ...] = ("interval", "rescale", "threshold")
SHOWN = 2
"""Pictures of each kind of question on a sheet."""

ELSEWHERE, AGAIN = 10**6, 10**6
"""How far off the seeds are of the scenes that give the floor, and of the noises drawn for diversity."""


@dataclass(frozen=True)
class Answer:
    """What was measured of one way, each as an estimate."""

    marks: Mapping[str, tuple[int, int]]
    right: Estimate
    frechet: Estimate
    clipped: Estimate
    beyond: Estimate
    size: Estimate
    features: Estimate | None
    pixels: Estimate | None
    pictures: Sequence[str]


Answers: TypeAlias = Mapping[Way, Answer]


@dataclass(frozen=True)
class Found:
    """All of it: by way, and of the true pictures, as they are and through the autoencoder."""

    answers: Answers
    true: Answer
    coded: Answer
    floor: float


def ways(plan: Plan) -> list[Way]:
    """Every scale as it is, and the strong ones with each remedy."""
    return [Way(s) for s in plan.scales] + [Way(s, r) for s in plan.strong for r in REMEDIES]


def cells(bench: Bench) -> list[Cell]:
    """The truth, then two cells for each way: the quiz, and the diversity."""
    plan = bench.plan
    common = {"count": plan.count, "resamples": plan.resamples, **bench.settings}
    many = {"captions": plan.captions, "each": plan.each}
    found = [Cell({"what": "truth", **common}, 2 * plan.count, partial(measure_truth, bench))]
    for way in ways(plan):
        told = {**way.settings(plan), **common}
        answers = Cell({"what": "quiz", **told}, plan.count, partial(measure_quiz, bench, way))
        drawn = partial(measure_diversity, bench, way)
        found += [answers, Cell({"what": "diversity", **told, **many}, plan.captions * plan.each, drawn)]
    return found


def gathered(bench: Bench, measured: Measured) -> Found:
    """The results of `cells`, as estimates."""
    truth, *rest = measured
    pairs = zip(ways(bench.plan), zip(rest[::2], rest[1::2], strict=True), strict=True)
    answers = {way: _answer({**answers, **diverse}) for way, (answers, diverse) in pairs}
    return Found(answers, _answer(truth["true"]), _answer(truth["coded"]), truth["floor"])


def _answer(result: Mapping[str, Any]) -> Answer:
    names = ("right", "frechet", "clipped", "beyond", "size", "features", "pixels")
    estimates = {name: Estimate.of(result[name]) if name in result else None for name in names}
    marks = {kind: (right, total) for kind, (right, total) in result["marks"].items()}
    return Answer(marks=marks, pictures=result["pictures"], **estimates)  # pyright: ignore


def shown(questions: Sequence[Question]) -> list[int]:
    """The first few questions of each kind, which the sheets show: not chosen."""
    of = {kind: [k for k, question in enumerate(questions) if question.kind == kind] for kind in KINDS}
    return [k for rows in of.values() for k in rows[:SHOWN]]


def measure_truth(bench: Bench, tick: Tick) -> dict[str, Any]:
    """The ceiling: true pictures, as they are and through the autoencoder; and the floor of the distance."""
    truth, size = bench.truth, bench.model.spec.image_size
    chosen = shown(bench.questions)
    true = {**bench.read(truth.latents, truth.images), "pictures": each(truth.images[chosen])}
    tick(bench.plan.count)
    raw = bench.decode(truth.latents)
    coded = {**bench.read(truth.latents, raw), "pictures": each(raw[chosen].clamp(-1, 1))}
    others = true_pictures(quiz("test", bench.plan.count, bench.first + ELSEWHERE), size)
    floor = frechet_distance(truth.statistics, Statistics.of(collect(bench.reader.features, others)))
    tick(bench.plan.count)
    return {"true": true, "coded": coded, "floor": floor}


def measure_quiz(bench: Bench, way: Way, tick: Tick) -> dict[str, Any]:
    """Every question answered once, from the same noise whatever the way."""
    questions = bench.questions
    latents = bench.draw([q.text for q in questions], bench.seeds(len(questions)), way, tick)
    raw = bench.decode(latents)
    return {**bench.read(latents, raw), "pictures": each(raw[shown(questions)].clamp(-1, 1))}


def measure_diversity(bench: Bench, way: Way, tick: Tick) -> dict[str, Any]:
    """How far apart pictures of one caption are, by parts of how far apart true scenes of it are."""
    plan, asked = bench.plan, bench.asked_again
    texts = [question.text for question in asked for _ in range(plan.each)]
    latents = bench.draw(texts, bench.seeds(len(texts), AGAIN), way, tick)
    drawn = bench.apart(bench.decode(latents).clamp(-1, 1))
    rows = resamples(len(asked), plan.resamples, bench.seed)
    return {
        name: (Estimate.mean(own, rows) / Estimate.mean(true, rows)).record()
        for name, own, true in zip(("features", "pixels"), drawn, bench.truly_apart, strict=True)
    }
