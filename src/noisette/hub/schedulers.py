"""The scheduler_config.json of diffusers as a schedule, a parameterization, a grid and a solver.

A scheduler mixes four things that are apart here. Which rows it visits, where it ends and how large its first
noise is differ from class to class, and a checkpoint's pictures hang on all of them: `sampler` does what the
class of that name would do with that config, and where another solver is asked, what its class would do with
the same config, as diffusers' `from_config` has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import torch
from torch import Tensor

from noisette.core import X0, Cond, Denoiser, Eps, Level, Prediction, Schedule, Solver, V, combine
from noisette.errors import UserError
from noisette.guidance import clip_x0, dynamic_threshold
from noisette.schedules import BetasVP, CosineVP, LinearVP, ScaledLinearVP, TableVP, ZeroTerminalSNR
from noisette.solvers import (
    DDIM,
    DDPM,
    PLMS,
    PNDM,
    DPMSolverPP,
    DPMSolverPPSingle,
    Euler,
    Heun,
    MultistepConsistency,
    UniPC,
)
from noisette.solvers.named import solver_named

__all__ = ["SCHEDULERS", "Sampler", "parameterization_of", "sampler", "schedule_of"]

Json = Mapping[str, Any]
TableSchedule = LinearVP | ScaledLinearVP | CosineVP | BetasVP | ZeroTerminalSNR

LEAST_SIGNAL = 2.0**-24
"""alpha^2 of the last row of a zero-terminal-SNR table, for schedulers that divide by alpha."""


@dataclass(frozen=True)
class Sampler:
    """One way to sample a checkpoint: ``grid(n)`` are the n + 1 levels of n steps.

    ``start`` tells what the first noise is scaled by: "marginal" is the usual one of `noisette.core.prior`,
    "noise" is sigma, which leaves out the little signal of the first level. ``clip`` is what happens to
    predictions, None for nothing.
    """

    name: str
    grid: Callable[[int], list[Level]]
    solver: Solver[Any]
    start: Literal["marginal", "noise"]
    clip: Callable[[Denoiser], Denoiser] | None


def schedule_of(config: Json) -> TableSchedule:
    """The noise schedule. Raises UserError for betas that are not known here."""
    _check_kinds(config)
    steps = config.get("num_train_timesteps", 1000)
    if not 1 <= steps <= 2**20:
        raise UserError(f"num_train_timesteps should lie in 1 to {2**20}, not {steps!r:.40}")
    kind = config.get("beta_schedule", "linear")
    ends = steps, config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
    betas = config.get("trained_betas")
    if betas is not None:
        base: Any = BetasVP(tuple(map(float, betas)))
    elif kind in ("linear", "scaled_linear"):
        base = (LinearVP if kind == "linear" else ScaledLinearVP)(*ends)
    elif kind == "squaredcos_cap_v2":
        base = CosineVP(steps)
    else:
        raise UserError(f"beta_schedule {kind!r:.40} is not known: linear, scaled_linear, squaredcos_cap_v2")
    values = base.betas()
    if not len(values) or not bool(((values > 0) & (values < 1)).all()):
        raise UserError("the betas of this schedule do not all lie between 0 and 1")
    return ZeroTerminalSNR(base) if config.get("rescale_betas_zero_snr") else base


def parameterization_of(config: Json) -> Eps | V | X0:
    """What the network predicts. Raises UserError for anything but epsilon, v_prediction and sample."""
    match config.get("prediction_type", "epsilon"):
        case "epsilon":
            return Eps()
        case "v_prediction":
            return V()
        case "sample":
            return X0()
        case other:
            raise UserError(f"prediction_type {other!r:.40} is not known: epsilon, v_prediction, sample")


def sampler(config: Json, solver: str | None = None, spacing: str | None = None) -> Sampler:
    """How diffusers would sample with this config.

    ``solver`` is a name of `noisette.solvers.SOLVER_NAMES`, in the place of the config's own class;
    ``spacing`` "leading", "trailing", "linspace", "karras" or "exponential" replaces what the config says of
    its steps. Raises UserError for a class, an option or a name that is not known.
    """
    found = str(config.get("_class_name")) if solver is None else solver
    name = found if solver is None else _CLASSES.get(solver, found)
    if name not in SCHEDULERS:
        if solver is not None:
            solver_named(solver, LinearVP())  # knows the names, and says so
        raise UserError(f"the scheduler {found:.60} is not known here; known are {', '.join(SCHEDULERS)}")
    kind = SCHEDULERS[name]
    if spacing in _SHAPES:
        config = {**config, **{f"use_{shape}_sigmas": shape == spacing for shape in _SHAPES}}
    elif spacing is not None:
        config = {**config, "timestep_spacing": spacing}
    _refuse(config, name)
    schedule = schedule_of(config)
    if isinstance(schedule, ZeroTerminalSNR) and kind.family != "rows":
        schedule = replace(schedule, least=LEAST_SIGNAL)
    made = kind.solver(config, schedule) if solver is None else solver_named(solver, schedule)
    style = kind.spacing if kind.spacing == "lcm" else config.get("timestep_spacing", kind.spacing)
    bare = kind.starts_bare and style != "leading"
    grid = _Grid(kind, schedule, config, style)
    return Sampler(name, grid, made, "noise" if bare else "marginal", _clip(config, name))


def _karras(low: Tensor, high: Tensor, n: int) -> Tensor:
    ramp = torch.linspace(0, 1, n, dtype=torch.float64)
    return (high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7


def _exponential(low: Tensor, high: Tensor, n: int) -> Tensor:
    return torch.linspace(float(high.log()), float(low.log()), n, dtype=torch.float64).exp()


_SHAPES: Final[Mapping[str, Callable[[Tensor, Tensor, int], Tensor]]] = {
    "karras": _karras,
    "exponential": _exponential,
}


@dataclass(frozen=True)
class _Grid:
    """The levels that a class visits, noisiest first."""

    kind: _Kind
    schedule: TableVP
    config: Json
    spacing: str

    def __call__(self, n: int) -> list[Level]:
        table = self.schedule
        if not 1 <= n <= table.steps - (self.kind.family == "log-SNR"):
            raise UserError(f"{n} steps asked of a schedule with {table.steps} levels: take fewer")
        rows = self._rows(n)
        shape = next((name for name in _SHAPES if self.config.get(f"use_{name}_sigmas")), None)
        if self.kind.family == "rows":
            levels = [table((row + 1) / table.steps) for row in rows]
        elif shape is None:
            levels = [self._between(row) for row in rows]
        else:
            levels = self._shaped(shape, rows)
        last = (1 / table.steps) if self._ends_early() else 0.0
        return [*levels, table(last)]

    def _rows(self, n: int) -> Tensor:
        """Row numbers; fractional for classes in sigma whose rows are evenly spaced."""
        total, offset = self.schedule.steps, self.config.get("steps_offset", 0)
        more = self.kind.family == "log-SNR"  # these lay out a step more and leave out the last
        match self.spacing:
            case "linspace":
                rows = torch.linspace(0, total - 1, n + more, dtype=torch.float64).flip(0)[:n]
                rows = rows if self.kind.family == "sigma" else rows.round()
            case "leading":
                steps = torch.arange(n + more, dtype=torch.float64)
                rows = (steps * (total // (n + more))).flip(0)[:n] + offset
            case "lcm":  # some of the nodes that it was distilled on
                nodes = int(self.config.get("original_inference_steps", 50))
                if n > nodes or not 1 <= nodes <= total:
                    raise UserError(f"{n} steps asked of a model distilled on {nodes}: take fewer")
                kept = (torch.arange(n, dtype=torch.float64) * (nodes / n)).floor()
                rows = (nodes - kept) * (total // nodes) - 1
            case "trailing":
                rows = (total - torch.arange(n, dtype=torch.float64) * (total / n)).round() - 1
            case other:
                raise UserError(f"timestep_spacing {other!r:.40} is not one of leading, trailing, linspace")
        if rows[0] > total - 1:
            raise UserError(f"with steps_offset {offset} {n} steps begin beyond the schedule: take fewer")
        return rows

    def _sigmas(self) -> Tensor:
        """sigma / alpha of every row, which all of these classes look up."""
        rows = torch.arange(1, self.schedule.steps + 1, dtype=torch.float64) / self.schedule.steps
        return (-self.schedule(rows).half_logsnr).exp()

    def _between(self, row: Tensor) -> Level:
        """A level between two rows: these interpolate sigma / alpha in a straight line."""
        if row == row.round():
            return self.schedule((row + 1) / self.schedule.steps)
        sigmas, low = self._sigmas(), int(row.floor())
        return self._level(torch.lerp(sigmas[low], sigmas[low + 1], row - low), row)

    def _level(self, sigma: Tensor, row: Tensor) -> Level:
        alpha = (1 + sigma.square()).rsqrt()
        return Level((row + 1) / self.schedule.steps, alpha, sigma * alpha)

    def _shaped(self, shape: str, rows: Tensor) -> list[Level]:
        """sigma / alpha spaced by a formula; the network hears the row with the nearest logarithm."""
        sigmas = self._sigmas()
        if self.kind.family == "sigma":  # between the ends of the steps, else between those of the table
            ends = [self._between(row) for row in (rows[-1], rows[0])]
            low, high = ((-end.half_logsnr).exp() for end in ends)
        else:
            low, high = sigmas[0], sigmas[-1]
        given = (self.config.get(name) for name in ("sigma_min", "sigma_max"))
        low, high = (
            end if own is None else torch.tensor(float(own), dtype=torch.float64)
            for own, end in zip(given, (low, high), strict=True)
        )
        wanted = _SHAPES[shape](low, high, len(rows))
        places = _interpolated(wanted.log(), sigmas.log())
        if self.kind.family == "log-SNR":
            exact = shape != "karras" or self.config.get("beta_schedule") == "squaredcos_cap_v2"
            places = places.floor() if exact else places.round()
        return [self._level(sigma, place) for sigma, place in zip(wanted, places, strict=True)]

    def _ends_early(self) -> bool:
        """Whether the last level is the first row of the table rather than the data."""
        if self.kind.alpha_to_one is not None:
            return not self.config.get("set_alpha_to_one", self.kind.alpha_to_one)
        return self.kind.family != "rows" and self.config.get("final_sigmas_type", "zero") == "sigma_min"


def _interpolated(x: Tensor, table: Tensor) -> Tensor:
    """Where x would stand in an ascending table, as fractional places in it."""
    low = (torch.searchsorted(table, x, right=True) - 1).clamp(0, len(table) - 2)
    return (low + (x - table[low]) / (table[low + 1] - table[low])).clamp(0, len(table) - 1)


@dataclass(frozen=True)
class _Kind:
    """What a class of diffusers does unless its config says otherwise."""

    solver: Callable[[Json, Schedule], Solver[Any]]
    family: Literal["rows", "sigma", "log-SNR"]
    spacing: str = "linspace"
    starts_bare: bool = False
    alpha_to_one: bool | None = None


def _ddpm(config: Json, schedule: Schedule) -> DDIM:
    match config.get("variance_type", "fixed_small"):
        case "fixed_small" | "fixed_small_log":
            return DDPM("small")
        case "fixed_large" | "fixed_large_log":
            return DDPM("large")
        case "learned_range":
            return DDPM("learned")
        case other:
            raise UserError(f"variance_type {other!r:.40} is none of fixed_small, fixed_large, learned_range")


def _pndm(config: Json, schedule: Schedule) -> Solver[Any]:
    return PLMS() if config.get("skip_prk_steps", False) else PNDM(schedule)


def _dpm(config: Json, schedule: Schedule) -> DPMSolverPP:
    sde = _choice(config, "algorithm_type", ("dpmsolver++", "sde-dpmsolver++"), "dpmsolver++")
    _choice(config, "solver_type", ("midpoint", "logrho", "bh1", "bh2"), "midpoint")
    return DPMSolverPP(order=config.get("solver_order", 2), sde=sde.startswith("sde"))


def _unipc(config: Json, schedule: Schedule) -> UniPC:
    kind = _choice(config, "solver_type", ("bh1", "bh2", "midpoint", "heun", "logrho"), "bh2")
    return UniPC(config.get("solver_order", 2), "bh1" if kind == "bh1" else "bh2")


SCHEDULERS: Final[Mapping[str, _Kind]] = {
    "DDIMScheduler": _Kind(lambda c, s: DDIM(), "rows", "leading", alpha_to_one=True),
    "DDPMScheduler": _Kind(_ddpm, "rows", "leading"),
    "PNDMScheduler": _Kind(_pndm, "rows", "leading", alpha_to_one=False),
    "EulerDiscreteScheduler": _Kind(lambda c, s: Euler(), "sigma", starts_bare=True),
    "EulerAncestralDiscreteScheduler": _Kind(lambda c, s: DDIM(eta=1.0), "sigma", starts_bare=True),
    "HeunDiscreteScheduler": _Kind(lambda c, s: Heun(), "sigma", starts_bare=True),
    "DPMSolverMultistepScheduler": _Kind(_dpm, "log-SNR"),
    "DPMSolverSDEScheduler": _Kind(lambda c, s: DPMSolverPPSingle(s, sde=True), "sigma", starts_bare=True),
    "UniPCMultistepScheduler": _Kind(_unipc, "log-SNR"),
    "LCMScheduler": _Kind(lambda c, s: MultistepConsistency(), "rows", "lcm"),
}
"""The schedulers of diffusers that are known, with their defaults."""

_CLASSES: Final[Mapping[str, str]] = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "ddpm-large": "DDPMScheduler",
    "plms": "PNDMScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-ancestral": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "dpmpp-2m": "DPMSolverMultistepScheduler",
    "dpmpp-3m": "DPMSolverMultistepScheduler",
    "dpmpp-2m-sde": "DPMSolverMultistepScheduler",
    "dpmpp-2s": "DPMSolverSDEScheduler",
    "dpmpp-sde": "DPMSolverSDEScheduler",
    "consistency": "LCMScheduler",
    "lcm": "LCMScheduler",
    "unipc": "UniPCMultistepScheduler",
    "unipc-3": "UniPCMultistepScheduler",
}


def _clip(config: Json, name: str) -> Callable[[Denoiser], Denoiser] | None:
    """What a class does to predicted data: DDIM's leaves the noise as it was, the others' follows."""
    clips = name in ("DDIMScheduler", "DDPMScheduler") or (name == "LCMScheduler" and "clip_sample" in config)
    if config.get("thresholding") and name != "PNDMScheduler":
        ratio = float(config.get("dynamic_thresholding_ratio", 0.995))
        change: Callable[[Denoiser], Denoiser] = lambda d: dynamic_threshold(d, ratio)  # noqa: E731
    elif config.get("clip_sample", True) and clips:
        most = float(config.get("clip_sample_range", 1.0))
        change = lambda d: clip_x0(d, -most, most)  # noqa: E731
    else:
        return _bounded(config) if name == "LCMScheduler" else None
    if name == "LCMScheduler":
        return lambda d: change(_bounded(config)(d))
    return _keeping_eps(change) if name == "DDIMScheduler" else change


def _bounded(config: Json) -> Callable[[Denoiser], Denoiser]:
    """``x0 <- c_skip x + c_out x0`` with ``c_skip = 0.25 / (r^2 + 0.25)``, ``c_out = r / sqrt(r^2 + 0.25)``.

    r is the row times ten: the boundary condition of latent consistency models, which at any other row than
    the first does next to nothing. Source: arXiv:2310.04378, Section 4.1.
    """
    steps, scaling = config.get("num_train_timesteps", 1000), float(config.get("timestep_scaling", 10.0))

    def wrapped(denoiser: Denoiser) -> Denoiser:
        def jump(x: Tensor, level: Level, cond: Cond) -> Prediction:
            said, row = denoiser(x, level, cond), scaling * (level.t * steps - 1)
            skip, out = 0.25 / (row.square() + 0.25), row / (row.square() + 0.25).sqrt()
            return said.with_x0(combine((skip, x), (out, said.x0)))

        return jump

    return wrapped


def _keeping_eps(change: Callable[[Denoiser], Denoiser]) -> Callable[[Denoiser], Denoiser]:
    """The same change to x0, with eps as the network said it, so that x is no longer split exactly."""

    def wrapped(denoiser: Denoiser) -> Denoiser:
        def kept(x: Tensor, level: Level, cond: Cond) -> Prediction:
            said = denoiser(x, level, cond)
            changed = change(lambda x, level, cond: said)(x, level, cond)
            return replace(said, x0=changed.x0)

        return kept

    return wrapped


# What a config must say, where it says anything, for the class to be understood.
_PLAIN: Final[Json] = {
    "interpolation_type": "linear",
    "lambda_min_clipped": None,
    "predict_x0": True,
    "solver_p": None,
    "timestep_type": "discrete",
    "use_beta_sigmas": False,
    "use_dynamic_shifting": False,
    "use_flow_sigmas": False,
    "use_lu_lambdas": False,
}


def _refuse(config: Json, name: str) -> None:
    for key, value in _PLAIN.items():
        found = config.get(key, value)
        unbounded = key == "lambda_min_clipped" and str(found).lower() in ("-inf", "-infinity")
        if found not in (value, None) and not unbounded:
            raise UserError(f"{key} = {found!r:.40} of this {name} is not known here")


def _choice(config: Json, key: str, known: tuple[str, ...], default: str) -> str:
    found = config.get(key, default)
    if found not in known:
        raise UserError(f"{key} {found!r:.40} is not known here: {', '.join(known)}")
    return found


_WHOLE = ("num_train_timesteps", "steps_offset", "solver_order", "original_inference_steps")
_NUMBERS = (
    "beta_start",
    "beta_end",
    "clip_sample_range",
    "dynamic_thresholding_ratio",
    "timestep_scaling",
)
_MAYBE = ("sigma_min", "sigma_max")


def _check_kinds(config: Json) -> None:
    """Numbers come from a stranger: those that are computed with are numbers, of a size to compute with."""
    for name in (*_WHOLE, *_NUMBERS, *_MAYBE):
        value = config.get(name, 0)
        kinds = int if name in _WHOLE else int | float
        if name in _MAYBE and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, kinds) or not 0 <= value < 2**40:
            raise UserError(
                f"{name} should be a {'whole ' if name in _WHOLE else ''}number, not {value!r:.40}"
            )
    betas = config.get("trained_betas")
    if betas is not None and not (
        isinstance(betas, list | tuple) and all(isinstance(beta, int | float) for beta in betas)
    ):
        raise UserError(f"trained_betas should be a list of numbers, not {betas!r:.40}")
