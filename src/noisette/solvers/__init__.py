"""Solvers: frozen values that carry x over one interval, from level s to level t.

They see (alpha, sigma) pairs only, and so serve VP, VE and flow-matching schedules alike.
"""

from noisette.solvers.consistency import MultistepConsistency
from noisette.solvers.ddim import DDIM, DDPM
from noisette.solvers.dpm import DPMSolverPP, DPMSolverPPSingle
from noisette.solvers.heun import Churn, Euler, EulerAncestral, Heun
from noisette.solvers.named import SOLVER_NAMES, citation, solver_named
from noisette.solvers.noise import NoiseStreams
from noisette.solvers.plms import PLMS, PNDM
from noisette.solvers.unipc import UniPC

__all__ = [
    "DDIM",
    "DDPM",
    "PLMS",
    "PNDM",
    "SOLVER_NAMES",
    "Churn",
    "DPMSolverPP",
    "DPMSolverPPSingle",
    "Euler",
    "EulerAncestral",
    "Heun",
    "MultistepConsistency",
    "NoiseStreams",
    "UniPC",
    "citation",
    "solver_named",
]
