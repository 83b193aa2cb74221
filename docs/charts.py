"""The charts of the documentation: closed forms and exact denoisers, no trained model."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noisette.core import EDM, Cond, Level, Prediction, Schedule, last, prior, sample
from noisette.guidance import classifier_guide
from noisette.metrics.gaussian import gaussian_denoiser, gaussian_std_ratio
from noisette.nets.embedding import position_2d
from noisette.schedules import (
    VE,
    ContinuousCosineVP,
    CosineVP,
    FlowMatching,
    LinearVP,
    ScaledLinearVP,
    karras,
    leading,
    trailing,
)
from noisette.solvers import DDIM, DDPM, PLMS, DPMSolverPP, Heun, UniPC
from noisette.training import P2, MinSNR

# Colours and a grey that can be read on white and on black.
BROWN, BLUE, GREEN, PURPLE, RED = "#c8702a", "#3f86c8", "#3c9c62", "#a565b5", "#d0524e"
GREY = "#888888"
STYLE = {
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.titlecolor": GREY,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.family": "sans-serif",
    "font.size": 10.5,
    "legend.frameon": False,
    "legend.labelcolor": GREY,
    "lines.linewidth": 1.8,
    "savefig.transparent": True,
    "svg.fonttype": "path",
    "svg.hashsalt": "noisette",
    "xtick.color": GREY,
    "ytick.color": GREY,
}

SOLVERS: dict[str, tuple[str, Any, Callable[[int], int]]] = {
    "ddim": ("DDIM", DDIM(), lambda n: n),
    "heun": ("Heun", Heun(), lambda n: 2 * n),
    "plms": ("PLMS", PLMS(), lambda n: n + 1),
    "dpmpp": ("DPM-Solver++ 2M", DPMSolverPP(), lambda n: n),
    "dpmpp3": ("DPM-Solver++ 3M", DPMSolverPP(3), lambda n: n),
    "unipc": ("UniPC", UniPC(), lambda n: n),
}
STEPS = (20, 40, 80, 160)


def flow_error(solver: Any, n: int) -> float:
    """Distance to the exact probability flow of N(0.3, 0.5^2), over n steps even in log-SNR."""
    schedule, mean, std = LinearVP(), 0.3, 0.5
    path = [schedule.at_half_logsnr(lam) for lam in torch.linspace(-3, 3, n + 1, dtype=torch.float64)]
    x = torch.linspace(-2, 2, 9, dtype=torch.float64) * path[0].sigma

    def spread(level: Level) -> Tensor:
        return ((std * level.alpha).square() + level.sigma.square()).sqrt()

    exact = path[-1].alpha * mean + (x - path[0].alpha * mean) / spread(path[0]) * spread(path[-1])
    return float((last(sample(gaussian_denoiser(mean, std), x, path, solver)) - exact).abs().max())


def slopes() -> dict[str, float]:
    """The measured order of convergence of each solver."""
    x = torch.tensor(STEPS, dtype=torch.float64).log()
    found = {}
    for name, (_, solver, _) in SOLVERS.items():
        y = torch.tensor([flow_error(solver, n) for n in STEPS], dtype=torch.float64).log()
        found[name] = float(-((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
    return found


def orders(plt: Any, shown: tuple[str, ...]) -> Any:
    """Error against network calls; the solvers that are not shown in colour are grey."""
    figure, axes = plt.subplots(figsize=(6.4, 3.6))
    colours = dict(zip(shown, (BROWN, BLUE, GREEN), strict=False))
    for name, (label, solver, calls) in SOLVERS.items():
        steps = (5, 7, 10, 14, 20, 28, 40, 80, 160)
        points = [calls(n) for n in steps], [flow_error(solver, n) for n in steps]
        own = name in shown
        axes.loglog(
            *points, "o-", ms=3.5, color=colours.get(name, GREY), alpha=1 if own else 0.35, zorder=1 + own
        )
        axes.annotate(
            label,
            (points[0][-1], points[1][-1]),
            (5, -9 if name == "plms" else -2),
            textcoords="offset points",
            fontsize=9,
            color=colours.get(name, GREY),
        )
    axes.set(xlabel="network calls", ylabel="error against the exact flow", xlim=(4.5, 700))
    return figure


def schedules(plt: Any) -> Any:
    figure, axes = plt.subplots(figsize=(6.4, 3.4))
    t = torch.linspace(0.002, 0.998, 400, dtype=torch.float64)
    for schedule, colour in zip(
        (LinearVP(), CosineVP(), ScaledLinearVP(), FlowMatching(), VE()),
        (BROWN, BLUE, GREEN, PURPLE, RED),
        strict=True,
    ):
        axes.plot(t, 2 * schedule(t).half_logsnr, color=colour, label=type(schedule).__name__)
    axes.axhline(0, color=GREY, lw=0.7, ls=":")
    axes.set(xlabel="t  (0 = data, 1 = noise)", ylabel="log SNR", ylim=(-13, 13))
    axes.legend(ncols=2)
    return figure


def spread(plt: Any) -> Any:
    """What samplers make of the deviation of Gaussian data."""
    figure, both = plt.subplots(1, 2, figsize=(7.2, 3.1), sharex=True)
    steps, schedule = (10, 14, 20, 30, 50, 70, 100, 200, 500, 1000), LinearVP()
    kinds = (
        ("DDIM, eta 0", DDIM(), BROWN),
        ("DDPM, small", DDPM(), BLUE),
        ("DDPM, large", DDPM("large"), GREEN),
    )
    for axes, std in zip(both, (0.5, 0.1), strict=True):
        for label, solver, colour in kinds:
            ratios = [gaussian_std_ratio(solver, leading(schedule, n), std) for n in steps]
            axes.semilogx(steps, ratios, "o-", ms=3.5, color=colour, label=label)
        axes.axhline(1, color=GREY, lw=0.7, ls=":")
        axes.set(xlabel="steps", title=f"data of deviation {std}")
    both[0].set_ylabel("deviation drawn / true")
    both[0].legend()
    return figure


def variance(plt: Any) -> Any:
    """The best fraction between the two fixed log-variances, for Gaussian data."""
    figure, axes = plt.subplots(figsize=(6.4, 3.2))
    bar = LinearVP().alphas_cumprod
    now, before = bar[1:], bar[:-1]
    beta = 1 - now / before
    small = beta * (1 - before) / (1 - now)
    for std, colour in ((1.0, GREEN), (0.5, BROWN), (0.1, BLUE)):
        marginal = before * std**2 + 1 - before
        best = marginal * beta / ((1 - beta) * marginal + beta)
        axes.semilogx(
            range(2, 1001),
            (best / small).log() / (beta / small).log(),
            color=colour,
            label=f"data of deviation {std:g}",
        )
    axes.set(xlabel="row of the chain", ylabel="best fraction f", ylim=(-0.03, 1.05))
    axes.legend()
    return figure


def edm(plt: Any) -> Any:
    """Preconditioning against sigma, with the levels of an 18-step grid."""
    figure, axes = plt.subplots(figsize=(6.4, 3.2))
    sigma, data = torch.logspace(-3, 2, 300, dtype=torch.float64), 0.5
    level, one, zero = (
        Level(sigma, torch.ones_like(sigma), sigma),
        torch.ones_like(sigma),
        torch.zeros_like(sigma),
    )
    network = EDM(data)
    axes.semilogx(sigma, network.read(zero, one, level).x0, color=BROWN, label="c_skip")
    axes.semilogx(sigma, network.read(one, zero, level).x0, color=BLUE, label="c_out")
    axes.semilogx(sigma, network.scale_input(one, level) * data, color=GREEN, label="c_in · sigma_data")
    grid = torch.stack([level.sigma for level in karras(VE(), 18)[:-1]])
    axes.plot(grid, torch.full_like(grid, -0.06), "|", color=GREY, ms=9, label="the 18 levels of karras")
    axes.set(xlabel="sigma")
    axes.legend()
    return figure


CENTRES = 0.9 * torch.stack(
    [f(torch.arange(8, dtype=torch.float64) * math.pi / 4) for f in (torch.cos, torch.sin)], -1
)


def ring(x: Tensor, level: Level, cond: Cond, centres: Tensor = CENTRES) -> Prediction:
    """The exact denoiser of Gaussians of deviation 0.1 on a circle; x is [B, 2]."""
    gap = x[:, None] - level.alpha * centres
    total = (0.1 * level.alpha).square() + level.sigma.square()
    weight = (-gap.square().sum(-1) / (2 * total)).softmax(-1)[..., None]
    pull = (weight * gap).sum(1)
    x0 = (weight * centres).sum(1) + level.alpha * 0.1**2 / total * pull
    return Prediction(x0, level.sigma / total * pull, level)


def paths(plt: Any) -> Any:
    """Trajectories of the probability flow under two schedules."""
    figure, both = plt.subplots(1, 2, figsize=(7.2, 3.4), sharey=True)
    noise = torch.randn(60, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cases: tuple[tuple[str, Schedule], ...] = (
        ("flow matching: x = (1-t) x0 + t eps", FlowMatching()),
        ("variance preserving (cosine)", ContinuousCosineVP()),
    )
    for axes, (title, schedule) in zip(both, cases, strict=True):
        levels = trailing(schedule, 200)
        x = prior(noise, levels[0])
        walk = torch.stack([x, *(step.x for step in sample(ring, x, levels, Heun()))])
        for k in range(len(noise)):
            axes.plot(walk[:, k, 0], walk[:, k, 1], color=GREY, lw=0.8, alpha=0.7)
        axes.plot(*walk[0].T, "o", ms=3.5, color=BLUE, label="noise")
        axes.plot(*walk[-1].T, "o", ms=3.5, color=BROWN, label="data")
        axes.set(title=title, aspect="equal", xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    both[0].legend(loc="lower left")
    return figure


def classifier(plt: Any) -> Any:
    """A ring steered towards its right half by an exact classifier of noisy points."""
    right = CENTRES[CENTRES[:, 0] > 0.1]

    def log_prob(x: Tensor, level: Level, cond: Cond) -> Tensor:
        total = (0.1 * level.alpha).square() + level.sigma.square()
        scores = [
            (-(x[:, None] - level.alpha * centres).square().sum(-1) / (2 * total)).logsumexp(1)
            for centres in (right, CENTRES)
        ]
        return scores[0] - scores[1]

    figure, all_axes = plt.subplots(1, 4, figsize=(7.4, 2.2), sharey=True)
    start = torch.randn(400, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    levels = karras(VE(), 60)
    for axes, scale in zip(all_axes, (0.0, 1.0, 4.0, 16.0), strict=True):
        guided = classifier_guide(ring, log_prob, scale)
        x = last(sample(guided, prior(start, levels[0]), levels, Heun()))
        axes.plot(*CENTRES.T, "+", color=GREY, ms=7)
        axes.plot(*x.T, ".", ms=2.5, color=BROWN, alpha=0.6)
        axes.set(
            title=f"scale {scale:g}", aspect="equal", xticks=[], yticks=[], xlim=(-1.4, 1.4), ylim=(-1.4, 1.4)
        )
        axes.spines[:].set_visible(False)
    return figure


def weights(plt: Any) -> Any:
    figure, axes = plt.subplots(figsize=(6.4, 3.2))
    lam = torch.linspace(-5, 5, 300, dtype=torch.float64)
    level = LinearVP().at_half_logsnr(lam)
    axes.plot(2 * lam, torch.ones_like(lam), color=GREY, label="L_simple")
    axes.plot(2 * lam, MinSNR(5.0)(level), color=BROWN, label="min-SNR, gamma 5")
    axes.plot(2 * lam, P2(1.0, 1.0)(level), color=BLUE, label="P2, gamma 1, k 1")
    axes.plot(2 * lam, P2(0.5, 1.0)(level), color=GREEN, label="P2, gamma 0.5, k 1")
    axes.set(xlabel="log SNR", ylabel="weight on the error of eps")
    axes.legend()
    return figure


def positions(plt: Any) -> Any:
    """How alike the positions of a 16 x 16 grid of patches are to that of one of them."""
    table = position_2d(16, 16, 384, torch.device("cpu")).reshape(-1, 384)
    table = table / table.norm(dim=1, keepdim=True)
    figure, both = plt.subplots(1, 3, figsize=(7, 2.5))
    for axes, (row, column) in zip(both, ((3, 3), (8, 8), (12, 5)), strict=True):
        alike = (table @ table[row * 16 + column]).reshape(16, 16)
        axes.imshow(alike, cmap="magma", vmin=0.4, vmax=1)
        axes.set(title=f"patch ({row}, {column})", xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    return figure


CHARTS: dict[str, Callable[[Any], Any]] = {
    f.__name__: f for f in (schedules, spread, variance, edm, paths, classifier, weights, positions)
} | {
    "orders-heun": lambda plt: orders(plt, ("heun", "ddim")),
    "orders-dpm": lambda plt: orders(plt, ("dpmpp", "dpmpp3", "ddim")),
    "orders-unipc": lambda plt: orders(plt, ("unipc", "dpmpp")),
    "orders-plms": lambda plt: orders(plt, ("plms", "ddim")),
}


def save(name: str, folder: Path) -> None:
    """Draw one chart as ``folder/name.svg``; the same bytes every time."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    with plt.rc_context(STYLE):
        figure = CHARTS[name](plt)
        figure.tight_layout()
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight", pad_inches=0.05)
        plt.close(figure)
