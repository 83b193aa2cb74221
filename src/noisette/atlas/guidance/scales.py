"""What the guidance scale buys, and what it costs: accuracy, distance, diversity."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise

from noisette.atlas.guidance.bench import Bench, Plan, Way
from noisette.atlas.guidance.drawn import Answer, Found, shown
from noisette.atlas.guidance.estimates import Estimate, highest, lowest, points
from noisette.atlas.page import (
    Finding,
    Section,
    Verdict,
    abreast,
    figure,
    number,
    percent,
    spread,
    table,
)
from noisette.atlas.plots import Axes, Line, line_plot
from noisette.atlas.scenes.bench import wilson
from noisette.atlas.scenes.pictures import SMALL, matrix
from noisette.scenes.quiz import KINDS

SURE = 0.975
"""In so many of the resamples an order must be found for it to hold."""


def sections(bench: Bench, found: Found) -> list[Section]:
    """Three claims about the scale."""
    curve = [found.answers[Way(scale)] for scale in bench.plan.scales]
    return [_accuracy(bench, found, curve), _distance(bench, found, curve), _diversity(bench, curve)]


def _accuracy(bench: Bench, found: Found, curve: Sequence[Answer]) -> Section:
    plan = bench.plan
    rows = [[f"{s:g}", *_marks(one)] for s, one in zip(plan.scales, curve, strict=True)]
    rows += [[f"<i>{name}</i>", *_marks(one)] for name, one in truths(found).items()]
    return Section(
        "accuracy",
        "More guidance, more of what was asked",
        "Accuracy rises with the guidance scale, up to some point.",
        rising(plan.scales, [one.right for one in curve]),
        [
            sheet(bench, {f"{s:g}": found.answers[Way(s)] for s in plan.scales} | {"true": found.true},
                  "Rows: guidance scales. Columns: eight captions, each from one noise, not chosen.",
                  told=True),
            _accuracy_plot(plan, found, curve),
            table(
                ["scale", *(kind.replace(" and ", "<br>and ") for kind in KINDS), "all four<br>kinds",
                 "all that is<br>asked"],
                rows,
                "Questions answered right, and below them the 95&nbsp;% interval. The last rows are the "
                "reader’s ceiling: the scenes themselves, and what the autoencoder leaves of them.",
            ),
        ],
        f"{plan.count} captions the model has not seen, as many of each kind: <i>one object</i> is right "
        "with its shape, color and size, <i>two objects</i> when both have shape and color, a "
        "<i>relation</i> when it holds between two objects that are right, <i>style and light</i> when "
        "both are. The last column is stricter: each attribute, relation, floor and number that a "
        "caption tells. Every scale draws from the same noises, and the bootstrap takes the same captions "
        "of each, so that scales are compared caption by caption. Intervals of marks are Wilson’s. The best "
        "of several scales is a little flattered by being chosen.",
    )  # fmt: skip


def rising(scales: Sequence[float], rights: Sequence[Estimate]) -> Verdict:
    """Whether accuracy rises from the first scale on, and ends to."""
    best, _ = highest(rights)
    gain, after = rights[best] - rights[0], rights[-1] - rights[best]
    falls = sum((b - a).below(0) for a, b in pairwise(rights[: best + 1]))
    rises = gain.above(0) and not falls
    ended = best + 1 < len(scales)
    finding: Finding = "holds" if rises and ended else "holds in part" if gain.above(0) else "does not hold"
    if not ended:
        end = "The best scale is the largest: the point is beyond it."
    else:
        word = "certainly" if after.below(0) else "not certainly"
        end = f"From there to {scales[-1]:g} it changes by {points(after)}, {word} a fall."
    dips = "" if not falls else f" On the way there it falls certainly {falls} times."
    return Verdict(
        finding,
        f"Of all questions {percent(rights[0].value, 1)} are right without guidance and most, "
        f"{percent(rights[best].value, 1)}, at scale {scales[best]:g}: {points(gain)}.{dips} {end}",
    )


def _accuracy_plot(plan: Plan, found: Found, curve: Sequence[Answer]) -> str:
    lines = []
    for k, kind in enumerate(KINDS):
        marks = [one.marks[kind] for one in curve]
        halves = [(high - low) / 2 for low, high in (wilson(*pair) for pair in marks)]
        lines.append(Line(kind, plan.scales, [right / total for right, total in marks], k, halves))
    lines.append(Line("all four kinds", plan.scales, [one.right.value for one in curve], 4))
    ceiling = (found.true.right.value, "true pictures")
    axes = Axes("guidance scale", "answered right", "x", plan.scales, ceiling, (0.0, 1.06), (5.0, 3.9))
    return figure(
        line_plot("Accuracy against guidance scale", lines, axes),
        "Questions answered right, by kind. Bars: half of the 95&nbsp;% interval. Dotted: the reader’s "
        "ceiling over all kinds.",
    )


def _marks(one: Answer) -> list[str]:
    pairs = [*(one.marks[kind] for kind in KINDS), None, one.marks["everything"]]
    return [share(*pair) if pair else _right(one.right) for pair in pairs]


def share(right: int, total: int) -> str:
    """A share with its interval below it."""
    low, high = wilson(right, total)
    interval = f"<small class='under'>{100 * low:.0f} – {100 * high:.0f}</small>"
    return percent(right / max(1, total), 1) + interval


def _right(right: Estimate) -> str:
    low, high = right.interval
    return f"{percent(right.value, 1)}<small class='under'>{100 * low:.0f} – {100 * high:.0f}</small>"


def truths(found: Found) -> dict[str, Answer]:
    """What no model can be better than."""
    return {"true pictures": found.true, "through the autoencoder": found.coded}


def _distance(bench: Bench, found: Found, curve: Sequence[Answer]) -> Section:
    plan = bench.plan
    rows = [
        [f"{s:g}", percent(one.right.value, 1), *_costs(one)]
        for s, one in zip(plan.scales, curve, strict=True)
    ]
    coded = (
        percent(found.coded.right.value, 1),
        spread(found.coded.frechet.value, found.coded.frechet.deviation),
    )
    rows += [
        ["<i>through the autoencoder</i>", *coded, "", ""],
        ["<i>other true pictures</i>", "", number(found.floor), "1", "1"],
    ]
    level = (found.floor, "other true pictures")
    line = Line(
        "", plan.scales, [one.frechet.value for one in curve], 0, [one.frechet.deviation for one in curve]
    )
    return Section(
        "distance",
        "The two optima are not the same",
        "The Frechet distance is least at a smaller scale than the one at which accuracy is greatest.",
        optima(plan.scales, [one.right for one in curve], [one.frechet for one in curve]),
        [
            figure(
                line_plot(
                    "Frechet distance against guidance scale",
                    [line],
                    Axes("guidance scale", "Frechet distance", "xy", plan.scales, level),
                ),
                "Frechet distance to the true pictures of the same captions, in the reader’s features. "
                "Bars: one bootstrap standard deviation. Dotted: as many other true pictures.",
            ),
            table(
                ["scale", "questions<br>right", "Frechet<br>distance", "diversity:<br>features",
                 "<br>pixels"],
                rows,
                "Accuracy, distance and diversity of one set of pictures. Diversity 1 is that of true scenes "
                "of the same captions.",
            ),
        ],
        f"{plan.count} pictures in every cell. The fewer there are, the larger is every distance: "
        "compare the cells with one another and with the floor, with no number elsewhere. The features are "
        "the 128 numbers from which the reader tells floor, light and style, and say less of objects than "
        "the marks do. Where the optima lie is found again in every resample of the captions.",
    )  # fmt: skip


def _costs(one: Answer) -> list[str]:
    return [
        spread(one.frechet.value, one.frechet.deviation),
        *("–" if part is None else spread(part.value, part.deviation) for part in (one.features, one.pixels)),
    ]


def optima(scales: Sequence[float], rights: Sequence[Estimate], distances: Sequence[Estimate]) -> Verdict:
    """Whether the least distance lies below the greatest accuracy, in the pictures and their resamples."""
    (least, leasts), (best, bests) = lowest(distances), highest(rights)
    ahead = sum(a < b for a, b in zip(leasts, bests, strict=True)) / len(leasts)
    finding: Finding = "does not hold"
    if least < best:
        finding = "holds" if ahead >= SURE else "holds in part"
    return Verdict(
        finding,
        f"The distance is least at scale {scales[least]:g} ({_range(scales, leasts)}), accuracy is greatest "
        f"at {scales[best]:g} ({_range(scales, bests)}); the first lies below the second in "
        f"{percent(ahead, 1)} of the resamples.",
    )


def _range(scales: Sequence[float], places: Sequence[int]) -> str:
    ordered = sorted(places)
    outside = int(len(ordered) * (1 - SURE))
    low, high = scales[ordered[outside]], scales[ordered[-1 - outside]]
    where = f"at {low:g}" if low == high else f"from {low:g} to {high:g}"
    return f"{where} in 95&nbsp;% of resamples"


def _diversity(bench: Bench, curve: Sequence[Answer]) -> Section:
    plan = bench.plan
    kinds = {"features": [one.features for one in curve], "pixels": [one.pixels for one in curve]}
    known = {name: [one for one in line if one is not None] for name, line in kinds.items()}
    lines = [
        Line(name, plan.scales, [one.value for one in line], look, [one.deviation for one in line])
        for look, (name, line) in zip((0, 3), known.items(), strict=True)
    ]
    axes = Axes("guidance scale", "diversity", "x", plan.scales, (1.0, "true scenes"), size=(5.0, 3.3))
    return Section(
        "diversity",
        "Pictures of one caption grow alike",
        "Diversity falls monotonically as the guidance scale rises.",
        falling(plan.scales, known),
        [
            figure(
                line_plot("Diversity against guidance scale", lines, axes),
                "Mean distance of two pictures of one caption, in the reader’s features and in pixels, by "
                "that of two true scenes of it. Bars: one bootstrap standard deviation.",
            )
        ],
        f"{plan.captions} captions, {plan.each} pictures each, from the same noises at every scale. The true "
        "scenes have all that the caption asks and are free in the rest, as pictures are. Resampled by "
        "caption. The numbers are in the table above.",
    )


def falling(scales: Sequence[float], curves: dict[str, list[Estimate]]) -> Verdict:
    """Whether every curve falls from first to last, and at every step."""
    whole = {name: curve[-1] - curve[0] for name, curve in curves.items()}
    changes = {name: [b - a for a, b in pairwise(curve)] for name, curve in curves.items()}
    rises = {
        name: [f"{scales[k]:g} to {scales[k + 1]:g}" for k, change in enumerate(steps) if change.value >= 0]
        for name, steps in changes.items()
    }
    fell = [change.below(0) for change in whole.values()]
    finding: Finding = "does not hold"
    if any(fell):
        finding = "holds" if all(fell) and not any(rises.values()) else "holds in part"
    parts = []
    for name, steps in changes.items():
        sure = sum(step.below(0) for step in steps)
        first, last = curves[name][0].value, curves[name][-1].value
        told = f"it rises from {', from '.join(rises[name])}" if rises[name] else "no step rises"
        parts.append(
            f"in {name} from {number(first)} of that of true scenes to {number(last)} "
            f"({sure} of {len(steps)} steps are certainly falls; {told})"
        )
    return Verdict(finding, f"From scale {scales[0]:g} to {scales[-1]:g} it goes {'; '.join(parts)}.")


def sheet(bench: Bench, rows: dict[str, Answer], caption: str, *, told: bool = False) -> str:
    """The pictures of a few questions, the same in every row; ``told`` lists their captions."""
    asked = [bench.questions[k] for k in shown(bench.questions)]
    columns = [f"{k}" for k in range(1, len(asked) + 1)]
    pictures = {name: one.pictures for name, one in rows.items()}
    texts = "".join(f"<li>{escape(question.text)}</li>" for question in asked)
    return figure(
        abreast(matrix(columns, pictures, "caption"), wide=True),
        caption + f"<ol style='margin:.5rem 0 0;padding-left:1.4rem;{SMALL}'>{texts}</ol>" * told,
    )
