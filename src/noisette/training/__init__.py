"""Training around `noisette.core.train`: objectives, averages, checkpoints, and the runner."""

from noisette.training.distilling import DistillRecipe
from noisette.training.draws import Draws
from noisette.training.ema import EMA
from noisette.training.generators import Adversarial, ExactLikelihood, FreeBits, GeneratorRecipe
from noisette.training.history import LossHistory
from noisette.training.lessons import ConsistencyDistillation, ConsistencyTraining, Match, Progressive
from noisette.training.objectives import P2, Hybrid, MinSNR, Objective, Simple, Vlb, Weighting
from noisette.training.recipe import AutoencoderRecipe, GroundingRecipe, Plan, Recipe
from noisette.training.reconstruction import Reconstruction
from noisette.training.runner import FitResult, fit
from noisette.training.times import LogitNormalTimes, LogNormalSigma, Rows, Times, UniformTimes
from noisette.training.worlds import ScenesWorld

__all__ = [
    "EMA",
    "P2",
    "Adversarial",
    "AutoencoderRecipe",
    "ConsistencyDistillation",
    "ConsistencyTraining",
    "DistillRecipe",
    "Draws",
    "ExactLikelihood",
    "FitResult",
    "FreeBits",
    "GeneratorRecipe",
    "GroundingRecipe",
    "Hybrid",
    "LogNormalSigma",
    "LogitNormalTimes",
    "LossHistory",
    "Match",
    "MinSNR",
    "Objective",
    "Plan",
    "Progressive",
    "Recipe",
    "Reconstruction",
    "Rows",
    "ScenesWorld",
    "Simple",
    "Times",
    "UniformTimes",
    "Vlb",
    "Weighting",
    "fit",
]
