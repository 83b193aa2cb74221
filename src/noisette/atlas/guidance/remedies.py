"""What interval guidance, rescaling and dynamic thresholding buy where guidance is strong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from noisette.atlas.guidance.bench import QUANTILE, Bench, Plan, Remedy, Way
from noisette.atlas.guidance.drawn import Answer, Found
from noisette.atlas.guidance.estimates import Estimate, points
from noisette.atlas.guidance.scales import sheet
from noisette.atlas.page import (
    Finding,
    Section,
    Verdict,
    abreast,
    figure,
    number,
    percent,
    table,
)
from noisette.atlas.plots import Axes, Line, line_plot

KEPT = 0.05
"""Accuracy is kept where not more than this is lost, at the pessimistic end of the interval."""

HALF = 0.5

LEVELS = 127.5
"""Of an 8-bit picture, to a unit of [-1, 1]."""

NAMES: Mapping[Remedy, str] = {
    "none": "guidance alone",
    "interval": "in an interval",
    "rescale": "rescaled",
    "threshold": "dynamic threshold",
}
SHORT: Mapping[Remedy, str] = {"none": "alone", "interval": "interval", "rescale": "rescaled",
                               "threshold": "threshold"}  # fmt: skip
HEAD = ["scale", "questions<br>right", "Frechet<br>distance", "diversity:<br>features", "<br>pixels",
        "clipped", "beyond", "latents’<br>size"]  # fmt: skip
COLUMNS = (
    "Clipped: the part of all values of decoded pictures that lie out of [−1, 1] by more than half of one of "
    "256 levels; beyond: by how many levels values lie out of it, on the mean of all. Latents’ size: the "
    "99.5&nbsp;% quantile of their absolute values, by that of true pictures’ latents."
)

Pair: TypeAlias = tuple[Answer, Answer]


def sections(bench: Bench, found: Found) -> list[Section]:
    """One claim about each remedy."""
    return [_interval(bench, found), _rescale(bench, found), _threshold(bench, found)]


def pairs(plan: Plan, found: Found, remedy: Remedy) -> dict[float, Pair]:
    """Guidance alone, and with the remedy, at each of the strong scales."""
    return {s: (found.answers[Way(s)], found.answers[Way(s, remedy)]) for s in plan.strong}


Test = Callable[[Answer, Answer], bool]
"""Of the answers at one scale, without a remedy and with it."""


def judged(found: Mapping[float, Pair], test: Test, partly: Test | None = None) -> tuple[Finding, str]:
    """A finding from a test at every scale, and the scales at which it is passed.

    Passed nowhere, it still holds in part where ``partly`` is passed.
    """
    passed = [f"{scale:g}" for scale, pair in found.items() if test(*pair)]
    if len(passed) == len(found):
        return "holds", "at every scale"
    if passed:
        return "holds in part", f"at scale {' and '.join(passed)}"
    some = partly is not None and any(partly(*pair) for pair in found.values())
    return "holds in part" if some else "does not hold", "at no scale"


def _interval(bench: Bench, found: Found) -> Section:
    plan = bench.plan
    both = pairs(plan, found, "interval")
    return Section(
        "interval",
        "Guidance in an interval",
        "Guidance in the middle of the walk only keeps the accuracy of guidance all along, at a lower "
        "Frechet distance.",
        keeping(both),
        [
            *(
                sheet(
                    bench,
                    {name: found.answers[Way(s, remedy)] for remedy, name in SHORT.items()},
                    f"Scale {s:g}, alone and with each of the three remedies; the captions are those of "
                    "section 1.",
                )
                for s in plan.strong[1:]
            ),
            _tradeoff(plan, found),
            _table(both, "interval", found),
        ],
        f"The scale holds where {plan.low:g} &lt; <i>σ</i>/<i>α</i> ≤ {plan.high:g} and is 1 elsewhere, "
        "which saves the second lane there; the bounds were chosen before anything was measured, and "
        f"not tuned. Accuracy counts as kept where at most {percent(KEPT)} of the questions are lost at "
        "the pessimistic end of the 95&nbsp;% interval, the distance as lower where all of its interval is. "
        + COLUMNS,
    )


def keeping(both: Mapping[float, Pair]) -> Verdict:
    """Whether accuracy is kept, and the distance lower, at each scale."""

    def kept(alone: Answer, limited: Answer) -> bool:
        return (limited.right - alone.right).above(-KEPT)

    def nearer(alone: Answer, limited: Answer) -> bool:
        return (limited.frechet - alone.frechet).below(0)

    finding, where = judged(both, lambda *pair: kept(*pair) and nearer(*pair), nearer)
    parts = [
        f"at scale {s:g} accuracy changes by {points(b.right - a.right)} and the distance by "
        f"{(b.frechet - a.frechet).words(2)}"
        for s, (a, b) in both.items()
    ]
    return Verdict(finding, f"Accuracy is kept at a lower distance {where}: {'; '.join(parts)}.")


def _rescale(bench: Bench, found: Found) -> Section:
    plan = bench.plan
    both = pairs(plan, found, "rescale")
    return Section(
        "rescale",
        "Rescaled guidance",
        "Strong guidance saturates pictures, and giving the prediction back the deviation of its conditional "
        f"part (<i>φ</i> = {plan.phi:g}) halves that.",
        halving(plan, found, both),
        [_saturation(plan, found), _table(both, "rescale", found)],
        f"What is used is {plan.phi:g} parts of the guided prediction brought to the deviation of the "
        f"conditional one, and {1 - plan.phi:.2g} of the guided one as it is, both as v. Saturation is "
        "measured on what the decoder gives before it is clamped. The autoencoder oversteps the range on "
        "true pictures too: that is the dotted line, which no guidance can be blamed for. " + COLUMNS,
    )


def halving(plan: Plan, found: Found, both: Mapping[float, Pair]) -> Verdict:
    """Whether saturation grows with the scale, and at most half is left of it."""
    finding, where = judged(both, lambda alone, mild: (mild.clipped / alone.clipped).below(HALF))
    first, last = (found.answers[Way(s)].clipped for s in (plan.scales[0], plan.scales[-1]))
    grows = (last - first).above(0)
    if not grows and finding == "holds":
        finding = "holds in part"
    growth = "grows" if grows else "does not certainly grow"
    parts = [f"{(b.clipped / a.clipped).words(2)} at scale {s:g}" for s, (a, b) in both.items()]
    return Verdict(
        finding,
        f"Saturation {growth} with the scale, from {percent(first.value, 2)} of all values at "
        f"{plan.scales[0]:g} to {percent(last.value, 2)} at {plan.scales[-1]:g}; of true pictures the "
        f"autoencoder clips {percent(found.coded.clipped.value, 2)}. Rescaled, this part of it is left: "
        f"{', '.join(parts)}. It is at most half {where}, at the pessimistic end.",
    )


def _threshold(bench: Bench, found: Found) -> Section:
    plan = bench.plan
    both = pairs(plan, found, "threshold")
    return Section(
        "threshold",
        "A threshold made for pixels",
        "Dynamic thresholding holds pixels in [−1, 1]. Latents have no such range: used on them it makes "
        "them too small, and pictures worse.",
        shrinking(both),
        [_sizes(plan, found), _table(both, "threshold", found)],
        f"Each <i>x̂</i><sub>0</sub> is clipped to its own {percent(QUANTILE, 1)} quantile of absolute value, "
        "or to 1 where that is larger, and divided by it. That was made for models of pixels, where 1 is "
        "white; in latents of unit variance values beyond 1 are ordinary. It is measured here because it is "
        "often offered for latent models all the same. Too small is a size of which the whole interval lies "
        "below 1; worse, a Frechet distance whose whole change lies above 0. " + COLUMNS,
    )


def shrinking(both: Mapping[float, Pair]) -> Verdict:
    """Whether latents are smaller than true ones, and pictures farther off than without."""

    def worse(alone: Answer, held: Answer) -> bool:
        return (held.frechet - alone.frechet).above(0)

    def smaller(alone: Answer, held: Answer) -> bool:
        return held.size.below(1)

    finding, where = judged(
        both,
        lambda *pair: smaller(*pair) and worse(*pair),
        lambda *pair: smaller(*pair) or worse(*pair),
    )
    parts = [
        f"at scale {s:g} their size goes from {a.size.words(2)} to {b.size.words(2)} times that of true "
        f"ones, and the distance changes by {(b.frechet - a.frechet).words(2)}"
        for s, (a, b) in both.items()
    ]
    return Verdict(finding, f"Latents are too small and pictures worse {where}: {'; '.join(parts)}.")


def _table(both: Mapping[float, Pair], remedy: Remedy, found: Found) -> str:
    rows = [
        [f"{s:g} <small>{SHORT[which]}</small>", *_cells(one)]
        for s, pair in both.items()
        for which, one in zip(("none", remedy), pair, strict=True)
    ]
    rows += [["<i>autoencoder</i>", *_cells(found.coded)]]
    return table(
        HEAD, rows, f"Each scale alone, and {NAMES[remedy]}. Last: true pictures through the autoencoder."
    )


def _cells(one: Answer) -> list[str]:
    parts = (one.frechet, one.features, one.pixels)
    return [
        percent(one.right.value, 1) + _under(f"{100 * one.right.deviation:.1f}"),
        *("–" if part is None else _stacked(part) for part in parts),
        percent(one.clipped.value, 2) + _under(f"{100 * one.clipped.deviation:.2f}"),
        f"{LEVELS * one.beyond.value:.2f}" + _under(f"{LEVELS * one.beyond.deviation:.2f}"),
        _stacked(one.size),
    ]


def _stacked(part: Estimate) -> str:
    return number(part.value) + _under(number(part.deviation, 2))


def _under(deviation: str) -> str:
    return f"<small class='under'>± {deviation}</small>"


def _lines(
    plan: Plan, found: Found, y: Callable[[Answer], float], x: Callable[[Answer], float] | None = None
):
    """A curve of guidance alone over all scales, and one of each remedy over the strong ones."""
    for look, (remedy, name) in zip((0, 1, 3, 4), NAMES.items(), strict=True):
        scales = plan.scales if remedy == "none" else plan.strong
        answers = [found.answers[Way(s, remedy)] for s in scales]
        yield Line(
            name, scales if x is None else [x(one) for one in answers], [y(one) for one in answers], look
        )


def _tradeoff(plan: Plan, found: Found) -> str:
    lines = list(_lines(plan, found, lambda one: one.frechet.value, lambda one: one.right.value))
    axes = Axes("questions right", "Frechet distance", "y", (), (found.floor, "other true pictures"))
    return figure(
        line_plot("Frechet distance against accuracy", lines, axes),
        "What a point of accuracy costs: to the right and low is better. Guidance alone runs from scale "
        f"{plan.scales[0]:g} to {plan.scales[-1]:g}, the remedies from {plan.strong[0]:g} to "
        f"{plan.strong[-1]:g}.",
    )


def _saturation(plan: Plan, found: Found) -> str:
    drawings = []
    for name, y, of in (
        ("values clipped", lambda one: one.clipped.value, found.coded.clipped.value),
        ("mean levels beyond", lambda one: LEVELS * one.beyond.value, LEVELS * found.coded.beyond.value),
    ):
        lines = list(_lines(plan, found, y))
        axes = Axes("guidance scale", name, "x", plan.scales[::2], (of, "autoencoder"), size=(4.2, 3.5))
        drawings.append(line_plot(f"{name} against guidance scale", lines, axes))
    return figure(
        abreast(*drawings),
        "Saturation before clamping: the part of all values out of [−1, 1], and by how many of 256 levels "
        "values lie out of it. Dotted: true pictures through the autoencoder.",
    )


def _sizes(plan: Plan, found: Found) -> str:
    lines = list(_lines(plan, found, lambda one: one.size.value))
    axes = Axes(
        "guidance scale", "size of latents", "x", plan.scales, (1.0, "true pictures"), size=(5.0, 3.6)
    )
    return figure(
        line_plot("Size of latents against guidance scale", lines, axes),
        "The 99.5&nbsp;% quantile of the latents’ absolute values, by that of true pictures’ latents.",
    )
