"""Line plots as SVG that takes its colours from the page around it, and so follows light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes as PlotAxes
    from matplotlib.figure import Figure

# Colours that are drawn with and then replaced by the style sheet's variables.
INK, MUTED, RULE, PAPER = "#000001", "#000002", "#000003", "#000004"
SERIES = tuple(f"#00001{k}" for k in range(1, 6))
_VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", PAPER: "--paper"} | {
    colour: f"--series-{k}" for k, colour in enumerate(SERIES, 1)
}
MARKERS = ("o", "s", "^", "D", "X")

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
}


@dataclass(frozen=True)
class Line:
    """One curve; ``spread`` is drawn as bars of plus and minus; ``look`` picks colour and marker."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    look: int
    spread: Sequence[float] | None = None
    dashed: bool = False


@dataclass(frozen=True)
class Axes:
    """What stands on the axes; ``log`` names those that are logarithmic, ``ticks`` are x values."""

    x: str
    y: str
    log: str = ""
    ticks: Sequence[float] = ()
    floor: tuple[float, str] | None = None
    y_range: tuple[float, float] | None = None
    size: tuple[float, float] = (5.0, 3.2)


def line_plot(name: str, lines: Sequence[Line], axes: Axes) -> str:
    """An ``<svg>`` element of the curves, described to screen readers as ``name``."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator

    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=axes.size, layout="constrained")
        figure.patch.set_alpha(0)
        plot = figure.add_subplot()
        for line in lines:
            _draw(plot, line)
        plot.set(xlabel=axes.x, ylabel=axes.y, ylim=axes.y_range)
        if "x" in axes.log:
            plot.set_xscale("log")
        if "y" in axes.log:
            plot.set_yscale("log")
        if axes.ticks:
            plot.xaxis.set_major_locator(FixedLocator(list(axes.ticks)))
            plot.xaxis.set_minor_locator(NullLocator())
            plot.set_xticklabels([f"{tick:g}" for tick in axes.ticks])
        if axes.floor:
            value, label = axes.floor
            plot.axhline(value, color=MUTED, linestyle=(0, (2, 2)), linewidth=1)
            end = {"xy": (1, value), "xycoords": plot.get_yaxis_transform(), "textcoords": "offset points"}
            note = plot.annotate(label, xytext=(0, 3), **end, color=MUTED, ha="right", va="bottom")
            note.set_in_layout(False)
        if "y" in axes.log:
            _plain_decades(plot)
        if len(lines) > 1:
            figure.legend(*plot.get_legend_handles_labels(), loc="outside lower center", ncols=2)
        return _inline(figure, name)


def _draw(plot: PlotAxes, line: Line) -> None:
    colour = SERIES[line.look % len(SERIES)]
    plot.errorbar(
        line.x,
        line.y,
        yerr=line.spread,
        label=line.label,
        color=colour,
        marker="" if line.dashed else MARKERS[line.look % len(MARKERS)],
        markeredgecolor=PAPER,
        markeredgewidth=0.5,
        linestyle="--" if line.dashed else "-",
        elinewidth=0.8,
    )


def _plain_decades(plot: PlotAxes) -> None:
    """Numbers as people write them (0.5, 20) where they are neither tiny nor huge."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = plot.get_ylim()
    subs = (1.0, 2.0, 5.0) if high / low < 1e3 else (1.0,)
    plot.yaxis.set_major_locator(LogLocator(subs=subs))
    plot.yaxis.set_minor_formatter(NullFormatter())
    # The formatter that comes with the axis sets powers in a size of its own.
    plot.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _plain(value)))


def _plain(value: float) -> str:
    if 1e-3 <= value < 1e5:
        return f"{value:g}"
    mantissa, exponent = f"{value:.1e}".replace(".0e", "e").split("e")
    power = "10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return power if mantissa == "1" else f"{mantissa}·{power}"


def _inline(figure: Figure, name: str) -> str:
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", svg, flags=re.DOTALL)
    # Names of groups repeat from figure to figure; what is referred to is salted, and stays.
    used = set(re.findall(r"#([\w.]+)", svg))
    svg = re.sub(r' id="([\w.]+)"', lambda found: found[0] if found[1] in used else "", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"| xmlns(:xlink)?="[^"]*"', "", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font-size: \1", re.sub(r"font-family: [^;\"]+;?", "", svg))
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{name}" ', 1)
