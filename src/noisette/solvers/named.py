"""Solvers by the names that the front door and the command line use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, Final, Protocol

from noisette.core.level import Schedule
from noisette.core.sampling import Solver
from noisette.errors import UserError
from noisette.solvers.consistency import MultistepConsistency
from noisette.solvers.ddim import DDIM, DDPM
from noisette.solvers.dpm import DPMSolverPP, DPMSolverPPSingle
from noisette.solvers.heun import Euler, EulerAncestral, Heun
from noisette.solvers.plms import PLMS
from noisette.solvers.unipc import UniPC

_BY_NAME: Final[Mapping[str, Callable[[Schedule], Solver[Any]]]] = {
    "ddim": lambda schedule: DDIM(),
    "ddpm": lambda schedule: DDPM(),
    "ddpm-large": lambda schedule: DDPM("large"),
    "euler": lambda schedule: Euler(),
    "euler-ancestral": lambda schedule: EulerAncestral(),
    "heun": lambda schedule: Heun(),
    "dpmpp-2m": lambda schedule: DPMSolverPP(),
    "dpmpp-2s": lambda schedule: DPMSolverPPSingle(schedule),
    "dpmpp-3m": lambda schedule: DPMSolverPP(order=3),
    "dpmpp-2m-sde": lambda schedule: DPMSolverPP(sde=True),
    "dpmpp-sde": lambda schedule: DPMSolverPPSingle(schedule, sde=True),
    "plms": lambda schedule: PLMS(),
    "consistency": lambda schedule: MultistepConsistency(),
    "lcm": lambda schedule: MultistepConsistency(),
    "unipc": lambda schedule: UniPC(),
    "unipc-3": lambda schedule: UniPC(order=3),
}

SOLVER_NAMES: Final = tuple(_BY_NAME)
"""Every name that `solver_named` knows."""


def solver_named(name: str, schedule: Schedule) -> Solver[Any]:
    """The solver that people know by ``name``, over ``schedule`` where it needs one.

    Raises UserError for an unknown name, with the closest known one and the whole list.

    >>> solver_named("dpmpp-2m", ...)
    DPMSolverPP(order=2, sde=False)
    """
    if name not in _BY_NAME:
        close = get_close_matches(name.lower(), SOLVER_NAMES, n=1, cutoff=0.4)
        hint = f'; did you mean "{close[0]}"?' if close else "."
        raise UserError(f'there is no solver "{name}"{hint} Solvers: {", ".join(SOLVER_NAMES)}')
    return _BY_NAME[name](schedule)


class Citable(Protocol):
    """Anything that knows the paper it comes from."""

    @property
    def bibtex(self) -> str: ...


def citation(method: Citable) -> str:
    """The BibTeX of the paper to cite for what you ran.

    >>> print(citation(PLMS()).splitlines()[1])
      title = {Pseudo Numerical Methods for Diffusion Models on Manifolds},
    """
    return method.bibtex
