"""Noise schedules (t to alpha and sigma) and grids (which levels a sampler visits)."""

from .flow import FlowMatching as FlowMatching
from .grids import Grid as Grid
from .grids import karras as karras
from .grids import leading as leading
from .grids import levels_at as levels_at
from .grids import linspace as linspace
from .grids import quadratic as quadratic
from .grids import shifted as shifted
from .grids import trailing as trailing
from .grids import uniform_logsnr as uniform_logsnr
from .ve import VE as VE
from .vp import BetasVP as BetasVP
from .vp import ContinuousCosineVP as ContinuousCosineVP
from .vp import ContinuousLinearVP as ContinuousLinearVP
from .vp import CosineVP as CosineVP
from .vp import LinearVP as LinearVP
from .vp import ScaledLinearVP as ScaledLinearVP
from .vp import TableVP as TableVP
from .vp import ZeroTerminalSNR as ZeroTerminalSNR
from .vp import betas_vp as betas_vp
