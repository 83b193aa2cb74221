"""How good are generated images? Distances between sets, fidelity and diversity, and a judge of digits."""

from noisette.metrics.copies import Copies, copies
from noisette.metrics.features import Features, Images, collect, quantize
from noisette.metrics.frechet import Statistics, frechet_distance
from noisette.metrics.image import psnr, ssim
from noisette.metrics.judge import Judge, accuracy, digits_reference
from noisette.metrics.kernel import KernelDistance, kernel_distance
from noisette.metrics.manifold import density_coverage, precision_recall
from noisette.metrics.perceptual import perceptual_distance, perceptual_features
from noisette.metrics.report import compare, evaluate

__all__ = [
    "Copies",
    "Features",
    "Images",
    "Judge",
    "KernelDistance",
    "Statistics",
    "accuracy",
    "collect",
    "compare",
    "copies",
    "density_coverage",
    "digits_reference",
    "evaluate",
    "frechet_distance",
    "kernel_distance",
    "perceptual_distance",
    "perceptual_features",
    "precision_recall",
    "psnr",
    "quantize",
    "ssim",
]
